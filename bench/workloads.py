"""Pods on an edge node: from `kubectl apply` to a running container, many at once, memory, restarts, logs.

Cloud and edge as shipped, one process each, on a containerd of their own; the image is on the node. Beside
what goes through API, CloudCore, EdgeCore and back stands the same container by three calls of CRI, in turns
in the same run. Goals: a Pod runs within a second (p50), EdgeCore with ten Pods under 80 MB, no growth.
Run as root: `python -m bench.workloads [--pods 50] [--at-once 60] [--churn 180] [--only apply ...] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.workloads_rig import (
    NAMESPACE,
    Bare,
    Pods,
    Rig,
    cpu_seconds,
    following,
    load,
    names,
    percentiles,
    resident,
    seconds_until,
    the_rig,
)
from gateway.kube.credentials import from_kubeconfig
from gateway.model.json import JsonObject

GOAL_MS, GOAL_MB = 1_000.0, 80.0
PROBES_SETTLE = 5
"""Times `settle`: until every probe has said that all is well, and the API was told."""
CHURN_AT_ONCE = 4
CHURN_WARM_UP = 0.25
"""The part of the churn that is no growth: pools and caches fill."""
GOODBYE_SECONDS = 0.2
"""In which TLS connections that were closed end."""
LOG_SETTING = "edge.workloads.log_bytes=1073741824"
"""Logs are not rotated under the measurement."""
WEB = "echo well > /data/index.html; exec httpd -f -p 8080 -h /data"
PROBE: JsonObject = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 10}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    pods: int = 50
    at_once: int = 60
    few: int = 10
    churn: float = 180.0
    idle: float = 60.0
    settle: float = 3.0
    log_megabytes: int = 50


# --- one after another ------------------------------------------------------------------------------


async def apply(rig: Rig, plan: Plan) -> dict[str, Any]:
    """Start Pods one after another in four ways, in turns."""
    bare = Bare(rig.containerd, rig.folder / "bare-logs")
    found: dict[str, list[float]] = {}
    try:
        async with following(rig) as pods:
            ways = _ways(rig, pods, bare)
            for number in range(-1, plan.pods):
                for way, start in ways.items():
                    seconds = await start(f"{way}-{number + 1}")
                    if number >= 0:  # the first of each way fills caches
                        found.setdefault(way, []).append(seconds)
    finally:
        await bare.close()
    rows = {way: percentiles(seconds) for way, seconds in found.items()}
    for way in ("placed", "scheduled", "kubectl"):
        rows[way]["ratio"] = round(rows[way]["p50_ms"] / rows["bare"]["p50_ms"], 2)
    return {**rows, "load": load()}


def _ways(rig: Rig, pods: Pods, bare: Bare) -> dict[str, Callable[[str], Awaitable[float]]]:
    async def by_api(name: str, *, is_placed: bool) -> float:
        began = time.perf_counter()
        await pods.create(name, is_placed=is_placed)
        ended = await pods.until_running([name])
        await pods.delete_all([name])
        return ended - began

    async def by_kubectl(name: str) -> float:
        began = time.perf_counter()
        await asyncio.to_thread(rig.apply, pods.manifest(name, is_placed=False))
        ended = await pods.until_running([name])
        await pods.delete_all([name])
        return ended - began

    async def by_cri(name: str) -> float:
        began = time.perf_counter()
        sandbox = await bare.start(name)
        ended = time.perf_counter()
        await bare.remove(sandbox)
        return ended - began

    return {
        "bare": by_cri,
        "placed": lambda name: by_api(name, is_placed=True),
        "scheduled": lambda name: by_api(name, is_placed=False),
        "kubectl": by_kubectl,
    }


# --- all at once ------------------------------------------------------------------------------------


async def burst(rig: Rig, plan: Plan) -> dict[str, Any]:
    """Start many at once and remove them, by the API and by CRI alone."""
    bare = Bare(rig.containerd, rig.folder / "bare-logs")
    wanted = names("burst", plan.at_once)
    try:
        began = time.perf_counter()
        sandboxes = await asyncio.gather(*(bare.start(name) for name in wanted))
        between = time.perf_counter()
        await asyncio.gather(*(bare.remove(each) for each in sandboxes))
        ended = time.perf_counter()
    finally:
        await bare.close()
    async with following(rig) as pods:
        first = time.perf_counter()
        await asyncio.gather(*(pods.create(name) for name in wanted))
        stored = time.perf_counter()
        run = await pods.until_running(wanted) - first
        deleted = time.perf_counter()
        await pods.delete_all(wanted)
        gone = time.perf_counter() - deleted
    start, removal = between - began, ended - between
    return {
        "pods": plan.at_once,
        "stored_s": round(stored - first, 2),
        "running_s": round(run, 2),
        "bare_running_s": round(start, 2),
        "running_ratio": round(run / start, 2),
        "gone_s": round(gone, 2),
        "bare_gone_s": round(removal, 2),
        "gone_ratio": round(gone / removal, 2),
        "load": load(),
    }


# --- memory and the cost of doing nothing ------------------------------------------------------------


async def memory(rig: Rig, plan: Plan) -> dict[str, Any]:
    """Measure EdgeCore without workloads, and with none, few and many Pods."""
    usual = rig.edge
    await asyncio.to_thread(usual.stop)
    off = rig.edge_with(enabled="off")
    await asyncio.to_thread(off.start)
    await asyncio.sleep(plan.settle)
    found: dict[str, Any] = {"off": resident(off.pid)}
    await asyncio.to_thread(off.stop)
    await asyncio.to_thread(usual.start)
    await asyncio.sleep(plan.settle)
    found["0"] = resident(usual.pid)
    wanted = names("memory", plan.at_once)
    async with following(rig) as pods:
        await pods.create_all(wanted[: plan.few])
        await asyncio.sleep(plan.settle)
        found[str(plan.few)] = resident(usual.pid)
        await pods.create_all(wanted[plan.few :])
        await asyncio.sleep(plan.settle)
        found[str(plan.at_once)] = resident(usual.pid)
        await pods.delete_all(wanted)
    return {**found, "load": load()}


async def idle(rig: Rig, plan: Plan) -> dict[str, Any]:
    """Measure the CPU time of EdgeCore and of containerd, without Pods and with many that are probed."""
    found = {"none": await _idle_minute(rig, plan)}
    wanted = names("idle", plan.at_once)
    async with following(rig) as pods:
        probes = {"livenessProbe": PROBE, "readinessProbe": PROBE}
        await pods.create_all(wanted, command=["sh", "-c", WEB], **probes)
        await asyncio.sleep(plan.settle * PROBES_SETTLE)
        found["probed"] = await _idle_minute(rig, plan)
        await pods.delete_all(wanted)
    return {**found, "pods": plan.at_once, "load": load()}


async def _idle_minute(rig: Rig, plan: Plan) -> dict[str, float]:
    pids = {"edge": rig.edge.pid, "containerd": rig.containerd.pid, "cloud": rig.cloud.pid}
    before = {who: cpu_seconds(pid) for who, pid in pids.items()}
    await asyncio.sleep(plan.idle)
    return {
        f"{who}_s_per_minute": round((cpu_seconds(pid) - before[who]) * 60 / plan.idle, 2)
        for who, pid in pids.items()
    }


# --- churn ------------------------------------------------------------------------------------------


async def churn(rig: Rig, plan: Plan) -> dict[str, Any]:
    """Make and remove Pods for a time; how much EdgeCore grows with them."""
    ends = time.perf_counter() + plan.churn
    done, samples = 0, [(0, resident(rig.edge.pid)["anonymous"])]
    async with following(rig) as pods:

        async def one_after_another(lane: int) -> None:
            nonlocal done
            number = 0
            while time.perf_counter() < ends or not number:
                name = f"churn-{lane}-{number}"
                await pods.create_all([name])
                await pods.delete_all([name])
                number, done = number + 1, done + 1
                samples.append((done, resident(rig.edge.pid)["anonymous"]))

        await asyncio.gather(*(one_after_another(lane) for lane in range(CHURN_AT_ONCE)))
    return {
        "pods": done,
        "first_mb": samples[0][1],
        "last_mb": samples[-1][1],
        "mb_per_1000_pods": growth(samples),
        "load": load(),
    }


def growth(samples: Sequence[tuple[int, float]]) -> float:
    """Return the slope after the warm-up, in MB per 1,000 Pods (least squares)."""
    rows = samples[int(len(samples) * CHURN_WARM_UP) :]
    mean_x = sum(x for x, _ in rows) / len(rows)
    mean_y = sum(y for _, y in rows) / len(rows)
    spread = sum((x - mean_x) ** 2 for x, _ in rows)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in rows) / spread if spread else 0.0
    return round(slope * 1_000, 2)


# --- without the cloud ------------------------------------------------------------------------------


async def restart(rig: Rig, plan: Plan) -> dict[str, Any]:
    """Start EdgeCore without its cloud: until it knows all that runs, and after a boot until all runs."""
    found: dict[str, Any] = {}
    for count in sorted({plan.few, plan.at_once}):
        wanted = names(f"restart{count}", count)
        async with following(rig) as pods:
            await pods.create_all(wanted)
        await asyncio.to_thread(rig.cloud.stop)
        found[str(count)] = await asyncio.to_thread(_restarts, rig, count)
        await asyncio.to_thread(rig.cloud.start)
        async with following(rig) as pods:
            await pods.delete_all(wanted)
    return {**found, "load": load()}


def _restarts(rig: Rig, count: int) -> dict[str, float]:
    rig.edge.stop()
    began = time.perf_counter()
    rig.edge.start()
    ready = time.perf_counter() - began
    seconds_until(lambda: rig.adopted() == count, "all are known")
    adopted = time.perf_counter() - began
    rig.edge.kill()
    _end_all(rig)
    rig.containerd.restart(hard=True)
    began = time.perf_counter()
    rig.edge.start()
    seconds_until(lambda: rig.running() == count, "all run")
    return {
        "ready_s": round(ready, 2),
        "adopted_s": round(adopted, 2),
        "running_after_boot_s": round(time.perf_counter() - began, 2),
    }


def _end_all(rig: Rig) -> None:
    """End all containers with their shims at once, as a loss of power does."""
    for pid in rig.containerd.shims():
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *(int(child) for child in children)):
            os.kill(each, signal.SIGKILL)


# --- logs -------------------------------------------------------------------------------------------


async def logs(rig: Rig, plan: Plan) -> dict[str, Any]:
    """Read a long log through API server, tunnel and EdgeCore, beside `cat` of its file."""
    size = plan.log_megabytes * 1_000_000
    line = "x" * 99
    said = f"yes {line} | head -c {size}; echo; echo done; sleep 3600"
    async with following(rig) as pods:
        await pods.create_all(["logs"], command=["sh", "-c", said])
        file = next((rig.folder / "pod-logs").glob("*_logs_*/c/0.log"))
        await asyncio.to_thread(seconds_until, lambda: _tail(file).endswith(b"done\n"), "the log")
        cat = await asyncio.to_thread(_cat, file)
        direct = f"http://{rig.edge.endpoints['edge.kubelet']}/containerLogs/{NAMESPACE}/logs/c"
        kubelet = await _read(direct)
        through = await _read_by_api(rig)
        await pods.delete_all(["logs"])
    return {
        "megabytes": round(size / 1e6, 1),
        "cat_mb_per_s": round(size / 1e6 / cat, 1),
        "kubelet_mb_per_s": round(kubelet[0] / 1e6 / kubelet[1], 1),
        "api_mb_per_s": round(through[0] / 1e6 / through[1], 1),
        "ratio": round(cat / through[1], 4),
        "load": load(),
    }


def _tail(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 100))
        return opened.read()


def _cat(file: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["cat", str(file)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


async def _read(url: str, **options: Any) -> tuple[int, float]:
    """Return bytes and seconds of an answer."""
    began, count = time.perf_counter(), 0
    wait = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=wait) as session, session.get(url, **options) as found:
        assert found.status == 200, await found.text()
        async for chunk in found.content.iter_any():
            count += len(chunk)
    return count, time.perf_counter() - began


async def _read_by_api(rig: Rig) -> tuple[int, float]:
    access = from_kubeconfig(rig.kubeconfig)
    url = f"{access.server}/api/v1/namespaces/{NAMESPACE}/pods/logs/log"
    return await _read(url, ssl=access.tls, headers=dict(access.headers))


# --- the run ----------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Rig, Plan], Coroutine[Any, Any, dict[str, Any]]]] = {
    "apply": apply,
    "burst": burst,
    "memory": memory,
    "restart": restart,
    "churn": churn,
    "logs": logs,
    "idle": idle,
}


def measure(plan: Plan, only: Sequence[str] = ()) -> dict[str, Any]:
    """Run the parts, each on the same node."""
    with (
        tempfile.TemporaryDirectory(prefix="tsbench") as name,
        the_rig(Path(name), LOG_SETTING) as rig,
    ):
        found = {}
        for part in only or PARTS:
            found[part] = asyncio.run(_measured(part, rig, plan))
            print(part, found[part], file=sys.stderr, flush=True)
        return found


async def _measured(part: str, rig: Rig, plan: Plan) -> dict[str, Any]:
    found = await PARTS[part](rig, plan)
    await asyncio.sleep(GOODBYE_SECONDS)
    return found


def report(found: dict[str, Any]) -> str:
    """Return what people read."""
    lines = []
    for name, rows in found.items():
        lines.append(f"{name} (load {rows['load']:g})")
        lines += [f"  {key:<18} {_words(value)}" for key, value in rows.items() if key != "load"]
    return "\n".join([*lines, *_goals(found)])


def _words(value: object) -> str:
    if isinstance(value, dict):
        return "   ".join(f"{key} {each}" for key, each in value.items())
    return str(value)


def _goals(found: dict[str, Any]) -> list[str]:
    """Return what was aimed at, beside what was reached."""
    said = []
    if "apply" in found:
        said.append(f"goal: p50 of scheduled and kubectl under {GOAL_MS:g} ms")
    if "memory" in found:
        said.append(f"goal: rss with ten Pods under {GOAL_MB:g} MB")
    return said


def main() -> None:
    usual, parser = Plan(), argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=usual.pods)
    parser.add_argument("--at-once", type=int, default=usual.at_once)
    parser.add_argument("--few", type=int, default=usual.few)
    parser.add_argument("--churn", type=float, default=usual.churn, help="seconds")
    parser.add_argument("--idle", type=float, default=usual.idle, help="seconds")
    parser.add_argument("--log-megabytes", type=int, default=usual.log_megabytes)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=[])
    parser.add_argument("--json", action="store_true")
    told = vars(parser.parse_args())
    only, is_json = told.pop("only"), told.pop("json")
    found = measure(Plan(**told), only)
    print(json.dumps(found) if is_json else report(found))


if __name__ == "__main__":
    main()
