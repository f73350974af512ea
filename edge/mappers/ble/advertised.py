"""Properties that are parts of advertisements: from what was heard to readings.

Hearing is cheap: an advertisement with new content waits, undecoded, until the properties are read; of a
device that says more than that in between, the latest are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from edge.mappers.ble import beacons, bthome
from edge.mappers.ble.codecs import Value
from edge.mappers.ble.configuration import Advertised, Part
from edge.mappers.ble.heard import MAX_DATA, Heard
from edge.mappers.ble.uuids import sig
from edge.mappers.ble.values import reading
from edge.mappers.driver import Quality, Reading
from edge.mappers.readings import bad
from gateway.errors import BadRequest
from gateway.wire.cloudedge.values import ValueRule

PENDING: Final = 16
CALM_MS: Final = 86_400_000
"""How long a device that speaks only when something happens may be silent."""
_EDDYSTONE: Final = sig(beacons.EDDYSTONE)


@dataclass(slots=True)
class _Held:
    reading: Reading
    number: int
    """Of the advertisement that had it: as long as that is repeated the value is fresh."""


class AdvertReader:
    """The advertised properties of one Device. `stale_after` in seconds, 0 for never."""

    def __init__(
        self,
        sources: Mapping[str, Advertised],
        rules: Mapping[str, ValueRule],
        key: bytes | None,
        stale_after: float,
        count: Callable[[str, int], None],
    ) -> None:
        self._sources = sources
        self._rules = rules
        self._key = key
        self._stale_ms = int(stale_after * 1_000)
        self._count = count
        self._pending: deque[tuple[Heard, int, int]] = deque(maxlen=PENDING)
        self._held: dict[str, _Held] = {}
        self._latest: Heard | None = None
        self._number = 0
        self._counter = -1
        self.last = 0
        """When it was heard last, ms."""
        self.calm_ms = 0
        """For how long the device may have nothing to say, 0 where it speaks all the time."""

    def take(self, heard: Heard, now: int) -> bool:
        """Keep what was heard; returns whether it has something new."""
        same = heard.says_as(self._latest)
        if not same and not self._pending:
            self._settle()
        self._latest, self.last = heard, now
        if same:
            if self._pending:
                self._pending[-1] = (heard, now, self._number)
            return False
        self._count("coalesced" if self._pending else "taken", 1)
        self._number += 1
        self._pending.append((heard, now, self._number))
        return True

    def _settle(self) -> None:
        """Give what the last advertisement said the time when it was heard last: another one follows."""
        for held in self._held.values():
            if held.number == self._number:
                held.reading = replace(held.reading, at=self.last)

    def read(self, names: Sequence[str], now: int) -> dict[str, Reading]:
        """Return readings; what was never heard is left out, what is old is uncertain."""
        while self._pending:
            self._decode(*self._pending.popleft())
        found = {name: self._plain(name) for name in names if name in self._sources}
        return {name: self._aged(each, now) for name, each in found.items() if each is not None}

    def _plain(self, name: str) -> Reading | None:
        source, heard = self._sources[name], self._latest
        if heard is not None and source.part in _PLAIN:
            value = _PLAIN[source.part](heard)
            return None if value is None else reading(self._rules[name], value, self.last)
        held = self._held.get(name)
        if held is None:
            return None
        at = self.last if held.number == self._number else held.reading.at
        return replace(held.reading, at=at)

    def _aged(self, found: Reading, now: int) -> Reading:
        age, limit = now - found.at, max(self._stale_ms, self.calm_ms)
        if self._stale_ms and age > limit and found.quality is Quality.GOOD:
            why = f"not heard for {age // 1_000} s"
            return replace(found, quality=Quality.UNCERTAIN, why=why)
        return found

    def _decode(self, heard: Heard, now: int, number: int) -> None:
        parts: dict[Part, Mapping[str, Value] | str] = {}
        for name, source in self._sources.items():
            if source.part in _PLAIN:
                continue
            try:
                value = self._value(heard, source, parts)
            except BadRequest as error:
                self._count("malformed", 1)
                self._held[name] = _Held(bad(error.message, now), number)
                continue
            if value is not None:
                self._held[name] = _Held(reading(self._rules[name], value, now), number)

    def _value(
        self, heard: Heard, source: Advertised, parts: dict[Part, Mapping[str, Value] | str]
    ) -> Value | None:
        """Return a value, None where this advertisement does not have it. Errors: BadRequest."""
        if source.codec is not None:
            return _sliced(heard, source)
        if source.part is Part.EDDYSTONE and not self._has(heard, str(source.key)):
            return None  # frames come by turns: each is silent of the others' fields
        if source.part not in parts:
            try:
                parts[source.part] = self._fields(heard, source.part)
            except BadRequest as error:
                parts[source.part] = error.message
        fields = parts[source.part]
        if isinstance(fields, str):
            raise BadRequest(fields)
        return fields.get(str(source.key))

    def _has(self, heard: Heard, field: str) -> bool:
        data = heard.service_data.get(_EDDYSTONE, b"")
        return field in beacons.FRAME_FIELDS.get(data[:1], ())

    def _fields(self, heard: Heard, part: Part) -> Mapping[str, Value]:
        if part is Part.IBEACON:
            data = heard.manufacturer.get(beacons.APPLE)
            return {} if data is None or data[:2] != b"\x02\x15" else beacons.ibeacon(data)
        if part is Part.EDDYSTONE:
            data = heard.service_data.get(_EDDYSTONE)
            return {} if data is None else beacons.eddystone(data)
        packet = bthome.packet_in(heard.service_data)
        return {} if packet is None else self._bthome(packet, heard.address)

    def _bthome(self, packet: bthome.Packet, address: str) -> Mapping[str, Value]:
        found = {name: value for name, _kind, value in packet.values(address, self._key)}
        self.calm_ms = CALM_MS if packet.is_calm else 0
        if packet.is_encrypted:
            if packet.counter < self._counter and not self._is_restart(packet.counter):
                raise BadRequest("an older packet came again: somebody may be replaying it")
            self._counter = packet.counter
        return found

    def _is_restart(self, counter: int) -> bool:
        """A device whose battery was changed counts from the beginning."""
        return counter < RESTART


RESTART: Final = 100


def _sliced(heard: Heard, source: Advertised) -> Value | None:
    data = (
        heard.service_data.get(str(source.key))
        if source.part is Part.SERVICE_DATA
        else heard.manufacturer.get(int(source.key))
    )
    if data is None or source.codec is None:
        return None
    end = source.offset + source.length if source.length else MAX_DATA
    if source.length and len(data) < end:
        raise BadRequest(f"expected at least {end} bytes, got {len(data)}")
    return source.codec.decode(data[source.offset : end])


_PLAIN: Final[dict[Part, Callable[[Heard], Value | None]]] = {
    Part.RSSI: lambda heard: heard.rssi,
    Part.TX_POWER: lambda heard: heard.tx_power,
    Part.NAME: lambda heard: heard.name or None,
    Part.ADDRESS: lambda heard: heard.address,
}
