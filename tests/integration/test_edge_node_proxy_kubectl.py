"""What an edge's own kubelet tells through `nodes/proxy`: cloud, tunnel, EdgeCore and a real containerd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.pods_e2e import NODE, pods_cluster

pytestmark = pytest.mark.timeout(300)
BASE = f"/api/v1/nodes/{NODE}/proxy"


def test_kubectl_reads_what_an_edge_s_kubelet_tells(containerd: Containerd, tmp_path: Path) -> None:
    sets = ("edge.network.services=off", "edge.network.dns=off")
    with pods_cluster(tmp_path, containerd, *sets) as cluster:

        def told(path: str) -> str:
            return cluster.kubectl("get", "--raw", f"{BASE}/{path}", is_ok=False)

        cluster.until(lambda: told("healthz") == "ok", "the tunnel")
        assert f'kubelet_node_name{{node="{NODE}"}} 1' in told("metrics")
        assert "node_cpu_usage_seconds_total" in told("metrics/resource")
        assert "container_cpu_usage_seconds_total" in told("metrics/cadvisor")
        assert json.loads(told("stats/summary"))["node"]["nodeName"] == NODE
        assert json.loads(told("pods"))["kind"] == "PodList"
        assert "logs of the node are not served" in told("logs/")
        assert "Forbidden" in told("run/default/p/c")
