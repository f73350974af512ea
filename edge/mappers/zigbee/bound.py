"""A Device's properties on the device that is there: raw values in, readings out; wishes in, commands out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge.mappers.driver import Quality, Reading
from edge.mappers.readings import bad, reading_of, wanted_value
from edge.mappers.zigbee.codecs import Raw, Value, no_value
from edge.mappers.zigbee.places import Place
from gateway.errors import BadRequest, Rejected
from gateway.wire.cloudedge.values import PropertyType, ValueRule

Spot = tuple[int, int, int]
"""Endpoint, cluster, attribute."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One property with its endpoint and attributes found."""

    name: str
    place: Place
    rule: ValueRule
    endpoint: int
    attributes: tuple[int, ...]
    kind: str

    @property
    def spots(self) -> tuple[Spot, ...]:
        return tuple((self.endpoint, self.place.cluster, each) for each in self.attributes)

    @property
    def ratio_spots(self) -> tuple[Spot, ...]:
        ratio = self.place.ratio or ()
        return tuple((self.endpoint, self.place.cluster, each) for each in ratio)

    def reading(self, raws: Mapping[Spot, tuple[Raw, int]]) -> Reading | None:
        """Return what the device says, None while a part of it is not known yet."""
        found = [raws.get(spot) for spot in self.spots]
        if any(each is None for each in found):
            return None
        values = [each[0] for each in found if each is not None]
        at = max(each[1] for each in found if each is not None)
        if any(no_value(self.kind, each) for each in values):
            return bad(f"the device has no value now (it says {values[0]})", at)
        try:
            value = self.place.codec.decode(values)
            if value is not None and (self.place.ratio or self.place.factor != 1.0):
                value = self._scaled(value, raws)
        except (BadRequest, OverflowError, ValueError) as error:
            return bad(str(error), at)
        if value is None:
            return bad(f"no value: the device says {values[0]}", at)
        return self._judged(value, at)

    def _scaled(self, value: Value, raws: Mapping[Spot, tuple[Raw, int]]) -> Value:
        multiplier, divisor = (_positive(raws.get(spot)) for spot in self.ratio_spots)
        if isinstance(value, str):
            return value
        return round(value * multiplier / divisor * self.place.factor, 6)

    def _judged(self, value: Value, at: int) -> Reading:
        if self.rule.type is PropertyType.INT and isinstance(value, float):
            value = round(value)
        low, high = self.rule.minimum, self.rule.maximum
        if isinstance(value, int | float) and not isinstance(value, bool):
            if low is not None and value < low:
                return bad(f"{value:g} is less than the model's {low:g}", at)
            if high is not None and value > high:
                return bad(f"{value:g} is more than the model's {high:g}", at)
        return reading_of(self.rule, value, at, Quality.GOOD)

    def wish(self, text: str) -> Wish:
        """Return what is to be sent for a wanted value. Errors: Rejected, saying what was expected."""
        value = wanted_value(self.rule, text)
        command, encode = self.place.command, self.place.codec.encode
        if encode is None or (self.place.is_known and command is None):
            raise Rejected(f"{self.name} can only be read")
        if command is None:
            return Wish(attribute=self.attributes[0], value=self._attribute_value(value))
        try:
            arguments = encode(value)
        except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            raise Rejected(f"{self.name}: {error}") from error
        if command.is_number_the_value:
            return Wish(command=command.number + arguments[0])
        return Wish(
            command=command.number, arguments=arguments, has_transition=command.has_transition
        )

    def _attribute_value(self, value: Value) -> Value:
        if isinstance(value, str) or self.place.codec.encode is None:
            return value
        return self.place.codec.encode(value)[0]


@dataclass(frozen=True, slots=True)
class Wish:
    """What goes to the device: a cluster command, or an attribute's value."""

    command: int | None = None
    arguments: tuple[int, ...] = ()
    has_transition: bool = False
    attribute: int = 0
    value: Value = 0


def _positive(found: tuple[Raw, int] | None) -> float:
    """Return a multiplier or divisor; 0 and what is not there count as 1."""
    if found is None or isinstance(found[0], str) or not found[0]:
        return 1.0
    return float(found[0])


def by_spot(bounds: Iterable[Bound]) -> dict[Spot, list[Bound]]:
    """Return which properties an attribute belongs to."""
    found: dict[Spot, list[Bound]] = {}
    for bound in bounds:
        for spot in (*bound.spots, *bound.ratio_spots):
            found.setdefault(spot, []).append(bound)
    return found
