"""Why may, or may not, somebody read, write or receive this? Asked of the enforcer that decides.

The verdicts are the enforcer's own answers, and what a caller is told is what the rules of commands, messages
and events do with them; here is only found out who said what they go by. So an explanation cannot differ from
what happens.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from gateway.errors import GatewayError
from gateway.model.entity_id import namespace_of
from gateway.model.json import JsonObject, Pointer
from gateway.model.policy import Permission, Policy, PolicyCommand
from gateway.model.thing import Action, EventAction, Thing, ThingCommand, ThingEvent
from gateway.twin.authorization import (
    authorize,
    authorize_message,
    may_receive,
    may_receive_command,
    message_at,
    without_policy,
)
from gateway.twin.documents import MISSING
from gateway.twin.durations import instant_of
from gateway.twin.limits import DEFAULT_LIMITS
from gateway.twin.policies import authorize_policy, policy_part_of, read_policy, resource_path
from gateway.twin.policy import (
    MASKS,
    NO_PERMISSIONS,
    READ,
    WRITE,
    Enforcer,
    Entry,
    Permissions,
    read_entry,
)
from gateway.twin.policy_origins import How, LeftOut, Origin, Part
from gateway.twin.policy_resolution import members
from gateway.twin.resources import part_of
from gateway.twin.showing import Context, reduced_event, retrieve, value_at

KINDS: Final = ("thing", "message", "policy")
USUAL: Final = {
    "thing": (Permission.READ, Permission.WRITE),
    "message": (Permission.READ, Permission.WRITE),
    "policy": (Permission.READ, Permission.WRITE, Permission.EXECUTE),
}
"""What is asked for where nobody says."""
MAX_TURNS: Final = 100
"""Places below a path that are named."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: may these subjects use these permissions on this resource?"""

    subjects: tuple[str, ...]
    kind: str
    path: Pointer
    permissions: tuple[Permission, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """What a question is judged on.

    Shape:  `enforcer` and `policy` None where the thing's policy does not exist; `now` an ISO 8601 instant;
            `is_seen` judges by policy and label which entries of other policies may be told of.
    """

    thing: Thing
    enforcer: Enforcer | None
    policy: Policy | None
    now: str
    is_seen: Callable[[str, str], bool] = lambda _policy_id, _label: True

    def tells(self, policy_id: str, label: str) -> bool:
        """True for an entry that who asks may read."""
        return policy_id == self.thing.policy_id or self.is_seen(policy_id, label)

    def namespace(self, kind: str) -> str:
        """The namespace that entries are chosen by: that of what is asked for."""
        return namespace_of(self.thing.policy_id if kind == "policy" else self.thing.thing_id)

    def permissions(self, subjects: tuple[str, ...], kind: str) -> Permissions:
        """What the enforcer lets them do."""
        if self.enforcer is None:
            return NO_PERMISSIONS
        return self.enforcer.permissions(subjects, self.namespace(kind), self.now)


class Verdict(enum.StrEnum):
    """What a permission comes to at a path."""

    UNRESTRICTED = "unrestricted"
    PARTIAL = "partial"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Statement:
    """A grant or revoke that counts for the subjects.

    Shape:  `label` as the policy of the thing has it once resolved; `origin` where the entry was written;
            `parts` the entries that the statement came from by reference; label and origin say nothing where
            who asks may not read the entry.
    """

    is_grant: bool
    label: str
    origin: Origin
    subjects: tuple[str, ...]
    path: Pointer
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """A place below the path from which on the answer is another one."""

    path: Pointer
    is_granted: bool
    by: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer for one permission.

    Shape:  `decided_at` None where nobody said anything at the path or above; `overridden` are the other
            statements at the path and above.
    """

    permission: Permission
    verdict: Verdict
    decided_at: Pointer | None
    decisive: tuple[Statement, ...]
    overridden: tuple[Statement, ...]
    turns: tuple[Turn, ...]
    has_more_turns: bool = False


class Extent(enum.StrEnum):
    """How much somebody gets."""

    WHOLE = "whole"
    PART = "part"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comes of an attempt; `refusal` is what its sender is told."""

    extent: Extent
    refusal: GatewayError | None = None


class NotCounted(enum.StrEnum):
    """Why an entry that names a subject does not count."""

    EXPIRED = "expired"
    NAMESPACE = "namespace"
    NOT_ALLOWED = "additionNotAllowed"
    NEVER = "neverImported"
    NOT_LISTED = "notListedInImport"
    MISSING = "importMissing"


@dataclass(frozen=True, slots=True)
class Note:
    """Something that could have counted and does not.

    Shape:  `subjects` are those of the question that it is about, empty where it is about no subject;
            `detail` an expiry or the namespaces.
    """

    reason: NotCounted
    policy_id: str
    label: str
    subjects: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer."""

    question: Question
    case: Case
    findings: tuple[Finding, ...]
    attempts: dict[str, Outcome]
    receives: dict[str, Outcome]
    notes: tuple[Note, ...]

    @property
    def is_named(self) -> bool:
        """True when some entry that counts names one of the subjects."""
        return any(_counting(self.case, self.question))


def explain(question: Question, case: Case) -> Explanation:
    """Say who may do what on a resource of a thing, and why.

    Errors: BadRequest `protocoladapter:unknown.path` for a path that things do not have.
    """
    permissions = case.permissions(question.subjects, question.kind)
    attempts, receives = _OUTCOMES[question.kind](question, case, permissions)
    return Explanation(
        question,
        case,
        tuple(_finding(question, case, permissions, one) for one in question.permissions),
        attempts,
        receives,
        tuple(_notes(question, case)),
    )


# --- who said what -----------------------------------------------------------------------------


def _counting(case: Case, question: Question) -> Iterator[tuple[Entry, tuple[str, ...]]]:
    """The entries that count, with the subjects that make them count."""
    namespace = case.namespace(question.kind)
    for entry in case.enforcer.entries if case.enforcer else ():
        live = tuple(entry.live(question.subjects, case.now))
        if live and entry.covers(namespace):
            yield entry, live


def _finding(
    question: Question, case: Case, permissions: Permissions, permission: Permission
) -> Finding:
    kind, path, mask = question.kind, question.path, MASKS[permission]
    granted, at = permissions.deciding(kind, path, mask)
    said = list(_statements(case, question, mask))
    above = [one for one in said if path[: len(one.path)] == one.path]
    decisive = tuple(one for one in above if one.path == at and one.is_grant == granted)
    changes = list(islice(permissions.turns(kind, path, mask), MAX_TURNS + 1))
    return Finding(
        permission,
        _verdict(permissions, kind, path, mask),
        at,
        decisive,
        tuple(one for one in above if one not in decisive),
        tuple(
            Turn(where, to, tuple(one for one in said if one.path == where and one.is_grant == to))
            for where, to in changes[:MAX_TURNS]
        ),
        len(changes) > MAX_TURNS,
    )


def _verdict(permissions: Permissions, kind: str, path: Pointer, mask: int) -> Verdict:
    if permissions.unrestricted(kind, path, mask):
        return Verdict.UNRESTRICTED
    return Verdict.PARTIAL if permissions.partial(kind, path, mask) else Verdict.DENIED


def _statements(case: Case, question: Question, mask: int) -> Iterator[Statement]:
    for entry, subjects in _counting(case, question):
        origin = entry.origin or Origin(How.OWN, case.thing.policy_id, entry.label)
        for kind, path, grant, revoke in entry.resources:
            for is_grant, said in ((True, grant), (False, revoke)):
                if kind == question.kind and said & mask:
                    saying = _saying(origin.parts, kind, path, mask, is_grant)
                    parts = tuple(one for one in saying if case.tells(one.policy_id, one.label))
                    if case.tells(origin.policy_id, origin.label):
                        yield Statement(is_grant, entry.label, origin, subjects, path, parts)
                    else:
                        yield Statement(is_grant, "", Origin(origin.how, "", ""), subjects, path)


def _saying(
    parts: Iterable[Part], kind: str, path: Pointer, mask: int, is_grant: bool
) -> Iterator[Part]:
    """Those of the entries that make another one which say this."""
    for part in parts:
        for said_of, at, grant, revoke in read_entry(part.label, part.body).resources:
            if (said_of, at) == (kind, path) and (grant if is_grant else revoke) & mask:
                yield part


# --- what comes of it --------------------------------------------------------------------------

Outcomes = tuple[dict[str, Outcome], dict[str, Outcome]]


def _of_thing(question: Question, case: Case, permissions: Permissions) -> Outcomes:
    attempts = {
        "read": _try_read(question, case, permissions),
        "modify": _try(question, case, permissions, Action.MODIFY),
    }
    attempts["merge"] = attempts["modify"]
    if attempts["modify"].refusal and permissions.partial("thing", question.path, WRITE):
        attempts["merge"] = Outcome(Extent.PART)
    event = Outcome(_received(question, case, permissions))
    heard = may_receive_command(question.path, permissions)
    live = Outcome(Extent.WHOLE if heard else Extent.NOTHING)
    return attempts, {"twinEvents": event, "liveEvents": event, "liveCommands": live}


def _command(question: Question, case: Case, action: Action) -> ThingCommand:
    return ThingCommand(
        thing_id=case.thing.thing_id,
        action=action,
        subjects=question.subjects,
        path=question.path,
    )


def _try(question: Question, case: Case, permissions: Permissions, action: Action) -> Outcome:
    try:
        if case.enforcer is None:
            raise without_policy(case.thing, is_read=action is Action.RETRIEVE)
        authorize(_command(question, case, action), part_of(question.path), permissions)
    except GatewayError as error:
        return Outcome(Extent.NOTHING, error)
    return Outcome(Extent.WHOLE)


def _try_read(question: Question, case: Case, permissions: Permissions) -> Outcome:
    """With the value that stands there; where none stands, nobody can read it, whatever they may."""
    outcome = _try(question, case, permissions, Action.RETRIEVE)
    value = value_at(case.thing, part_of(question.path), question.path)
    if outcome.refusal is None and value is not MISSING:
        moment = instant_of(case.now)
        context = Context(case.now, moment, case.thing.revision, permissions, DEFAULT_LIMITS)
        try:
            retrieve(case.thing, _command(question, case, Action.RETRIEVE), context)
        except GatewayError as error:
            return Outcome(Extent.NOTHING, error)
    if outcome.refusal is None and not permissions.unrestricted("thing", question.path, READ):
        return Outcome(Extent.PART)
    return outcome


def _received(question: Question, case: Case, permissions: Permissions) -> Extent:
    """How much of an event at the path gets through, with the value that stands there now."""
    value = value_at(case.thing, part_of(question.path), question.path)
    event = ThingEvent(
        thing_id=case.thing.thing_id,
        action=EventAction.DELETED if value is MISSING else EventAction.MODIFIED,
        path=question.path,
        revision=case.thing.revision,
        timestamp=case.now,
        after=case.thing,
        value=None if value is MISSING else value,
    )
    seen = reduced_event(event, permissions)
    if seen is None:
        return Extent.NOTHING
    return Extent.WHOLE if seen is event else Extent.PART


def _of_message(question: Question, case: Case, permissions: Permissions) -> Outcomes:
    message = message_at(case.thing.thing_id, question.path)
    if message is None:
        return {}, {}
    try:
        if case.enforcer is None:
            raise without_policy(case.thing, is_read=True)
        authorize_message(message, permissions)
        send = Outcome(Extent.WHOLE)
    except GatewayError as error:
        send = Outcome(Extent.NOTHING, error)
    heard = may_receive(message, permissions)
    return {"send": send}, {"messages": Outcome(Extent.WHOLE if heard else Extent.NOTHING)}


def _of_policy(question: Question, case: Case, permissions: Permissions) -> Outcomes:
    policy, path = case.policy, _policy_path(question.path)
    try:
        policy_part_of(path)
    except GatewayError:
        return {}, {}
    if policy is None:
        return {}, {}
    attempts: dict[str, Outcome] = {}
    command = PolicyCommand(
        policy_id=policy.policy_id, action=Action.RETRIEVE, subjects=question.subjects, path=path
    )
    try:
        read_policy(policy, command, permissions)
        is_whole = permissions.unrestricted("policy", resource_path(path), READ)
        attempts["read"] = Outcome(Extent.WHOLE if is_whole else Extent.PART)
    except GatewayError as error:
        attempts["read"] = Outcome(Extent.NOTHING, error)
    try:
        authorize_policy(policy.policy_id, path, permissions)
        attempts["modify"] = Outcome(Extent.WHOLE)
    except GatewayError as error:
        attempts["modify"] = Outcome(Extent.NOTHING, error)
    return attempts, {}


def _policy_path(path: Pointer) -> Pointer:
    """The path as commands name it: what follows `resources` or `subjects` of an entry is one key."""
    if len(path) > 4 and path[0] == "entries" and path[2] in ("resources", "subjects"):
        return (*path[:3], "/".join(path[3:]))
    return path


_OUTCOMES: Final = {"thing": _of_thing, "message": _of_message, "policy": _of_policy}


# --- what does not count -----------------------------------------------------------------------


def _notes(question: Question, case: Case) -> Iterator[Note]:
    if case.enforcer is None:
        return
    for entry in case.enforcer.entries:
        yield from _notes_of(entry, question, case)
    for left in case.enforcer.left_out:
        if not left.label or case.tells(left.policy_id, left.label):
            yield from _note_of(left, question.subjects)


def _notes_of(entry: Entry, question: Question, case: Case) -> Iterator[Note]:
    origin = entry.origin or Origin(How.OWN, case.thing.policy_id, entry.label)
    if not case.tells(origin.policy_id, origin.label):
        return
    live = entry.live(question.subjects, case.now)
    for name in question.subjects:
        if name in entry.subjects and name not in live:
            detail = str(entry.subjects[name])
            yield Note(NotCounted.EXPIRED, origin.policy_id, origin.label, (name,), detail)
    if live and not entry.covers(case.namespace(question.kind)):
        detail = ", ".join(entry.namespaces)
        yield Note(NotCounted.NAMESPACE, origin.policy_id, origin.label, tuple(live), detail)
    ignored = _named(origin.ignored or {}, question.subjects)
    missed = tuple(name for name in ignored if name not in live)
    if missed:
        yield Note(NotCounted.NOT_ALLOWED, origin.policy_id, origin.label, missed)
    said = read_entry(entry.label, origin.ignored or {}).resources
    if live and any(kind == question.kind for kind, *_ in said):
        detail = ", ".join(members((origin.ignored or {}).get("resources")))
        yield Note(NotCounted.NOT_ALLOWED, origin.policy_id, origin.label, (), detail)


def _note_of(left: LeftOut, subjects: Sequence[str]) -> Iterator[Note]:
    reason = _REASONS[left.why]
    named = _named(left.body, subjects)
    if named or reason is NotCounted.MISSING:
        yield Note(reason, left.policy_id, left.label, named)


def _named(body: JsonObject, subjects: Sequence[str]) -> tuple[str, ...]:
    known = members(body.get("subjects"))
    return tuple(name for name in subjects if name in known)


_REASONS: Final = {
    "never": NotCounted.NEVER,
    "notListed": NotCounted.NOT_LISTED,
    "missing": NotCounted.MISSING,
}
