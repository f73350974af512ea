"""One Zigbee device: what it reports is held, what is wanted is sent, or waits until a sleeper is heard.

`read` never uses the radio. What does - telling the device what to report, first values, polls, pings, writes
to a sleeper - is done by `attend`, which the family calls when there is something to do and it listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from edge.mappers.driver import Clock, DeviceUnreachable, Quality, Reading, TakenLater
from edge.mappers.readings import Latest, bad
from edge.mappers.zigbee import meanings
from edge.mappers.zigbee.bound import Bound, Spot, Wish, by_spot
from edge.mappers.zigbee.codecs import Raw
from edge.mappers.zigbee.meanings import Reporting
from edge.mappers.zigbee.places import Place
from edge.mappers.zigbee.plan import Plan
from edge.mappers.zigbee.radio import Radio
from edge.mappers.zigbee.reporting import Told
from edge.mappers.zigbee.seen import Seen
from edge.mappers.zigbee.waiting import Waiting
from gateway.errors import GatewayError, Rejected
from gateway.wire.cloudedge.values import ValueRule, canonical, parse_text

UNCERTAIN_AFTER = 2.5
"""A sleeper that kept silent for so many of its longest reporting intervals gives uncertain values."""
SETTLE_SECONDS = 0.2
"""What a lamp needs beyond its transition until its level can be read."""
FRESH_MS = 60_000
"""A device on mains that was heard so lately is not asked for a sign of life when it is connected."""
MAX_TRANSITION = 0xFFFE
ABSENT = ("UNSUPPORTED_ATTRIBUTE", "NOT_FOUND")
"""What devices say of attributes that they do not have."""


class Network(Protocol):
    """What a device needs of its family."""

    plan: Plan
    clock: Clock
    told: Told

    def radio(self) -> Radio:
        """Return the radio. Errors: StickAway with the reason."""

    def count(self, name: str, by: int) -> None: ...
    def waiting(self, ieee: str, owner: str) -> Waiting:
        """Return what a Device, the owner, has waiting for a device; it outlives drivers."""

    def attach(self, driver: ZigbeeDriver) -> None:
        """Call `attend` when it is time, from now on."""

    def detach(self, driver: ZigbeeDriver) -> None: ...


class ZigbeeDriver:
    """The port of one device."""

    def __init__(
        self,
        ieee: str,
        owner: str,
        places: Mapping[str, Place],
        faults: Mapping[str, str],
        rules: Mapping[str, ValueRule],
        net: Network,
    ) -> None:
        self.ieee, self._owner = ieee, owner
        self.woken = asyncio.Event()
        self._places, self._rules = places, rules
        self._faults = dict(faults)
        self._net = net
        self._latest = Latest(tuple(places), net.count)
        self._changed: list[Callable[[], None]] = []
        self._bounds: dict[str, Bound] = {}
        self._by_spot: dict[Spot, list[Bound]] = {}
        self._raws: dict[Spot, tuple[Raw, int]] = {}
        self._reported: set[Spot] = set()
        self._delivered: dict[str, str] = {}
        self._meant: dict[str, tuple[Wish, str]] = {}
        """The latest wish that each property's device took, and how it was said."""
        self._due: dict[str, int] = {}
        """When a property that was written is to be read, ms."""
        self._is_prepared = self._is_sleepy = False
        self._heard = 0
        self._asked = 0
        self._joins = 0
        self._gone = ""

    # --- the port -----------------------------------------------------------------------------------

    async def connect(self) -> None:
        radio = self._net.radio()
        seen = radio.seen(self.ieee)
        if seen is None:
            raise DeviceUnreachable(
                "the device is not in this network: permit joining, and reset it"
            )
        if not seen.is_ready:
            raise DeviceUnreachable("the device has joined and is being asked what it is")
        self._is_sleepy, self._heard = seen.is_sleepy, seen.last_seen
        await self._reach(radio)
        self._bind(radio, seen)
        self._recall(radio)
        self._net.attach(self)
        self.woken.set()

    async def _reach(self, radio: Radio) -> None:
        silence = self._net.clock() - self._heard
        if self._is_sleepy:
            if silence > self._net.plan.battery_silence * 1_000:
                raise DeviceUnreachable(_silent(silence))
        elif silence > FRESH_MS:
            await radio.ping(self.ieee)
            self._heard = self._net.clock()

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        self._net.radio()
        if self._gone:
            raise DeviceUnreachable(self._gone)
        doubt, readings = self._doubt(), self._latest.read(names)
        return {name: _doubted(each, doubt) for name, each in readings.items()}

    async def write(self, name: str, text: str) -> None:
        bound = self._bounds.get(name)
        if bound is None:
            raise Rejected(self._faults.get(name, f"{name} is not on this device"))
        bound.wish(text)
        if self._is_sleepy:
            self._put_off(name, text)
        else:
            await self._send(self._net.radio(), bound, text)

    async def withdraw(self, name: str) -> None:
        """Forget what waits for a property: it is wanted no more."""
        self._waiting.forget(name)
        self._delivered.pop(name, None)

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)
        self._latest.subscribe(changed)

    def faults(self) -> Mapping[str, str]:
        """Return the properties that the device has not."""
        return self._faults

    async def close(self) -> None:
        self._changed.clear()
        self._latest.close()
        self._net.detach(self)

    # --- what the family tells ----------------------------------------------------------------------

    def heard(self, at: int) -> None:
        """The device has sent something: it is there, and a sleeper listens for a moment."""
        self._heard = max(self._heard, at)
        if self._is_sleepy and (not self._is_prepared or self._waiting or self._due):
            self.woken.set()

    def take(self, spot: Spot, raw: Raw, at: int) -> None:
        """An attribute's value has come."""
        concerned = self._by_spot.get(spot)
        if concerned is None:
            return
        self._raws[spot] = raw, at
        for bound in concerned:
            reading = bound.reading(self._raws)
            if reading is not None:
                self._latest.take(bound.name, self._as_meant(bound, reading))

    def _as_meant(self, bound: Bound, reading: Reading) -> Reading:
        """Say a value as it was wished, where the device's numbers cannot say it better.

        2700 K are 370 mired, and those 2703 K: the wish would stay unfulfilled for ever.
        """
        wish, text = self._meant.get(bound.name, (None, ""))
        if wish is None or reading.quality is not Quality.GOOD:
            return reading
        return replace(reading, text=text) if bound.means(wish, self._raws) else reading

    def lose(self, why: str) -> None:
        """The device is not there any more; the next read says so."""
        self._gone = why
        for changed in self._changed:
            changed()

    def fail(self, error: GatewayError) -> None:
        """Attending failed: a sleeper is tried again when it is heard, another device is not there."""
        if self._is_sleepy or isinstance(error, Rejected):
            return
        self._due.clear()
        self.lose(error.message)

    def forget(self) -> None:
        """The device has joined anew and knows nothing of what it was told."""
        self._is_prepared, self._reported = False, set()
        self._joins += 1
        self.woken.set()

    @property
    def wakes_in(self) -> float | None:
        """Seconds until `attend` is due unasked, None for never: a sleeper waits until it is heard."""
        if self._is_sleepy:
            return None
        now = self._net.clock()
        due = min(self._due.values(), default=now + round(self._net.plan.poll * 1_000))
        return min(max(due - now, 0) / 1_000, self._net.plan.poll)

    async def attend(self) -> None:
        """Do what is to be done while the device listens. Errors: DeviceUnreachable, Rejected."""
        radio = self._net.radio()
        if not self._is_prepared:
            self._is_prepared = True  # before: a device that joins anew meanwhile takes it back
            try:
                await self._prepare(radio)
            except BaseException:
                self._is_prepared = False
                raise
        await self._deliver(radio)
        await self._read_back(radio)
        if not self._is_sleepy:
            await self._poll(radio)

    async def _read_back(self, radio: Radio) -> None:
        """Read what was written and has come to where it goes by now."""
        now = self._net.clock()
        due = [name for name, at in self._due.items() if at <= now]
        for name in due:
            del self._due[name]
        await self._fetch(radio, [self._bounds[name] for name in due if name in self._bounds])

    # --- inside -------------------------------------------------------------------------------------

    def _bind(self, radio: Radio, seen: Seen) -> None:
        for name, place in self._places.items():
            endpoint = seen.endpoint_with(place.cluster, place.endpoint)
            if not endpoint:
                self._faults[name] = f"the device has no cluster {place.cluster:#06x}"
                continue
            attributes, kind = place.attributes, place.kind
            try:
                if not kind:
                    number, kind = radio.attribute(
                        place.cluster, place.attribute_name or attributes[0]
                    )
                    attributes = (number,)
            except Rejected as error:
                self._faults[name] = error.message
                continue
            rule = self._rules[name]
            self._bounds[name] = Bound(name, place, rule, endpoint, attributes, kind)
        self._by_spot = by_spot(self._bounds.values())

    def _recall(self, radio: Radio) -> None:
        """Begin with what was known before EdgeCore started."""
        for spot in self._by_spot:
            known = radio.cached(self.ieee, *spot)
            if known is not None:
                self.take(spot, *known)

    def _doubt(self) -> str:
        """Say why values may be old, "" for no doubt. Errors: DeviceUnreachable after a longer silence."""
        if not self._is_sleepy:
            return ""
        silence = self._net.clock() - self._heard
        if silence > self._net.plan.battery_silence * 1_000:
            raise DeviceUnreachable(_silent(silence))
        longest = max((each.high for each in self._wanted().values()), default=0)
        is_old = longest and silence > longest * UNCERTAIN_AFTER * 1_000
        return _silent(silence) if is_old else ""

    def _wanted(self) -> dict[Spot, Reporting]:
        return {
            spot: bound.place.reporting
            for bound in self._bounds.values()
            if bound.place.reporting is not None
            for spot in bound.spots
        }

    async def _prepare(self, radio: Radio) -> None:
        """Tell the device what to report, where it was not told yet, and read what is not known."""
        parts: dict[tuple[int, int], dict[int, Reporting]] = {}
        for (endpoint, cluster, attribute), reporting in self._wanted().items():
            parts.setdefault((endpoint, cluster), {})[attribute] = reporting
        for (endpoint, cluster), wanted in parts.items():
            reported = self._net.told.get(self.ieee, f"{endpoint}/{cluster}")
            if reported is None or not wanted.keys() <= reported:
                reported = await self._configure(radio, endpoint, cluster, wanted)
            self._reported |= {(endpoint, cluster, each) for each in reported}
        await self._enroll(radio)
        missing = [b for b in self._bounds.values() if self._is_missing(b)]
        await self._fetch(radio, missing)

    async def _configure(
        self, radio: Radio, endpoint: int, cluster: int, wanted: Mapping[int, Reporting]
    ) -> set[int]:
        joins = self._joins
        try:
            reported = await radio.configure(self.ieee, endpoint, cluster, wanted)
        except Rejected:
            reported = set()
        if reported and joins == self._joins:
            part = f"{endpoint}/{cluster}"
            known = self._net.told.get(self.ieee, part) or set()  # another Device's
            self._net.told.note(self.ieee, part, reported | known)
        return reported

    async def _enroll(self, radio: Radio) -> None:
        endpoints = {b.endpoint for b in self._bounds.values() if b.place.cluster == meanings.ZONE}
        for endpoint in endpoints:
            part, joins = f"{endpoint}/{meanings.ZONE}", self._joins
            if self._net.told.get(self.ieee, part) is None:
                try:
                    await radio.enroll(self.ieee, endpoint)
                except Rejected as error:
                    self._spoil_zone(endpoint, error.message)
                    continue
                if joins == self._joins:
                    self._net.told.note(self.ieee, part, {2})

    def _spoil_zone(self, endpoint: int, why: str) -> None:
        """A zone that takes no orders notifies nobody: what is read of it now is all there is."""
        for bound in self._bounds.values():
            if bound.place.cluster == meanings.ZONE and bound.endpoint == endpoint:
                self._latest.take(bound.name, bad(f"not enrolled: {why}", self._net.clock()))

    def _is_missing(self, bound: Bound) -> bool:
        is_there = all(spot in self._raws for spot in (*bound.spots, *bound.ratio_spots))
        return not is_there or not self._is_sleepy

    async def _fetch(self, radio: Radio, bounds: Sequence[Bound]) -> None:
        """Read the attributes of properties, a request for each cluster; what fails is told of each."""
        parts: dict[tuple[int, int], set[int]] = {}
        for bound in bounds:
            for endpoint, cluster, attribute in bound.spots:
                parts.setdefault((endpoint, cluster), set()).add(attribute)
            for spot in bound.ratio_spots:
                if spot not in self._raws:
                    parts.setdefault(spot[:2], set()).add(spot[2])
        for (endpoint, cluster), attributes in parts.items():
            await self._read_part(radio, endpoint, cluster, sorted(attributes))

    async def _read_part(
        self, radio: Radio, endpoint: int, cluster: int, attributes: Sequence[int]
    ) -> None:
        found, failed = await radio.read(self.ieee, endpoint, cluster, attributes)
        now = self._net.clock()
        for attribute in attributes:
            if attribute not in found:
                why = failed.get(attribute, ABSENT[0])
                self._miss((endpoint, cluster, attribute), why, now)
        for attribute in sorted(found, key=lambda each: each in self._first_attributes(cluster)):
            self.take((endpoint, cluster, attribute), found[attribute], now)

    def _miss(self, spot: Spot, why: str, now: int) -> None:
        """The device does not give an attribute: a divisor that it has not is 1."""
        if why in ABSENT and any(spot in b.ratio_spots for b in self._by_spot.get(spot, ())):
            self.take(spot, 1, now)
            return
        for bound in self._by_spot.get(spot, ()):
            self._latest.take(bound.name, bad(f"the device says {why}", now))

    def _first_attributes(self, cluster: int) -> set[int]:
        """The values themselves: taken after their multipliers and divisors."""
        bounds = (b for b in self._bounds.values() if b.place.cluster == cluster)
        return {attribute for bound in bounds for attribute in bound.attributes}

    async def _poll(self, radio: Radio) -> None:
        """Read what the device does not report, and ask a silent one for a sign of life."""
        now, plan = self._net.clock(), self._net.plan
        if now - self._asked >= plan.poll * 1_000:
            self._asked = now
            zone = meanings.ZONE
            polled = [
                bound
                for bound in self._bounds.values()
                if bound.place.cluster != zone and not self._reported.issuperset(bound.spots)
            ]
            await self._fetch(radio, polled)
        if now - self._heard > plan.mains_silence * 1_000:
            await radio.ping(self.ieee)
            self._heard = self._net.clock()

    # --- writes -------------------------------------------------------------------------------------

    @property
    def _waiting(self) -> Waiting:
        return self._net.waiting(self.ieee, self._owner)

    def _put_off(self, name: str, text: str) -> None:
        """Keep a wish until the device is heard. Errors: TakenLater, which says so to who waits."""
        if self._delivered.pop(name, None) == text:
            return
        until = self._net.clock() + round(self._net.plan.keep_writes * 1_000)
        self._waiting.put(name, text, until)
        raise TakenLater(
            f"{text!r} waits: the device sleeps, and gets it when it is heard next"
            f" (last heard {_ago(self._net.clock() - self._heard)} ago)"
        )

    async def _deliver(self, radio: Radio) -> None:
        """Send what waits for the device, oldest first."""
        waiting = self._waiting
        for name in waiting.expired(self._net.clock()):
            self._net.count("writes expired", 1)
            self._due.pop(name, None)
        while (wish := waiting.first()) is not None:
            name, text = wish
            bound = self._bounds.get(name)
            if bound is not None:
                try:
                    await self._send(radio, bound, text)
                except Rejected as error:
                    self._latest.take(name, bad(f"{text!r}: {error.message}", self._net.clock()))
                else:
                    self._delivered[name] = text
            waiting.drop(name, text)

    async def _send(self, radio: Radio, bound: Bound, text: str) -> None:
        wish, before = bound.wish(text), self._meant.get(bound.name)
        self._meant[bound.name] = wish, _said(bound.rule, text)  # before: it reports while it obeys
        try:
            await self._tell(radio, bound, wish)
        except BaseException:
            if before is None:
                self._meant.pop(bound.name, None)
            else:
                self._meant[bound.name] = before
            raise
        self._heard = self._net.clock()
        self._due[bound.name] = self._heard + self._settling(wish)
        self.woken.set()

    async def _tell(self, radio: Radio, bound: Bound, wish: Wish) -> None:
        cluster = bound.place.cluster
        if wish.command is None:
            await radio.write(self.ieee, bound.endpoint, cluster, wish.attribute, wish.value)
            return
        steps = min(round(self._net.plan.transition * 10), MAX_TRANSITION)
        arguments = (*wish.arguments, steps) if wish.has_transition else wish.arguments
        await radio.command(self.ieee, bound.endpoint, cluster, wish.command, arguments)

    def _settling(self, wish: Wish) -> int:
        """Return the ms until a wish can be seen; a sleeper is asked before it sleeps again."""
        if self._is_sleepy:
            return 0
        transition = self._net.plan.transition if wish.has_transition else 0.0
        return round((transition + SETTLE_SECONDS) * 1_000)


def _doubted(reading: Reading, doubt: str) -> Reading:
    if not doubt or reading.quality is not Quality.GOOD:
        return reading
    return Reading(reading.text, Quality.UNCERTAIN, reading.at, doubt)


def _said(rule: ValueRule, text: str) -> str:
    return canonical(rule.type, parse_text(rule.type, text))


def _silent(silence_ms: int) -> str:
    return f"the device was not heard for {_ago(silence_ms)}"


def _ago(milliseconds: int) -> str:
    seconds = max(milliseconds, 0) // 1_000
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7_200 else f"{seconds // 3_600} h"
