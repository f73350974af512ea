"""One device of EdgeX Foundry: heard on its bus, written through its core-command service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import msgspec

from edge.mappers.driver import Clock, DeviceUnreachable, Quality, Reading
from edge.mappers.edgex.events import DeviceEvent, DeviceReading
from edge.mappers.http.exchange import Exchange
from edge.mappers.readings import OWN_RULE, Latest, bad, reading_of, wanted_value
from gateway.errors import Rejected
from gateway.wire.cloudedge.values import ValueRule

NS_PER_MS = 1_000_000


class Bus(Protocol):
    """Where events come from."""

    @property
    def is_up(self) -> bool: ...
    def add(self, device: str, driver: EdgexDriver) -> None: ...
    def remove(self, device: str, driver: EdgexDriver) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """One property: its resource, and the command that writes it."""

    resource: str
    command: str


class EdgexDriver:
    """The latest reading of each resource that a Device has as a property."""

    def __init__(
        self,
        device: str,
        places: Mapping[str, Place],
        rules: Mapping[str, ValueRule],
        faults: Mapping[str, str],
        bus: Bus,
        command_url: str,
        exchange: Exchange,
        clock: Clock,
        latest: Latest,
    ) -> None:
        self._device = device
        self._places = places
        self._rules = rules
        self._faults = faults
        self._bus = bus
        self._command_url = command_url
        self._exchange = exchange
        self._clock = clock
        self._latest = latest
        self._changed: list[Callable[[], None]] = []
        self._is_listening = False

    async def connect(self) -> None:
        await self._exchange.open()
        if not self._bus.is_up:
            raise DeviceUnreachable("the message bus is not connected")
        self._is_listening = True
        self._bus.add(self._device, self)

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        if not self._bus.is_up:
            raise DeviceUnreachable("the message bus is not connected")
        return self._latest.read(names)

    def take(self, event: DeviceEvent) -> None:
        """The device has said something."""
        for reading in event.readings:
            for name, place in self._places.items():
                if place.resource == reading.resource:
                    self._latest.take(name, self._reading(name, reading))

    def _reading(self, name: str, reading: DeviceReading) -> Reading:
        at = reading.origin // NS_PER_MS or self._clock()
        if reading.value is None:
            return bad("the event has no value", at)
        return reading_of(self._rules.get(name, OWN_RULE), reading.value, at, Quality.GOOD)

    def lost(self) -> None:
        """The bus has gone: whoever reads hears so."""
        for changed in self._changed:
            changed()

    async def write(self, name: str, text: str) -> None:
        place = self._places.get(name)
        if place is None or not self._command_url:
            raise Rejected(self._faults.get(name, "the Device has no commandUrl"))
        wanted_value(self._rules.get(name, OWN_RULE), text)
        device, command = quote(self._device, safe=""), quote(place.command, safe="")
        url = f"{self._command_url.rstrip('/')}/api/v3/device/name/{device}/{command}"
        body = msgspec.json.encode({place.resource: text})
        await self._exchange.command("PUT", url, body, "application/json")

    def faults(self) -> Mapping[str, str]:
        return self._faults

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)
        self._latest.subscribe(changed)

    async def close(self) -> None:
        self._changed.clear()
        self._latest.close()
        if self._is_listening:
            self._is_listening = False
            self._bus.remove(self._device, self)
