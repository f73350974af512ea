"""A bare AMQP 1.0 receiver for benchmarks: counts deliveries and settles them in ranges, one write per read.

It does what a receiver must and nothing else, so that the server under test is the limit. Prints one JSON
line `{"messages", "seconds", "cpu"}` when it has had its number, measured from the first message.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from collections.abc import Callable

from gateway.wire.amqp.connection import AMQP_HEADER, SASL_HEADER
from gateway.wire.amqp.message import AmqpMessage, decode_message
from gateway.wire.amqp.performatives import (
    ACCEPTED,
    MAX_UINT,
    RECEIVER,
    SASL,
    TRANSPORT,
    Attach,
    Begin,
    Disposition,
    Flow,
    Open,
    SaslInit,
    Source,
    Target,
)

CREDIT = 1_000
WINDOW = 2_000_000


def frame(performative: object, kind: int = 0) -> bytes:
    """One frame on channel 0."""
    body = (SASL if kind else TRANSPORT).write(performative)
    return struct.pack(">IBBH", len(body) + 8, 2, kind, 0) + body


def hello(user: str | None) -> bytes:
    """The SASL layer of a client that waits for nothing, and the header after it; None is anonymous."""
    login = SaslInit("ANONYMOUS")
    if user is not None:
        login = SaslInit("PLAIN", f"\0{user}".replace(":", "\0").encode())
    return SASL_HEADER + frame(login, kind=1) + AMQP_HEADER


class Sink:
    """One receiver on one address.

    Shape:  `on_message` gets the body of each transfer frame, `message_of` finds the message in it.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        user: str | None,
        on_count: Callable[[int], None] = lambda _count: None,
        on_message: Callable[[bytes], None] | None = None,
    ) -> None:
        self._on_count = on_count
        self._on_message = on_message
        self._reader = reader
        self._writer = writer
        self._user = user
        self._buffer = b""
        self.count = 0
        self.first = 0.0

    async def attach(self, address: str) -> None:
        """Log in, open, attach and grant credit."""
        self._writer.write(hello(self._user) + frame(Open("sink", max_frame_size=65_536)))
        self._writer.write(frame(Begin(0, WINDOW, WINDOW)))
        source, target = Source(address=address), Target()
        self._writer.write(frame(Attach("sink", 0, RECEIVER, source=source, target=target)))
        self._writer.write(self._flow())
        await self._writer.drain()

    def _flow(self) -> bytes:
        return frame(
            Flow(
                incoming_window=WINDOW,
                next_outgoing_id=0,
                outgoing_window=WINDOW,
                next_incoming_id=self.count & MAX_UINT,
                handle=0,
                delivery_count=self.count & MAX_UINT,
                link_credit=CREDIT,
            )
        )

    async def run(self, messages: int) -> None:
        """Receive until `messages` have come."""
        while self.count < messages:
            data = await self._reader.read(262_144)
            if not data:
                raise ConnectionError("the server has closed the connection")
            before = self.count
            self._scan(self._buffer + data)
            if self.count > before:
                self.first = self.first or time.perf_counter()
                last = None if self.count - 1 == before else self.count - 1
                self._writer.write(frame(Disposition(RECEIVER, before, last, True, ACCEPTED)))
                self._writer.write(self._flow())
                self._on_count(self.count)

    def _scan(self, data: bytes) -> None:
        at, end = 0, len(data)
        while end - at >= 8:
            if data[at : at + 4] == b"AMQP":
                at += 8
                continue
            size = int.from_bytes(data[at : at + 4], "big")
            if end - at < size:
                break
            if data[at + 5] == 0 and size > 11 and data[at + 10] == 0x14:
                self.count += 1
                if self._on_message is not None:
                    self._on_message(data[at + 8 : at + size])
            at += size
        self._buffer = data[at:]


def message_of(body: bytes) -> AmqpMessage:
    """Read the message behind a transfer."""
    return decode_message(body[TRANSPORT.decode(body)[1] :])


async def main(address: str, user: str, host: str, port: int, messages: int) -> None:
    """Connect, receive, print."""
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
    sink = Sink(reader, writer, user)
    await sink.attach(address)
    print("attached", flush=True)
    await sink.run(messages)
    seconds = time.perf_counter() - sink.first
    print(
        json.dumps({"messages": sink.count, "seconds": seconds, "cpu": time.process_time()}),
        flush=True,
    )
    writer.close()


if __name__ == "__main__":
    address, user, host, port, messages = sys.argv[1:]
    asyncio.run(main(address, user, host, int(port), int(messages)))
