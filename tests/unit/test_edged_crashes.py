"""The process ends at each step, before or after the runtime did what it asked: the next one goes on.

No sandbox is left behind, no container runs twice, nothing of a deleted Pod stays.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from edge.pods.runtime import State
from gateway.model.json import JsonObject
from tests.pod_rig import PodRig, a_container, a_pod, on_a_rig

Scene = Callable[[PodRig], Awaitable[None]]

POD: JsonObject = a_pod(
    initContainers=[a_container("i"), a_container("s", restartPolicy="Always")],
    containers=[a_container("c"), a_container("d")],
)
MOST = 60
"""More changing calls than any scene has."""


def assert_sound(rig: PodRig) -> None:
    """Nothing runs twice."""
    running = Counter(
        each.name for each in rig.runtime.boxes.values() if each.state is State.RUNNING
    )
    assert all(count == 1 for count in running.values()), running
    ready = Counter(each.uid for each in rig.runtime.rooms.values() if each.is_ready)
    assert all(count == 1 for count in ready.values()), ready


def is_up(rig: PodRig) -> bool:
    assert_sound(rig)
    names = {each.name for each in rig.runtime.boxes.values() if each.state is State.RUNNING}
    return {"s", "c", "d"} <= names and rig.phase() == "Running"


async def start(rig: PodRig) -> None:
    """From nothing to a running Pod."""
    rig.runtime.exits_at_once = {"i": 0}
    rig.apply(POD)
    await rig.until(lambda: is_up(rig))


async def stop(rig: PodRig) -> None:
    """From a running Pod to nothing."""
    if not rig.rooms.ended:
        rig.delete(POD)
    await rig.until(lambda: rig.rooms.ended)
    assert_sound(rig)
    rig.remove(POD)
    await rig.until(lambda: rig.is_clean)


async def reboot(rig: PodRig) -> None:
    """From a Pod whose sandbox has died to a running one."""
    await rig.until(lambda: is_up(rig))


async def edit(rig: PodRig) -> None:
    """From one image to another."""
    edited = a_pod(
        initContainers=[a_container("i"), a_container("s", restartPolicy="Always")],
        containers=[a_container("c", image="app:2"), a_container("d")],
    )
    rig.apply(edited)
    await rig.until(
        lambda: is_up(rig) and {each.image for each in rig.runtime.running("c")} == {"app:2"}
    )


async def be_orphaned(rig: PodRig) -> None:
    """From a Pod that was deleted while nobody looked to nothing."""
    rig.meta.stored.clear()
    rig.remove(POD)
    await rig.until(lambda: rig.is_clean)


async def _prepare(rig: PodRig, scene: Scene) -> None:
    """Bring the rig where a scene begins."""
    if scene is not start:
        async with rig.process():
            await start(rig)
    if scene is reboot:
        rig.runtime.kill_sandboxes()


async def _play(rig: PodRig, scene: Scene, cut: int, *, after: bool) -> bool:
    """Play a scene that is cut at a step, and again; False when it has no such step."""
    await _prepare(rig, scene)
    rig.runtime.cut_at(cut, after=after)
    task: asyncio.Task[None] | None = None
    async with rig.process():
        task = asyncio.create_task(scene(rig))  # type: ignore[arg-type]
        gone = asyncio.create_task(rig.runtime.was_cut.wait())
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        was_cut = not task.done()
        if task.done():
            task.result()
        for each in (task, gone):
            each.cancel()
        await asyncio.wait({task, gone})
    assert_sound(rig)
    async with rig.process():
        await scene(rig)
        await asyncio.sleep(30)
        assert_sound(rig)
        assert all(each.state is not State.CREATED for each in rig.runtime.boxes.values())
        if scene is start:
            assert not any(each.attempt for each in rig.runtime.boxes.values()), "no restart"
    return was_cut


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("scene", [start, stop, reboot, edit, be_orphaned])
def test_a_process_that_ends_at_any_step_leaves_nothing_that_the_next_does_not_mend(
    scene: Scene, after: bool
) -> None:
    steps = 0
    for cut in range(MOST):
        played: list[bool] = []

        async def work(rig: PodRig, cut: int = cut, played: list[bool] = played) -> None:
            played.append(await _play(rig, scene, cut, after=after))

        on_a_rig(work)
        if not played[0]:
            break
        steps += 1
    assert 2 <= steps < MOST
