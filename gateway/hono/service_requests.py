"""Request and response as Hono's internal services speak them over AMQP 1.0.

A client has a sender to `{endpoint}/{tenant}` and a receiver from `{endpoint}/{tenant}/{reply id}`, for the
tenant service without the tenant. A request is accepted before it is worked on, or rejected as malformed;
its answer goes to the receiver that `reply-to` names, and is dropped when that is not there or has no credit.
Full: a client has 100 credits, one comes back with every answer.
Source: Hono, Tenant, Device Registration, Credentials and Command Router API, common rules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast
from uuid import uuid4

import msgspec

from gateway.errors import BadRequest, Forbidden, GatewayError, MalformedPacket
from gateway.hono.amqp_messages import scalars_of, trace_of
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.hono.service_authorities import ServiceUser
from gateway.model.json import Json, JsonObject
from gateway.model.message import NO_PROPERTIES, Scalar
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Span, Tracer
from gateway.outcome import BAD_REQUEST
from gateway.wire.amqp.link import Incoming, ReceiverLink, SenderLink, Sent
from gateway.wire.amqp.message import (
    AmqpMessage,
    Data,
    Properties,
    decode_message,
    encode_message,
    payload_of,
)
from gateway.wire.amqp.performatives import ACCEPTED, Error, Rejected
from gateway.wire.amqp.values import Int

log = logging.getLogger(__name__)

REQUEST_CREDIT: Final = 100
MAX_REQUEST: Final = 65_536
"""Bytes in one request."""
MAX_UNSETTLED: Final = 1_000
"""Answers that a client has not settled; above it answers are dropped."""
MALFORMED: Final = "malformed request message"
JSON: Final = "application/json"
OTHER: Final = "other"
WORDLESS: Final = frozenset(("cmd_router", "device_con"))
"""Services whose answers Hono's client reads as JSON, also those that tell an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request whose form is good.

    Shape:  `tenant` is the link's, empty where the service has none in its address.
    """

    endpoint: str
    tenant: str
    operation: str
    user: ServiceUser
    payload: bytes = b""
    parameters: Mapping[str, Scalar] = field(default_factory=lambda: NO_PROPERTIES)
    trace: TraceContext | None = None

    def text(self, name: str) -> str:
        """Return a parameter that must be there; BadRequest otherwise."""
        value = self.parameters.get(name)
        if not isinstance(value, str) or not value:
            raise BadRequest(f"{name}: expected a string")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a parameter, None where it is missing; BadRequest for one that is no string."""
        return self.text(name) if name in self.parameters else None

    def flag(self, name: str) -> bool:
        """Return a parameter that says yes or no, no where it is missing."""
        value = self.parameters.get(name, False)
        if not isinstance(value, bool):
            raise BadRequest(f"{name}: expected a boolean")
        return value

    def json(self) -> Json:
        """Return the body; BadRequest for what is no JSON."""
        try:
            return cast(Json, _decode(self.payload))
        except (ValueError, RecursionError) as error:  # also of bytes that are no UTF-8
            raise BadRequest("body: expected JSON") from error

    def document(self) -> JsonObject:
        """Return the body; BadRequest for what is no JSON object."""
        found = self.json()
        if not isinstance(found, dict):
            raise BadRequest("body: expected a JSON object")
        return found


_decode = msgspec.json.Decoder(Any).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A good answer.

    Shape:  `max_age` None says nothing about caching, 0 forbids it.
    Units:  `max_age` in seconds.
    """

    status: int = 200
    body: Json = None
    tenant: str | None = None
    device: str | None = None
    max_age: int | None = None


Answer: TypeAlias = Callable[[Response | GatewayError], None]
Handler: TypeAlias = Callable[[Request, Answer], None]
Operations: TypeAlias = Mapping[str, Handler]
"""What a service does, by the request's subject. A handler may raise GatewayError instead of answering."""


class ReplyLinks:
    """The receivers that answers go to, by address."""

    def __init__(self) -> None:
        self._links: dict[str, ReplyLink] = {}

    def owner(self, address: str) -> ReplyLink | None:
        return self._links.get(address)

    def add(self, address: str, link: ReplyLink) -> None:
        """Let `link` get the answers for `address`, until it leaves."""
        self._links[address] = link

        def leave() -> None:
            if self._links.get(address) is link:
                del self._links[address]

        link.leave = leave


class ReplyLink:
    """A client's receiver of answers."""

    def __init__(self, protocol: AmqpProtocol, link: SenderLink) -> None:
        self.protocol = protocol
        self.leave: Callable[[], None] = lambda: None
        self._link = link

    def send(self, payload: bytes) -> bool:
        """Send an answer; False when the client takes none now."""
        link = self._link
        if link.sendable <= 0 or link.unsettled >= MAX_UNSETTLED or not self.protocol.is_writable:
            return False
        link.send(payload)
        self.protocol.flush_soon()
        return True

    def lost(self, _unsettled: tuple[Sent, ...]) -> None:
        self.leave()


@dataclass(frozen=True, slots=True)
class Desk:
    """What all request links share."""

    replies: ReplyLinks
    metrics: Metrics
    tracer: Tracer


