"""Who wins when a Device and its thing want different values of a property. Pure.

Three values meet: what the CR wants, what the thing wants, and the base, what both last agreed on. Whoever
differs from the base has changed its mind and wins; when both have, the CR wins and the conflict is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from gateway.model.json import Json
from gateway.wire.cloudedge.values import equal


class DesiredSource(Enum):
    """The annotation `twinspan.io/desired-source`: who may set desired values."""

    DEVICE = "device"
    THING = "thing"
    BOTH = "both"

    @classmethod
    def read(cls, annotation: str | None) -> DesiredSource:
        """Read the annotation; anything unknown is `both`."""
        return cls(annotation) if annotation in ("device", "thing") else cls.BOTH


@dataclass(frozen=True, slots=True)
class Base:
    """What both sides last agreed on; `desired` None: nothing is wanted."""

    desired: Json
    generation: int = 0
    revision: int = 0


class Winner(Enum):
    """Whose value the other side is to take."""

    NOBODY = "agreed"
    DEVICE = "device"
    THING = "thing"


@dataclass(frozen=True, slots=True)
class Settlement:
    """The decision about one property; `is_conflict`: both had changed it."""

    winner: Winner
    value: Json
    is_conflict: bool = False


def settle(
    device: Json, thing: Json, base: Base | None, source: DesiredSource = DesiredSource.BOTH
) -> Settlement:
    """Decide one property; None means that a side wants nothing."""
    if equal(device, thing):
        return Settlement(Winner.NOBODY, device)
    if source is DesiredSource.DEVICE:
        return Settlement(Winner.DEVICE, device)
    if source is DesiredSource.THING and (base is not None or thing is not None):
        return Settlement(Winner.THING, thing)
    if base is None:
        return _without_base(device, thing)
    if equal(thing, base.desired):
        return Settlement(Winner.DEVICE, device)
    if equal(device, base.desired):
        return Settlement(Winner.THING, thing)
    return Settlement(Winner.DEVICE, device, is_conflict=True)


def _without_base(device: Json, thing: Json) -> Settlement:
    if device is not None:
        return Settlement(Winner.DEVICE, device)
    return Settlement(Winner.THING, thing)


def settle_all(
    device: Mapping[str, Json],
    thing: Mapping[str, Json],
    bases: Mapping[str, Base],
    names: Mapping[str, object],
    source: DesiredSource,
) -> dict[str, Settlement]:
    """Decide all properties of a Device."""
    return {
        name: settle(device.get(name), thing.get(name), bases.get(name), source) for name in names
    }
