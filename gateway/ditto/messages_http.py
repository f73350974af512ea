"""Messages to and from things over HTTP: inbox, outbox, claim."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import hdrs, web

from gateway.ditto.acknowledgements import requested
from gateway.ditto.endpoint import not_allowed, unknown_path
from gateway.ditto.request import ApiCall, read_body, timeout_of
from gateway.ditto.service import ThingsService
from gateway.errors import GatewayError, Undeliverable
from gateway.model.thing import Direction, ThingMessage, ThingMessageResponse
from gateway.twin.ditto_errors import ditto_error

DEFAULT_SECONDS = 10.0
MAX_SECONDS = 60.0
CLAIM_SECONDS = 60.0
MAX_CLAIM_SECONDS = 600.0
_DIRECTIONS = {"inbox": Direction.TO, "outbox": Direction.FROM}


@dataclass(frozen=True, slots=True)
class MessagePath:
    """Where a message goes: `features/motor/inbox/messages/reset`."""

    direction: Direction
    subject: str
    feature_id: str | None = None

    @property
    def is_claim(self) -> bool:
        return self.subject == "claim" and self.feature_id is None

    @classmethod
    def parse(cls, rest: str) -> MessagePath:
        """Read what follows the thing's id.

        Errors: NotFound for another path; BadRequest `messages:subject.invalid`.
        """
        box, feature_id = rest, None
        if rest.startswith("features/"):
            feature_id, _, box = rest.removeprefix("features/").partition("/")
        name, _, below = box.partition("/")
        if name == "inbox" and below == "claim" and feature_id is None:
            return cls(Direction.TO, "claim")
        kind, _, subject = below.partition("/")
        if kind != "messages" or name not in _DIRECTIONS:
            raise unknown_path(rest)
        return cls(_DIRECTIONS[name], checked_subject(subject), feature_id)


def checked_subject(subject: str) -> str:
    """A subject: not empty, no control characters, no empty segment.

    Errors: BadRequest `messages:subject.invalid`.
    """
    if not all(subject.split("/")) or not subject.isprintable():
        raise ditto_error("messages:subject.invalid", subject=subject[:200])
    return subject


class MessageRoutes:
    """The handlers of messages."""

    def __init__(self, things: ThingsService, max_body: int) -> None:
        self._things = things
        self._max_body = max_body
        self._waiting: set[asyncio.Future[ThingMessageResponse]] = set()

    def close(self) -> None:
        """Tell those who wait that no answer will come."""
        for future in self._waiting:
            if not future.done():
                future.set_exception(Undeliverable("The server is shutting down."))

    async def post(self, call: ApiCall, thing_id: str, rest: str) -> web.StreamResponse:
        """Send a message and wait for its answer, or not."""
        path = MessagePath.parse(rest)
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        message = await self._message(call, thing_id, path)
        return render(await self.send(message))

    async def _message(self, call: ApiCall, thing_id: str, path: MessagePath) -> ThingMessage:
        default = CLAIM_SECONDS if path.is_claim else DEFAULT_SECONDS
        limit = MAX_CLAIM_SECONDS if path.is_claim else MAX_SECONDS
        seconds = timeout_of(call.headers, default, limit)
        wanted = requested(call.headers, "live-response")
        has_type = hdrs.CONTENT_TYPE in call.request.headers
        return ThingMessage(
            thing_id=thing_id,
            subject=path.subject,
            direction=path.direction,
            correlation_id=call.correlation_id,
            subjects=call.subjects,
            feature_id=path.feature_id,
            payload=await read_body(call.request, self._max_body),
            content_type=call.request.headers[hdrs.CONTENT_TYPE] if has_type else None,
            timeout=seconds if wanted.response_required else 0.0,
            headers={**call.headers, "response-required": wanted.response_required},
            trace=call.trace,
        )

    async def send(self, message: ThingMessage) -> ThingMessageResponse:
        """Send through the service; raises what it answers."""
        future: asyncio.Future[ThingMessageResponse] = asyncio.get_running_loop().create_future()

        def done(result: ThingMessageResponse | GatewayError) -> None:
            if future.done():
                return
            if isinstance(result, GatewayError):
                future.set_exception(result)
            else:
                future.set_result(result)

        self._waiting.add(future)
        try:
            self._things.send(message, done)
            return await future
        finally:
            self._waiting.discard(future)


def render(response: ThingMessageResponse) -> web.Response:
    """A device's answer as HTTP hands it on."""
    headers = {hdrs.CONTENT_TYPE: response.content_type} if response.content_type else {}
    body = response.payload if response.status not in (204, 304) else b""
    return web.Response(status=response.status, body=body or None, headers=headers)
