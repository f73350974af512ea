"""Hono's AMQP 1.0 adapter, as a module: listens, and keeps the connections of devices.

Full (`max_connections`): open is answered, then the connection is closed with `amqp:unauthorized-access`.
Stopping: devices are told; what they sent without an outcome they send again.
SASL EXTERNAL is offered to who has shown a certificate.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Callable
from dataclasses import replace

from gateway.config.hono import AmqpAdapter as Settings
from gateway.hono.adapters.amqp_device import AmqpDevice, Rooms
from gateway.hono.adapters.amqp_links import UploadReader
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.model.message import Adapter
from gateway.observe.metrics import Metrics
from gateway.runtime.device_tls import tls_peer
from gateway.runtime.listener import Door, Endpoints, doors_of, listening
from gateway.wire.amqp.limits import Limits
from gateway.wire.amqp.performatives import Error

STRANGERS = 1_000
"""Sockets beyond `max_connections` that may wait for their open; more are dropped at once."""
SESSION_FRAMES = 30
"""Transfer frames of one session that may be on their way."""


class _DeviceSocket(AmqpProtocol):
    """One accepted socket of a device."""

    def limits_for(self, transport: asyncio.Transport) -> Limits:
        limits = super().limits_for(transport)
        if tls_peer(transport.get_extra_info("ssl_object")).certificate is None:
            return limits
        return replace(limits, mechanisms=("EXTERNAL", *limits.mechanisms))


class AmqpAdapter:
    """The adapter; `tls_context` adds the listener `hono.amqps`."""

    name = "hono.amqp"

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        metrics: Metrics,
        rooms: Rooms,
        *,
        tls_context: tls.SSLContext | None = None,
    ) -> None:
        self.settings = settings
        self.rooms = rooms
        self.metrics = metrics
        self.uploads = UploadReader()
        self._endpoints = endpoints
        self._tls = tls_context
        self._sockets: set[AmqpProtocol] = set()
        self._accepted = 0
        self._limits = Limits(
            container_id=Adapter.AMQP.value,
            mechanisms=("PLAIN",) if settings.authentication_required else ("PLAIN", "ANONYMOUS"),
            max_frame_size=settings.max_frame,
            incoming_window=SESSION_FRAMES,
            idle_timeout=settings.idle_timeout,
        )

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        settings = self.settings
        plain = Door("hono.amqp", settings.bind, "hono.amqp.bind")
        doors = doors_of(plain, "hono.amqps", settings.tls_bind, self._tls)
        async with listening(self._endpoints, self._socket, doors):
            ready()
            try:
                await asyncio.Event().wait()
            finally:
                await self._say_goodbye()

    def _socket(self) -> AmqpProtocol:
        return _DeviceSocket(self._limits, self._joined, self._sockets.discard)

    def _joined(self, protocol: AmqpProtocol) -> AmqpDevice:
        self._sockets.add(protocol)
        if len(self._sockets) > self.settings.max_connections + STRANGERS:
            protocol.abort()
        return AmqpDevice(self, protocol)

    async def _say_goodbye(self) -> None:
        for protocol in tuple(self._sockets):
            protocol.close(Error("amqp:connection:forced", "the gateway stops"))
        if self._sockets:
            await asyncio.sleep(0)  # the last bytes go out, then the sockets
        for protocol in tuple(self._sockets):
            protocol.abort()

    # --- for connections -----------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return self._accepted >= self.settings.max_connections

    def accepted(self, *, is_anonymous: bool) -> None:
        """An open is about to be answered with success."""
        self._accepted += 1
        self._count_anonymous(is_anonymous, 1)

    def left(self, *, is_anonymous: bool) -> None:
        """A connection that was accepted has ended."""
        self._accepted -= 1
        self._count_anonymous(is_anonymous, -1)

    def _count_anonymous(self, is_anonymous: bool, change: int) -> None:
        if is_anonymous:
            self.metrics.connections_unauthenticated.labels(Adapter.AMQP.value).inc(change)
