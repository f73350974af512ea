"""`POST /api/2/bulk`: many commands of the Ditto Protocol, answered in their order.

As lines (`application/x-ndjson`) any number of them is taken, and answers leave while commands still come in:
who sends must read meanwhile, for when answers are not taken, commands are not read any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import hdrs, web

from gateway.ditto.bulk import BulkRun, Rooms, Window
from gateway.ditto.endpoint import Endpoints, not_allowed
from gateway.ditto.request import (
    BODY_SECONDS,
    JSON_TYPE,
    ApiCall,
    command_timeout,
    read_body,
    require_type,
)
from gateway.errors import BadRequest, GatewayError, TooLarge, Undeliverable
from gateway.twin.ditto_errors import ditto_error
from gateway.wire.ndjson import Line, LineSplitter

NDJSON: Final = "application/x-ndjson"
WRITE_SECONDS: Final = 60.0
"""How long the caller may leave answers unread."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How answers stand in the body."""

    content_type: str
    first: bytes
    before: bytes
    after: bytes
    last: bytes


_FORMS: Final = {
    NDJSON: _Form(NDJSON, b"", b"", b"\n", b""),
    JSON_TYPE: _Form(JSON_TYPE, b"[", b",", b"", b"]"),
}


class BulkRoutes:
    """The handler of bulk requests."""

    def __init__(self, endpoints: Endpoints, rooms: Rooms) -> None:
        self._endpoints = endpoints
        self._settings = endpoints.bulk
        self._rooms = rooms
        self._open = 0

    async def post(self, call: ApiCall) -> web.StreamResponse:
        """Run the commands of a body.

        Errors: 400 for `atomic`, 405, 413, 415; 503 when there are too many bulk requests.
        """
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        if "atomic" in call.request.query:
            raise BadRequest(
                "Bulk requests are not atomic.",
                code="parameter.invalid",
                description="Each command stands for itself and has a status of its own.",
            )
        form = _FORMS[require_type(call.request, _FORMS)]
        if self._open >= self._settings.max_requests:
            raise Undeliverable("Too many bulk requests are under way.", code="service.unavailable")
        self._open += 1
        try:
            items = await self._items(call) if form.content_type == JSON_TYPE else None
            return await self._run(call, form, items)
        finally:
            self._open -= 1

    async def _items(self, call: ApiCall) -> list[Line]:
        """The commands of an array."""
        body = await read_body(call.request, self._settings.max_array_bytes)
        try:
            found = msgspec.json.decode(body, type=list[msgspec.Raw])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ditto_error(
                "json.invalid", reason=str(error), hint="It is an array of commands."
            ) from error
        if len(found) > self._settings.max_array:
            raise TooLarge(
                f"The array has {len(found)} commands; at most {self._settings.max_array} are allowed.",
                description=f"Send lines ({NDJSON}): of these there may be any number.",
            )
        return [Line(number, bytes(one)) for number, one in enumerate(found, 1)]

    async def _run(
        self, call: ApiCall, form: _Form, items: Sequence[Line] | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"correlation-id": call.correlation_id})
        response.content_type = form.content_type
        self._endpoints.allow_origin(call.request, response)
        await response.prepare(call.request)
        window = Window(self._settings.in_flight, self._settings.pending)
        is_heard = True
        try:
            async with asyncio.TaskGroup() as tasks:
                run = BulkRun(
                    self._rooms, call.caller, window, tasks, call.correlation_id, call.trace
                )
                tasks.create_task(_write(call.request, response, window, form))
                if items is None:
                    await self._lines(call.request, run)
                else:
                    for item in items:
                        await run.take(item, self._settings.max_line)
                window.close()
        except* ConnectionError:
            is_heard = False  # the caller has gone; what it began is finished without it
        if is_heard:
            await response.write_eof()
        return response

    async def _lines(self, request: web.Request, run: BulkRun) -> None:
        """Take lines as they come; what breaks off the body is told as one more line."""
        splitter = LineSplitter(self._settings.max_line)
        number = 0
        try:
            while data := await _more(request):
                for line in splitter.feed(data):
                    number = line.number
                    await run.take(line, self._settings.max_line)
        except GatewayError as error:
            await run.refuse(number + 1, error)
            return
        for line in splitter.end():
            await run.take(line, self._settings.max_line)


async def _more(request: web.Request) -> bytes:
    """The next bytes of the body, none at its end.

    Errors: 408 where nothing comes; BadRequest where the body is broken.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.content.readany()
    except TimeoutError as error:
        raise command_timeout(BODY_SECONDS) from error
    except web.RequestPayloadError as error:
        raise BadRequest("The request body could not be read to its end.") from error


async def _write(
    request: web.Request, response: web.StreamResponse, window: Window, form: _Form
) -> None:
    """Send answers in their order."""
    opening, is_first = form.first, True
    while answers := await window.answers():
        pieces = [opening]
        for answer in answers:
            pieces += (b"" if is_first else form.before, answer, form.after)
            is_first = False
        opening = b""
        await _send(request, response, b"".join(pieces))
    await _send(request, response, opening + form.last)


async def _send(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.write(data)
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionAbortedError("answers were not read") from error
