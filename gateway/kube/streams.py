"""Watches over HTTP: one JSON line per event, until the client goes, time is up or the reader is too slow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress

import msgspec
from aiohttp import web

from gateway.errors import BadRequest, GatewayError, Gone
from gateway.kube import listing
from gateway.kube.checks import as_version
from gateway.kube.client import EventType
from gateway.kube.objects import Objects
from gateway.kube.watch import Filter, Item, Stored, Watcher
from gateway.model.json import JsonObject
from gateway.wire.kube import requests
from gateway.wire.kube.requests import Wanted
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import Cause, invalid, status_of

BOOKMARK_SECONDS = 60.0
LONGEST_SECONDS = 3_600
INITIAL_END = "k8s.io/initial-events-end"
ROWS_PER_WRITE = 500
WRITE_SECONDS = 30.0
"""Seconds that a client may take to make room for what is written; then it is hung up on."""


class Encoder:
    """Events of one watch as lines, in the form that its client wants."""

    def __init__(
        self, objects: Objects, resource: ResourceType, wanted: Wanted, query: Mapping[str, str]
    ) -> None:
        self._objects = objects
        self._resource = resource
        self._wanted = wanted
        self._query = query
        self._is_first = True
        self._form = f"{wanted.form} {wanted.version} {resource.group_version}"

    def line(self, item: Item) -> bytes:
        """An event as a line; watchers that want it in the same form share it."""
        if self._wanted.form == "table":
            return _line(item.type, self._shown(as_version(self._resource, item.stored)))
        known = item.lines.get(self._form)
        if known is None:
            known = _line(item.type, self._shown(as_version(self._resource, item.stored)))
            item.lines[self._form] = known
        return known

    def _shown(self, stored: Stored) -> bytes:
        if self._wanted.form == "object":
            return stored.body
        if self._wanted.form == "partial":
            return msgspec.json.encode(listing.partial(stored.object, self._wanted.version))
        return self._table([stored], {"resourceVersion": str(stored.version)})

    def _table(self, items: list[Stored], metadata: JsonObject) -> bytes:
        document = listing.as_table(
            self._resource,
            items,
            metadata,
            self._wanted,
            self._query,
            self._objects.now(),
            with_columns=self._is_first,
        )
        self._is_first = False
        return msgspec.json.encode(document)

    def bookmark(self, version: int, *, ends_initial: bool = False) -> bytes:
        metadata: JsonObject = {"resourceVersion": str(version)}
        if ends_initial:
            metadata["annotations"] = {INITIAL_END: "true"}
        if self._wanted.form == "table":
            return _line(EventType.BOOKMARK, self._bookmark_table(metadata))
        item: JsonObject = {
            "kind": self._resource.kind,
            "apiVersion": self._resource.group_version,
            "metadata": metadata,
        }
        if self._wanted.form == "partial":
            item = listing.partial(item, self._wanted.version)
        return _line(EventType.BOOKMARK, msgspec.json.encode(item))

    def _bookmark_table(self, metadata: JsonObject) -> bytes:
        """A table whose one row carries the bookmark's metadata, as clients look for it there."""
        document = listing.as_table(
            self._resource,
            [],
            {"resourceVersion": metadata["resourceVersion"]},
            self._wanted,
            self._query,
            self._objects.now(),
            with_columns=self._is_first,
        )
        shown = listing.partial({"metadata": metadata}, self._wanted.version)
        document["rows"] = [{"cells": [], "object": shown}]
        self._is_first = False
        return msgspec.json.encode(document)


def _line(kind: str, body: bytes) -> bytes:
    return b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n"


def _error_line(error: GatewayError) -> bytes:
    return _line("ERROR", msgspec.json.encode(status_of(error)))


