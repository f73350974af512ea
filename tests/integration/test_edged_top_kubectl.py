"""kubectl top: readings of the node through the tunnel, metrics.k8s.io at the embedded API."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.pods_e2e import PodsCluster, pods_cluster

POD = """
apiVersion: v1
kind: Pod
metadata: {name: busy, labels: {app: busy}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: IMAGE, command: [sh, -c, "while :; do :; done"], resources: {limits: {cpu: 200m}}}
"""


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, containerd: Containerd
) -> Iterator[PodsCluster]:
    folder = tmp_path_factory.mktemp("top")
    with pods_cluster(folder, containerd, "cloud.stream.usage_interval=1") as found:
        found.apply(POD)
        found.until_running("busy")
        yield found
        found.kubectl("delete", "pod", "--all", "--wait=false")
        found.until_gone("busy")


def test_top_shows_nodes_pods_and_containers(cluster: PodsCluster) -> None:
    cluster.until(lambda: "busy" in cluster.kubectl("top", "pods", is_ok=False), "top")
    name, cpu, memory = cluster.kubectl("top", "pods", "--no-headers").split()
    assert name == "busy"
    assert 50 <= int(cpu.removesuffix("m")) <= 400
    assert memory.endswith("Mi")
    shown = cluster.kubectl("top", "pods", "--containers", "-l", "app=busy", "--no-headers").split()
    assert shown[:2] == ["busy", "c"]
    assert "No resources found" in cluster.kubectl("top", "pods", "-l", "app=no", is_ok=False)
    node = cluster.kubectl("top", "nodes", "--no-headers").split()
    assert node[0] == "edge-1"
    assert node[2].endswith("%")
    assert node[4].endswith("%")


def test_what_is_not_measured_is_not_found(cluster: PodsCluster) -> None:
    path = "/apis/metrics.k8s.io/v1beta1"
    said = cluster.kubectl("get", "--raw", f"{path}/namespaces/default/pods/no", is_ok=False)
    assert 'podmetrics.metrics.k8s.io "default/no" not found' in said
    found = json.loads(cluster.kubectl("get", "--raw", path))
    assert [row["name"] for row in found["resources"]] == ["nodes", "pods"]
    listed = json.loads(
        cluster.kubectl("get", "--raw", f"{path}/pods?fieldSelector=metadata.name%3Dno")
    )
    assert (listed["kind"], listed["items"]) == ("PodMetricsList", [])
