"""Probes, eviction, kills for memory and the Node's conditions, by kubectl with a real containerd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.pods_e2e import NODE, PodsCluster, pods_cluster

SLEEP = "[sh, -c, \"trap 'exit 0' TERM; while true; do sleep 0.1; done\"]"
PROBED = """
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "mkdir /www; echo fine > /www/ok; exec httpd -f -p 8080 -h /www"]
    ports: [{name: web, containerPort: 8080}]
    startupProbe: {tcpSocket: {port: web}, periodSeconds: 1, failureThreshold: 30}
    readinessProbe:
      {exec: {command: [test, -e, /www/ready]}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {httpGet: {path: /ok, port: web}, periodSeconds: 1, failureThreshold: 2}
"""
HOG = """
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "dd if=/dev/zero of=/dev/null bs=256M count=1; exit 7"]
    resources: {limits: {memory: 32Mi}}
"""
FILLER = """
apiVersion: v1
kind: Pod
metadata: {name: filler}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "dd if=/dev/zero of=/data/big bs=1M count=3; sleep 600"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - {name: data, emptyDir: {sizeLimit: 1Mi}}
"""
ONCE = """
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "touch /first; sleep 600"]
    startupProbe: {exec: {command: [rm, /first]}, periodSeconds: 1, failureThreshold: 3}
    readinessProbe: {exec: {command: ["true"]}, periodSeconds: 2}
