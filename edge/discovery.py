"""What the mappers of this node see: a bounded book of devices that may be nobody's Device yet.

It is in memory alone: mappers see it all again after a start, and the cloud keeps what it was told meanwhile.
Radios see strangers, also such as make up a new address each second. So the book has room for
`MAX_DEVICES` of each protocol; when it is full, whoever has been seen for less than `STEADY_MS` and was not
seen for the longest time makes room. Where none is such a passer-by, the newcomer is refused.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import msgspec

from edge.clock import now_ms
from edge.mappers.driver import Clock
from edge.mappers.family import Discovered
from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.observe.metrics import Metrics
from gateway.wire.cloudedge.discoveries import SeenDevice, clean, key_of

log = logging.getLogger(__name__)

MAX_DEVICES = 1_000
"""Devices of one protocol."""
MAX_PROTOCOLS = 32
STEADY_MS = 60_000
"""A device that was seen over at least this long is no passer-by."""
FORGET_SECONDS = 86_400.0
"""A device that was not seen for so long is forgotten."""


class DiscoveryBook:
    """The devices that are seen now."""

    def __init__(
        self,
        metrics: Metrics,
        clock: Clock = now_ms,
        *,
        forget_seconds: float = FORGET_SECONDS,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._forget_ms = int(forget_seconds * 1_000)
        self._sights: dict[str, dict[str, SeenDevice]] = {}
        self.refused: Counter[str] = Counter()
        """How often a device was not kept, by cause: full, malformed."""
        self.changed: Callable[[], None] = lambda: None
        """Called after each change; who tells the cloud sets it."""

    def take(self, found: Discovered) -> None:
        """Note that a device is seen. Never raises: what is of no use is counted."""
        try:
            device = clean(msgspec.convert(found, SeenDevice, from_attributes=True))
        except (BadRequest, msgspec.ValidationError) as error:
            self._refuse("malformed", str(error))
            return
        now, key = self._clock(), device.key
        sights = self._of_protocol(device.protocol)
        if sights is None:
            return
        known = sights.get(key)
        if known is None and not self._has_room(sights, now):
            self._refuse("full", f"{MAX_DEVICES} devices of {device.protocol} are seen already")
            return
        first = now if known is None else min(known.first, now)
        sights.pop(key, None)  # the order is that of the last sight
        sights[key] = msgspec.structs.replace(device, first=first, last=now)
        self._count(device.protocol)
        self.changed()

    def lost(self, protocol: str, address: str) -> None:
        """Forget a device: its mapper says that it is gone for good."""
        if self._sights.get(protocol, {}).pop(key_of(protocol, address), None) is not None:
            self._count(protocol)
            self.changed()

    def document(self) -> JsonObject:
        """Return all of it as `twinspan edge discovered` reads it."""
        devices: Json = msgspec.to_builtins(self.list())
        return {"devices": devices, "refused": {**self.refused}}

    def is_worth_telling(self, device: SeenDevice) -> bool:
        """Say whether somebody should hear of it: a mapper can serve it, or it has stayed a while."""
        return bool(device.properties) or _is_steady(device)

    def best(self, most: int) -> list[SeenDevice]:
        """Return those that are worth telling: first such as can be served, then the steady, the oldest."""
        self._expire()
        every = [each for sights in self._sights.values() for each in sights.values()]
        every.sort(key=lambda sight: (not sight.properties, not _is_steady(sight), sight.first))
        return every[:most]

    def list(self) -> list[SeenDevice]:
        """Return all that are seen, by protocol and address."""
        self._expire()
        every = [each for sights in self._sights.values() for each in sights.values()]
        return sorted(every, key=lambda device: (device.protocol, device.key))

    def _of_protocol(self, protocol: str) -> dict[str, SeenDevice] | None:
        if protocol not in self._sights and len(self._sights) >= MAX_PROTOCOLS:
            self._refuse("full", f"{MAX_PROTOCOLS} protocols are seen already")
            return None
        return self._sights.setdefault(protocol, {})

    def _has_room(self, sights: dict[str, SeenDevice], now: int) -> bool:
        """Say whether one more may be kept; a passer-by goes for it where it must."""
        if len(sights) < MAX_DEVICES:
            return True
        for key, sight in sights.items():  # the longest unseen first
            if not _is_steady(sight) or now - sight.last >= self._forget_ms:
                del sights[key]
                return True
        return False

    def _expire(self) -> None:
        oldest = self._clock() - self._forget_ms
        for protocol, sights in self._sights.items():
            gone = [key for key, sight in sights.items() if sight.last <= oldest]
            for key in gone:
                del sights[key]
            if gone:
                self._count(protocol)

    def _count(self, protocol: str) -> None:
        gauge = self._metrics.mappers.discovered.labels(protocol)
        gauge.set(len(self._sights.get(protocol, ())))

    def _refuse(self, why: str, cause: str) -> None:
        if why not in self.refused:
            log.warning("a device that is seen is not kept", extra={"cause": cause})
        self.refused[why] += 1


def _is_steady(device: SeenDevice) -> bool:
    return device.last - device.first >= STEADY_MS
