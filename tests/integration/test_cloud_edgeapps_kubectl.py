"""NodeGroups and EdgeApplications by kubectl."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cloud_rig import a_cloud, eventually
from tests.integration.test_cloud_nodegroups import make_node
from tests.kubectl import Kubectl, find_kubectls

KUBECTLS = find_kubectls()
pytestmark = pytest.mark.skipif(not KUBECTLS, reason="no kubectl: install the group `peers`")

MANIFEST = """
apiVersion: apps.kubeedge.io/v1alpha1
kind: NodeGroup
metadata: {name: west}
spec:
  matchLabels: {site: west}
---
apiVersion: apps.kubeedge.io/v1alpha1
kind: NodeGroup
metadata: {name: east}
spec:
  nodes: [edge-1]
---
apiVersion: apps.kubeedge.io/v1alpha1
kind: EdgeApplication
metadata: {name: demo}
spec:
  workloadTemplate:
    manifests:
    - apiVersion: v1
      kind: ConfigMap
      metadata: {name: settings}
      data: {mode: fast}
    - apiVersion: v1
      kind: Pod
      metadata: {name: web}
      spec:
        containers:
        - {name: c, image: "r.example/web:1.0", env: [{name: SITE, value: none}]}
    - apiVersion: workloads.example/v1
      kind: Fleet
      metadata: {name: big}
  workloadScope:
    targetNodeGroups:
    - name: west
      overriders:
        imageOverriders: [{component: Tag, operator: replace, value: "1.1"}]
        envOverriders: [{containerName: c, operator: replace, value: [{name: SITE, value: west}]}]
"""


@pytest.mark.parametrize("name", KUBECTLS)
async def test_kubectl_applies_shows_changes_and_deletes_an_application(
    tmp_path: Path, name: str
) -> None:
    async with a_cloud(tmp_path) as cloud:
        await make_node(cloud, "edge-1", site="west")
        kubeconfig = cloud.data_dir / "kube" / "kubeconfig"
        kubectl = Kubectl(KUBECTLS[name], kubeconfig, tmp_path)

        async def shows(wanted: str, *command: str) -> None:
            async def does() -> bool:
                return wanted in (await kubectl.ok(*command)).out

            await eventually(does, f"{wanted!r} in {command}")

        applied = (await kubectl.ok("apply", "-f", "-", stdin=MANIFEST)).out
        assert "edgeapplication.apps.kubeedge.io/demo created" in applied
        await shows("node edge-1 belongs to NodeGroup", "get", "ng", "-o", "yaml")
        await shows("apps.kubeedge.io/belonging-to", "get", "node", "edge-1", "--show-labels")
        await shows("r.example/web:1.1", "get", "pod", "web-west", "-o", "yaml")
        await shows("could not find the requested resource", "describe", "eapp", "demo")
        await shows("NotApplied", "get", "events")
        assert "unchanged" in (await kubectl.ok("apply", "-f", "-", stdin=MANIFEST)).out

        changed = MANIFEST.replace("mode: fast", "mode: slow").replace(
            'value: "1.1"', 'value: "1.2"'
        )
        await kubectl.ok("apply", "-f", "-", stdin=changed)
        await shows("slow", "get", "cm", "settings", "-o", "jsonpath={.data}")
        await shows("r.example/web:1.2", "get", "pod", "web-west", "-o", "yaml")
        await kubectl.ok("delete", "eapp", "demo")

        async def is_empty() -> bool:
            found = (await kubectl.ok("get", "pods,cm", "-o", "name")).out.split()
            return found == ["configmap/kube-root-ca.crt"]

        await eventually(is_empty)
        async with asyncio.timeout(30):
            await kubectl.ok("delete", "ng", "west", "east")
        labels = (await kubectl.ok("get", "node", "edge-1", "--show-labels")).out
        assert "belonging-to" not in labels