"""
PLAIN = f"""
apiVersion: v1
kind: Pod
metadata: {{name: plain}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: c, image: IMAGE, command: {SLEEP}}}
"""


@pytest.fixture(scope="module")
def cluster(
    containerd: Containerd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PodsCluster]:
    folder = tmp_path_factory.mktemp("node")
    with pods_cluster(folder, containerd, "edge.workloads.eviction_interval=1") as found:
        yield found


def remove(cluster: PodsCluster, pod: str) -> None:
    cluster.kubectl("delete", "pod", pod, "--wait=false")
    cluster.until_gone(pod)


def events(cluster: PodsCluster, pod: str) -> str:
    return cluster.kubectl("get", "events", "--field-selector", f"involvedObject.name={pod}")


def probes(cluster: PodsCluster) -> str:
    port = cluster.process.port("edge.kubelet")
    with urlopen(f"http://127.0.0.1:{port}/metrics/probes", timeout=10) as answer:
        return str(answer.read().decode())


def test_the_node_says_what_it_is(cluster: PodsCluster) -> None:
    cluster.apply(PLAIN)
    cluster.until_running("plain")
    cluster.until(lambda: cluster.get("node", NODE)["status"].get("images"), "images")
    node = cluster.get("node", NODE)
    status = node["status"]
    assert status["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    assert {row["type"]: row["status"] for row in status["conditions"]} == {
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
        "Ready": "True",
    }
    assert not [row for row in node["spec"].get("taints", []) if "twinspan.io" in row["key"]]
    assert status["capacity"]["pods"] == "110"
    assert status["capacity"]["memory"] != status["allocatable"]["memory"]
    names = [name for row in status["images"] for name in row["names"]]
    assert cluster.containerd.image("busybox") in names
    assert "Starting" in events(cluster, NODE)
    remove(cluster, "plain")


def test_probes_make_a_pod_ready_and_restart_it(cluster: PodsCluster) -> None:
    cluster.apply(PROBED)
    cluster.until(lambda: cluster.status("probed").get("started"), "started")
    assert not cluster.status("probed")["ready"]
    cluster.kubectl("exec", "probed", "--", "touch", "/www/ready")
    cluster.until(lambda: cluster.status("probed").get("ready"), "ready")
    assert cluster.status("probed")["restartCount"] == 0
    cluster.kubectl("exec", "probed", "--", "rm", "/www/ready", "/www/ok")
    cluster.until(lambda: cluster.status("probed").get("restartCount", 0) >= 1, "restarted")
    said = events(cluster, "probed")
    assert "Liveness probe failed: HTTP probe failed with statuscode: 404" in said
    assert "Readiness probe failed" in said
    assert "failed liveness probe, will be restarted" in said
    remove(cluster, "probed")


def test_a_container_that_takes_too_much_memory_is_shown_as_killed(cluster: PodsCluster) -> None:
    cluster.apply(HOG)
    cluster.until(lambda: cluster.phase("hog") == "Failed", "ended")
    assert cluster.status("hog")["state"]["terminated"]["reason"] == "OOMKilled"
    remove(cluster, "hog")


def test_a_pod_that_writes_too_much_is_evicted(cluster: PodsCluster) -> None:
    cluster.apply(FILLER)
    cluster.until(lambda: cluster.phase("filler") == "Failed", "evicted")
    status = cluster.get("pod", "filler")["status"]
    assert status["reason"] == "Evicted"
    assert status["message"] == 'Usage of EmptyDir volume "data" exceeds the limit "1Mi". '
    assert "Evicted" in events(cluster, "filler")
    cluster.until(lambda: "terminated" in cluster.status("filler").get("state", {}), "it ended")
    remove(cluster, "filler")


def test_use_is_shown_at_the_node(cluster: PodsCluster) -> None:
    cluster.apply(PLAIN)
    cluster.until_running("plain")
    kubelet = f"http://127.0.0.1:{cluster.process.port('edge.kubelet')}"

    def seen() -> bool:
        with urlopen(f"{kubelet}/stats/summary", timeout=10) as answer:
            pods = json.loads(answer.read())["pods"]
        return any(each["podRef"]["name"] == "plain" and each["containers"] for each in pods)

    cluster.until(seen, "the Pod is in the summary")
    for path, row in (
        (
            "resource",
            'container_memory_working_set_bytes{container="c",namespace="default",pod="plain"}',
        ),
        ("cadvisor", "container_network_receive_bytes_total{"),
    ):
        with urlopen(f"{kubelet}/metrics/{path}", timeout=10) as answer:
            assert row in answer.read().decode()
    remove(cluster, "plain")


def test_what_was_started_and_ready_stays_so_when_edgecore_restarts(cluster: PodsCluster) -> None:
    cluster.apply(ONCE)
    cluster.until(lambda: cluster.status("once").get("ready"), "ready")
    before = cluster.status("once")
    cluster.process.kill()
    cluster.process.start()
    cluster.until(lambda: cluster.condition().get("status") == "True", "the node is ready")
    tried = 'prober_probe_total{container="c",namespace="default",pod="once"'
    cluster.until(lambda: tried in probes(cluster), "readiness is tried again")
    assert 'probe_type="Startup"' not in probes(cluster)
    after = cluster.status("once")
    assert after["containerID"] == before["containerID"]
    assert (after["started"], after["ready"], after["restartCount"]) == (True, True, 0)
    remove(cluster, "once")


def test_the_node_is_not_ready_without_its_runtime_and_ready_again_with_it(
    cluster: PodsCluster,
) -> None:
    cluster.apply(PLAIN)
    cluster.until_running("plain")
    before = cluster.status("plain")["containerID"]
    cluster.containerd.kill()
    try:
        cluster.until(lambda: cluster.condition().get("status") == "False", "not ready", 90)
        assert cluster.condition()["reason"] == "KubeletNotReady"
        assert "container runtime is down" in cluster.condition()["message"]
    finally:
        cluster.containerd.start()
    cluster.until(lambda: cluster.condition().get("status") == "True", "ready", 90)
    cluster.until(lambda: cluster.status("plain").get("ready"), "the Pod is ready")
    assert cluster.status("plain")["containerID"] == before
    assert cluster.status("plain")["restartCount"] == 0
    said = events(cluster, NODE)
    assert "NodeNotReady" in said
    assert "NodeReady" in said
    remove(cluster, "plain")
