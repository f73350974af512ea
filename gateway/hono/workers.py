"""The worker processes that run the adapters of devices: started, watched, started again, stopped.

A worker is a process of the same program (`gateway.cli.worker`) that gets its orders on its standard input,
and ends when that ends, so it never outlives this one. It listens on the ports that are reserved here and
reaches everything else through Hono's service APIs on a Unix socket. What it counts is asked for over another
one: its share of tenants' limits every second, its metrics every few seconds.

A worker that ends is started again after a while; its devices connect to the others at once. One that ends
before all were ready for the first time ends this process: its settings cannot be right.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from uuid import uuid4

import msgspec

from gateway.errors import GatewayError
from gateway.hono.remote_services.connection import UNIX
from gateway.hono.worker_figures import Ledger, Scrapes, read_shares
from gateway.model.json import Json, JsonObject
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Seen
from gateway.runtime.backoff import Backoff
from gateway.runtime.listener import Door, Endpoints, reserved
from gateway.runtime.small_http import Reply, fetch_document, serve_documents_at

log = logging.getLogger(__name__)

PROGRAM: Final = (sys.executable, "-m", "gateway.cli.worker")
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 8.0
STEADY_SECONDS: Final = 60.0
"""After which a worker's end is no longer taken for a sign of a lasting fault."""
EVERY: Final = 1.0
METRICS_EVERY: Final = 5
ANSWER_SECONDS: Final = 2.0
MAX_DOCUMENT: Final = 16_777_216
MAX_FOLDER: Final = 90
"""Bytes of a folder's path that leave room for a socket's name."""


_SPANS = msgspec.json.Decoder(list[Seen])


