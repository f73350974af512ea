"""Devices applied by kubectl, used at the edge: methods, a push to Redis, and what does not work."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.database_servers import program
from tests.e2e.test_walk_metaserver import Kubectl, cli, join
from tests.ports import free_port
from tests.process import Twinspan, eventually, run, tool, twinspan

pytestmark = pytest.mark.e2e

API = "devices.kubeedge.io/v1beta1"
METHOD = f"/apis/{API}/namespaces/default/devices/lamp/methods/dim"
TOPIC = "twinspan/method/default/lamp/dim"


def documents(redis: int) -> list[dict[str, Any]]:
    model = {
        "properties": [
            {"name": "on", "type": "BOOLEAN", "accessMode": "ReadWrite"},
            {"name": "brightness", "type": "INT", "accessMode": "ReadWrite", "maximum": "100"},
        ]
    }
    push = {"dbMethod": {"redis": {"redisClientConfig": {"addr": f"127.0.0.1:{redis}"}}}}
    lamp = {
        "deviceModelRef": {"name": "lamp"},
        "nodeName": "edge-9",
        "protocol": {"protocolName": "virtual", "configData": {"kind": "lamp"}},
        "properties": [
            {"name": "on", "collectCycle": 200},
            {"name": "brightness", "collectCycle": 200, "pushMethod": push},
        ],
        "methods": [{"name": "dim", "propertyNames": ["on", "brightness"]}],
        "stateReport": {"reportToCloud": True, "reportCycle": 1000},
    }
    pump = {
        "deviceModelRef": {"name": "lamp"},
        "nodeName": "edge-9",
        "protocol": {"protocolName": "profinet", "configData": {"slaveID": 1}},
        "properties": [{"name": "on"}],
        "methods": [{"name": "start", "propertyNames": ["speed"]}],
    }
    return [
        {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}
        for kind, name, spec in (
            ("DeviceModel", "lamp", model),
            ("Device", "lamp", lamp),
            ("Device", "pump", pump),
        )
    ]


@contextmanager
def a_redis(folder: Path) -> Iterator[int]:
    port = free_port()
    words = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    process = subprocess.Popen(
        [program("redis-server"), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(20)


def reported(there: Kubectl, device: str = "lamp") -> dict[str, str]:
    """What the DeviceStatus shows."""
    text = there("get", "devicestatus", device, "--ignore-not-found", "-o", "json")
    twins = json.loads(text)["status"].get("twins", []) if text else []
    return {each["propertyName"]: each.get("reported", {}).get("value") for each in twins}


def faults(there: Kubectl) -> dict[str, str]:
    text = there("get", "devicestatus", "pump", "--ignore-not-found", "-o", "json")
    found = json.loads(text)["status"].get("extensions", {}).get("faults", []) if text else []
    return {each["part"]: each["message"] for each in found}


def ask(edge: Twinspan, payload: str) -> Any:
    words = ("-p", str(edge.port("edge.mqtt")), "-t", TOPIC, "-e", f"{TOPIC}/result", "-W", "20")
    return json.loads(run(tool("mosquitto_rr"), *words, "-m", payload))


def test_devices_are_used_by_their_methods_and_their_faults_are_seen(tmp_path: Path) -> None:
    with twinspan(tmp_path / "cloud", "cloud", "--demo") as cloud, a_redis(tmp_path) as redis:
        join(cloud, tmp_path / "edge")
        there = Kubectl(tmp_path, "cloud", cli("kubeconfig", "--data-dir", str(cloud.data_dir)))
        with twinspan(tmp_path / "edge", "edge", "run") as edge:
            there(
                "apply",
                "-f",
                "-",
                stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents(redis)}),
            )
            eventually(lambda: reported(there).get("brightness") == "100", what="a first report")

            answer = ask(edge, '{"event_id": "e1", "values": {"brightness": 40}}')
            assert answer["event_id"] == "e1"
            assert answer["properties"] == {"brightness": {"value": "40", "state": "written"}}
            eventually(lambda: reported(there)["brightness"] == "40", what="what MQTT wrote")
            assert ask(edge, '{"values": {"brightness": 400}}')["code"] == 400

            here = Kubectl(
                tmp_path, "edge", cli("edge", "kubeconfig", "--data-dir", str(edge.data_dir))
            )
            said = here("create", "--raw", METHOD, "-f", "-", stdin='{"on": true}')
            assert json.loads(said)["properties"]["on"] == {"value": "true", "state": "written"}
            eventually(lambda: reported(there)["on"] == "true", what="what kubectl wrote")

            members = run(program("redis-cli"), "-p", str(redis), "ZRANGE", "lamp", "0", "-1")
            values = [json.loads(line)["Value"] for line in members.splitlines()]
            assert values[0] == "100"
            assert values[-1] == "40"

            eventually(lambda: sorted(faults(there)) == ["driver", "method start"], what="faults")
            assert "nobody serves the protocol 'profinet'" in faults(there)["driver"]
            wide = there("get", "devicestatus", "pump", "-o", "wide", "--no-headers")
            assert "unknown" in wide
            assert "nobody serves" in wide
            events = there("get", "events", "-o", "jsonpath={.items[*].reason}").split()
            assert "DeviceFault" in events
            shown = cli("edge", "status", "--data-dir", str(edge.data_dir))
            assert "fault     default/pump: driver: nobody serves" in shown
            online = there("get", "devicestatus", "lamp", "-o", "jsonpath={.status.lastOnlineTime}")
            eventually(
                lambda: (
                    there("get", "devicestatus", "lamp", "-o", "jsonpath={.status.lastOnlineTime}")
                    != online
                ),
                what="the state, said again",
            )
