"""`ImplicitThingCreation`: a thing from a template when a device is heard of for the first time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias, cast

from gateway.connectivity.errors import mapper_invalid, mapping_failed
from gateway.connectivity.mappers.base import External, Incoming, Outgoing, required, topic_of
from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject
from gateway.wire.ditto.placeholders import Scope, Template

NAME = "ImplicitThingCreation"
EXISTS = frozenset((409, 412))
_MAX_DEPTH = 64


class ThingCreationMapper:
    """Options: `thing` (required), `commandHeaders`, `allowPolicyLockout`. Inbound only."""

    def __init__(self, options: JsonObject) -> None:
        thing = options.get("thing")
        if not isinstance(thing, dict) or not isinstance(thing.get("thingId"), str):
            raise mapper_invalid(NAME, "'thing' has to be a Thing with a 'thingId'")
        try:
            self._thing = compiled(thing)
        except GatewayError as error:
            raise mapper_invalid(NAME, error.message) from error
        headers = options.get("commandHeaders", {"If-None-Match": "*"})
        if not isinstance(headers, dict):
            raise mapper_invalid(NAME, "'commandHeaders' has to be an object")
        lockout = options.get("allowPolicyLockout", True) not in (False, "false")
        self._headers: JsonObject = {name.lower(): value for name, value in headers.items()}
        self._headers["allow-policy-lockout"] = lockout

    def incoming(self, _message: External, scope: Scope) -> Sequence[Incoming]:
        thing = cast(JsonObject, filled(self._thing, scope))
        thing_id = required(str(thing.get("thingId") or ""), NAME, "the Thing ID")
        made = Incoming.made(topic_of(thing_id, "twin/commands/create"), "/", self._headers, thing)
        return (replace(made, tolerated=EXISTS),)

    def outgoing(self, _signal: Outgoing) -> External | None:
        return None


Compiled: TypeAlias = "Template | dict[str, Compiled] | list[Compiled] | Json"


def compiled(value: Json, depth: int = 0) -> Compiled:
    """A JSON template with its texts parsed.

    Errors: BadRequest for a bad placeholder or a template that is too deep.
    """
    if depth > _MAX_DEPTH:
        raise mapper_invalid(NAME, f"the template is deeper than {_MAX_DEPTH}")
    if isinstance(value, str):
        return Template.parse(value) if "{{" in value else value
    if isinstance(value, dict):
        # Keys may be placeholders too: subjects of an inline policy.
        return {key: compiled(below, depth + 1) for key, below in value.items()}
    if isinstance(value, list):
        return [compiled(below, depth + 1) for below in value]
    return value


def filled(value: Compiled, scope: Scope) -> Json:
    """The JSON that a template stands for.

    Errors: BadRequest `connectivity:message.mapping.failed` for what cannot be resolved.
    """
    if isinstance(value, Template):
        text = value.resolve(scope)
        if text is None:
            raise mapping_failed(NAME, f"'{value.text[:200]}' could not be resolved")
        return text
    if isinstance(value, dict):
        return {_key(key, scope): filled(below, scope) for key, below in value.items()}
    if isinstance(value, list):
        return [filled(below, scope) for below in value]
    return value


def _key(key: str, scope: Scope) -> str:
    """A member's name; what cannot be resolved here (`request:subjectId`) is the policy rules' business."""
    return (Template.parse(key).resolve(scope) or key) if "{{" in key else key
