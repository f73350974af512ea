"""What is in the air: the devices that an adapter hears, bounded, with their latest advertisements.

Random addresses change every quarter of an hour and can be made up by the thousand: when the table is full,
the private address that was silent longest goes first, then the longest silent of all but the Devices' own.
"""

from __future__ import annotations

import enum
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_NAME: Final = 64
MAX_PARTS: Final = 32
"""Services, manufacturers or service data of one advertisement that are looked at."""
MAX_DATA: Final = 255


class AddressKind(enum.StrEnum):
    """How long an address lives: only the first two tell a device for good."""

    PUBLIC = "public"
    STATIC = "static"
    PRIVATE = "private"


def kind_of(address: str, type_word: str) -> AddressKind:
    """Tell an address' kind from BlueZ's word and the two highest bits."""
    if type_word == "public":
        return AddressKind.PUBLIC
    return AddressKind.STATIC if int(address[:2], 16) >> 6 == 3 else AddressKind.PRIVATE


def clean_name(name: str | None) -> str:
    """Return a name that may be shown: no control characters, at most 64 others."""
    if not name:
        return ""
    shown = (each for each in name[: MAX_NAME * 4] if unicodedata.category(each)[0] != "C")
    return "".join(shown).strip()[:MAX_NAME]


@dataclass(frozen=True, slots=True)
class Heard:
    """One advertisement, as far as it is looked at.

    Shape:  `token` is the radio's own object of the device; services and keys of `service_data` are UUIDs in
            full; `rssi` in dBm.
    """

    address: str
    kind: AddressKind
    token: object
    name: str = ""
    rssi: int = -127
    tx_power: int | None = None
    services: frozenset[str] = frozenset()
    manufacturer: Mapping[int, bytes] = field(default_factory=dict)
    service_data: Mapping[str, bytes] = field(default_factory=dict)

    def says_as(self, other: Heard | None) -> bool:
        """Say whether another advertisement had the same content, whatever its strength."""
        return (
            other is not None
            and self.service_data == other.service_data
            and self.manufacturer == other.manufacturer
            and self.services == other.services
            and self.name == other.name
        )


@dataclass(slots=True)
class Sighting:
    """A device in the air; times in ms since the epoch."""

    heard: Heard
    first: int
    last: int
    count: int = 1
    is_news: bool = True
    """Something is new that discovery has not told."""


Listener = Callable[[Heard, int], None]


class Air:
    """All sightings of one adapter."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[str, Sighting] = {}
        self._listeners: dict[int, Listener] = {}
        self._by_address: dict[str, set[int]] = {}
        self._next = 0
        self.dropped = 0
        """Sightings that had to go because others came."""

    def __len__(self) -> int:
        return len(self._seen)

    def take(self, heard: Heard, now: int) -> None:
        """An advertisement was heard."""
        known = self._seen.get(heard.address)
        if known is None:
            if len(self._seen) >= self._most:
                self._make_room()
            self._seen[heard.address] = Sighting(heard, now, now)
        else:
            known.is_news = known.is_news or not heard.says_as(known.heard)
            known.heard, known.last = heard, now
            known.count += 1
        for number in [*self._by_address.get(heard.address, ()), *self._by_address.get("", ())]:
            listener = self._listeners.get(number)
            if listener is not None:
                listener(heard, now)

    def _make_room(self) -> None:
        free = [each for each in self._seen.values() if each.heard.address not in self._by_address]
        private = [each for each in free if each.heard.kind is AddressKind.PRIVATE]
        oldest = min(private or free or self._seen.values(), key=lambda each: each.last)
        del self._seen[oldest.heard.address]
        self.dropped += 1

    def get(self, address: str) -> Sighting | None:
        return self._seen.get(address)

    def all(self) -> list[Sighting]:
        return list(self._seen.values())

    def touch(self, address: str, now: int) -> None:
        """A device that was connected until now is there, though it did not advertise meanwhile."""
        known = self._seen.get(address)
        if known is not None:
            known.last = max(known.last, now)

    def forget_before(self, time: int) -> list[str]:
        """Drop what was last heard before a time and nobody listens to; returns the addresses."""
        gone = [
            address
            for address, each in self._seen.items()
            if each.last < time and address not in self._by_address
        ]
        for address in gone:
            del self._seen[address]
        return gone

    def listen(self, address: str, listener: Listener) -> int:
        """Call `listener` for each advertisement of an address ("" for all); returns its number."""
        self._next += 1
        self._listeners[self._next] = listener
        self._by_address.setdefault(address, set()).add(self._next)
        return self._next

    def unlisten(self, number: int) -> None:
        self._listeners.pop(number, None)
        for address, numbers in list(self._by_address.items()):
            numbers.discard(number)
            if not numbers:
                del self._by_address[address]
