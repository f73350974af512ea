"""A Device's properties on the device that is there: raw values in, readings out; wishes in, commands out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge.mappers.driver import Quality, Reading
from edge.mappers.readings import bad, reading_of, wanted_value
from edge.mappers.zigbee.codecs import Raw, Value, no_value, real
from edge.mappers.zigbee.meanings import FULL_MEANT
from edge.mappers.zigbee.places import Place
from gateway.errors import BadRequest, Rejected
from gateway.wire.cloudedge.values import PropertyType, ValueRule

Spot = tuple[int, int, int]
"""Endpoint, cluster, attribute."""
_TEXTS = ("string", "octstr")
_REALS = ("semi", "single", "double")


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
        """Return what the device says, None while a part of it is not known yet.

        A number without its divisor would be a thousand times too large: it waits for that.
        """
        found = [raws.get(spot) for spot in self.spots]
        if any(each is None for each in found) or not raws.keys() >= {*self.ratio_spots}:
            return None
        values = [self._short(each[0]) for each in found if each is not None]
        at = max(each[1] for each in found if each is not None)
        if any(self._is_none(*each) for each in zip(self.attributes, values, strict=True)):
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

    def _short(self, raw: Raw) -> Raw:
        """Take the noise off a number that has seven digits."""
        is_noisy = isinstance(raw, float) and self.kind == "single"
        return float(f"{raw:.7g}") if is_noisy else raw

    def _is_none(self, attribute: int, raw: Raw) -> bool:
        return (self.place.cluster, attribute) not in FULL_MEANT and no_value(self.kind, raw)

    def _scaled(self, value: Value, raws: Mapping[Spot, tuple[Raw, int]]) -> Value:
        multiplier, divisor = (_positive(raws.get(spot)) for spot in self.ratio_spots)
        if isinstance(value, str):
            return value
        return round(value * multiplier / divisor * self.place.factor, 6)

    def _judged(self, value: Value, at: int) -> Reading:
        if self.rule.type is PropertyType.INT and isinstance(value, float):
            value = round(value)
        return reading_of(self.rule, value, at, Quality.GOOD)

    def wish(self, text: str) -> Wish:
        """Return what is to be sent for a wanted value. Errors: Rejected, saying what was expected."""
        value = wanted_value(self.rule, text)
        command, encode = self.place.command, self.place.codec.encode
        is_own = self.place.is_writable or not self.place.is_known
        if encode is None or (command is None and not is_own):
            raise Rejected(f"{self.name} can only be read")
        try:
            if command is None:
                return Wish(attribute=self.attributes[0], value=self._attribute_value(value))
            arguments = encode(value)
        except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            raise Rejected(f"{self.name}: {error}") from error
        if command.is_number_the_value:
            return Wish(command=command.number + arguments[0])
        return Wish(
            command=command.number, arguments=arguments, has_transition=command.has_transition
        )

    def _attribute_value(self, value: Value) -> Value:
        if self.kind.startswith(_TEXTS):
            return value if isinstance(value, str) else str(value)
        if self.kind in _REALS:
            return real(value) / self.place.scale
        encode = self.place.codec.encode
        return value if encode is None else encode(value)[0]

    def means(self, wish: Wish, raws: Mapping[Spot, tuple[Raw, int]]) -> bool:
        """Say whether the device has what was wished, as near as its numbers can say it."""
        found = [raws.get(spot) for spot in self.spots]
        wanted = wish.arguments if wish.command is not None else (wish.value,)
        return len(wanted) == len(found) and all(
            raw is not None and _is_near(raw[0], each, self.place.near)
            for raw, each in zip(found, wanted, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What goes to the device: a cluster command, or an attribute's value."""

    command: int | None = None
    arguments: tuple[int, ...] = ()
    has_transition: bool = False
    attribute: int = 0
    value: Value = 0


def _is_near(raw: Raw, wanted: Value, near: int) -> bool:
    if isinstance(raw, str) or isinstance(wanted, str):
        return raw == wanted
    return abs(raw - wanted) <= (near or abs(wanted) * 1e-6)  # a single has seven digits


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
