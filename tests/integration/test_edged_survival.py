"""What runs goes on: EdgeCore ends or is killed, containerd is killed, the machine boots."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.pods_e2e import PodsCluster, pods_cluster

pytestmark = pytest.mark.timeout(400)

PODS = """
apiVersion: v1
kind: Pod
metadata: {name: stays}
spec:
  terminationGracePeriodSeconds: 2
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "echo $$ >> /v/starts; trap 'exit 0' TERM; while true; do sleep 0.1; done"]
    volumeMounts: [{name: v, mountPath: /v}]
"""


@pytest.fixture
def cluster(containerd: Containerd, tmp_path: Path) -> Iterator[PodsCluster]:
    with pods_cluster(tmp_path, containerd) as found:
        found.apply(PODS)
        found.until_running("stays")
        try:
            yield found
        finally:
            found.kubectl("delete", "pod", "--all", "--wait=false", is_ok=False)
            containerd.remove_pods()


def ready(cluster: PodsCluster) -> bool:
    return bool(cluster.condition().get("status") == "True")


def test_containers_go_on_over_the_end_of_edgecore(cluster: PodsCluster) -> None:
    before = cluster.containerd.containers()
    cluster.process.stop()
    assert cluster.containerd.containers() == before
    cluster.process.start()
    cluster.until(lambda: ready(cluster), "ready")
    cluster.process.kill()
    cluster.process.start()
    cluster.until(lambda: ready(cluster), "ready")
    assert cluster.containerd.containers() == before
    assert cluster.status("stays")["restartCount"] == 0
    cluster.kubectl("delete", "pod", "stays")
    cluster.until_clean()


def test_a_container_that_died_meanwhile_is_started_again(cluster: PodsCluster) -> None:
    pid = _process_of(cluster)
    cluster.process.kill()
    os.kill(pid, signal.SIGKILL)
    cluster.process.start()
    cluster.until(lambda: cluster.status("stays").get("restartCount") == 1, "restarted")
    cluster.until_running("stays")
    assert cluster.kubectl("exec", "stays", "--", "wc", "-l", "/v/starts").split()[0] == "2"


def test_containerd_may_be_killed_and_comes_back(cluster: PodsCluster) -> None:
    before = cluster.containerd.containers()
    cluster.containerd.kill()
    cluster.until(
        lambda: cluster.condition().get("reason") == "KubeletNotReady", "not ready", seconds=90
    )
    cluster.apply(PODS.replace("stays", "later"))
    assert cluster.phase("stays") == "Running", "nothing is concluded from silence"
    cluster.containerd.start()
    cluster.until(lambda: ready(cluster), "ready")
    cluster.until_running("later")
    assert set(before) <= set(cluster.containerd.containers())
    assert cluster.status("stays")["restartCount"] == 0


def test_a_pod_deleted_while_containerd_was_away_ends_when_it_is_back(cluster: PodsCluster) -> None:
    cluster.containerd.kill()
    cluster.kubectl("delete", "pod", "stays", "--wait=false")
    cluster.containerd.start()
    cluster.until_gone("stays")
    cluster.until_clean()


def test_after_a_boot_the_pod_has_a_new_sandbox(cluster: PodsCluster) -> None:
    sandboxes = cluster.containerd.sandboxes()
    cluster.process.kill()
    for pid in cluster.containerd.shims():
        os.kill(pid, signal.SIGKILL)
    for pid in _all_processes(cluster):
        os.kill(pid, signal.SIGKILL)
    cluster.containerd.restart(hard=True)
    cluster.process.start()
    cluster.until(
        lambda: (
            cluster.phase("stays") == "Running" and cluster.status("stays").get("restartCount") == 1
        ),
        "runs again",
    )
    assert set(cluster.containerd.sandboxes()) != set(sandboxes)
    cluster.kubectl("delete", "pod", "stays")
    cluster.until_clean()


def _all_processes(cluster: PodsCluster) -> list[int]:
    """Return the processes of all containers, by the cgroup that they are in."""
    ids = [*cluster.containerd.containers(), *cluster.containerd.sandboxes()]
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and any(each in _groups(entry) for each in ids)
    ]


def _process_of(cluster: PodsCluster) -> int:
    """Return the first process of the Pod's container."""
    container = cluster.status("stays")["containerID"].rpartition("/")[2]
    return min(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and container in _groups(entry)
    )


def _groups(entry: Path) -> str:
    try:
        return (entry / "cgroup").read_text()
    except OSError:
        return ""
