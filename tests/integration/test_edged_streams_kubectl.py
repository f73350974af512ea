"""kubectl exec, cp, debug and logs on edged; the same Pods by `twinspan edge`, running or not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from gateway.cli.edge import edge as edge_command
from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.pods_e2e import PodsCluster, pods_cluster

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; echo hello; while true; do sleep 0.1; done"]
  - {name: crash, image: IMAGE, command: [sh, -c, "echo life $(cat /proc/uptime); exit 3"]}
"""


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, containerd: Containerd
) -> Iterator[PodsCluster]:
    with pods_cluster(tmp_path_factory.mktemp("streams"), containerd) as found:
        found.apply(POD)
        found.until_running("web")
        yield found
        found.kubectl("delete", "pod", "--all", "--wait=false")
        found.until_gone("web")


def twinspan_edge(cluster: PodsCluster, *words: str, code: int = 0) -> str:
    """What `twinspan edge ...` prints on the node."""
    sets = ("--set", f"edge.workloads.logs={cluster.folder / 'pod-logs'}")
    arguments = [*words, "--data-dir", str(cluster.process.data_dir), *sets]
    done = CliRunner().invoke(edge_command, arguments)
    assert done.exit_code == code, f"{words}: {done.output} {done.exception}"
    return done.output


def test_a_command_its_exit_code_and_a_log(cluster: PodsCluster) -> None:
    assert cluster.kubectl("exec", "web", "-c", "c", "--", "echo", "hi") == "hi\n"
    said = cluster.kubectl("exec", "web", "-c", "c", "--", "sh", "-c", "exit 7", is_ok=False)
    assert "exit code 7" in said
    assert cluster.kubectl("logs", "web", "-c", "c", "--tail=1") == "hello\n"


def test_the_log_of_the_container_before_the_restart(cluster: PodsCluster) -> None:
    cluster.until(lambda: cluster.status("web", 1).get("restartCount", 0) > 0, "restarted")
    last = cluster.kubectl("logs", "web", "-c", "crash")
    before = cluster.kubectl("logs", "web", "-c", "crash", "--previous")
    assert before.startswith("life ")
    assert last.startswith("life ")


def test_files_are_copied_both_ways(cluster: PodsCluster) -> None:
    sent, back = cluster.folder / "sent", cluster.folder / "back"
    sent.write_bytes(bytes(range(256)) * 4_096)
    cluster.kubectl("cp", str(sent), "web:/tmp/sent", "-c", "c")
    cluster.kubectl("cp", "web:/tmp/sent", str(back), "-c", "c")
    assert back.read_bytes() == sent.read_bytes()


def test_an_ephemeral_container_is_started_for_debugging(cluster: PodsCluster) -> None:
    image = cluster.containerd.image("busybox")
    said = cluster.kubectl(
        *("debug", "web", f"--image={image}", "-c", "dbg", "--", "sh", "-c", "echo debugging")
    )
    assert "error" not in said.lower()

    def has_ended() -> bool:
        rows = cluster.get("pod", "web")["status"].get("ephemeralContainerStatuses", [])
        return bool(rows) and "terminated" in rows[0]["state"]

    cluster.until(has_ended, "the ephemeral container ran")
    assert cluster.kubectl("logs", "web", "-c", "dbg") == "debugging\n"


def test_the_node_shows_its_pods_and_logs_by_itself(cluster: PodsCluster) -> None:
    shown = twinspan_edge(cluster, "pods")
    assert shown.splitlines()[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert shown.splitlines()[1].split()[:2] == ["web", "1/2"]
    found = json.loads(twinspan_edge(cluster, "pods", "-A", "-o", "json"))
    assert found["items"][0]["metadata"]["name"] == "web"
    assert twinspan_edge(cluster, "logs", "web", "-c", "c", "--tail", "1") == "hello\n"
    assert "EdgeCore does not run" not in shown
    status = json.loads(twinspan_edge(cluster, "status", "-o", "json"))
    assert status["workloads"]["runtime"].startswith("containerd://")
    assert status["workloads"]["phases"] == {"Running": 1}
