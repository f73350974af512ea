"""Hono's messages as Kafka records, and commands read from them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.hono.kafka_records import (
    COMMAND_TOPICS,
    Record,
    RecordEncoder,
    encode_response,
    encode_value,
    read_command,
    topics_of,
)
from gateway.hono.request_ids import (
    encode_amqp_reply_to,
    encode_request_id,
    parse_amqp_reply_to,
    parse_request_id,
)
from gateway.model.message import (
    EMPTY_NOTIFICATION,
    CommandResponse,
    Kind,
    Message,
    MessagingType,
)
from gateway.model.trace import TraceContext

TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def a_message(payload: bytes = b"21", **more: Any) -> Message:
    given: dict[str, Any] = {
        "tenant": "acme",
        "device": "4711",
        "kind": Kind.TELEMETRY,
        "qos": 1,
        "at": 1_700_000_000.123,
        "trace": TRACE,
        "content_type": "text/plain",
        "adapter": "hono-mqtt",
        "address": "t",
        **more,
    }
    return Message(payload=payload, **given)


def headers_of(record: Record) -> dict[str, bytes]:
    found = dict(record.headers)
    assert len(found) == len(record.headers), "a header came twice"
    assert all(isinstance(value, bytes) for value in found.values())
    return found  # type: ignore[return-value]


def encoded(message: Message) -> Record:
    return RecordEncoder().encode(message, message.trace)


def test_telemetry_has_topic_key_value_and_honos_headers() -> None:
    record = encoded(a_message())
    assert (record.topic, record.key, record.value) == ("hono.telemetry.acme", b"4711", b"21")
    assert headers_of(record) == {
        "content-type": b"text/plain",
        "creation-time": b"1700000000123",
        "device_id": b"4711",
        "qos": b"1",
        "orig_adapter": b"hono-mqtt",
        "orig_address": b"t",
        "traceparent": TRACE.traceparent.encode(),
    }


def test_an_event_goes_to_its_own_topic_with_its_ttl_in_milliseconds() -> None:
    record = encoded(a_message(kind=Kind.EVENT, ttl=10.5))
    assert record.topic == "hono.event.acme"
    assert headers_of(record)["ttl"] == b"10500"


def test_an_empty_notification_has_no_value_but_its_type_and_ttd() -> None:
    record = encoded(a_message(b"", content_type=EMPTY_NOTIFICATION, ttd=-1))
    assert record.value is None
    found = headers_of(record)
    assert (found["content-type"], found["ttd"]) == (EMPTY_NOTIFICATION.encode(), b"-1")


def test_a_payload_without_a_type_is_octets_and_an_empty_one_has_none() -> None:
    assert headers_of(encoded(a_message(content_type=None)))["content-type"] == (
        b"application/octet-stream"
    )
    assert "content-type" not in headers_of(encoded(a_message(b"", content_type=None)))


def test_marks_travel_only_where_they_are_set() -> None:
    plain = headers_of(encoded(a_message()))
    marked = headers_of(encoded(a_message(retain=True, duplicate=True)))
    assert set(marked) - set(plain) == {"x-opt-retain", "x-opt-twinspan-duplicate"}
    assert marked["x-opt-retain"] == b"true"


def test_a_tracestate_travels_too() -> None:
    trace = TraceContext(TRACE.trace_id, TRACE.span_id, 1, "a=b")
    assert headers_of(RecordEncoder().encode(a_message(), trace))["tracestate"] == b"a=b"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("höhe", "höhe".encode()),
        (1, b"1"),
        (True, b"true"),
        (1.5, b"1.5"),
        ("1", b"1"),
        (-7, b"-7"),
    ],
)
def test_a_string_is_plain_and_anything_else_is_json(value: Any, expected: bytes) -> None:
    assert encode_value(value) == expected


def test_defaults_become_headers_and_cannot_overwrite_what_we_say() -> None:
    record = encoded(
        a_message(properties={"importance": "high", "floor": 3, "device_id": "x", "ttl": 1})
    )
    found = headers_of(record)
    assert (found["importance"], found["floor"], found["device_id"]) == (b"high", b"3", b"4711")
    assert "ttl" not in found


def test_what_messages_have_in_common_is_made_once_and_not_mixed_up() -> None:
    encoder = RecordEncoder()
    for properties in ({"x": 1}, {"x": True}, {"x": 1}, {"y": "z"}):
        message = a_message(properties=properties)
        found = headers_of(encoder.encode(message, TRACE))
        [(name, value)] = properties.items()
        assert found[name] == encode_value(value)
    assert headers_of(encoder.encode(a_message(qos=0), TRACE))["qos"] == b"0"


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1), st.booleans()),
        max_size=4,
    ),
    st.one_of(st.none(), st.floats(0, 1e6)),
)
def test_every_message_makes_headers_of_bytes_that_come_once(
    properties: dict[str, Any], ttl: float | None
) -> None:
    headers_of(encoded(a_message(properties=properties, ttl=ttl)))


def test_a_response_names_tenant_device_status_and_correlation() -> None:
    response = CommandResponse(
        tenant="acme",
        device="4711",
        reply_id="",
        correlation_id="c-1",
        status=200,
        payload=b"ok",
        at=1_700_000_000.0,
        ttl=3.0,
        properties={"importance": "low", "status": 500},
    )
    record = encode_response(response, TRACE)
    assert (record.topic, record.key, record.value) == (
        "hono.command_response.acme",
        b"4711",
        b"ok",
    )
    assert headers_of(record) == {
        "correlation-id": b"c-1",
        "device_id": b"4711",
        "tenant_id": b"acme",
        "status": b"200",
        "creation-time": b"1700000000000",
        "content-type": b"application/octet-stream",
        "ttl": b"3000",
        "importance": b"low",
        "traceparent": TRACE.traceparent.encode(),
    }


def test_a_tenant_has_four_topics_and_the_pattern_matches_commands_alone() -> None:
    names = topics_of("acme")
    assert names == (
        "hono.telemetry.acme",
        "hono.event.acme",
        "hono.command.acme",
        "hono.command_response.acme",
    )
    others = ("hono.command_internal.x", "xhono.command.acme", "hono.command.")
    assert [n for n in (*names, *others) if re.match(COMMAND_TOPICS, n)] == ["hono.command.acme"]


# --- commands ------------------------------------------------------------------------------------------

GIVEN = {
    "device_id": b"4711",
    "subject": b"blink",
    "correlation-id": b"c-1",
    "response-required": b"true",
    "content-type": b"text/plain",
    "traceparent": TRACE.traceparent.encode(),
}


def read(value: bytes | None = b"on", key: bytes | None = b"4711", **changes: Any) -> Any:
    headers = {**GIVEN, **{name.replace("_", "-"): v for name, v in changes.items()}}
    if "device-id" in headers:
        headers["device_id"] = headers.pop("device-id")
    given = [(name, v) for name, v in headers.items() if v is not None]
    return read_command("hono.command.acme", key, value, given)


def test_a_command_that_wants_a_response_is_read() -> None:
    record = read()
    command = record.command
    assert (command.tenant, command.device, command.name) == ("acme", "4711", "blink")
    assert (command.payload, command.content_type) == (b"on", "text/plain")
    assert command.messaging is MessagingType.KAFKA
    assert not command.is_one_way
    assert command.correlation_id == "c-1"
    assert command.trace == TraceContext.parse(TRACE.traceparent)
    assert record.expires is None


@pytest.mark.parametrize("required", [None, b"false", b"1", b"TRUE"])
def test_without_response_required_a_command_is_one_way(required: bytes | None) -> None:
    command = read(response_required=required, correlation_id=None).command
    assert command.is_one_way
    assert encode_request_id(command) == ""


@pytest.mark.parametrize(
    ("key", "device"), [(b"4711", None), (b"4711", b""), (b"other", b"4711"), (None, b"4711")]
)
def test_a_record_that_names_no_device_is_dropped(key: bytes | None, device: bytes | None) -> None:
    with pytest.raises(BadRequest):
        read(key=key, device_id=device)


@pytest.mark.parametrize("changes", [{"subject": None}, {"subject": b""}, {"subject": b"\xff"}])
def test_a_command_without_a_name_is_malformed_and_says_whom_to_tell(changes: Any) -> None:
    record = read(**changes)
    assert record.command is None
    assert (record.correlation_id, record.response_required) == ("c-1", True)


def test_a_response_cannot_be_wanted_without_a_correlation_id() -> None:
    assert read(correlation_id=None).command is None
    assert read(correlation_id=b"").command is None


@pytest.mark.parametrize(
    ("ttl", "created", "expires"),
    [
        (b"1500", b"1700000000000", 1_700_000_001.5),
        (b"1500", None, None),
        (None, b"1700000000000", None),
        (b"soon", b"1700000000000", None),
        (b"9" * 40, b"1700000000000", None),
    ],
)
def test_a_command_expires_by_its_creation_time_and_ttl(
    ttl: bytes | None, created: bytes | None, expires: float | None
) -> None:
    assert read(ttl=ttl, creation_time=created).expires == expires


def test_metadata_for_a_failure_notification_is_kept_and_bounded() -> None:
    prefix = "delivery-failure-notification-metadata"
    headers = [*GIVEN.items(), (prefix, b"a"), (f"{prefix}-x", b"b"), (prefix, b"second")]
    record = read_command("hono.command.acme", b"4711", b"", headers)
    assert record.metadata == {prefix: "a", f"{prefix}-x": "b"}
    many = [*GIVEN.items(), *((f"{prefix}-{i}", b"") for i in range(1_000))]
    assert len(read_command("hono.command.acme", b"4711", b"", many).metadata) == 64


@given(st.lists(st.tuples(st.text(max_size=20), st.one_of(st.none(), st.binary(max_size=20)))))
def test_no_headers_break_the_reader(headers: list[tuple[str, bytes | None]]) -> None:
    given = [("device_id", b"4711"), *headers]
    record = read_command("hono.command.acme", b"4711", None, given)
    assert record.device == "4711"


# --- request ids -----------------------------------------------------------------------------------------


def test_a_request_id_of_kafka_has_its_flag_and_no_reply_id() -> None:
    command = read().command
    assert encode_request_id(command) == "203c-1"
    assert parse_request_id("203c-1", "acme", "4711") == ("c-1", "")


def test_an_amqp_device_gets_a_reply_address_with_the_flag_alone() -> None:
    command = read().command
    assert encode_amqp_reply_to(command) == "command_response/acme/4711/2"
    assert parse_amqp_reply_to("command_response/acme/4711/2") == ("acme", "4711", "")


@pytest.mark.parametrize("request_id", ["203c-1app", "003c-1", "403c-1", "603c-1", "200"])
def test_a_request_id_whose_flag_and_reply_id_disagree_is_refused(request_id: str) -> None:
    with pytest.raises(BadRequest):
        parse_request_id(request_id, "acme", "4711")


@pytest.mark.parametrize("tail", ["2app", "0", "4", "", "x"])
def test_so_is_such_a_reply_address(tail: str) -> None:
    with pytest.raises(BadRequest):
        parse_amqp_reply_to(f"command_response/acme/4711/{tail}")
