"""Pods of files, refused Pods and what kubectl shows of ended ones, on a node with a real containerd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.pods_e2e import PodsCluster, pods_cluster

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: IMAGE, command: [sh, -c, "WORD; while true; do sleep 0.1; done"]}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  nodeName: edge-1
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: IMAGE, command: [sh, -c, "COMMAND"], resources: {requests: {cpu: "CPU"}}}
"""


@pytest.fixture
def cluster(containerd: Containerd, tmp_path: Path) -> Iterator[PodsCluster]:
    folder = tmp_path / "manifests"
    folder.mkdir()
    with pods_cluster(tmp_path, containerd, f"edge.workloads.manifests={folder}") as running:
        yield running


def write(cluster: PodsCluster, word: str = "true") -> Path:
    file = cluster.folder / "manifests" / "web.yaml"
    image = cluster.containerd.image("busybox")
    file.write_text(MANIFEST.replace("IMAGE", image).replace("WORD", word))
    return file


def make(cluster: PodsCluster, name: str, command: str, cpu: str = "10m") -> None:
    text = POD.replace("NAME", name).replace("COMMAND", command).replace("CPU", cpu)
    cluster.apply(text)


def shown(cluster: PodsCluster, name: str) -> list[str]:
    """READY, STATUS and RESTARTS as kubectl prints them."""
    return cluster.kubectl("get", "pod", name, "--no-headers").split()[1:4]


def uid(cluster: PodsCluster, name: str) -> str:
    return str(cluster.get("pod", name).get("metadata", {}).get("uid", ""))


def test_a_pod_of_a_file_runs_comes_back_changes_and_goes(cluster: PodsCluster) -> None:
    file = write(cluster)
    cluster.until_running("web-edge-1")
    assert shown(cluster, "web-edge-1") == ["1/1", "Running", "0"]
    first, container = uid(cluster, "web-edge-1"), cluster.status("web-edge-1")["containerID"]
    cluster.kubectl("delete", "pod", "web-edge-1", "--wait=false")
    cluster.until(lambda: uid(cluster, "web-edge-1") not in ("", first), "another mirror")
    cluster.until_running("web-edge-1")
    assert cluster.status("web-edge-1")["containerID"] == container  # only its picture was deleted
    write(cluster, "echo changed")
    cluster.until(
        lambda: cluster.status("web-edge-1").get("containerID") not in (None, container), "changed"
    )
    cluster.until_running("web-edge-1")
    file.unlink()
    cluster.until_gone("web-edge-1")
    cluster.until_clean()


def test_kubectl_shows_how_pods_ended_and_what_was_refused(cluster: PodsCluster) -> None:
    make(cluster, "done", "true")
    make(cluster, "bad", "exit 3")
    make(cluster, "huge", "true", cpu="1000")
    cluster.until(lambda: shown(cluster, "done")[1] == "Completed", "done")
    cluster.until(lambda: shown(cluster, "bad")[1] == "Error", "bad")
    cluster.until(lambda: shown(cluster, "huge")[1] == "OutOfcpu", "huge")
    assert cluster.phase("done") == "Succeeded"
    ended = cluster.status("bad")["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (3, "Error")
    told = cluster.kubectl("describe", "pod", "huge")
    assert "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000" in told
    cluster.until(
        lambda: "OutOfcpu" in cluster.kubectl("get", "events", "--no-headers"), "its event"
    )
    cluster.kubectl("delete", "pod", "done", "bad", "huge")
    cluster.until_clean()
