"""The driver of a device that is connected to: its characteristics read, written, listened to.

What is notified is kept as it came, the latest of each characteristic, and decoded when it is read. A
characteristic that says more than it may is not listened to for a while, but read.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edge.mappers.ble.adapter import AdapterRoom, Leased
from edge.mappers.ble.advertised import AdvertReader
from edge.mappers.ble.codecs import MAX_VALUE
from edge.mappers.ble.configuration import DeviceConfig, Gatt, Notify
from edge.mappers.ble.heard import Heard, Sighting
from edge.mappers.ble.radio import AttributeRefused, Characteristic, RadioLink
from edge.mappers.ble.values import decoded
from edge.mappers.driver import Clock, DeviceUnreachable, Quality, Reading
from edge.mappers.readings import bad, wanted_value
from gateway.errors import BadRequest, NotFound, Rejected
from gateway.wire.cloudedge.values import ValueRule

QUIET_MS: Final = 30_000
"""How long a characteristic that said too much is not listened to."""


@dataclass(slots=True)
class Pushed:
    """What a characteristic said last, and how often it speaks."""

    one: Characteristic
    data: bytes = b""
    at: int = 0
    is_unread: bool = False
    second: int = 0
    in_second: int = 0
    is_too_much: bool = False
    quiet_until: int = 0

    def note(self, data: bytes, now: int, most: int) -> None:
        self.data, self.at = data, now
        second = now // 1_000
        if second != self.second:
            self.second, self.in_second = second, 0
        self.in_second += 1
        self.is_too_much = self.is_too_much or self.in_second > most


class ConnectedDriver:
    """One device."""

    def __init__(
        self,
        room: AdapterRoom,
        config: DeviceConfig,
        rules: Mapping[str, ValueRule],
        adverts: AdvertReader,
        clock: Clock,
        count: Callable[[str, int], None],
        most_notifications: int,
    ) -> None:
        self._room = room
        self._config = config
        self._rules = rules
        self._adverts = adverts
        self._clock = clock
        self._count = count
        self._most = most_notifications
        self._gatt = {n: s for n, s in config.sources.items() if isinstance(s, Gatt)}
        self._found: dict[str, Characteristic] = {}
        self._pushed: dict[int, Pushed] = {}
        self._missing: dict[str, str] = {}
        self._lease: Leased | None = None
        self._changed: list[Callable[[], None]] = []
        self._is_told = False
        self._listening = 0
        self._address = ""
        self._idle: asyncio.TimerHandle | None = None
        self._turn = asyncio.Lock()

    # --- the connection ---------------------------------------------------------------------------

    async def connect(self) -> None:
        async with self._turn:
            await self._connect()
        self._rest()

    async def _connect(self) -> None:
        """Find the device, connect, and know its characteristics. Errors: DeviceUnreachable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.connect_timeout
        sighting = await self._room.wait_for(self._config.match, self._config.connect_timeout)
        self._follow(sighting)
        self._lease = await self._room.connect(
            sighting, max(deadline - loop.time(), 0.1), pair=self._config.pair, ended=self._lost
        )
        try:
            await self._resolve(self._link())
        except BaseException:
            await self._drop()
            raise

    def _follow(self, sighting: Sighting) -> None:
        """Hear what the device advertises, at the address that it has now."""
        if self._address == sighting.heard.address and self._listening:
            return
        self._unfollow()
        self._address = sighting.heard.address
        self._listening = self._room.air.listen(self._address, self._heard)
        self._heard(sighting.heard, sighting.last)

    def _unfollow(self) -> None:
        if self._listening:
            self._room.air.unlisten(self._listening)
            self._listening = 0

    def _link(self) -> RadioLink:
        """Errors: DeviceUnreachable when the connection has ended."""
        lease = self._lease
        if lease is None or lease.link is None or lease.is_lost:
            raise DeviceUnreachable(lease.lost_because if lease else "not connected")
        return lease.link

    async def _resolve(self, link: RadioLink) -> None:
        known, are_more = link.characteristics()
        self._found, self._missing, self._pushed = {}, {}, {}
        for name, source in self._gatt.items():
            fitting = [
                one
                for one in known
                if one.uuid == source.characteristic
                and (not source.service or one.service == source.service)
            ]
            if source.instance < len(fitting):
                self._found[name] = fitting[source.instance]
            else:
                self._missing[name] = _missing(source, len(fitting), are_more=are_more)
        for name, one in self._found.items():
            await self._listen(link, name, one)

    async def _listen(self, link: RadioLink, name: str, one: Characteristic) -> None:
        wish = self._gatt[name].notify
        wanted = wish is Notify.YES or (wish is Notify.AUTO and one.may_notify)
        if not wanted or not self._config.notifies or one.handle in self._pushed:
            return
        pushed = Pushed(one)
        try:
            await self._subscribe(link, pushed)
        except AttributeRefused as error:
            if wish is Notify.YES or not one.may_read:
                self._missing[name] = error.message
            return
        self._pushed[one.handle] = pushed

    async def _subscribe(self, link: RadioLink, pushed: Pushed) -> None:
        most = self._most

        def told(data: bytes) -> None:
            self._count("coalesced" if pushed.is_unread else "taken", 1)
            pushed.note(data[: MAX_VALUE + 1], self._clock(), most)
            pushed.is_unread = True
            self._tell()

        await link.listen(pushed.one, told)

    def _lost(self) -> None:
        if self._config.idle_disconnect and self._room.is_up:
            self._stay()
            self._leave()  # the device ends idle connections itself: it is connected again to be read
            return
        self._is_told = False
        self._tell()

    def _heard(self, heard: Heard, now: int) -> None:
        if self._adverts.take(heard, now):
            self._tell()

    def _tell(self) -> None:
        """Say once that there is something new, until it is read."""
        if not self._is_told:
            self._is_told = bool(self._changed)
            for changed in self._changed:
                changed()

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)

    def faults(self) -> Mapping[str, str]:
        """Return the properties that this device has nothing for."""
        return {**self._config.faults, **self._missing}

    async def close(self) -> None:
        self._changed.clear()
        self._stay()
        self._unfollow()
        await self._drop()

    async def _drop(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            self._room.air.touch(self._address, self._clock())
            await self._room.release(lease)

    # --- connected only to be read ----------------------------------------------------------------

    async def _ready(self) -> RadioLink:
        """Return the link, made again where it is ended when idle. Errors: DeviceUnreachable."""
        self._stay()
        if self._lease is None and self._config.idle_disconnect:
            await self._connect()
        return self._link()

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _rest(self) -> None:
        self._stay()
        if self._config.idle_disconnect and self._lease is not None:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._config.idle_disconnect, self._leave)

    def _leave(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            self._room.release_soon(lease)

    # --- reading ----------------------------------------------------------------------------------

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        self._is_told = False
        async with self._turn:
            wanted = [name for name in names if name in self._found]
            needs_link = wanted or not self._config.idle_disconnect
            try:
                link = await self._ready() if needs_link else None
                found = {} if link is None else await self._read(link, wanted)
            finally:
                self._rest()
        found.update(self._adverts.read(names, self._clock()))
        found.update({name: bad(why, 0) for name, why in self.faults().items() if name in names})
        return found

    async def _read(self, link: RadioLink, names: Sequence[str]) -> dict[str, Reading]:
        """Read each characteristic once, whatever the number of its properties."""
        for pushed in self._pushed.values():
            await self._calm(link, pushed)
        data: dict[int, tuple[bytes, int] | Reading | None] = {}
        for name in names:
            one = self._found[name]
            if one.handle not in data:
                data[one.handle] = await self._bytes(link, one)
        found = {name: self._reading(name, data[self._found[name].handle]) for name in names}
        return {name: each for name, each in found.items() if each is not None}

    def _reading(self, name: str, got: tuple[bytes, int] | Reading | None) -> Reading | None:
        if got is None or isinstance(got, Reading):
            return got
        data, at = got
        if len(data) > MAX_VALUE:
            return bad(f"a value of more than {MAX_VALUE} bytes", at)
        made = decoded(self._rules[name], self._gatt[name].codec, data, at)
        if made.quality is Quality.BAD:
            self._count("malformed", 1)
        return self._aged(name, made)

    def _aged(self, name: str, made: Reading) -> Reading:
        """What was notified long ago and cannot be read is uncertain."""
        age, limit = self._clock() - made.at, int(self._config.stale_after * 1_000)
        is_pushed = self._found[name].handle in self._pushed
        if limit and is_pushed and age > limit and made.quality is Quality.GOOD:
            why = f"not notified for {age // 1_000} s"
            return Reading(made.text, Quality.UNCERTAIN, made.at, why)
        return made

    async def _bytes(
        self, link: RadioLink, one: Characteristic
    ) -> tuple[bytes, int] | Reading | None:
        """Return a characteristic's value: what it said, or what it says when asked."""
        pushed = self._pushed.get(one.handle)
        if pushed is not None:
            pushed.is_unread = False
            if pushed.at and (self._is_fresh(pushed) or not one.may_read):
                return pushed.data, pushed.at
        if not one.may_read:
            return None
        try:
            data = await link.read(one)
        except AttributeRefused as error:
            return bad(error.message, self._clock())
        now = self._clock()
        if pushed is not None:
            pushed.data, pushed.at, pushed.is_unread = data, now, False
        return data, now

    def _is_fresh(self, pushed: Pushed) -> bool:
        if pushed.quiet_until:
            return False
        limit = int(self._config.stale_after * 1_000)
        return not limit or self._clock() - pushed.at <= limit

    async def _calm(self, link: RadioLink, pushed: Pushed) -> None:
        """Stop listening to what says too much; listen again after a while."""
        now = self._clock()
        if pushed.is_too_much and not pushed.quiet_until:
            pushed.quiet_until = now + QUIET_MS
            await link.unlisten(pushed.one)
        elif pushed.quiet_until and now >= pushed.quiet_until:
            pushed.is_too_much, pushed.in_second = False, 0
            await self._subscribe(link, pushed)
            pushed.quiet_until = 0

    # --- writing ----------------------------------------------------------------------------------

    async def write(self, name: str, text: str) -> None:
        source = self._gatt.get(name)
        if source is None:
            raise Rejected(f"{name} is not a characteristic: it cannot be written")
        data = self._encoded(name, source, text)
        async with self._turn:
            try:
                link = await self._ready()
                one = self._found.get(name)
                if one is None:
                    raise NotFound(self._missing.get(name, f"the device has no {name}"))
                await link.write(one, data, response=_with_response(source, one, len(data)))
                pushed = self._pushed.get(one.handle)
                if pushed is not None:
                    pushed.at = 0  # what it said before may be no more: it is read
            finally:
                self._rest()

    def _encoded(self, name: str, source: Gatt, text: str) -> bytes:
        """Errors: Rejected for what has no bytes."""
        if text in source.words:
            return source.words[text]
        if source.words:
            raise BadRequest(f"expected one of {', '.join(source.words)}, got {text[:40]!r}")
        if source.codec.encode is None:
            raise Rejected(f"{name}: this decoder cannot write; say dataWrite or another decoder")
        value = wanted_value(self._rules[name], text)
        data = source.codec.encode(_octets(self._rules[name], value))
        if len(data) > MAX_VALUE:
            raise BadRequest(f"at most {MAX_VALUE} bytes can be written, got {len(data)}")
        return data


def _octets(rule: ValueRule, value: bool | int | float | str) -> bool | int | float | str | bytes:
    return base64.b64decode(str(value)) if rule.type == "BYTES" else value


def _with_response(source: Gatt, one: Characteristic, size: int) -> bool:
    """Return how to write. Errors: Rejected where the characteristic does not allow it."""
    if not one.may_write and not one.may_write_blind:
        raise Rejected("the characteristic cannot be written")
    response = one.may_write if source.response is None else source.response
    if response and not one.may_write:
        raise Rejected("the characteristic is written without response only")
    if not response and not one.may_write_blind:
        raise Rejected("the characteristic is written with response only")
    if not response and size > one.blind_size:
        raise Rejected(f"at most {one.blind_size} bytes without response, got {size}")
    return response


def _missing(source: Gatt, found: int, *, are_more: bool) -> str:
    if are_more:
        return f"not among the first characteristics: {source.characteristic} of too many"
    if found:
        return f"the device has {source.characteristic} {found} times, none {source.instance}"
    return f"the device has no characteristic {source.characteristic}"
