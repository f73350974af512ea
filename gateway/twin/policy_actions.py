"""What changes a policy without a command on a path: token integration, and the end of a subject's time."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, Pointer
from gateway.model.policy import Policy, PolicyEvent
from gateway.model.thing import EventAction
from gateway.model.trace import TraceContext
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, get, put, remove
from gateway.twin.durations import instant_rounded_up, instant_text
from gateway.twin.policies import PolicyContext, check_usable, policy_not_found
from gateway.twin.policy import EXECUTE, comparable
from gateway.twin.policy_form import checked_subject_id, subject_announcement
from gateway.twin.policy_resolution import members, texts


class TokenAction(enum.StrEnum):
    """The actions on policies and their entries."""

    ACTIVATE = "activateTokenIntegration"
    DEACTIVATE = "deactivateTokenIntegration"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAction:
    """Put the subjects of a token into a policy's entries, or take them out.

    Shape:  `label` None asks all entries; `token_subjects` gives the subject ids for a label; `expires` is
            the token's end, seconds since 1970; `announcement` as it stands in the body.
    """

    policy_id: str
    action: TokenAction
    subjects: tuple[str, ...]
    token_subjects: Callable[[str], tuple[str, ...]]
    expires: float
    label: str | None = None
    announcement: Json = None
    trace: TraceContext | None = None


def action_failed(action: str, status: int, reason: str) -> GatewayError:
    """`policies:action.failed` with the status of its cause."""
    return ditto_error("policies:action.failed", status=status, action=action, reason=reason)


def decide_action(
    policy: Policy | None, asked: PolicyAction, context: PolicyContext
) -> PolicyEvent | None:
    """Judge an action; None where nothing changes.

    Errors: 404 `policies:policy.notfound`; `policies:action.failed` 403 without EXECUTE, 404 where no entry
            fits, 400 where the token gives no subject; 403 of a policy that would become unusable.
    """
    if policy is None or context.permissions is None:
        raise policy_not_found(asked.policy_id)
    labels = _fitting(policy, asked, _authorized(policy, asked, context))
    changes = [change for label in labels for change in _changes(policy, asked, context, label)]
    if not changes:
        return None
    document = policy.document
    for path, value in changes:
        document = remove(document, path) if value is None else put(document, path, value)
    after = Policy(policy.policy_id, policy.revision + 1, document, policy.created, context.now)
    path = changes[0][0] if len(changes) == 1 else ("entries",)
    check_usable(after, path, context)
    return _event(policy, after, path, asked.subjects, asked.trace)


def _authorized(policy: Policy, asked: PolicyAction, context: PolicyContext) -> list[str]:
    entries = members(policy.document.get("entries"))
    labels = [asked.label] if asked.label is not None else list(entries)
    permissions = context.permissions
    allowed = [
        label
        for label in labels
        if permissions is not None
        and permissions.unrestricted(
            "policy", ("entries", label, "actions", asked.action.value), EXECUTE
        )
    ]
    if not allowed:
        raise action_failed(asked.action, 403, "'EXECUTE' is missing on the action.")
    return allowed


def _fitting(policy: Policy, asked: PolicyAction, labels: list[str]) -> list[str]:
    entries = members(policy.document.get("entries"))
    found = [label for label in labels if _fits(members(entries.get(label)), asked)]
    if not found:
        raise action_failed(asked.action, 404, "No policy entry fits the token.")
    return found


def _fits(entry: JsonObject, asked: PolicyAction) -> bool:
    """True where the entry has a subject of the caller and, to activate, lets read something of things."""
    if not any(subject in members(entry.get("subjects")) for subject in asked.subjects):
        return False
    return asked.action is TokenAction.DEACTIVATE or any(
        key.startswith("thing:") and "READ" in texts(members(body).get("grant"))
        for key, body in members(entry.get("resources")).items()
    )


def _changes(
    policy: Policy, asked: PolicyAction, context: PolicyContext, label: str
) -> list[tuple[Pointer, JsonObject | None]]:
    """Which subjects of an entry are written, and which go (None)."""
    ids = asked.token_subjects(label)
    if not ids:
        raise action_failed(asked.action, 400, "The token has no audience to make a subject of.")
    paths = [("entries", label, "subjects", checked_subject_id(one)) for one in ids]
    if asked.action is TokenAction.DEACTIVATE:
        return [(path, None) for path in paths if get(policy.document, path) is not MISSING]
    subject = _subject(asked, context)
    return [(path, subject) for path in paths]


def _subject(asked: PolicyAction, context: PolicyContext) -> JsonObject:
    moment = datetime.fromtimestamp(asked.expires, tz=UTC)
    subject: JsonObject = {
        "type": f"added via action <{asked.action}> at <{context.now}>",
        "expiry": instant_text(instant_rounded_up(moment, context.limits.expiry_grain)),
    }
    if asked.announcement:
        subject["announcement"] = subject_announcement(asked.announcement, context.limits)
    return subject


def decide_expiry(policy: Policy | None, now: str) -> PolicyEvent | None:
    """Delete the first subject whose time is over; None where there is none (any more)."""
    if policy is None:
        return None
    for label, entry in members(policy.document.get("entries")).items():
        for subject, body in members(members(entry).get("subjects")).items():
            expiry = members(body).get("expiry")
            if expiry is not None and comparable(str(expiry)) <= now:
                path = ("entries", label, "subjects", subject)
                document = remove(policy.document, path)
                after = Policy(policy.policy_id, policy.revision + 1, document, policy.created, now)
                return _event(policy, after, path, (), None)
    return None


def _event(
    before: Policy,
    after: Policy,
    path: Pointer,
    subjects: tuple[str, ...],
    trace: TraceContext | None,
) -> PolicyEvent:
    value = get(after.document, path)
    existed = get(before.document, path) is not MISSING
    action = EventAction.MODIFIED if existed else EventAction.CREATED
    return PolicyEvent(
        policy_id=after.policy_id,
        action=EventAction.DELETED if value is MISSING else action,
        path=path,
        revision=after.revision,
        timestamp=after.modified,
        after=after,
        before=before,
        value=None if value is MISSING else value,
        subjects=subjects,
        trace=trace,
    )
