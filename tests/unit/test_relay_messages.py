"""What the relay writes and reads at a remote Hono: topics, messages, reply ids."""

from __future__ import annotations

import pytest

from gateway.errors import BadRequest, GatewayError, MalformedPacket
from gateway.hono.remote.amqp import command_of as amqp_command
from gateway.hono.remote.amqp import upload_message
from gateway.hono.remote.mqtt_topics import command_of as mqtt_command
from gateway.hono.remote.mqtt_topics import failure_of, response_topic, upload_topic
from gateway.hono.remote.replies import decode_reply, encode_reply, is_reply
from gateway.hono.remote.uplink import NotTaken, Refused, refusal
from gateway.model.message import CommandResponse, Kind, Message
from gateway.model.trace import TraceContext
from gateway.wire.amqp.message import AmqpMessage, Data, Properties, encode_message
from gateway.wire.mqtt.packets import Publish

QUIET = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 0)
SAMPLED = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1, "a=1")


def a_message(**more: object) -> Message:
    given: dict[str, object] = {
        "tenant": "acme",
        "device": "ns:lamp",
        "kind": Kind.EVENT,
        "qos": 1,
        "payload": b"x",
        "at": 1.0,
        "trace": QUIET,
        **more,
    }
    return Message(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "topic"),
    [
        (a_message(), "event//ns:lamp"),
        (a_message(kind=Kind.TELEMETRY, ttl=9.0), "telemetry//ns:lamp"),
        (
            a_message(content_type="text/plain; a=b&c", ttl=0.4),
            "event//ns:lamp/?content-type=text%2Fplain%3B%20a%3Db%26c&hono-ttl=1",
        ),
        (a_message(duplicate=True), "event//ns:lamp/?x-opt-twinspan-duplicate=true"),
        (
            a_message(trace=SAMPLED),
            f"event//ns:lamp/?traceparent={SAMPLED.traceparent}&tracestate=a%3D1",
        ),
    ],
)
def test_the_topic_of_an_upload(message: Message, topic: str) -> None:
    assert upload_topic(message) == topic


def test_the_message_of_an_upload() -> None:
    message = upload_message(a_message(ttl=1.5, content_type="a/b", duplicate=True, retain=True))
    assert message.properties == Properties(to="event//ns:lamp", content_type="a/b")
    assert (message.header.durable, message.header.ttl) == (True, 1_500)
    annotations = message.message_annotations or {}
    assert annotations["x-opt-twinspan-duplicate"] is True
    assert annotations["x-opt-retain"] is True
    telemetry = upload_message(a_message(kind=Kind.TELEMETRY, ttl=1.5, payload=b""))
    assert telemetry.header.ttl is None
    assert telemetry.body is None


@pytest.mark.parametrize("facts", [("a",), ("tenant", "0reply/with\nlines", "c\x00"), ("", "é")])
def test_a_reply_id_gives_back_what_it_was_made_of(facts: tuple[str, ...]) -> None:
    reply_id = encode_reply(*facts)
    assert is_reply(reply_id)
    assert "/" not in reply_id
    assert decode_reply(reply_id, len(facts)) == list(facts)


@pytest.mark.parametrize("text", ["remote.", "remote.@", "remote.AAAA", encode_reply("a", "b")])
def test_a_made_up_reply_id_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        decode_reply(text, 1)


def test_a_device_cannot_make_another_topic_of_its_answer() -> None:
    response = CommandResponse(
        tenant="acme",
        device="d1",
        reply_id=encode_reply("x/200/?content-type=y"),
        correlation_id="-",
        status=200,
    )
    with pytest.raises(BadRequest):
        response_topic(response)


# --- commands -----------------------------------------------------------------------------------------


def test_commands_over_mqtt() -> None:
    asked = mqtt_command(Publish("command//d1/req/00abc/a/b", b"on", 1), "acme")
    assert (asked.tenant, asked.device, asked.name, asked.payload) == ("acme", "d1", "a/b", b"on")
    assert asked.reply_to == f"command_response/acme/{encode_reply('00abc')}"
    assert asked.correlation_id
    one_way = mqtt_command(Publish("command//d1/req//set", b"on", 1), "acme")
    assert (one_way.reply_to, one_way.correlation_id, one_way.name) == (None, None, "set")


@pytest.mark.parametrize("topic", ["command//d1/req/1", "command///req//x", "command//d1/req//"])
def test_a_broken_command_topic_is_refused(topic: str) -> None:
    with pytest.raises(BadRequest):
        mqtt_command(Publish(topic, b"", 1), "acme")


def a_command(**changes: object) -> bytes:
    given: dict[str, object] = {
        "to": "command/far/d1",
        "subject": "set",
        "reply_to": "command_response/far/d1/0r/1",
        "correlation_id": "c",
        **changes,
    }
    return encode_message(AmqpMessage(properties=Properties(**given), body=Data(b"on")))  # type: ignore[arg-type]


def test_commands_over_amqp() -> None:
    asked = amqp_command(a_command(), "acme")
    assert (asked.tenant, asked.device, asked.name, asked.payload) == ("acme", "d1", "set", b"on")
    assert asked.reply_to == f"command_response/acme/{encode_reply('far', '0r/1', 'c')}"
    assert amqp_command(a_command(reply_to=None, correlation_id=None), "acme").is_one_way


@pytest.mark.parametrize(
    "changes",
    [
        {"to": None},
        {"to": "command/far"},
        {"to": "command/far/"},
        {"subject": None},
        {"correlation_id": None},
        {"correlation_id": 7},
        {"reply_to": "command_response/far/d1"},
        {"reply_to": "command_response/far/other/0r"},
        {"reply_to": "elsewhere/far/d1/0r"},
    ],
)
def test_a_broken_command_message_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        amqp_command(a_command(**changes), "acme")


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(MalformedPacket):
        amqp_command(b"\x00\x53", "acme")


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Refused) for status in (400, 403, 404, 413)),
        *((status, NotTaken) for status in (429, 500, 503)),
    ],
)
def test_which_refusals_are_final(status: int, outcome: type[GatewayError]) -> None:
    error = refusal(status, "text")
    assert type(error) is outcome
    assert error.message == "text"


def test_errors_over_mqtt() -> None:
    failure = failure_of(Publish("error//d1/event/17/404", b'{"code":404,"message":"who?"}'))
    assert failure is not None
    assert (failure.packet_id, type(failure.error), failure.error.message) == (17, Refused, "who?")
    unknown = failure_of(Publish("error//d1/telemetry/-1/503", b"not json"))
    assert unknown is not None
    assert (unknown.packet_id, type(unknown.error)) == (None, NotTaken)
    assert failure_of(Publish("error//d1/x", b"")) is None
    assert failure_of(Publish("telemetry//d1/event/17/404", b"")) is None
