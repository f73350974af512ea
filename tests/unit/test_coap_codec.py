"""CoAP messages: our bytes against aiocoap's, and bytes that are none."""

from __future__ import annotations

import aiocoap
import pytest
from aiocoap.numbers.optionnumbers import OptionNumber
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest, MalformedPacket
from gateway.wire.coap import codec, options
from gateway.wire.coap.codec import Message
from gateway.wire.coap.options import Block

OPAQUE = st.sampled_from([options.ETAG, options.REQUEST_TAG, 2053, 65_000])
OPTIONS = st.lists(st.tuples(OPAQUE, st.binary(max_size=300)), max_size=8)
MESSAGES = st.builds(
    Message,
    type=st.integers(0, 3),
    code=st.integers(1, 255),
    mid=st.integers(0, 65_535),
    token=st.binary(max_size=8),
    options=OPTIONS.map(lambda found: tuple(sorted(found, key=lambda o: o[0]))),
    payload=st.binary(max_size=100),
)


@given(MESSAGES)
@settings(deadline=None)
def test_what_is_written_reads_as_before_also_for_aiocoap(message: Message) -> None:
    data = codec.encode(message)
    assert codec.decode(data) == message
    theirs = aiocoap.Message.decode(data)
    assert (theirs.mtype, theirs.code, theirs.mid) == (message.type, message.code, message.mid)
    assert (theirs.token, theirs.payload) == (message.token, message.payload)
    found = [(int(o.number), o.encode()) for o in theirs.opt.option_list()]
    assert found == list(message.options)


def test_what_aiocoap_writes_is_read() -> None:
    theirs = aiocoap.Message(code=aiocoap.PUT, payload=b"x" * 300, _mtype=0, _mid=7, _token=b"tok")
    theirs.opt.uri_path = ("telemetry", "", "d" * 250)
    theirs.opt.uri_query = ("hono-ttd=3",)
    theirs.opt.content_format = 50
    theirs.opt.block1 = (3, True, 6)
    theirs.opt.add_option(OptionNumber(65_000).create_option(value=b"\x01"))
    found = codec.decode(theirs.encode())
    assert found.all(options.URI_PATH) == [b"telemetry", b"", b"d" * 250]
    assert found.first(options.URI_QUERY) == b"hono-ttd=3"
    assert options.block(found.first(options.BLOCK1) or b"") == Block(3, True, 6)
    assert found.first(options.TIME) == b"\x01"
    assert found.payload == b"x" * 300


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=500)
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    data = bytes((data[0] & 0x3F | 0x40,)) + data[1:] if data else data
    if not codec.is_coap(data):
        return
    try:
        message = codec.decode(data)
    except MalformedPacket:
        return
    assert codec.decode(codec.encode(message)) == message


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x49\x01\x00\x01" + b"t" * 9, id="a token of nine bytes"),
        pytest.param(b"\x44\x01\x00\x01tt", id="a token that is cut"),
        pytest.param(b"\x40\x00\x00\x01x", id="an empty message with something behind"),
        pytest.param(b"\x40\x01\x00\x01\xff", id="a marker without payload"),
        pytest.param(b"\x40\x01\x00\x01\xb5abcd", id="an option that is cut"),
        pytest.param(b"\x40\x01\x00\x01\xf0", id="a reserved delta"),
        pytest.param(b"\x40\x01\x00\x01\x0f", id="a reserved length"),
        pytest.param(b"\x40\x01\x00\x01\xd0", id="a delta that is cut"),
        pytest.param(b"\x40\x01\x00\x01" + b"\xe0\xff\xff" * 2, id="a number beyond all options"),
        pytest.param(b"\x40\x01\x00\x01" + b"\x10" * 65, id="too many options"),
    ],
)
def test_what_breaks_the_format_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedPacket, match="coap"):
        codec.decode(data)


def test_other_versions_and_short_datagrams_are_no_coap() -> None:
    assert not codec.is_coap(b"\x80\x01\x00\x01")
    assert not codec.is_coap(b"\x40\x01\x00")
    assert codec.is_coap(b"\x40\x01\x00\x01")


def test_a_value_without_place_in_a_message_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="token"):
        codec.encode(Message(type=0, code=1, mid=1, token=b"t" * 9))
    with pytest.raises(ValueError, match="option"):
        codec.encode(Message(type=0, code=1, mid=1, options=((11, b""), (4, b""))))


@pytest.mark.parametrize("number", [0, 1, 255, 256, 65_535, 1_795_401_946_755])
def test_numbers_take_as_few_bytes_as_they_need(number: int) -> None:
    data = options.uint_bytes(number)
    assert data[:1] != b"\0"
    assert options.uint(data, 8) == number


def test_a_number_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(BadRequest):
        options.uint(b"\0" * 5)
    with pytest.raises(BadRequest):
        options.block(b"\0\0\0\1")
    with pytest.raises(BadRequest, match="reserved"):
        options.block(b"\x07")


@pytest.mark.parametrize(
    ("media_type", "number"),
    [
        ("text/plain", 0),
        ("text/plain;charset=utf-8", 0),
        ("Application/JSON; charset=utf-8", 50),
        ("application/octet-stream", 42),
        ("application/vnd.acme", None),
        ("application/json; version=2", None),
    ],
)
def test_media_types_have_their_numbers(media_type: str, number: int | None) -> None:
    assert options.format_of(media_type) == number


def test_a_number_that_is_not_registered_is_named_so() -> None:
    assert options.media_type_of(0) == "text/plain"
    assert options.media_type_of(60_000) == "unknown/60000"


def test_text_is_utf_8_of_at_most_255_bytes() -> None:
    assert options.text("gerät".encode()) == "gerät"
    for value in (b"\xff", b"x" * 256):
        with pytest.raises(MalformedPacket):
            options.text(value)
