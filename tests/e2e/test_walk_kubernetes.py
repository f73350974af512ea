"""kubectl against the embedded API, and Devices on their way to the local edge, its twin and back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.process import eventually, twinspan
from tests.walk import Walk, a_kubectl, curl, lines_of, twinspan_cli

pytestmark = pytest.mark.e2e

API = "devices.kubeedge.io/v1beta1"
CYCLE_MS = 100
QUIET_READINGS = 60
"""Times that devices are read while nothing may change: two properties every tenth of a second."""


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    a_kubectl()
    with twinspan(tmp_path_factory.mktemp("kubernetes") / "data", "up", "--demo") as running:
        yield Walk(running)


def a_lamp(name: str, node: str, *, on: str = "false") -> str:
    """A virtual lamp that reports often."""
    names = (("on", on), ("brightness", "80"))
    properties = [
        {
            "name": prop,
            "desired": {"value": value},
            "reportToCloud": True,
            "reportCycle": CYCLE_MS,
            "collectCycle": CYCLE_MS,
            "visitors": {"protocolName": "virtual"},
        }
        for prop, value in names
    ]
    spec = {
        "deviceModelRef": {"name": "lamp-model"},
        "nodeName": node,
        "protocol": {"protocolName": "virtual", "configData": {"kind": "lamp"}},
        "properties": properties,
    }
    metadata = {"name": name, "namespace": "default"}
    return json.dumps({"apiVersion": API, "kind": "Device", "metadata": metadata, "spec": spec})


@pytest.fixture(scope="module")
def node(walk: Walk) -> str:
    """The local edge's name."""
    name: str = walk.kubectl_json("get", "nodes")["items"][0]["metadata"]["name"]
    return name


@pytest.fixture(scope="module")
def porch(walk: Walk, node: str) -> str:
    """A lamp that kubectl made, once its thing shows what it reported."""
    walk.kubectl("apply", "-f", "-", stdin=a_lamp("porch", node))
    eventually(lambda: reported(walk, "porch") is False, what="the lamp's first report")
    return "porch"


def feature(walk: Walk, name: str) -> Any:
    return walk.thing(f"default:{name}", "/features/on") or {}


def reported(walk: Walk, name: str) -> Any:
    return feature(walk, name).get("properties", {}).get("value")


def desired_in_kube(walk: Walk, name: str) -> str:
    path = "jsonpath={.spec.properties[0].desired.value}"
    return walk.kubectl("get", "device", name, "-o", path)


# --- the API, by kubectl


def test_twinspan_kubeconfig_is_all_that_kubectl_needs(walk: Walk) -> None:
    text = twinspan_cli("kubeconfig", "--data-dir", str(walk.running.data_dir))
    file = walk.running.data_dir.parent / "printed-kubeconfig"
    file.write_text(text)
    assert "default" in walk.kubectl("--kubeconfig", str(file), "get", "namespaces")


def test_get_nodes_shows_the_local_edge_ready_with_a_lease(walk: Walk, node: str) -> None:
    header, row = walk.kubectl("get", "nodes").splitlines()
    assert header.split() == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    assert row.split()[:3] == [node, "Ready", "agent,edge"]

    def renewed() -> str:
        return walk.kubectl(
            "get", "lease", node, "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}"
        )

    first = renewed()
    eventually(lambda: renewed() > first, seconds=30.0, every=0.5, what="renewal of the lease")


def test_devices_are_applied_listed_edited_patched_and_deleted(walk: Walk) -> None:
    lamp = a_lamp("workbench", "nowhere")
    assert "created" in walk.kubectl("apply", "-f", "-", stdin=lamp)
    assert "unchanged" in walk.kubectl("apply", "-f", "-", stdin=lamp)
    assert generation(walk, "workbench") == 1
    assert "configured" in walk.kubectl(
        "apply", "-f", "-", stdin=a_lamp("workbench", "nowhere", on="true")
    )
    assert generation(walk, "workbench") == 2
    table = [line.split() for line in walk.kubectl("get", "devices").splitlines()]
    assert table[0] == ["NAME", "MODEL", "NODE", "AGE"]
    assert ["workbench", "lamp-model", "nowhere"] in [row[:3] for row in table]
    editor = {"KUBE_EDITOR": "sed -i s/nowhere/elsewhere/"}
    assert "edited" in walk.kubectl("edit", "device", "workbench", environment=editor)
    assert generation(walk, "workbench") == 3
    operations = '[{"op":"replace","path":"/spec/nodeName","value":"there"}]'
    walk.kubectl("patch", "device", "workbench", "--type=json", "-p", operations)
    walk.kubectl("patch", "device", "workbench", "--type=merge", "-p", '{"spec":{"nodeName":"x"}}')
    walk.kubectl("label", "device", "workbench", "room=cellar")
    assert generation(walk, "workbench") == 5
    chosen = walk.kubectl("get", "device", "-l", "room=cellar", "-o", "name")
    assert chosen.split() == ["device.devices.kubeedge.io/workbench"]
    assert "deleted" in walk.kubectl("delete", "device", "workbench")
    assert "NotFound" in walk.kubectl("get", "device", "workbench", fails=True)


