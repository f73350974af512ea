"""Past states of things, and what commands ask of the past; rebuilt from what the store keeps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from gateway.ditto.clock import text_of
from gateway.model.json import Json, JsonObject
from gateway.model.policy import PolicyCommand, PolicyEvent
from gateway.model.thing import Action, HeaderValue, Thing, ThingCommand, ThingEvent
from gateway.store.things import ThingStore
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.things import replayed

_REVISION: Final = "at-historical-revision"
_TIMESTAMP: Final = "at-historical-timestamp"


def is_historical(command: ThingCommand | PolicyCommand) -> bool:
    """True when a command asks for a past state."""
    headers = command.headers
    return command.action is Action.RETRIEVE and (_REVISION in headers or _TIMESTAMP in headers)


def past_revision(command: ThingCommand | PolicyCommand) -> int | None:
    """The revision that a command asks for, None where it names an instant.

    Errors: 400 `header.invalid`.
    """
    revision = command.headers.get(_REVISION)
    return None if revision is None else _number(revision)


def past_instant(command: ThingCommand | PolicyCommand) -> str | None:
    """The instant that a command asks for, where it names no revision.

    Errors: 400 `header.invalid`.
    """
    if _REVISION in command.headers:
        return None
    return _instant(str(command.headers[_TIMESTAMP]))


class Past:
    """Looks into a thing's past. What is not kept, or was deleted then, is None."""

    def __init__(self, store: ThingStore, told: tuple[str, ...] = ()) -> None:
        self._store = store
        self._told = told

    async def headers(self, past: Thing) -> JsonObject:
        """The headers of the change that led to a past state, as far as they are told and kept."""
        if not self._told:
            return {}
        events = await self._store.events(past.thing_id, past.revision - 1, 1)
        return told_headers(events, past.revision, self._told)

    async def at_revision(self, thing_id: str, revision: int) -> Thing | None:
        """The thing as it was after a revision."""
        replay = await self._store.replay(thing_id, revision=revision)
        thing = replayed(replay.base, replay.events)
        return thing if thing is not None and thing.revision == revision else None

    async def at_time(self, thing_id: str, timestamp: str) -> Thing | None:
        """The thing as it was at an ISO 8601 instant."""
        replay = await self._store.replay(thing_id, timestamp=timestamp)
        return replayed(replay.base, replay.events)

    async def asked(self, command: ThingCommand) -> Thing:
        """The past state that a command's headers name.

        Errors: 404 `things:thing.history.notfound`, 400 `header.invalid`.
        """
        revision = command.headers.get(_REVISION)
        if revision is not None:
            at = f"revision {revision}"
            past = await self.at_revision(command.thing_id, _number(revision))
        else:
            at = str(command.headers[_TIMESTAMP])
            past = await self.at_time(command.thing_id, _instant(at))
        if past is None:
            raise ditto_error("things:thing.history.notfound", id=command.thing_id, at=at)
        return past


def told_headers(
    events: Sequence[ThingEvent | PolicyEvent], revision: int, names: tuple[str, ...]
) -> JsonObject:
    """These headers of the change with a revision; none where it is not kept any more."""
    found: JsonObject = {}
    for event in events:
        if event.revision == revision:
            known = {**event.headers, **_originator(event.subjects)}
            found = {name: _json(known[name]) for name in names if name in known}
    return found


def _originator(subjects: tuple[str, ...]) -> dict[str, HeaderValue]:
    return {"ditto-originator": subjects[0]} if subjects else {}


def _json(value: HeaderValue) -> Json:
    return [*value] if isinstance(value, list) else value


def _number(value: object) -> int:
    with suppress(ValueError):
        return int(str(value)[:18])
    raise ditto_error("header.invalid", header=_REVISION, value=value, hint="It is a whole number.")


def _instant(value: str) -> str:
    try:
        return text_of(datetime.fromisoformat(value).astimezone(UTC))
    except (ValueError, OverflowError) as error:
        raise ditto_error(
            "header.invalid", header=_TIMESTAMP, value=value, hint="It is an ISO 8601 instant."
        ) from error
