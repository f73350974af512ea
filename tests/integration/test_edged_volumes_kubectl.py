"""Volumes of Pods by kubectl, on a node with a real containerd: what containers see, and when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.pods.mounts import Mounts
from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.pods_e2e import PodsCluster, pods_cluster

OBJECTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {a: "one"}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {key: "word"}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: vols, labels: {colour: red}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.1; done"]
    volumeMounts:
    - {name: c, mountPath: /c}
    - {name: s, mountPath: /s}
    - {name: d, mountPath: /d}
    - {name: m, mountPath: /m}
    - {name: e, mountPath: /e, subPathExpr: $(MY)}
    - {name: o, mountPath: /o}
    env:
    - {name: MY, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  volumes:
  - {name: c, configMap: {name: c}}
  - {name: s, secret: {secretName: s, defaultMode: 0400}}
  - name: d
    downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
  - {name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: e, emptyDir: {}}
  - {name: o, configMap: {name: later, optional: true}}
"""
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture(scope="module")
def cluster(
    containerd: Containerd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PodsCluster]:
    with pods_cluster(tmp_path_factory.mktemp("volumes"), containerd) as found:
        yield found


def said(cluster: PodsCluster, script: str) -> str:
    return cluster.kubectl("exec", "vols", "--", "sh", "-c", script, is_ok=False).strip()


def volumes_root(cluster: PodsCluster) -> Path:
    return cluster.process.data_dir / "edge" / "pods"


def test_a_pod_has_its_volumes_and_their_changes(cluster: PodsCluster) -> None:
    cluster.apply(OBJECTS)
    cluster.apply(POD)
    cluster.until_running("vols")
    assert said(cluster, "cat /c/a /s/key") == "oneword"
    assert said(cluster, "cat /d/labels") == 'colour="red"'
    assert said(cluster, "ls /o") == ""
    assert said(cluster, f"cat {ACCOUNT}/namespace") == "default"
    assert (
        said(cluster, f"test -s {ACCOUNT}/token && test -s {ACCOUNT}/ca.crt && echo yes") == "yes"
    )
    assert said(cluster, "echo 1 > /m/x && echo 2 > /e/y && cat /m/x /e/y") == "1\n2"

    cluster.apply(OBJECTS.replace("one", "two").replace("word", "other"))
    cluster.kubectl("label", "pod", "vols", "colour=blue", "--overwrite")
    cluster.kubectl("create", "configmap", "later", "--from-literal=b=here")
    cluster.until(lambda: said(cluster, "cat /c/a /s/key") == "twoother", "objects")
    cluster.until(lambda: said(cluster, "cat /d/labels") == 'colour="blue"', "labels")
    cluster.until(lambda: said(cluster, "cat /o/b") == "here", "the optional one")

    mounts, root = Mounts(), volumes_root(cluster)
    assert len(mounts.below(root)) == 4, "Secret, token, memory and the sub path"
    cluster.kubectl("delete", "pod", "vols")
    cluster.until_gone("vols")
    assert mounts.below(root) == []
    assert [each.name for each in root.iterdir() if each.is_dir()] == []


def test_a_pod_waits_for_its_objects_and_says_so(cluster: PodsCluster) -> None:
    cluster.apply(POD.replace("name: vols", "name: waits").replace("{name: c}", "{name: nope}"))

    def told() -> bool:
        events = cluster.kubectl("get", "events", "--field-selector", "reason=FailedMount")
        return 'MountVolume.SetUp failed for volume "c" : configmap "nope" not found' in events

    cluster.until(told, "the Event")
    assert cluster.phase("waits") == "Pending"
    cluster.kubectl("create", "configmap", "nope", "--from-literal=a=1")
    cluster.until_running("waits")
    cluster.kubectl("delete", "pod", "waits")
    cluster.until_gone("waits")


def test_volumes_outlive_a_killed_process(cluster: PodsCluster) -> None:
    cluster.apply(OBJECTS)
    cluster.apply(POD)
    cluster.until_running("vols")
    assert said(cluster, "echo kept > /m/x && cat /m/x /c/a") == "kept\none"
    identity = cluster.status("vols")["containerID"]
    before = Mounts().below(volumes_root(cluster))
    cluster.process.kill()
    cluster.process.start()
    cluster.until(lambda: said(cluster, "cat /m/x") == "kept", "the same memory")
    cluster.apply(OBJECTS.replace("one", "two"))
    cluster.until(lambda: said(cluster, "cat /c/a") == "two", "a change after it")
    assert cluster.status("vols")["containerID"] == identity
    assert Mounts().below(volumes_root(cluster)) == before
    cluster.kubectl("delete", "pod", "vols")
    cluster.until_gone("vols")
    assert Mounts().below(volumes_root(cluster)) == []
