"""Things as they are shown: what a caller may read, fields, entity tags, conditions, reduced events."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from gateway.errors import GatewayError
from gateway.model.entity_id import namespace_of
from gateway.model.json import Json, JsonObject, Pointer
from gateway.model.thing import EventAction, Thing, ThingCommand, ThingEvent
from gateway.twin.authorization import authorize
from gateway.twin.conditions import check_tags, revision_tag, value_tag
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, Maybe, get
from gateway.twin.fields import FieldSelector
from gateway.twin.limits import Limits
from gateway.twin.metadata import METADATA, readable
from gateway.twin.policy import READ, Permissions
from gateway.twin.resources import Part, not_found, part_of
from gateway.twin.rql import Node, parse, properties
from gateway.twin.rql_predicate import Lookup, document_lookup, predicate

MEMBERS: Final = ("policyId", "definition", "attributes", "features")


@dataclass(frozen=True, slots=True)
class Context:
    """What judging needs beside thing and command.

    Shape:  `now` ISO 8601 in UTC, `moment` the same instant; `revision` the last that the id ever had.
    """

    now: str
    moment: datetime
    revision: int
    permissions: Permissions
    limits: Limits
    extra: JsonObject = field(default_factory=dict)
    """Members that only selectors see, such as `_policy`."""


# --- showing -----------------------------------------------------------------------------------


def full_json(thing: Thing) -> JsonObject:
    """A thing as Ditto shows it, without the `_` members."""
    shown: JsonObject = {"thingId": thing.thing_id}
    for member in MEMBERS:
        if member in thing.document:
            shown[member] = thing.document[member]
    return shown


def extended_json(thing: Thing) -> JsonObject:
    """With `_revision`, `_created`, `_modified`, `_namespace`: what selectors and conditions see."""
    return {
        **full_json(thing),
        "_revision": thing.revision,
        "_created": thing.created,
        "_modified": thing.modified,
        "_namespace": namespace_of(thing.thing_id),
    }


def readable_json(
    thing: Thing,
    permissions: Permissions,
    fields: FieldSelector | None = None,
    extra: JsonObject | None = None,
) -> JsonObject | None:
    """A thing as a caller may read it; `_` members only where selected; None for nothing."""
    if not permissions.partial("thing", (), READ):
        return None
    seen = permissions.view((), thing.document)
    document = seen if isinstance(seen, dict) else {}
    shown = thing if document is thing.document else replace(thing, document=document)
    if fields is None:
        return full_json(shown)
    hidden: JsonObject = {}
    if fields.takes(METADATA) and (said := readable(thing, permissions)) is not MISSING:
        hidden[METADATA] = said
    hidden["__lifecycle"] = "ACTIVE"
    return fields.select({**extended_json(shown), **hidden, **(extra or {})})


def retrieve(thing: Thing, command: ThingCommand, context: Context) -> tuple[Json, str | None]:
    """The value at the command's path as the caller may read it, and its entity tag.

    Errors: 404 of the part, 304, 412; BadRequest for a bad selector or condition.
    """
    part, path = part_of(command.path), command.path
    authorize(command, part, context.permissions)
    value = None if part is Part.THING else value_at(thing, part, path)
    tag = tag_of(thing, part, value)
    selector = FieldSelector.parse(command.fields) if command.fields else None
    if value is not MISSING and not (selector and selector.takes("_policy")):
        check_tags(command.headers, tag, service="things", is_read=True)
    check_command_condition(thing, command, context)
    if part is Part.THING:
        shown = readable_json(thing, context.permissions, selector, context.extra)
        return shown, tag
    seen = context.permissions.view(path, value) if value is not MISSING else MISSING
    if seen is MISSING and isinstance(value, dict):
        seen = {}
    if seen is MISSING:
        raise absent(thing, part, path)
    if selector is not None and isinstance(seen, dict):
        return selector.select(seen, path), tag
    return seen, tag


def value_at(thing: Thing, part: Part, path: Pointer) -> Maybe:
    if part is Part.THING:
        return full_json(thing)
    if part is Part.POLICY_ID:
        return thing.policy_id
    return get(thing.document, path)


def tag_of(thing: Thing, part: Part, value: Maybe) -> str | None:
    if part is Part.THING:
        return revision_tag(thing.revision)
    return None if value is MISSING else value_tag(value)


def absent(thing: Thing, part: Part, path: Pointer) -> GatewayError:
    """404 of the outermost thing that is missing: the feature before its property."""
    if len(path) > 2 and path[0] == "features" and get(thing.document, path[:2]) is MISSING:
        return not_found(thing.thing_id, Part.FEATURE, path[:2])
    return not_found(thing.thing_id, part, path)


# --- condition ---------------------------------------------------------------------------------


def check_command_condition(thing: Thing, command: ThingCommand, context: Context) -> None:
    text = command.headers.get("condition")
    if text is not None:
        check_condition(thing, str(text), context)


def check_condition(thing: Thing, text: str, context: Context) -> None:
    """Refuse when a `condition` does not hold or names what the caller may not read.

    Errors: 412 `things:condition.failed`, 400 `things:condition.invalid`.
    """
    if not condition_holds(thing, text, context):
        raise ditto_error("things:condition.failed", condition=text[:200])


def condition_holds(thing: Thing, text: str, context: Context) -> bool:
    """Whether an RQL expression holds for a thing.

    Errors: as `check_condition` for what may not be read, or is no RQL.
    """
    node = condition_node(text)
    for wanted in properties(node):
        if not wanted.is_placeholder and not _may_see(wanted.pointer, context.permissions):
            raise ditto_error(
                "things:condition.failed",
                condition=text[:200],
                reason=f": permission to read '{wanted.text}' is missing",
            )
    return predicate(node)(lookup_of(thing), context.moment)


def _may_see(pointer: Pointer, permissions: Permissions) -> bool:
    if pointer[0] == METADATA:
        pointer = pointer[1:]
    elif pointer[0] not in (*MEMBERS, "*"):
        return True
    bound = pointer.index("*") if "*" in pointer else len(pointer)
    return permissions.unrestricted("thing", pointer[:bound], READ)


def lookup_of(thing: Thing) -> Lookup:
    known = {**extended_json(thing), "namespace": namespace_of(thing.thing_id)}
    if METADATA in thing.document:
        known[METADATA] = thing.document[METADATA]
    return document_lookup(known)


def lookup_for(thing: Thing, permissions: Permissions) -> Lookup:
    """As `lookup_of`, in the thing as a caller may read it: what is hidden is not there."""
    seen = permissions.view((), thing.document)
    shown = {**seen} if isinstance(seen, dict) else {}
    shown.pop(METADATA, None)
    said = readable(thing, permissions)
    if said is not MISSING:
        shown[METADATA] = said
    return lookup_of(replace(thing, document=shown))


def condition_node(text: str) -> Node:
    try:
        return parse(text)
    except GatewayError as error:
        raise ditto_error(
            "things:condition.invalid", condition=text[:200], reason=error.message
        ) from error


# --- events ------------------------------------------------------------------------------------


def reduced_event(event: ThingEvent, permissions: Permissions) -> ThingEvent | None:
    """The event with its value reduced to what may be read; None when nothing remains.

    Shape:  `thingId` stays in the value of a whole thing.
    """
    path = event.path
    if permissions.unrestricted("thing", path, READ):
        return event
    if not permissions.partial("thing", path, READ):
        return None
    if event.action is EventAction.DELETED:
        return event
    seen = permissions.view(path, event.value)
    if seen is MISSING:
        return None
    if not path and isinstance(seen, dict):
        seen = {"thingId": event.thing_id, **seen}
    return replace(event, value=seen)
