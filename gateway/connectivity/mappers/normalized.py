"""`Normalized`: twin events as parts of things, for consumers that want state and not protocol."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.connectivity.errors import mapper_invalid
from gateway.connectivity.mappers.base import External, Incoming, Outgoing
from gateway.ditto.subscriptions import overlaid, partial_thing
from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, format_pointer
from gateway.model.thing import EventAction, ThingEvent
from gateway.twin.fields import FieldSelector
from gateway.wire.ditto.placeholders import Scope
from gateway.wire.ditto.write import event_headers, event_topic


class NormalizedMapper:
    """Options: `fields` (a selector), `includeDeletedFields`. Outbound only."""

    def __init__(self, options: JsonObject) -> None:
        fields = options.get("fields")
        try:
            self._fields = FieldSelector.parse(str(fields)) if fields else None
        except GatewayError as error:
            raise mapper_invalid("Normalized", error.message) from error
        self._deleted_fields = options.get("includeDeletedFields") in (True, "true")

    def incoming(self, _message: External, _scope: Scope) -> Sequence[Incoming]:
        return ()

    def outgoing(self, signal: Outgoing) -> External | None:
        if signal.seen is None or not self._wants(signal.seen.event):
            return None
        event = signal.seen.event
        document = partial_thing(event)
        document["_modified"] = event.timestamp
        document["_revision"] = event.revision
        if event.action is EventAction.DELETED and not event.path:
            document["_deleted"] = event.timestamp
        if self._deleted_fields:
            document |= _deletions(event)
        document["_context"] = _context(event)
        document = overlaid(signal.seen.extra or {}, document)
        if self._fields is not None:
            document = self._fields.select(document)
        if event.action.is_merge:
            document = _without_nothing(document)
        return External({}, msgspec.json.encode(document), "application/json") if document else None

    def _wants(self, event: ThingEvent) -> bool:
        """Deletions of parts only where somebody looks for them."""
        is_part = bool(event.path)
        return event.action is not EventAction.DELETED or not is_part or self._deleted_fields


def _without_nothing(document: JsonObject) -> JsonObject:
    """A document without nulls and empty objects, wherever they are."""
    kept: JsonObject = {}
    for name, value in document.items():
        below = _without_nothing(value) if isinstance(value, dict) else value
        if below is not None and below != {}:
            kept[name] = below
    return kept


def _context(event: ThingEvent) -> JsonObject:
    return {
        "topic": event_topic(event),
        "path": format_pointer(event.path),
        "value": event.value,
        "headers": event_headers(event),
    }


def _deletions(event: ThingEvent) -> JsonObject:
    """`_deletedFields`: a tree with the instant of deletion at each leaf that went."""
    gone: Json = None
    if event.action is EventAction.DELETED and event.path:
        gone = event.timestamp
    elif event.action.is_merge:
        gone = _nulls(event.value, event.timestamp)
    if gone is None:
        return {}
    for segment in reversed(event.path):
        gone = {segment: gone}
    return {"_deletedFields": gone}


def _nulls(value: Json, instant: str) -> Json:
    """Where a patch deletes; what its patterns take away is not known here."""
    if value is None:
        return instant
    if not isinstance(value, dict):
        return None
    found: JsonObject = {
        key: gone
        for key, below in value.items()
        if not _is_pattern(key) and (gone := _nulls(below, instant))
    }
    return found or None


def _is_pattern(key: str) -> bool:
    """`{{ /.*/ }}`: a regular expression as a key of a merge patch."""
    return key.startswith("{{") and key.endswith("}}")