async def stream_watch(
    request: web.Request,
    objects: Objects,
    resource: ResourceType,
    namespace: str | None,
    wanted: Wanted,
) -> web.StreamResponse:
    """Serve one watch to its end.

    Errors: BadRequest, Unprocessable, TooEarly before the first byte; a forgotten version is an ERROR event.
    """
    query = request.query
    listing.check_options(query, watches=True)
    if query.get("continue"):
        text = "Forbidden: resourceVersionMatch is forbidden when continue is provided"
        cause = Cause("FieldValueForbidden", text, "resourceVersionMatch")
        raise invalid("ListOptions", "meta.k8s.io", "", [cause])
    selected = objects.filter(
        resource, namespace, query.get("labelSelector"), query.get("fieldSelector")
    )
    if wanted.form == "table":
        listing.check_include(query)
    until = asyncio.get_running_loop().time() + _seconds(query)
    encoder = Encoder(objects, resource, wanted, query)
    version, initial = _start(query)
    listing.check_version(query, objects.storage.version)
    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
    )
    response.enable_chunked_encoding()
    try:
        watcher, first = _begin(objects, resource, selected, version, initial)
    except Gone as error:
        await response.prepare(request)
        await response.write(_error_line(error))
        return response
    marks = requests.flag(query, "allowWatchBookmarks") is True
    try:
        await response.prepare(request)
        with suppress(ConnectionError):
            await _send_first(response, encoder, first)
            if initial is True and marks:
                mark = encoder.bookmark(first_version(objects, first), ends_initial=True)
                await _write(response, mark)
            await _follow(response, objects, watcher, encoder, until, with_marks=marks)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    finally:
        watcher.close()
    return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Errors: TimeoutError when the client does not read."""
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(data)


def first_version(objects: Objects, first: tuple[list[Stored], int]) -> int:
    """The instant of the snapshot that a watch began with."""
    return first[1] or objects.storage.version


def _seconds(query: Mapping[str, str]) -> float:
    """How long a watch lasts: one that asks for less than nothing is over when it begins."""
    asked = requests.integer(query, "timeoutSeconds")
    if asked:
        return float(min(max(asked, 0), LONGEST_SECONDS))
    return LONGEST_SECONDS / 2 * (1 + random.random())  # noqa: S311  spreads the clients' returns


def _start(query: Mapping[str, str]) -> tuple[int, bool | None]:
    """The version to watch from and whether existing objects come first (None: as the version says).

    Errors: Unprocessable for options that do not go together.
    """
    initial = requests.flag(query, "sendInitialEvents")
    try:
        version = requests.resource_version(query) or 0
    except BadRequest as error:
        raise GatewayError(str(error), details={"reason": ""}) from error
    return version, initial


def _begin(
    objects: Objects,
    resource: ResourceType,
    selected: Filter,
    version: int,
    initial: bool | None,
) -> tuple[Watcher, tuple[list[Stored], int]]:
    """Take the snapshot, if one is wanted, and start the watcher at its instant."""
    wants_all = initial is True or (initial is None and version == 0)
    if not wants_all:
        since = version or objects.storage.version
        return objects.follow(resource, selected, since), ([], since)
    page = objects.page(resource, selected)
    return objects.follow(resource, selected, page.version), (page.items, page.version)


async def _send_first(
    response: web.StreamResponse, encoder: Encoder, first: tuple[list[Stored], int]
) -> None:
    items = first[0]
    for at in range(0, len(items), ROWS_PER_WRITE):
        lines = [
            encoder.line(Item(EventType.ADDED, item)) for item in items[at : at + ROWS_PER_WRITE]
        ]
        await _write(response, b"".join(lines))


async def _follow(
    response: web.StreamResponse,
    objects: Objects,
    watcher: Watcher,
    encoder: Encoder,
    until: float,
    *,
    with_marks: bool,
) -> None:
    """Write what happens; a bookmark in quiet times and before the end."""
    now = asyncio.get_running_loop().time
    mark_at = now() + BOOKMARK_SECONDS
    while now() < until:
        version = objects.storage.version
        items = await watcher.next(min(until, mark_at))
        if items is None:
            return
        if items:
            await _write(response, b"".join(encoder.line(item) for item in items))
        elif with_marks and not watcher.is_closed:
            await _write(response, encoder.bookmark(version))
        if now() >= mark_at:
            mark_at = now() + BOOKMARK_SECONDS
