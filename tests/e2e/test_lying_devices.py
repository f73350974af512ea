"""A device that lies, from its driver to the thing: the twin holds what can be true, the rest is a fault."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.wire.cloudedge.values import MAX_TEXT
from tests.e2e.test_walk_discovery import ours
from tests.e2e.test_walk_metaserver import Kubectl
from tests.process import Twinspan, eventually, run
from tests.walk import DITTO_USER, curl

pytestmark = pytest.mark.e2e

MEGA = 1_048_576
MAX_GROWTH = 24 * MEGA
"""Bytes by which a process may grow while 20,000 notifications come."""
PROPERTIES: tuple[dict[str, Any], ...] = (
    {"name": "count", "type": "INT", "minimum": "0", "maximum": "100"},
    {"name": "heat", "type": "DOUBLE", "minimum": "-40", "maximum": "80"},
    {"name": "on", "type": "BOOLEAN"},
    {"name": "label", "type": "STRING"},
)
LIED = ("count", "heat", "on", "label")
COUNTED = ("n",)
DEVICES = {
    "liar": LIED,
    "stubborn": LIED,
    "flood": COUNTED,
    "honest": COUNTED,
    "garbled": COUNTED,
}


def model(name: str, *properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"properties": [{"accessMode": "ReadOnly", **each} for each in properties]},
    }


def device(mode: str, properties: tuple[str, ...]) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": mode, "namespace": "default"},
        "spec": {
            "deviceModelRef": {"name": "liar" if properties is LIED else "counter"},
            "nodeName": "edge-1",
            "protocol": {"protocolName": "modbus", "configData": {"mode": mode}},
            "properties": [{"name": each, "reportToCloud": True} for each in properties],
        },
    }


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twinspan]:
    folder = tmp_path_factory.mktemp("lies")
    running = Twinspan(folder / "data", ("up", "--demo"), ("edge.node_name=edge-1",))
    running.module = "tests.lying_core"
    documents = [
        model("liar", *PROPERTIES),
        model("counter", {"name": "n", "type": "INT"}),
        *(device(mode, properties) for mode, properties in DEVICES.items()),
    ]
    try:
        running.start()
        kubectl = Kubectl(folder, "cloud", ours(running, "kubeconfig"))
        stream = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
        kubectl("apply", "-f", "-", stdin=stream)
        eventually(lambda: sample(running, "notifications_total", outcome="taken") > 0)
        yield running
    finally:
        running.stop()


def sample(up: Twinspan, name: str, **labels: str) -> float:
    """The sum of a metric of mappers over the labels that are not given."""
    parse: Any = text_string_to_metric_families
    text = run("curl", "-s", up.url("ops.http", "/metrics"))
    return sum(
        float(each.value)
        for family in parse(text)
        for each in family.samples
        if each.name == f"twinspan_edge_mapper_{name}" and labels.items() <= each.labels.items()
    )


def thing(up: Twinspan, name: str) -> dict[str, Any]:
    answer = curl("GET", up.url("ditto.http", f"/api/2/things/default:{name}"), user=DITTO_USER)
    return answer.json.get("features", {}) if answer.status == 200 else {}


def value(up: Twinspan, name: str, feature: str) -> Any:
    return thing(up, name).get(feature, {}).get("properties", {}).get("value")


def faults(up: Twinspan, name: str) -> str:
    found = json.loads(ours(up, "edge", "status", "-o", "json"))
    return json.dumps(found["faults"].get(f"default/{name}"))


def resident(up: Twinspan) -> int:
    pages = int(Path(f"/proc/{up.pid}/statm").read_text().split()[1])
    return pages * 4_096


CAN_BE_TRUE: dict[str, Callable[[Any], bool]] = {
    "count": lambda it: type(it) is int,
    "heat": lambda it: type(it) in (int, float) and math.isfinite(it),
    "on": lambda it: type(it) is bool,
    "label": lambda it: type(it) is str and len(it) <= MAX_TEXT,
}


def test_a_thing_never_holds_what_its_model_does_not_allow(up: Twinspan) -> None:
    eventually(lambda: all(value(up, "liar", name) is not None for name in CAN_BE_TRUE))
    seen: dict[str, set[Any]] = {name: set() for name in CAN_BE_TRUE}
    for _ in range(40):
        for name, feature in thing(up, "liar").items():
            found = feature.get("properties", {}).get("value")
            if found is not None:
                assert CAN_BE_TRUE[name](found), (name, found)
                seen[name].add(found)
    assert seen["count"] <= {
        7,
        8,
        101,
        -1,
    }  # bounds are for what is wanted, not for what is measured
    assert not any("properties" in each for each in thing(up, "stubborn").values())


def test_lies_are_faults_and_counted(up: Twinspan) -> None:
    wanted = {*(f"property {name}" for name in LIED), "clock"}

    def are_told() -> bool:
        found = faults(up, "stubborn")
        return all(each in found for each in wanted)

    eventually(are_told, what="all faults of the device")
    eventually(lambda: sample(up, "reads_total", driver="modbus", quality="bad") > 20)
    eventually(lambda: sample(up, "call_failures_total", call="read") > 0)
    eventually(lambda: "connection" in faults(up, "garbled"))
    assert "property" not in faults(up, "honest")


def test_ten_thousand_notifications_a_second_leave_neighbours_and_memory_alone(
    up: Twinspan,
) -> None:
    eventually(lambda: value(up, "honest", "n"))
    first, taken = value(up, "honest", "n"), sample(up, "notifications_total", outcome="taken")
    reads = sample(up, "reads_total", driver="modbus")
    own, child = resident(up), sample(up, "resident_memory_bytes", driver="modbus")
    eventually(
        lambda: sample(up, "notifications_total", outcome="taken") >= taken + 20_000, seconds=60
    )
    assert eventually(lambda: (value(up, "honest", "n") or 0) > first)
    assert (sample(up, "reads_total", driver="modbus") - reads) < 2_000  # coalesced
    assert resident(up) - own < MAX_GROWTH
    assert sample(up, "resident_memory_bytes", driver="modbus") - child < MAX_GROWTH
    assert sample(up, "starts_total", driver="modbus") == 1
