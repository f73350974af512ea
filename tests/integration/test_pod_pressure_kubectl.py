"""A node that is short of memory, by kubectl with a real containerd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.pods_e2e import NODE, PodsCluster, pods_cluster

POD = f"""
apiVersion: v1
kind: Pod
metadata: {{name: NAME}}
spec:
  nodeName: {NODE}
  terminationGracePeriodSeconds: 1
  tolerations: TOLERATIONS
  containers:
  - {{name: c, image: IMAGE, command: [sleep, "600"]}}
"""
SHORT = "edge.workloads.eviction_hard={memory.available: 100%}"
"""A threshold that is always met."""


@pytest.fixture(scope="module")
def cluster(
    containerd: Containerd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PodsCluster]:
    folder = tmp_path_factory.mktemp("pressure")
    with pods_cluster(folder, containerd, SHORT, "edge.workloads.eviction_interval=1") as found:
        yield found


def applied(cluster: PodsCluster, name: str, tolerations: str) -> None:
    cluster.until(lambda: cluster.condition("MemoryPressure").get("status") == "True", "pressure")
    cluster.apply(POD.replace("NAME", name).replace("TOLERATIONS", tolerations))
    cluster.until(lambda: cluster.phase(name) == "Failed", "it has to go")


def test_a_pod_that_runs_is_evicted(cluster: PodsCluster) -> None:
    applied(cluster, "runs", "[{operator: Exists}]")
    status = cluster.get("pod", "runs")["status"]
    assert status["reason"] == "Evicted"
    start = "The node was low on resource: memory. Threshold quantity: "
    assert status["message"].startswith(start)
    said = cluster.kubectl("get", "events")
    assert "Attempting to reclaim memory" in said
    disrupted = [row for row in status["conditions"] if row["type"] == "DisruptionTarget"]
    assert [row["reason"] for row in disrupted] == ["TerminationByKubelet"]
    cluster.kubectl("delete", "pod", "runs")


def test_a_pod_that_asks_for_nothing_is_refused(cluster: PodsCluster) -> None:
    applied(cluster, "refused", "[]")
    status = cluster.get("pod", "refused")["status"]
    assert status["reason"] == "Evicted"
    assert "The node had condition: [MemoryPressure]. " in status["message"]
    assert not status.get("containerStatuses") or not status["containerStatuses"][0].get("started")
    cluster.kubectl("delete", "pod", "refused")


def test_the_control_plane_keeps_others_away(cluster: PodsCluster) -> None:
    key = "node.kubernetes.io/memory-pressure"
    cluster.until(
        lambda: key in [row["key"] for row in cluster.get("node", NODE)["spec"].get("taints", [])],
        "the taint",
    )
