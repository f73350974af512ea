"""The policy of a new thing: copied, given inline, named, or the default one (Ditto's precedence)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from gateway.ditto.policies import PoliciesService
from gateway.errors import GatewayError
from gateway.model.entity_id import namespace_of
from gateway.model.json import Json, JsonObject
from gateway.model.policy import PolicyCommand
from gateway.model.thing import Action, ThingCommand
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.limits import Limits
from gateway.twin.policies import PolicyContext, PolicyDecision, created_policy
from gateway.twin.policy import READ, Permissions, build_enforcer
from gateway.twin.policy_form import (
    Caller,
    check_new_policy_id,
    default_policy,
    policy_document,
)
from gateway.twin.things import INLINE_POLICY, new_document

_REFERENCE = re.compile(r"\{\{\s*ref:(.*?)\s*\}\}")
_THING_REFERENCE = re.compile(r"things/([^/]+)/([^/]+)")
_LOCKOUT: Final = frozenset(
    ("policies:policy.modificationinvalid", "policies:entry.modificationinvalid")
)

PolicyOfThing = Callable[[str, tuple[str, ...]], str]
"""The policy id of another thing, as a caller may read it; raises Wait or ThingNotFound."""


@dataclass(frozen=True, slots=True)
class Creation:
    """A command that makes a thing, with its policy settled: what it may do, and the policy to store."""

    command: ThingCommand
    permissions: Permissions
    policy: PolicyDecision | None


@dataclass(frozen=True, slots=True)
class Creator:
    """Settles the policy of things that do not exist yet. Everything it needs may raise Wait."""

    policies: PoliciesService
    limits: Limits
    policy_of: PolicyOfThing

    def settle(self, command: ThingCommand, now: str) -> Creation:
        """Find or make the policy for a new thing.

        Errors: `things:thing.notcreatable`, `things:policy.invalid`, `things:policy.conflicting`,
                `policies:policy.notfound`, `entity.notcreatable`.
        """
        self.policies.rules.check("thing", command.thing_id, command.subjects)
        if command.action is Action.MERGE or not isinstance(command.value, dict):
            new_document(command)  # refuses what makes no thing before a policy is made for it
        value = command.value if isinstance(command.value, dict) else {}
        given = {name: value.get(name) for name in INLINE_POLICY}
        if all(one is not None for one in given.values()):
            raise ditto_error("things:policy.conflicting", id=command.thing_id)
        named = value.get("policyId")
        if given["_copyPolicyFrom"] is not None:
            return self._copied(command, given["_copyPolicyFrom"], named, now)
        if given["_policy"] is not None:
            return self._inline(command, given["_policy"], named, now)
        if named is not None:
            return self._named(command, check_new_policy_id(named), now)
        return self._default(command, now)

    def _named(self, command: ThingCommand, policy_id: str, now: str) -> Creation:
        enforcer = self.policies.enforcer(policy_id)
        if enforcer is None:
            raise ditto_error("policies:policy.notfound", id=policy_id)
        mine = enforcer.permissions(command.subjects, namespace_of(policy_id), now)
        if not mine.partial("policy", (), READ):
            raise ditto_error("policies:policy.notfound", id=policy_id)
        permissions = enforcer.permissions(command.subjects, namespace_of(command.thing_id), now)
        return Creation(command, permissions, None)

    def _default(self, command: ThingCommand, now: str) -> Creation:
        subject = (*command.subjects, "")[0]
        return self._new(command, default_policy(subject), command.thing_id, now)

    def _inline(self, command: ThingCommand, inline: Json, named: Json, now: str) -> Creation:
        policy_id = self._new_id(command, inline, named)
        body = inline
        if isinstance(inline, dict):
            body = {name: below for name, below in inline.items() if name != "policyId"}
        return self._new(command, body, policy_id, now)

    def _new_id(self, command: ThingCommand, inline: Json, named: Json) -> str:
        own = inline.get("policyId") if isinstance(inline, dict) else None
        chosen = named if named is not None else own
        return command.thing_id if chosen is None else check_new_policy_id(chosen)

    def _copied(self, command: ThingCommand, source: Json, named: Json, now: str) -> Creation:
        source_id = self._source(command, source)
        enforcer = self.policies.enforcer(source_id)
        document = self.policies.document(source_id)
        if enforcer is None or document is None:
            raise ditto_error("policies:policy.notfound", id=source_id)
        mine = enforcer.permissions(command.subjects, namespace_of(source_id), now)
        seen = mine.view((), document, "policy")
        if not isinstance(seen, dict):
            raise ditto_error("policies:policy.notfound", id=source_id)
        return self._new(command, seen, self._new_id(command, None, named), now)

    def _source(self, command: ThingCommand, source: Json) -> str:
        if not isinstance(source, str):
            raise ditto_error("json.invalid", reason="'_copyPolicyFrom' is a string")
        match = _REFERENCE.fullmatch(source.strip())
        if match is None:
            return check_new_policy_id(source)
        reference = _THING_REFERENCE.fullmatch(match.group(1))
        if reference is None:
            raise ditto_error("placeholder:placeholder.reference.notsupported", reference=source)
        if reference.group(2) != "policyId":
            raise ditto_error("placeholder:placeholder.reference.unknownfield", reference=source)
        return self.policy_of(reference.group(1), command.subjects)

    def _new(self, command: ThingCommand, body: Json, policy_id: str, now: str) -> Creation:
        """A policy made together with the thing."""
        if self.policies.document(policy_id) is not None:
            raise _not_creatable(
                command,
                f"a Policy with ID '{policy_id}' exists already.",
                "Name it as 'policyId' if it is to be used.",
            )
        decision = self._decided(command, body, policy_id, now)
        after = decision.event.after
        assert after is not None  # noqa: S101  it was just made
        source, roots = self.policies.source(policy_id), self.policies.roots(policy_id)
        enforcer = build_enforcer(after.document, source, roots, policy_id)
        permissions = enforcer.permissions(command.subjects, namespace_of(command.thing_id), now)
        return Creation(_with_policy(command, policy_id), permissions, decision)

    def _decided(
        self, command: ThingCommand, body: Json, policy_id: str, now: str
    ) -> PolicyDecision:
        self.policies.rules.check("policy", policy_id, command.subjects)
        limits = self.policies.limits
        caller = Caller(policy_id, (*command.subjects, "")[0], now, limits)
        try:
            document = policy_document(caller, body)
        except GatewayError as error:
            raise _invalid(command, error) from error
        source, roots = self.policies.source(policy_id), self.policies.roots(policy_id)
        revision = self.policies.last_revision(policy_id)
        rights = self.policies.rights(command.subjects, now)
        context = PolicyContext(now, revision, None, limits, source, roots, rights)
        try:
            return created_policy(_policy_command(command, policy_id), document, context)
        except GatewayError as error:
            if error.code in _LOCKOUT:
                raise _invalid(command, error) from error
            raise _not_creatable(command, error.message, error.description, error.status) from error


def _policy_command(command: ThingCommand, policy_id: str) -> PolicyCommand:
    return PolicyCommand(
        policy_id=policy_id,
        action=Action.CREATE,
        subjects=command.subjects,
        headers=command.headers,
        originator=command.originator,
        trace=command.trace,
    )


def _with_policy(command: ThingCommand, policy_id: str) -> ThingCommand:
    """The command with its policy named and nothing inline."""
    value: JsonObject = dict(command.value) if isinstance(command.value, dict) else {}
    for name in INLINE_POLICY:
        value.pop(name, None)
    return replace(command, value={**value, "policyId": policy_id})


def _invalid(command: ThingCommand, cause: GatewayError) -> GatewayError:
    reason = " ".join(text for text in (cause.message, cause.description) if text)
    return ditto_error("things:policy.invalid", id=command.thing_id, reason=reason)


def _not_creatable(
    command: ThingCommand, reason: str, hint: str | None = None, status: int | None = None
) -> GatewayError:
    return ditto_error(
        "things:thing.notcreatable",
        status=status,
        id=command.thing_id,
        reason=reason,
        hint=hint or "",
    )
