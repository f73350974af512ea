"""Messages of one edge through CloudHub with acknowledgement, up and down, beside a bare WebSocket echo.

*Up*: telemetry with a place in the edge's spool, each answered; *down*: objects, each acknowledged, 16 under
way, as the link does it. CloudHub runs alone: what the rooms behind it do with a message is not in it.
*Echo* is an aiohttp server over the same mutual TLS that answers each message of the same size with itself.
The client speaks the edge's own codec. Rates per second of the server's CPU time; medians.
Run: `python -m bench.edge_messages [--messages 10000] [--runs 3] [--json]`.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.things_rig import Server
from bench.tls_rig import HOST, bare, make_keys
from edge.websocket import ClientSession, Opened, Text
from gateway.model.message import Kind, SpoolId
from gateway.runtime import process
from gateway.wire.cloudedge.envelope import MAX_FRAME, Stamp, decode, encode
from gateway.wire.cloudedge.names import EDGE, NODE_ID, events_path
from gateway.wire.cloudedge.to_cloud import acknowledge, keepalive
from gateway.wire.cloudedge.uploads import EdgeUpload, upload

NODE = "bench"
WINDOW = 100
"""Uploads under way, as the edge's spool has it."""


class Link:
    """The edge's end, without an edge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        headers = {NODE_ID: NODE, EDGE: "bench-store"}
        path = events_path("bench", NODE)
        self._session = ClientSession(
            HOST, path, headers, key=os.urandom(16), mask=lambda: os.urandom(4), limit=MAX_FRAME
        )

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext) -> Link:
        link = cls(*await asyncio.open_connection(HOST, port, ssl=context))
        link.flush()
        opened, *_ = link._session.receive(await link._reader.read(65_536))
        assert isinstance(opened, Opened), opened
        return link

    def send(self, frame: bytes) -> None:
        self._session.send_text(frame)

    def flush(self) -> None:
        self._writer.write(self._session.to_send())

    async def read(self) -> list[bytes]:
        events = self._session.receive(await self._reader.read(65_536))
        return [event.data for event in events if isinstance(event, Text)]

    def close(self) -> None:
        self._writer.close()


async def pump(link: Link, frames: list[bytes]) -> None:
    """Send all, `WINDOW` under way, until each was answered."""
    at = answered = 0
    while answered < len(frames):
        while at < len(frames) and at - answered < WINDOW:
            link.send(frames[at])
            at += 1
        link.flush()
        answered += len(await link.read())


async def take(link: Link, count: int) -> None:
    """Acknowledge objects until there were so many."""
    while count > 0:
        for frame in await link.read():
            link.send(encode(acknowledge(decode(frame), _stamp(count))))
            count -= 1
        link.flush()


def uploads(count: int) -> list[bytes]:
    payload = json.dumps({"temperature": 20.5, "text": "x" * 118}).encode()
    return [encode(upload(_stamp(number), _item(number, payload))) for number in range(count)]


def _item(number: int, payload: bytes) -> EdgeUpload:
    device = f"default:d{number % 50}"
    return EdgeUpload(
        topic=f"t//{device}",
        payload=payload,
        kind=Kind.TELEMETRY,
        device=device,
        content_type="application/json",
        qos=1,
        at=1_795_377_600_000,
        spool=SpoolId("edge", f"t/{device}", number + 1),
    )


def _stamp(number: int) -> Stamp:
    return Stamp(f"00000000-0000-4000-8000-{number:012}", 1_795_377_600_000)


@contextmanager
def hub(folder: Path) -> Iterator[tuple[Server, subprocess.Popen[bytes]]]:
    command = (sys.executable, "-m", "bench.hub_core", str(folder))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as running:
        assert running.stdout is not None
        try:
            yield Server(running.pid, int(running.stdout.readline())), running
        finally:
            running.terminate()


async def one_run(folder: Path, context: ssl.SSLContext, count: int) -> dict[str, Any]:
    frames = uploads(count)
    found: dict[str, Any] = {}
    with hub(folder) as (server, running):
        assert running.stdin is not None
        assert running.stdout is not None
        link = await Link.open(server.port, context)
        link.send(encode(keepalive(_stamp(0))))
        await pump(link, frames[: count // 10])  # warms caches up
        found["up"] = await _timed(server, count, pump(link, frames))
        running.stdin.write(f"{count}\n".encode())
        running.stdin.flush()
        found["down"] = await _timed(server, count, take(link, count))
        link.close()
    with bare("aiohttp", folder) as server:
        link = await Link.open(server.port, context)
        await pump(link, frames[: count // 10])
        found["echo"] = await _timed(server, count, pump(link, frames))
        link.close()
    return found


async def _timed(server: Server, count: int, work: Any) -> tuple[float, float]:
    """Messages per second by the clock, and of the server's CPU time."""
    cpu, began = server.cpu(), time.perf_counter()
    await work
    return count / (time.perf_counter() - began), count / (server.cpu() - cpu)


def measure(messages: int, runs: int) -> dict[str, Any]:
    """Run the benchmark: name -> rate by the clock, rate by CPU time, ratio of the latter to the echo's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context = make_keys(folder, NODE)
        found: list[dict[str, Any]] = []
        for _ in range(runs):
            process.run(_into(found, one_run(folder, context, messages)))
    rates = {
        each: [statistics.median(run[each][at] for run in found) for at in range(2)]
        for each in ("up", "down", "echo")
    }
    echo = rates["echo"][1]
    return {
        each: {
            "per_second": round(clock),
            "per_cpu_second": round(cpu),
            "of_echo": round(cpu / echo, 2),
        }
        for each, (clock, cpu) in rates.items()
    }


async def _into(found: list[dict[str, Any]], work: Any) -> None:
    found.append(await work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.messages, options.runs)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'':<8}{'per second':>12}{'per CPU second':>16}{'of the echo':>13}")
    for name, row in found.items():
        print(f"{name:<8}{row['per_second']:>12}{row['per_cpu_second']:>16}{row['of_echo']:>13}")


if __name__ == "__main__":
    main()
