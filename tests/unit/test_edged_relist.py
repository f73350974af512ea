"""What the runtime has, how it is, and how long restarts wait."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from edge.pods.health import SILENT_SECONDS, RuntimeHealth
from edge.pods.podspec import read_pod
from edge.pods.relist import Relist
from edge.pods.restarts import Restarts, crash_loop_message, go_duration
from edge.pods.runtime import ContainerState, RuntimeAway, RuntimeInfo, State
from gateway.errors import InvalidSetting
from tests.fake_runtime import SECOND
from tests.pod_rig import FakeRooms, PodRig, a_pod, on_a_rig

POD = read_pod(a_pod())
CONTAINER = POD.spec.containers[0]


async def a_container(rig: PodRig, uid: str = "u1", name: str = "p") -> str:
    """Put a sandbox with a running container into the runtime."""
    pod = read_pod(a_pod(name, uid))
    rooms = FakeRooms()
    config = await rooms.sandbox(pod, 0)
    sandbox = await rig.runtime.run_sandbox(config)
    asked = await rooms.container(
        pod,
        pod.spec.containers[0],
        attempt=0,
        image="app:1",
        sandbox=rig.runtime.rooms[sandbox],
        volumes=await rooms.mount(pod),
    )
    made = await rig.runtime.create_container(sandbox, asked, config)
    await rig.runtime.start_container(made)
    return made


def test_details_are_asked_for_once_as_long_as_nothing_changes() -> None:
    async def work(rig: PodRig) -> None:
        container = await a_container(rig)
        asked: list[str] = []
        told: list[str] = []
        original = rig.runtime.container

        async def counted(container_id: str) -> ContainerState:
            asked.append(container_id)
            return await original(container_id)

        rig.runtime.container = counted  # type: ignore[method-assign]
        relist = Relist(rig.runtime)
        relist.listen(told.append)
        task = asyncio.create_task(relist.run())
        await relist.first.wait()
        await asyncio.sleep(10)
        assert asked == [container]
        assert told == ["u1"]
        found = relist.of("u1")
        assert found.containers[0].started_at
        assert found.sandboxes[0].ips
        rig.runtime.end("c", 3)
        await asyncio.sleep(2)
        assert asked == [container, container]
        assert told == ["u1", "u1"]
        assert relist.of("u1").containers[0].exit_code == 3
        await rig.runtime.remove_sandbox(found.sandboxes[0].id)
        await asyncio.sleep(2)
        assert relist.uids() == []
        assert told == ["u1"] * 3
        task.cancel()
        await asyncio.wait({task})

    on_a_rig(work)


def test_one_listing_serves_all_who_ask_at_a_time() -> None:
    async def work(rig: PodRig) -> None:
        for number in range(20):
            await a_container(rig, f"u{number}", f"p{number}")
        listings = 0
        original = rig.runtime.sandboxes

        async def counted() -> list[object]:
            nonlocal listings
            listings += 1
            return [*await original()]

        rig.runtime.sandboxes = counted  # type: ignore[method-assign,assignment]
        relist = Relist(rig.runtime)
        found = await asyncio.gather(*(relist.look(f"u{number}") for number in range(20)))
        assert all(each.containers for each in found)
        assert listings == 2, "what began before one asked is no answer"

    on_a_rig(work)


def test_a_runtime_that_is_away_changes_nothing_of_what_was_seen() -> None:
    async def work(rig: PodRig) -> None:
        await a_container(rig)
        relist = Relist(rig.runtime)
        task = asyncio.create_task(relist.run())
        await relist.first.wait()
        rig.runtime.is_away = True
        await asyncio.sleep(30)
        assert "away" in relist.error
        assert relist.of("u1").containers[0].state is State.RUNNING
        with pytest.raises(RuntimeAway):
            await relist.look("u1")
        rig.runtime.is_away = False
        await asyncio.sleep(10)
        assert "away" not in relist.error
        task.cancel()
        await asyncio.wait({task})

    on_a_rig(work)


def test_the_newest_run_is_that_of_the_last_attempt_whatever_the_clock_says() -> None:
    async def work(rig: PodRig) -> None:
        container = await a_container(rig)
        older = rig.runtime.boxes[container]
        rig.runtime.boxes["later"] = replace(older, id="later", attempt=1, created_at=1)
        assert (await Relist(rig.runtime).look("u1")).containers[0].id == "later"

    on_a_rig(work)


# --- health ---------------------------------------------------------------------------------------


def test_a_runtime_that_is_restarted_does_not_make_the_node_unready_and_one_that_stays_away_does() -> (
    None
):
    async def work(rig: PodRig) -> None:
        health = RuntimeHealth(rig.runtime)
        told: list[tuple[str, ...]] = []
        health.listen(lambda: told.append(health.problems))
        assert health.version == ""
        await health.ask()
        assert health.version == "fake://1.0"
        rig.runtime.is_away = True
        await health.ask()
        assert list(health.problems) == []
        await asyncio.sleep(SILENT_SECONDS)
        await health.ask()
        assert list(health.problems) == ["container runtime is down: the runtime is away"]
        rig.runtime.is_away = False
        await health.ask()
        assert list(health.problems) == []
        assert told == [(), ("container runtime is down: the runtime is away",), ()]

    on_a_rig(work)


def test_a_network_that_is_not_ready_is_told_in_the_kubelets_words() -> None:
    async def work(rig: PodRig) -> None:
        message = "Network plugin returns error: cni plugin not initialized"

        async def info() -> RuntimeInfo:
            return RuntimeInfo(
                name="containerd",
                version="1.6.20",
                api_version="v1",
                is_ready=True,
                is_network_ready=False,
                network_message=message,
            )

        rig.runtime.info = info  # type: ignore[method-assign]
        health = RuntimeHealth(rig.runtime)
        await health.ask()
        assert health.problems == (
            "container runtime network not ready: NetworkReady=false"
            f" reason:NetworkPluginNotReady message:{message}",
        )

    on_a_rig(work)


def test_without_a_network_only_pods_on_the_nodes_own_start() -> None:
    async def work(rig: PodRig) -> None:
        original = rig.runtime.info

        async def info() -> RuntimeInfo:
            return replace(await original(), is_network_ready=False, network_message="none")

        rig.runtime.info = info  # type: ignore[method-assign]
        async with rig.process():
            await asyncio.sleep(1)
            rig.apply(a_pod("own", "u2", hostNetwork=True))
            rig.apply(a_pod())
            await rig.until(lambda: rig.phase("u2") == "Running")
            await rig.until(lambda: rig.rooms.told("NetworkNotReady"))
            assert not [each for each in rig.runtime.rooms.values() if each.uid == "u1"]
            rig.runtime.info = original  # type: ignore[method-assign]
            await rig.until(lambda: rig.phase() == "Running")

    on_a_rig(work)


# --- restarts -------------------------------------------------------------------------------------


def ended(at: float) -> ContainerState:
    return ContainerState(
        id="c",
        sandbox_id="s",
        name="c",
        attempt=0,
        state=State.EXITED,
        created_at=1,
        finished_at=int(at * SECOND),
    )


def test_the_back_off_doubles_up_to_five_minutes() -> None:
    restarts, now, pauses = Restarts(), 1000.0, []
    for _ in range(8):
        waiting = restarts.waiting(POD, CONTAINER, ended(now), now)
        pauses.append(waiting.seconds if waiting else 0)
        now += pauses[-1]
        assert restarts.waiting(POD, CONTAINER, ended(now - pauses[-1]), now) is None
        restarts.started(POD, CONTAINER, ended(now - pauses[-1]), now)
        now += 1
    assert pauses == [0, 10, 20, 40, 80, 160, 300, 300]


def test_ten_good_minutes_and_a_new_image_start_the_back_off_anew() -> None:
    restarts = Restarts()
    restarts.started(POD, CONTAINER, ended(0), 0)
    assert restarts.waiting(POD, CONTAINER, ended(5), 6) is not None
    assert restarts.waiting(POD, CONTAINER, ended(601), 602) is None
    other = read_pod(a_pod(containers=[{"name": "c", "image": "app:2"}]))
    assert restarts.waiting(other, other.spec.containers[0], ended(5), 6) is None
    restarts.forget("u1")
    assert restarts.waiting(POD, CONTAINER, ended(5), 6) is None


def test_a_clock_that_was_set_back_makes_no_wait_longer() -> None:
    passed = 0.0
    restarts = Restarts(lambda: passed)
    restarts.started(POD, CONTAINER, ended(1000), 1000)
    waiting = restarts.waiting(POD, CONTAINER, ended(1005), 100)
    assert waiting is not None
    assert waiting.until == 110
    passed = 6.0
    waiting = restarts.waiting(POD, CONTAINER, ended(1005), 106)
    assert waiting is not None
    assert waiting.until == 110
    passed = 10.0
    assert restarts.waiting(POD, CONTAINER, ended(1005), 110) is None


def test_the_message_is_the_kubelets() -> None:
    assert [go_duration(each) for each in (10, 160, 300)] == ["10s", "2m40s", "5m0s"]
    assert crash_loop_message(POD, CONTAINER, 160) == (
        "back-off 2m40s restarting failed container=c pod=p_default(u1)"
    )


def test_workloads_are_on_off_or_by_what_is_there(tmp_path: object) -> None:
    from edge.pods.build import endpoint_of
    from gateway.config.edge_workloads import Workloads
    from gateway.config.switch import Switch

    gone = f"unix://{tmp_path}/none.sock"
    assert endpoint_of(Workloads(enabled=Switch("off"), runtime=gone)) is None
    assert endpoint_of(Workloads(runtime=gone)) is None
    assert endpoint_of(Workloads(enabled=Switch("on"), runtime=gone)) == gone
    with pytest.raises(InvalidSetting, match="expected auto, on or off"):
        endpoint_of(Workloads(enabled=Switch("maybe")))
