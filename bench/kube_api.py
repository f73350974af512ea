"""The embedded Kubernetes API: writes, lists, watches, memory and start, beside bare servers in the same run.

One `twinspan cloud` process and this client on one machine, TLS, durable writes. In the same run: a bare
aiohttp server that answers the same bytes without doing anything, and the database with the same rows in
groups. "per CPU s" is by CPU time of the server, which a busy machine hardly changes. Goals: 1,000 writes and
aiohttp server that answers the same bytes without doing anything, and the database with the same rows in
Run: `python -m bench.kube_api [--writes 3000] [--pods 5000] [--watchers 100]`.
With `--server URL --ca F --cert F --key F` the same client measures another API server by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.startup import bare_python, resident_mb
from gateway.kube.storage import Storage
from gateway.kube.watch import Key
from gateway.store.database import Database
from tests import process

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = 200
"""Changes that every watcher is to see."""
CONCURRENT = 64


def a_configmap(name: str) -> dict[str, Any]:
    """About 300 bytes."""
    return {
        "metadata": {"name": name, "labels": {"bench": "1"}},
        "data": {"a": "x" * 100, "n": "0"},
    }


def a_pod(name: str) -> dict[str, Any]:
    """What a deployment would make of a small template; about 2 kB once it is completed and owned."""
    container = {
        "name": "main",
        "image": "registry.example/app:1",
        "env": [{"name": f"VARIABLE_{number}", "value": "value"} for number in range(10)],
        "ports": [{"containerPort": 8080}],
        "resources": {"limits": {"cpu": "1", "memory": "64Mi"}},
    }
    labels = {"app": "bench", "tier": "edge"}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": f"bench-{hash(name) % 100}", "containers": [container]},
    }


@dataclass(frozen=True, slots=True)
class Rate:
    """How many a second, and how many a CPU second of the server (0: not known)."""

    per_second: float
    per_cpu: float = 0.0

    @classmethod
    def of(cls, count: int, seconds: float, spent: float) -> Rate:
        """From a count and what it took."""
        return cls(count / seconds, count / spent if spent else 0.0)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Client:
    """Requests to one server, with as many connections as it takes."""

    def __init__(self, http: aiohttp.ClientSession, base: str, pid: int = 0) -> None:
        self._http = http
        self.base = base
        self.pid = pid

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> bytes:
        """One request; fails on any refusal."""
        data = None if body is None else json.dumps(body)
        headers.setdefault("Content-Type", "application/json")
        async with self._http.request(
            method, self.base + path, data=data, headers=headers
        ) as answer:
            text = await answer.read()
            if answer.status >= 300 and not (method == "DELETE" and answer.status == 404):
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
            return text

    def spent(self) -> float:
        """CPU seconds of the server; 0 where it cannot be seen."""
        return cpu_seconds(self.pid) if self.pid else 0.0

    async def each(self, count: int, work: Callable[[int], Awaitable[object]]) -> Rate:
        """Do `work` with every number, many at a time."""

        async def some(first: int) -> None:
            for number in range(first, count, CONCURRENT):
                await work(number)

        began, spent = time.perf_counter(), self.spent()
        async with asyncio.TaskGroup() as group:
            for first in range(CONCURRENT):
                group.create_task(some(first))
        return Rate.of(count, time.perf_counter() - began, self.spent() - spent)

    async def watch(self, path: str, lines: int, started: asyncio.Semaphore) -> None:
        """Read a stream until that many lines have come."""
        async with self._http.get(self.base + path) as answer:
            started.release()
            async for chunk in answer.content.iter_any():
                lines -= chunk.count(b"\n")
                if lines <= 0:
                    return


async def fan_out(
    client: Client, path: str, watchers: int, lines: int, fire: Callable[[], Awaitable[object]]
) -> Rate:
    """Lines delivered, from the first change to the last line."""
    started = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        for _ in range(watchers):
            group.create_task(client.watch(path, lines, started))
        for _ in range(watchers):
            await started.acquire()
        began, spent = time.perf_counter(), client.spent()
        await fire()
    return Rate.of(watchers * lines, time.perf_counter() - began, client.spent() - spent)


async def timed(count: int, work: Callable[[], Awaitable[bytes]]) -> tuple[float, int]:
    """Median seconds of one answer, and its bytes."""
    seconds, size = [], 0
    for _ in range(count):
        began = time.perf_counter()
        size = len(await work())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), size


class Bench:
    """What is measured on one server."""

    def __init__(self, client: Client, args: argparse.Namespace) -> None:
        self.client = client
        self.args = args

    def note(self, name: str, value: float, unit: str) -> None:
        """Show a figure."""
        print(f"{name:<38} {value:>10,.2f} {unit}", flush=True)

    def rate(self, name: str, found: Rate, bare: Rate | None = None) -> None:
        """Show a rate; `bare` is that of who does nothing but answer."""
        text = f"{name:<38} {found.per_second:>10,.0f} /s"
        if found.per_cpu:
            text += f" {found.per_cpu:>10,.0f} per CPU s"
        if bare is not None and bare.per_cpu and found.per_cpu:
            text += f"  {found.per_cpu / bare.per_cpu:5.2f}x of bare {bare.per_cpu:,.0f}"
        print(text, flush=True)

    async def writes(self, sink: Client | None, rows: float | None) -> None:
        """Creates and patches of small objects."""
        count = self.args.writes
        bare = None
        if sink is not None:
            bare = await sink.each(
                count, lambda n: sink.send("POST", "/post", a_configmap(f"c{n}"))
            )
        if rows is not None:
            self.note("rows in groups, nothing else", rows, "/s")
        send = self.client.send
        made = await self.client.each(
            count, lambda n: send("POST", CONFIGMAPS, a_configmap(f"bench-{n}"))
        )
        self.rate("create a ConfigMap", made, bare)
        kind = {"Content-Type": "application/merge-patch+json"}
        patched = await self.client.each(
            count,
            lambda n: send("PATCH", f"{CONFIGMAPS}/bench-{n}", {"data": {"n": "1"}}, **kind),
        )
        self.rate("patch a ConfigMap", patched, bare)
        made = await self.client.each(
            self.args.pods, lambda n: send("POST", PODS, a_pod(f"bench-{n}"))
        )
        self.rate("create a Pod", made, bare)
        kind = {"Content-Type": "application/strategic-merge-patch+json"}
        ready = [{"type": "Ready", "status": "True"}]
        status = {"status": {"phase": "Running", "conditions": ready}}
        patched = await self.client.each(
            self.args.pods, lambda n: send("PATCH", f"{PODS}/bench-{n}/status", status, **kind)
        )
        self.rate("patch a Pod's status", patched, bare)

    async def lists(self) -> bytes:
        """All Pods, as objects and as a table; returns the answer."""
        seconds, size = await timed(5, lambda: self.client.send("GET", PODS))
        self.note(f"list {self.args.pods} Pods, {size / 1e6:.1f} MB", seconds * 1e3, "ms")
        rows, small = await timed(5, lambda: self.client.send("GET", PODS, Accept=TABLE))
        self.note(f"the same as a table, {small / 1e6:.1f} MB", rows * 1e3, "ms")
        return await self.client.send("GET", PODS)

    async def watches(self, bare: Rate | None) -> None:
        """One object changes, everybody sees it."""
        version = json.loads(await self.client.send("GET", f"{CONFIGMAPS}?limit=1"))
        path = f"{CONFIGMAPS}?watch=1&resourceVersion={version['metadata']['resourceVersion']}"
        kind = {"Content-Type": "application/merge-patch+json"}

        def fire() -> Awaitable[object]:
            return self.client.each(
                EVENTS,
                lambda n: self.client.send(
                    "PATCH", f"{CONFIGMAPS}/bench-{n % 64}", {"data": {"f": str(n)}}, **kind
                ),
            )

        rate = await fan_out(self.client, path, self.args.watchers, EVENTS, fire)
        self.rate(f"events to {self.args.watchers} watchers", rate, bare)

    async def clean(self) -> None:
        """Take away what was made."""
        count = max(self.args.writes, self.args.pods)
        quick = {"gracePeriodSeconds": 0}
        send = self.client.send
        await self.client.each(count, lambda n: send("DELETE", f"{CONFIGMAPS}/bench-{n}"))
        await self.client.each(count, lambda n: send("DELETE", f"{PODS}/bench-{n}", quick))


async def plain_rows(count: int) -> float:
    """Rows that the database takes a second in groups, with nothing around them."""
    database = Database(None, "kube")
    storage = Storage(database)
    async with database.running(), storage.running():
        item = a_configmap("x")

        async def some(first: int) -> None:
            for number in range(first, count, CONCURRENT):
                await storage.create(Key("things", "", f"t{number}"), item)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for first in range(CONCURRENT):
                group.create_task(some(first))
        return count / (time.perf_counter() - began)


@asynccontextmanager
async def a_client(
    base: str, context: ssl.SSLContext, token: str = "", pid: int = 0
) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=timeout, read_bufsize=2**18
    ) as http:
        yield Client(http, base, pid)


@asynccontextmanager
async def a_sink(folder: Path, answer: bytes) -> AsyncIterator[Client]:
    file = folder / "answer"
    file.write_bytes(answer)
    command = (sys.executable, "-m", "bench.kube_sink", str(folder), str(file))
    with subprocess.Popen(  # noqa: ASYNC220  a bench may wait for it
        command, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            port = running.stdout.readline().strip() if running.stdout else ""
            async with a_client(
                f"https://127.0.0.1:{port}", unverified(), pid=running.pid
            ) as client:
                yield client
        finally:
            running.terminate()


def unverified() -> ssl.SSLContext:
    """TLS to this machine."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def measure_ours(folder: Path, args: argparse.Namespace) -> None:
    """All of it, on a `twinspan cloud` of its own."""
    cloud = process.Twinspan(folder / "cloud", ("cloud", "--demo"), ())
    cloud.start()
    cloud.stop()
    began = time.perf_counter()
    running = cloud.start()
    seconds, spent = time.perf_counter() - began, cpu_seconds(running.pid)
    await asyncio.sleep(2)
    empty = resident_mb(running.pid)
    bench = Bench(Client(None, ""), args)  # type: ignore[arg-type]  # until there is a server
    bench.note("start of an empty cloud", seconds, "s")
    bench.note("its CPU time", spent, "s")
    bench.note("interpreter alone", bare_python(), "s")
    bench.note("resident, empty", empty, "MB")
    token = next(running.data_dir.rglob("admin.token")).read_text()
    url = f"https://{running.endpoints['kube.https']}"
    async with a_client(url, unverified(), token, running.pid) as client:
        bench.client = client
        async with a_sink(folder, b"{}") as sink:
            await bench.writes(sink, await plain_rows(args.writes))
        answer = await bench.lists()
        async with a_sink(folder, answer) as sink:
            bare, _ = await timed(5, lambda: sink.send("GET", "/get"))
            bench.note("the list's bytes from a bare server", bare * 1e3, "ms")
            fired = await fan_out(
                sink,
                "/watch",
                args.watchers,
                EVENTS,
                lambda: sink.send("POST", f"/fire?lines={EVENTS}"),
            )
        await bench.watches(fired)
        missing = 10_000 - args.writes - args.pods
        if missing > 0:
            await client.each(
                missing, lambda n: client.send("POST", CONFIGMAPS, a_configmap(f"more-{n}"))
            )
    bench.note("resident, 10,000 objects", resident_mb(running.pid), "MB")
    cloud.stop()
    began = time.perf_counter()
    running = cloud.start()
    bench.note("start with 10,000 objects", time.perf_counter() - began, "s")
    bench.note("its CPU time", cpu_seconds(running.pid), "s")
    bench.note("resident after it", resident_mb(running.pid), "MB")
    cloud.stop()


async def measure_other(args: argparse.Namespace) -> None:
    """The same requests to a server that runs already."""
    context = ssl.create_default_context(cafile=args.ca)
    context.load_cert_chain(args.cert, args.key)
    async with a_client(args.server, context) as client:
        bench = Bench(client, args)
        try:
            await bench.writes(None, None)
            await bench.lists()
            await bench.watches(None)
        finally:
            await bench.clean()


def main() -> None:
    """Print each row as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writes", type=int, default=3000)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--watchers", type=int, default=100)
    for name in ("server", "ca", "cert", "key"):
        parser.add_argument(f"--{name}", default="")
    args = parser.parse_args()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}")
    if args.server:
        asyncio.run(measure_other(args))
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure_ours(Path(folder), args))


if __name__ == "__main__":
    main()
