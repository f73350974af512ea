"""Pods without their cloud: they go on, restart, come back after EdgeCore, and end with their Node."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cri_api.v1 import api_pb2

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.pods_e2e import PodsCluster, pods_pair
from tests.process import Twinspan

pytestmark = pytest.mark.timeout(600)

PODS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: hello}
---
apiVersion: v1
kind: Pod
metadata: {name: stays}
spec:
  terminationGracePeriodSeconds: 2
  volumes: [{name: words, configMap: {name: words}}]
  tolerations: [{operator: Exists}]
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "cat /words/word; echo; trap 'exit 0' TERM; while true; do sleep 0.1; done"]
    volumeMounts: [{name: words, mountPath: /words}]
---
apiVersion: v1
kind: Pod
metadata: {name: goes}
spec:
  terminationGracePeriodSeconds: 2
  tolerations: [{operator: Exists}]
  containers:
  - {name: c, image: IMAGE, command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.1; done"]}
"""

Pair = tuple[PodsCluster, Twinspan]


@pytest.fixture(scope="module")
def pair(containerd: Containerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pods_pair(tmp_path_factory.mktemp("alone"), containerd) as found:
        found[0].apply(PODS)
        found[0].until_running("stays", "goes")
        yield found


def test_without_the_cloud_pods_restart_and_come_back_after_edgecore_and_a_boot(pair: Pair) -> None:
    cluster, edge = pair
    rig = cluster.containerd
    cluster.process.stop()
    count = len(rig.containers())
    _kill_all(rig)  # as a boot does: no container and no sandbox lives
    edge.kill()
    edge.start()
    cluster.until(lambda: _running(rig) == 2, "both run again", seconds=90)
    assert len(rig.containers()) >= count
    cluster.process.start()
    cluster.until(
        lambda: all(cluster.status(name).get("restartCount") == 1 for name in ("stays", "goes")),
        "the cloud is told",
        seconds=90,
    )
    logs = (cluster.folder / "pod-logs").glob("default_stays_*/c/1.log")
    assert ["hello" in each.read_text() for each in logs] == [True], "with its ConfigMap"


def test_what_was_deleted_meanwhile_ends_on_return(pair: Pair) -> None:
    cluster, edge = pair
    edge.kill()
    cluster.kubectl("delete", "pod", "goes", "--wait=false")
    edge.start()
    cluster.until_gone("goes", seconds=90)
    cluster.until(lambda: "goes" not in _names(cluster.containerd), "its sandboxes are gone")
    assert "stays" in _names(cluster.containerd)


def test_the_pods_of_a_deleted_node_end(pair: Pair) -> None:
    cluster, _edge = pair
    assert cluster.containerd.sandboxes()
    cluster.kubectl("delete", "node", "edge-1")
    cluster.until_clean()


def _running(rig: Containerd) -> int:
    with rig.calls() as stub:
        found = stub.ListContainers(api_pb2.ListContainersRequest(), timeout=10.0)
    return sum(each.state == api_pb2.CONTAINER_RUNNING for each in found.containers)


def _names(rig: Containerd) -> set[str]:
    """Return the names of all Pods that have a sandbox."""
    with rig.calls() as stub:
        found = stub.ListPodSandbox(api_pb2.ListPodSandboxRequest(), timeout=10.0)
    return {each.metadata.name for each in found.items}


def _kill_all(rig: Containerd) -> None:
    """Kill all containers and sandboxes with their shims."""
    ids = [*rig.containers(), *rig.sandboxes()]
    inside = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and any(each in _groups(entry) for each in ids)
    ]
    for pid in [*rig.shims(), *inside]:
        with suppress(ProcessLookupError):  # it went with its shim
            os.kill(pid, signal.SIGKILL)
    rig.restart(hard=True)


def _groups(entry: Path) -> str:
    try:
        return (entry / "cgroup").read_text()
    except OSError:
        return ""
