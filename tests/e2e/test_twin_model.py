"""Random writes on both sides, cuts, cloud and edges killed: at rest all agree, no promise is broken."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.twin_model import NODES, NOTHING, PROPERTIES, QUIET_SECONDS, World, a_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SEEDS = range(1, 1 + int(os.environ.get("TWIN_MODEL_SEEDS", "1")))
"""One walk each, about 15 s on an idle machine."""
STEPS = 40
CLOUD_KILLS, EDGE_KILLS = 1, 1

Step = Callable[[World, str], Awaitable[None]]


# --- steps


async def thing_writes(world: World, node: str) -> None:
    await world.write(node, world.random.choice(("by_thing", "by_both")), world.by_thing)


async def device_writes(world: World, node: str) -> None:
    await world.write(node, world.random.choice(("by_device", "by_both")), world.by_device)


async def reports(world: World, node: str) -> None:
    await world.write(node, "said", world.by_mqtt)


async def cuts(world: World, node: str) -> None:
    """The line breaks, and may stay broken."""
    line = world.edges[node].line
    line.refuses = world.random.random() < 0.5
    line.cut()


async def stalls(world: World, node: str) -> None:
    """The line goes silent: nobody hears that it is gone."""
    world.edges[node].line.flows.clear()


async def mends(world: World, node: str) -> None:
    line = world.edges[node].line
    line.refuses = False
    line.flows.set()


async def edge_dies(world: World, node: str) -> None:
    """Kill an edge in the middle of a report; go on in the cloud; start it again."""
    world.log.append(f"kill {node}")
    report = asyncio.create_task(reports(world, node))
    await asyncio.sleep(world.random.random() * 0.03)
    await world.edges[node].kill()
    await report
    for _ in range(3):
        await world.random.choice((thing_writes, device_writes))(world, node)
    await world.edges[node].start()


async def cloud_dies(world: World, node: str) -> None:
    """Kill the cloud in the middle of everything; go on at the edges; start it again."""
    world.log.append("kill cloud")
    acts = (thing_writes(world, node), device_writes(world, NODES[0]), reports(world, NODES[1]))
    tasks = [asyncio.create_task(act) for act in acts]
    await asyncio.sleep(world.random.random() * 0.03)
    await asyncio.to_thread(world.cloud.kill)
    await asyncio.gather(*tasks)
    for _ in range(3):
        await reports(world, world.random.choice(NODES))
    await asyncio.to_thread(world.cloud.start)


COMMON: tuple[tuple[Step, int], ...] = (
    (thing_writes, 20),
    (device_writes, 20),
    (reports, 25),
    (cuts, 5),
    (stalls, 3),
    (mends, 10),
)


def plan(world: World) -> list[Step]:
    """The walk of one seed: a number of deaths, at places that chance picks."""
    acts: list[Step] = [act for act, _ in COMMON]
    steps = world.random.choices(acts, [weight for _, weight in COMMON], k=STEPS)
    for death in (*[cloud_dies] * CLOUD_KILLS, *[edge_dies] * EDGE_KILLS):
        steps.insert(world.random.randrange(len(steps)), death)
    return steps


# --- what must hold


async def disagreement(world: World) -> dict[str, Any]:
    """What does not agree yet, or breaks a promise; empty when all is well."""
    found: dict[str, Any] = {}
    for node in NODES:
        sides = await world.sides(node)
        for name in PROPERTIES:
            values = {side: each[name] for side, each in sides.items()}
            wanted, said = values["thing"]
            may_be = world.promise(node, name).may_be
            is_kept = (said if name == "said" else wanted) in may_be or name == "by_both"
            if len(set(values.values())) > 1 or not is_kept:
                found[f"{node}/{name}"] = {**values, "may be": sorted(may_be)}
    return found


async def comes_to_rest(world: World) -> None:
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(QUIET_SECONDS):
            while found := await in_doubt(world):  # noqa: ASYNC110  other processes
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"the sides do not agree: {found}\n" + "\n".join(world.log))


async def in_doubt(world: World) -> dict[str, Any]:
    try:
        return await disagreement(world)
    except (aiohttp.ClientError, OSError) as error:
        return {"not read": error}


def is_in_order(part: list[str], whole: list[str]) -> bool:
    """True when `whole` has all of `part`, in this order."""
    rest = iter(whole)
    return all(value in rest for value in part)


@pytest.mark.parametrize("seed", SEEDS)
async def test_both_sides_agree_at_rest_and_nothing_acknowledged_is_lost(
    tmp_path: Path, seed: int
) -> None:
    async with a_world(tmp_path, seed) as world:
        await comes_to_rest(world)
        for step in plan(world):
            await step(world, world.random.choice(NODES))
            if world.random.random() < 0.3:
                await asyncio.sleep(world.random.random() * 0.1)
        for node in NODES:
            await mends(world, node)
        await comes_to_rest(world)
        for node in NODES:
            said = world.promise(node, "said")
            past = await world.history(node)
            assert is_in_order(said.kept, past), f"{node}: {said.kept} in {past}\n{world.log}"
            assert NOTHING not in past
