"""A bare AMQP 1.0 sender for benchmarks: one link, transfers encoded once but for their number."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

from bench.amqp_sink import WINDOW, frame, hello
from gateway.wire.amqp.decode import decode
from gateway.wire.amqp.message import AmqpMessage, Data, Properties, encode_message
from gateway.wire.amqp.performatives import (
    MAX_UINT,
    RECEIVER,
    SENDER,
    SND_SETTLED,
    SND_UNSETTLED,
    TRANSPORT,
    Attach,
    Begin,
    Disposition,
    Flow,
    Open,
    Source,
    Target,
)

FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = 0x13, 0x14, 0x15, 0x16, 0x17, 0x18
_HEAD = struct.Struct(">IBBH")
_TRANSFER = b"\x00\x53\x14\xc0\x0f\x05\x43\x70%b\xa0\x04%b\x43%b"
"""A transfer on handle 0: delivery id, its tag, message format 0, and whether it is settled."""


class AmqpSender(asyncio.Protocol):
    """One device's connection.

    Shape:  `target` None is the anonymous one; `answered(n)` tells of unsettled messages that were accepted.
    """

    def __init__(
        self,
        user: str | None,
        target: str | None,
        payload: bytes,
        settled: bool,
        answered: Callable[[int], None],
    ) -> None:
        self._user = user
        self._target = target
        message = AmqpMessage(
            properties=Properties(to="telemetry", content_type="application/json"),
            body=Data(payload),
        )
        self._payload = encode_message(message)
        self._settled = settled
        self._answered = answered
        self._next = 0
        self._buffer = b""
        self.credit = 0
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        attach = Attach(
            "bench",
            0,
            SENDER,
            snd_settle_mode=SND_SETTLED if self._settled else SND_UNSETTLED,
            source=Source(address="bench"),
            target=Target(address=self._target),
            initial_delivery_count=0,
        )
        opening = frame(Open("device", max_frame_size=65_536)) + frame(Begin(0, WINDOW, WINDOW))
        self.transport.write(hello(self._user) + opening + frame(attach))

    def send(self, count: int) -> None:
        """Write the payload so many times; the caller looks at `credit` first."""
        self.send_all([self._payload] * count)

    def send_all(self, payloads: list[bytes]) -> None:
        """Write messages, each as `encode_message` makes it."""
        parts, settled = [], b"\x41" if self._settled else b"\x42"
        for number, payload in enumerate(payloads, self._next):
            name = (number & MAX_UINT).to_bytes(4, "big")
            body = _TRANSFER % (name, name, settled)
            parts += [_HEAD.pack(8 + len(body) + len(payload), 2, 0, 0), body, payload]
        self._next += len(payloads)
        self.credit -= len(payloads)
        self.transport.write(b"".join(parts))

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        at, end = 0, len(data)
        while end - at >= 8:
            if data[at : at + 4] == b"AMQP":
                at += 8
                continue
            size = int.from_bytes(data[at : at + 4], "big")
            if end - at < size:
                break
            if data[at + 5] == 0 and size > 11:
                self._handle(data[at + 10], data[at + 8 : at + size])
            at += size
        self._buffer = data[at:]

    def _handle(self, code: int, body: bytes) -> None:
        if code == DISPOSITION:
            found = cast(Disposition, TRANSPORT.read(decode(body)[0]))
            if found.role is RECEIVER:
                self._answered((found.last or found.first) - found.first + 1)
        elif code == FLOW:
            self._on_flow(cast(Flow, TRANSPORT.read(decode(body)[0])))
        elif code in (DETACH, END, CLOSE):
            raise ConnectionError(f"the server ended the link: {body!r}")

    def _on_flow(self, flow: Flow) -> None:
        if flow.link_credit is None:
            return
        self.credit = ((flow.delivery_count or 0) + flow.link_credit - self._next) & MAX_UINT
        if not self.ready.done():
            self.ready.set_result(None)
        self._answered(0)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("the server closed the connection"))
