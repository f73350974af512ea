"""Searching over the protocol: a session subscribes, asks for pages by demand, cancels.

A subscription is a cursor and nothing else: no page is read before it is asked for, and one that nobody asks
for a minute is forgotten. Source: Ditto Protocol, search.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from gateway.ditto.search import following
from gateway.ditto.service import SearchQuery, ThingsService
from gateway.errors import BadRequest, CommandTimeout, GatewayError, NotFound, QuotaExceeded
from gateway.model.json import Json, JsonObject
from gateway.model.thing import Headers
from gateway.twin.namespaces import EVERYWHERE, Scope
from gateway.wire.ditto.headers import error_json
from gateway.wire.ditto.read import SearchSignal
from gateway.wire.ditto.write import search_frame

log = logging.getLogger(__name__)

MAX_SEARCHES = 10
MAX_DEMAND = 1_000
IDLE_SECONDS = 60.0

Start = Callable[[Coroutine[Any, Any, None]], None]
Send = Callable[[bytes, Headers], None]
"""Sends a frame; the headers are those of the signal that it answers."""


@dataclass(slots=True)
class _Search:
    """One subscription: where it stands, and the pages asked for but not sent."""

    id: str
    query: SearchQuery
    headers: Headers
    timer: asyncio.TimerHandle
    cursor: str | None = None
    demand: int = 0
    is_running: bool = False


class Searches:
    """The searches of one session."""

    def __init__(self, things: ThingsService, send: Send, scope: Scope = EVERYWHERE) -> None:
        self._things = things
        self._scope = scope
        self._send = send
        self._open: dict[str, _Search] = {}

    def close(self) -> None:
        """Forget all of them."""
        for search in self._open.values():
            search.timer.cancel()
        self._open.clear()

    def handle(self, signal: SearchSignal, start: Start) -> None:
        """Do what a signal asks.

        Shape:  what is wrong with a demand or a subscription ID is told as `failed`; a search that gets a
                wrong demand has ended.
        Errors: QuotaExceeded above `MAX_SEARCHES`.
        """
        if signal.action == "subscribe":
            self._subscribe(signal)
            return
        try:
            self._steer(signal, start)
        except (NotFound, BadRequest) as error:
            self._refuse(signal, error)

    def _steer(self, signal: SearchSignal, start: Start) -> None:
        search = self._find(signal)
        if signal.action == "cancel":
            self._forget(search)
            return
        search.demand += _demand(signal)
        if not search.is_running:
            start(self._serve(search))
            search.is_running = True

    def _refuse(self, signal: SearchSignal, error: GatewayError) -> None:
        search_id = str(signal.value.get("subscriptionId", ""))
        if search_id in self._open:
            self._forget(self._open[search_id])
        body: JsonObject = {"subscriptionId": search_id, "error": {**error_json(error)}}
        self._tell("failed", body, signal.headers)

    def _subscribe(self, signal: SearchSignal) -> None:
        if len(self._open) >= MAX_SEARCHES:
            raise QuotaExceeded(
                f"A session has at most {MAX_SEARCHES} searches at a time.",
                code="too.many.requests",
            )
        search_id = str(uuid.uuid4())
        timer = self._timer(search_id)
        self._open[search_id] = _Search(
            search_id, _query(signal, self._scope), signal.headers, timer
        )
        self._tell("created", {"subscriptionId": search_id}, signal.headers)

    def _tell(self, action: str, body: JsonObject, headers: Headers) -> None:
        self._send(search_frame(action, body, headers), headers)

    def _find(self, signal: SearchSignal) -> _Search:
        search = self._open.get(str(signal.value.get("subscriptionId", "")))
        if search is None:
            raise NotFound(
                "No search with this subscription ID was found.",
                code="thing-search:subscription.not.found",
                description="It may have ended, or belong to another session.",
            )
        return search

    def _forget(self, search: _Search) -> None:
        search.timer.cancel()
        self._open.pop(search.id, None)

    def _timer(self, search_id: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(IDLE_SECONDS, self._idle, search_id)

    def _idle(self, search_id: str) -> None:
        search = self._open.get(search_id)
        if search is None:
            return
        if search.is_running:
            search.timer = self._timer(search_id)
            return
        self._fail(
            search,
            CommandTimeout(
                "The search was idle for too long.", code="thing-search:subscription.timeout"
            ),
        )

    def _fail(self, search: _Search, error: GatewayError) -> None:
        self._forget(search)
        body: JsonObject = {"subscriptionId": search.id, "error": {**error_json(error)}}
        self._tell("failed", body, search.headers)

    async def _serve(self, search: _Search) -> None:
        """Send pages while some are asked for."""
        try:
            while search.demand and search.id in self._open:
                search.demand -= 1
                await self._page(search)
        except GatewayError as error:
            self._fail(search, error)
        except Exception:  # top of one request: the session goes on
            log.exception("search failed", extra={"search": search.id})
            self._fail(search, GatewayError())
        finally:
            search.is_running = False

    async def _page(self, search: _Search) -> None:
        page = await self._things.search(_next(search))
        items: list[Json] = page.items
        if items:
            body: JsonObject = {"subscriptionId": search.id, "items": items}
            self._tell("next", body, search.headers)
        search.cursor = page.cursor
        if page.cursor is None:
            self._forget(search)
            self._tell("complete", {"subscriptionId": search.id}, search.headers)
        else:
            search.timer.cancel()
            search.timer = self._timer(search.id)


def _query(signal: SearchSignal, scope: Scope) -> SearchQuery:
    options, found = signal.value.get("options"), signal.value.get("filter")
    namespaces = signal.value.get("namespaces")
    if options is not None and ("cursor(" in str(options) or "limit(" in str(options)):
        raise BadRequest(
            "'cursor' and 'limit' are not allowed in a search over the protocol.",
            code="thing-search:search.option.invalid",
        )
    return SearchQuery(
        subjects=signal.subjects,
        filter=str(found) if found else None,
        fields=signal.fields,
        options=str(options) if options else None,
        namespaces=tuple(map(str, namespaces)) if isinstance(namespaces, list) else (),
        scope=scope,
    )


def _next(search: _Search) -> SearchQuery:
    """The query of the next page; a cursor stands for filter and sorting, the size goes with it."""
    if search.cursor is None:
        return search.query
    return following(search.query, search.cursor)


def _demand(signal: SearchSignal) -> int:
    demand = signal.value.get("demand")
    if isinstance(demand, bool) or not isinstance(demand, int) or not 0 < demand <= MAX_DEMAND:
        raise BadRequest(
            f"The demand is a number from 1 to {MAX_DEMAND}.",
            code="thing-search:subscription.protocol.error",
        )
    return demand
