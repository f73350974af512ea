"""A socket of CloudHub against peers that mean no good."""

from __future__ import annotations

import os
from typing import Any

import pytest

from cloud.connection import Connection, Upgrade
from gateway.wire.websocket import Op, masked


class Transport:
    """Notes what is written; nobody reads it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def set_write_buffer_limits(self, *, high: int) -> None:
        """No limit here."""

    def get_extra_info(self, _name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Owner:
    """Lets everybody in."""

    def made(self, connection: Connection) -> None: ...

    def admit(self, _connection: Connection, _asked: Upgrade) -> Any:
        return lambda: "session"

    def received(self, _session: Any, _message: bytes) -> None: ...

    def broken(self, _session: Any, _error: Exception) -> None: ...

    def writable(self, _session: Any) -> None: ...

    def lost(self, _connection: Connection, _session: Any) -> None: ...


HEAD = (
    b"GET /p/n/events HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def said(op: Op, data: bytes = b"") -> bytes:
    mask = os.urandom(4)
    return bytes((0x80 | op, 0x80 | len(data))) + mask + masked(data, mask)


@pytest.fixture
async def line() -> tuple[Connection, Transport]:
    connection, transport = Connection(Owner(), 1_000, {}), Transport()
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.data_received(HEAD)
    assert transport.written.pop().startswith(b"HTTP/1.1 101")
    return connection, transport


async def test_who_pings_and_does_not_read_fills_no_memory(
    line: tuple[Connection, Transport],
) -> None:
    connection, transport = line
    connection.data_received(said(Op.PING, b"a") * 3)
    assert transport.written == [b"\x8a\x01a" * 3]
    connection.pause_writing()
    connection.data_received(said(Op.PING, b"a") * 1_000)
    assert len(transport.written) == 1
    connection.resume_writing()
    connection.data_received(said(Op.PING, b"b"))
    assert transport.written[1:] == [b"\x8a\x01b"]


async def test_a_goodbye_is_answered_also_behind_pings(line: tuple[Connection, Transport]) -> None:
    connection, transport = line
    connection.pause_writing()
    connection.data_received(said(Op.PING) * 9 + said(Op.CLOSE, (1000).to_bytes(2, "big")))
    assert transport.written == [b"\x88\x02\x03\xe8"]
    assert transport.is_closed
