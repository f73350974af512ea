"""An HTTP load generator: connections that each have one request under way, taken from a list in turns.

Reads a JSON object from standard input: `port`, `connections`, `seconds`, `requests` (a list of
`[method, path, body]`) and `authorization`; prints `answers`, `seconds`, `p50` and `p99` in milliseconds. An
answer that is not 2xx ends the run with an error.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

from bench.things_rig import cuts
from gateway.runtime import process


def encoded(method: str, path: str, body: str, authorization: str) -> bytes:
    """A request in bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", f"Authorization: {authorization}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    return ("\r\n".join([*lines, "", ""]) + body).encode()


class Connection(asyncio.Protocol):
    """One connection that asks again when it was answered."""

    def __init__(self, requests: Iterator[bytes], until: float) -> None:
        self._requests = requests
        self._until = until
        self._transport: asyncio.Transport
        self._buffer = b""
        self._sent = 0.0
        self.latencies: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))

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
    turns = itertools.cycle(requests)
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    until = started + spec["seconds"]
    made = [
        (await loop.create_connection(lambda: Connection(turns, until), "127.0.0.1", spec["port"]))[
            1
        ]
        for _ in range(spec["connections"])
    ]
    await asyncio.gather(*(one.done for one in made))
    return cuts([t for one in made for t in one.latencies], time.perf_counter() - started)


async def main() -> None:
    print(json.dumps(await run(json.load(sys.stdin))))


if __name__ == "__main__":
    process.run(main())
