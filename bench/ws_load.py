"""A WebSocket load generator: frames are built before, and answers are counted, not read.

Reads a JSON object from standard input: `port` and `pid` of the server, `authorization`, `kind` and what that
needs; prints what `Meter` found, and for `fanout` how many kilobytes a subscriber costs the server.

- `commands`: `connections`, `window` (commands under way on each), `seconds`, `envelopes`.
- `fanout`: `subscribers`, `changes`, `pause` (seconds between them), `change` (method, path); each body is
  the moment it was sent, and subscribers look how old it is.
- `messages`: `senders`, `seconds`, `thing_ids`; a consumer answers each live message.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from bench.http_load import Connection as HttpConnection
from bench.http_load import encoded
from bench.things_rig import Meter, Server
from gateway.runtime import process

EVENTS, MESSAGES = b"START-SEND-EVENTS", b"START-SEND-MESSAGES"
_VALUE = re.compile(rb'"value":(\d+)')
_CORRELATION = re.compile(rb'"correlation-id":"([^"]+)"')
_THING = re.compile(rb'"topic":"([^/]+)/([^/]+)/')


def masked(payload: bytes) -> bytes:
    """A client's text frame under a mask of zeros, which leaves the bytes as they are."""
    size = len(payload)
    if size < 126:
        head = bytes((0x81, 0x80 | size))
    elif size < 65_536:
        head = b"\x81\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\x81\xff" + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


def frames_of(buffer: bytearray) -> Iterator[bytes]:
    """The payloads of whole text frames; the rest stays in the buffer."""
    at, end = 0, len(buffer)
    while end - at >= 2:
        size, start = buffer[at + 1], at + 2
        if size == 126:
            size, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
        elif size == 127:
            size, start = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
        if end < start + size or end < start:
            break
        if buffer[at] == 0x81:
            yield bytes(buffer[start : start + size])
        elif buffer[at] == 0x88:
            raise ConnectionError("the server closed the WebSocket")
        at = start + size
    del buffer[:at]


class Socket(asyncio.Protocol):
    """One WebSocket: `on_open` once it is one, then `on_frame` for each text."""

    def __init__(self, authorization: str) -> None:
        self._authorization = authorization
        self._buffer = bytearray()
        self._is_open = False
        self.transport: asyncio.Transport
        self.on_frame: Callable[[bytes], None] = lambda _frame: None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        key = b64encode(b"twinspan-bench-16").decode()
        self.transport.write(
            (
                f"GET /ws/2 HTTP/1.1\r\nHost: bench\r\nAuthorization: {self._authorization}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {key[:22]}==\r\n\r\n"
            ).encode()
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._buffer.startswith(b"HTTP/1.1 101"):
                self.opened.set_exception(RuntimeError(bytes(self._buffer[:300]).decode()))
                return
            del self._buffer[: end + 4]
            self._is_open = True
            self.opened.set_result(None)
        for frame in frames_of(self._buffer):
            self.on_frame(frame)

    def send(self, payload: bytes) -> None:
        """Send a text."""
        self.transport.write(masked(payload))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("refused"))
        if not self.lost.done():
            self.lost.set_result(None)


async def connected(spec: dict[str, Any]) -> Socket:
    """An open WebSocket."""
    loop = asyncio.get_running_loop()
    _, socket = await loop.create_connection(
        lambda: Socket(spec["authorization"]), "127.0.0.1", spec["port"]
    )
    await socket.opened
    return socket


async def subscribed(spec: dict[str, Any], control: bytes) -> Socket:
    """A WebSocket that gets what `control` asks for."""
    socket = await connected(spec)
    acknowledged: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    socket.on_frame = lambda frame: None if acknowledged.done() else acknowledged.set_result(frame)
    socket.send(control)
    await acknowledged
    return socket


# --- commands -----------------------------------------------------------------------------------


class Commander:
    """One socket with a window of commands under way."""

    def __init__(self, socket: Socket, frames: Iterator[bytes], window: int, until: float) -> None:
        self._socket = socket
        self._frames = frames
        self._until = until
        self._sent: deque[float] = deque()
        self.latencies: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        socket.on_frame = self._answered
        for _ in range(window):
            self._send()

    def _send(self) -> None:
        self._sent.append(time.perf_counter())
        self._socket.transport.write(next(self._frames))

    def _answered(self, frame: bytes) -> None:
        if b'"status":2' not in frame:
            if not self.done.done():
                self.done.set_exception(RuntimeError(frame[:500].decode()))
            return
        now = time.perf_counter()
        self.latencies.append(now - self._sent.popleft())
        if now < self._until:
            self._send()
        elif not self._sent and not self.done.done():
            self.done.set_result(None)


