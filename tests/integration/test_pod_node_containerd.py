"""Probes, use and OOM kills of containers of a real containerd."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge.pods.cgroups import Cgroups
from edge.pods.cgrouptrees import CGROUPFS, Tree, find_tree
from edge.pods.cri import CriRuntime
from edge.pods.oomwatch import OomWatch
from edge.pods.podspec import Pod, read_pod
from edge.pods.ports import Observed, Running
from edge.pods.probers import Probers
from edge.pods.probes import PodProbes
from edge.pods.runtime import (
    CONTAINER_NAME,
    NODE_LABEL,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    ContainerConfig,
    LinuxResources,
    SandboxConfig,
    State,
)
from edge.pods.statsource import Places, PodStats
from tests.containerd import Containerd, remove_sandboxes
from tests.containerd import containerd as containerd

NODE = "node-rooms"
MIB = 1024 * 1024


@dataclass
class Heard:
    events: list[str] = field(default_factory=list)

    def event(self, _pod: Pod, kind: str, reason: str, message: str, _c: object = None) -> None:
        self.events.append(f"{kind} {reason} {message}")

    def node_event(self, kind: str, reason: str, message: str) -> None:
        self.events.append(f"{kind} {reason} {message}")


@dataclass
class Stage:
    """One Pod with one container, run by hand."""

    runtime: CriRuntime
    pod: Pod
    tree: Tree
    group: str
    sandbox_id: str
    container_id: str
    ip: str

    async def observed(self) -> Observed:
        state = await self.runtime.container(self.container_id)
        sandbox = await self.runtime.sandbox(self.sandbox_id)
        return Observed(self.pod.uid, (sandbox,), (state,))


@asynccontextmanager
async def staged(
    rig: Containerd, folder: Path, uid: str, command: list[str], memory: int = 0, **container: Any
) -> AsyncIterator[Stage]:
    tree = find_tree(CGROUPFS, f"edgetest{rig.slot}")
    assert tree is not None
    pod = read_pod(
        {
            "metadata": {"name": uid, "namespace": "default", "uid": uid},
            "spec": {"containers": [{"name": "c", "command": list(command), **container}]},
        }
    )
    cgroups, runtime = Cgroups(tree), CriRuntime(rig.endpoint, NODE)
    image = rig.pull()
    labels = {NODE_LABEL: NODE, POD_NAME: uid, POD_NAMESPACE: "default", POD_UID: uid}
    config = SandboxConfig(
        name=uid,
        uid=uid,
        namespace="default",
        attempt=0,
        hostname=uid,
        log_directory=str(folder / "logs" / f"default_{uid}_{uid}"),
        labels=labels,
        cgroup_parent=cgroups.parent(pod),
    )
    await cgroups.ensure(pod)
    sandbox_id = await runtime.run_sandbox(config)
    try:
        wanted = ContainerConfig(
            name="c",
            attempt=0,
            image=image,
            command=tuple(command),
            labels={**labels, CONTAINER_NAME: "c"},
            log_path="c/0.log",
            resources=LinuxResources(memory_limit=memory, oom_score_adj=0),
        )
        (folder / "logs" / f"default_{uid}_{uid}" / "c").mkdir(parents=True)
        container_id = await runtime.create_container(sandbox_id, wanted, config)
        await runtime.start_container(container_id)
        ip = (await runtime.sandbox(sandbox_id)).ips[0]
        parent = cgroups.parent(pod)
        yield Stage(runtime, pod, tree, parent, sandbox_id, container_id, ip)
    finally:
        await remove_sandboxes(runtime, sandbox_id)
        await cgroups.remove(uid)
        await runtime.close()
        remove_top(tree)


def remove_top(tree: Tree) -> None:
    """Nothing of the test stays among the machine's cgroups."""
    for folder in tree.folders():
        for each in ("burstable", "besteffort", ""):
            with suppress(OSError):
                (folder / tree.top / each).rmdir()


