"""Bluetooth devices from kubectl to a lamp: real processes, the documentation's sample, no radio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ble import peripherals as parts
from tests.ble.bus import DAEMON
from tests.edge_walk import NAMESPACE, NODE, Edge, a_cloud, an_edge, join, new_token
from tests.lab_walk import LabProcess, a_lab, faults, reported, sample_of, status
from tests.process import eventually
from tests.walk import Walk, twinspan_cli

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(DAEMON is None, reason="dbus-daemon is not installed"),
]

DOCUMENT = Path(__file__).parents[2] / "docs" / "devices-bluetooth.md"


@pytest.fixture(scope="module")
def lab() -> Iterator[LabProcess]:
    with a_lab("tests.ble.lab") as lab:
        yield lab


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    with a_cloud(tmp_path_factory.mktemp("ble") / "cloud") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def edge(cloud: Walk, lab: LabProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge") / "edge"
    said = join(cloud, folder, new_token(cloud, "--node", NODE), "--node-name", NODE)
    assert said.startswith("0 "), said
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBUS_SYSTEM_BUS_ADDRESS", lab.address)
        with an_edge(cloud, folder) as edge:
            cloud.kubectl("apply", "-f", "-", stdin=sample_of(DOCUMENT))
            yield edge


def test_devices_of_the_sample_show_up_in_things_and_device_statuses(
    cloud: Walk, edge: Edge
) -> None:
    eventually(lambda: reported(cloud, "thermo", "temperature") == 21.37, seconds=60)
    eventually(lambda: reported(cloud, "thermo", "battery") == 95)
    eventually(lambda: reported(cloud, "thermo", "manufacturer") == "Acme")
    eventually(lambda: reported(cloud, "climate", "temperature") == 25.06)
    eventually(lambda: reported(cloud, "climate", "rssi") == -50)
    eventually(lambda: reported(cloud, "hci0", "state") == "up")
    eventually(lambda: (reported(cloud, "hci0", "discovered") or 0) >= 8)
    twins = {each["propertyName"]: each for each in status(cloud, "thermo")["twins"]}
    assert twins["temperature"]["reported"]["value"] == "21.37"


def test_a_notification_changes_the_thing_and_a_wish_changes_the_lamp(
    cloud: Walk, edge: Edge, lab: LabProcess
) -> None:
    assert lab.say("set thermo 2A6E 6009") == "ok"
    eventually(lambda: reported(cloud, "thermo", "temperature") == 24.0)
    eventually(lambda: reported(cloud, "lamp", "level") == 100)
    path = f"things/{NAMESPACE}:lamp/features"
    for name, value in (("on", True), ("level", 30)):
        put = cloud.ditto("PUT", f"{path}/{name}/desiredProperties/value", data=value)
        assert put.status in (201, 204)
    eventually(lambda: lab.say(f"show lamp {parts.LAMP_LEVEL}") == "1e")
    eventually(lambda: lab.say(f"show lamp {parts.LAMP_ON}") == "01")
    eventually(lambda: reported(cloud, "lamp", "level") == 30)


def test_what_is_in_the_air_is_probed_accepted_and_serves(
    cloud: Walk, edge: Edge, lab: LabProcess
) -> None:
    folder = str(edge.running.data_dir)
    probe = ("edge", "order", "bluetooth", "probe", f"address={parts.HEART}")
    assert "heartRate" in twinspan_cli(*probe, "--data-dir", folder)
    accept = ("device", "accept", parts.HEART, "-n", NAMESPACE, "--name", "belt")
    eventually(
        lambda: (
            parts.HEART.lower()
            in twinspan_cli(
                "device", "discovered", "--data-dir", str(cloud.running.data_dir)
            ).lower()
        ),
        what="the belt in the cloud's list",
    )
    twinspan_cli(*accept, "--data-dir", str(cloud.running.data_dir))
    eventually(lambda: status(cloud, "belt").get("state") == "online", seconds=60)
    lab.say("set heart 2A37 0650")
    eventually(lambda: reported(cloud, "belt", "heartRate") == 80)


def test_an_adapter_that_goes_is_the_devices_fault_and_comes_back(
    cloud: Walk, edge: Edge, lab: LabProcess
) -> None:
    lab.say("kill")
    eventually(lambda: reported(cloud, "hci0", "state") == "no-bluetoothd", seconds=30)
    eventually(lambda: status(cloud, "thermo").get("state") == "offline", seconds=30)
    eventually(lambda: "bluetoothd does not run" in faults(cloud, "thermo"), seconds=30)
    lab.say("start")
    eventually(lambda: reported(cloud, "hci0", "state") == "up", seconds=60)
    lab.say("set thermo 2A6E 8813")
    eventually(lambda: reported(cloud, "thermo", "temperature") == 50.0, seconds=60)
    eventually(lambda: status(cloud, "thermo").get("state") == "online", seconds=30)
    assert edge.metric("twinspan_edge_mapper_starts_total") == 1  # the process lived through it
