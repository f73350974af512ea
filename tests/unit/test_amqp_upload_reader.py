"""What stands before the data of a device's AMQP message is read once; uploads are as if read alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, GatewayError
from gateway.hono.adapters import amqp_links
from gateway.hono.adapters.amqp_links import UploadReader, upload_or_response
from gateway.model.message import DUPLICATE, CommandResponse, Kind, Principal, Upload
from gateway.wire.amqp.link import Incoming
from gateway.wire.amqp.message import (
    AmqpMessage,
    Data,
    Header,
    Properties,
    Value,
    decode_message,
    encode_message,
    last_data_section,
)
from gateway.wire.amqp.values import Int, Symbol

SENDER = Principal("acme", "4711", "sensor1")
OTHER = Principal("acme", "4712", "sensor2")
BODIES = st.one_of(
    st.builds(Data, st.binary(max_size=300)),
    st.builds(Value, st.text(max_size=9) | st.binary(max_size=9) | st.none()),
    st.none(),
)
MESSAGES = st.builds(
    AmqpMessage,
    header=st.sampled_from((Header(), Header(ttl=5_000), Header(durable=True))),
    message_annotations=st.sampled_from((None, {"x-opt-a": "b"}, {Symbol(DUPLICATE): True})),
    properties=st.builds(
        Properties,
        to=st.sampled_from(("telemetry", "event", "t/acme/1", "e//2", "nowhere", "a/b/c/d", None)),
        content_type=st.sampled_from((None, "text/plain")),
    ),
    application_properties=st.sampled_from((None, {"status": Int(200)}, {"k": "x" * 600})),
    body=BODIES,
    footer=st.sampled_from((None, {"sum": 1})),
)


def incoming(message: AmqpMessage, *, settled: bool = False) -> Incoming:
    return Incoming(1, b"1", encode_message(message), settled, 0)


def telemetry(payload: bytes = b"x", to: str = "telemetry", **more: object) -> AmqpMessage:
    properties = Properties(to=to, content_type="text/plain")
    return AmqpMessage(properties=properties, body=Data(payload), **more)  # type: ignore[arg-type]


def outcome(read: Callable[[], Upload | CommandResponse]) -> object:
    try:
        return read()
    except GatewayError as error:
        return type(error), error.message


@given(st.lists(st.tuples(MESSAGES, st.booleans(), st.sampled_from((SENDER, OTHER, None)))))
def test_uploads_read_one_after_the_other_are_as_if_read_alone(
    given_messages: list[tuple[AmqpMessage, bool, Principal | None]],
) -> None:
    reader = UploadReader()
    for message, settled, principal in given_messages * 2:
        delivery = incoming(message, settled=settled)
        alone = outcome(lambda: upload_or_response(delivery, principal))  # noqa: B023  called at once
        assert outcome(lambda: reader.read(delivery, principal)) == alone  # noqa: B023


@given(MESSAGES)
def test_the_data_section_that_is_found_holds_the_payload(message: AmqpMessage) -> None:
    data = encode_message(message)
    found = last_data_section(data)
    is_last = isinstance(message.body, Data) and message.footer is None
    assert (found is not None) == is_last
    if found is not None:
        assert data[found[1] :] == message.body.payload  # type: ignore[union-attr]
        assert decode_message(data[: found[0]]).properties == message.properties


@given(MESSAGES, st.integers(1, 40), st.binary(max_size=40))
def test_broken_messages_have_no_data_section_or_one_of_their_own_bytes(
    message: AmqpMessage, cut: int, noise: bytes
) -> None:
    for data in (encode_message(message)[:-cut], noise, encode_message(message) + noise):
        found = last_data_section(data)
        assert found is None or 0 <= found[0] < found[1] <= len(data)


def test_the_second_message_of_a_kind_needs_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = UploadReader()
    first = reader.read(incoming(telemetry(b"1")), SENDER)
    monkeypatch.setattr(amqp_links, "decode_message", None)  # whoever called it would fail
    second = reader.read(incoming(telemetry(b"2"), settled=True), OTHER)
    assert isinstance(first, Upload)
    assert isinstance(second, Upload)
    assert (first.payload, first.qos, first.principal) == (b"1", 1, SENDER)
    assert (second.payload, second.qos, second.principal) == (b"2", 0, OTHER)


def test_an_event_that_comes_settled_is_refused_also_when_its_properties_are_known() -> None:
    reader = UploadReader()
    known = reader.read(incoming(telemetry(to="event")), SENDER)
    assert isinstance(known, Upload)
    assert known.kind is Kind.EVENT
    with pytest.raises(BadRequest):
        reader.read(incoming(telemetry(to="event"), settled=True), SENDER)


def test_what_is_kept_is_bounded() -> None:
    reader = UploadReader()
    for number in range(amqp_links.KEPT + 5):
        reader.read(incoming(telemetry(to=f"telemetry//{number}")), SENDER)
    reader.read(
        incoming(telemetry(application_properties={"k": "x" * amqp_links.MAX_HEAD})), SENDER
    )
    assert 0 < len(reader._drafts) <= 5
