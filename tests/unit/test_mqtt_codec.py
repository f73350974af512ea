"""MQTT packets: each kind there and back, and what broken ones are told."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedPacket
from gateway.wire.mqtt import body as wire
from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.codec import decode, encode, frame
from gateway.wire.mqtt.packets import V3, V5
from gateway.wire.mqtt.properties import MAX_USER_PROPERTIES, NONE, TABLE, Properties, Type
from gateway.wire.mqtt.reasons import Fault, Reason


def split(data: bytes) -> tuple[int, bytes]:
    """First byte and body of one packet."""
    size, at = wire.read_varint(data, 1, len(data))
    assert len(data) == at + size
    return data[0], data[at:]


def there_and_back(packet: p.Packet, version: int) -> p.Packet:
    return decode(*split(encode(packet, version)), version)


MESSAGE = Properties(
    payload_format=1,
    message_expiry=7,
    content_type="text/plain",
    response_topic="answers/1",
    correlation_data=b"\x00\x01",
    user=(("traceparent", "00-1"), ("traceparent", "again"), ("", "")),
)
REASONED = Properties(reason_string="because", user=(("a", "b"),))

PACKETS_3 = [
    p.Connect("c", V3, False, 60, "user", b"\x00secret", p.Will("w/t", b"gone", 2, True)),
    p.Connect("", V3, True, 0, "user", None),
    p.Connect("only-id", V3),
    p.ConnAck(0, True),
    p.ConnAck(5),
    p.Publish("a", b"", 0),
    p.Publish("a/ü", b"x" * 200, 1, True, 65_535, True),
    p.Publish("a", b"y", 2, False, 1),
    p.PubAck(1),
    p.PubRec(2),
    p.PubRel(3),
    p.PubComp(4),
    p.Subscribe(9, (p.Subscription("a/+", 1), p.Subscription("#", 2), p.Subscription("$SYS/#"))),
    p.SubAck(9, (1, 2, 0x80)),
    p.Unsubscribe(10, ("a/+", "#")),
    p.UnsubAck(10),
    p.PingReq(),
    p.PingResp(),
    p.Disconnect(),
]
PACKETS_5 = [
    p.Connect(
        "c",
        V5,
        True,
        65_535,
        None,
        b"token",
        p.Will("w", b"", 1, False, Properties(will_delay=5, message_expiry=1, content_type="x")),
        Properties(
            session_expiry=2**32 - 1,
            receive_maximum=1,
            maximum_packet=1,
            topic_alias_maximum=65_535,
            request_problem_information=0,
            request_response_information=1,
            authentication_method="scram",
            authentication_data=b"\xff",
            user=(("k", "v"),),
        ),
    ),
    p.ConnAck(
        0,
        False,
        Properties(
            session_expiry=0,
            receive_maximum=20,
            maximum_qos=1,
            retain_available=0,
            maximum_packet=100,
            assigned_client_id="made",
            topic_alias_maximum=0,
            reason_string="ok",
            wildcards_available=0,
            subscription_ids_available=1,
            shared_available=1,
            server_keep_alive=30,
            response_information="r/",
            server_reference="other:1883",
            authentication_method="m",
            authentication_data=b"",
        ),
    ),
    p.ConnAck(Reason.NOT_AUTHORIZED),
    p.Publish("a", b"x", 0, properties=MESSAGE),
    p.Publish("", b"x", 0, properties=Properties(topic_alias=1)),
    p.Publish("a", b"x", 2, True, 77, True, Properties(subscription_ids=(1, 268_435_455))),
    *[
        cls(5, reason, properties)
        for cls in (p.PubAck, p.PubRec, p.PubRel, p.PubComp)
        for reason, properties in ((0, NONE), (0x92, NONE), (0x92, REASONED), (0, REASONED))
    ],
    p.Subscribe(
        1,
        (p.Subscription("a", 2, True, True, 2), p.Subscription("$share/g/a/#", 1, False, False, 1)),
        Properties(subscription_ids=(12,)),
    ),
    p.SubAck(1, (0, 1, 2, 0x8F), REASONED),
    p.Unsubscribe(2, ("a",), Properties(user=(("x", "y"),))),
    p.UnsubAck(2, (0, 0x11), REASONED),
    p.PingReq(),
    p.PingResp(),
    p.Disconnect(),
    p.Disconnect(0x04),
    p.Disconnect(0, Properties(session_expiry=3)),
    p.Disconnect(0x9D, Properties(server_reference="there", reason_string="moved")),
    p.Auth(0x18, Properties(authentication_method="m", authentication_data=b"1")),
    p.Auth(),
]


@pytest.mark.parametrize("packet", PACKETS_3, ids=lambda x: type(x).__name__)
def test_a_packet_of_3_1_1_comes_back_as_it_went(packet: p.Packet) -> None:
    assert there_and_back(packet, V3) == packet


@pytest.mark.parametrize("packet", PACKETS_5, ids=lambda x: type(x).__name__)
def test_a_packet_of_5_0_comes_back_as_it_went(packet: p.Packet) -> None:
    assert there_and_back(packet, V5) == packet


def test_every_property_is_written_and_read_by_some_packet_above() -> None:
    seen = {
        field
        for packet in PACKETS_5
        for holder in (packet, getattr(packet, "will", None))
        for properties in [getattr(holder, "properties", NONE)]
        for field in TABLE_FIELDS
        if getattr(properties, field) not in (None, ())
    }
    assert seen == TABLE_FIELDS


TABLE_FIELDS = {row.field for row in TABLE.values()}


def test_the_table_of_properties_has_every_field_once() -> None:
    assert set(Properties.__struct_fields__) == TABLE_FIELDS
    assert len(TABLE) == len(TABLE_FIELDS) == 27


@pytest.mark.parametrize(
    ("packet", "version", "data"),
    [
        (p.Publish("a/b", b"hi", 1, True, 10), V3, b"\x33\x09\x00\x03a/b\x00\x0ahi"),
        (p.Publish("a/b", b"hi"), V5, b"\x30\x08\x00\x03a/b\x00hi"),
        (p.PubRel(258), V3, b"\x62\x02\x01\x02"),
        (p.PubAck(1, 0x10), V5, b"\x40\x03\x00\x01\x10"),
        (p.Connect("ab", V3, True, 60), V3, b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02ab"),
        (p.Subscribe(1, (p.Subscription("a", 1),)), V3, b"\x82\x06\x00\x01\x00\x01a\x01"),
        (p.Disconnect(), V5, b"\xe0\x00"),
    ],
)
def test_bytes_are_those_of_the_standard(packet: p.Packet, version: int, data: bytes) -> None:
    assert encode(packet, version) == data
    assert decode(*split(data), version) == packet


C3 = b"\x00\x04MQTT\x04"


@pytest.mark.parametrize(
    ("first", "body", "version", "told"),
    [
        (0x00, b"", V3, "packet type 0 is reserved"),
        (0x80, b"\0\1\0\1a\0", V3, "SUBSCRIBE: flags 0x0"),
        (0x60, b"\0\1", V3, "PUBREL: flags 0x0"),
        (0x11, b"", V3, "CONNECT: flags 0x1"),
        (0x10, b"\x00\x04MQXX\x04", V3, "protocol name"),
        (0x10, b"\x00\x06MQIsdp\x03", V3, "expected 4 or 5, got 3"),
        (0x10, b"\x00\x04MQTT\x06", V3, "expected 4 or 5, got 6"),
        (0x10, C3 + b"\x03\0\0\0\0", V3, "the reserved bit is set"),
        (0x10, C3 + b"\x1e\0\0\0\0", V3, "will QoS 3"),
        (0x10, C3 + b"\x22\0\0\0\0", V3, "without a will"),
        (0x10, C3 + b"\x42\0\0\0\0\0\0", V3, "a password without a user name"),
        (0x10, C3 + b"\x02\0", V3, "keep alive at byte 8: expected 2 bytes, 1 left"),
        (0x10, C3 + b"\x02\0\0\0\0x", V3, "1 bytes too many"),
        (0x10, C3 + b"\x06\0\0\0\0\0\1#\0\0", V3, "will topic"),
        (0x20, b"\x02\0", V3, "reserved bits"),
        (0x20, b"\x00\x06", V3, "expected 0 to 5"),
        (0x20, b"\x01\x05", V3, "session present in a refusal"),
        (0x36, b"\0\1a\0\1", V3, "QoS at byte 0: 3 is not allowed"),
        (0x38, b"\0\1a", V3, "DUP"),
        (0x30, b"\0\0", V3, "at least one character"),
        (0x30, b"\0\1+", V3, "wildcards are for filters"),
        (0x30, b"\0\3a\0b", V3, "U+0000"),
        (0x30, b"\0\2\xed\xa0", V3, "not UTF-8 at its byte 0"),
        (0x30, b"\0\x09a", V3, "topic name at byte 2: expected 9 bytes, 1 left"),
        (0x32, b"\0\1a\0\0", V3, "packet identifier at byte 5: 0 is not allowed"),
        (0x32, b"\0\1a\0", V3, "packet identifier"),
        (0x30, b"\0\1a", V5, "properties length"),
        (0x30, b"\0\1a\x05", V5, "5 bytes announced, 0 left"),
        (0x30, b"\0\1a\x02\x7f\0", V5, "0x7f is not allowed in this packet"),
        (0x30, b"\0\1a\x03\x21\0\1", V5, "0x21 is not allowed in this packet"),
        (0x30, b"\0\1a\x02\x01\x02", V5, "payload_format may not be 2"),
        (0x30, b"\0\1a\x04\x01\x00\x01\x01", V5, "payload_format stands twice"),
        (0x30, b"\0\1a\x02\x0b\x00", V5, "subscription_ids may not be 0"),
        (0x30, b"\0\1a\x04\x08\0\1+", V5, "response topic"),
        (0x30, b"\0\1a\x80\x00", V5, "longer than its value needs"),
        (0x30, b"\0\1a\xff\xff\xff\xff\x01", V5, "more than four bytes"),
        (0x40, b"\0\0", V3, "PUBACK: packet identifier"),
        (0x40, b"\0\1\x44", V5, "unknown reason code 0x44"),
        (0x40, b"\0\1\0", V3, "1 bytes too many"),
        (0x82, b"\0\1", V3, "at least one entry"),
        (0x82, b"\0\1\0\0\0", V3, "topic filter"),
        (0x82, b"\0\1\0\1a\x03", V3, "expected 0 to 2"),
        (0x82, b"\0\1\0\0\1a\x40", V5, "0x40 is not allowed"),
        (0x82, b"\0\1\0\0\1a\x30", V5, "0x30 is not allowed"),
        (0x82, b"\0\1\0\0\x0a$share/g/a\x04", V5, "no local on a shared"),
        (0x82, b"\0\1\4\x0b\1\x0b\2\0\1a\0", V5, "more than one subscription identifier"),
        (0x90, b"\0\1\x03", V3, "0x03 is not allowed"),
        (0xC0, b"x", V3, "PINGREQ: end"),
        (0xF0, b"", V3, "AUTH: packet type 15"),
        (0x10, b"\0\4MQTT\5\2\0\0\x03\x16\0\0\0\0", V5, "authentication data without a method"),
    ],
)
def test_a_broken_packet_names_the_place(first: int, body: bytes, version: int, told: str) -> None:
    with pytest.raises(MalformedPacket) as caught:
        decode(first, body, version)
    assert told in caught.value.message


def test_user_properties_and_entries_are_bounded() -> None:
    pair = b"\x26\0\1a\0\1b"
    fields = pair * (MAX_USER_PROPERTIES + 1)
    with pytest.raises(Fault) as caught:
        decode(0x30, b"\0\1a" + wire.varint(len(fields)) + fields, V5)
    assert caught.value.reason is Reason.QUOTA_EXCEEDED
    with pytest.raises(Fault, match="more than 256 entries"):
        decode(0x82, b"\0\1" + b"\0\1a\0" * 257, V3)


def test_what_has_no_place_in_a_packet_is_our_error() -> None:
    with pytest.raises(ValueError, match="PUBLISH may not carry receive_maximum"):
        encode(p.Publish("a", properties=Properties(receive_maximum=1)), V5)
    with pytest.raises(ValueError, match="packet identifier 0"):
        encode(p.Publish("a", qos=1), V3)
    with pytest.raises(ValueError, match="variable byte integer"):
        wire.varint(268_435_456)
    with pytest.raises(ValueError, match="binary data"):
        wire.text("x" * 65_536)


@given(st.integers(0, wire.MAX_VARINT))
def test_a_variable_byte_integer_comes_back(value: int) -> None:
    data = wire.varint(value)
    assert wire.read_varint(data, 0, len(data)) == (value, len(data))
    for cut in range(len(data)):
        assert wire.read_varint(data, 0, cut)[0] == -1


@pytest.mark.parametrize("size", [0, 127, 128, 16_383, 16_384, 2_097_152])
def test_a_frame_carries_any_size(size: int) -> None:
    assert split(frame(0x30, bytes(size))) == (0x30, bytes(size))


NO_SURROGATES: tuple[Literal["Cs"]] = ("Cs",)
TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=NO_SURROGATES), max_size=20
)
TOPIC = st.text(
    st.characters(exclude_characters="\0+#", exclude_categories=NO_SURROGATES),
    min_size=1,
    max_size=30,
)
ID = st.integers(1, 65_535)
MESSAGES = st.builds(
    Properties,
    payload_format=st.sampled_from([None, 0, 1]),
    message_expiry=st.none() | st.integers(0, 2**32 - 1),
    content_type=st.none() | TEXT,
    correlation_data=st.none() | st.binary(max_size=40),
    user=st.lists(st.tuples(TEXT, TEXT), max_size=4).map(tuple),
    subscription_ids=st.lists(st.integers(1, wire.MAX_VARINT), max_size=4).map(tuple),
)


@given(TOPIC, st.binary(max_size=300), st.integers(0, 2), st.booleans(), ID, MESSAGES)
def test_any_message_comes_back(
    topic: str, payload: bytes, qos: int, retain: bool, packet_id: int, properties: Properties
) -> None:
    packet = p.Publish(
        topic, payload, qos, retain, packet_id if qos else 0, bool(qos) and retain, properties
    )
    assert there_and_back(packet, V5) == packet
    bare = msgspec.structs.replace(packet, properties=NONE)
    assert there_and_back(bare, V3) == bare


def read_or_fault(first: int, body: bytes, version: int) -> p.Packet | MalformedPacket:
    """The packet, or the one error that bytes may cause."""
    try:
        return decode(first, body, version)
    except MalformedPacket as error:
        return error


@given(st.integers(0, 255), st.binary(max_size=120), st.sampled_from([V3, V5]))
def test_any_bytes_are_a_packet_or_a_fault(first: int, body: bytes, version: int) -> None:
    read = read_or_fault(first, body, version)
    if isinstance(read, MalformedPacket):
        assert read.message
    else:
        version = read.version if isinstance(read, p.Connect) else version
        assert there_and_back(read, version) == read


@given(st.sampled_from(PACKETS_5 + PACKETS_3), st.data())
def test_a_packet_with_one_byte_changed_is_a_packet_or_a_fault(
    packet: p.Packet, data: st.DataObject
) -> None:
    version = V5 if packet in PACKETS_5 else V3
    first, body = split(encode(packet, version))
    at = data.draw(st.integers(0, max(0, len(body) - 1)))
    changed = body[:at] + bytes((data.draw(st.integers(0, 255)),)) + body[at + 1 :]
    read = read_or_fault(first, changed, version)
    assert not isinstance(read, MalformedPacket) or read.message


def test_types_are_those_of_the_fixed_header() -> None:
    assert [t.value for t in Type] == list(range(16))
