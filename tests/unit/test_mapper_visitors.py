"""One wrong visitor is a fault of its property, and of no other."""

from __future__ import annotations

from edge.mappers.configdata import ConfigData
from edge.mappers.visitors import places_of
from tests.family_rig import bound, prop


def test_a_wrong_visitor_is_a_fault_of_its_property_alone() -> None:
    view, _ = bound("modbus", {}, prop("good", register=7), prop("wrong", register="x"))

    def read(name: str, config: ConfigData) -> tuple[str, int]:
        return name, config.integer("register", high=9)

    places, faults = places_of(view, read)
    assert places == {"good": ("good", 7)}
    assert list(faults) == ["wrong"]
    assert "wrong.register" in faults["wrong"]
