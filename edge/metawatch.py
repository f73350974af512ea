"""Watches of MetaServer: one JSON line per event, from the changes of this edge's records.

A watch remembers which objects it has shown, so that selectors give ADDED and DELETED where an object comes
into them or leaves them. Source: Kubernetes API concepts, "Efficient detection of changes".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from edge.metaanswers import as_table, partial
from edge.metakinds import metadata_of
from edge.metarecords import Selection
from edge.metawindow import Arrival, ChangeWindow, Follower
from gateway.errors import Gone
from gateway.model.json import JsonObject
from gateway.wire.kube.requests import Wanted, flag, number, resource_version
from gateway.wire.kube.status import Cause, invalid, status_of

BOOKMARK_SECONDS = 60.0
LONGEST_SECONDS = 3_600
INITIAL_END = "k8s.io/initial-events-end"
LINES_PER_WRITE = 200
MAX_SHOWN = 100_000

ADDED, MODIFIED, DELETED, BOOKMARK, ERROR = "ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a client asks of a watch.

    Shape:  `since` None starts with all objects; `marks_end` wants a bookmark after them.
    """

    since: int | None
    seconds: float
    bookmarks: bool
    marks_end: bool


def watch_options(query: Mapping[str, str]) -> WatchOptions:
    """Read a watch's options. Errors: BadRequest; Unprocessable for options that do not go together."""
    initial, match = flag(query, "sendInitialEvents"), query.get("resourceVersionMatch")
    if (initial is None) == bool(match) or match not in (None, "", "NotOlderThan"):
        text = "Forbidden: sendInitialEvents and resourceVersionMatch=NotOlderThan go together"
        cause = Cause("FieldValueForbidden", text, "resourceVersionMatch")
        raise invalid("ListOptions", "meta.k8s.io", "", [cause])
    since = resource_version(query) or None
    bookmarks = flag(query, "allowWatchBookmarks") is True
    asked = number(query, "timeoutSeconds")
    spread = LONGEST_SECONDS / 2 * (1 + random.random())  # noqa: S311  spreads clients' returns
    return WatchOptions(
        since=None if initial is True else since,
        seconds=float(min(asked, LONGEST_SECONDS)) if asked else spread,
        bookmarks=bookmarks,
        marks_end=bookmarks and initial is True,
    )


@dataclass(slots=True)
class Shower:
    """Turns changes into the lines that one client gets."""

    selection: Selection
    wanted: Wanted
    query: Mapping[str, str]
    is_resumed: bool = False
    _shown: set[str] = field(default_factory=set)
    _has_columns: bool = False

    def first(self, item: JsonObject) -> bytes:
        """Return the line for an object that is there at the start."""
        self._note(_name(item))
        return self._line(ADDED, item)

    def change(self, arrival: Arrival) -> bytes:
        """Return the line for a change, b"" where the client sees none."""
        item: JsonObject = msgspec.json.decode(arrival.record.value)
        name = _name(item)
        was_shown = name in self._shown
        if not arrival.is_deleted and self.selection.matches(item):
            self._note(name)
            return self._line(MODIFIED if was_shown else ADDED, item)
        if not was_shown and not (self.is_resumed and self._is_inside(item)):
            return b""
        self._shown.discard(name)
        return self._line(DELETED, item)

    def _is_inside(self, item: JsonObject) -> bool:
        """A client that comes back may know what we do not know it knows: it is told of the end."""
        namespace = self.selection.namespace
        return namespace is None or namespace == metadata_of(item).get("namespace")

    def _note(self, name: str) -> None:
        if len(self._shown) < MAX_SHOWN:
            self._shown.add(name)

    def _line(self, kind: str, item: JsonObject) -> bytes:
        version = metadata_of(item).get("resourceVersion", "")
        return _line(kind, self._form(item, {"resourceVersion": version}))

    def _form(self, item: JsonObject, metadata: JsonObject) -> JsonObject:
        if self.wanted.form == "object":
            return item
        if self.wanted.form == "partial":
            return partial(item, self.wanted.version)
        return self._table([item], metadata)

    def _table(self, items: list[JsonObject], metadata: JsonObject) -> JsonObject:
        with_columns, self._has_columns = not self._has_columns, True
        return as_table(
            self.selection.resource,
            items,
            metadata,
            self.wanted,
            self.query,
            with_columns=with_columns,
        )

    def bookmark(self, version: int, *, ends_initial: bool = False) -> bytes:
        """Return a bookmark at `version`."""
        metadata: JsonObject = {"resourceVersion": str(version)}
        if ends_initial:
            metadata["annotations"] = {INITIAL_END: "true"}
        resource = self.selection.resource
        item: JsonObject = {
            "kind": resource.kind,
            "apiVersion": resource.group_version,
            "metadata": metadata,
        }
        if self.wanted.form != "table":
            return _line(BOOKMARK, self._form(item, metadata))
        document = self._table([], {"resourceVersion": str(version)})
        document["rows"] = [{"cells": [], "object": partial(item, self.wanted.version)}]
        return _line(BOOKMARK, document)


def _name(item: JsonObject) -> str:
    metadata = metadata_of(item)
    return f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"


def _line(kind: str, item: JsonObject) -> bytes:
    return msgspec.json.encode({"type": kind, "object": item}) + b"\n"


def error_line(error: Gone) -> bytes:
    return _line(ERROR, status_of(error))


def lines_of(shower: Shower, items: list[JsonObject]) -> Iterator[bytes]:
    """Yield the objects at the start, some at a time."""
    for at in range(0, len(items), LINES_PER_WRITE):
        yield b"".join(shower.first(item) for item in items[at : at + LINES_PER_WRITE])


async def follow(
    shower: Shower, follower: Follower, window: ChangeWindow, options: WatchOptions
) -> AsyncIterator[bytes]:
    """Yield what happens until the time is up or the follower ends; bookmarks in quiet times."""
    now = asyncio.get_running_loop().time
    until, mark_at = now() + options.seconds, now() + BOOKMARK_SECONDS
    while now() < until:
        version, place = window.latest(follower.gvr), window.place
        found = await follower.next(min(until, mark_at))
        if found is None:
            return
        lines = b"".join(shower.change(arrival) for arrival in found)
        if lines:
            yield lines
        elif not found and options.bookmarks and version:
            window.mark(follower.gvr, version, place)
            yield shower.bookmark(version)
        if now() >= mark_at:
            mark_at = now() + BOOKMARK_SECONDS


class Lines(AsyncIterator[bytes]):
    """The lines of one watch; `end` is called once, also where no line was ever asked for."""

    def __init__(self, lines: AsyncGenerator[bytes, None], end: Callable[[], None]) -> None:
        self._lines = lines
        self._end = end
        self._is_over = False

    async def __anext__(self) -> bytes:
        return await anext(self._lines)

    async def aclose(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        try:
            await self._lines.aclose()
        finally:
            self._end()
