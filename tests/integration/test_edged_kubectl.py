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
JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: sum}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: c, image: IMAGE, command: [sh, -c, "echo $((6 * 7))"]}
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - {name: c, image: IMAGE, command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.1; done"]}
"""
RICH = """
apiVersion: v1
kind: ConfigMap
metadata: {name: paint}
data: {colour: blue}
---
apiVersion: v1
kind: Pod
metadata: {name: rich}
spec:
  terminationGracePeriodSeconds: 2
  volumes:
  - {name: work, emptyDir: {}}
  - {name: paint, configMap: {name: paint}}
  initContainers:
  - name: side
    image: IMAGE
    restartPolicy: Always
    command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.1; done"]
  - name: make
    image: IMAGE
    command: [sh, -c, "echo made > /shared/file"]
    volumeMounts: [{name: work, mountPath: /shared}]
  containers:
  - name: c
    image: IMAGE
    command:
    - sh
    - -c
    - |
      echo "from init: $(cat /shared/file)"; echo "colour: $(cat /paint/colour)"
      trap 'exit 0' TERM; while true; do sleep 0.1; done
    volumeMounts: [{name: work, mountPath: /shared}, {name: paint, mountPath: /paint}]
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


def test_a_container_that_crashes_is_restarted_and_then_backed_off(cluster: PodsCluster) -> None:
    cluster.apply(a_pod("crash", "echo bye > /dev/termination-log; exit 7"))
    cluster.until(
        lambda: (
            cluster.status("crash").get("state", {}).get("waiting", {}).get("reason")
            == "CrashLoopBackOff"
        ),
        "CrashLoopBackOff",
    )
    row = cluster.status("crash")
    assert row["restartCount"] >= 1
    assert row["lastState"]["terminated"]["exitCode"] == 7
    assert row["lastState"]["terminated"]["message"].strip() == "bye"
    assert row["state"]["waiting"]["message"].startswith(
        "back-off 10s restarting failed container=c"
    )
    cluster.until(
        lambda: "BackOff" in cluster.kubectl("get", "events", "--field-selector", "reason=BackOff"),
        "an event",
    )
    cluster.kubectl("delete", "pod", "crash")
    cluster.until_gone("crash")
    cluster.until_clean()


def test_a_job_completes_and_its_log_can_be_read(cluster: PodsCluster) -> None:
    cluster.apply(JOB)
    cluster.until(lambda: cluster.get("job", "sum").get("status", {}).get("succeeded") == 1, "Job")
    assert "42" in cluster.kubectl("logs", "job/sum")
    cluster.kubectl("delete", "job", "sum")
    cluster.until_clean()


def test_a_deployment_scales(cluster: PodsCluster) -> None:
    cluster.apply(DEPLOYMENT)
    cluster.until(lambda: ready(cluster, "web") == 2, "two replicas")
    cluster.kubectl("scale", "deployment/web", "--replicas=4")
    cluster.until(lambda: ready(cluster, "web") == 4, "four replicas")
    cluster.kubectl("scale", "deployment/web", "--replicas=1")
    cluster.until(lambda: len(cluster.containerd.sandboxes()) == 1, "one replica")
    cluster.kubectl("delete", "deployment", "web")
    cluster.until_clean()


def test_init_containers_sidecars_and_configuration(cluster: PodsCluster) -> None:
    cluster.apply(RICH)
    cluster.until_running("rich")
    said = cluster.kubectl("logs", "rich", "-c", "c")
    assert "from init: made" in said
    assert "colour: blue" in said
    status = cluster.get("pod", "rich")["status"]
    inits = {row["name"]: row for row in status["initContainerStatuses"]}
    assert inits["make"]["state"]["terminated"]["reason"] == "Completed"
    assert inits["side"]["started"] is True
    cluster.kubectl("delete", "pod", "rich")
    cluster.until_gone("rich")
    cluster.until_clean()


def test_an_image_that_is_not_there_is_said_and_can_be_mended(cluster: PodsCluster) -> None:
    wrong = a_pod("wrong").replace("IMAGE", cluster.containerd.image("nothing"))
    cluster.apply(wrong)
    cluster.until(
        lambda: (
            cluster.status("wrong").get("state", {}).get("waiting", {}).get("reason")
            in ("ErrImagePull", "ImagePullBackOff")
        ),
        "ErrImagePull",
    )
    image = cluster.containerd.image("busybox")
    cluster.kubectl("set", "image", "pod/wrong", f"c={image}")
    cluster.until_running("wrong")
    cluster.kubectl("delete", "pod", "wrong", "--force", "--grace-period=0")
    cluster.until_clean()


def ready(cluster: PodsCluster, name: str) -> int:
    return int(cluster.get("deployment", name).get("status", {}).get("readyReplicas", 0))
