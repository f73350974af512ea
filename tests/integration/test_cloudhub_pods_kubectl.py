"""Pods by kubectl on the embedded API, run and ended by a made-up edge."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from tests.cloud_rig import content_of
from tests.integration.test_cloudhub_pods import POD, a_node, report
from tests.kubectl import Kubectl, find_kubectls

KUBECTLS = find_kubectls()
pytestmark = pytest.mark.skipif(not KUBECTLS, reason="no kubectl: install the group `peers`")

MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: cm-1}
data: {greeting: hello}
---
apiVersion: v1
kind: Pod
metadata: {name: p1, labels: {app: demo}}
spec:
  nodeName: edge-1
  containers:
  - name: c
    image: registry.example/app:1
    envFrom: [{configMapRef: {name: cm-1}}]
"""


async def test_kubectl_applies_watches_and_deletes_a_pod(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        kubeconfig = cloud.data_dir / "kube" / "kubeconfig"
        kubectl = Kubectl(next(iter(KUBECTLS.values())), kubeconfig, tmp_path)
        applied = (await kubectl.ok("apply", "-f", "-", stdin=MANIFEST)).out
        assert "pod/p1 created" in applied
        assert content_of(await edge.object("default/configmap/cm-1"))["data"] == {
            "greeting": "hello"
        }
        pod = content_of(await edge.object(POD, "insert"))
        assert "Pending" in (await kubectl.ok("get", "pods", "-o", "wide")).out
        assert "unchanged" in (await kubectl.ok("apply", "-f", "-", stdin=MANIFEST)).out

        ready: JsonObject = {"type": "Ready", "status": "True"}
        await report(
            edge,
            pod,
            phase="Running",
            podIP="10.88.0.9",
            podIPs=[{"ip": "10.88.0.9"}],
            conditions=[ready],
        )
        await kubectl.ok("wait", "--for=condition=Ready", "pod/p1", "--timeout=10s")
        wide = (await kubectl.ok("get", "pods", "-l", "app=demo", "-o", "wide")).out
        assert "Running" in wide
        assert "10.88.0.9" in wide
        assert "edge-1" in wide
        assert "Node:" in (await kubectl.ok("describe", "pod", "p1")).out

        deleting = asyncio.create_task(kubectl.ok("delete", "pod", "p1"))
        await edge.object(POD, "update")
        options: JsonObject = {
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": pod["metadata"]["uid"]},
        }
        await edge.ask_object(Subject("default", "pod", "p1"), Operation.DELETE, options)
        assert 'pod "p1" deleted' in (await deleting).out
        await edge.object(POD, "delete")
        await edge.object("default/configmap/cm-1", "delete")


async def test_kubectl_forces_a_pod_away_whose_node_says_nothing(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        kubectl = Kubectl(
            next(iter(KUBECTLS.values())), cloud.data_dir / "kube" / "kubeconfig", tmp_path
        )
        await kubectl.ok("apply", "-f", "-", stdin=MANIFEST)
        await edge.object(POD, "insert")
        await kubectl.ok("delete", "pod", "p1", "--force", "--grace-period=0")
        await edge.object(POD, "delete")