class RequestLink:
    """A client's sender of requests to one service."""

    def __init__(
        self,
        protocol: AmqpProtocol,
        link: ReceiverLink,
        desk: Desk,
        address: str,
        operations: Operations,
        user: ServiceUser,
    ) -> None:
        self._protocol = protocol
        self._link = link
        self._desk = desk
        self._address = address
        self._endpoint, _, self._tenant = address.partition("/")
        self._operations = operations
        self._user = user

    def lost(self, _unsettled: tuple[Sent, ...]) -> None:
        """What is being worked on goes on; its answers find no receiver."""

    def arrived(self, delivery: Incoming) -> None:
        """Accept or reject a request, then work on it."""
        try:
            message = decode_message(delivery.payload)
            reply_to = self._reply_to(message)
            correlation = _correlation_of(message)
            request = self._request(message)
        except (BadRequest, MalformedPacket):
            self._link.settle(delivery, Rejected(Error(BAD_REQUEST, MALFORMED)))
            self._protocol.flush_soon()
            return
        self._link.tell(delivery, ACCEPTED)
        self._protocol.flush_soon()
        span = self._desk.tracer.start(
            f"{request.endpoint} {self._known(request.operation)}",
            request.trace,
            "server",
            {"tenant_id": request.tenant, "peer": self._user.name},
        )
        call = _Call(self, reply_to, correlation, request, span)
        try:
            self._work(request, call.answer)
        except GatewayError as error:
            call.answer(error)
        except Exception:  # top of a request: the peer's other requests go on
            log.exception("a request failed", extra={"operation": self._known(request.operation)})
            call.answer(GatewayError())

    def _reply_to(self, message: AmqpMessage) -> str:
        """Return the reply address of a request for this link's service; BadRequest for another."""
        address = message.properties.reply_to or ""
        reply_id = address.removeprefix(f"{self._address}/")
        if reply_id == address or not reply_id:
            raise BadRequest(MALFORMED)
        return address

    def _request(self, message: AmqpMessage) -> Request:
        payload, operation = payload_of(message), message.properties.subject
        if not operation or payload is None:
            raise BadRequest(MALFORMED)
        return Request(
            endpoint=self._endpoint,
            tenant=self._tenant,
            operation=operation,
            user=self._user,
            payload=payload,
            parameters=scalars_of(message),
            trace=trace_of(message),
        )

    def _work(self, request: Request, answer: Answer) -> None:
        if not self._user.authorities.may_execute(request.operation, self._address):
            answer(Forbidden("not allowed to do this"))
            return
        handler = self._operations.get(request.operation)
        if handler is None:
            raise BadRequest(f"unknown operation {request.operation[:64]!r}")
        handler(request, answer)

    def _known(self, operation: str) -> str:
        return operation if operation in self._operations else OTHER

    def done(self, call: _Call, response: Response | GatewayError) -> None:
        """Send an answer and give its credit back."""
        failure = response if isinstance(response, GatewayError) else None
        call.span.end(failure)
        request, desk = call.request, self._desk
        labels = (request.endpoint, self._known(request.operation), str(response.status))
        desk.metrics.elsewhere.service_requests.labels(*labels).inc()
        receiver = desk.replies.owner(call.reply_to)
        if receiver is None or receiver.protocol is not self._protocol:
            log.debug("nobody is there for an answer", extra={"operation": request.operation})
        elif not receiver.send(encode_answer(call.correlation, request, response)):
            log.warning("a client takes no answers", extra={"user": self._user.name})
        self._link.finish()
        self._protocol.flush_soon()


class _Call:
    """One request on its way to its answer."""

    __slots__ = ("_is_answered", "_link", "correlation", "reply_to", "request", "span")

    def __init__(
        self, link: RequestLink, reply_to: str, correlation: object, request: Request, span: Span
    ) -> None:
        self._link = link
        self._is_answered = False
        self.reply_to = reply_to
        self.correlation = correlation
        self.request = request
        self.span = span

    def answer(self, response: Response | GatewayError) -> None:
        if not self._is_answered:
            self._is_answered = True
            self._link.done(self, response)


def _correlation_of(message: AmqpMessage) -> str:
    """Return what the answer is known by; BadRequest where the request has no id that is a text."""
    properties = message.properties
    found = properties.correlation_id
    if found is None:
        found = properties.message_id
    if not isinstance(found, str) or not found:
        raise BadRequest(MALFORMED)
    return found


def encode_answer(
    correlation: object, request: Request, response: Response | GatewayError
) -> bytes:
    """Write the answer to a request."""
    if isinstance(response, GatewayError):
        text = None if request.endpoint in WORDLESS else response.message
        return encode_message(_error_message(correlation, response.status, text))
    tenant = response.tenant or request.tenant
    given: dict[object, object] = {"status": Int(response.status)}
    if tenant:
        given["tenant_id"] = tenant
    if response.device is not None:
        given["device_id"] = response.device
    if response.max_age is not None:
        age = response.max_age
        given["cache_control"] = f"max-age = {age}" if age > 0 else "no-cache"
    to = (request.endpoint, tenant, response.device)
    has_body = response.body is not None
    return encode_message(
        AmqpMessage(
            properties=Properties(
                message_id=str(uuid4()),
                to="/".join(part for part in to if part),
                correlation_id=correlation,  # type: ignore[arg-type]
                content_type=JSON if has_body else None,
            ),
            application_properties=given,
            body=Data(msgspec.json.encode(response.body)) if has_body else None,
        )
    )


def _error_message(correlation: object, status: int, text: str | None) -> AmqpMessage:
    return AmqpMessage(
        properties=Properties(
            message_id=str(uuid4()),
            correlation_id=correlation,  # type: ignore[arg-type]
            content_type=None if text is None else "text/plain",
        ),
        application_properties={"status": Int(status)},
        body=None if text is None else Data(text.encode()),
    )
