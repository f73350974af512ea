"""ServiceBus: the cloud's router calls HTTP services of this machine, on 127.0.0.1 and nowhere else.

Each call is made once and answered once, with the service's own status; without a service it is 502.
Source: KubeEdge reference, section 18.5.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge.clock import stamp
from edge.hub import Sender
from gateway.errors import GatewayError
from gateway.runtime.small_client import HttpAnswer, fetch
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.routing import (
    MAX_SERVICE_BODY,
    HttpHeaders,
    ServiceBusCall,
    answer_service,
)

if TYPE_CHECKING:
    from gateway.config.edge_services import ServiceBus as Settings
    from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

MAX_CALLS = 20
"""Calls at a time; more are answered 503."""
_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade", "content-length", "host"}
)


class ServiceBus:
    """Module and hub handler."""

    name = "edge.servicebus"

    def __init__(self, settings: Settings, sender: Sender, metrics: Metrics) -> None:
        self._settings = settings
        self._sender = sender
        self._metrics = metrics
        self._group: asyncio.TaskGroup | None = None
        self._running = 0

    async def run(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            ready()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None

    def on_call(self, _envelope: Envelope, call: ServiceBusCall) -> None:
        """Make a call of the router, or say why not."""
        if not self._settings.enabled:
            self._refuse(call, 501, "edge.servicebus.enabled is false at this node")
        elif len(call.body) > self._settings.max_body:
            self._refuse(call, 413, f"at most {self._settings.max_body} bytes of a body")
        elif self._group is None or self._running >= MAX_CALLS:
            self._refuse(call, 503, f"{MAX_CALLS} calls of services are under way at this node")
        else:
            self._running += 1
            self._group.create_task(self._call(call))

    async def _call(self, call: ServiceBusCall) -> None:
        try:
            answer = await fetch(
                call.method,
                f"http://127.0.0.1:{call.port}{call.path}",
                headers=_passed_on(call.headers),
                body=call.body,
                seconds=self._settings.timeout,
                max_body=min(self._settings.max_body, MAX_SERVICE_BODY),
            )
        except GatewayError as error:
            is_late = isinstance(error.__cause__, TimeoutError)
            status = 400 if error.status == 400 else 504 if is_late else 502
            self._refuse(call, status, error.message)
        else:
            self._count("answered")
            self._send(call, answer)
        finally:
            self._running -= 1

    def _refuse(self, call: ServiceBusCall, status: int, text: str) -> None:
        self._count("failed")
        headers = {"content-type": ("text/plain; charset=utf-8",)}
        self._send(call, HttpAnswer(status, headers, text.encode()))

    def _send(self, call: ServiceBusCall, answer: HttpAnswer) -> None:
        headers = {name.title(): each for name, each in _passed_on(answer.headers).items()}
        try:
            self._sender.send(answer_service(call, stamp(), answer.status, headers, answer.body))
        except GatewayError as error:
            log.info("answer of a service is lost", extra={"cause": error.message})

    def _count(self, outcome: str) -> None:
        self._metrics.edge.servicebus_calls.labels("down", outcome).inc()


def _passed_on(headers: HttpHeaders) -> HttpHeaders:
    """Return headers without those of one connection."""
    return {name: tuple(values) for name, values in headers.items() if name.lower() not in _HOP}
