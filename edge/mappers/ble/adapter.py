"""One Bluetooth adapter: followed, scanning, its connections counted and made one after another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from edge.mappers.ble import bluez, radio
from edge.mappers.ble.bluez import State
from edge.mappers.ble.configuration import Match
from edge.mappers.ble.heard import Air, Heard, Sighting
from edge.mappers.ble.radio import RadioLink
from edge.mappers.ble.settings import Options
from edge.mappers.driver import Clock, DeviceUnreachable
from gateway.errors import Rejected
from gateway.runtime.backoff import Backoff

log = logging.getLogger(__name__)

FIRST_WORD_SECONDS: Final = 3.0
DEAF_SECONDS: Final = 120.0
"""A scan that heard nobody for so long is begun anew: controllers and bluetoothd stop without a word."""
RECENT_MS: Final = 15_000
"""Devices that fit the same filter and were heard in so long are there at the same time."""


class Leased:
    """A connection and its place among the adapter's; `lost` once it has ended."""

    def __init__(self, address: str, ended: Callable[[], None]) -> None:
        self.address = address
        self.link: RadioLink | None = None
        self.is_lost = False
        self.lost_because = ""
        self._ended = ended

    def lose(self, why: str = "the link was lost") -> None:
        if not self.is_lost:
            self.is_lost, self.lost_because = True, why
            self._ended()