def generation(walk: Walk, name: str) -> int:
    found: int = walk.kubectl_json("get", "device", name)["metadata"]["generation"]
    return found


@pytest.mark.parametrize(
    ("kind", "document", "patch", "path"),
    [
        (
            "namespace",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "plant"}},
            {"metadata": {"annotations": {"twinspan.io/tenant": "walk"}}},
            "{.metadata.annotations.twinspan\\.io/tenant}",
        ),
        (
            "node",
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "far-away"}},
            {"metadata": {"annotations": {"twinspan.io/tenant": "walk"}}},
            "{.metadata.annotations.twinspan\\.io/tenant}",
        ),
        (
            "devicemodel",
            {
                "apiVersion": API,
                "kind": "DeviceModel",
                "metadata": {"name": "pump-model", "namespace": "default"},
                "spec": {"properties": [{"name": "rpm", "type": "INT", "accessMode": "ReadOnly"}]},
            },
            {"spec": {"protocol": "walk"}},
            "{.spec.protocol}",
        ),
        (
            "devicestatus",
            {
                "apiVersion": API,
                "kind": "DeviceStatus",
                "metadata": {"name": "by-hand", "namespace": "default"},
                "status": {"state": "ok"},
            },
            {"metadata": {"labels": {"x": "walk"}}},
            "{.metadata.labels.x}",
        ),
    ],
)
def test_the_other_kinds_are_created_listed_watched_patched_and_deleted(
    walk: Walk, kind: str, document: Any, patch: Any, path: str
) -> None:
    name = document["metadata"]["name"]
    watch = (str(a_kubectl()), "get", kind, "-w", "--no-headers", "--output-watch-events")
    with lines_of(*watch, env=walk.kubectl_environment()) as lines:
        assert "created" in walk.kubectl("create", "-f", "-", stdin=json.dumps(document))
        assert lines.until(name).split()[:2] == ["ADDED", name]
        assert name in walk.kubectl("get", kind)
        walk.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps(patch))
        assert lines.until(name).split()[:2] == ["MODIFIED", name]
        assert walk.kubectl("get", kind, name, "-o", f"jsonpath={path}") == "walk"
        assert "deleted" in walk.kubectl("delete", kind, name, "--timeout=20s")
        assert "DELETED" in lines.until("DELETED")
    assert "NotFound" in walk.kubectl("get", kind, name, fails=True)


def test_errors_are_kubernetes_status_objects(walk: Walk) -> None:
    lamp = json.loads(a_lamp("lamp", "x"))
    assert "AlreadyExists" in walk.kubectl("create", "-f", "-", stdin=json.dumps(lamp), fails=True)
    stale = {**lamp, "metadata": {**lamp["metadata"], "resourceVersion": "1"}}
    assert "Conflict" in walk.kubectl("replace", "-f", "-", stdin=json.dumps(stale), fails=True)
    wrong = {**lamp, "metadata": {"name": "bad", "namespace": "default"}}
    wrong["spec"] = {**lamp["spec"], "properties": "none"}
    refused = walk.kubectl(
        "create", "--validate=false", "-f", "-", stdin=json.dumps(wrong), fails=True
    )
    assert "Invalid" in refused or "invalid" in refused
    with lines_of(str(a_kubectl()), "proxy", "--port=0", env=walk.kubectl_environment()) as proxy:
        address = proxy.until("Starting to serve on").rpartition(" ")[2]
        base = f"http://{address}/apis/{API}/namespaces/default/devices"
        status = curl("POST", base, data="x", content_type="text/csv").json
        assert (status["kind"], status["code"]) == ("Status", 415)
        status = curl("PATCH", f"{base}/lamp", data="{}", content_type="application/json").json
        assert (status["code"], status["reason"]) == (415, "UnsupportedMediaType")
        status = curl("POST", base, data=json.dumps(wrong)).json
        assert (status["code"], status["reason"]) == (422, "Invalid")
        status = curl("POST", base, data="{broken").json
        assert (status["code"], status["reason"]) == (400, "BadRequest")
        status = curl("GET", f"{base}/missing").json
        assert (status["code"], status["details"]["name"]) == (404, "missing")


