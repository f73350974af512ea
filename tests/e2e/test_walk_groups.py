"""NodeGroups and EdgeApplications on the shipped command, killed again and again in the middle of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.kubectl import find_kubectls
from tests.process import Twinspan, eventually, run, twinspan

KUBECTLS = find_kubectls()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not KUBECTLS, reason="no kubectl: install the group `peers`"),
]
MARK = "twinspan.io/edge-application"


def a_manifest(number: int, groups: tuple[str, ...]) -> str:
    """Groups, an application with one ConfigMap and one Pod for each group, in its n-th state."""
    targets = "".join(f"\n    - name: {name}" for name in groups)
    return f"""
apiVersion: apps.kubeedge.io/v1alpha1
kind: NodeGroup
metadata: {{name: west}}
spec: {{matchLabels: {{node-role.kubernetes.io/edge: ""}}, topologyEnabled: true}}
---
apiVersion: apps.kubeedge.io/v1alpha1
kind: NodeGroup
metadata: {{name: east}}
spec: {{nodes: [nowhere]}}
---
apiVersion: apps.kubeedge.io/v1alpha1
kind: EdgeApplication
metadata: {{name: demo, namespace: default}}
spec:
  workloadTemplate:
    manifests:
    - apiVersion: v1
      kind: ConfigMap
      metadata: {{name: settings-{number}}}
      data: {{number: "{number}"}}
    - apiVersion: v1
      kind: Pod
      metadata: {{name: web}}
      spec: {{containers: [{{name: c, image: "r.example/web:{number}"}}]}}
  workloadScope:
    targetNodeGroups:{targets}
"""


class Cluster:
    """kubectl for one data directory."""

    def __init__(self, node: Twinspan) -> None:
        self._start = (
            str(next(iter(KUBECTLS.values()))),
            "--kubeconfig",
            str(node.data_dir / "kube" / "kubeconfig"),
        )

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        return run(*self._start, *arguments, stdin=stdin)

    def names(self, plural: str, *more: str) -> list[str]:
        return sorted(self("get", plural, "-o", "name", *more).split())

    def made(self) -> list[str]:
        """What applications made."""
        return self.names("pods,configmaps", "-l", MARK)


def test_a_killed_cloudcore_leaves_nothing_behind_and_forgets_nothing(tmp_path: Path) -> None:
    with twinspan(tmp_path / "data", "up") as node:
        kubectl = Cluster(node)
        for number, groups in enumerate((("west", "east"), ("east",), ("west",)), 1):
            kubectl("apply", "-f", "-", stdin=a_manifest(number, groups))
            time.sleep((0.0, 0.05, 0.2)[number - 1])  # where it is killed is left to chance
            node.kill()
            node.start()
        wanted = ["configmap/settings-3", "pod/web-west"]
        eventually(lambda: kubectl.made() == wanted, seconds=60, what=f"{wanted}")
        image = "jsonpath={.spec.containers[0].image}"
        eventually(lambda: kubectl("get", "pod", "web-west", "-o", image) == "r.example/web:3")
        eventually(
            lambda: len(kubectl.names("nodes", "-l", "topology.kubernetes.io/zone=west")) == 1
        )

        kubectl("delete", "--wait=false", "ng/west", "eapp/demo")
        node.kill()
        node.start()
        eventually(lambda: kubectl.names("ng") == ["nodegroup.apps.kubeedge.io/east"])
        eventually(lambda: kubectl.made() == [])
        assert kubectl.names("nodes", "-l", "apps.kubeedge.io/belonging-to") == []
        assert kubectl.names("nodes", "-l", "topology.kubernetes.io/zone") == []
