"""DaemonSets, StatefulSets and budgets as people handle them: `apply`, `rollout`, `scale`, `drain`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, rows, text
from tests.kubectl import Kubectl, find_kubectls
from tests.workload_rig import Workloads, names, workloads

KUBECTLS = find_kubectls()
NEWEST = next(iter(KUBECTLS.values()), None)
TIMEOUT = "--timeout=30s"
LOOPS = "daemonset", "statefulset", "disruption"

pytestmark = pytest.mark.skipif(NEWEST is None, reason="no kubectl here")

MEMBERS = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1"}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, image: "agent:1"}]}
"""


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Workloads]:
    async with workloads(tmp_path / "cloud", *LOOPS) as found:
        for name in ("node-1", "node-2"):
            node: JsonObject = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            await found.kube.create("v1", "nodes", None, node)
        yield found


@pytest.fixture
def kubectl(rig: Workloads, tmp_path: Path) -> Kubectl:
    assert NEWEST is not None
    home = tmp_path / "home"
    home.mkdir()
    return Kubectl(NEWEST, rig.server.kubeconfig, home)


def images(pods: list[JsonObject]) -> set[str]:
    return {text(rows(part(pod, "spec").get("containers"))[0]["image"]) for pod in pods}


async def finished(kubectl: Kubectl, which: str) -> str:
    return (await kubectl.ok("rollout", "status", which, TIMEOUT)).out


async def test_both_kinds_come_up_and_are_shown(rig: Workloads, kubectl: Kubectl) -> None:
    await kubectl.ok("apply", "-f", "-", stdin=MEMBERS)
    assert 'daemon set "agent" successfully rolled out' in await finished(kubectl, "ds/agent")
    assert "2 new pods have been updated" in await finished(kubectl, "sts/web")
    shown = (await kubectl.ok("get", "sts,ds")).out
    lines = [line.split() for line in shown.split("\n")]
    assert ["statefulset.apps/web", "2/2"] in [line[:2] for line in lines]
    assert ["daemonset.apps/agent", "2", "2", "2", "2", "2"] in [line[:6] for line in lines]
    described = (await kubectl.ok("describe", "sts", "web")).out
    assert "Pods Status:        2 Running / 0 Waiting / 0 Succeeded / 0 Failed" in described
    assert "Create Pod web-1 in StatefulSet web successful" in described
    described = (await kubectl.ok("describe", "ds", "agent")).out
    assert "Desired Number of Nodes Scheduled: 2" in described
    assert "SuccessfulCreate" in described


@pytest.mark.parametrize(("which", "name"), [("sts/web", "web"), ("ds/agent", "agent")])
async def test_history_undo_and_restart(
    rig: Workloads, kubectl: Kubectl, which: str, name: str
) -> None:
    await kubectl.ok("apply", "-f", "-", stdin=MEMBERS)
    await finished(kubectl, which)
    await kubectl.ok("set", "image", which, f"{name}={name}:2")
    await finished(kubectl, which)
    mine = f"{name}:1", f"{name}:2"
    assert mine[1] in images(await rig.pods())
    said = (await kubectl.ok("rollout", "history", which)).out
    assert [line.split()[0] for line in said.strip().split("\n")[2:]] == ["1", "2"]
    said = (await kubectl.ok("rollout", "history", which, "--revision=1")).out
    assert f"Image:\t{mine[0]}" in said
    assert "rolled back" in (await kubectl.ok("rollout", "undo", which)).out
    await finished(kubectl, which)
    assert mine[0] in images(await rig.pods())
    assert mine[1] not in images(await rig.pods())
    said = (await kubectl.ok("rollout", "history", which)).out
    assert [line.split()[0] for line in said.strip().split("\n")[2:]] == ["2", "3"]
    before = names(await rig.pods())
    uids = {text(part(pod, "metadata")["uid"]) for pod in await rig.pods()}
    await kubectl.ok("rollout", "restart", which)
    await finished(kubectl, which)
    assert not uids & {
        text(part(pod, "metadata")["uid"])
        for pod in await rig.pods()
        if part(pod, "metadata", "labels")["app"] == name
    }
    assert len(before) == 4


async def test_a_set_is_scaled_and_a_drain_heeds_the_budget(
    rig: Workloads, kubectl: Kubectl
) -> None:
    await kubectl.ok("apply", "-f", "-", stdin=MEMBERS)
    await finished(kubectl, "sts/web")
    await kubectl.ok("scale", "sts/web", "--replicas=3")
    await finished(kubectl, "sts/web")
    await kubectl.ok("create", "pdb", "web", "--selector=app=web", "--min-available=3")
    place = "policy/v1", "poddisruptionbudgets"
    await rig.until(place, "web", lambda it: it.get("currentHealthy") == 3)
    said = (await kubectl.ok("get", "pdb", "web")).out.split("\n")
    assert said[0].split() == [
        *("NAME", "MIN", "AVAILABLE", "MAX", "UNAVAILABLE", "ALLOWED", "DISRUPTIONS", "AGE")
    ]
    assert said[1].split()[:4] == ["web", "3", "N/A", "0"]
    refused = await kubectl.fails("drain", "node-1", "--ignore-daemonsets", "--timeout=1s")
    assert "Cannot evict pod as it would violate the pod's disruption budget" in refused.text
    await kubectl.ok("delete", "pdb", "web")
    await kubectl.ok("drain", "node-1", "--ignore-daemonsets", TIMEOUT)


async def test_who_asks_for_volumes_is_told_that_nothing_provides_them(kubectl: Kubectl) -> None:
    claims = """
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"""
    said = (await kubectl.ok("apply", "-f", "-", stdin=MEMBERS.partition("---")[0] + claims)).err
    assert "Warning: spec.volumeClaimTemplates: claims are made; nothing here provides" in said
