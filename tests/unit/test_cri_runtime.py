"""CRI spoken to a runtime that does as it is told: what its faults mean to edged, whose lists are whose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from edge.pods import criforms as forms
from edge.pods.cri import MAX_ANSWER, CriRuntime, find_endpoint
from edge.pods.runtime import (
    NODE_LABEL,
    ContainerConfig,
    ContainerSecurity,
    Device,
    Dns,
    LinuxResources,
    Mount,
    Namespace,
    Namespaces,
    PortMapping,
    Propagation,
    RuntimeAway,
    RuntimeFault,
    RuntimeLacks,
    RuntimeNotFound,
    SandboxConfig,
    SandboxSecurity,
    Seccomp,
    State,
)
from gateway.errors import InvalidSetting
from gateway.runtime.module import running
from tests.fake_cri import Exec, FakeCri, Run, fake_cri

SANDBOX = SandboxConfig(name="pod", uid="u1", namespace="default", attempt=0)
MAIN = ContainerConfig(name="main", attempt=0, image="example/app:1")


@pytest.fixture
async def fake() -> AsyncIterator[FakeCri]:
    async with fake_cri(["example/app:1"]) as made:
        yield made


@pytest.fixture
async def runtime(fake: FakeCri) -> AsyncIterator[CriRuntime]:
    made = CriRuntime(fake.endpoint, "edge-1")
    yield made
    await made.close()


async def start(runtime: CriRuntime, config: ContainerConfig = MAIN) -> str:
    sandbox_id = await runtime.run_sandbox(SANDBOX)
    container_id = await runtime.create_container(sandbox_id, config, SANDBOX)
    await runtime.start_container(container_id)
    return container_id


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (grpc.StatusCode.UNAVAILABLE, RuntimeAway),
        (grpc.StatusCode.DEADLINE_EXCEEDED, RuntimeAway),
        (grpc.StatusCode.UNIMPLEMENTED, RuntimeLacks),
        (grpc.StatusCode.NOT_FOUND, RuntimeNotFound),
        (grpc.StatusCode.UNKNOWN, RuntimeFault),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, RuntimeFault),
    ],
)
async def test_a_status_code_has_its_meaning(
    fake: FakeCri, runtime: CriRuntime, code: grpc.StatusCode, meaning: type[RuntimeFault]
) -> None:
    fake.fail("RunPodSandbox", "its own words", code=code)
    with pytest.raises(RuntimeFault, match="its own words") as caught:
        await runtime.run_sandbox(SANDBOX)
    assert type(caught.value) is meaning


async def test_a_runtime_that_is_not_there_is_away(tmp_path: Path) -> None:
    runtime = CriRuntime(f"unix://{tmp_path}/none.sock", "edge-1")
    with pytest.raises(RuntimeAway):
        await runtime.info()
    await runtime.close()


async def test_calls_go_on_when_the_runtime_is_back(fake: FakeCri, runtime: CriRuntime) -> None:
    container_id = await start(runtime)
    await fake.stop()
    with pytest.raises(RuntimeAway):
        await runtime.container(container_id)
    await fake.start()
    async with asyncio.timeout(20):
        while True:
            try:
                found = await runtime.container(container_id)
                break
            except RuntimeAway:
                await asyncio.sleep(0.01)
    assert found.state is State.RUNNING


async def test_an_answer_without_measure_is_refused(fake: FakeCri, runtime: CriRuntime) -> None:
    container_id = await start(runtime)
    fake.execs[("cat", "/dev/zero")] = Exec(stdout=bytes(MAX_ANSWER + 1))
    with pytest.raises(RuntimeFault, match="larger than max"):
        await runtime.exec_sync(container_id, ["cat", "/dev/zero"], 5)


async def test_a_command_answers_or_takes_too_long(fake: FakeCri, runtime: CriRuntime) -> None:
    container_id = await start(runtime)
    fake.execs[("probe",)] = Exec(b"out", b"err", 3)
    fake.execs[("slow",)] = Exec(seconds=60)
    ran = await runtime.exec_sync(container_id, ["probe"], 1)
    assert (ran.stdout, ran.stderr, ran.exit_code) == (b"out", b"err", 3)
    with pytest.raises(TimeoutError):
        await runtime.exec_sync(container_id, ["slow"], 1)


async def test_lists_hold_what_carries_our_node(fake: FakeCri, runtime: CriRuntime) -> None:
    await start(runtime)
    other = CriRuntime(fake.endpoint, "edge-2")
    await other.run_sandbox(SandboxConfig(name="b", uid="u2", namespace="n", attempt=0))
    assert [each.uid for each in await runtime.sandboxes()] == ["u1"]
    assert [each.uid for each in await other.sandboxes()] == ["u2"]
    assert await other.containers() == []
    await other.close()


async def test_events_name_our_pods_only(fake: FakeCri, runtime: CriRuntime) -> None:
    fake.has_events = True
    other = CriRuntime(fake.endpoint, "edge-2")
    events = runtime.events()
    waiting = asyncio.ensure_future(anext(events))
    async with asyncio.timeout(10):
        while not fake.count("GetContainerEvents"):  # noqa: ASYNC110  the fake tells nobody
            await asyncio.sleep(0.005)
        theirs = SandboxConfig(name="b", uid="u2", namespace="n", attempt=0)
        sandbox_id = await other.run_sandbox(theirs)
        await other.create_container(sandbox_id, MAIN, theirs)
        await start(runtime)
        assert await waiting == "u1"
    await events.aclose()
    await other.close()


async def test_where_there_are_no_events_the_runtime_lacks_them(runtime: CriRuntime) -> None:
    with pytest.raises(RuntimeLacks):
        await anext(runtime.events())


async def test_an_ended_container_tells_how_it_ended(fake: FakeCri, runtime: CriRuntime) -> None:
    fake.scripts["main"] = [Run(exit_code=3, reason="OOMKilled")]
    container_id = await start(runtime)
    async with asyncio.timeout(10):
        while (found := await runtime.container(container_id)).state is not State.EXITED:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert (found.exit_code, found.reason) == (3, "OOMKilled")
    assert found.finished_at > found.started_at > found.created_at


async def test_after_a_restart_of_ours_a_container_still_knows_its_sandbox(
    fake: FakeCri, runtime: CriRuntime
) -> None:
    container_id = await start(runtime)
    fresh = CriRuntime(fake.endpoint, "edge-1")
    assert (await fresh.container(container_id)).sandbox_id in fake.sandboxes
    await fresh.close()


async def test_a_network_that_is_not_ready_says_why(fake: FakeCri, runtime: CriRuntime) -> None:
    fake.network_ready = False
    info = await runtime.info()
    assert (info.is_ready, info.is_network_ready) == (True, False)
    assert info.network_message == (
        "NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"
    )


async def test_with_its_module_the_connection_ends(fake: FakeCri) -> None:
    runtime = CriRuntime(fake.endpoint, "edge-1")
    async with running(runtime):
        await start(runtime)
        assert runtime._channel is not None
    assert runtime._channel is None


# --- forms ------------------------------------------------------------------------------------------


def test_a_sandbox_is_asked_for_with_all_that_was_said() -> None:
    config = SandboxConfig(
        name="pod",
        uid="u1",
        namespace="ns",
        attempt=2,
        dns=Dns(servers=("10.0.0.1",), searches=("a.b",), options=("ndots:5",)),
        ports=(
            PortMapping(protocol="UDP", container_port=53, host_port=5353, host_ip="127.0.0.1"),
        ),
        labels={"app": "x", NODE_LABEL: "somebody"},
        cgroup_parent="/pods/u1",
        sysctls={"net.core.somaxconn": "10"},
        security=SandboxSecurity(
            namespaces=Namespaces(network=Namespace.NODE, pid=Namespace.NODE),
            seccomp=Seccomp(kind="Localhost", path="/p.json"),
            run_as_user=0,
        ),
        overhead=LinuxResources(cpu_shares=2),
    )
    made = forms.sandbox_config(config, "edge-1")
    assert made.labels == {
        "app": "x",
        NODE_LABEL: "edge-1",
        "io.kubernetes.pod.name": "pod",
        "io.kubernetes.pod.namespace": "ns",
        "io.kubernetes.pod.uid": "u1",
    }
    assert (made.metadata.attempt, made.port_mappings[0].protocol) == (2, pb.UDP)
    assert list(made.dns_config.options) == ["ndots:5"]
    security = made.linux.security_context
    assert security.namespace_options.network == pb.NODE
    assert (security.HasField("run_as_user"), security.HasField("run_as_group")) == (True, False)
    assert security.seccomp.localhost_ref == "/p.json"
    assert made.linux.overhead.cpu_shares == 2


def test_a_container_is_asked_for_with_all_that_was_said() -> None:
    config = ContainerConfig(
        name="main",
        attempt=1,
        image="sha256:abc",
        user_image="app:1",
        command=("run",),
        args=("a", "b"),
        envs=(("A", "1"), ("B", "2")),
        mounts=(
            Mount(container_path="/c", host_path="/h", propagation=Propagation.HOST_TO_CONTAINER),
        ),
        devices=(Device(container_path="/dev/a", host_path="/dev/b"),),
        resources=LinuxResources(
            memory_limit=1, hugepage_limits=(("2MB", 4),), unified={"memory.high": "5"}
        ),
        security=ContainerSecurity(
            capabilities_add=("NET_ADMIN",),
            run_as_user=7,
            seccomp=Seccomp(kind="Unconfined"),
            selinux={"level": "s0"},
            namespaces=Namespaces(pid=Namespace.TARGET, target_id="t"),
        ),
        stop_signal="SIGUSR1",
    )
    made = forms.container_config(config, SANDBOX, "edge-1")
    assert made.labels["io.kubernetes.container.name"] == "main"
    assert made.labels["io.kubernetes.pod.uid"] == "u1"
    assert made.labels[NODE_LABEL] == "edge-1"
    assert (made.image.image, made.image.user_specified_image) == ("sha256:abc", "app:1")
    assert [(each.key, each.value) for each in made.envs] == [("A", "1"), ("B", "2")]
    assert made.mounts[0].propagation == pb.PROPAGATION_HOST_TO_CONTAINER
    assert made.devices[0].permissions == "rwm"
    assert made.linux.resources.hugepage_limits[0].page_size == "2MB"
    security = made.linux.security_context
    assert security.seccomp.profile_type == pb.SecurityProfile.Unconfined
    assert security.selinux_options.level == "s0"
    assert security.namespace_options.target_id == "t"
    assert not security.HasField("apparmor")
    assert made.stop_signal == pb.SIGUSR1


@pytest.mark.parametrize(
    ("started", "finished", "told"),
    [(5_001, 5_000, 5_000), (4_000, 5_000, 4_000), (5_000, 0, 5_000), (0, 5_000, 0)],
    ids=["ended at once", "ended later", "runs", "never started"],
)
def test_no_container_starts_after_its_end(started: int, finished: int, told: int) -> None:
    status = pb.ContainerStatus(started_at=started, finished_at=finished)
    found = forms.container_status(status, "s")
    assert (found.started_at, found.finished_at) == (told, finished)


def test_usage_that_is_not_told_is_none() -> None:
    stats = pb.ContainerStats(memory=pb.MemoryUsage(rss_bytes=pb.UInt64Value(value=0)))
    read = forms.container_stats(stats)
    assert (read.memory_rss, read.memory_usage, read.cpu_nanoseconds) == (0, None, None)
    assert (read.rootfs_bytes, read.memory_major_page_faults) == (None, None)


def test_the_socket_that_is_set_is_taken() -> None:
    assert find_endpoint("unix:///run/x.sock") == "unix:///run/x.sock"
    assert find_endpoint("/run/x.sock") == "unix:///run/x.sock"
    with pytest.raises(InvalidSetting, match=r"edge\.workloads\.runtime"):
        find_endpoint("tcp://127.0.0.1:1")


async def test_what_no_message_can_say_is_the_pod_s_own_fault(runtime: CriRuntime) -> None:
    beyond = SandboxSecurity(supplemental_groups=(2**70,))
    with pytest.raises(RuntimeFault, match="out of range"):
        await runtime.run_sandbox(replace(SANDBOX, security=beyond))
    sandbox_id = await runtime.run_sandbox(SANDBOX)
    user = replace(MAIN, security=ContainerSecurity(run_as_user=2**63))
    with pytest.raises(RuntimeFault, match="out of range"):
        await runtime.create_container(sandbox_id, user, SANDBOX)


@pytest.mark.parametrize("grace", [10**10, 2**63 - 1, 2**70])
async def test_a_grace_beyond_all_calendars_ends_a_container_all_the_same(
    runtime: CriRuntime, grace: int
) -> None:
    container_id = await start(runtime)
    await runtime.stop_container(container_id, grace)
    assert (await runtime.container(container_id)).state is State.EXITED


async def test_a_command_may_take_as_long_as_anybody_says(
    runtime: CriRuntime, fake: FakeCri
) -> None:
    fake.execs["true",] = Exec()
    container_id = await start(runtime)
    assert (await runtime.exec_sync(container_id, ["true"], 10.0**12)).exit_code == 0