class AdapterRoom:
    """Everything that goes over one adapter."""

    def __init__(self, name: str, options: Options, clock: Clock) -> None:
        self.name = name
        self.air = Air(options.own.max_seen)
        self.now = bluez.Adapter(State.NO_BUS)
        self.is_scanning = False
        self.wants_scan = options.mode != "off"
        self.trouble = ""
        """Why scanning does not work although the adapter is up."""
        self._options = options
        self._clock = clock
        self._turn = asyncio.Event()
        self._first_word = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._places = asyncio.Semaphore(options.own.max_connections)
        self._leases: set[Leased] = set()
        self._leaving: asyncio.Queue[Leased] = asyncio.Queue()
        self._owner = ""
        self._up_at = 0
        self._downs = 0
        self._is_stale = False
        self._is_connecting = False
        self._heard_at = 0.0
        self._listeners: list[Callable[[], None]] = []

    # --- its life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._scan())
            group.create_task(self._let_go())

    async def _watch(self) -> None:
        backoff = Backoff(0.2, 10.0)
        while True:
            try:
                await bluez.watch(self.name, self._changed)
            except DeviceUnreachable as error:
                if self.now.state is not State.NO_BUS:
                    backoff.reset()
                self._changed(bluez.Adapter(State.NO_BUS))
                log.info("no word of Bluetooth adapters", extra={"cause": error.message})
            await asyncio.sleep(backoff.next())

    def _changed(self, now: bluez.Adapter) -> None:
        before, self.now = self.now, now
        self._first_word.set()
        if now.owner != self._owner:
            self._is_stale = self._is_stale or bool(self._owner)
            self._owner = now.owner
        if now == before:
            return
        if before.state not in (State.UP, State.OFF) or now.downs > before.downs:
            self._up_at = self._clock()
        facts = {"adapter": self.name, "state": now.state}
        log.info("a Bluetooth adapter has changed", extra=facts)
        if now.state is not State.UP or now.downs > before.downs:
            self._downs += 1
            for lease in list(self._leases):
                lease.lose(self.why_not() or "the Bluetooth adapter was off for a moment")
        self._say_turn()

    def _say_turn(self) -> None:
        self._turn.set()
        for listener in self._listeners:
            listener()

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` when the adapter's state changes."""
        self._listeners.append(changed)

    def unlisten(self, changed: Callable[[], None]) -> None:
        if changed in self._listeners:
            self._listeners.remove(changed)

    @property
    def is_up(self) -> bool:
        return self.now.state is State.UP

    def why_not(self) -> str:
        """Say for people why the adapter does not work."""
        return bluez.WHY.get(self.now.state, self.trouble).format(self.name)

    @property
    def connected(self) -> int:
        return sum(lease.link is not None for lease in self._leases)

    # --- scanning ---------------------------------------------------------------------------------

    @property
    def can_scan(self) -> bool:
        return self._options.mode != "off"

    def set_scan(self, on: bool) -> None:
        """Scan, or do not."""
        self.wants_scan = on
        self._say_turn()

    def _may_scan(self) -> bool:
        return self.is_up and self.wants_scan and not self._is_connecting

    async def _scan(self) -> None:
        own = self._options.own
        backoff = Backoff(0.5, 30.0)
        while True:
            options = self._options.scan(self.name)
            if options is None or not self._may_scan():
                await self._wait_turn(None)
                continue
            await self._start_anew()
            try:
                async with radio.scanning(options, self._heard):
                    backoff.reset()
                    self.is_scanning, self.trouble = True, ""
                    await self._while_scanning(own.scan_seconds)
            except (DeviceUnreachable, Rejected) as error:
                if error.message != self.trouble:  # it is tried again and again
                    facts = {"adapter": self.name, "cause": error.message}
                    log.warning("Bluetooth scanning fails", extra=facts)
                self.trouble = error.message
                await self._wait_turn(backoff.next())
                continue
            finally:
                self.is_scanning = False
            if own.scan_seconds and own.scan_pause and self._may_scan():
                await asyncio.sleep(own.scan_pause)

    async def _while_scanning(self, seconds: float) -> None:
        """Return when it is time for a pause, or the adapter is needed, or was gone, however shortly.

        Also when nobody is heard: there may be nobody, and beginning anew costs nothing then.
        """
        downs, loop = self._downs, asyncio.get_running_loop()
        self._heard_at = loop.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds or None):
                while self._may_scan() and not self._is_stale and downs == self._downs:
                    left = self._heard_at + DEAF_SECONDS - loop.time()
                    if left <= 0:
                        log.info("a Bluetooth scan hears nobody", extra={"adapter": self.name})
                        return
                    await self._wait_turn(left)

    async def _wait_turn(self, seconds: float | None) -> None:
        self._turn.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._turn.wait()

    async def _start_anew(self) -> None:
        """Another bluetoothd has taken over: what bleak knew of the last one is wrong."""
        if self._is_stale:
            self._is_stale = False
            await radio.forget()

    def _heard(self, heard: Heard) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self.air.take(heard, self._clock())

    # --- finding ----------------------------------------------------------------------------------

    def find(self, match: Match) -> Sighting | None:
        """Return the device that fits and is in the air. Errors: DeviceUnreachable where several do.

        What was heard before the adapter came back is no way to the device any more.
        """
        if match.address:
            found_one = self.air.get(match.address)
            return found_one if found_one and found_one.last >= self._up_at else None
        since = self._clock() - RECENT_MS
        found = [
            each for each in self.air.all() if match.fits(each.heard) and each.last >= self._up_at
        ]
        recent = [each for each in found if each.last >= since]
        if len(recent) > 1:
            some = ", ".join(sorted(each.heard.address for each in recent)[:4])
            raise DeviceUnreachable(f"{len(recent)} devices fit: {some}; say which by macAddress")
        return max(recent or found, key=lambda each: each.last, default=None)

    async def wait_for(self, match: Match, seconds: float, *, to_connect: bool = True) -> Sighting:
        """Return the device as soon as it is heard. Errors: DeviceUnreachable."""
        await self.known()
        if to_connect and self.is_up and self.find(match) is None:
            await self._free(match)
        news = asyncio.Event()
        number = self.air.listen(match.address, lambda _heard, _now: news.set())
        self.listen(news.set)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self.check_up()
                    found = self.find(match)
                    if found is not None:
                        return found
                    news.clear()
                    await news.wait()
        except TimeoutError:
            raise DeviceUnreachable(f"no device {match} is heard{self._why_deaf()}") from None
        finally:
            self.air.unlisten(number)
            self.unlisten(news.set)

    async def _free(self, match: Match) -> None:
        """End a connection that a process before this one left at BlueZ: who is connected is not heard."""
        ours = {lease.address for lease in self._leases}
        try:
            freed = await bluez.free(
                self.name, lambda held: held.address not in ours and match.fits(held)
            )
        except DeviceUnreachable as error:
            log.debug("no word of connections", extra={"cause": error.message})
            return
        for address in freed:
            log.info("a connection that was left over is ended", extra={"address": address})

    async def known(self) -> None:
        """Wait until it is known how the adapter is: a process that has just started asks first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_WORD_SECONDS):
                await self._first_word.wait()

    def check_up(self) -> None:
        """Errors: DeviceUnreachable while the adapter does not work."""
        if not self.is_up:
            raise DeviceUnreachable(self.why_not())

    def _why_deaf(self) -> str:
        if self.is_scanning:
            return ""
        return f": {self.trouble}" if self.trouble else ": scanning is switched off"

    # --- connections ------------------------------------------------------------------------------

    async def connect(
        self, sighting: Sighting, seconds: float, *, pair: bool, ended: Callable[[], None]
    ) -> Leased:
        """Connect, when it is this device's turn and there is room; `ended` is called when the link goes.

        `seconds` is for all of it. Errors: DeviceUnreachable.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                await self._places.acquire()
        except TimeoutError:
            most = self._options.own.max_connections
            raise DeviceUnreachable(
                f"all {most} connections of {self.name} are in use (edge.mappers.ble.max_connections)"
            ) from None
        lease = Leased(sighting.heard.address, ended)
        self._leases.add(lease)
        try:
            async with asyncio.timeout_at(deadline), self._one_at_a_time:
                await self._connect(lease, sighting, deadline - loop.time(), pair=pair)
        except TimeoutError:
            await self.release(lease)
            raise DeviceUnreachable("connecting: other devices took all the time") from None
        except BaseException:
            await self.release(lease)
            raise
        return lease

    async def _connect(
        self, lease: Leased, sighting: Sighting, seconds: float, *, pair: bool
    ) -> None:
        self.check_up()
        if self._options.own.pause_scan_to_connect:
            self._is_connecting = True
            self._say_turn()
        try:
            await self._start_anew()
            lease.link = await radio.connect(
                sighting.heard.token, max(seconds, 0.1), pair=pair, lost=lease.lose
            )
        finally:
            self._is_connecting = False
            self._say_turn()
        if lease.is_lost:
            raise DeviceUnreachable(lease.lost_because)

    async def release(self, lease: Leased) -> None:
        """End a connection and give its place back; once."""
        if lease not in self._leases:
            return
        self._leases.discard(lease)
        link, lease.link = lease.link, None
        lease.is_lost = True
        try:
            if link is not None:
                await link.close()
        finally:
            self._places.release()

    def link_to(self, address: str) -> RadioLink | None:
        """Return the connection that there is to a device."""
        return next((each.link for each in self._leases if each.address == address), None)

    def release_soon(self, lease: Leased) -> None:
        """Have a connection ended that nobody uses."""
        self._leaving.put_nowait(lease)

    async def _let_go(self) -> None:
        while True:
            await self.release(await self._leaving.get())
