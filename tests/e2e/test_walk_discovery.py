"""From what a mapper sees to a Device that reports, with the shipped command and kubectl."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.cli.main import main
from tests.e2e.test_walk_metaserver import Kubectl, cli
from tests.process import Twinspan, eventually, run

pytestmark = pytest.mark.e2e

SETS = ('edge.mappers.always=["modbus"]', "edge.node_name=edge-1")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twinspan]:
    running = Twinspan(tmp_path_factory.mktemp("seen") / "data", ("up", "--demo"), SETS)
    running.module = "tests.seen_core"
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="module")
def kubectl(up: Twinspan) -> Kubectl:
    folder = up.data_dir.parent
    return Kubectl(folder, "cloud", ours(up, "kubeconfig"))


@dataclass(frozen=True, slots=True)
class Called:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def called(up: Twinspan, *arguments: str) -> Called:
    """Call the command in this process, which starts a second sooner; it may fail."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([*arguments, "--data-dir", str(up.data_dir)])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Called(code, out.getvalue(), err.getvalue())


def ours(up: Twinspan, *arguments: str) -> str:
    done = called(up, *arguments)
    assert done.returncode == 0, done
    return done.stdout


def seen(kubectl: Kubectl) -> dict[str, Any]:
    """The DiscoveredDevices by address, once they have a status."""
    found = json.loads(kubectl("get", "dd", "-o", "json"))["items"]
    return {each["status"]["address"]: each for each in found if "status" in each}


def name_of(kubectl: Kubectl, address: str) -> str:
    found = eventually(lambda: seen(kubectl).get(address, {}), what=f"{address} is listed")
    return str(found["metadata"]["name"])


def status_of(kubectl: Kubectl, name: str) -> dict[str, Any]:
    found = json.loads(kubectl("get", "devicestatus", "-o", "json"))["items"]
    return next((e["status"] for e in found if e["metadata"]["name"] == name), {})


def twins(kubectl: Kubectl, name: str) -> dict[str, Any]:
    listed = status_of(kubectl, name).get("twins", ())
    return {each["propertyName"]: each["reported"] for each in listed if "reported" in each}


def test_the_node_lists_what_its_mappers_see(up: Twinspan) -> None:
    found = eventually(lambda: json.loads(ours(up, "edge", "discovered", "-o", "json")))
    assert {each["address"] for each in found} == {"unit-7", "evil", "stranger"}
    table = cli("edge", "discovered", "-o", "wide", "--data-dir", str(up.data_dir))
    assert "speed,heat,broken" in table
    assert "\x1b" not in table
    assert "\u202e" not in table


def test_kubectl_lists_what_can_be_served_and_cleaned_names(up: Twinspan, kubectl: Kubectl) -> None:
    name_of(kubectl, "unit-7")
    evil = eventually(lambda: seen(kubectl).get("evil", {}))
    assert evil["status"]["name"].startswith("[2Jxxx")
    assert len(evil["status"]["name"]) == 128
    assert "stranger" not in seen(kubectl)
    heading = kubectl("get", "discovereddevices").splitlines()[0].split()
    assert heading == [
        "NAME", "NODE", "PROTOCOL", "ADDRESS", "NAME", "MODEL", "SIGNAL", "SEEN", "ACCEPTED"
    ]  # fmt: skip
    assert "Pump 7" in ours(up, "device", "discovered")


def test_an_accepted_device_reports_with_quality_source_time_and_faults(
    up: Twinspan, kubectl: Kubectl
) -> None:
    name = name_of(kubectl, "unit-7")
    planned = ours(up, "device", "accept", "unit-7", "--name", "pump", "--dry-run")
    assert "kind: DeviceModel" in planned
    assert "nodeName: edge-1" in planned
    assert "No resources" not in kubectl("get", "dd", name)
    said = ours(up, "device", "accept", "unit-7", "--name", "pump")
    assert said == "unit-7 is Device default/pump\n"
    reported = eventually(
        lambda: found if "heat" in (found := twins(kubectl, "pump")) else {}, what="a report"
    )
    assert reported["speed"] == {
        "value": "42",
        "metadata": {"timestamp": "1795377600000", "type": "int"},
    }
    assert reported["heat"] == {
        "value": "21.5",
        "metadata": {"timestamp": "1795377600000", "type": "float", "quality": "uncertain"},
    }
    assert "broken" not in reported
    eventually(
        lambda: "the device said nan" in json.dumps(status_of(kubectl, "pump").get("extensions")),
        what="the fault",
    )
    assert kubectl("get", "dd", name, "-o", "jsonpath={.status.accepted}") == "default/pump"
    assert ours(up, "device", "accept", "unit-7", "--name", "pump") == said


def test_a_patch_accepts_too_and_a_taken_name_is_told(up: Twinspan, kubectl: Kubectl) -> None:
    name = name_of(kubectl, "evil")
    wish = {"spec": {"accept": {"name": "pump"}}}
    kubectl("patch", "dd", name, "--type", "merge", "-p", json.dumps(wish))
    path = 'jsonpath={.status.conditions[?(@.type=="Accepted")].reason}'
    eventually(lambda: kubectl("get", "dd", name, "-o", path) == "NameTaken")
    done = called(up, "device", "accept", name, "--name", "pump")
    assert done.returncode == 1
    assert "there is another Device default/pump" in done.stderr
    kubectl("patch", "dd", name, "--type", "merge", "-p", '{"spec":{"accept":{"name":"second"}}}')
    eventually(
        lambda: kubectl("get", "dd", name, "-o", "jsonpath={.status.accepted}") == "default/second"
    )
    models = kubectl("get", "devicemodels", "-o", "name").split()
    assert [each for each in models if "pump" in each] == ["devicemodel.devices.kubeedge.io/pump"]


def test_a_mapper_is_told_what_to_do_by_who_may(up: Twinspan) -> None:
    said = ours(up, "edge", "order", "modbus", "permit-join", "seconds=60")
    assert said == "seconds: 60\n"
    eventually(lambda: "unit-8" in ours(up, "edge", "discovered"))
    for arguments, status, words in (
        (("modbus", "permit-join", "seconds=soon"), 1, "seconds: expected a number"),
        (("modbus", "dance"), 3, "it knows: permit-join"),
        (("profinet", "dance"), 3, "no mapper profinet"),
        (("modbus", "permit-join", "soon"), 2, "expected KEY=VALUE"),
    ):
        done = called(up, "edge", "order", *arguments)
        assert (done.returncode, words in done.stderr) == (status, True), done.stderr
    path = "/apis/devices.twinspan.io/v1alpha1/mappers/modbus/permit-join"
    curl = ("curl", "-s", "-X", "POST", "-d", '{"seconds":"60"}')
    answer = json.loads(run(*curl, up.url("edge.metaserver", path)))
    assert (answer["code"], answer["reason"]) == (403, "Forbidden")