async def commands(spec: dict[str, Any]) -> dict[str, float]:
    """Send commands for `seconds`."""
    frames = itertools.cycle([masked(json.dumps(one).encode()) for one in spec["envelopes"]])
    sockets = [await connected(spec) for _ in range(spec["connections"])]
    meter = Meter(spec)
    until = meter.started + spec["seconds"]
    made = [Commander(socket, frames, spec["window"], until) for socket in sockets]
    await asyncio.gather(*(one.done for one in made))
    return meter.end([t for one in made for t in one.latencies])


# --- fan-out ------------------------------------------------------------------------------------


async def fanout(spec: dict[str, Any]) -> dict[str, float]:
    """Change something; every subscriber is to see each change."""
    latencies: list[float] = []
    due = spec["subscribers"] * spec["changes"]
    all_came = asyncio.Event()

    def came(frame: bytes) -> None:
        found = _VALUE.search(frame)
        if found:
            latencies.append(time.perf_counter() - int(found[1]) / 1e9)
            if len(latencies) == due:
                all_came.set()

    server = Server(spec["pid"], spec["port"])
    before = server.resident()
    sockets = await many(spec, EVENTS)
    kilobytes = (server.resident() - before) * 1_024 / spec["subscribers"]
    for socket in sockets:
        socket.on_frame = came
    meter = Meter(spec)
    for _ in range(spec["changes"]):
        await asyncio.sleep(spec["pause"])
        await changed(spec)
    async with asyncio.timeout(60):
        await all_came.wait()
    return meter.end(latencies, kilobytes=kilobytes)


async def many(spec: dict[str, Any], control: bytes) -> Sequence[Socket]:
    """Subscribers, connected a few at a time."""
    found: list[Socket] = []
    for _ in range(spec["subscribers"] // 50):
        found += await asyncio.gather(*(subscribed(spec, control) for _ in range(50)))
    return found


async def changed(spec: dict[str, Any]) -> None:
    """One change, answered; its value is the moment of sending."""
    method, path = spec["change"]
    value = str(time.perf_counter_ns())
    if method == "POST":
        value = json.dumps({"value": int(value)}, separators=(",", ":"))
    request = encoded(method, path, value, spec["authorization"])
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: HttpConnection(itertools.repeat(request)), "127.0.0.1", spec["port"]
    )
    connection.start(0.0)
    await connection.done


# --- live messages ------------------------------------------------------------------------------


async def messages(spec: dict[str, Any]) -> dict[str, float]:
    """Send live messages from sessions of their own; a consumer answers each."""
    consumer = await subscribed(spec, MESSAGES)
    consumer.on_frame = lambda frame: answer(consumer, frame)
    envelopes = [
        {
            "topic": f"{thing_id.replace(':', '/')}/things/live/messages/ask",
            "path": "/inbox/messages/ask",
            "headers": {"content-type": "application/json", "correlation-id": f"m{number}"},
            "value": {"number": number},
        }
        for number, thing_id in enumerate(spec["thing_ids"])
    ]
    return await commands({**spec, "envelopes": envelopes, "connections": spec["senders"]})


def answer(consumer: Socket, frame: bytes) -> None:
    """Answer a live message as a device would."""
    correlation, thing = _CORRELATION.search(frame), _THING.search(frame)
    if correlation is None or thing is None or b'"/inbox/messages/ask"' not in frame:
        raise RuntimeError(frame.decode())
    consumer.send(
        b'{"topic":"%b/%b/things/live/messages/ask","path":"/inbox/messages/ask","headers":{'
        b'"correlation-id":"%b","content-type":"application/json"},"value":{"ok":true},"status":200}'
        % (thing[1], thing[2], correlation[1])
    )


_KINDS = {"commands": commands, "fanout": fanout, "messages": messages}


async def main() -> None:
    spec = json.load(sys.stdin)
    print(json.dumps(await _KINDS[spec["kind"]](spec)))


if __name__ == "__main__":
    process.run(main())
