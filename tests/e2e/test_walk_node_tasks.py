"""Jobs on nodes by kubectl: a cloud and its edges as processes, and a CloudCore that is killed in between."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.edge_walk import LINK, a_cloud, join, new_token
from tests.process import Twinspan, eventually, twinspan
from tests.walk import Walk, twinspan_cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

VERSION = "v9.9.9"
INSTALLER = """#!/bin/sh
echo "$#:$1" >> {folder}/asked
while [ ! -e {folder}/go ]; do sleep 0.1; done
exit 0
"""


@dataclass
class Fleet:
    """A cloud, edges that run, and one that has joined and does not."""

    cloud: Walk
    folder: Path
    edges: dict[str, Twinspan]

    def home(self, node: str) -> Path:
        return self.folder / node

    def apply(self, kind: str, name: str, spec: dict[str, Any], *, fails: bool = False) -> str:
        document = {
            "apiVersion": "operations.kubeedge.io/v1alpha2",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        return self.cloud.kubectl("apply", "-f", "-", stdin=json.dumps(document), fails=fails)

    def wait(self, job: str, phase: str, seconds: int = 40) -> dict[str, Any]:
        """Wait with kubectl for a job's phase; return its nodes by name."""
        path = f"--for=jsonpath={{.status.phase}}={phase}"
        self.cloud.kubectl("wait", path, job, f"--timeout={seconds}s")
        return self.nodes(job)

    def nodes(self, job: str) -> dict[str, Any]:
        found = self.cloud.kubectl_json("get", job).get("status", {}).get("nodeStatus", [])
        return {node["nodeName"]: node for node in found}

    def asked(self, node: str) -> list[str]:
        """What the installer of a node was given so far: count and text of its arguments."""
        path = self.home(node) / "installer" / "asked"
        return path.read_text().split() if path.exists() else []

    def release(self, node: str) -> None:
        (self.home(node) / "installer" / "go").touch()


def actions(node: dict[str, Any]) -> list[str]:
    return [f"{done['action']} {done['status']}" for done in node["actionFlow"]]


def an_installer(folder: Path) -> Path:
    """The operator's command: notes what it is given and waits until it is let go."""
    folder.mkdir(parents=True)
    path = folder / "install"
    path.write_text(INSTALLER.format(folder=folder))
    path.chmod(0o755)
    return path


@contextmanager
def a_running_edge(cloud: Walk, home: Path, node: str) -> Iterator[Twinspan]:
    said = join(cloud, home, new_token(cloud, "--node", node), "--node-name", node)
    assert said.startswith("0 "), said
    command = f"edge.tasks.upgrade_command={an_installer(home / 'installer')}"
    with twinspan(home, "edge", "run", sets=(*LINK, command)) as running:
        yield running


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with ExitStack() as up:
        cloud = up.enter_context(a_cloud(folder / "cloud"))
        edges = {
            node: up.enter_context(a_running_edge(cloud, folder / node, node))
            for node in ("edge-1", "edge-2")
        }
        away = up.enter_context(a_running_edge(cloud, folder / "edge-3", "edge-3"))
        eventually(lambda: cloud.kubectl("get", "nodes", "--no-headers").count(" Ready ") == 3)
        away.stop()
        yield Fleet(cloud, folder, edges)


def test_kubectl_lists_jobs_in_both_versions(fleet: Fleet) -> None:
    kinds = fleet.cloud.kubectl("api-resources", "--api-group=operations.kubeedge.io")
    for kind in ("NodeUpgradeJob", "ImagePrePullJob", "ConfigUpdateJob"):
        assert kind in kinds
    fleet.cloud.kubectl("get", "imageprepulljobs.v1alpha1.operations.kubeedge.io")
    fleet.cloud.kubectl("explain", "nodeupgradejob.spec.requireConfirmation")


def test_images_cannot_be_pulled_without_a_runtime_and_the_job_says_so(fleet: Fleet) -> None:
    images = ["nginx:1", "$(touch /tmp/pulled); `id`"]
    template = {"images": images, "nodeNames": ["edge-1"], "checkItems": ["mem"]}
    fleet.apply("ImagePrePullJob", "pull", {"imagePrePullTemplate": template})
    node = fleet.wait("imageprepulljob/pull", "Failure")["edge-1"]
    assert "no container runtime" in node["reason"]
    assert [image["image"] for image in node["imageStatus"]] == images
    assert {image["status"] for image in node["imageStatus"]} == {"False"}


def test_a_node_that_is_away_is_unknown_once_its_time_is_over(fleet: Fleet) -> None:
    spec = {"nodeNames": ["edge-3"], "timeoutSeconds": 2, "updateFields": {"a": "b"}}
    fleet.apply("ConfigUpdateJob", "away", spec)
    node = fleet.wait("configupdatejob/away", "Failure")["edge-3"]
    assert node["phase"] == "Unknown"
    assert "not connected" in node["reason"]


