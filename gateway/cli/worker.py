"""A worker process of `hono.workers`: runs adapters for a main process, which starts it and gives its orders.

The orders are one line of JSON on the standard input; when that ends, the main process has, and so does this
one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import click
import msgspec

from gateway.cli.exit_codes import exit_code_of, explain
from gateway.cli.serving import NOBODY, Process
from gateway.config.loading import build
from gateway.config.tree import Settings
from gateway.errors import GatewayError
from gateway.hono.worker_figures import read_totals
from gateway.hono.workers import (
    ANSWER_SECONDS,
    EVERY,
    MAX_DOCUMENT,
    main_socket,
    worker_socket,
)
from gateway.observe import logs
from gateway.observe.loop import LoopMonitor
from gateway.observe.metrics import TEXT
from gateway.observe.otlp import build_exports
from gateway.observe.own_metrics import VERSION
from gateway.runtime import process
from gateway.runtime.listener import Endpoints
from gateway.runtime.memory import settle_memory
from gateway.runtime.module import Module, serve
from gateway.runtime.small_http import Reply, fetch_document, serve_documents_at
from gateway.southbound import Worker, build_worker

LAST_SECONDS: Final = 10.0
"""How long the process may take to end when its main process has gone."""
SILENT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Order:
    """What the main process wants."""

    number: int
    instance: str
    folder: Path
    settings: Settings


def read_order(stream: BinaryIO) -> Order:
    """Read the orders.

    Errors: InvalidSetting; ValueError for what is none.
    """
    told = json.loads(stream.readline())
    settings = build(Settings, told["settings"], "")
    assert isinstance(settings, Settings)  # noqa: S101  build returns what it was asked for
    return Order(int(told["number"]), str(told["instance"]), Path(told["folder"]), settings)


class Desk:
    """Module: exchanges figures with the main process; ready after everything before it."""

    name = "worker.desk"

    def __init__(self, order: Order, shared: Process, worker: Worker) -> None:
        self._order = order
        self._shared = shared
        self._worker = worker

    async def run(self, ready: Callable[[], None]) -> None:
        """Tell figures until cancelled, and ask for those of the others."""
        path = worker_socket(self._order.folder, self._order.number)
        documents = {
            "/readiness": lambda _headers: Reply(b"{}"),
            "/metrics": lambda _headers: Reply(self._shared.metrics.bare_text(), TEXT),
            "/usage": lambda _headers: Reply(msgspec.json.encode(self._shares())),
            "/spans": lambda _headers: Reply(msgspec.json.encode(self._shared.traces.own())),
        }
        await self._ask()
        async with serve_documents_at(path, documents, setting="hono.workers"):
            ready()
            while True:
                await asyncio.sleep(EVERY)
                await self._ask()

    def _shares(self) -> object:
        return self._worker.usage.shares(self._worker.side.connections.limited())

    async def _ask(self) -> None:
        try:
            body = await fetch_document(
                main_socket(self._order.folder),
                f"/usage/{self._order.number}",
                seconds=ANSWER_SECONDS,
                max_bytes=MAX_DOCUMENT,
            )
            self._worker.usage.totals = read_totals(body)
        except (OSError, msgspec.DecodeError):
            return  # what was known goes on to count; the main process's end is noticed elsewhere


async def run_worker(order: Order, stream: BinaryIO) -> None:
    """Run the adapters until a signal comes or the main process goes."""
    shared = Process(order.settings, NOBODY, endpoints=Endpoints(shares_ports=True))
    stop = asyncio.Event()
    process.stop_on_signals(stop)
    _stop_with(stream, stop)
    worker = build_worker(shared, order.instance)
    modules: list[Module] = [LoopMonitor(shared.metrics)]
    own = {"service.version": VERSION, "service.instance.id": order.instance}
    modules += build_exports(order.settings.observe, shared.tracer, shared.metrics, own)
    modules += [*worker.modules, Desk(order, shared, worker)]
    readiness = shared.readiness
    for module in modules:
        readiness.mark(module.name, False)
        shared.metrics.modules_ready.watch(module.name, partial(readiness.is_ready, module.name))
    serving = asyncio.create_task(
        serve(modules, stop, readiness=readiness, on_ready=settle_memory), name="serve"
    )
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            await asyncio.wait({serving}, timeout=SILENT_SECONDS)
            serving.cancel()
        await asyncio.gather(serving, return_exceptions=stop.is_set())
    finally:
        stopping.cancel()


def _stop_with(stream: BinaryIO, stop: asyncio.Event) -> None:
    """Stop when the main process closes its end; at the latest some seconds after."""
    loop = asyncio.get_running_loop()
    number = stream.fileno()

    def wait() -> None:
        while os.read(
            number, 4_096
        ):  # a buffered read would hold a lock that the interpreter's end needs
            pass
        timer = threading.Timer(LAST_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait, name="main-process", daemon=True).start()


def main() -> None:
    """Read the orders and follow them."""
    stream = sys.stdin.buffer
    try:
        order = read_order(stream)
        logs.set_up(order.settings.observe.logs.level, order.settings.observe.logs.form)
        process.run(run_worker(order, stream))
    except (GatewayError, OSError, BaseExceptionGroup) as error:
        for line in explain(error):
            click.echo(line, err=True)
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    main()