class WorkerFailed(GatewayError):
    """A worker ended before it was ready for the first time."""

    code = "worker.failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What workers are started with.

    Shape:  `settings` makes a worker's tree from the addresses that are reserved (setting -> `host:port`);
            `folder` holds the sockets.
    """

    count: int
    folder: Path
    doors: Sequence[Door]
    settings: Callable[[Mapping[str, str]], JsonObject]


class Workers:
    """A module; ready when all workers are."""

    name = "hono.workers"

    def __init__(
        self,
        plan: Plan,
        endpoints: Endpoints,
        ledger: Ledger,
        metrics: Metrics,
    ) -> None:
        self._plan = plan
        self._endpoints = endpoints
        self._ledger = ledger
        self._metrics = metrics
        self._scrapes = Scrapes()
        self._up: dict[int, Process] = {}
        self._was_up = False
        metrics.registry.elsewhere = self._scrapes.families
        metrics.workers.set_function(lambda: len(self._up))

    # --- what an operator sees ------------------------------------------------------------------------

    @property
    def is_well(self) -> bool:
        """True while all workers are up."""
        return len(self._up) == self._plan.count

    def facts(self) -> Mapping[str, str | int | bool]:
        """Return how many workers there are, and their process ids."""
        pids = {f"pid-{number}": process.pid for number, process in sorted(self._up.items())}
        return {"workers": self._plan.count, "up": len(self._up), **pids}

    async def spans(self) -> list[Seen]:
        """Return the finished spans that the workers keep; of one that does not answer there are none."""
        found: list[Seen] = []
        for number in sorted(self._up):
            try:
                body = await _fetch(worker_socket(self._plan.folder, number), "/spans")
                found += _SPANS.decode(body)
            except (OSError, msgspec.DecodeError) as error:
                log.warning("a worker gave no spans", extra={"worker": number, "cause": str(error)})
        return found

    # --- life -----------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        """Keep the workers up until cancelled, then end them."""
        plan = self._plan
        documents = {
            f"/usage/{number}": self._usage_document(number) for number in range(plan.count)
        }
        with reserved(self._endpoints, plan.doors) as addresses:
            async with serve_documents_at(
                main_socket(plan.folder), documents, setting="hono.workers"
            ):
                await self._keep_all(plan.settings(addresses), ready)

    def _usage_document(self, number: int) -> Callable[[object], Reply]:
        return lambda _headers: Reply(msgspec.json.encode(self._ledger.totals(number)))

    async def _keep_all(self, settings: JsonObject, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            first = [asyncio.Event() for _ in range(self._plan.count)]
            for number, up in enumerate(first):
                name = f"{self.name}.{number}"
                group.create_task(self._keep(number, settings, up), name=name)
            for up in first:
                await up.wait()
            self._was_up = True
            ready()

    async def _keep(self, number: int, settings: JsonObject, up: asyncio.Event) -> None:
        backoff = Backoff(0.5, 30.0)
        now = asyncio.get_running_loop().time
        while True:
            began = now()
            code = await self._run_one(number, settings, up)
            if not self._was_up:
                raise WorkerFailed(f"worker {number} ended with {code} before it was ready")
            self._metrics.worker_ends.inc()
            if now() - began > STEADY_SECONDS:
                backoff.reset()
            delay = backoff.next()
            facts = {"worker": number, "code": code, "again_in": round(delay, 1)}
            log.error("a worker has ended", extra=facts)
            await asyncio.sleep(delay)

    async def _run_one(self, number: int, settings: JsonObject, up: asyncio.Event) -> int:
        """Run a worker until it ends; returns its exit code."""
        instance = f"worker{number}-{uuid4().hex[:12]}"
        order: dict[str, Json] = {
            "number": number,
            "instance": instance,
            "folder": str(self._plan.folder),
            "settings": settings,
        }
        process = await asyncio.create_subprocess_exec(*PROGRAM, stdin=PIPE, start_new_session=True)
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(number, process, order, up))
                code = await process.wait()
                watch.cancel()
            return code
        finally:
            self._up.pop(number, None)
            await _end(process)
            self._ledger.gone(number)
            self._scrapes.gone(number)

    async def _watch(
        self, number: int, process: Process, order: Mapping[str, Json], up: asyncio.Event
    ) -> None:
        """Give a worker its orders, wait until it is ready, then ask for its figures again and again."""
        assert process.stdin is not None  # noqa: S101  it was asked for
        process.stdin.write(json.dumps(order).encode() + b"\n")
        with suppress(ConnectionError):  # it has ended; who waits for that knows
            await process.stdin.drain()
        path = worker_socket(self._plan.folder, number)
        if not await _is_ready(path):
            log.error("a worker is not ready in time", extra={"worker": number})
            process.kill()
            return
        self._up[number] = process
        up.set()
        log.info("worker ready", extra={"worker": number, "pid": process.pid})
        rounds = 0
        while True:
            await self._ask(number, path, metrics=rounds % METRICS_EVERY == 0)
            rounds += 1
            await asyncio.sleep(EVERY)

    async def _ask(self, number: int, path: str, *, metrics: bool) -> None:
        try:
            shares = read_shares(await _fetch(path, "/usage"))
            self._ledger.take(number, shares)
            if metrics:
                text = await _fetch(path, "/metrics")
                self._scrapes.take(number, text.decode())
        except (OSError, ValueError, msgspec.DecodeError) as error:
            log.warning("a worker gave no figures", extra={"worker": number, "cause": str(error)})


def socket_folder(data_dir: Path) -> Path:
    """Make and return the folder of the processes' sockets, which only this user can enter.

    Shape:  in the data directory, or a temporary one where its path is too long for sockets.
    """
    folder = data_dir / "workers"
    if len(os.fsencode(folder)) > MAX_FOLDER:
        return Path(tempfile.mkdtemp(prefix="twinspan-"))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def worker_settings(settings: Json, services: str, addresses: Mapping[str, str]) -> JsonObject:
    """Return a worker's settings: those of the main process, with its services and addresses.

    Shape:  `settings` is the whole tree; `services` the path of a socket; `addresses` setting -> `host:port`.
    """
    tree: Any = json.loads(json.dumps(settings))
    for path, address in addresses.items():
        *branches, name = path.split(".")
        branch = tree
        for at in branches:
            branch = branch[at]
        branch[name] = address
    tree["hono"]["services"] = {"messaging": {"address": f"{UNIX}{services}"}}
    tree["hono"]["workers"] = 0
    return cast(JsonObject, tree)


def main_socket(folder: Path) -> str:
    """Return where the main process tells workers what they have to know."""
    return str(folder / "main")


def worker_socket(folder: Path, number: int) -> str:
    """Return where a worker tells its figures."""
    return str(folder / f"worker{number}")


async def _fetch(path: str, document: str) -> bytes:
    return await fetch_document(path, document, seconds=ANSWER_SECONDS, max_bytes=MAX_DOCUMENT)


async def _is_ready(path: str) -> bool:
    try:
        async with asyncio.timeout(START_SECONDS):
            while True:
                with suppress(OSError):
                    await _fetch(path, "/readiness")
                    return True
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False


async def _end(process: Process) -> None:
    """Ask a worker to stop, and make it when it does not."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
