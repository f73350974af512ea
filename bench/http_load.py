"""An HTTP load generator: connections that each have one request under way, taken from a list in turns.

Reads a JSON object from standard input: `port` and `pid` of the server, `connections`, `requests` (a list of
`[method, path, body]`), `authorization`, and `seconds` to go on for, or `once` for each request once; prints
what `Meter` found. An answer that is not 2xx ends the run with an error.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

from bench.things_rig import Meter
from gateway.runtime import process


def encoded(method: str, path: str, body: str, authorization: str) -> bytes:
    """A request in bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", f"Authorization: {authorization}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    return ("\r\n".join([*lines, "", ""]) + body).encode()


class Connection(asyncio.Protocol):
    """One connection that asks again when it was answered."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._until = 0.0
        self._transport: asyncio.Transport
        self._buffer = b""
        self._sent = 0.0
        self.latencies: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def start(self, until: float) -> None:
        """Ask, and go on asking."""
        self._until = until
        self._ask()

    def _ask(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._finish()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or len(buffer) < end + 4 + body_size(buffer, end):
            self._buffer = buffer
            return
        self._buffer = b""
        now = time.perf_counter()
        self.latencies.append(now - self._sent)
        if buffer[9:10] != b"2":
            self._fail(buffer)
        elif now < self._until:
            self._ask()
        else:
            self._finish()

    def _fail(self, answer: bytes) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(answer[:500].decode(errors="replace")))
        self._transport.abort()

    def _finish(self) -> None:
        self._transport.close()
        if not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))


def body_size(answer: bytes, end: int) -> int:
    """What the headers say of the body."""
    at = answer.find(b"Content-Length: ", 0, end)
    return int(answer[at + 16 : answer.find(b"\r\n", at)]) if at >= 0 else 0


async def run(spec: dict[str, Any]) -> dict[str, float]:
    """Ask for `seconds`."""
    requests = [encoded(m, path, body, spec["authorization"]) for m, path, body in spec["requests"]]
    turns = iter(requests) if spec.get("once") else itertools.cycle(requests)
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(spec["connections"]):
        _, one = await loop.create_connection(lambda: Connection(turns), "127.0.0.1", spec["port"])
        made.append(one)
    meter = Meter(spec)
    for one in made:
        one.start(meter.started + (math.inf if spec.get("once") else spec["seconds"]))
    await asyncio.gather(*(one.done for one in made))
    return meter.end([t for one in made for t in one.latencies])


async def main() -> None:
    print(json.dumps(await run(json.load(sys.stdin))))


if __name__ == "__main__":
    process.run(main())
