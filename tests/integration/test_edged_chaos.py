"""What may happen to an edge while Pods come and go: kills, silence, a full disk. Nothing is lost or left.

The edge's data lie on a disk of their own, which one of the tests fills.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cri_api.v1 import api_pb2

from tests.containerd import CGROUPS, CNI_RESULTS, Containerd, require_containerd
from tests.containerd import containerd as containerd
from tests.cut_edgecore import MOMENTS
from tests.pods_e2e import NODE, PodsCluster, pods_pair
from tests.process import Twinspan

pytestmark = pytest.mark.timeout(900)

LIVES = 6
DISK = "size=48m"
FOREIGN = "foreign-pod"

OBJECTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: hello}
"""
POD = """
---
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  nodeName: edge-1
  volumes: [{name: words, configMap: {name: words}}, {name: m, emptyDir: {medium: Memory}}]
  initContainers: [{name: i, image: IMAGE, command: ["true"]}]
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.2; done"]
    volumeMounts: [{name: words, mountPath: /words}, {name: m, mountPath: /m}]
"""

Pair = tuple[PodsCluster, Twinspan]


@pytest.fixture(scope="module")
def pair(containerd: Containerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    require_containerd()
    folder = tmp_path_factory.mktemp("chaos")
    disk = folder / "edge"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(disk)], check=True)
    _run_foreign(containerd)
    with pods_pair(folder, containerd) as found:
        found[0].apply(OBJECTS)
        yield found


@pytest.fixture(autouse=True)
def nothing_is_left(pair: Pair) -> Iterator[None]:
    """After each test nothing is left of its Pods, and what is not ours is as it was."""
    yield
    cluster, _ = pair
    cluster.kubectl("delete", "pod", "--all", "--wait=false", is_ok=False)
    cluster.until(lambda: not traces(cluster), "nothing is left", seconds=90)
    assert _foreign(cluster.containerd) == [api_pb2.SANDBOX_READY]


def apply(cluster: PodsCluster, *names: str) -> None:
    cluster.apply("".join(POD.replace("NAME", name) for name in names))


def traces(cluster: PodsCluster) -> list[str]:
    """Return all that there is of Pods on this machine and in the API."""
    rig, folder = cluster.containerd, cluster.folder
    groups = [*CGROUPS.glob(f"*/{rig.cgroup_root}/**/pod*")]
    files = [*(folder / "pod-logs").glob("*"), *(folder / "edge/edge/pods").glob("*-*-*")]
    network = [*CNI_RESULTS.glob(f"{rig.network}-*"), *rig.folder.glob("addresses/*/10.*")]
    found = [str(each) for each in (*groups, *files, *network)]
    ours = [each.id for each in _sandboxes(rig) if each.metadata.name != FOREIGN]
    mounts = [each for each in rig.mounts() if not any(of in each for of in _foreign_ids(rig))]
    return [*found, *ours, *rig.containers(), *mounts, *cluster.kubectl("get", "pods").split()[6:]]


def running(rig: Containerd) -> list[tuple[str, int]]:
    """Return Pod and attempt of each container that runs, sorted."""
    with rig.calls() as stub:
        found = stub.ListContainers(api_pb2.ListContainersRequest(), timeout=10.0).containers
    return sorted(
        (each.labels["io.kubernetes.pod.name"], each.metadata.attempt)
        for each in found
        if each.state == api_pb2.CONTAINER_RUNNING
    )


def until_told(cluster: PodsCluster, *names: str, restarts: int = 0) -> None:
    """Wait until exactly these run, and the API says so."""
    wanted = sorted((name, restarts) for name in names)
    cluster.until(lambda: running(cluster.containerd) == wanted, f"{wanted} run", seconds=90)
    cluster.until(
        lambda: all(
            cluster.status(name).get("ready") is True
            and cluster.status(name)["restartCount"] == restarts
            for name in names
        ),
        "the API is told",
    )


# --- EdgeCore ---------------------------------------------------------------------------------------


def test_edgecore_may_be_killed_at_any_call_of_the_runtime(pair: Pair) -> None:
    cluster, edge = pair
    dice = random.Random(8)
    edge.kill()
    wanted: list[str] = []
    for life in range(LIVES):
        wanted.append(f"p{life}")
        apply(cluster, wanted[-1])
        if life % 2:
            gone = wanted.pop(0)
            cluster.kubectl("delete", "pod", gone, "--wait=false")
        with cut_at(edge, f"{dice.randint(1, 5)}:{MOMENTS[life % 3]}"):
            edge.launch()
            if not edge.wait(20.0):
                edge.kill()
    edge.start()
    until_told(cluster, *wanted)
    assert len(_sandboxes(cluster.containerd)) == len(wanted) + 1


@contextmanager
def cut_at(edge: Twinspan, where: str) -> Iterator[None]:
    edge.module, edge.environment = "tests.cut_edgecore", {"CUT": where}
    try:
        yield
    finally:
        edge.module, edge.environment = "gateway.cli", {}


