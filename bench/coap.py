"""CoAP telemetry into the adapter, as a ratio to a bare aiocoap resource that only says 2.04.

The adapter does all of its work (tenant, device, limits, defaults, metrics, duplicates), for an application
that accepts at once; aiocoap does nothing with a request. Devices have one message in flight each; the ratio
is that of messages per second of the server's CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.runtime import process
from gateway.runtime.memory import settle_memory
from gateway.wire.coap import codec, options
from gateway.wire.coap.codec import CON, NON, PUT, Message

PATIENCE = 60.0
CHANGED = 0x44
PAYLOAD = b'{"temperature": 21.5, "humidity": 40, "note": "' + b"x" * 104 + b'"}'
PATH = (b"telemetry", b"acme", b"d1")


# --- the two servers -------------------------------------------------------------------------------


async def serve_adapter() -> None:
    """Our adapter on the Hono core, until standard input ends."""
    from tests.coap_rig import a_coap_adapter
    from tests.hono_rig import a_core, a_fleet

    async with a_core() as core:
        await a_fleet(core)
        core.consumer.messages = _Nowhere()
        async with a_coap_adapter(core, tls="off"):
            settle_memory()
            print(core.endpoints.port("hono.coap"), flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


class _Nowhere(list):  # type: ignore[type-arg]
    """A list that stays empty: the application keeps nothing."""

    def append(self, item: object) -> None:
        del item


async def serve_aiocoap() -> None:
    """A resource of aiocoap, until standard input ends."""
    import aiocoap
    from aiocoap import resource

    class Sink(resource.Resource):  # type: ignore[misc]
        async def render_put(self, request: object) -> aiocoap.Message:
            del request
            return aiocoap.Message(code=aiocoap.CHANGED)

    site = resource.Site()
    site.add_resource([segment.decode() for segment in PATH], Sink())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port))
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await context.shutdown()


SERVERS = {"adapter": serve_adapter, "aiocoap": serve_aiocoap}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    pid: int
    port: int

    def cpu(self) -> float:
        """CPU seconds of all its threads."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@contextlib.contextmanager
def running(name: str) -> Iterator[Server]:
    """One of the servers in a process of its own."""
    command = [sys.executable, "-m", "bench.coap", "--serve", name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            line = child.stdout.readline() if child.stdout else ""
            yield Server(child.pid, int(line))
        finally:
            child.terminate()


# --- the load --------------------------------------------------------------------------------------


class Device:
    """A socket with one request under way."""

    def __init__(self, port: int, kind: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))
        self._mid = 0
        path = tuple((options.URI_PATH, segment) for segment in PATH)
        request = Message(
            type=kind,
            code=PUT,
            mid=0,
            token=b"tk",
            options=(*path, (options.CONTENT_FORMAT, b"\x32")),
            payload=PAYLOAD,
        )
        self._data = bytearray(codec.encode(request))

    def ask(self) -> None:
        self._mid = (self._mid + 1) & 0xFFFF
        self._data[2:4] = self._mid.to_bytes(2, "big")
        self.socket.send(self._data)

    def is_answered(self) -> bool:
        """Take a datagram; an acknowledgement alone says that the server is slow just now."""
        answer = self.socket.recv(2_048)
        kind, mid = codec.type_and_mid(answer)
        if answer[1] == codec.EMPTY:
            return False
        if answer[1] != CHANGED:
            raise RuntimeError(f"expected 2.04, got {answer!r}")
        if kind == CON:
            self.socket.send(codec.empty(codec.ACK, mid))
        return True


def load(port: int, kind: int, devices: int, messages: int) -> float:
    """Send messages and wait for their answers; returns how many seconds that took."""
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for _ in range(devices):
            device = Device(port, kind)
            stack.callback(device.socket.close)
            selector.register(device.socket, selectors.EVENT_READ, device)
            device.ask()
        started = time.perf_counter()
        asked, answered = devices, 0
        while answered < messages:
            ready = selector.select(PATIENCE)
            if not ready:
                raise TimeoutError("no answer")
            for key, _ in ready:
                if not key.data.is_answered():
                    continue
                answered += 1
                if asked < messages:
                    asked += 1
                    key.data.ask()
        return time.perf_counter() - started


def measured(name: str, kind: int, devices: int, messages: int) -> tuple[float, float]:
    """Return messages per second by the clock, and of the server's CPU time."""
    with running(name) as server:
        load(server.port, kind, devices, min(2_000, messages))
        before = server.cpu()
        seconds = load(server.port, kind, devices, messages)
        return messages / seconds, messages / (server.cpu() - before)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--serve", choices=SERVERS)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    if given.serve:
        process.run(SERVERS[given.serve]())
        return
    print(f"{'load':<16} {'server':<8} {'messages/s':>11} {'per CPU second':>15}  ratio")
    for title, kind in (("confirmable", CON), ("unconfirmable", NON)):
        for devices in (1, 50):
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in SERVERS}
            for _ in range(given.runs):
                for name in SERVERS:
                    found[name].append(measured(name, kind, devices, given.messages))
            rates = {
                name: [statistics.median(r) for r in zip(*found[name], strict=True)]
                for name in found
            }
            for name, (rate, per_cpu) in rates.items():
                ratio = per_cpu / rates["aiocoap"][1]
                print(
                    f"{title + f', {devices}':<16} {name:<8} {rate:>11,.0f} {per_cpu:>15,.0f}  {ratio:.2f}"
                )


if __name__ == "__main__":
    main()
