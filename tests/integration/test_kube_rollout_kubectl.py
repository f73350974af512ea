"""Deployments as people handle them: `kubectl create deployment`, `scale`, `set image`, `rollout`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.wire.kube.parts import annotations_of, part, text
from tests.kubectl import Kubectl, find_kubectls
from tests.workload_rig import Workloads, names, workloads

KUBECTLS = find_kubectls()
NEWEST = next(iter(KUBECTLS.values()), None)
DEPLOYMENTS, SETS = ("apps/v1", "deployments"), ("apps/v1", "replicasets")
TIMEOUT = "--timeout=30s"

pytestmark = pytest.mark.skipif(NEWEST is None, reason="no kubectl here")


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Workloads]:
    async with workloads(tmp_path / "cloud", "deployment", "replicaset") as found:
        yield found


@pytest.fixture
def kubectl(rig: Workloads, tmp_path: Path) -> Kubectl:
    assert NEWEST is not None
    home = tmp_path / "home"
    home.mkdir()
    return Kubectl(NEWEST, rig.server.kubeconfig, home)


async def a_web(kubectl: Kubectl, replicas: int = 3) -> None:
    await kubectl.ok(
        "create", "deployment", "web", "--image=web:1", f"--replicas={replicas}", "--port=80"
    )
    await finished(kubectl)


async def finished(kubectl: Kubectl) -> str:
    return (await kubectl.ok("rollout", "status", "deployment/web", TIMEOUT)).out


async def test_a_deployment_is_created_and_shown(rig: Workloads, kubectl: Kubectl) -> None:
    await a_web(kubectl)
    said = (await kubectl.ok("get", "deployment", "web")).out.split("\n")
    assert said[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert said[1].split()[:4] == ["web", "3/3", "3", "3"]
    sets = (await kubectl.ok("get", "rs")).out.split("\n")
    assert sets[0].split() == ["NAME", "DESIRED", "CURRENT", "READY", "AGE"]
    assert sets[1].split()[1:4] == ["3", "3", "3"]
    described = (await kubectl.ok("describe", "deployment", "web")).out
    assert "3 desired | 3 updated | 3 total | 3 available | 0 unavailable" in described
    assert "RollingUpdateStrategy:  25% max unavailable, 25% max surge" in described
    assert "Progressing    True    NewReplicaSetAvailable" in described
    await kubectl.ok("wait", "--for=condition=Available", "deployment/web", TIMEOUT)


async def test_scaling_follows_what_is_asked_for(rig: Workloads, kubectl: Kubectl) -> None:
    await a_web(kubectl, 1)
    await kubectl.ok("scale", "deployment/web", "--replicas=4")
    await finished(kubectl)
    await rig.until_pods(lambda pods: len(pods) == 4)
    refused = await kubectl.fails("scale", "deployment/web", "--current-replicas=9", "--replicas=1")
    assert "Expected replicas to be 9, was 4" in refused.text
    await kubectl.ok("scale", "deployment/web", "--replicas=0")
    await rig.until_pods(lambda pods: not pods)


async def test_history_tells_the_revisions_and_undo_takes_one_back(
    rig: Workloads, kubectl: Kubectl
) -> None:
    await a_web(kubectl)
    await kubectl.ok("annotate", "deployment/web", "kubernetes.io/change-cause=first")
    await kubectl.ok("set", "image", "deployment/web", "web=web:2")
    await kubectl.ok("annotate", "deployment/web", "kubernetes.io/change-cause=second")
    assert 'deployment "web" successfully rolled out' in await finished(kubectl)
    history = (await kubectl.ok("rollout", "history", "deployment/web")).out
    rows = [line.split() for line in history.splitlines()]
    assert ["REVISION", "CHANGE-CAUSE"] in rows
    assert [row[0] for row in rows if row and row[0].isdigit()] == ["1", "2"]
    assert "web:1" in (await kubectl.ok("rollout", "history", "deploy/web", "--revision=1")).out
    await kubectl.ok("rollout", "undo", "deployment/web")
    await finished(kubectl)
    pods = await rig.pods()
    assert {part(pod, "spec")["containers"][0]["image"] for pod in pods} == {"web:1"}  # type: ignore[index,call-overload]
    item = await rig.kube.get(*DEPLOYMENTS, "default", "web")
    assert annotations_of(item)["deployment.kubernetes.io/revision"] == "3"
    await kubectl.ok("rollout", "undo", "deployment/web", "--to-revision=2")
    await finished(kubectl)
    refused = await kubectl.fails("rollout", "undo", "deployment/web", "--to-revision=9")
    assert "unable to find specified revision 9 in history" in refused.text


async def test_pause_resume_and_restart(rig: Workloads, kubectl: Kubectl) -> None:
    await a_web(kubectl, 2)
    before = names(await rig.pods())
    await kubectl.ok("rollout", "pause", "deployment/web")
    await kubectl.ok("set", "image", "deployment/web", "web=web:2")
    refused = await kubectl.fails("rollout", "restart", "deployment/web")
    assert "can't restart paused deployment (run rollout resume first)" in refused.text
    assert names(await rig.pods()) == before
    await kubectl.ok("rollout", "resume", "deployment/web")
    await finished(kubectl)
    middle = names(await rig.pods())
    assert not middle & before
    await kubectl.ok("rollout", "restart", "deployment/web")
    await finished(kubectl)
    await rig.until_pods(lambda pods: len(pods) == 2 and not names(pods) & middle)


async def test_a_rollout_that_is_late_fails_the_command(rig: Workloads, kubectl: Kubectl) -> None:
    await a_web(kubectl, 2)
    rig.kubelet.fate = lambda pod: (
        "running"
        if "web:bad" in text(part(pod, "spec")["containers"][0]["image"])  # type: ignore[index,call-overload]
        else "ready"
    )
    await kubectl.ok("patch", "deploy", "web", "-p", '{"spec":{"progressDeadlineSeconds":1}}')
    await kubectl.ok("set", "image", "deployment/web", "web=web:bad")
    late = await kubectl.fails("rollout", "status", "deployment/web", TIMEOUT)
    assert 'error: deployment "web" exceeded its progress deadline' in late.text
    await kubectl.ok("rollout", "undo", "deployment/web")
    await finished(kubectl)


@pytest.mark.parametrize("cascade", ["background", "foreground"])
async def test_a_delete_takes_along_what_belongs_to_it(
    rig: Workloads, kubectl: Kubectl, cascade: str
) -> None:
    await a_web(kubectl, 2)
    await kubectl.ok("delete", "deployment", "web", f"--cascade={cascade}", TIMEOUT)
    await rig.until_pods(lambda pods: not pods)
    await rig.until_empty(SETS)


async def test_a_delete_that_leaves_orphans_leaves_them_running(
    rig: Workloads, kubectl: Kubectl
) -> None:
    await a_web(kubectl, 2)
    before = names(await rig.pods())
    await kubectl.ok("delete", "deployment", "web", "--cascade=orphan", TIMEOUT)
    (left,) = (await rig.kube.list(*SETS, "default")).items
    assert "ownerReferences" not in part(left, "metadata")
    assert names(await rig.pods()) == before
    (name,) = names([left])
    await kubectl.ok("delete", "rs", name, "--cascade=orphan", TIMEOUT)
    assert names(await rig.pods()) == before


async def test_an_autoscaler_is_stored(rig: Workloads, kubectl: Kubectl) -> None:
    await a_web(kubectl, 1)
    await kubectl.ok("autoscale", "deployment/web", "--min=2", "--max=5", "--cpu=50%")
    found = (await kubectl.ok("get", "hpa", "web", "-o", "json")).json
    assert found["spec"]["maxReplicas"] == 5
