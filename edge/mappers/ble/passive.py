"""The driver of a device that is only listened to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from edge.mappers.ble.adapter import AdapterRoom
from edge.mappers.ble.advertised import AdvertReader
from edge.mappers.ble.configuration import DeviceConfig
from edge.mappers.ble.heard import AddressKind, Heard
from edge.mappers.driver import Clock, DeviceUnreachable, Reading
from edge.mappers.readings import bad
from gateway.errors import Rejected

CHANGE_MS: Final = 10_000
"""A private address that is silent for so long may have changed."""


class PassiveDriver:
    """One device. A device whose private address has changed is found by its filter again."""

    def __init__(
        self,
        room: AdapterRoom,
        config: DeviceConfig,
        adverts: AdvertReader,
        clock: Clock,
        lost_after: float,
    ) -> None:
        self._room = room
        self._config = config
        self._adverts = adverts
        self._clock = clock
        self._lost_ms = int(lost_after * 1_000)
        self._changed: list[Callable[[], None]] = []
        self._is_told = False
        self._listening = 0
        self._address = ""
        self._kind = AddressKind.PRIVATE

    async def connect(self) -> None:
        sighting = await self._room.wait_for(
            self._config.match, self._config.connect_timeout, to_connect=False
        )
        if self._clock() - sighting.last > self._lost_ms:
            raise DeviceUnreachable(self._silent(self._clock() - sighting.last))
        self._room.listen(self._tell)
        self._follow(sighting.heard)
        match = self._config.match
        self._listening = self._room.air.listen(match.address, self._heard)
        self._heard(sighting.heard, sighting.last)

    def _follow(self, heard: Heard) -> None:
        self._address, self._kind = heard.address, heard.kind

    def _heard(self, heard: Heard, now: int) -> None:
        if heard.address != self._address:
            if not self._config.match.fits(heard) or not self._is_silent(now):
                return
            self._follow(heard)
        if self._adverts.take(heard, now):
            self._tell()

    def _is_silent(self, now: int) -> bool:
        """Say whether another device that fits may be this one: only a private address changes soon."""
        limit = CHANGE_MS if self._kind is AddressKind.PRIVATE else self._patience
        return now - self._adverts.last > limit

    @property
    def _patience(self) -> int:
        """How long it may be silent, ms: one that speaks only when something happens, much longer."""
        return max(self._lost_ms, self._adverts.calm_ms)

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = bool(self._changed)
            for changed in self._changed:
                changed()

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        self._is_told = False
        self._room.check_up()
        now = self._clock()
        silent = now - self._adverts.last
        if silent > self._patience:
            raise DeviceUnreachable(self._silent(silent))
        found = self._adverts.read(names, now)
        faults = self._config.faults
        return found | {name: bad(why, 0) for name, why in faults.items() if name in names}

    def _silent(self, silent_ms: int) -> str:
        return f"{self._config.match} was not heard for {silent_ms // 1_000} s"

    async def write(self, name: str, text: str) -> None:  # noqa: ARG002  of the port
        raise Rejected(f"{name}: a device that only advertises cannot be written")

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)

    def faults(self) -> Mapping[str, str]:
        """Return the properties that have no source."""
        return self._config.faults

    async def close(self) -> None:
        self._changed.clear()
        self._room.unlisten(self._tell)
        self._room.air.unlisten(self._listening)
