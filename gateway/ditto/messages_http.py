"""Messages to and from things over HTTP: inbox, outbox, claim."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import hdrs, web

from gateway.ditto.acknowledgements import (
    CLAIM_TIMEOUT,
    LIVE_RESPONSE,
    Acknowledgements,
    Requested,
    requested,
)
from gateway.ditto.asking import Asking, acknowledged
from gateway.ditto.endpoint import not_allowed, unknown_path
from gateway.ditto.request import ApiCall, read_body, timeout_of
from gateway.model.entity_id import check_entity_id
from gateway.model.thing import Direction, ThingMessage, ThingMessageResponse
from gateway.twin.ditto_errors import ditto_error
from gateway.wire.ditto.headers import MAX_CLAIM_TIMEOUT, MAX_TIMEOUT, MESSAGE_TIMEOUT

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

    def __init__(self, asking: Asking, max_body: int) -> None:
        self._asking = asking
        self._max_body = max_body

    async def post(self, call: ApiCall, thing_id: str, rest: str) -> web.StreamResponse:
        """Send a message and wait for its answer, or not."""
        path = MessagePath.parse(rest)
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        default = CLAIM_TIMEOUT if path.is_claim else MESSAGE_TIMEOUT
        limit = MAX_CLAIM_TIMEOUT if path.is_claim else MAX_TIMEOUT
        seconds = timeout_of(call.headers, default, limit)
        wanted = requested(call.headers, LIVE_RESPONSE, seconds)
        message = await self._message(call, thing_id, path, wanted)
        outcome = await self._asking.ask(message, wanted)
        if isinstance(outcome, Acknowledgements):
            return acknowledged(outcome)
        assert isinstance(outcome, ThingMessageResponse)  # noqa: S101  it is what answers a message
        return render(outcome)

    async def _message(
        self, call: ApiCall, thing_id: str, path: MessagePath, wanted: Requested
    ) -> ThingMessage:
        has_type = hdrs.CONTENT_TYPE in call.request.headers
        return ThingMessage(
            thing_id=check_entity_id(thing_id, "things:id.invalid"),
            subject=path.subject,
            direction=path.direction,
            correlation_id=call.correlation_id,
            subjects=call.subjects,
            feature_id=path.feature_id,
            payload=await read_body(call.request, self._max_body),
            content_type=call.request.headers[hdrs.CONTENT_TYPE] if has_type else None,
            timeout=wanted.timeout if wanted.response_required else 0.0,
            headers={**call.headers, "response-required": wanted.response_required},
            trace=call.trace,
        )


def render(response: ThingMessageResponse) -> web.Response:
    """A device's answer as HTTP hands it on."""
    headers = {hdrs.CONTENT_TYPE: response.content_type} if response.content_type else {}
    body = response.payload if response.status not in (204, 304) else b""
    return web.Response(status=response.status, body=body or None, headers=headers)
