"""Jobs, CronJobs, owners and namespaces as kubectl handles them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.kubectl import Kubectl, find_kubectls
from tests.workload_rig import Workloads, eventually, workloads

KUBECTLS = find_kubectls()
pytestmark = pytest.mark.skipif(not KUBECTLS, reason="no kubectl: install the group `peers`")

CONTROLLERS = ("job", "cronjob", "ttl-after-finished", "deployment", "replicaset")


def a_kubectl(rig: Workloads, home: Path) -> Kubectl:
    return Kubectl(next(iter(KUBECTLS.values())), rig.server.kubeconfig, home)


async def test_a_job_is_made_waited_for_and_deleted(tmp_path: Path) -> None:
    async with workloads(tmp_path, *CONTROLLERS) as rig:
        rig.kubelet.fate = lambda _pod: "succeeded"
        kubectl = a_kubectl(rig, tmp_path)
        await kubectl.ok("create", "job", "pi", "--image=pi:1")
        waited = await kubectl.ok("wait", "--for=condition=complete", "job/pi", "--timeout=30s")
        assert waited.out == "job.batch/pi condition met\n"
        shown = (await kubectl.ok("describe", "job", "pi")).out
        assert "Pods Statuses:    0 Active (0 Ready) / 1 Succeeded / 0 Failed" in shown
        assert "Job completed" in shown
        pods = (await kubectl.ok("get", "pods", "-l", "job-name=pi", "-o", "name")).out.split()
        assert len(pods) == 1
        await kubectl.ok("delete", "job", "pi", "--timeout=30s")
        await rig.until_pods(lambda pods: not pods)


async def test_a_job_is_made_from_a_cron_job(tmp_path: Path) -> None:
    async with workloads(tmp_path, *CONTROLLERS) as rig:
        rig.kubelet.fate = lambda _pod: "succeeded"
        kubectl = a_kubectl(rig, tmp_path)
        await kubectl.ok("create", "cronjob", "tick", "--image=t:1", "--schedule=0 0 1 1 *")
        await kubectl.ok("create", "job", "now", "--from=cronjob/tick")
        await kubectl.ok("wait", "--for=condition=complete", "job/now", "--timeout=30s")
        table = (await kubectl.ok("get", "cronjob")).out
        assert "0 0 1 1 *" in table
        await kubectl.ok("delete", "cronjob", "tick", "--timeout=30s")
        await kubectl.ok("wait", "--for=delete", "job/now", "--timeout=30s")


@pytest.mark.parametrize("cascade", ["background", "foreground", "orphan"])
async def test_what_becomes_of_the_pods_is_said_with_cascade(tmp_path: Path, cascade: str) -> None:
    async with workloads(tmp_path, *CONTROLLERS) as rig:
        kubectl = a_kubectl(rig, tmp_path)
        await kubectl.ok("create", "deployment", "web", "--image=w:1", "--replicas=2")
        await rig.until_pods(lambda pods: len(pods) == 2)
        await kubectl.ok("delete", "deployment", "web", f"--cascade={cascade}", "--timeout=30s")
        if cascade == "orphan":
            assert len(await rig.pods()) == 2
            owners = "jsonpath={.items[0].metadata.ownerReferences}"
            assert (await kubectl.ok("get", "rs", "-o", owners)).out == ""
        elif cascade == "foreground":
            assert await rig.pods() == []
        await kubectl.run("delete", "rs", "--all", "--timeout=30s")
        await rig.until_pods(lambda pods: not pods)


async def test_a_namespace_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    async with workloads(tmp_path, *CONTROLLERS) as rig:
        kubectl = a_kubectl(rig, tmp_path)
        await kubectl.ok("create", "namespace", "room")
        await kubectl.ok("-n", "room", "create", "deployment", "web", "--image=w:1")
        await kubectl.ok("-n", "room", "create", "job", "pi", "--image=pi:1")
        await kubectl.ok("-n", "room", "create", "configmap", "held", "--from-literal=a=b")
        patch = '{"metadata":{"finalizers":["example.org/held"]}}'
        await kubectl.ok("-n", "room", "patch", "cm", "held", "--type=merge", "-p", patch)
        await kubectl.ok("delete", "namespace", "room", "--wait=false")

        async def shown() -> str:
            return (await kubectl.ok("get", "namespace", "room", "-o", "yaml")).out

        await eventually(shown, lambda out: "SomeFinalizersRemain" in out)
        assert "phase: Terminating" in await shown()
        waiting = await kubectl.start("wait", "--for=delete", "ns/room", "--timeout=30s")
        await kubectl.ok(
            "-n", "room", "patch", "cm", "held", "--type=merge",
            "-p", '{"metadata":{"finalizers":null}}',
        )  # fmt: skip
        async with asyncio.timeout(40):
            assert await waiting.wait() == 0
