"""CRI against a real containerd: what the port promises, seen on containers that really run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from edge.pods.cri import CriRuntime
from edge.pods.runtime import (
    NODE_LABEL,
    Auth,
    ContainerConfig,
    ContainerState,
    LinuxResources,
    Mount,
    Namespace,
    Namespaces,
    PortMapping,
    RuntimeAway,
    RuntimeFault,
    RuntimeLacks,
    RuntimeNotFound,
    SandboxConfig,
    SandboxSecurity,
    State,
)
from tests.containerd import Containerd, remove_sandboxes
from tests.containerd import containerd as containerd
from tests.integration.edge_support import until as until_true
from tests.ociimages import PASSWORD, USER

NODE = "edge-1"


@pytest.fixture
async def runtime(containerd: Containerd) -> AsyncIterator[CriRuntime]:
    made = CriRuntime(containerd.endpoint, NODE)
    try:
        yield made
    finally:
        await remove_sandboxes(made)
        await made.close()


def sandbox_config(logs: Path, name: str = "pod", **more: object) -> SandboxConfig:
    return SandboxConfig(
        name=name,
        uid=f"uid-{name}",
        namespace="default",
        attempt=0,
        log_directory=str(logs),
        **more,  # type: ignore[arg-type]
    )


def shell(rig: Containerd, script: str, **more: object) -> ContainerConfig:
    return ContainerConfig(
        name="main",
        attempt=0,
        image=rig.image(),
        command=("sh", "-c", script),
        log_path="main/0.log",
        **more,  # type: ignore[arg-type]
    )


async def start(runtime: CriRuntime, sandbox: SandboxConfig, config: ContainerConfig) -> str:
    """Run a container in a sandbox of its own."""
    (Path(sandbox.log_directory) / "main").mkdir(exist_ok=True)
    sandbox_id = await runtime.run_sandbox(sandbox)
    container_id = await runtime.create_container(sandbox_id, config, sandbox)
    await runtime.start_container(container_id)
    return container_id


async def until(
    ask: Callable[[], Awaitable[ContainerState]], state: State = State.EXITED
) -> ContainerState:
    async with asyncio.timeout(30):
        while (found := await ask()).state is not state:  # noqa: ASYNC110  the runtime tells nobody
            await asyncio.sleep(0.05)
    return found


async def ended(runtime: CriRuntime, container_id: str) -> ContainerState:
    return await until(lambda: runtime.container(container_id))


async def test_the_runtime_says_what_it_is(runtime: CriRuntime) -> None:
    info = await runtime.info()
    assert (info.name, info.is_ready, info.is_network_ready) == ("containerd", True, True)
    assert info.network_message == ""


async def test_a_container_runs_logs_and_ends_with_its_code(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    sandbox = sandbox_config(tmp_path)
    config = shell(containerd, "echo $GREETING; exit 7", envs=(("GREETING", "hello"),))
    container_id = await start(runtime, sandbox, config)
    found = await ended(runtime, container_id)
    assert (found.exit_code, found.reason, found.name) == (7, "Error", "main")
    assert found.started_at <= found.finished_at
    assert found.image == containerd.image()
    assert found.image_id.startswith(f"{containerd.registry.host}/busybox@sha256:")
    (sandbox_found,) = await runtime.sandboxes()
    assert found.sandbox_id == sandbox_found.id
    line = (tmp_path / "main/0.log").read_text()
    assert line.endswith("stdout F hello\n")


async def test_only_what_carries_the_node_is_listed(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    other = CriRuntime(containerd.endpoint, "edge-2")
    mine = await start(runtime, sandbox_config(tmp_path), shell(containerd, "sleep 100"))
    theirs = await other.run_sandbox(sandbox_config(tmp_path, "other"))
    try:
        assert [each.id for each in await runtime.containers()] == [mine]
        assert [each.name for each in await runtime.sandboxes()] == ["pod"]
        (listed,) = await other.sandboxes()
        assert (listed.id, listed.labels[NODE_LABEL]) == (theirs, "edge-2")
        assert [each.id for each in await runtime.container_stats()] == [mine]
    finally:
        await remove_sandboxes(other, theirs)
        await other.close()


async def test_a_sandbox_has_an_address_of_the_network(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    port = PortMapping(protocol="TCP", container_port=80, host_port=0)
    sandbox_id = await runtime.run_sandbox(sandbox_config(tmp_path, ports=(port,)))
    found = await runtime.sandbox(sandbox_id)
    assert found.is_ready
    assert [ip.rpartition(".")[0] for ip in found.ips] == [containerd.subnet.rpartition(".")[0]]
    await runtime.stop_sandbox(sandbox_id)
    assert not (await runtime.sandbox(sandbox_id)).is_ready


async def test_a_sandbox_on_the_nodes_network_has_no_address(
    runtime: CriRuntime, tmp_path: Path
) -> None:
    security = SandboxSecurity(namespaces=Namespaces(network=Namespace.NODE))
    sandbox_id = await runtime.run_sandbox(sandbox_config(tmp_path, security=security))
    assert (await runtime.sandbox(sandbox_id)).ips == ()


async def test_a_container_that_ignores_the_signal_is_killed_after_its_grace(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    config = shell(containerd, "trap '' TERM; while :; do sleep 1; done")
    container_id = await start(runtime, sandbox_config(tmp_path), config)
    await runtime.stop_container(container_id, 1)
    assert (await runtime.container(container_id)).exit_code == 137


async def test_limits_mounts_and_their_change_reach_the_container(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    (tmp_path / "given").write_text("from the node")
    mount = Mount(container_path="/given", host_path=str(tmp_path / "given"), readonly=True)
    limits = LinuxResources(memory_limit=64 << 20, cpu_shares=256, oom_score_adj=900)
    config = shell(containerd, "sleep 100", mounts=(mount,), resources=limits)
    container_id = await start(runtime, sandbox_config(tmp_path), config)
    read = await runtime.exec_sync(container_id, ["cat", "/given"], 10)
    written = await runtime.exec_sync(container_id, ["sh", "-c", "echo x > /given"], 10)
    score = await runtime.exec_sync(container_id, ["cat", "/proc/1/oom_score_adj"], 10)
    assert (read.stdout, read.exit_code) == (b"from the node", 0)
    assert (written.exit_code, b"Read-only" in written.stderr) == (1, True)
    assert int(score.stdout) == 900
    await runtime.update_resources(container_id, LinuxResources(memory_limit=96 << 20))
    (stats,) = await runtime.container_stats()
    assert stats.cpu_nanoseconds is not None
    assert stats.memory_working_set is not None
    assert stats.memory_working_set < 96 << 20


async def test_a_command_that_takes_too_long_is_a_timeout(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    container_id = await start(runtime, sandbox_config(tmp_path), shell(containerd, "sleep 100"))
    with pytest.raises(TimeoutError):
        await runtime.exec_sync(container_id, ["sleep", "60"], 1)


async def test_streams_have_urls_on_loopback(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    container_id = await start(runtime, sandbox_config(tmp_path), shell(containerd, "sleep 100"))
    (sandbox,) = await runtime.sandboxes()
    way = {"stdin": False, "stdout": True, "stderr": True, "tty": False}
    urls = [
        await runtime.exec_url(container_id, ["true"], **way),
        await runtime.attach_url(container_id, **way),
        await runtime.port_forward_url(sandbox.id, [80]),
    ]
    assert [url.split("/")[3] for url in urls] == ["exec", "attach", "portforward"]
    assert all(url.startswith("http://127.0.0.1:") for url in urls)


async def test_the_log_goes_on_in_a_new_file_after_reopening(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    config = shell(containerd, "while :; do echo tick; sleep 0.05; done")
    container_id = await start(runtime, sandbox_config(tmp_path), config)
    log = tmp_path / "main/0.log"
    log.rename(tmp_path / "main/old")
    await runtime.reopen_log(container_id)
    await until_true(lambda: log.exists() and log.stat().st_size)


async def test_what_is_gone_is_not_found_and_its_removal_no_error(runtime: CriRuntime) -> None:
    for ask in (runtime.container, runtime.sandbox, runtime.start_container):
        with pytest.raises(RuntimeNotFound):
            await ask("f" * 64)
    await runtime.stop_container("f" * 64, 0)
    await runtime.remove_container("f" * 64)
    await runtime.stop_sandbox("f" * 64)
    await runtime.remove_sandbox("f" * 64)
    await runtime.remove_image("127.0.0.1:1/nothing:1")


async def test_a_sandbox_cannot_be_made_twice(runtime: CriRuntime, tmp_path: Path) -> None:
    await runtime.run_sandbox(sandbox_config(tmp_path))
    with pytest.raises(RuntimeFault, match="failed to reserve sandbox name"):
        await runtime.run_sandbox(sandbox_config(tmp_path))


async def test_a_program_that_is_not_there_fails_the_start(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    sandbox = sandbox_config(tmp_path)
    config = ContainerConfig(name="main", attempt=0, image=containerd.image(), command=("nosuch",))
    sandbox_id = await runtime.run_sandbox(sandbox)
    container_id = await runtime.create_container(sandbox_id, config, sandbox)
    with pytest.raises(RuntimeFault, match="executable file not found"):
        await runtime.start_container(container_id)


async def test_images_are_pulled_listed_and_removed(
    runtime: CriRuntime, containerd: Containerd
) -> None:
    name = containerd.image("busybox-user")
    assert await runtime.image(name) is None
    reference = await runtime.pull(name)
    found = await runtime.image(name)
    assert found is not None
    assert (found.id, found.tags, found.uid) == (reference, (name,), 1234)
    assert found.size > 100_000
    assert found.id in [each.id for each in await runtime.images()]
    await runtime.remove_image(name)
    assert await runtime.image(name) is None


async def test_private_images_need_credentials(runtime: CriRuntime, containerd: Containerd) -> None:
    name = containerd.image("private/busybox")
    with pytest.raises(RuntimeFault, match="401"):
        await runtime.pull(name, Auth(username=USER, password="wrong"))
    assert await runtime.pull(name, Auth(username=USER, password=PASSWORD))
    await runtime.remove_image(name)


async def test_the_images_file_system_is_told(runtime: CriRuntime, containerd: Containerd) -> None:
    (found,) = await runtime.image_filesystems()
    assert found.mountpoint.startswith(str(containerd.folder))


async def test_events_are_what_this_containerd_lacks(runtime: CriRuntime) -> None:
    with pytest.raises(RuntimeLacks):
        await anext(runtime.events())


async def test_calls_go_on_after_containerd_was_away(
    runtime: CriRuntime, containerd: Containerd, tmp_path: Path
) -> None:
    container_id = await start(runtime, sandbox_config(tmp_path), shell(containerd, "sleep 100"))
    containerd.kill()
    with pytest.raises(RuntimeAway):
        await runtime.containers()
    containerd.start()
    async with asyncio.timeout(20):
        while True:
            try:
                found = await runtime.container(container_id)
                break
            except RuntimeAway:
                await asyncio.sleep(0.05)
    assert found.state is State.RUNNING
