"""What `twinspan edge` tells of Pods while EdgeCore does not run.

In a file of its own: two EdgeCores of one name on one containerd take each other's Pods for leftovers.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.integration.test_edged_streams_kubectl import POD, twinspan_edge
from tests.pods_e2e import pods_cluster


def test_without_edgecore_the_disk_tells_what_was_known(
    tmp_path: Path, containerd: Containerd
) -> None:
    with pods_cluster(tmp_path, containerd) as cluster:
        cluster.apply(POD)
        cluster.until_running("web")
        cluster.until(lambda: "hello" in twinspan_edge(cluster, "logs", "web", "-c", "c"), "log")
        cluster.process.stop()
        try:
            shown = twinspan_edge(cluster, "pods")
            assert "EdgeCore does not run: as last known on disk." in shown
            assert "web" in shown
            assert "hello\n" in twinspan_edge(cluster, "logs", "web", "-c", "c")
            status = json.loads(twinspan_edge(cluster, "status", "-o", "json"))
            assert (status["running"], status["workloads"]["pods"]) == (False, 1)
        finally:
            containerd.remove_pods()
