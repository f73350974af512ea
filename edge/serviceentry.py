"""ServiceBus's listener: services of this machine send to REST targets of the cloud, through its rules.

A request is a JSON object `{"method": "POST", "targetURL": ..., "payload": ...}`, its answer
`{"code", "msg", "body"}` with the target's status and body. What is a failure has the same status in HTTP;
KubeEdge says 200 there, whatever the `code`. Nothing is kept: without a link it is 503 at once.
Source: KubeEdge reference, section 18.6.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw, Struct

from edge.clock import stamp
from edge.hub import LinkLost, NoAnswer, Sender
from edge.servicetargets import ServiceTargets
from gateway.errors import BadRequest, Forbidden, GatewayError, MalformedPacket, Undeliverable
from gateway.model.trace import TraceContext
from gateway.runtime.listener import Endpoints
from gateway.runtime.small_service import Request, Response, serve_requests
from gateway.wire.cloudedge.routing import ServiceReply, read_service_reply, upload_from_service

if TYPE_CHECKING:
    from gateway.config.edge_services import ServiceBus as Settings
    from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

ENDPOINT = "edge.servicebus"
SETTING = "edge.servicebus.bind"
MAX_REQUESTS = 20
"""Requests that wait for the cloud; more are answered 503."""
_SUCCESS = "the target answered"


class _Asked(Struct, frozen=True, rename={"target": "targetURL"}):
    target: str
    payload: Raw = Raw(b"null")
    method: str = "POST"


class _Answer(Struct, frozen=True):
    code: int
    msg: str
    body: str


_ASKED = msgspec.json.Decoder(_Asked)


class ServiceEntry:
    """Module: the listener."""

    name = "edge.serviceentry"

    def __init__(
        self,
        settings: Settings,
        targets: ServiceTargets,
        sender: Sender,
        endpoints: Endpoints,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._targets = targets
        self._sender = sender
        self._endpoints = endpoints
        self._metrics = metrics
        self._waiting = 0

    async def run(self, ready: Callable[[], None]) -> None:
        await self._targets.load()
        if not self._settings.enabled:
            ready()
            await asyncio.get_running_loop().create_future()
        async with serve_requests(
            self._endpoints,
            ENDPOINT,
            self._settings.bind,
            self.respond,
            max_body=self._settings.max_body,
            setting=SETTING,
        ):
            ready()
            await asyncio.get_running_loop().create_future()

    async def respond(self, request: Request) -> Response:
        """Answer a service's request, whatever becomes of it, in KubeEdge's form."""
        try:
            reply = await self._ask(read_asked(request), trace_of(request))
        except GatewayError as error:
            self._metrics.edge.servicebus_calls.labels("up", "failed").inc()
            return _response(_status_of(error), error.message, "")
        self._metrics.edge.servicebus_calls.labels("up", "answered").inc()
        text = reply.body.decode("utf-8", "replace")
        is_good = reply.status < 400
        return _response(reply.status, _SUCCESS if is_good else text[:1_000], text)

    async def _ask(self, asked: _Asked, trace: TraceContext | None) -> ServiceReply:
        """Errors: Forbidden, TooLarge; Undeliverable when the link is down, full or ends; NoAnswer."""
        if not self._targets.allows(asked.target):
            raise Forbidden(f"no rule of the cloud takes what is sent to {asked.target[:200]!r}")
        if self._waiting >= MAX_REQUESTS:
            raise Undeliverable(f"{MAX_REQUESTS} requests of services wait for the cloud")
        payload = msgspec.json.format(bytes(asked.payload), indent=-1)
        message = upload_from_service(stamp(), asked.target, payload, trace=trace)
        self._waiting += 1
        try:
            answer = await self._sender.ask(message, self._settings.timeout)
            return read_service_reply(answer.content)
        finally:
            self._waiting -= 1


def read_asked(request: Request) -> _Asked:
    """Read what a service asks for. Errors: BadRequest."""
    try:
        asked = _ASKED.decode(request.body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(
            f'expected {{"method": "POST", "targetURL": ..., "payload": ...}}: {error}'
        ) from None
    if asked.method.upper() not in ("", "POST"):
        raise BadRequest(f"method: rules send POST, got {asked.method[:20]!r}")
    return asked


def trace_of(request: Request) -> TraceContext | None:
    """Read W3C trace context from the headers."""
    headers = request.headers
    return TraceContext.parse(headers.get("traceparent"), headers.get("tracestate"))


def _status_of(error: GatewayError) -> int:
    if isinstance(error, NoAnswer):
        return 504
    return 502 if isinstance(error, LinkLost | MalformedPacket) else error.status


def _response(code: int, text: str, body: str) -> Response:
    content = msgspec.json.encode(_Answer(code, text, body))
    status = code if code >= 400 else 200
    return Response(status, {"Content-Type": "application/json"}, content)