def test_edgecore_ends_while_pods_start_and_learns_what_changed_meanwhile(pair: Pair) -> None:
    cluster, edge = pair
    apply(cluster, "a", "b", "c")
    assert edge.stop() == 0
    cluster.kubectl("patch", "configmap", "words", "-p", '{"data":{"word":"other"}}')
    edge.start()
    until_told(cluster, "a", "b", "c")
    cluster.until(lambda: words(edge) == ["other"] * 3, "the volumes show it")


def test_edgecore_is_there_once(pair: Pair) -> None:
    _, edge = pair
    second = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "edge", "run", "--data-dir", str(edge.data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    assert f"another twinspan (pid {edge.pid}) uses this data directory" in second.stderr


def words(edge: Twinspan) -> list[str]:
    """Return what the Pods' volumes show of the ConfigMap."""
    found = (edge.data_dir / "edge" / "pods").glob("*/volumes/words/word")
    return [each.read_text() for each in found]


# --- containerd -------------------------------------------------------------------------------------


def test_containerd_may_be_killed_while_pods_come_and_go(pair: Pair) -> None:
    cluster, _ = pair
    apply(cluster, "stays")
    until_told(cluster, "stays")
    before = cluster.containerd.containers()
    for turn, pause in enumerate((0.1, 0.5, 1.0)):
        apply(cluster, f"q{turn}")
        if turn:
            cluster.kubectl("delete", "pod", f"q{turn - 1}", "--wait=false")
        time.sleep(pause)
        cluster.containerd.kill()
        cluster.containerd.start()
    until_told(cluster, "q2", "stays")
    assert set(before) <= set(cluster.containerd.containers())


# --- the link ---------------------------------------------------------------------------------------


def test_a_cloud_that_is_silent_stops_nothing_and_is_told_later(pair: Pair) -> None:
    cluster, _ = pair
    rig = cluster.containerd
    apply(cluster, "a", "b")
    until_told(cluster, "a", "b")
    os.kill(cluster.process.pid, signal.SIGSTOP)
    try:
        _kill_containers(rig)
        deadline = time.monotonic() + 30
        while running(rig) != [("a", 1), ("b", 1)]:
            assert time.monotonic() < deadline, running(rig)
            time.sleep(0.1)
    finally:
        os.kill(cluster.process.pid, signal.SIGCONT)
    cluster.kubectl("delete", "pod", "a", "--wait=false")
    apply(cluster, "c")
    cluster.until_gone("a")
    cluster.until_running("c")
    cluster.until(lambda: running(rig) == [("b", 1), ("c", 0)], "what was wanted meanwhile")
    assert cluster.status("b")["restartCount"] == 1


# --- the disk ---------------------------------------------------------------------------------------


def test_on_a_full_disk_edgecore_starts_says_so_and_ends_pods(pair: Pair) -> None:
    cluster, edge = pair
    apply(cluster, "a", "b")
    until_told(cluster, "a", "b")
    edge.stop()
    ballast = edge.data_dir / "ballast"
    _fill(ballast)
    try:
        edge.launch()
        cluster.until(
            lambda: cluster.condition("DiskPressure").get("status") == "True", "the node says so"
        )
        cluster.kubectl("delete", "pod", "a", "--wait=false")
        cluster.until_gone("a")
        assert not edge.wait(0)
    finally:
        ballast.unlink()
    cluster.until((edge.data_dir / "endpoints.json").exists, "the addresses are on disk")
    edge.stop()  # pressure lasts five minutes, but not over a start
    edge.start()
    apply(cluster, "c")
    cluster.until_running("c")


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4_096))


# --- looking ----------------------------------------------------------------------------------------


def _kill_containers(rig: Containerd) -> None:
    ids = rig.containers()
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if any(each in (entry / "cgroup").read_text() for each in ids):
                os.kill(int(entry.name), signal.SIGKILL)


def _sandboxes(rig: Containerd) -> list[api_pb2.PodSandbox]:
    with rig.calls() as stub:
        found = stub.ListPodSandbox(api_pb2.ListPodSandboxRequest(), timeout=10.0)
    return list(found.items)


def _run_foreign(rig: Containerd) -> None:
    """Run a sandbox that is not of any edge."""
    host = api_pb2.NamespaceOption(network=api_pb2.NODE)
    security = api_pb2.LinuxSandboxSecurityContext(namespace_options=host)
    config = api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name=FOREIGN, namespace="default", uid="foreign"),
        labels={"io.kubernetes.pod.uid": "foreign", "twinspan.io/node": f"{NODE}-other"},
        linux=api_pb2.LinuxPodSandboxConfig(security_context=security),
    )
    with rig.calls() as stub:
        stub.RunPodSandbox(api_pb2.RunPodSandboxRequest(config=config), timeout=60.0)


def _foreign(rig: Containerd) -> list[int]:
    return [each.state for each in _sandboxes(rig) if each.metadata.name == FOREIGN]


def _foreign_ids(rig: Containerd) -> list[str]:
    return [each.id for each in _sandboxes(rig) if each.metadata.name == FOREIGN]
