"""One run of hollow edges: start, wait until all are registered, hold, perhaps break all links, sum up."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from edge.hollow import fleet as fleets
from edge.hollow.cluster import make_devices, remove_devices, remove_nodes
from edge.hollow.fleet import PER_PROCESS, Fleet, ProcessMeter, check_files, shares
from edge.hollow.plan import Plan, Snapshot
from edge.hollow.summary import Moment, cloud, steady
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject

ENDURANCE = 300.0
"""Seconds beyond the ramp in which all nodes must be registered; else the run goes on with those that are."""
STORM_SECONDS = 120.0
DROP_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to do.

    Units:  `ramp` nodes a second, `churn` broken links a minute, `telemetry` and `reports` a second for each
            device, `duration` seconds of holding (0: until stopped), after `settle` seconds.
    """

    nodes: int
    cloud: str
    hub: str
    token: str
    folder: Path
    prefix: str = "hollow"
    namespace: str = "default"
    devices: int = 0
    telemetry: float = 0.0
    reports: float = 0.0
    churn: float = 0.0
    duration: float = 60.0
    settle: float = 15.0
    ramp: float = 50.0
    processes: int = 0
    storm: bool = False
    pid: int = 0
    keeps: bool = False
    """The nodes stay in the cluster, and their keys where they are."""

    @property
    def names(self) -> list[str]:
        return [f"{self.prefix}-{number:05d}" for number in range(self.nodes)]

    @property
    def workers(self) -> int:
        most = max(1, os.cpu_count() or 1)
        return self.processes or max(math.ceil(self.nodes / PER_PROCESS), min(most, self.nodes))


Tell = Callable[[str, Snapshot], None]
"""Told the phase and how things stand, about once a second."""


Breaks = Callable[[Fleet], Awaitable[None]]
"""Breaks all links at once; returns when they may come back."""


async def drop(fleet: Fleet) -> None:
    """Break all links at the nodes' end, without a goodbye."""
    total = fleet.total()
    goal = total.lost + total.up
    fleet.order("drop")
    await fleet.until(lambda now: now.lost >= goal, DROP_SECONDS, lambda _: None)


async def run(
    wanted: Run,
    kube: KubeClient | None,
    tell: Tell,
    stop: asyncio.Event | None = None,
    *,
    breaks: Breaks = drop,
) -> JsonObject:
    """Do it and return what was found; `stop` ends the holding early, `breaks` makes the storm.

    Errors: InvalidSetting for too few open files or an unknown process; what `kube` raises for Devices.
    """
    cut = shares(wanted.nodes, wanted.workers)
    check_files(max(count for _, count in cut))
    meter = ProcessMeter(wanted.pid) if wanted.pid else None
    if kube is not None and wanted.devices:
        tell("making devices", Snapshot())
        await make_devices(kube, wanted.namespace, wanted.prefix, wanted.names, wanted.devices)
    try:
        return await _run(wanted, cut, meter, tell, stop or asyncio.Event(), breaks)
    finally:
        if kube is not None:
            await _tidy(wanted, kube, tell)


async def _tidy(wanted: Run, kube: KubeClient, tell: Tell) -> None:
    tell("tidying up", Snapshot())
    if wanted.devices:
        await remove_devices(kube, wanted.namespace, wanted.prefix, wanted.names, wanted.devices)
    if not wanted.keeps:
        await remove_nodes(kube, wanted.names)


async def _run(
    wanted: Run,
    cut: list[tuple[int, int]],
    meter: ProcessMeter | None,
    tell: Tell,
    stop: asyncio.Event,
    breaks: Breaks,
) -> JsonObject:
    plans = [_plan(wanted, first, count) for first, count in cut]
    empty = _moment(Snapshot(), meter)
    async with fleets.running(plans) as fleet:
        is_whole = await fleet.until(
            lambda now: _is_complete(wanted, now),
            wanted.nodes / wanted.ramp + ENDURANCE,
            lambda now: tell("connecting", now),
        )
        connected = time.monotonic() - empty.at
        found: JsonObject = {
            "nodes": wanted.nodes,
            "processes": len(cut),
            "registered": fleet.total().registered,
            "complete": is_whole,
            "connect_seconds": round(connected, 1),
        }
        if not stop.is_set():
            found |= await _hold(wanted, fleet, empty, meter, tell, stop)
        if wanted.storm and not stop.is_set():
            found["storm"] = await _storm(wanted, fleet, meter, tell, breaks)
        found["errors"] = dict(fleet.total().errors)
    return found


def _is_complete(wanted: Run, now: Snapshot) -> bool:
    return now.registered >= wanted.nodes and now.bound >= wanted.nodes * wanted.devices


def _plan(wanted: Run, first: int, count: int) -> Plan:
    share = count / wanted.nodes
    return Plan(
        cloud=wanted.cloud,
        hub=wanted.hub,
        token=wanted.token,
        folder=str(wanted.folder),
        prefix=wanted.prefix,
        first=first,
        count=count,
        ramp=wanted.ramp * share,
        churn=wanted.churn * share,
        telemetry=wanted.telemetry,
        reports=wanted.reports,
    )


def _moment(now: Snapshot, meter: ProcessMeter | None) -> Moment:
    if meter is None:
        return Moment(time.monotonic(), now)
    return Moment(time.monotonic(), now, meter.resident(), meter.cpu())


async def _hold(
    wanted: Run,
    fleet: Fleet,
    empty: Moment,
    meter: ProcessMeter | None,
    tell: Tell,
    stop: asyncio.Event,
) -> JsonObject:
    """Let the nodes be, and say what that cost."""
    await _wait(fleet, wanted.settle, stop, tell, "settling")
    fleet.order("mark")
    before = _moment(await fleet.next(), meter)
    await _wait(fleet, wanted.duration or math.inf, stop, tell, "holding")
    after = _moment(await fleet.next(), meter)
    found: JsonObject = {"steady": steady(before, after, wanted.nodes)}
    if meter is not None:
        found["cloud"] = cloud(empty, before, after, wanted.nodes)
    return found


async def _wait(fleet: Fleet, seconds: float, stop: asyncio.Event, tell: Tell, phase: str) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop.is_set():
        tell(phase, await fleet.next())


async def _storm(
    wanted: Run, fleet: Fleet, meter: ProcessMeter | None, tell: Tell, breaks: Breaks
) -> JsonObject:
    """Break all links at once; say how long it takes from then until all nodes are as before."""
    before = _moment(fleet.total(), meter)
    await breaks(fleet)
    seconds: dict[str, float] = {}
    for phase, check in (
        ("connected", lambda now: now.up >= wanted.nodes),
        ("registered", lambda now: _is_complete(wanted, now)),
    ):
        if await fleet.until(check, STORM_SECONDS, lambda now: tell("reconnecting", now)):
            seconds[f"{phase}_seconds"] = round(time.monotonic() - before.at, 1)
    after = _moment(fleet.total(), meter)
    spent = None if after.cpu is None or before.cpu is None else after.cpu - before.cpu
    return {
        **seconds,
        "cloud_cpu_seconds": None if spent is None else round(spent, 2),
        "tries": after.fleet.links - before.fleet.links,
    }
