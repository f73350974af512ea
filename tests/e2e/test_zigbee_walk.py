"""A Zigbee network from kubectl to a lamp: real processes, the documentation's sample, a stick of our own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edge_walk import NAMESPACE, NODE, Edge, a_cloud, an_edge, join, new_token
from tests.lab_walk import LabProcess, a_lab, reported, sample_of, status
from tests.process import eventually
from tests.walk import Walk, try_twinspan, twinspan_cli
from tests.zigbee import kinds

pytestmark = pytest.mark.e2e

PLUG = kinds.ieee_text(kinds.make("plug").ieee)
DOCUMENT = Path(__file__).parents[2] / "docs" / "devices-zigbee.md"


@pytest.fixture(scope="module")
def lab() -> Iterator[LabProcess]:
    with a_lab("tests.zigbee.lab") as lab:
        yield lab


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    with a_cloud(tmp_path_factory.mktemp("zigbee") / "cloud") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def edge(cloud: Walk, lab: LabProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge") / "edge"
    said = join(cloud, folder, new_token(cloud, "--node", NODE), "--node-name", NODE)
    assert said.startswith("0 "), said
    settings = (f"edge.mappers.zigbee.device={lab.address}", "edge.mappers.zigbee.channel=20")
    with an_edge(cloud, folder, *settings) as edge:
        cloud.kubectl("apply", "-f", "-", stdin=sample_of(DOCUMENT))
        yield edge


def want(cloud: Walk, device: str, index: int, value: str) -> None:
    change = [{"op": "replace", "path": f"/spec/properties/{index}/desired/value", "value": value}]
    cloud.kubectl(
        "patch", "device", device, "-n", NAMESPACE, "--type=json", "-p", json.dumps(change)
    )


def wish(cloud: Walk, device: str, name: str, value: Any) -> None:
    path = f"things/{NAMESPACE}:{device}/features/{name}/desiredProperties/value"
    assert cloud.ditto("PUT", path, data=value).status in (201, 204)


def mapper_pid(edge: Edge) -> int:
    """The process of the mapper, a child of EdgeCore; 0 while there is none."""
    children = Path(f"/proc/{edge.running.pid}/task/{edge.running.pid}/children").read_text()
    return int((children.split() or ["0"])[0])


def test_a_network_is_formed_and_opened_by_kubectl(
    cloud: Walk, edge: Edge, lab: LabProcess
) -> None:
    eventually(lambda: reported(cloud, "coordinator", "state") == "up", seconds=60)
    assert reported(cloud, "coordinator", "channel") == 20
    want(cloud, "coordinator", 0, "120")
    eventually(lambda: (reported(cloud, "coordinator", "permitJoin") or 0) > 0)


def test_a_lamp_joins_reports_and_is_switched_from_its_thing(
    cloud: Walk, edge: Edge, lab: LabProcess
) -> None:
    lab.say("join lamp")
    eventually(lambda: reported(cloud, "zigbee-lamp", "on") is False, seconds=90)
    assert reported(cloud, "coordinator", "devices") == 1
    lab.say("report lamp 1")
    eventually(lambda: reported(cloud, "zigbee-lamp", "on") is True)
    twins = {each["propertyName"]: each for each in status(cloud, "zigbee-lamp")["twins"]}
    assert twins["on"]["reported"]["value"] == "true"
    wish(cloud, "zigbee-lamp", "on", False)
    eventually(lambda: lab.shows("lamp", "'0x6': {'0x0': 0}"))
    eventually(lambda: reported(cloud, "zigbee-lamp", "on") is False)
    wish(cloud, "zigbee-lamp", "brightness", 50)
    eventually(lambda: lab.shows("lamp", "'0x8': {'0x0': 127}"))


def test_a_plug_is_let_in_by_an_order_and_accepted_with_one_command(
    cloud: Walk, edge: Edge, lab: LabProcess
) -> None:
    ours = ("--data-dir", str(edge.running.data_dir))
    order = ("edge", "order", "zigbee", "permit-join", "seconds=60", *ours)
    metaserver = f"edge.metaserver.bind={edge.running.endpoints['edge.metaserver']}"
    assert "60" in twinspan_cli(*order, "--set", metaserver)
    lab.say("join plug")

    def accepted() -> bool:
        done = try_twinspan(
            *("device", "accept", PLUG, "-n", NAMESPACE, "--name", "plug"),
            *("--data-dir", str(cloud.running.data_dir)),
        )
        return done.returncode == 0

    eventually(accepted, seconds=60, every=1.0)
    eventually(lambda: reported(cloud, "plug", "power") == 39.8, seconds=60)
    assert reported(cloud, "plug", "energy") == 12.345
    model = cloud.kubectl_json("get", "devicemodels", "-n", NAMESPACE)["items"]
    units = {p["name"]: p.get("unit") for each in model for p in each["spec"]["properties"]}
    assert units["power"] == "W"


def test_a_stick_that_is_unplugged_is_told_and_found_again(
    cloud: Walk, edge: Edge, lab: LabProcess
) -> None:
    lab.say("unplug")
    eventually(lambda: reported(cloud, "coordinator", "state") == "away")
    eventually(lambda: status(cloud, "zigbee-lamp").get("state") == "offline")
    lab.say("plug")
    eventually(lambda: reported(cloud, "coordinator", "state") == "up", seconds=60)
    eventually(lambda: status(cloud, "zigbee-lamp").get("state") == "online", seconds=60)
    wish(cloud, "zigbee-lamp", "brightness", 70)
    eventually(lambda: lab.shows("lamp", "'0x8': {'0x0': 178}"))
    eventually(lambda: reported(cloud, "zigbee-lamp", "brightness") == 70)


def test_a_killed_mapper_and_a_killed_edgecore_find_their_network_again(
    cloud: Walk, edge: Edge, lab: LabProcess
) -> None:
    pan, child = reported(cloud, "coordinator", "panId"), mapper_pid(edge)
    os.kill(child, signal.SIGKILL)
    wish(cloud, "zigbee-lamp", "brightness", 30)
    eventually(lambda: lab.shows("lamp", "'0x8': {'0x0': 76}"), seconds=90)
    eventually(lambda: reported(cloud, "zigbee-lamp", "brightness") == 30)
    assert mapper_pid(edge) not in (0, child)
    child = mapper_pid(edge)
    edge.running.kill()
    eventually(lambda: not Path(f"/proc/{child}").exists(), what="the mapper's end")
    edge.running.start()
    wish(cloud, "zigbee-lamp", "brightness", 20)
    eventually(lambda: lab.shows("lamp", "'0x8': {'0x0': 51}"), seconds=90)
    eventually(lambda: reported(cloud, "zigbee-lamp", "brightness") == 20)
    assert reported(cloud, "coordinator", "panId") == pan
    assert reported(cloud, "coordinator", "devices") == 2
