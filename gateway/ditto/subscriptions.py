"""What a subscriber wants to see: namespaces, an RQL filter, extra fields, all judged with its own rights.

A `Subscription` is a value: sessions that ask the same with the same subjects compare equal and share the
work. WebSocket, SSE and connection targets all decide here what reaches them. Source: Ditto, signal
enrichment and change notifications.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

from gateway.errors import BadRequest
from gateway.model.entity_id import is_namespace, name_of, namespace_of
from gateway.model.json import Json, JsonObject, Pointer, format_pointer
from gateway.model.thing import (
    LIVE,
    EventAction,
    Headers,
    HeaderValue,
    Thing,
    ThingCommand,
    ThingEvent,
    ThingMessage,
)
from gateway.twin.fields import THING_ROOTS, FieldSelector
from gateway.twin.namespaces import EVERYWHERE, Scope
from gateway.twin.rql import parse
from gateway.twin.rql_predicate import Predicate, document_lookup, predicate
from gateway.wire.ditto.topic import thing_topic
from gateway.wire.ditto.write import event_topic, live_command_topic, message_path

MAX_IDS = 10_000


class Views(Protocol):
    """What the things service lets subjects see."""

    def view(self, event: ThingEvent, subjects: tuple[str, ...]) -> ThingEvent | None: ...

    def thing_json(
        self, thing: Thing, subjects: tuple[str, ...], fields: FieldSelector | None = None
    ) -> JsonObject | None: ...

    def can_receive(
        self, signal: ThingMessage | ThingCommand, subjects: tuple[str, ...]
    ) -> bool: ...

    def twin_json(
        self, thing_id: str, subjects: tuple[str, ...], fields: FieldSelector
    ) -> JsonObject | None: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as one subscriber may see it.

    Shape:  `extra` are the enriched fields, None where none were asked for; `state` is the thing after it (or
            before its deletion), not reduced.
    """

    event: ThingEvent
    extra: JsonObject | None
    state: Thing | None


L = TypeVar("L", ThingMessage, ThingCommand)


