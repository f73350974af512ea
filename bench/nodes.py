"""Idle edge nodes on one CloudCore: memory, CPU and bytes of a node, the cadence of leases, storms.

`twinspan cloud --demo` as shipped, with its embedded Kubernetes API in the same process, and hollow edges
(`twinspan bench edges --help` tells what is hollow) that enrol, register, keep alive every 15 s and renew
their Leases every 10 s. Then all links break at once; then, with half of the nodes, CloudCore is killed
and started again. Beside it a bare TLS listener with client certificates in the same run: what no CloudCore
in Python on OpenSSL gets below.
Run: `python -m bench.nodes [--nodes 2000] [--seconds 60] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.things_rig import Server
from bench.tls_rig import bare, bare_kilobytes, make_keys
from cloud.identity import create_join_token
from edge.hollow.fleet import Fleet
from edge.hollow.plan import Snapshot
from edge.hollow.run import Run, run
from gateway.kube.remote import connect
from tests import process

GOAL_KB = 60.0
GOAL_NODES = 2_000
BARE = 300
LOST_SECONDS = 60.0


def measure(nodes: int, seconds: float, ramp: float) -> dict[str, Any]:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Any] = {"bare_tls_kilobytes": asyncio.run(_bare(folder))}
        ports = [_free_port() for _ in range(2)]
        sets = (
            "cloud.hub.node_limit=100000",
            f"cloud.hub.wss.bind=127.0.0.1:{ports[0]}",
            f"cloud.hub.https.bind=127.0.0.1:{ports[1]}",
        )
        with process.twinspan(folder / "cloud", "cloud", "--demo", sets=sets) as cloud:
            wanted = Run(
                nodes=nodes,
                cloud=f"https://{cloud.endpoints['cloudhub.https']}",
                hub=cloud.endpoints["cloudhub.wss"],
                token=asyncio.run(_token(cloud.data_dir)),
                folder=folder / "keys",
                ramp=ramp,
                duration=seconds,
                pid=cloud.pid,
                storm=True,
                keeps=True,
            )
            found |= asyncio.run(run(wanted, None, _tell))
            half = replace(wanted, nodes=max(1, nodes // 2), duration=1.0, pid=0)
            found["restart"] = asyncio.run(_restart(half, cloud))
    return found


async def _bare(folder: Path) -> float:
    context = make_keys(folder)
    with bare("tls", folder) as server:
        return round(await bare_kilobytes(server, context, BARE), 1)


async def _restart(wanted: Run, cloud: process.Twinspan) -> dict[str, Any]:
    """Kill CloudCore under its nodes; time the way back from when its ports are open again."""
    told: dict[str, Any] = {"nodes": wanted.nodes}

    async def breaks(fleet: Fleet) -> None:
        total = fleet.total()
        goal = total.lost + total.up
        cloud.kill()
        await fleet.until(lambda now: now.lost >= goal, LOST_SECONDS, lambda _: None)
        began = time.perf_counter()
        await asyncio.to_thread(cloud.start)
        told["start_seconds"] = round(time.perf_counter() - began, 1)
        told["start_cpu_seconds"] = Server(cloud.pid, 0).cpu()

    found: Any = await run(wanted, None, _tell, breaks=breaks)
    spent = Server(cloud.pid, 0).cpu() - told.pop("start_cpu_seconds", 0.0)
    storm = {k: v for k, v in found["storm"].items() if v is not None}
    return {**told, **storm, "cloud_cpu_seconds": round(spent, 1), "errors": found["errors"]}


async def _token(data_dir: Path) -> str:
    async with connect(data_dir / "kube" / "kubeconfig", manager="bench") as client:
        return await create_join_token(client, now=time.time())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tell(phase: str, now: Snapshot) -> None:
    if not sys.stderr.isatty():
        return
    line = f"{phase}: {now.up} connected, {now.registered} registered, {now.lost} lost"
    print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _show(found: dict[str, Any]) -> None:
    steady, cloud, storm, restart = (found[k] for k in ("steady", "cloud", "storm", "restart"))
    hour = steady["bytes_per_node_hour"]
    kilobytes, floor = cloud["kilobytes_per_node"], found["bare_tls_kilobytes"]
    for name, value in (
        ("idle nodes, registered", f"{found['registered']} of {found['nodes']}"),
        ("memory of a node", f"{kilobytes} kB (goal < {GOAL_KB:g} at {GOAL_NODES} nodes)"),
        ("memory of a bare TLS connection", f"{floor} kB: {kilobytes / floor:.2f} times it"),
        ("CloudCore, resident", f"{cloud['resident_mb']} MB"),
        ("CloudCore, CPU", f"{cloud['cpu'] * 100:.1f} % of a core"),
        ("CPU to enrol and register a node", f"{cloud['connect_cpu_ms']} ms"),
        ("seconds between lease renewals", steady["lease_renewal_seconds"]),
        ("lease answers, ms", steady["lease_answer_ms"]),
        ("links lost while idle", steady["links_lost"]),
        (
            "bytes of a node and hour",
            f"{hour['up']} up, {hour['down']} down, {hour['headers']} TCP/IP",
        ),
        ("storm: all links broken", storm),
        ("storm: CloudCore killed", restart),
        ("errors", found["errors"]),
    ):
        print(f"{name:<34} {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=GOAL_NODES)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--ramp", type=float, default=40.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.nodes, options.seconds, options.ramp)
    print(file=sys.stderr)
    if options.json:
        print(json.dumps(found))
    else:
        _show(found)


if __name__ == "__main__":
    main()