def test_settings_are_changed_and_count_from_the_next_start(fleet: Fleet) -> None:
    fields = {"modules.serviceBus.timeout": "42", "modules.eventBus.mqttUsername": "a;b $(id)"}
    spec = {
        "labelSelector": {"matchLabels": {"node-role.kubernetes.io/edge": ""}},
        "updateFields": fields,
        "concurrency": 3,
        "timeoutSeconds": 3,
        "failureTolerate": "0.4",
    }
    fleet.apply("ConfigUpdateJob", "settings", spec)
    nodes = fleet.wait("configupdatejob/settings", "Completed")
    assert {name: node["phase"] for name, node in nodes.items()} == {
        "edge-1": "Successful",
        "edge-2": "Successful",
        "edge-3": "Unknown",
    }
    assert actions(nodes["edge-1"]) == ["Check True", "BackUp True", "Update True"]
    assert "next start" in nodes["edge-1"]["actionFlow"][-1]["reason"]
    shown = json.loads(
        twinspan_cli("config", "show", "--data-dir", str(fleet.home("edge-1")), "-o", "json")
    )
    assert shown["edge"]["servicebus"]["timeout"] == 42
    assert shown["edge"]["mqtt"]["external_username"] == "a;b $(id)"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"modules.edged.hostnameOverride": "other"}, "a job cannot change this setting"),
        ({"edge.mqtt.users_file": "/etc/passwd"}, "a job cannot change this setting"),
        ({"modules.metaManager.metaServer.server": "0.0.0.0:10550"}, "loopback only"),
        ({"modules.edgeHub.heartbeat": "15; reboot"}, "expected 1 to 3600 seconds"),
        ({}, "expected 1 to 100 settings"),
    ],
)
def test_settings_that_a_job_may_not_change_are_refused_by_the_node(
    fleet: Fleet, fields: dict[str, str], why: str
) -> None:
    name = f"refused-{time.monotonic_ns()}"
    fleet.apply("ConfigUpdateJob", name, {"nodeNames": ["edge-2"], "updateFields": fields})
    node = fleet.wait(f"configupdatejob/{name}", "Failure")["edge-2"]
    assert actions(node) == ["Check False"]
    assert why in node["reason"]


@pytest.mark.parametrize("version", ["v9.9.9; reboot", "v1.0 --force", "v1.0$(id)", "v/../bin/sh"])
def test_a_version_that_is_none_never_reaches_the_installer(fleet: Fleet, version: str) -> None:
    spec = {"nodeNames": ["edge-2"], "version": version}
    assert "version" in fleet.apply("NodeUpgradeJob", "refused", spec, fails=True)
    assert fleet.asked("edge-2") == []


def test_a_job_for_too_many_nodes_or_for_none_fails_at_once(fleet: Fleet) -> None:
    many = [f"edge-{n}" for n in range(5_000)]
    fleet.apply("NodeUpgradeJob", "many", {"nodeNames": many, "version": VERSION})
    fleet.apply("ConfigUpdateJob", "none", {"updateFields": {"a": "b"}})
    fleet.wait("nodeupgradejob/many", "Failure")
    fleet.wait("configupdatejob/none", "Failure")
    reason = fleet.cloud.kubectl("get", "nodeupgradejobs,configupdatejobs", "-o", "wide")
    assert "at most 2000 nodes in one job" in reason
    assert "one of nodeNames and labelSelector is needed" in reason


def test_an_upgrade_goes_on_where_a_killed_cloudcore_left_it_and_runs_once(fleet: Fleet) -> None:
    spec = {"nodeNames": ["edge-1", "edge-2"], "version": VERSION, "timeoutSeconds": 120}
    fleet.apply("NodeUpgradeJob", "upgrade", spec)
    eventually(lambda: fleet.asked("edge-1") == [f"1:{VERSION}"])
    assert fleet.asked("edge-2") == []  # one at a time
    fleet.cloud.running.kill()
    fleet.release("edge-1")
    fleet.cloud.running.start()
    eventually(lambda: fleet.asked("edge-2") == [f"1:{VERSION}"], seconds=40)
    first = fleet.nodes("nodeupgradejob/upgrade")["edge-1"]
    assert first["phase"] == "Successful"
    assert actions(first) == [
        "Check True",
        "WaitingConfirmation True",
        "BackUp True",
        "Upgrade True",
    ]
    assert first["currentVersion"] == VERSION
    fleet.release("edge-2")
    fleet.wait("nodeupgradejob/upgrade", "Completed")
    assert fleet.asked("edge-1") == fleet.asked("edge-2") == [f"1:{VERSION}"]
    copies = list((fleet.home("edge-1") / "edge" / "backup").glob("*/edge.db"))
    assert len(copies) == 1


def test_an_upgrade_waits_until_somebody_at_the_edge_confirms(fleet: Fleet, tmp_path: Path) -> None:
    before = fleet.asked("edge-1")
    spec = {"nodeNames": ["edge-1"], "version": VERSION, "requireConfirmation": True}
    fleet.apply("NodeUpgradeJob", "confirmed", spec)

    def waits() -> bool:
        node = fleet.nodes("nodeupgradejob/confirmed").get("edge-1", {})
        return "confirmation" in node.get("reason", "")

    eventually(waits)
    assert fleet.asked("edge-1") == before
    home = fleet.home("edge-1")
    told = twinspan_cli("edge", "status", "--data-dir", str(home))
    assert "nodeupgradejob/confirmed waits for a confirmation" in told
    config = tmp_path / "edge.kubeconfig"
    config.write_text(twinspan_cli("edge", "kubeconfig", "--data-dir", str(home)))
    path = "/api/v1/taskupgrade/confirm-upgrade"
    at_edge = {"KUBECONFIG": str(config)}
    said = fleet.cloud.kubectl("create", "--raw", path, "-f", "-", stdin="{}", environment=at_edge)
    assert "job confirmed goes on" in said
    fleet.wait("nodeupgradejob/confirmed", "Completed")
    again = fleet.cloud.kubectl(
        "create", "--raw", path, "-f", "-", stdin="{}", environment=at_edge, fails=True
    )
    assert "no upgrade waits" in again


def test_a_deleted_job_is_let_go(fleet: Fleet) -> None:
    fleet.cloud.kubectl("delete", "nodeupgradejobs", "--all", "--timeout=20s")
    assert fleet.cloud.kubectl("get", "nodeupgradejobs", "--no-headers") == ""
