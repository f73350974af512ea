"""Hono's MQTT adapter, as a module: listens, and keeps the connections of devices.

Full (`max_connections`): CONNECT is answered with 0x9C (3.1.1: 3). Stopping: devices are told (MQTT 5); what
they published without an outcome gets no PUBACK, so they send it again.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Callable

from gateway.config.hono import MqttAdapter as Settings
from gateway.errors import AdapterFull, GatewayError
from gateway.hono.adapters.mqtt_device import MqttDevice, Rooms, limits_of
from gateway.hono.limits import attempt_outcome
from gateway.hono.meters import UNKNOWN
from gateway.model.message import Adapter
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Door, Endpoints, doors_of, listening
from gateway.wire.mqtt.reasons import Reason

STRANGERS = 1_000
"""Sockets beyond `max_connections` that may wait for their CONNECT; more are closed at once."""


class MqttAdapter:
    """The adapter; `tls_context` adds the listener `hono.mqtts`."""

    name = "hono.mqtt"

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
        self.limits = limits_of(settings)
        self._endpoints = endpoints
        self._metrics = metrics
        self._tls = tls_context
        self._devices: set[MqttDevice] = set()
        self._accepted = 0

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        settings = self.settings
        plain = Door("hono.mqtt", settings.bind, "hono.mqtt.bind")
        doors = doors_of(plain, "hono.mqtts", settings.tls_bind, self._tls)
        async with listening(self._endpoints, self._device, doors):
            ready()
            try:
                await asyncio.Event().wait()
            finally:
                await self._say_goodbye()

    def _device(self) -> MqttDevice:
        return MqttDevice(self)

    async def _say_goodbye(self) -> None:
        for device in tuple(self._devices):
            device.end(Reason.SERVER_SHUTTING_DOWN)
        if self._devices:
            await asyncio.sleep(0)  # the last bytes go out, then the sockets
        for device in tuple(self._devices):
            device.abort()

    # --- for connections -----------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return self._accepted >= self.settings.max_connections

    def joined(self, device: MqttDevice) -> None:
        """A socket was accepted."""
        self._devices.add(device)
        if len(self._devices) > self.settings.max_connections + STRANGERS:
            device.abort()

    def accepted(self, device: MqttDevice) -> None:
        """CONNECT is about to be answered with success."""
        self._accepted += 1
        self._count_anonymous(device, 1)

    def _count_anonymous(self, device: MqttDevice, change: int) -> None:
        if device.is_anonymous:
            self._metrics.connections_unauthenticated.labels(Adapter.MQTT.value).inc(change)

    def left(self, device: MqttDevice) -> None:
        """A connection has ended."""
        self._devices.discard(device)
        if device.is_accepted:
            self._accepted -= 1
            self._count_anonymous(device, -1)

    def refused(self, tenant: str | None, error: GatewayError, cipher_suite: str) -> None:
        """Count an attempt that ended before admission was asked."""
        is_full = isinstance(error, AdapterFull)
        outcome = "adapter-connections-exceeded" if is_full else attempt_outcome(error)
        self._metrics.connection_attempts.labels(
            tenant or UNKNOWN, outcome, cipher_suite, Adapter.MQTT.value
        ).inc()