async def until(check: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110  the runtime tells nobody
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(module: Any) -> AsyncIterator[None]:
    is_up = asyncio.Event()
    task = asyncio.create_task(module.run(is_up.set))
    try:
        await is_up.wait()
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


SERVE = [
    "sh",
    "-c",
    "mkdir /www; echo fine > /www/ok; touch /www/ready; exec httpd -f -p 8080 -h /www",
]


async def test_probes_find_what_a_container_does(containerd: Containerd, tmp_path: Path) -> None:
    probes: dict[str, Any] = {
        "startupProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 1, "failureThreshold": 30},
        "readinessProbe": {
            "exec": {"command": ["test", "-e", "/www/ready"]},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
        "livenessProbe": {
            "httpGet": {"path": "/ok", "port": "web"},
            "periodSeconds": 1,
            "failureThreshold": 1,
            "terminationGracePeriodSeconds": 2,
        },
        "ports": [{"name": "web", "containerPort": 8080}],
    }
    async with staged(containerd, tmp_path, "probed", SERVE, **probes) as stage:
        heard: Any = Heard()
        module = PodProbes(
            Probers(stage.runtime, lambda: ""), heard, lambda _: None, lambda _: None
        )
        container = stage.pod.spec.containers[0]

        async def is_ready() -> bool:
            return module.is_ready(stage.pod, container, stage.container_id)

        async def is_unready() -> bool:
            return not await is_ready()

        async def has_failed() -> bool:
            return module.failed(stage.container_id) == "liveness"

        async with running(module):
            module.update(stage.pod, await stage.observed(), stage.ip)
            assert await is_unready()
            await until(is_ready)
            for change in ("rm /www/ready", "rm /www/ok"):
                await stage.runtime.exec_sync(stage.container_id, ["sh", "-c", change], 5)
            await until(is_unready)
            await until(has_failed)
        assert module.grace_seconds(stage.container_id) == 2
        said = "Warning Unhealthy Liveness probe failed: HTTP probe failed with statuscode: 404"
        assert said in heard.events


async def test_a_command_that_hangs_is_a_failed_probe(
    containerd: Containerd, tmp_path: Path
) -> None:
    async with staged(containerd, tmp_path, "hangs", ["sleep", "600"]) as stage:
        probe: Any = {"exec": {"command": ["sleep", "60"]}, "timeoutSeconds": 1}
        pod = read_pod(
            {"spec": {"containers": [{"name": "c", "livenessProbe": probe}]}, "metadata": {}}
        )
        container = pod.spec.containers[0]
        assert container.liveness_probe is not None
        probers = Probers(stage.runtime, lambda: "")
        verdict = await probers.try_(
            pod, container, stage.container_id, container.liveness_probe, stage.ip
        )
        assert verdict.output == 'command timed out: "sleep 60" timed out after 1s'


async def test_use_of_a_real_container_is_measured(containerd: Containerd, tmp_path: Path) -> None:
    script = "dd if=/dev/zero of=/big bs=1M count=3; echo words; while :; do :; done"
    async with staged(containerd, tmp_path, "used", ["sh", "-c", script]) as stage:
        view = [Running(stage.pod, {"phase": "Running"}, await stage.observed())]
        stats = PodStats(
            "edge-1",
            stage.runtime,
            lambda: view,
            places=Places(tmp_path, tmp_path / "logs"),
            tree=stage.tree,
            group_of=lambda _: stage.group,
        )

        async def is_seen() -> bool:
            pod = (await stats.sample(0.0, 0.0)).of("used")
            assert pod is not None
            container = pod.containers[0]
            busy = (container.cpu.rate or 0) > 50_000_000 and (pod.cpu.rate or 0) > 50_000_000
            written = (container.rootfs.used or 0) >= 3 * MIB and (container.logs.used or 0) > 0
            return busy and written

        await until(is_seen)
        pod = (await stats.sample()).of("used")
        assert pod is not None
        assert pod.containers[0].id == stage.container_id
        assert pod.containers[0].memory.working_set
        assert pod.processes is not None
        assert pod.processes >= 2  # the sandbox's own, too
        assert [each.name for each in pod.interfaces] == ["eth0"]
        text = await stats.resource_metrics()
        assert (
            'container_cpu_usage_seconds_total{container="c",namespace="default",pod="used"}'
            in text
        )
        assert "resource_scrape_error 0" in text


async def test_a_container_in_which_the_kernel_killed_is_known(
    containerd: Containerd, tmp_path: Path
) -> None:
    if not os.access("/dev/kmsg", os.R_OK):
        pytest.skip("the kernel's log cannot be read here")
    heard: Any = Heard()
    watch = OomWatch(heard)
    hog = ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=128M count=1; exit 7"]
    async with running(watch), staged(containerd, tmp_path, "hog", hog, memory=16 * MIB) as stage:

        async def has_ended() -> bool:
            state = await stage.runtime.container(stage.container_id)
            return state.state is State.EXITED

        async def is_known() -> bool:
            return stage.container_id in watch.killed()

        await until(has_ended)
        await until(is_known)
