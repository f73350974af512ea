"""Volumes as containers of a real containerd see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge.pods.cri import CriRuntime
from edge.pods.podspec import Pod
from edge.pods.ports import MountedVolumes
from edge.pods.runtime import ContainerConfig, ContainerSecurity, SandboxConfig
from gateway.model.json import Json, JsonObject
from tests.containerd import Containerd, remove_sandboxes
from tests.containerd import containerd as containerd
from tests.volume_rig import UID, VolumeRig, encoded, pod_with

SECONDS = 10.0


class Machine:
    """A Pod's volumes and a container that has them."""

    def __init__(self, runtime: CriRuntime, rig: VolumeRig, containerd: Containerd) -> None:
        self.runtime = runtime
        self.rig = rig
        self._containerd = containerd
        self.container = ""

    async def start(self, pod: Pod, logs: Path, *, user: int | None = None) -> MountedVolumes:
        volumes = await self.rig.volumes.mount(pod)
        mounts = self.rig.volumes.mounts(pod, pod.spec.containers[0], volumes, {})
        sandbox = SandboxConfig(
            name="p", uid=UID, namespace="default", attempt=0, log_directory=str(logs)
        )
        logs.joinpath("main").mkdir(exist_ok=True)
        sandbox_id = await self.runtime.run_sandbox(sandbox)
        config = ContainerConfig(
            name="main",
            attempt=0,
            image=self._containerd.image(),
            command=("sleep", "1000"),
            log_path="main/0.log",
            mounts=mounts,
            security=ContainerSecurity(run_as_user=user),
        )
        self.container = await self.runtime.create_container(sandbox_id, config, sandbox)
        await self.runtime.start_container(self.container)
        return volumes

    async def sh(self, script: str) -> tuple[int, str]:
        ran = await self.runtime.exec_sync(self.container, ["sh", "-c", script], SECONDS)
        return ran.exit_code, (ran.stdout + ran.stderr).decode().strip()


@pytest.fixture
async def machine(containerd: Containerd, tmp_path: Path) -> AsyncIterator[Machine]:
    runtime = CriRuntime(containerd.endpoint, "edge-1")
    rig = VolumeRig(tmp_path / "pods")
    try:
        await runtime.pull(containerd.image())
        yield Machine(runtime, rig, containerd)
    finally:
        await remove_sandboxes(runtime)
        await runtime.close()
        rig.clean()


async def test_a_container_sees_new_files_of_its_objects(machine: Machine, tmp_path: Path) -> None:
    rig = machine.rig
    rig.api.put("configmap", "c", data={"a": "1"})
    rig.api.put("secret", "s", data={"key": encoded("word")})
    pod = pod_with(
        {"name": "c", "configMap": {"name": "c"}},
        {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o440}},
        securityContext={"fsGroup": 0},
    )
    await machine.start(pod, tmp_path, user=1000)
    assert await machine.sh("cat /c/a /s/key") == (0, "1word")
    code, words = await machine.sh("touch /c/x || touch /s/x")
    assert (code, "Read-only" in words) == (1, True)
    rig.push("configmap", rig.api.put("configmap", "c", 2, data={"a": "2"}))
    rig.push("secret", rig.api.put("secret", "s", 2, data={"key": encoded("other")}))
    await rig.volumes.refresh(UID)
    assert await machine.sh("cat /c/a /s/key") == (0, "2other")


async def test_a_group_may_write_and_memory_is_bound(machine: Machine, tmp_path: Path) -> None:
    pod = pod_with(
        {"name": "d", "emptyDir": {}},
        {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        securityContext={"fsGroup": 1234},
    )
    volumes = await machine.start(pod, tmp_path, user=1000)
    assert (await machine.sh("touch /d/x && echo hello > /m/x && stat -c %g /d/x"))[1] == "1234"
    code, words = await machine.sh("dd if=/dev/zero of=/m/big bs=64k count=40")
    assert (code, "No space" in words) == (1, True)
    machine.rig.restart()
    assert await machine.rig.volumes.mount(pod) == volumes
    assert await machine.sh("cat /m/x") == (0, "hello")


async def test_parts_and_nested_volumes_are_mounted(machine: Machine, tmp_path: Path) -> None:
    machine.rig.api.put("configmap", "c", data={"a": "1", "b": "2"})
    mounts: list[Json] = [
        {"name": "c", "mountPath": "/etc/app"},
        {"name": "d", "mountPath": "/etc/app/cache"},
        {"name": "c", "mountPath": "/one", "subPath": "a"},
        {"name": "d", "mountPath": "/part", "subPath": "x/y"},
    ]
    main: JsonObject = {"name": "main", "volumeMounts": mounts}
    pod = pod_with(
        {"name": "c", "configMap": {"name": "c"}},
        {"name": "d", "emptyDir": {}},
        containers=[main],
    )
    await machine.start(pod, tmp_path)
    assert await machine.sh("cat /one /etc/app/b") == (0, "12")
    assert await machine.sh("echo 3 > /part/z && cat /etc/app/cache/x/y/z") == (0, "3")


async def test_the_volumes_of_an_ended_pod_go_and_nothing_of_the_host(
    machine: Machine, tmp_path: Path
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "data").write_text("1")
    pod = pod_with(
        {"name": "h", "hostPath": {"path": str(host), "type": "Directory"}},
        {"name": "m", "emptyDir": {"medium": "Memory"}},
        {"name": "d", "emptyDir": {}},
    )
    await machine.start(pod, tmp_path)
    await machine.sh("ln -s /h /d/link; ln -s /h /m/link")
    await machine.runtime.stop_container(machine.container, 0)
    await machine.rig.volumes.unmount(UID)
    assert (host / "data").read_text() == "1"
    assert machine.rig.mounts.below(machine.rig.root) == []
    assert await asyncio.to_thread(lambda: list(machine.rig.root.iterdir())) == []