# --- Devices reach the edge and become things


def test_a_device_made_by_kubectl_reaches_the_edge_and_becomes_a_thing(
    walk: Walk, porch: str, node: str
) -> None:
    thing = walk.thing(f"default:{porch}")
    assert thing["attributes"]["kubeedge"]["node"] == node
    assert feature(walk, porch) == {
        "properties": {"value": False},
        "desiredProperties": {"value": False},
    }
    status = walk.kubectl_json("get", "devicestatus", porch)["status"]
    assert status["state"] == "online"
    by_name = {twin["propertyName"]: twin for twin in status["twins"]}
    assert by_name["on"]["reported"]["value"] == "false"
    with walk.subscribed(None, "-t", f"$hw/events/device/default/{porch}/#") as local:
        switch_by_kubectl(walk, porch, "true")
        assert local.message("twin/update/document")
    eventually(lambda: reported(walk, porch) is True)


def test_a_device_deleted_by_kubectl_takes_its_thing_along(walk: Walk, node: str) -> None:
    walk.kubectl("apply", "-f", "-", stdin=a_lamp("brief", node))
    eventually(lambda: reported(walk, "brief") is False)
    walk.kubectl("delete", "device", "brief")
    eventually(lambda: walk.thing("default:brief") is None)
    eventually(lambda: "brief" not in walk.kubectl("get", "devicestatus"))


# --- the lamp, from both sides


def switch_by_kubectl(walk: Walk, name: str, value: str) -> None:
    wanted = [{"op": "add", "path": "/spec/properties/0/desired", "value": {"value": value}}]
    walk.kubectl("patch", "device", name, "--type=json", "-p", json.dumps(wanted))


def switch_by_thing(walk: Walk, name: str, *, value: bool) -> None:
    path = f"things/default:{name}/features/on/desiredProperties"
    assert walk.ditto("PUT", path, data={"value": value}).status == 204


def test_the_demo_lamp_is_switched_from_both_sides(walk: Walk) -> None:
    switch_by_kubectl(walk, "lamp", "true")
    on = {"properties": {"value": True}, "desiredProperties": {"value": True}}
    eventually(lambda: feature(walk, "lamp") == on)
    switch_by_thing(walk, "lamp", value=False)
    off = {"properties": {"value": False}, "desiredProperties": {"value": False}}
    eventually(lambda: feature(walk, "lamp") == off)
    eventually(lambda: desired_in_kube(walk, "lamp") == "false")


def state_of(walk: Walk, name: str) -> tuple[int, int]:
    """The thing's revision and the Device's generation."""
    return walk.thing(f"default:{name}", "?fields=_revision")["_revision"], generation(walk, name)


def readings(walk: Walk) -> float:
    """How often the edge's virtual devices were read."""
    text = curl("GET", walk.running.url("ops.http", "/metrics")).body
    found = re.findall(r"^twinspan_edge_mapper_reads_total\{.*\} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def settled(walk: Walk, name: str) -> tuple[int, int]:
    """The state once it stays the same while the device goes on reporting."""
    for _ in range(10):
        before = state_of(walk, name)
        wait_for_readings(walk, readings(walk) + QUIET_READINGS)
        if state_of(walk, name) == before:
            return before
    pytest.fail(f"{name} does not come to rest: {before}, {state_of(walk, name)}")


def wait_for_readings(walk: Walk, number: float) -> None:
    eventually(lambda: readings(walk) >= number, every=0.2)


def wait_for_switch(walk: Walk, name: str, *, value: bool) -> None:
    wanted = {"properties": {"value": value}, "desiredProperties": {"value": value}}
    eventually(lambda: feature(walk, name) == wanted)
    eventually(lambda: desired_in_kube(walk, name) == str(value).lower())


def test_switching_from_both_sides_makes_no_echo(walk: Walk, porch: str) -> None:
    switch_by_kubectl(walk, porch, "false")
    eventually(lambda: reported(walk, porch) is False)
    revision, generation = settled(walk, porch)
    for number in range(1, 7):
        value = bool(number % 2)
        text = str(value).lower()
        if number % 3:
            switch_by_kubectl(walk, porch, text)
        else:
            switch_by_thing(walk, porch, value=value)
        wait_for_switch(walk, porch, value=value)
    # one new desired and one new reported value a switch in the thing, one new spec in the Device
    assert settled(walk, porch) == (revision + 12, generation + 6)
