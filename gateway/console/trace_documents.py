"""`/traces` of the operations port: what `twinspan trace` draws.

`/traces/<id>` is one trace; `/traces?last=5&thing=&device=&kind=&failed=true` are the newest that fit. They
name devices and things, which metrics do not: they are for who is on this machine.
Errors have Ditto's form.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from gateway.errors import BadRequest, Forbidden, GatewayError
from gateway.model.json import JsonObject
from gateway.observe.recent import KINDS, MOST, RecentTraces, Wish
from gateway.runtime.small_http import Document, Headers, Reply

ONE: Final = "/traces/"
ALL: Final = "/traces"
MAX_NAME: Final = 200
Find = Callable[[SplitResult], Awaitable[JsonObject]]
_QUERY: Final = frozenset(("last", "thing", "device", "kind", "failed"))


class TraceDocuments:
    """Answers for `/traces`; `for_all` lets other machines in too."""

    def __init__(self, traces: RecentTraces, *, for_all: bool) -> None:
        self._traces = traces
        self._for_all = for_all

    def by_path(self) -> Mapping[str, Document]:
        """Return what the operations port serves."""
        return {ONE: self._one, ALL: self._last}

    async def _one(self, headers: Headers) -> Reply:
        return await self._answer(headers, self._named)

    async def _last(self, headers: Headers) -> Reply:
        return await self._answer(headers, self._wanted)

    async def _named(self, target: SplitResult) -> JsonObject:
        return await self._traces.one(unquote(target.path.removeprefix(ONE))[:MAX_NAME])

    async def _wanted(self, target: SplitResult) -> JsonObject:
        count, wish = _wish(target.query)
        return await self._traces.last(count, wish)

    async def _answer(self, headers: Headers, find: Find) -> Reply:
        try:
            self._check(headers[":peer"])
            body, status = await find(_split(headers[":path"])), 200
        except GatewayError as error:
            body, status = _told(error), error.status
        return Reply(json.dumps(body).encode(), status=status)

    def _check(self, peer: str) -> None:
        if not self._for_all and peer and not ipaddress.ip_address(peer).is_loopback:
            raise Forbidden(
                "traces are shown on this machine alone",
                description="Ask there, or set observe.http.traces_for_all.",
            )


def _split(target: str) -> SplitResult:
    try:
        return urlsplit(target)
    except ValueError as error:
        raise BadRequest("the request's target is no path") from error


def _wish(query: str) -> tuple[int, Wish]:
    """Return how many traces are wanted, and which. Errors: BadRequest."""
    try:
        pairs = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=len(_QUERY)))
    except ValueError as error:
        raise BadRequest(f"at most {len(_QUERY)} query parameters") from error
    if unknown := pairs.keys() - _QUERY:
        raise BadRequest(f"{sorted(unknown)[0][:64]}: expected one of {', '.join(sorted(_QUERY))}")
    count, kind = pairs.get("last") or "1", pairs.get("kind", "")
    if not (count.isascii() and count.isdigit() and 1 <= int(count[:9]) <= MOST):
        raise BadRequest(f"last: expected 1 to {MOST}, got {count[:64]!r}")
    if kind and kind not in KINDS:
        raise BadRequest(f"kind: expected one of {', '.join(KINDS)}, got {kind[:64]!r}")
    wish = Wish(
        thing=pairs.get("thing", ""),
        device=pairs.get("device", ""),
        kind=kind,
        failed=pairs.get("failed", "false") == "true",
    )
    return int(count), wish


def _told(error: GatewayError) -> JsonObject:
    body: JsonObject = {"status": error.status, "error": error.code, "message": error.message}
    return body | ({"description": error.description} if error.description else {})
