"""Pods by kubectl on a node with a real containerd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.pods_e2e import PodsCluster, pods_cluster

POD = """
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - {name: c, image: IMAGE, command: [sh, -c, "COMMAND"]}
"""
SLEEP = "trap 'exit 0' TERM; while true; do sleep 0.1; done"


@pytest.fixture(scope="module")
def cluster(
    containerd: Containerd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PodsCluster]:
    with pods_cluster(tmp_path_factory.mktemp("pods"), containerd) as found:
        yield found


def a_pod(name: str, command: str = SLEEP) -> str:
    return POD.replace("NAME", name).replace("COMMAND", command)


def test_a_pod_runs_and_is_deleted(cluster: PodsCluster) -> None:
    cluster.apply(a_pod("plain"))
    cluster.until_running("plain")
    wide = cluster.kubectl("get", "pod", "plain", "-o", "wide")
    assert "1/1" in wide
    assert "10.213." in wide, "an address of the bridge"
    cluster.kubectl("delete", "pod", "plain")
    cluster.until_gone("plain")
    cluster.until_clean()
