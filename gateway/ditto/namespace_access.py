"""Which namespaces a caller may touch at all, before any policy is asked: the operator's rules.

A rule counts when all its conditions hold, e.g. `{{ jwt:tenant }}`, which is so for who has one. What some
rule that counts blocks is blocked; else what some of them allows is allowed. Where there are rules and none
counts, nothing is. Rules are judged once for a request, and once for a session when it begins.
Source: Ditto, gateway namespace access control.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.config.ditto import NamespaceRule
from gateway.ditto.auth import OPERATOR, Caller
from gateway.ditto.clock import time_text
from gateway.ditto.tokens import claim
from gateway.errors import BadRequest, InvalidSetting
from gateway.model.json import Json
from gateway.model.policy import PolicyCommand
from gateway.model.thing import Action, ThingCommand, ThingEvent, ThingMessage
from gateway.twin.namespaces import EVERYWHERE, NOWHERE, UNLIMITED, Access, Scope
from gateway.wire.ditto.placeholders import Lookup, Template
from gateway.wire.ditto.read import RetrieveThings, Signal, StreamSignal

_KINDS: Final = ("thing", "policy")
_PREFIXES: Final = frozenset(("jwt", "header", "time"))
_PATTERN: Final = re.compile(r"[A-Za-z0-9_.*?-]+")


@dataclass(frozen=True, slots=True)
class _Rule:
    conditions: tuple[Template, ...]
    kinds: tuple[str, ...]
    allowed: tuple[str, ...]
    blocked: tuple[str, ...]

    def counts(self, scope: Mapping[str, Lookup]) -> bool:
        return all(condition.resolve(scope) for condition in self.conditions)


class AccessRules:
    """The rules of the settings; none let everybody everywhere."""

    def __init__(self, rules: Iterable[NamespaceRule] = ()) -> None:
        """Read the rules.

        Errors: InvalidSetting naming the rule.
        """
        self._rules = tuple(_rule(number, one) for number, one in enumerate(rules))

    def narrowed(self, caller: Caller, headers: Mapping[str, object]) -> Caller:
        """The caller with the namespaces that it may touch; operators are not narrowed."""
        if not self._rules or caller.kind == OPERATOR or not caller.subjects:
            return caller
        scope: dict[str, Lookup] = {
            "jwt": lambda name: claim(caller.claims, name),
            "header": lambda name: _text(headers.get(name.lower())),
            "time": time_text,
        }
        counting = [rule for rule in self._rules if rule.counts(scope)]
        things, policies = (self._scope(counting, kind) for kind in _KINDS)
        return replace(caller, access=Access(things, policies))

    def _scope(self, counting: Sequence[_Rule], kind: str) -> Scope:
        """What the rules that count say together; everywhere for a kind that no rule is about."""
        if not any(kind in rule.kinds for rule in self._rules):
            return EVERYWHERE
        mine = [rule for rule in counting if kind in rule.kinds]
        if not mine:
            return NOWHERE
        blocked = tuple(dict.fromkeys(one for rule in mine for one in rule.blocked))
        if not all(rule.allowed for rule in mine):
            return Scope(None, blocked)
        return Scope(tuple(dict.fromkeys(one for rule in mine for one in rule.allowed)), blocked)


def _rule(number: int, rule: NamespaceRule) -> _Rule:
    where = f"ditto.namespace_access[{number}]"
    for pattern in (*rule.allowed_namespaces, *rule.blocked_namespaces):
        if not _PATTERN.fullmatch(pattern):
            raise InvalidSetting(f"{where}: expected a namespace or pattern, got {pattern!r}")
    for kind in rule.resource_types:
        if kind not in _KINDS:
            raise InvalidSetting(f"{where}: expected 'thing' or 'policy', got {kind!r}")
    try:
        conditions = tuple(Template.parse(text, _PREFIXES) for text in rule.conditions)
    except BadRequest as error:
        raise InvalidSetting(f"{where}: {error.message}") from error
    kinds = rule.resource_types or _KINDS
    return _Rule(conditions, kinds, rule.allowed_namespaces, rule.blocked_namespaces)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def admitted(signal: Signal, access: Access) -> Signal:
    """The signal, if the namespaces that it is about may be touched; answers to others always may.

    Shape:  it is also about the policies that a command gives to a thing, copies, or imports.

    Errors: 403 `gateway:namespace.notaccessible`.
    """
    if access is UNLIMITED:
        return signal
    match signal:
        case ThingCommand():
            access.check("thing", signal.thing_id)
            _check_named(signal, access)
        case ThingMessage() | ThingEvent():
            access.check("thing", signal.thing_id)
        case PolicyCommand():
            access.check("policy", signal.policy_id)
            _check_imports(signal, access)
        case StreamSignal():
            access.check("policy" if signal.group == "policies" else "thing", signal.entity_id)
        case RetrieveThings():
            for thing_id in signal.thing_ids:
                access.check("thing", thing_id)
    return signal


# --- what a command names beside what it is sent to ----------------------------------------------


def _check_named(command: ThingCommand, access: Access) -> None:
    """Refuse to give a thing a policy, or a copy of one, that is out of reach."""
    if command.action in (Action.RETRIEVE, Action.DELETE):
        return
    for value in _values(command):
        if command.path == ("policyId",):
            access.check("policy", str(value))
        if command.path or not isinstance(value, dict):
            continue
        inline = value.get("_policy")
        of_inline = inline.get("policyId") if isinstance(inline, dict) else None
        for named in (value.get("policyId"), of_inline):
            access.check("policy", str(named))
        if isinstance(inline, dict):
            _check_imported(inline.get("imports"), access)
        _check_source(str(value.get("_copyPolicyFrom")), access)


def _values(command: ThingCommand) -> Iterator[Json]:
    """What is written at the command's path, also by the operations of a JSON Patch."""
    if command.action is not Action.PATCH:
        yield command.value
        return
    for one in command.value if isinstance(command.value, list) else ():
        given = one if isinstance(one, dict) else {}
        if command.path or given.get("path") == "":
            yield given.get("value")
        elif given.get("path") == "/policyId":
            yield {"policyId": given.get("value")}


def _check_source(source: str, access: Access) -> None:
    """`_copyPolicyFrom` is a policy's ID, or names a thing that has the policy."""
    reference = _REFERENCE.search(source)
    if reference is None:
        access.check("policy", source)
    else:
        access.check("thing", reference.group(1))


_REFERENCE: Final = re.compile(r"things/([^/]+)/")


def _check_imports(command: PolicyCommand, access: Access) -> None:
    """Refuse to import policies that are out of reach."""
    if command.action in (Action.RETRIEVE, Action.DELETE):
        return
    value = command.value
    match command.path:
        case ():
            _check_imported(value.get("imports") if isinstance(value, dict) else None, access)
        case ("imports",):
            _check_imported(value, access)
        case ("imports", policy_id, *below):
            body = {"transitiveImports": value} if below == ["transitiveImports"] else value
            _check_imported({policy_id: body}, access)


def _check_imported(imports: Json, access: Access) -> None:
    for policy_id, body in imports.items() if isinstance(imports, dict) else ():
        access.check("policy", policy_id)
        opened = body.get("transitiveImports") if isinstance(body, dict) else None
        for one in opened if isinstance(opened, list) else ():
            access.check("policy", str(one))
