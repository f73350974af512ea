"""Virtual devices: a thermostat that follows its target, a lamp, a plain holder of values, and `load`.

They obey physics of their own on an injected clock and seed, so the same script gives the same readings. The
Device says which one: `protocol: {protocolName: virtual, configData: {kind: thermostat, seed: 7}}`. Load is
`edge.mappers.load`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edge.mappers.driver import Clock, Driver, Quality, Reading
from edge.mappers.load import LOAD, make_load
from gateway.errors import BadRequest, NotFound
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.values import PropertyType, Typed, ValueRule, canonical, parse_text

PROTOCOL = "virtual"

THERMAL_SECONDS = 30.0
"""Time in which a thermostat covers two thirds of the way to its target."""
NOISE = 0.05
AMBIENT = 19.0


class Physics(Protocol):
    """What a virtual device does with time and commands."""

    def step(self, now_ms: int) -> None:
        """Let time pass up to `now_ms`."""

    def values(self) -> Mapping[str, Typed]: ...
    def set(self, name: str, value: Typed) -> None:
        """Obey a command. Errors: BadRequest for a property that cannot be set."""


class Thermostat:
    """`temperature` drifts towards `target`, with a little noise."""

    def __init__(self, seed: int, now_ms: int, ambient: float = AMBIENT) -> None:
        self._dice = random.Random(seed)  # noqa: S311  physics, not secrets
        self._at = now_ms
        self._temperature = ambient
        self._target = ambient

    def step(self, now_ms: int) -> None:
        seconds = max(0, now_ms - self._at) / 1_000
        self._at = max(self._at, now_ms)
        if seconds:
            left = math.exp(-seconds / THERMAL_SECONDS)
            self._temperature = self._target + (self._temperature - self._target) * left
            self._temperature += self._dice.gauss(0.0, NOISE)

    def values(self) -> Mapping[str, Typed]:
        return {"temperature": round(self._temperature, 1), "target": self._target}

    def set(self, name: str, value: Typed) -> None:
        if name != "target":
            raise BadRequest(f"a thermostat's {name} cannot be set")
        self._target = float(value)


class Lamp:
    """`on` and `brightness` (0 to 100); time changes nothing."""

    def __init__(self) -> None:
        self._is_on = False
        self._brightness = 100

    def step(self, now_ms: int) -> None:
        """A lamp stays as it is."""

    def values(self) -> Mapping[str, Typed]:
        return {"on": self._is_on, "brightness": self._brightness}

    def set(self, name: str, value: Typed) -> None:
        if name == "on":
            self._is_on = value in (True, "true", 1)
        elif name == "brightness" and 0 <= int(value) <= 100:
            self._brightness = int(value)
        else:
            raise BadRequest(f"a lamp's {name} cannot be {value}")


class Holder:
    """Any property: gives back what was set."""

    def __init__(self, values: Mapping[str, Typed]) -> None:
        self._values = dict(values)

    def step(self, now_ms: int) -> None:
        """A holder stays as it is."""

    def values(self) -> Mapping[str, Typed]:
        return self._values

    def set(self, name: str, value: Typed) -> None:
        self._values[name] = value


class VirtualDriver:
    """The port of a virtual device; reading lets its time pass."""

    def __init__(
        self,
        physics: Physics,
        rules: Mapping[str, ValueRule],
        clock: Clock,
        names: Sequence[str] = (),
    ) -> None:
        self._physics = physics
        self._names = names
        self._rules = rules
        self._clock = clock
        self._changed: list[Callable[[], None]] = []

    async def connect(self) -> None:
        """There is nothing to connect to."""

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        now = self._clock()
        self._physics.step(now)
        values = self._physics.values()
        return {
            name: Reading(self._text(name, values[name]), Quality.GOOD, now)
            for name in names
            if values.get(name, "") != ""
        }

    def _text(self, name: str, value: Typed) -> str:
        rule = self._rules.get(name)
        return canonical(_type_of(value) if rule is None else rule.type, value)

    async def write(self, name: str, text: str) -> None:
        if name not in self._physics.values():
            raise NotFound(f"this virtual device has no property {name}")
        rule = self._rules.get(name)
        kind = _type_of(self._physics.values()[name]) if rule is None else rule.type
        self._physics.step(self._clock())
        self._physics.set(name, parse_text(kind, text))
        for changed in self._changed:
            changed()

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)

    def faults(self) -> Mapping[str, str]:
        """Return the properties that such a device has not."""
        known = self._physics.values()
        return {
            name: "this virtual device has no such property"
            for name in self._names
            if name not in known
        }

    async def close(self) -> None:
        self._changed.clear()


def make_virtual(clock: Clock) -> Callable[[DeviceView, ModelView | None], Driver]:
    """Return the factory of virtual drivers on `clock`."""

    def make(view: DeviceView, model: ModelView | None) -> Driver:
        rules = {} if model is None else model.rules
        config = view.protocol_config or (model.protocol_config if model else None) or {}
        if config.get("kind") == LOAD:
            return make_load(view, config, rules, clock)
        physics = _physics(view, config, rules, clock())
        return VirtualDriver(physics, rules, clock, tuple(view.properties))

    return make


def _physics(
    view: DeviceView, config: JsonObject, rules: Mapping[str, ValueRule], now_ms: int
) -> Physics:
    kind = config.get("kind")
    if kind == "thermostat":
        seed, ambient = config.get("seed", 0), config.get("ambient", AMBIENT)
        if not isinstance(seed, int) or not isinstance(ambient, int | float):
            raise BadRequest("virtual thermostat: expected numbers for seed and ambient")
        return Thermostat(seed, now_ms, float(ambient))
    if kind == "lamp":
        return Lamp()
    if kind in (None, "holder"):
        return Holder({name: _first_value(rules.get(name)) for name in view.properties})
    raise BadRequest(
        f"virtual device: expected kind thermostat, lamp, holder or load, got {kind!r}"
    )


def _first_value(rule: ValueRule | None) -> Typed:
    if rule is None:
        return ""
    low = rule.minimum or 0
    firsts: dict[PropertyType, Typed] = {
        PropertyType.INT: int(low),
        PropertyType.FLOAT: float(low),
        PropertyType.DOUBLE: float(low),
        PropertyType.BOOLEAN: False,
    }
    return firsts.get(rule.type, "")


_TYPES: tuple[tuple[type, PropertyType], ...] = (
    (bool, PropertyType.BOOLEAN),
    (int, PropertyType.INT),
    (float, PropertyType.DOUBLE),
    (str, PropertyType.STRING),
)


def _type_of(value: Typed) -> PropertyType:
    return next(kind for python, kind in _TYPES if isinstance(value, python))
