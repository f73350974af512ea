"""What of the air is offered to people, and when it is told again: bounded, calm about random addresses."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Final

from edge.mappers.ble import bthome
from edge.mappers.ble.beacons import APPLE, EDDYSTONE
from edge.mappers.ble.heard import AddressKind, Air, Heard, Sighting
from edge.mappers.ble.propose import proposed
from edge.mappers.ble.uuids import sig
from edge.mappers.family import Discovered

STEADY_MS: Final = 10_000
"""A private address that was heard for so long is offered, if it says who it is."""
AGAIN_MS: Final = 60_000
"""A device that says nothing new is told again so often, with its signal."""
_KNOWN: Final = (*map(sig, bthome.SERVICES), sig(EDDYSTONE))


class Offers:
    """The devices that were told; after `lost_after` seconds of silence they are told to be gone."""

    def __init__(
        self,
        most: int,
        names: tuple[str, ...],
        lost_after: float,
        tell: Callable[[Discovered], None],
        lost: Callable[[str], None],
    ) -> None:
        self._most = most
        self._names = names
        self._lost_ms = int(lost_after * 1_000)
        self._tell = tell
        self._lost = lost
        self._told: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._told)

    def look(self, now: int, *airs: Air) -> None:
        """Tell what is new in the air of all adapters, and who has gone: silent, or driven out by others."""
        self._sweep(airs)  # who was driven out makes room for who did
        for air in airs:
            self._look(air, now)
            air.forget_before(now - self._lost_ms)
        self._sweep(airs)

    def _sweep(self, airs: Sequence[Air]) -> None:
        for address in [each for each in self._told if all(air.get(each) is None for air in airs)]:
            del self._told[address]
            self._lost(address)

    def _look(self, air: Air, now: int) -> None:
        for sighting in air.all():
            told = self._told.get(sighting.heard.address)
            is_due = told is None or sighting.is_news or now - told >= AGAIN_MS
            if is_due and self._may_tell(sighting, told):
                sighting.is_news = False
                self._told[sighting.heard.address] = now
                self._tell(proposed(sighting.heard))

    def _may_tell(self, sighting: Sighting, told: int | None) -> bool:
        heard = sighting.heard
        if told is not None:
            return True
        if len(self._told) >= self._most:
            return False
        if self._names and not any(fnmatch.fnmatchcase(heard.name, each) for each in self._names):
            return False
        is_lasting = heard.kind is not AddressKind.PRIVATE
        return is_lasting or (_says_what_it_is(heard) and _is_steady(sighting))


def _says_what_it_is(heard: Heard) -> bool:
    has_format = any(each in heard.service_data for each in _KNOWN)
    is_beacon = heard.manufacturer.get(APPLE, b"")[:2] == b"\x02\x15"
    return bool(heard.name) or has_format or is_beacon


def _is_steady(sighting: Sighting) -> bool:
    return sighting.last - sighting.first >= STEADY_MS
