"""AMQP 1.0 values and messages: round trips, known bytes, broken bytes."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest, MalformedPacket
from gateway.wire.amqp.decode import MAX_ARRAY, MAX_DEPTH, decode
from gateway.wire.amqp.encode import encode
from gateway.wire.amqp.message import (
    AmqpMessage,
    Data,
    Header,
    Properties,
    Sequence,
    Value,
    decode_message,
    encode_message,
    payload_of,
)
from gateway.wire.amqp.values import (
    Array,
    Byte,
    Char,
    Decimal,
    Described,
    Float,
    Int,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)

KNOWN: list[tuple[object, str]] = [
    (None, "40"),
    (True, "41"),
    (False, "42"),
    (UByte(255), "50ff"),
    (Byte(-1), "51ff"),
    (UShort(258), "600102"),
    (Short(-2), "61fffe"),
    (UInt(0), "43"),
    (UInt(255), "52ff"),
    (UInt(256), "7000000100"),
    (ULong(0), "44"),
    (ULong(1), "5301"),
    (ULong(2**64 - 1), "80ffffffffffffffff"),
    (Int(-128), "5480"),
    (Int(128), "7100000080"),
    (127, "557f"),
    (-129, "81ffffffffffffff7f"),
    (Float(1.5), "723fc00000"),
    (1.5, "823ff8000000000000"),
    (Char("é"), "73000000e9"),
    (Timestamp(-1), "83ffffffffffffffff"),
    (UUID(int=1), "98" + "00" * 15 + "01"),
    (Decimal(b"1234"), "74" + b"1234".hex()),
    (Decimal(b"12345678"), "84" + b"12345678".hex()),
    (Decimal(b"1234567812345678"), "94" + b"1234567812345678".hex()),
    (b"ab", "a0026162"),
    ("é", "a102c3a9"),
    (Symbol("ab"), "a3026162"),
    ([], "45"),
    ([UInt(0), None], "c003024340"),
    ({}, "c10100"),
    ({Symbol("a"): 1}, "c10602a301615501"),
    (Described(ULong(0x24), []), "00532445"),
    (Array(0xA3, (Symbol("a"), Symbol("b"))), "e00602a301610162"),
    (Array(0x41, (True, True)), "e0020241"),
    (Array(0x70, (UInt(1),), ULong(1)), "e009010053017000000001"),
]


@pytest.mark.parametrize(("value", "raw"), KNOWN, ids=[raw for _, raw in KNOWN])
def test_a_value_has_its_shortest_bytes_and_comes_back_with_its_type(
    value: object, raw: str
) -> None:
    data = bytes.fromhex(raw)
    assert encode(value) == data
    back, end = decode(data)
    assert (back, type(back), end) == (value, type(value), len(data))


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("5600", False),
        ("5601", True),
        ("7000000000", UInt(0)),
        ("800000000000000001", ULong(1)),
        ("b000000001ff", b"\xff"),
        ("b10000000161", "a"),
        ("b30000000161", Symbol("a")),
        ("d00000000400000000", []),
        ("d10000000400000000", {}),
    ],
)
def test_wider_forms_are_read(raw: str, value: object) -> None:
    assert decode(bytes.fromhex(raw))[0] == value


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 70_000])
def test_sizes_around_the_one_byte_forms(size: int) -> None:
    for value in (b"x" * size, "x" * size, Symbol("x" * size), [True] * size):
        data = encode(value)
        assert decode(data) == (value, len(data))


@pytest.mark.parametrize("code", [0xB0, 0xB1, 0xB3, 0xD0, 0xD1, 0xF0])
def test_arrays_of_wide_elements(code: int) -> None:
    items: dict[int, tuple[object, ...]] = {
        0xB0: (b"a", b"b" * 300),
        0xB1: ("a", "b" * 300),
        0xB3: (Symbol("a"), Symbol("b" * 300)),
        0xD0: ([], [UInt(1)], [True] * 300),
        0xD1: ({}, {"a": "b" * 300}),
        0xF0: (Array(0x41, (True,)), Array(0xA1, ("a",) * 300)),
    }
    array = Array(code, items[code])
    assert decode(encode(array))[0] == array


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.integers(0, 255).map(UByte),
    st.integers(0, 2**32 - 1).map(UInt),
    st.integers(0, 2**64 - 1).map(ULong),
    st.integers(-(2**31), 2**31 - 1).map(Int),
    st.integers(0, 65_535).map(UShort),
    st.integers(-(2**63), 2**63 - 1).map(Timestamp),
    st.text(max_size=300),
    st.binary(max_size=300),
    st.text(st.characters(max_codepoint=127), max_size=20).map(Symbol),
    st.uuids(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
        st.builds(Described, st.integers(0, 255).map(ULong), inner),
    ),
    max_leaves=20,
)


@given(values)
def test_any_value_comes_back(value: object) -> None:
    data = encode(value)
    assert decode(data) == (value, len(data))


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_any_bytes_give_a_value_or_a_named_error(data: bytes) -> None:
    with suppress(MalformedPacket):
        decode(data)


@given(values, st.data())
def test_a_value_cut_short_is_an_error(value: object, data: st.DataObject) -> None:
    raw = encode(value)
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(MalformedPacket):
        decode(raw[:cut])


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("", "end inside"),
        ("ff", "unknown format code"),
        ("01", "unknown format code"),
        ("5602", "boolean"),
        ("7300110000", "code point"),
        ("730000d800", "code point"),
        ("a0ff61", "announced"),
        ("b0ffffffff61", "announced"),
        ("a101ff", "UTF-8"),
        ("a301ff", "ASCII"),
        ("c001", "end inside"),
        ("c00205", "announced"),
        ("c003054142", "elements announced"),
        ("c003014142", "elements end"),
        ("c1020141", "pairs"),
        ("c103024541", "key"),
        ("d0ffffffff00000001", "announced"),
        ("d00000000100000000", "does not even cover"),
        ("e00301ff00", "unknown element"),
        ("f0000000057fffffff43", "at most"),
        ("0053", "end inside"),
    ],
)
def test_broken_values_are_named(raw: str, text: str) -> None:
    with pytest.raises(MalformedPacket, match=text):
        decode(bytes.fromhex(raw))


def test_nesting_and_arrays_are_bounded() -> None:
    value: object = []
    for _ in range(MAX_DEPTH + 1):
        value = [value]
    with pytest.raises(MalformedPacket, match="nested deeper"):
        decode(encode(value))
    described: object = None
    for _ in range(MAX_DEPTH + 1):
        described = Described(ULong(1), described)
    with pytest.raises(MalformedPacket, match="nested deeper"):
        decode(encode(described))
    assert decode(encode(Array(0x40, (None,) * MAX_ARRAY)))[0]


@pytest.mark.parametrize(
    "value",
    [
        object(),
        2**63,
        UInt(-1),
        UByte(256),
        Symbol("é"),
        "\ud800",
        Decimal(b"123"),
        Array(0x99, ()),
        Array(0xA1, (1,)),
        Array(0xD0, ("a",)),
        Array(0xE0, (1,)),
    ],
)
def test_what_does_not_fit_is_refused(value: object) -> None:
    with pytest.raises(BadRequest):
        encode(value)


def test_a_not_a_number_stays_one() -> None:
    value: Any = decode(encode(math.nan))[0]
    assert math.isnan(value)


# --- messages ------------------------------------------------------------------------------------------

FULL = AmqpMessage(
    header=Header(durable=True, priority=7, ttl=1_000, first_acquirer=True, delivery_count=2),
    delivery_annotations={Symbol("d"): 1},
    message_annotations={Symbol("x-opt-a"): {"k": "v"}},
    properties=Properties(
        message_id="m",
        user_id=b"u",
        to="t",
        subject="s",
        reply_to="r",
        correlation_id=ULong(7),
        content_type="text/plain",
        content_encoding="gzip",
        absolute_expiry_time=5,
        creation_time=6,
        group_id="g",
        group_sequence=1,
        reply_to_group_id="rg",
    ),
    application_properties={"a": Int(1), "b": True},
    body=Data(b"payload"),
    footer={Symbol("f"): b"\x00"},
)


@pytest.mark.parametrize(
    "message",
    [
        FULL,
        AmqpMessage(),
        AmqpMessage(body=Data(b"")),
        AmqpMessage(body=Data(b"x" * 1_000)),
        AmqpMessage(body=Value("text")),
        AmqpMessage(body=Value(None)),
        AmqpMessage(body=Sequence(([1, 2], ["a"]))),
        AmqpMessage(properties=Properties(message_id=UUID(int=3), correlation_id=b"c")),
    ],
)
def test_a_message_comes_back(message: AmqpMessage) -> None:
    assert decode_message(encode_message(message)) == message


def test_data_sections_are_joined() -> None:
    assert decode_message(bytes.fromhex("005375a00161" + "005375a00162")).body == Data(b"ab")


def test_sections_may_be_named_by_symbol() -> None:
    raw = encode(Described(Symbol("amqp:data:binary"), b"x"))
    assert decode_message(raw).body == Data(b"x")


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (None, b""),
        (Data(b"x"), b"x"),
        (Value("é"), "é".encode()),
        (Value(b"x"), b"x"),
        (Value(None), b""),
        (Value(5), None),
        (Sequence(([],)), None),
    ],
)
def test_the_payload_of_a_body(body: Any, payload: bytes | None) -> None:
    assert payload_of(AmqpMessage(body=body)) == payload


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("41", "expected a section"),
        ("00530145", "expected a section"),
        ("005375a00161" + "00537345", "wrong place"),
        ("00537345" + "00537345", "wrong place"),
        ("005375a00161" + "005377a10161", "more than one kind"),
        ("005375a10161", "expected bytes"),
        ("00537641", "expected list"),
        ("00537245", "expected a map"),
        ("005373c00101", "announced"),
        ("005373c0030155" + "01", "message-id"),
        ("005370c003015501", "durable"),
        ("005370c0020156", "end inside"),
        ("005373c00f0e" + "40" * 14, "fields"),
    ],
)
def test_broken_messages_are_named(raw: str, text: str) -> None:
    with pytest.raises(MalformedPacket, match=text):
        decode_message(bytes.fromhex(raw))


@pytest.mark.parametrize("descriptor", ["45", "c10100", "00530145", "e0020071"])
def test_a_compound_value_names_no_type(descriptor: str) -> None:
    with pytest.raises(MalformedPacket):
        decode_message(bytes.fromhex(f"00{descriptor}40"))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_named_error(data: bytes) -> None:
    with suppress(MalformedPacket):
        decode_message(data)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_message_never_breaks_the_reader(at: int, byte: int) -> None:
    raw = bytearray(encode_message(FULL))
    raw[at % len(raw)] = byte
    with suppress(MalformedPacket):
        decode_message(bytes(raw))
