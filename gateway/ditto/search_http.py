"""`/api/2/search/things` and its count: queries by GET or by form."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import parse_qsl

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
from gateway.ditto.service import SearchQuery, ThingsService
from gateway.ditto.things_http import joined_filter, namespaces, search_options
from gateway.errors import BadRequest, CommandTimeout, NotBuilt
from gateway.model.json import JsonObject

MAX_FIELDS = 64
T = TypeVar("T")


class SearchRoutes:
    """The handlers of searching."""

    def __init__(self, things: ThingsService, max_body: int) -> None:
        self._things = things
        self._max_body = max_body

    async def search(self, call: ApiCall) -> web.StreamResponse:
        """One page."""
        if call.accepts_exactly(EVENT_STREAM):
            raise NotBuilt("Streaming search results is not built.")
        page = await _within(call, self._things.search(await self._query(call)))
        body: JsonObject = {"items": page.items}
        if page.cursor is not None:
            body["cursor"] = page.cursor
        if page.next_page_offset is not None:
            body["nextPageOffset"] = page.next_page_offset
        return json_response(body)

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
