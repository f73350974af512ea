"""Bare MQTT 3.1.1 clients for benchmarks: publishers that keep a pipeline full, and a subscriber that counts.

They build each packet once and read only what they must, so that the broker or adapter under test is the
limit.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

CONNACK, PUBLISH, PUBACK, SUBACK = 0x20, 0x30, 0x40, 0x90


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack(">H", len(raw)) + raw


def packet(kind: int, body: bytes) -> bytes:
    """Fixed header and body."""
    size, head = len(body), bytearray((kind,))
    while True:
        size, digit = divmod(size, 128)
        head.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(head) + body


def connect(client: str, user: str | None = None, password: str = "") -> bytes:
    """A CONNECT packet with a clean session and no keep-alive."""
    flags = 0x02 | (0xC0 if user is not None else 0)
    body = _text("MQTT") + bytes((4, flags, 0, 0)) + _text(client)
    if user is not None:
        body += _text(user) + _text(password)
    return packet(0x10, body)


def subscribe(topic: str, qos: int) -> bytes:
    """A SUBSCRIBE packet for one filter."""
    return packet(0x82, struct.pack(">H", 1) + _text(topic) + bytes((qos,)))


class Client(asyncio.Protocol):
    """One connection; `on_publish(topic, payload)` for what arrives, acknowledged when it has QoS 1."""

    def __init__(
        self, greeting: bytes, on_publish: Callable[[str, bytes], None] | None = None
    ) -> None:
        self._greeting = greeting
        self._on_publish = on_publish
        self._buffer = b""
        self._next = 0
        self.acknowledged = 0
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._greeting)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        at = 0
        while (found := _whole(data, at)) is not None:
            body, end = found
            self._handle(data[at], data[body:end])
            at = end
        self._buffer = data[at:]

    def _handle(self, head: int, body: bytes) -> None:
        kind = head & 0xF0
        if kind == PUBACK:
            self.acknowledged += 1
        elif kind == PUBLISH and self._on_publish is not None:
            start = 2 + int.from_bytes(body[:2], "big")
            topic = body[2:start].decode()
            if head & 0x06:
                self.transport.write(b"\x40\x02" + body[start : start + 2])
                start += 2
            self._on_publish(topic, body[start:])
        elif kind == CONNACK:
            if body[1]:
                self.connected.set_exception(ConnectionError(f"CONNACK {body[1]}"))
            else:
                self.connected.set_result(None)
        elif kind == SUBACK and not self.subscribed.done():
            self.subscribed.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting in (self.connected, self.subscribed):
            if not waiting.done():
                waiting.cancel()
        del exc

    def publish(self, topic: str, payloads: list[bytes], qos: int) -> None:
        """Write messages in one go."""
        name, parts = _text(topic), []
        for payload in payloads:
            identity = b""
            if qos:
                self._next = self._next % 65_535 + 1
                identity = struct.pack(">H", self._next)
            parts.append(packet(PUBLISH | qos << 1, name + identity + payload))
        self.transport.write(b"".join(parts))


def _whole(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the body of the packet at `at` begins and ends; None while it is not all there."""
    size, shift, position = 0, 0, at + 1
    while position < len(data):
        size |= (data[position] & 0x7F) << shift
        shift += 7
        position += 1
        if not data[position - 1] & 0x80:
            end = position + size
            return (position, end) if end <= len(data) else None
    return None
