"""What Pods ask of their containers, by kubectl on a node with a real containerd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.pods_e2e import PodsCluster, pods_cluster

SLEEP = "trap 'exit 0' TERM; while true; do sleep 0.1; done"


@pytest.fixture(scope="module")
def cluster(
    containerd: Containerd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PodsCluster]:
    with pods_cluster(tmp_path_factory.mktemp("pods"), containerd) as found:
        yield found


TOLD = """
apiVersion: v1
kind: Pod
metadata: {name: told, labels: {tier: front}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "env; id -u; SLEEP"]
    securityContext: {runAsUser: 1234, readOnlyRootFilesystem: true}
    resources: {limits: {cpu: 500m, memory: 32Mi}}
    env:
    - {name: SETTING, valueFrom: {configMapKeyRef: {name: later, key: colour}}}
    - {name: TIER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: WHOLE, value: "$(SETTING)/$(TIER)"}
"""


def test_a_pod_waits_for_its_settings_and_is_told_them(cluster: PodsCluster) -> None:
    cluster.apply(TOLD.replace("SLEEP", SLEEP))

    def waiting() -> dict[str, str]:
        found: dict[str, str] = cluster.status("told").get("state", {}).get("waiting", {})
        return found

    cluster.until(lambda: waiting().get("reason") == "CreateContainerConfigError", "waiting")
    assert waiting()["message"] == 'configmap "later" not found'
    cluster.kubectl("create", "configmap", "later", "--from-literal=colour=green")
    cluster.until_running("told")
    told = cluster.kubectl("exec", "told", "--", "sh", "-c", "env; id -u").splitlines()
    for line in ("SETTING=green", "TIER=front", "NODE=edge-1", "MEMORY=32", "WHOLE=green/front"):
        assert line in told
    assert told[-1] == "1234"
    assert "KUBERNETES_SERVICE_HOST=10." in "\n".join(told)


def test_last_words_are_shown(cluster: PodsCluster) -> None:
    cluster.apply("""
apiVersion: v1
kind: Pod
metadata: {name: said}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: IMAGE, command: [sh, -c, "echo no coffee > /dev/termination-log; exit 7"]}
""")
    cluster.until(lambda: cluster.phase("said") == "Failed", "failed")
    ended = cluster.status("said")["state"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (7, "no coffee\n")


def test_root_is_refused_where_a_pod_may_not_run_as_it(cluster: PodsCluster) -> None:
    cluster.apply("""
apiVersion: v1
kind: Pod
metadata: {name: rootless}
spec:
  securityContext: {runAsNonRoot: true}
  containers:
  - {name: c, image: IMAGE, command: [sleep, "60"]}
""")
    cluster.until(
        lambda: (
            "image will run as root"
            in cluster.status("rootless").get("state", {}).get("waiting", {}).get("message", "")
        ),
        "refused",
    )
    cluster.kubectl("delete", "pod", "rootless")
    cluster.until_gone("rootless")
