"""Tells the cloud what the mappers see: changes, gathered, and now and then what is still there.

It goes over the link only to a CloudCore of ours, and is kept nowhere: after a break all is told again. A
hostile radio can show ever new devices, so what is told is bounded: the best `MAX_TOLD` of the book, new ones
at `NEW_A_MINUTE` once `MAX_TOLD` were told, changes of one device every `CHANGE_SECONDS`. A device that no
mapper knows how to serve is told once it has stayed a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from edge.clock import stamp
from edge.discovery import DiscoveryBook
from edge.hub import Sender
from gateway.errors import GatewayError
from gateway.wire.cloudedge.discoveries import (
    Glimpse,
    SeenDevice,
    Sightings,
    tell_sightings,
)

log = logging.getLogger(__name__)

GATHER_SECONDS = 5.0
STILL_SECONDS = 300.0
"""How often it is told that a device is still there, and how strong its signal is."""
CHANGE_SECONDS = 30.0
MAX_TOLD = 100
NEW_A_MINUTE = 20
MAX_BYTES = 262_144
"""Bytes of devices in one message."""


@dataclass(slots=True)
class _Told:
    device: SeenDevice
    at: float
    still: float


class DiscoveryNews:
    """Module, and a listener of the link."""

    name = "edge.discovery"

    def __init__(self, book: DiscoveryBook, sender: Sender) -> None:
        self._book = book
        self._sender = sender
        self._told: dict[str, _Told] = {}
        self._is_up = False
        self._wake = asyncio.Event()
        self._purse = float(MAX_TOLD)
        self._filled = 0.0
        book.changed = self._wake.set

    def link_up(self, *, has_spool: bool) -> None:
        self._is_up = has_spool
        self._told.clear()
        self._wake.set()

    def link_down(self) -> None:
        self._is_up = False

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        time = asyncio.get_running_loop().time
        self._filled = time()
        while True:
            try:
                async with asyncio.timeout(CHANGE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(GATHER_SECONDS)
            self._wake.clear()
            if self._is_up:
                self._tell(time())

    def _tell(self, now: float) -> None:
        """Send what is news; what the link does not take is news again a little later."""
        found = {each.key: each for each in self._book.best(MAX_TOLD)}
        try:
            gone = tuple(key for key in self._told if key not in found)
            for page in _pages(list(self._news(found, now))):
                self._send(Sightings(seen=page))
                for device in page:
                    self._told[device.key] = _Told(_facts(device), now, now)
            still = [key for key, told in self._told.items() if now - told.still >= STILL_SECONDS]
            glimpses = {
                key: Glimpse(found[key].last, found[key].signal) for key in still if key in found
            }
            if gone or glimpses:
                self._send(Sightings(still=glimpses, gone=gone))
        except GatewayError as error:
            log.debug("what is seen must wait", extra={"cause": error.message})
            self._wake.set()
            return
        for key in gone:
            del self._told[key]
        for key in glimpses:
            self._told[key].still = now

    def _send(self, sightings: Sightings) -> None:
        self._sender.send(tell_sightings(stamp(), sightings))

    def _news(self, found: dict[str, SeenDevice], now: float) -> Iterator[SeenDevice]:
        self._purse += (now - self._filled) * NEW_A_MINUTE / 60
        self._purse, self._filled = min(self._purse, float(MAX_TOLD)), now
        for key, device in found.items():
            told = self._told.get(key)
            if told is None:
                if self._purse >= 1 and self._book.is_worth_telling(device):
                    self._purse -= 1
                    yield device
            elif told.device != _facts(device) and now - told.at >= CHANGE_SECONDS:
                yield device


def _facts(device: SeenDevice) -> SeenDevice:
    """Return what of a device is news when it changes."""
    return msgspec.structs.replace(device, signal=0, first=0, last=0)


def _pages(devices: list[SeenDevice]) -> Iterator[tuple[SeenDevice, ...]]:
    page: list[SeenDevice] = []
    size = 0
    for device in devices:
        more = len(msgspec.json.encode(device))
        if page and size + more > MAX_BYTES:
            yield tuple(page)
            page, size = [], 0
        page.append(device)
        size += more
    if page:
        yield tuple(page)
