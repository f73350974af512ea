"""From the command that migrates a thing to the merge that does it.

Errors of the caller come first, then permission, then the model; the caller learns nothing of what it may not
read. Source: Ditto 3.9, migrateDefinition.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from gateway.ditto.wot import WotHook
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json, JsonObject, parse_pointer
from gateway.model.thing import Thing, ThingCommand, ThingResult
from gateway.twin.authorization import refusal
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, encoded, get
from gateway.twin.policy import WRITE
from gateway.twin.resources import Part
from gateway.twin.rql import parse
from gateway.twin.rql_predicate import predicate
from gateway.twin.showing import Context, extended_json, lookup_for
from gateway.twin.things import Decision
from gateway.twin.wot.migration import (
    Migration,
    migration_patch,
    no_skeleton,
    read_migration,
    told,
)
from gateway.twin.wot.skeleton import thing_skeleton
from gateway.wire.ditto.placeholders import Template

PREFIX: Final = frozenset(("thing-json",))
_LEGACY = re.compile(r"\$\{(\s*thing-json:[^{}]*)\}")
_ALONE = re.compile(r"\{\{\s*thing-json:([^{}|]+?)\s*\}\}")


def settled_migration(
    thing: Thing, command: ThingCommand, context: Context, wot: WotHook | None
) -> ThingCommand:
    """The command with the merge patch as its value.

    Errors: Wait while models are on their way; `wot:tm.notfound` and its like; 403
            `things:thing.notmodifiable`; 400 for a bad body, `rql.expression.invalid`,
            `placeholder:unresolved`; 413 where placeholders make too much of it.
    """
    migration = read_migration(command.thing_id, command.value)
    if not context.permissions.unrestricted("thing", ("definition",), WRITE):
        raise refusal(command, Part.THING)
    skeleton = _skeleton(command, migration, wot)
    seen = context.permissions.view((), thing.document)
    shown = replace(thing, document=seen if isinstance(seen, dict) else {})
    fill = _Filler(extended_json(shown), context.limits.thing_bytes)
    patch = migration_patch(migration, thing.document, skeleton, _holds(thing, context), fill)
    return replace(command, value=patch)


def is_dry_run(command: ThingCommand) -> bool:
    """True where the caller only wants to know."""
    return command.headers.get("dry-run") in (True, "true")


def tried_migration(command: ThingCommand, decision: Decision, revision: int) -> ThingResult:
    """The answer to a migration that was decided and is not stored."""
    assert isinstance(decision.value, dict)  # noqa: S101  it tells of the patch
    value = told(command.thing_id, decision.value["patch"], is_dry_run=True)
    return ThingResult(status=202, value=value, has_value=True, revision=revision)


def _skeleton(command: ThingCommand, migration: Migration, wot: WotHook | None) -> JsonObject:
    if wot is None:
        raise no_skeleton(migration.url, "The Web of Things is switched off.")
    models = wot.models_of(command, migration.url)
    model = models.get(migration.url)
    if model is None:
        raise no_skeleton(migration.url, "There is no such WoT ThingModel.")
    return thing_skeleton(model, models)


def _holds(thing: Thing, context: Context) -> Callable[[str], bool]:
    lookup = lookup_for(thing, context.permissions)
    return lambda condition: predicate(parse(condition))(lookup, context.moment)


@dataclass(slots=True)
class _Filler:
    """Replaces placeholders: one alone by the value that it names, others by its text."""

    thing: JsonObject
    limit: int
    """Bytes that all placeholders may bring."""
    brought: int = 0

    def __call__(self, text: str) -> Json:
        text = _LEGACY.sub(r"{{\1}}", text)
        alone = _ALONE.fullmatch(text)
        if alone is not None:
            return self._value(alone.group(1), text)
        found = Template.parse(text, PREFIX).resolve({"thing-json": self._text})
        if found is None:
            raise _unresolved(text)
        self._spend(len(found))
        return found

    def _value(self, pointer: str, text: str) -> Json:
        value = get(self.thing, parse_pointer(pointer))
        if value is MISSING:
            raise _unresolved(text)
        self._spend(len(encoded(value)))
        return value

    def _text(self, pointer: str) -> str | None:
        value = get(self.thing, parse_pointer(pointer))
        if value is MISSING:
            return None
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()

    def _spend(self, size: int) -> None:
        self.brought += size
        if self.brought > self.limit:
            raise ditto_error("things:thing.toolarge", size=self.brought, limit=self.limit)


def _unresolved(text: str) -> GatewayError:
    return BadRequest(
        f"The placeholder {text[:200]!r} could not be resolved.",
        code="placeholder:unresolved",
        description="It is {{ thing-json:<JSON pointer> }} of a value that is there and may be read.",
    )
