"""Visitors of a Device's properties: each is read by itself, and one that is wrong is a fault of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edge.mappers.configdata import ConfigData
from gateway.errors import Rejected
from gateway.wire.cloudedge.devices import DeviceView

Place = TypeVar("Place")


def places_of(
    view: DeviceView, read: Callable[[str, ConfigData], Place]
) -> tuple[dict[str, Place], dict[str, str]]:
    """Return where the properties of a Device are, and what is wrong with those that are nowhere.

    Shape:  `read` gets a property's name and its visitor's configData. Errors of `read`: Rejected.
    """
    places: dict[str, Place] = {}
    faults: dict[str, str] = {}
    for prop in view.properties.values():
        try:
            places[prop.name] = read(prop.name, ConfigData(prop.name, prop.visitor or {}))
        except Rejected as error:
            faults[prop.name] = error.message
    return places, faults
