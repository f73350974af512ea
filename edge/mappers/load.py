"""The virtual device `load`: all its properties change at a rate, for load tests of what carries them.

`configData: {kind: load, rate: 5}` changes every property of the Device five times a second (0.01 to 1,000);
`spread` (default: the Device's name) shifts devices against each other, so that not all change at once. A
value follows from the count of changes alone: INT counts up between the model's bounds, FLOAT and DOUBLE go
up and down between them, BOOLEAN toggles, texts carry the count. What was written stays as it was written.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping, Sequence

from edge.mappers.driver import Clock, Quality, Reading
from gateway.errors import BadRequest, NotFound
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.values import (
    PropertyType,
    Typed,
    ValueRule,
    canonical,
    parse_text,
)

LOAD = "load"
DEFAULT_RATE = 1.0
SLOWEST, FASTEST = 0.01, 1_000.0
WAVE = 100
"""Changes from a number's low to its high and back."""
_BOUNDS = (0.0, 100.0)
_INT_BOUNDS = (0.0, 2.0**31 - 1)


class LoadDriver:
    """The port of one such device."""

    def __init__(
        self, rules: Mapping[str, ValueRule], rate: float, spread: str, clock: Clock
    ) -> None:
        self._rules = rules
        self._rate = rate
        self._phase = zlib.crc32(spread.encode()) / 2**32
        self._clock = clock
        self._held: dict[str, Typed] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._changed: Callable[[], None] | None = None

    async def connect(self) -> None:
        """There is nothing to connect to."""

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        now = self._clock()
        count = self._count(now)
        return {
            name: Reading(self._text(name, count), Quality.GOOD, now)
            for name in names
            if name in self._rules
        }

    def _count(self, now: int) -> int:
        """Return how many changes there were since the epoch."""
        return int(now * self._rate / 1_000 + self._phase)

    def _text(self, name: str, count: int) -> str:
        rule = self._rules[name]
        return canonical(rule.type, self._held.get(name, value_at(rule, count)))

    async def write(self, name: str, text: str) -> None:
        if name not in self._rules:
            raise NotFound(f"this load has no property {name}")
        self._held[name] = parse_text(self._rules[name].type, text)
        if self._changed is not None:
            self._changed()

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._wait()

    def _wait(self) -> None:
        """Tell of the next change when it comes."""
        now = self._clock()
        following = (self._count(now) + 1 - self._phase) * 1_000 / self._rate
        seconds = max((following - now) / 1_000, 0.001)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._tell)

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()
            self._wait()

    async def close(self) -> None:
        self._changed = None
        if self._timer is not None:
            self._timer.cancel()


def value_at(rule: ValueRule, count: int) -> Typed:
    """Return a property's value after `count` changes. Pure."""
    if rule.type is PropertyType.BOOLEAN:
        return count % 2 == 1
    if rule.type is PropertyType.INT:
        low, high = _bounds(rule, _INT_BOUNDS)
        return int(low) + count % (int(high) - int(low) + 1)
    if rule.type in (PropertyType.FLOAT, PropertyType.DOUBLE):
        low, high = _bounds(rule, _BOUNDS)
        step = count % WAVE
        part = min(step, WAVE - step) / (WAVE / 2)
        return low + (high - low) * part
    return f"{count % 10**12:012d}"  # twelve digits are base64 of nine bytes, too


def _bounds(rule: ValueRule, default: tuple[float, float]) -> tuple[float, float]:
    low = default[0] if rule.minimum is None else rule.minimum
    high = default[1] if rule.maximum is None else rule.maximum
    return (low, high) if low <= high else (low, low)


def make_load(
    view: DeviceView, config: JsonObject, rules: Mapping[str, ValueRule], clock: Clock
) -> LoadDriver:
    """Make the driver of a Device. Errors: BadRequest for its configuration."""
    spread = config.get("spread", str(view.key))
    if not isinstance(spread, str):
        raise BadRequest("virtual load: expected spread as text")
    known = {name: rules.get(name, ValueRule(PropertyType.INT)) for name in view.properties}
    twinned = {name: rule for name, rule in known.items() if rule.type is not PropertyType.STREAM}
    return LoadDriver(twinned, _rate(config.get("rate", DEFAULT_RATE)), spread, clock)


def _rate(value: Json) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        rate = float(value)
        if SLOWEST <= rate <= FASTEST:
            return rate
    raise BadRequest(f"virtual load: expected rate from {SLOWEST:g} to {FASTEST:g}, got {value!r}")
