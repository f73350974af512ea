"""Decisions about requests: who asks first, and what a caller without the right is told.

Judges are asked in order; the first that allows decides, none is able to forbid what a later one allows.
Source: Kubernetes "Authorization".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import Forbidden
from gateway.kube.auth import MASTERS, Access, User
from gateway.wire.kube.names import quoted
from gateway.wire.kube.rules import EVERYTHING, Rule
from gateway.wire.kube.status import group_resource


@dataclass(frozen=True, slots=True)
class Decision:
    """What a judge thinks of a request. Shape: `reason` is shown to the caller; "" says nothing."""

    allowed: bool
    reason: str = ""


ALLOWED, NO_OPINION = Decision(True), Decision(False)


@dataclass(frozen=True, slots=True)
class Held:
    """What somebody may do in a namespace.

    Shape:  `faults` says why it may be more; `incomplete` is True where not everything can be said as rules.
    """

    rules: tuple[Rule, ...] = ()
    faults: tuple[str, ...] = ()
    incomplete: bool = False


class Authorizer(Protocol):
    """Says what callers may do. Answers from memory."""

    def decide(self, user: User, access: Access) -> Decision:
        """Judge one request."""

    def held(self, user: User, namespace: str) -> Held:
        """Return what somebody may do in a namespace, and at the cluster scope."""


class Masters:
    """Members of `system:masters` may do everything, whatever is stored."""

    def decide(self, user: User, access: Access) -> Decision:  # noqa: ARG002  everything
        return ALLOWED if MASTERS in user.groups else NO_OPINION

    def held(self, user: User, namespace: str) -> Held:  # noqa: ARG002  everywhere
        return Held(EVERYTHING) if MASTERS in user.groups else Held()


class Chain:
    """Judges in order."""

    def __init__(self, judges: Sequence[Authorizer]) -> None:
        self._judges = tuple(judges)

    def decide(self, user: User, access: Access) -> Decision:
        reasons = []
        for judge in self._judges:
            decision = judge.decide(user, access)
            if decision.allowed:
                return decision
            if decision.reason:
                reasons.append(decision.reason)
        return Decision(False, "\n".join(reasons))

    def held(self, user: User, namespace: str) -> Held:
        parts = [judge.held(user, namespace) for judge in self._judges]
        return Held(
            tuple(rule for part in parts for rule in part.rules),
            tuple(fault for part in parts for fault in part.faults),
            any(part.incomplete for part in parts),
        )


def require(authorizer: Authorizer, user: User, access: Access) -> Decision:
    """Return the decision that allows a request. Errors: Forbidden, with the text of a real server."""
    decision = authorizer.decide(user, access)
    if not decision.allowed:
        raise refusal(user, access, decision.reason)
    return decision


def refusal(user: User, access: Access, reason: str = "") -> Forbidden:
    """Return what a caller without the right is told."""
    tail = f": {reason}" if reason else ""
    if not access.resource:
        what = f"User {quoted(user.name)} cannot {access.verb} path {quoted(access.path)}"
        return Forbidden(f"forbidden: {_plain(what)}{tail}", details={"reason": "Forbidden"})
    where = (
        f"in the namespace {quoted(access.namespace)}"
        if access.namespace
        else "at the cluster scope"
    )
    resource = f"{access.resource}/{access.subresource}" if access.subresource else access.resource
    named = f" {quoted(access.name)}" if access.name else ""
    what = (
        f"User {quoted(user.name)} cannot {access.verb} resource {quoted(resource)}"
        f" in API group {quoted(access.group)} {where}"
    )
    subject = group_resource(access.resource, access.group)
    return Forbidden(
        f"{subject}{named} is forbidden: {_plain(what)}{tail}",
        details={"name": access.name, "group": access.group, "kind": access.resource},
    )


def _plain(text: str) -> str:
    """Names come from callers: nothing in them may read as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
