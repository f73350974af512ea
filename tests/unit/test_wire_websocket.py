"""The server's side of a WebSocket, bytes in and messages out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.websocket import (
    NORMAL,
    PROTOCOL_ERROR,
    TOO_BIG,
    UNSUPPORTED,
    Broken,
    Op,
    ServerSession,
    accept_of,
    close_frame,
    frame,
    masked,
    wants_upgrade,
)

LIMIT = 100_000
MASK = b"\x01\xfe\x33\x80"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ASKED = {
    "connection": ("keep-alive, Upgrade",),
    "upgrade": ("WebSocket",),
    "sec-websocket-version": ("13",),
    "sec-websocket-key": (KEY,),
}


def sent(data: bytes, op: int = Op.TEXT, *, final: bool = True) -> bytes:
    """A frame as a client writes it."""
    first, size = (0x80 if final else 0) | op, len(data)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + MASK + masked(data, MASK)


STREAM = b"".join(
    (
        sent(b"short"),
        sent(b"x" * 300),
        sent(b"hello?", Op.PING),
        sent(b"in ", final=False),
        sent(b"three ", Op.CONTINUATION, final=False),
        sent(b"", Op.PONG),
        sent(b"parts", Op.CONTINUATION),
        sent(b"y" * 70_000),
        sent(b"\x03\xe8done", Op.CLOSE),
    )
)
MESSAGES = [b"short", b"x" * 300, b"in three parts", b"y" * 70_000]


def test_messages_do_not_depend_on_where_the_network_cut_them() -> None:
    whole = ServerSession(LIMIT)
    assert whole.receive(STREAM) == MESSAGES
    assert whole.answers == [frame(b"hello?", Op.PONG), close_frame(NORMAL)]
    assert whole.closed
    for cut in (*range(1, 700), *range(700, len(STREAM), 997)):
        session = ServerSession(LIMIT)
        found = session.receive(STREAM[:cut]) + session.receive(STREAM[cut:])
        assert (found, session.answers, session.closed) == (MESSAGES, whole.answers, True), cut


def test_messages_come_byte_by_byte() -> None:
    session, found = ServerSession(LIMIT), []
    for at in range(len(STREAM)):
        found += session.receive(STREAM[at : at + 1])
    assert found == MESSAGES


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(1, 50))
def test_what_is_sent_comes_in_any_pieces(messages: list[bytes], size: int) -> None:
    stream = b"".join(sent(message) for message in messages)
    session, found = ServerSession(LIMIT), []
    for at in range(0, len(stream), size):
        found += session.receive(stream[at : at + size])
    assert found == messages


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (frame(b"not masked"), PROTOCOL_ERROR),
        (bytes((0xC1, 0x80)) + MASK, PROTOCOL_ERROR),
        (sent(b"", 0x3), PROTOCOL_ERROR),
        (sent(b"", 0xB), PROTOCOL_ERROR),
        (sent(b"x", Op.CONTINUATION), PROTOCOL_ERROR),
        (sent(b"x", final=False) + sent(b"y"), PROTOCOL_ERROR),
        (sent(b"", Op.PING, final=False), PROTOCOL_ERROR),
        (sent(b"x" * 126, Op.PING), PROTOCOL_ERROR),
        (sent(b"\x00", Op.BINARY), UNSUPPORTED),
        (sent(b"x" * (LIMIT + 1))[:14], TOO_BIG),
        (sent(b"x" * LIMIT, final=False) + sent(b"y", Op.CONTINUATION), TOO_BIG),
    ],
)
def test_what_breaks_the_rules_ends_the_connection_with_a_code(stream: bytes, code: int) -> None:
    with pytest.raises(Broken) as caught:
        ServerSession(LIMIT).receive(stream)
    assert caught.value.close_code == code


def test_nothing_is_read_behind_a_goodbye() -> None:
    session = ServerSession(LIMIT)
    assert session.receive(sent(b"", Op.CLOSE) + sent(b"late")) == []
    assert session.receive(sent(b"later")) == []
    assert session.answers == [close_frame(NORMAL)]


def test_a_goodbye_fits_into_a_control_frame() -> None:
    written = close_frame(1008, "ä" * 100)
    assert written[1] <= 125
    written[4:].decode()


def test_only_a_whole_request_for_a_websocket_is_one() -> None:
    assert wants_upgrade("GET", ASKED) == KEY
    assert accept_of(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert wants_upgrade("POST", ASKED) is None
    for name, value in (
        ("connection", "close"),
        ("upgrade", "h2c"),
        ("sec-websocket-version", "8"),
        ("sec-websocket-key", "short"),
        ("sec-websocket-key", "no base64 at all!!!!!!!!"),
    ):
        assert wants_upgrade("GET", {**ASKED, name: (value,)}) is None, name
    for name in ASKED:
        assert wants_upgrade("GET", {k: v for k, v in ASKED.items() if k != name}) is None, name
