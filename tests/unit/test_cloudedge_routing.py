"""The router's messages on the link: KubeEdge's exact form, round trips, bad input."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from gateway.errors import MalformedPacket, TooLarge
from gateway.model.json import JsonObject
from gateway.model.message import Kind, SpoolId
from gateway.wire.cloudedge.envelope import Envelope, Stamp, decode, encode
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.routing import (
    MAX_SERVICE_BODY,
    RouterUpload,
    ServiceBusAnswer,
    ServiceBusCall,
    ServiceBusTarget,
    ServiceBusUpload,
    ServiceReply,
    allow_target,
    answer_service,
    bus_command,
    call_service,
    decode_service_body,
    read_service_reply,
    reply_to_service,
    upload_from_service,
)
from gateway.wire.cloudedge.to_cloud import read_to_cloud
from gateway.wire.cloudedge.to_edge import Answer, BusCommand, read_to_edge
from gateway.wire.cloudedge.uploads import EdgeUpload, upload

STAMP = Stamp("A", 1_795_377_599_127)


def over_the_wire(envelope: Envelope) -> Envelope:
    return decode(encode(envelope))


def body_of(envelope: Envelope) -> JsonObject:
    body: JsonObject = json.loads(encode(envelope))
    return body


def a_call(body: bytes = b"hello") -> ServiceBusCall:
    return ServiceBusCall(
        "A", 8765, "/x/y", "POST", {"Content-Type": ["text/plain", "a"], "X-Empty": []}, body
    )


def test_a_publish_for_the_edge_is_text_on_the_topic() -> None:
    sent = bus_command(STAMP, Operation.PUBLISH, "test/sub/x", b"hello body")
    assert body_of(sent)["route"] == {
        "source": "router_eventbus",
        "group": "user",
        "operation": "publish",
        "resource": "test/sub/x",
    }
    assert body_of(sent)["content"] == "hello body"
    assert read_to_edge(over_the_wire(sent)) == BusCommand("publish", "test/sub/x", b"hello body")


def test_a_subscription_has_no_content() -> None:
    sent = bus_command(STAMP, Operation.SUBSCRIBE, "default/up")
    assert body_of(sent)["content"] is None
    assert read_to_edge(over_the_wire(sent)) == BusCommand("subscribe", "default/up", b"")


def test_a_publish_that_is_no_text_is_refused() -> None:
    with pytest.raises(MalformedPacket, match="UTF-8"):
        bus_command(STAMP, Operation.PUBLISH, "t", b"\xff")


def test_a_call_has_kubeedges_form() -> None:
    body = body_of(call_service(STAMP, a_call()))
    assert body["route"] == {
        "source": "router_servicebus",
        "group": "user",
        "operation": "POST",
        "resource": "8765:/x/y",
    }
    assert body["content"] == {
        "header": {"Content-Type": ["text/plain", "a"], "X-Empty": []},
        "body": "aGVsbG8=",
        "method": "POST",
        "url": "",
    }


def test_a_call_is_read_with_id_port_path_and_body() -> None:
    assert read_to_edge(over_the_wire(call_service(STAMP, a_call()))) == a_call()


def test_nil_body_and_header_of_a_go_cloud_are_empty() -> None:
    frame = {
        "header": {"msg_id": "A"},
        "route": {
            "source": "router_servicebus",
            "group": "user",
            "operation": "GET",
            "resource": "80:x?a=b",
        },
        "content": {"header": {"X": None}, "body": None, "method": "GET", "url": ""},
    }
    call = read_to_edge(decode(json.dumps(frame)))
    assert call == ServiceBusCall("A", 80, "/x?a=b", "GET", {"X": []}, b"")


def test_an_answer_goes_up_with_the_call_as_parent() -> None:
    sent = answer_service(a_call(), STAMP, 201, {"Content-Type": ["text/plain"]}, b"made")
    body = body_of(sent)
    assert body["route"] == {"source": "servicebus", "group": "user", "operation": "upload"}
    assert body["content"] == {
        "status_code": 201,
        "header": {"Content-Type": ["text/plain"]},
        "body": base64.b64encode(b"made").decode(),
    }
    assert read_to_cloud(over_the_wire(sent)) == ServiceBusAnswer(
        "A", 201, {"Content-Type": ["text/plain"]}, b"made"
    )


def test_targets_are_allowed_and_forbidden() -> None:
    url = "http://shop.example/orders"
    for is_allowed in (True, False):
        sent = allow_target(STAMP, url, is_allowed=is_allowed)
        assert body_of(sent)["content"] is None
        assert read_to_edge(over_the_wire(sent)) == ServiceBusTarget(url, is_allowed)


def test_a_request_of_a_service_is_base64_text_as_kubeedge_sends_it() -> None:
    sent = upload_from_service(STAMP, "http://shop.example", b'{"a":1}')
    assert body_of(sent)["content"] == base64.b64encode(b'{"a":1}').decode()
    message = read_to_cloud(over_the_wire(sent))
    assert isinstance(message, ServiceBusUpload)
    assert message.target == "http://shop.example"
    assert decode_service_body(message.body) == b'{"a":1}'
    assert decode_service_body(b'{"a":1}') == b'{"a":1}'


def test_a_publish_without_kind_or_device_is_for_the_router() -> None:
    for topic in ("default/up", "SYS/dis/upload_records", "telemetry"):
        sent = upload(STAMP, EdgeUpload(topic=topic, payload=b"from edge"))
        assert read_to_cloud(over_the_wire(sent)) == RouterUpload(topic, b"from edge")


def test_telemetry_and_what_waits_for_an_answer_is_not_for_the_router() -> None:
    plain = upload(STAMP, EdgeUpload(topic="t//default:d", payload=b"1"))
    message = read_to_cloud(over_the_wire(plain))
    assert isinstance(message, EdgeUpload)
    assert (message.kind, message.device) == (Kind.TELEMETRY, "default:d")
    spooled = EdgeUpload(topic="x", payload=b"1", spool=SpoolId("e", "l", 1))
    assert isinstance(read_to_cloud(over_the_wire(upload(STAMP, spooled))), EdgeUpload)


def test_a_request_of_a_service_is_answered_in_kubeedge_s_form_or_with_its_status() -> None:
    asked = upload_from_service(STAMP, "http://shop.example", b"1")
    route = {
        "source": "servicebus",
        "group": "user",
        "operation": "response",
        "resource": "http://shop.example",
    }
    reply = ServiceReply(404, b"none")
    text = reply_to_service(asked, STAMP, reply, as_text=True)
    assert (body_of(text)["route"], body_of(text)["content"]) == (route, "none")
    assert read_service_reply(over_the_wire(text).content) == ServiceReply(200, b"none")
    ours = reply_to_service(asked, STAMP, reply, as_text=False)
    assert body_of(ours)["content"] == {"status_code": 404, "header": None, "body": "bm9uZQ=="}
    assert read_service_reply(over_the_wire(ours).content) == reply
    answer = read_to_edge(over_the_wire(ours))
    assert isinstance(answer, Answer)
    assert answer.parent_id == asked.msg_id


def test_a_text_that_looks_like_our_answer_is_a_text() -> None:
    asked, text = upload_from_service(STAMP, "t", b"1"), b'{"status_code":500,"body":"eA=="}'
    sent = reply_to_service(asked, STAMP, ServiceReply(200, text), as_text=True)
    assert read_service_reply(over_the_wire(sent).content) == ServiceReply(200, text)


@pytest.mark.parametrize("content", [{}, {"status_code": 1}, {"status_code": 200, "body": "%"}])
def test_an_odd_reply_is_refused(content: object) -> None:
    with pytest.raises(MalformedPacket):
        read_service_reply(Raw(json.dumps(content).encode()))


@pytest.mark.parametrize(
    "resource",
    [
        "",
        "x:/y",
        "0:/y",
        "65536:/y",
        "-1:/",
        "80:/a b",
        "80:/a\r\nHost: x",
        "9999999999999:/",
        "٣:/",
    ],
)
def test_a_call_to_no_port_or_path_is_refused(resource: str) -> None:
    route = {"source": "router_servicebus", "group": "user", "operation": "GET"}
    frame = {
        "header": {"msg_id": "A"},
        "route": {**route, "resource": resource},
        "content": {"body": ""},
    }
    with pytest.raises(MalformedPacket, match="resource"):
        read_to_edge(decode(json.dumps(frame)))


@pytest.mark.parametrize(
    ("operation", "content"),
    [
        ("BREW", {}),
        ("get", {}),
        ("GET", []),
        ("GET", {"body": "%"}),
        ("GET", {"header": {"a": "b"}}),
        ("GET", {"header": {f"h{i}": [] for i in range(101)}}),
        ("start", None),
    ],
)
def test_an_odd_call_is_refused(operation: str, content: object) -> None:
    resource = "" if operation == "start" else "80:/"
    frame = {
        "header": {"msg_id": "A"},
        "route": {
            "source": "router_servicebus",
            "group": "user",
            "operation": operation,
            "resource": resource,
        },
        "content": content,
    }
    with pytest.raises(MalformedPacket):
        read_to_edge(decode(json.dumps(frame)))


@pytest.mark.parametrize(
    "content",
    [None, {}, {"status_code": 99}, {"status_code": "200"}, {"status_code": 200, "body": "%"}],
)
def test_an_odd_answer_is_refused(content: object) -> None:
    frame = {
        "header": {"msg_id": "B", "parent_msg_id": "A"},
        "route": {"source": "servicebus", "group": "user", "operation": "upload"},
        "content": content,
    }
    with pytest.raises(MalformedPacket):
        read_to_cloud(decode(json.dumps(frame)))


def test_a_body_that_does_not_fit_the_link_is_refused_with_the_number() -> None:
    assert len(encode(call_service(STAMP, a_call(bytes(MAX_SERVICE_BODY))))) < 8 * 1024 * 1024
    with pytest.raises(TooLarge, match=str(MAX_SERVICE_BODY)):
        call_service(STAMP, a_call(bytes(MAX_SERVICE_BODY + 1)))


_headers = st.dictionaries(
    st.text(max_size=20), st.lists(st.text(max_size=20), max_size=3), max_size=5
)


@given(st.binary(max_size=300), _headers, st.integers(100, 599), st.integers(1, 65_535))
def test_every_call_and_answer_survives_the_wire(
    body: bytes, headers: dict[str, list[str]], status: int, port: int
) -> None:
    call = ServiceBusCall("A", port, "/p?q=%20", "PUT", headers, body)
    assert read_to_edge(over_the_wire(call_service(STAMP, call))) == call
    answer = read_to_cloud(over_the_wire(answer_service(call, STAMP, status, headers, body)))
    assert answer == ServiceBusAnswer("A", status, headers, body)
