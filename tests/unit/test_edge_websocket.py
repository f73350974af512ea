"""The hub's WebSocket session: upgrade, frames, every cut of the stream, hostile input."""

from __future__ import annotations

import base64
import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.websocket import (
    ClientSession,
    Closed,
    Event,
    Opened,
    Pong,
    Refused,
    Text,
    TooLong,
)
from gateway.errors import GatewayError, MalformedPacket, TooLarge

KEY = bytes(range(16))
LIMIT = 100_000


def a_session() -> ClientSession:
    return ClientSession(
        "cloud:10000", "/p/edge-1/events", {"node_id": "edge-1"}, key=KEY, mask=lambda: b"abcd",
        limit=LIMIT,
    )  # fmt: skip


def upgrade(extra: str = "") -> bytes:
    key = base64.b64encode(KEY).decode()
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    accept = base64.b64encode(digest).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{extra}\r\n"
    ).encode()


def frame(op: int, data: bytes, *, final: bool = True) -> bytes:
    size = len(data)
    head = bytes(((0x80 if final else 0) | op,))
    if size < 126:
        return head + bytes((size,)) + data
    if size < 65_536:
        return head + bytes((126,)) + size.to_bytes(2, "big") + data
    return head + bytes((127,)) + size.to_bytes(8, "big") + data


def an_open_session() -> ClientSession:
    session = a_session()
    session.to_send()
    session.receive(upgrade())
    return session


def unmasked(raw: bytes) -> tuple[int, bytes]:
    """Read one small masked frame."""
    size, mask, data = raw[1] & 0x7F, raw[2:6], raw[6:]
    assert raw[1] & 0x80
    assert len(data) == size
    return raw[0], bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


def test_the_upgrade_names_the_node() -> None:
    hello = a_session().to_send().decode()
    assert hello.startswith("GET /p/edge-1/events HTTP/1.1\r\nHost: cloud:10000\r\n")
    assert "\r\nnode_id: edge-1\r\n" in hello
    assert hello.endswith("\r\n\r\n")


def test_an_accepted_upgrade_tells_the_servers_headers() -> None:
    (event,) = a_session().receive(upgrade("twinspan-spool: 1\r\n"))
    assert isinstance(event, Opened)
    assert event.headers["twinspan-spool"] == "1"


def test_a_refused_upgrade_tells_status_and_headers() -> None:
    session = a_session()
    answer = b"HTTP/1.1 403 Forbidden\r\nTwinspan-Refusal: revoked\r\n\r\nno"
    assert session.receive(answer) == [Refused(403, "Forbidden", {"twinspan-refusal": "revoked"})]
    assert session.closed


def test_a_wrong_accept_header_is_refused() -> None:
    with pytest.raises(MalformedPacket, match="accept"):
        a_session().receive(b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: no\r\n\r\n")


def test_every_cut_of_the_stream_gives_the_same_events() -> None:
    stream = (
        upgrade()
        + frame(1, b"one")
        + frame(1, b"tw", final=False)
        + frame(9, b"hi")
        + frame(0, b"o")
        + frame(10, b"")
        + frame(1, b"x" * 300)
        + frame(8, (1001).to_bytes(2, "big") + b"bye")
    )
    whole = a_session().receive(stream)
    assert [*whole[1:]] == [
        Text(b"one"),
        Text(b"two"),
        Pong(),
        Text(b"x" * 300),
        Closed(1001, "bye"),
    ]
    for cut in range(1, len(stream)):
        session = a_session()
        pieces: list[Event] = session.receive(stream[:cut])
        pieces += session.receive(stream[cut:])
        assert pieces == whole


def test_a_ping_is_answered_with_the_same_data() -> None:
    session = an_open_session()
    session.receive(frame(9, b"hi"))
    assert unmasked(session.to_send()) == (0x8A, b"hi")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 90_000])
def test_a_sent_text_can_be_unmasked_again(size: int) -> None:
    session = an_open_session()
    payload = bytes(at % 251 for at in range(size))
    session.send_text(payload)
    raw = session.to_send()
    width = 0 if size < 126 else 2 if size < 65_536 else 8
    mask, data = raw[2 + width : 6 + width], raw[6 + width :]
    assert bytes(byte ^ mask[at % 4] for at, byte in enumerate(data)) == payload


def test_a_peers_close_is_answered_and_ends_the_session() -> None:
    session = an_open_session()
    assert session.receive(frame(8, b"")) == [Closed(1005, "")]
    assert unmasked(session.to_send())[0] == 0x88
    assert session.closed


def test_the_end_of_the_stream_is_a_close() -> None:
    session = an_open_session()
    assert session.receive(b"") == [Closed(1006, "the peer has gone")]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xc1\x00",  # reserved bit
        b"\x81\x80abcd",  # masked by the server
        frame(2, b"x"),  # binary
        frame(0, b"x"),  # continuation of nothing
        frame(1, b"x", final=False) + frame(1, b"y"),  # a second start
        frame(9, b"x", final=False),  # fragmented control frame
        frame(9, b"x" * 126),  # long control frame
        frame(11, b""),  # unknown control opcode
    ],
)
def test_a_frame_against_the_rules_ends_the_session(raw: bytes) -> None:
    with pytest.raises(MalformedPacket):
        an_open_session().receive(raw)


def test_a_message_over_the_limit_goes_by_and_the_next_one_is_read() -> None:
    session = an_open_session()
    assert session.receive(b"\x81\x7f" + (LIMIT + 1).to_bytes(8, "big") + b"x") == []
    for _ in range(0, LIMIT, 10_000):
        assert session.receive(b"x" * 9_999) == []
    left = LIMIT - len(range(0, LIMIT, 10_000)) * 9_999
    assert session.receive(b"x" * left + frame(1, b"next")) == [TooLong(), Text(b"next")]


def test_fragments_together_over_the_limit_go_by_with_what_stands_between_them() -> None:
    session = an_open_session()
    session.to_send()
    first = frame(1, b"x" * (LIMIT - 1), final=False)
    assert session.receive(first + frame(9, b"alive?") + frame(0, b"xx", final=False)) == []
    assert session.to_send()
    assert session.receive(frame(0, b"", final=False)) == []
    assert session.receive(frame(0, b"") + frame(1, b"next")) == [TooLong(), Text(b"next")]
    with pytest.raises(MalformedPacket):
        session.receive(frame(0, b"x"))


def test_headers_without_end_are_refused() -> None:
    with pytest.raises(TooLarge):
        a_session().receive(b"HTTP/1.1 101 x\r\n" + b"a: b\r\n" * 4_000)


@given(st.binary(max_size=400))
def test_any_bytes_give_events_or_a_named_error(data: bytes) -> None:
    session = an_open_session()
    with contextlib.suppress(GatewayError):
        session.receive(data)
    assert len(session._buffer) <= len(data)
