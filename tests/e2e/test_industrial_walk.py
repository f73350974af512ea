"""Modbus, OPC UA, HTTP, CoAP and EdgeX from kubectl to the machine: the documents' samples, really run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edge_walk import NAMESPACE, NODE, Edge, a_cloud, an_edge, join, new_token
from tests.integration.test_mapper_edgex import (
    TEMP,
    a_reading,
    a_request,
    an_envelope,
    an_event,
    in_base64,
)
from tests.machines import PASSWORD
from tests.mqtt_peers import tool
from tests.ports import free_port
from tests.process import eventually
from tests.walk import Walk

pytestmark = pytest.mark.e2e

DOCS = Path(__file__).parents[2] / "docs"
TOPIC = "edgex/events/device/device-virtual/Sensor/Boiler-1/all"
MAX_EDGE_MB = 60


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    folder = tmp_path_factory.mktemp("machines")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.machines", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    broker = free_port()
    bus = subprocess.Popen(
        [tool("mosquitto"), "-p", str(broker)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield {**json.loads(process.stdout.readline()), "edgex": broker}
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()
        bus.terminate()
        bus.wait(10)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    with a_cloud(tmp_path_factory.mktemp("industrial") / "cloud") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def edge(
    cloud: Walk, ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge") / "edge"
    said = join(cloud, folder, new_token(cloud, "--node", NODE), "--node-name", NODE)
    assert said.startswith("0 "), said
    secrets = folder / "edge" / "hardware" / "opcua" / "secrets"
    secrets.mkdir(parents=True, mode=0o700)
    (secrets / "pump-1").write_text(PASSWORD)
    with an_edge(cloud, folder, f"edge.mappers.edgex.broker=127.0.0.1:{ports['edgex']}") as edge:
        for protocol in ("modbus", "opcua", "http", "coap", "edgex"):
            cloud.kubectl("apply", "-f", "-", stdin=sample(protocol, ports))
        yield edge


def sample(protocol: str, ports: dict[str, int]) -> str:
    """The manifests of a document, with the test's addresses in the place of the document's."""
    found = re.findall(
        r"```yaml\n(.*?)```", (DOCS / f"devices-{protocol}.md").read_text(), re.DOTALL
    )
    manifests: str = next(each for each in found if "kind: DeviceModel" in each)
    for old, new in (
        ("ip: 192.0.2.10, port: 502", f"ip: 127.0.0.1, port: {ports['modbus']}"),
        ("192.0.2.20:4840", f"127.0.0.1:{ports['opcua']}"),
        ("192.0.2.30", f"127.0.0.1:{ports['http']}"),
        ("192.0.2.40", f"127.0.0.1:{ports['coap']}"),
        ("127.0.0.1:59882", f"127.0.0.1:{ports['http']}"),
        ("collectCycle: 5000", "collectCycle: 500"),
        ("nodeName: edge-1", f"nodeName: {NODE}"),
        ("namespace: default", f"namespace: {NAMESPACE}"),
    ):
        manifests = manifests.replace(old, new)
    assert "192.0.2" not in manifests
    return manifests


def reported(cloud: Walk, device: str, name: str) -> Any:
    return cloud.thing(f"{NAMESPACE}:{device}", f"/features/{name}/properties/value")


def shows(cloud: Walk, device: str, name: str, value: Any) -> None:
    eventually(
        lambda: reported(cloud, device, name) == value,
        seconds=60,
        what=f"{device} {name} {value}",
    )


def wish(cloud: Walk, device: str, name: str, value: Any) -> None:
    path = f"things/{NAMESPACE}:{device}/features/{name}/desiredProperties/value"
    assert cloud.ditto("PUT", path, data=value).status in (201, 204)


def test_a_modbus_meter_is_read_and_written(cloud: Walk, edge: Edge) -> None:
    shows(cloud, "meter-1", "voltage", 230.5)
    shows(cloud, "meter-1", "limit", 80)
    wish(cloud, "meter-1", "relay", True)
    shows(cloud, "meter-1", "relay", True)


def test_an_opcua_pump_is_heard_and_written_signed_and_encrypted(cloud: Walk, edge: Edge) -> None:
    shows(cloud, "pump-1", "temperature", 61.5)
    shows(cloud, "pump-1", "speed", 1500)
    wish(cloud, "pump-1", "speed", 1200)
    shows(cloud, "pump-1", "speed", 1200)


def test_an_http_plug_is_polled_and_switched(cloud: Walk, edge: Edge) -> None:
    shows(cloud, "plug-1", "power", 12.5)
    wish(cloud, "plug-1", "relay", True)
    shows(cloud, "plug-1", "relay", True)


def test_a_coap_valve_is_observed_and_turned(cloud: Walk, edge: Edge) -> None:
    shows(cloud, "valve-1", "flow", 0.5)
    wish(cloud, "valve-1", "position", 40)
    shows(cloud, "valve-1", "position", 40)
    shows(cloud, "valve-1", "flow", 2.0)


def test_an_event_of_edgex_becomes_a_value(cloud: Walk, edge: Edge, ports: dict[str, int]) -> None:
    event = an_envelope(
        in_base64(a_request(an_event(TEMP, a_reading("Target", "Float32", "5e+01"))))
    )

    def publish() -> bool:
        words = ("-h", "127.0.0.1", "-p", str(ports["edgex"]), "-t", TOPIC, "-s")
        subprocess.run([tool("mosquitto_pub"), *words], input=event, check=True, timeout=20)
        return bool(reported(cloud, "boiler-1", "temperature") == 21.5)

    eventually(publish, seconds=60, every=0.5, what="the boiler's value")
    shows(cloud, "boiler-1", "target", 50)


def test_each_protocol_has_a_process_and_edgecore_stays_small(cloud: Walk, edge: Edge) -> None:
    pid = edge.running.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 5
    status = Path(f"/proc/{pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert resident is not None
    assert int(resident[1]) / 1_024 < MAX_EDGE_MB