@dataclass(frozen=True, slots=True)
class Heard(Generic[L]):
    """A message or live command as one subscriber gets it, with its extra fields."""

    signal: L
    extra: JsonObject | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Which signals, for whom.

    Shape:  empty `namespaces` and `thing_ids` take all, within the `scope` that the subscriber may touch.
    """

    subjects: tuple[str, ...]
    namespaces: frozenset[str] = frozenset()
    thing_ids: frozenset[str] = frozenset()
    filter: str | None = None
    extra_fields: str | None = None
    scope: Scope = EVERYWHERE
    holds: Predicate | None = field(default=None, compare=False, repr=False)
    extra: FieldSelector | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(
        cls,
        subjects: tuple[str, ...],
        parameters: Mapping[str, str],
        thing_ids: frozenset[str] = frozenset(),
        scope: Scope = EVERYWHERE,
    ) -> Subscription:
        """Read `filter`, `namespaces` and `extraFields`.

        Errors: BadRequest `rql.expression.invalid`, `json.fieldselector.invalid`,
                `things:field.selection.invalid`, `namespacedentity.id.invalid`.
        """
        if len(thing_ids) > MAX_IDS:
            raise BadRequest(f"At most {MAX_IDS} Thing IDs can be subscribed to at a time.")
        rql, extra = parameters.get("filter") or None, parameters.get("extraFields") or None
        selector = FieldSelector.parse(extra) if extra else None
        if selector is not None:
            selector.require_roots(THING_ROOTS)
        return cls(
            subjects=subjects,
            namespaces=_namespaces(parameters.get("namespaces", "")),
            thing_ids=thing_ids,
            filter=rql,
            extra_fields=extra,
            scope=scope,
            holds=predicate(parse(rql)) if rql else None,
            extra=selector,
        )

    def see(self, event: ThingEvent, views: Views) -> Seen | None:
        """The event as this subscriber gets it, None when it does not."""
        if not self._wants(event.thing_id):
            return None
        view = views.view(event, self.subjects)
        if view is None:
            return None
        extra = self._extra(view, views)
        if not self.matches(view, extra):
            return None
        return Seen(view, extra, event.after or event.before)

    def hear(self, signal: L, views: Views) -> Heard[L] | None:
        """A message or live command as this subscriber gets it, None when it does not."""
        if not self._wants(signal.thing_id) or not views.can_receive(signal, self.subjects):
            return None
        extra: JsonObject | None = None
        if self.extra is not None:
            extra = views.twin_json(signal.thing_id, self.subjects, self.extra) or {}
        if self.holds is not None:
            document = {**(extra or {}), "thingId": signal.thing_id}
            lookup = document_lookup(document, signal_placeholders(signal))
            if not self.holds(lookup, datetime.now(UTC)):
                return None
        return Heard(signal, extra)

    def _wants(self, thing_id: str) -> bool:
        if self.thing_ids and thing_id not in self.thing_ids:
            return False
        if not self.scope.admits(namespace_of(thing_id)):
            return False
        return not self.namespaces or namespace_of(thing_id) in self.namespaces

    def _extra(self, event: ThingEvent, views: Views) -> JsonObject | None:
        if self.extra is None:
            return None
        state = event.after
        return (views.thing_json(state, self.subjects, self.extra) or {}) if state else {}

    def matches(self, event: ThingEvent, extra: JsonObject | None = None) -> bool:
        """True when the filter holds for an event with its extra fields."""
        if self.holds is None:
            return True
        document = overlaid(extra or {}, partial_thing(event))
        return self.holds(document_lookup(document, event_placeholders(event)), datetime.now(UTC))


def _namespaces(text: str) -> frozenset[str]:
    found = frozenset(part for one in text.split(",") if (part := one.strip()))
    for namespace in found:
        if not is_namespace(namespace):
            raise BadRequest(
                f"'{namespace[:200]}' is not a valid namespace.", code="namespacedentity.id.invalid"
            )
    return found


# --- events as partial things -----------------------------------------------------------------


def partial_thing(event: ThingEvent) -> JsonObject:
    """What an event says about its thing, in the thing's own shape; nulls of a merge are left out.

    Shape:  `/features/motor/properties/rpm` = 7 -> `{"thingId": ..., "features": {"motor": ...}}`.
    """
    partial: JsonObject = {"thingId": event.thing_id}
    if event.action is EventAction.DELETED:
        return partial
    value = without_nulls(event.value) if event.action.is_merge else event.value
    if event.action.is_merge and event.value is None:
        return partial
    if not event.path:
        return {**partial, **value} if isinstance(value, dict) else partial
    for segment in reversed(event.path):
        value = {segment: value}
    return {**partial, **value} if isinstance(value, dict) else partial


def touches(changed: Pointer, path: Pointer) -> bool:
    """True when a change at one path is a change at the other: one holds the other."""
    depth = min(len(changed), len(path))
    return changed[:depth] == path[:depth]


def without_nulls(value: Json) -> Json:
    """A merge patch without what it deletes."""
    if not isinstance(value, dict):
        return value
    return {key: without_nulls(below) for key, below in value.items() if below is not None}


def overlaid(below: JsonObject, above: JsonObject) -> JsonObject:
    """Both documents as one; where they differ, `above` counts."""
    joined = dict(below)
    for key, value in above.items():
        mine = joined.get(key)
        both = isinstance(mine, dict) and isinstance(value, dict)
        joined[key] = overlaid(mine, value) if both else value  # type: ignore[arg-type]
    return joined


# --- placeholders -------------------------------------------------------------------------------


def topic_placeholders(topic: str) -> dict[str, Json]:
    """What `topic:` names of a topic of things."""
    namespace, name, group, channel, criterion, rest = topic.split("/", 5)
    is_message = criterion == "messages"
    return {
        "topic:full": topic,
        "topic:namespace": namespace,
        "topic:entityName": name,
        "topic:entityId": f"{namespace}:{name}",
        "topic:entityType": "thing",
        "topic:group": group,
        "topic:channel": channel,
        "topic:criterion": criterion,
        "topic:action-subject": rest,
        **({"topic:subject": rest} if is_message else {"topic:action": rest}),
    }


def event_placeholders(event: ThingEvent) -> dict[str, Json]:
    """What a filter may ask of an event beside its content."""
    path = format_pointer(event.path)
    return _placeholders(event_topic(event), event.thing_id, "thing", path, event.headers)


def signal_placeholders(signal: ThingMessage | ThingCommand) -> dict[str, Json]:
    """What a filter may ask of a message or live command."""
    if isinstance(signal, ThingCommand):
        topic, path = live_command_topic(signal), format_pointer(signal.path)
        return _placeholders(topic, signal.thing_id, "thing", path, signal.headers)
    topic = thing_topic(signal.thing_id, LIVE, "messages", signal.subject)
    path = message_path(signal)
    return _placeholders(topic, signal.thing_id, "message", path, signal.headers)


def _placeholders(
    topic: str, thing_id: str, kind: str, path: str, headers: Headers
) -> dict[str, Json]:
    known: dict[str, Json] = {
        **topic_placeholders(topic),
        **_entity_placeholders(thing_id),
        "resource:type": kind,
        "resource:path": path,
    }
    known |= {f"header:{name}": _text(value) for name, value in headers.items()}
    if path.startswith("/features/"):
        known["feature:id"] = path.split("/")[2]
    return known


def _text(value: HeaderValue) -> Json:
    """A header as filters compare it; lists and objects are not compared."""
    return value if isinstance(value, (str, bool, int)) else None


def _entity_placeholders(thing_id: str) -> dict[str, Json]:
    parts = {"id": thing_id, "namespace": namespace_of(thing_id), "name": name_of(thing_id)}
    return {f"{kind}:{part}": text for kind in ("thing", "entity") for part, text in parts.items()}
