"""`/api/2/search/things` and its count: queries by GET or by form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import hdrs, web

from gateway.ditto.endpoint import json_response, not_allowed
from gateway.ditto.request import (
    EVENT_STREAM,
    FORM,
    MAX_TIMEOUT,
    ApiCall,
    read_body,
    require_type,
    timeout_of,
)
from gateway.ditto.search import following
from gateway.ditto.service import SearchPage, SearchQuery, ThingsService
from gateway.ditto.sse import frame
from gateway.ditto.things_http import joined_filter, namespaces, search_options
from gateway.errors import BadRequest, CommandTimeout, GatewayError
from gateway.model.entity_id import check_entity_id
from gateway.model.json import Json, JsonObject
from gateway.twin.ditto_errors import ditto_error
from gateway.wire.ditto.headers import error_json

MAX_FIELDS = 64
Stream = Callable[[ApiCall, AsyncIterator[bytes]], Awaitable[web.StreamResponse]]
T = TypeVar("T")


class SearchRoutes:
    """The handlers of searching."""

    def __init__(self, things: ThingsService, max_body: int, stream: Stream) -> None:
        self._things = things
        self._max_body = max_body
        self._stream = stream

    async def search(self, call: ApiCall) -> web.StreamResponse:
        """One page, or all of them as a stream of events."""
        if call.accepts_exactly(EVENT_STREAM):
            return await self._streamed(call)
        page = await _within(call, self._things.search(await self._query(call)))
        body: JsonObject = {"items": page.items}
        if page.cursor is not None:
            body["cursor"] = page.cursor
        if page.next_page_offset is not None:
            body["nextPageOffset"] = page.next_page_offset
        return json_response(body)

    async def _streamed(self, call: ApiCall) -> web.StreamResponse:
        """All hits in their order, each with its thing's id; `Last-Event-ID` goes on after that thing."""
        query = await self._query(call)
        if query.options and ("cursor(" in query.options or "limit(" in query.options):
            raise ditto_error(
                "thing-search:search.option.invalid", reason="a stream has neither cursor nor limit"
            )
        last = call.request.headers.get("Last-Event-ID", "").strip()
        if last:
            check_entity_id(last, "things:id.invalid")
            query = replace(query, after=last)
        first = await _within(call, self._things.search(query))  # refusals come before the stream
        return await self._stream(call, self._frames(query, first))

    async def _frames(self, query: SearchQuery, page: SearchPage) -> AsyncIterator[bytes]:
        while True:
            if page.items:
                yield b"".join(map(_event, page.ids, page.items))
            if page.cursor is None:
                return
            try:
                page = await self._things.search(following(query, page.cursor))
            except GatewayError as error:
                yield frame(msgspec.json.encode(error_json(error)))
                return

    async def count(self, call: ApiCall) -> web.StreamResponse:
        """A bare number."""
        return json_response(await _within(call, self._things.count(await self._query(call))))

    async def _query(self, call: ApiCall) -> SearchQuery:
        fields = await self._fields(call)
        return SearchQuery(
            subjects=call.subjects,
            filter=joined_filter(fields.get("filter", ())),
            fields=_first(fields, "fields"),
            options=search_options(",".join(fields.get("option", ())) or None),
            namespaces=namespaces(_first(fields, "namespaces")),
            scope=call.caller.access.things,
        )

    async def _fields(self, call: ApiCall) -> Mapping[str, Sequence[str]]:
        request = call.request
        if request.method == hdrs.METH_GET:
            pairs = list(request.query.items())
        elif request.method == hdrs.METH_POST:
            require_type(request, (FORM,))
            pairs = _form(await read_body(request, self._max_body))
        else:
            raise not_allowed(request.method, ("GET", "POST"))
        fields: dict[str, list[str]] = {}
        for name, value in pairs:
            fields.setdefault(name, []).append(value)
        return fields


def _event(thing_id: str, item: Json) -> bytes:
    return b"id:" + thing_id.encode() + b"\n" + frame(msgspec.json.encode(item))


def _form(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError as error:
        raise BadRequest(f"The form could not be read: {error}.") from error


def _first(fields: Mapping[str, Sequence[str]], name: str) -> str | None:
    found = fields.get(name)
    return found[0] if found else None


async def _within(call: ApiCall, running: Awaitable[T]) -> T:
    seconds = timeout_of(call.headers, MAX_TIMEOUT, MAX_TIMEOUT) or MAX_TIMEOUT
    try:
        async with asyncio.timeout(seconds):
            return await running
    except TimeoutError as error:
        raise CommandTimeout(
            "The query ran out of its time limit.",
            code="thing-search:query.time.exceeded",
            description="Narrow the filter, or raise the timeout.",
        ) from error
