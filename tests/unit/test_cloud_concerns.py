"""What is told of Devices, and how often; which names acceptance keeps by node."""

from __future__ import annotations

from typing import Any, cast
from unittest.mock import Mock

from cloud.acceptance import Acceptance
from cloud.concerns import Concerns
from gateway.kube.informer import Change
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.subjects import DeviceKey

LAMP = DeviceKey("default", "lamp")
HOT = "property level: expected an integer, got string"


class Told:
    """The recorder of Events, and the catalog that has the Device."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def warn(self, _document: JsonObject, reason: str, message: str) -> None:
        self.told.append((reason, message))

    def device_object(self, _key: DeviceKey) -> JsonObject:
        return {}


def the_concerns() -> tuple[Concerns, Told]:
    told = Told()
    return Concerns(cast(Any, told), cast(Any, told)), told


def test_what_stands_is_told_once_and_again_after_it_was_right() -> None:
    concerns, told = the_concerns()
    for _ in range(3):
        concerns.stand(LAMP, "BadDesired", [HOT])
    assert told.told == [("BadDesired", HOT)]
    concerns.stand(LAMP, "BadDesired", [])
    concerns.stand(LAMP, "BadDesired", [HOT])
    assert told.told == [("BadDesired", HOT)] * 2


def test_what_is_new_is_told_beside_what_stands() -> None:
    concerns, told = the_concerns()
    concerns.stand(LAMP, "BadDesired", ["b"])
    concerns.stand(LAMP, "BadDesired", ["c", "b", "a"])
    concerns.stand(LAMP, "NotMappable", ["b"])
    concerns.stand(LAMP, "BadDesired", ["c", "b"])
    assert [text for _, text in told.told] == ["b", "a", "c", "b"]


def test_a_namesake_of_a_device_that_is_gone_is_told_of_its_own() -> None:
    concerns, told = the_concerns()
    concerns.stand(LAMP, "BadDesired", [HOT])
    concerns.forget(LAMP)
    concerns.stand(LAMP, "BadDesired", [HOT])
    assert len(told.told) == 2


def test_what_has_just_happened_is_told_each_time() -> None:
    concerns, told = the_concerns()
    concerns.warn(LAMP, "DesiredConflict", "a")
    concerns.warn(LAMP, "DesiredConflict", "a")
    assert len(told.told) == 2


def test_nodes_whose_sights_are_gone_take_no_memory() -> None:
    discoveries = Mock()
    made = Acceptance(Mock(), Mock(), discoveries, Mock())
    (changed,) = discoveries.on_change.call_args.args
    for number in range(50):
        name = f"edge-{number}.ble-aa"
        changed(Change(("", name), None, {}))
        changed(Change(("", name), {}, None))
        changed(Change(("", name), {}, None))
    changed(Change(("", "edge-0.ble-a"), None, {}))
    changed(Change(("", "edge-0.ble-b"), None, {}))
    changed(Change(("", "edge-0.ble-a"), {}, None))
    assert made._by_node == {"edge-0": {"edge-0.ble-b"}}
