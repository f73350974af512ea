"""Messages of the cloud-edge link: golden samples, round trips, bad input."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from gateway.errors import GatewayError, MalformedPacket, NoConsumer, NotBuilt, TooLarge
from gateway.model.message import Kind, SpoolId
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge import to_cloud, to_edge
from gateway.wire.cloudedge.control import ControlAsked
from gateway.wire.cloudedge.envelope import (
    Envelope,
    Route,
    Stamp,
    data_of,
    decode,
    encode,
    json_of,
    make,
    text_of,
)
from gateway.wire.cloudedge.names import (
    MAX_NODE_NAME,
    Group,
    Operation,
    Source,
    check_node_name,
    common_name,
    node_of,
)
from gateway.wire.cloudedge.subjects import DeviceKey, Subject
from gateway.wire.cloudedge.to_cloud import read_to_cloud
from gateway.wire.cloudedge.to_edge import ApiFailure, read_to_edge
from gateway.wire.cloudedge.twins import (
    TWIN_UPDATE,
    MemberDevice,
    MembershipList,
    MembershipUpdate,
    StateUpdate,
    Twin,
    TwinUpdate,
    TwinValue,
    TwinVersion,
    ValueMetadata,
    read,
)
from gateway.wire.cloudedge.uploads import (
    EdgeUpload,
    Verdict,
    answer_upload,
    read_upload,
    read_upload_answer,
    upload,
)

STAMP = Stamp("1f0f3c1e-6f6b-4a0e-9d7d-2b1f5f0f7a01", 1_795_377_599_127)
TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1)
DEVICE = DeviceKey("default", "lamp")


def over_the_wire(envelope: Envelope) -> Envelope:
    return decode(encode(envelope))


def frame(operation: str = "", resource: str = "", content: object = None, **route: str) -> str:
    """A frame as a Go peer writes it, newline and all."""
    body = {
        "header": {"msg_id": "m1", "timestamp": 1_795_377_598_906},
        "route": {"operation": operation, "resource": resource, **route},
        "content": content,
    }
    return json.dumps(body) + "\n"


# --- envelope ------------------------------------------------------------------------------------


def test_an_answer_of_a_go_cloud_is_read_with_parent_and_nested_content() -> None:
    text = (
        '{"header":{"msg_id":"52d9","parent_msg_id":"6815","timestamp":1795377599127},'
        '"route":{"source":"edgecontroller","group":"resource","operation":"response",'
        '"resource":"kube-node-lease/lease/edge-1"},'
        '"content":{"Object":null,"Err":{"ErrStatus":{"metadata":{},"status":"Failure",'
        '"message":"leases \\u003cedge-1\\u003e not found","reason":"NotFound","code":404}}}}\n'
    )
    answer = read_to_edge(decode(text))
    assert isinstance(answer, to_edge.Answer)
    assert (answer.parent_id, answer.resource) == ("6815", "kube-node-lease/lease/edge-1")
    assert to_edge.read_result(answer.content) == ApiFailure(
        404, "NotFound", "leases <edge-1> not found"
    )


def test_header_and_route_keys_that_are_null_are_absent() -> None:
    text = (
        '{"header":{"msg_id":"m1","parent_msg_id":null,"timestamp":7,"spool":null,"sync":null},'
        '"route":{"source":"edged","group":null},"content":{"a":null}}'
    )
    envelope = decode(text)
    assert (envelope.msg_id, envelope.parent_id, envelope.header.timestamp) == ("m1", "", 7)
    assert envelope.route == Route(source="edged")
    assert json_of(envelope.content) == {"a": None}
    assert decode('{"header":{"msg_id":"m1"},"route":null}').route == Route()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"header":{"msg_id":null}}', r"\$.header.msg_id"),
        ('{"header":{"msg_id":"m","timestamp":"x","sync":null}}', r"\$.header.timestamp"),
        ('{"header":null}', r"\$.header"),
        ('{"header":[],"route":null}', r"\$.header"),
    ],
)
def test_what_is_wrong_beside_nulls_is_named(text: str, told: str) -> None:
    with pytest.raises(MalformedPacket, match=told):
        decode(text)


def test_header_keys_that_are_empty_are_left_out_and_content_is_always_written() -> None:
    envelope = make(STAMP, Route(source="websocket", resource="node"))
    assert json.loads(encode(envelope)) == {
        "header": {"msg_id": STAMP.msg_id, "timestamp": STAMP.millis},
        "route": {"source": "websocket", "resource": "node"},
        "content": None,
    }


def test_trace_context_travels_in_header_keys_that_go_does_not_know() -> None:
    envelope = make(STAMP, Route(), trace=TRACE)
    assert json.loads(encode(envelope))["header"]["traceparent"] == TRACE.traceparent
    assert over_the_wire(envelope).trace == TRACE


def test_a_broken_traceparent_means_no_trace() -> None:
    envelope = decode('{"header":{"msg_id":"a","traceparent":"00-zz"},"route":{},"content":null}')
    assert envelope.trace is None


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        ('{"a":1}', b'{"a":1}'),
        ('"{\\"a\\":1}"', b'{"a":1}'),
        ("null", b"null"),
        ('"OK"', b"OK"),
        ('"aGk="', b"aGk="),
        (" [1]", b"[1]"),
    ],
)
def test_content_is_seen_as_a_go_receiver_sees_it(content: str, seen: bytes) -> None:
    envelope = decode(f'{{"header":{{"msg_id":"a"}},"content":{content}}}')
    assert data_of(envelope.content) == seen


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "truncated"),
        ("{}", "header"),
        ("[]", "object"),
        ('{"header":{"msg_id":""}}', "msg_id"),
        ('{"header":{"msg_id":7}}', "msg_id"),
        ('{"header":{"msg_id":"a","timestamp":"now"}}', "timestamp"),
        ('{"header":{"msg_id":"a"},"route":{"resource":{}}}', "resource"),
        ('{"header":{"msg_id":"a"},"content":}', "malformed"),
        ('{"header":{"msg_id":"a","spool":{"edge":"e","lane":"","sequence":1}}}', "lane"),
        ('{"header":{"msg_id":"a","spool":{"edge":"e","lane":"l","sequence":0}}}', "sequence"),
        ('{"header":{"msg_id":"' + "x" * 129 + '"}}', "msg_id"),
        ('{"header":{"msg_id":"a"},"content":' + "[" * 60_000 + "]" * 60_000 + "}", "deep"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_naming_the_fault(text: str, fault: str) -> None:
    with pytest.raises(MalformedPacket, match=fault):
        decode(text)


def test_a_frame_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(TooLarge, match="at most 10 bytes, got 11"):
        decode("x" * 11, limit=10)


def test_a_half_surrogate_in_a_text_content_is_refused() -> None:
    with pytest.raises(MalformedPacket):
        decode('{"header":{"msg_id":"a"},"content":"\\ud800"}')
    with pytest.raises(MalformedPacket):
        text_of(Raw(b'"\\ud800"'))


@given(st.text(max_size=200))
def test_any_text_is_an_envelope_or_malformed(text: str) -> None:
    with suppress(MalformedPacket):
        assert decode(text).msg_id


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_json, st.text(max_size=40), st.text(max_size=40))
def test_every_envelope_survives_the_wire(content: object, resource: str, parent: str) -> None:
    route = Route(source="s", operation="update", resource=resource)
    before = make(STAMP, route, content, parent=parent, version="7", trace=TRACE)  # type: ignore[arg-type]
    after = over_the_wire(before)
    assert after.header == before.header
    assert after.route == before.route
    assert bytes(after.content) == bytes(before.content)


_words = st.sampled_from(
    [
        *Operation,
        *Source,
        *Group,
        *("membership/detail", "device/a/b/twin/edge_updated", "k8s/ca.crt", "default/pod/p1"),
        *("a/volume/b", "x", "", "device/a", "membership", "twin"),
        *("watchapp/sync", "8765:/x", "GET", "task/a/node/b", "BREW"),
        "operations.kubeedge.io/v1alpha2/imageprepulljob/a/node/b",
    ]
)


@given(_words, _words, _words, _words, _json, st.booleans())
def test_no_message_crashes_a_reader(
    source: str, group: str, operation: str, resource: str, content: object, parent: bool
) -> None:
    route = Route(source=source, group=group, operation=operation, resource=resource)
    envelope = make(STAMP, route, content, parent="p" if parent else "")  # type: ignore[arg-type]
    for reader in (read_to_cloud, read_to_edge):
        with suppress(MalformedPacket):
            assert reader(envelope) is not None


# --- to the cloud --------------------------------------------------------------------------------


def test_the_keepalive_is_the_one_kubeedge_sends() -> None:
    body = json.loads(encode(to_cloud.keepalive(STAMP)))
    assert body["route"] == {
        "source": "websocket",
        "group": "resource",
        "operation": "keepalive",
        "resource": "node",
    }
    assert body["content"] == "ping"
    assert isinstance(read_to_cloud(to_cloud.keepalive(STAMP)), to_cloud.Keepalive)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (frame("keepalive", "node", "ping", source="websocket"), to_cloud.Keepalive()),
        (frame("query", "a/volume/b"), to_cloud.NotServed("CSI volumes")),
        (frame("ping", "a/volume/b", "x"), ControlAsked()),
        (frame("query", "k8s/ca.crt", source="metaManager"), to_cloud.CaAsked()),
        (frame("update", "a/pod/b", {}, source="edgecontroller"), None),
    ],
)
def test_edge_messages_are_told_apart_in_kubeedges_order(text: str, expected: object) -> None:
    message = read_to_cloud(decode(text))
    if expected is None:
        assert isinstance(message, to_cloud.Ignored)
    else:
        assert message == expected


def test_a_patch_travels_as_text_and_reads_as_json() -> None:
    subject = Subject(None, "nodepatch", "edge-1")
    sent = to_cloud.ask(STAMP, subject, Operation.PATCH, '{"status":{}}')
    assert json.loads(encode(sent))["content"] == '{"status":{}}'
    message = read_to_cloud(over_the_wire(sent))
    assert isinstance(message, to_cloud.ResourceAsked)
    assert message.subject == subject
    assert json_of(message.content) == {"status": {}}


def test_a_twin_report_of_a_real_edge_is_read() -> None:
    twin = {
        "temp": {
            "expected": {"value": "25", "metadata": {"timestamp": 1}},
            "actual": {"value": "20", "metadata": {"timestamp": 2}},
            "optional": True,
            "metadata": {"type": "string"},
            "expected_version": {"cloud": 1, "edge": 0},
            "actual_version": {"cloud": 0, "edge": 2},
        },
        "gone": None,
    }
    text = frame(
        "update",
        "device/default/lamp/twin/edge_updated",
        {"event_id": "e", "timestamp": 5, "twin": twin},
        source="twin",
        group="resource",
    )
    message = read_to_cloud(decode(text))
    assert isinstance(message, to_cloud.TwinReported)
    assert message.device == DEVICE
    twins = message.update.twin
    assert twins is not None
    temp = twins["temp"]
    assert temp is not None
    assert temp.actual == TwinValue("20", ValueMetadata(2))
    assert temp.actual_version == TwinVersion(0, 2)
    assert (temp.type, temp.optional, twins["gone"]) == ("string", True, None)


def test_twin_reports_are_nested_json_and_state_reports_are_text() -> None:
    update = TwinUpdate("e", 5, {"t": Twin(actual=TwinValue("1"))})
    twin = json.loads(encode(to_cloud.report_twin(STAMP, DEVICE, update)))
    state = json.loads(encode(to_cloud.report_state(STAMP, DEVICE, StateUpdate())))
    assert twin["content"]["twin"] == {"t": {"actual": {"value": "1"}}}
    assert isinstance(state["content"], str)
    assert state["route"]["resource"] == "device/default/lamp/state/update"


def test_builders_and_readers_of_twin_messages_agree() -> None:
    update = TwinUpdate("e", 5, {"t": Twin(actual=TwinValue("1")), "u": None})
    sent = over_the_wire(to_cloud.report_twin(STAMP, DEVICE, update, trace=TRACE))
    assert read_to_cloud(sent) == to_cloud.TwinReported(DEVICE, update)
    assert sent.trace == TRACE
    question = read_to_cloud(over_the_wire(to_cloud.ask_membership(STAMP, "edge-1")))
    assert isinstance(question, to_cloud.MembershipAsked)
    assert question.question.group_id == "edge-1"


@pytest.mark.parametrize(
    "resource", ["device/default/lamp", "device/a", "device//x/twin/edge_updated", "weird"]
)
def test_a_twin_message_about_no_device_is_malformed(resource: str) -> None:
    with pytest.raises(MalformedPacket):
        read_to_cloud(decode(frame("update", resource, {}, source="twin")))


# --- to the edge ---------------------------------------------------------------------------------


def test_a_device_update_needs_an_acknowledgement_that_mirrors_its_route() -> None:
    sent = to_edge.change_object(
        STAMP,
        Subject("default", "device", "lamp"),
        Operation.UPDATE,
        {"metadata": {"name": "lamp", "uid": "u1"}},
        version="12",
        source=Source.DEVICE_CONTROLLER,
    )
    received = over_the_wire(sent)
    message = read_to_edge(received)
    assert isinstance(message, to_edge.ObjectChanged)
    assert (message.uid, message.version) == ("u1", "12")
    assert to_edge.needs_acknowledgement(received)
    acknowledgement = to_cloud.acknowledge(received, STAMP)
    assert acknowledgement.route.source == Source.DEVICE_CONTROLLER
    assert read_to_cloud(acknowledgement) == to_cloud.Acknowledged(received.msg_id)


def test_an_inserted_device_is_acknowledged_by_source_meta() -> None:
    received = decode(frame("insert", "default/device/lamp", {}, source="x", group="resource"))
    answer = json.loads(encode(to_cloud.acknowledge(received, STAMP)))
    assert (answer["route"]["source"], answer["route"]["group"]) == ("meta", "twin")
    assert answer["content"] == "OK"


def test_a_delete_may_come_with_little_or_nothing_inside() -> None:
    for content in (None, {"metadata": {"name": "p1", "uid": "u"}}):
        text = frame("delete", "default/pod/p1", content, source="edgecontroller", group="resource")
        message = read_to_edge(decode(text))
        assert isinstance(message, to_edge.ObjectChanged)
        assert message.uid == ("u" if content else "")


def test_a_membership_update_keeps_null_for_no_devices() -> None:
    update = MembershipUpdate("", 9, [MemberDevice("default/lamp", "lamp")], None)
    sent = to_edge.change_membership(STAMP, update)
    assert json.loads(encode(sent))["content"] == {
        "event_id": "",
        "timestamp": 9,
        "added_devices": [{"id": "default/lamp", "name": "lamp"}],
        "removed_devices": None,
    }
    assert read_to_edge(over_the_wire(sent)) == to_edge.MembershipChanged(update)
    assert not to_edge.needs_acknowledgement(sent)


def test_an_object_result_always_has_both_keys() -> None:
    asked = to_cloud.ask(STAMP, Subject(None, "node", "e"), Operation.INSERT, {})
    good = to_edge.answer_result(asked, STAMP, {"metadata": {"name": "e"}})
    bad = to_edge.answer_result(asked, STAMP, None, {"status": "Failure", "code": 404})
    assert json.loads(encode(good))["content"]["Err"] is None
    assert json.loads(encode(bad))["content"] == {
        "Object": None,
        "Err": {"ErrStatus": {"metadata": {}, "status": "Failure", "code": 404}},
    }
    assert to_edge.read_result(good.content) == {"metadata": {"name": "e"}}
    assert good.parent_id == asked.msg_id


def test_an_error_without_status_is_a_failure_not_a_success() -> None:
    assert to_edge.read_result(Raw(b'{"Object":null,"Err":{}}')) == ApiFailure(
        500, "InternalError", "no status given"
    )


def test_a_query_is_answered_bare_or_with_an_err_status() -> None:
    assert to_edge.read_object(Raw(b'{"metadata":{"name":"c"}}')) == {"metadata": {"name": "c"}}
    failure = to_edge.read_object(Raw(b'{"ErrStatus":{"code":404,"reason":"NotFound"}}'))
    assert failure == ApiFailure(404, "NotFound", "no status given")


def test_router_messages_reach_the_event_bus_with_their_payload() -> None:
    text = frame("publish", "a/b", "hello", source="router_eventbus", group="user")
    assert read_to_edge(decode(text)) == to_edge.BusCommand("publish", "a/b", b"hello")
    text = frame("subscribe", "a/#", None, source="router_eventbus", group="user")
    assert read_to_edge(decode(text)) == to_edge.BusCommand("subscribe", "a/#", b"")


def test_twin_answers_and_membership_answers_are_answers() -> None:
    asked = to_cloud.ask_membership(STAMP, "edge-1")
    listed = to_edge.answer_membership(asked, STAMP, MembershipList("", 1, []))
    assert listed.route.group == Group.TWIN
    assert isinstance(read_to_edge(listed), to_edge.Answer)
    done = read_to_edge(to_edge.answer_twin(asked, STAMP))
    assert isinstance(done, to_edge.Answer)
    assert (done.ok, done.resource) == (True, "twin")


# --- uploads ---------------------------------------------------------------------------------------


def test_a_plain_upload_looks_like_kubeedges() -> None:
    body = json.loads(encode(upload(STAMP, EdgeUpload(topic="a/user/b", payload=b'{"x":1}'))))
    assert body == {
        "header": {"msg_id": STAMP.msg_id, "timestamp": STAMP.millis},
        "route": {"source": "bus", "group": "user", "operation": "upload", "resource": "a/user/b"},
        "content": '{"x":1}',
    }


@pytest.mark.parametrize(
    ("topic", "kind", "device"),
    [
        ("telemetry/t1/4711", Kind.TELEMETRY, "4711"),
        ("t//default:lamp", Kind.TELEMETRY, "default:lamp"),
        ("event/t1/4711/?content-type=a", Kind.EVENT, "4711"),
        ("e/t1/4711", Kind.EVENT, "4711"),
        ("telemetry", Kind.TELEMETRY, ""),
        ("$hw/events/upload/x", None, ""),
    ],
)
def test_kind_and_device_come_from_the_topic_of_a_plain_upload(
    topic: str, kind: Kind | None, device: str
) -> None:
    seen = read_upload(upload(STAMP, EdgeUpload(topic=topic, payload=b"")))
    assert (seen.kind, seen.device) == (kind, device)


@given(
    st.binary(max_size=200),
    st.sampled_from([Kind.TELEMETRY, Kind.EVENT]),
    st.integers(0, 2),
    st.none() | st.floats(0, 1e6),
    st.integers(1, 2**40),
    st.booleans(),
)
def test_every_upload_survives_the_wire(
    payload: bytes, kind: Kind, qos: int, ttl: float | None, sequence: int, owned: bool
) -> None:
    item = EdgeUpload(
        topic="telemetry//default:lamp",
        payload=payload,
        kind=kind,
        device="default:lamp",
        content_type="application/json",
        qos=qos,
        ttl=ttl,
        at=1_795_377_600_000,
        twin_owned=owned,
        properties={"depth": 3, "unit": "C"},
        spool=SpoolId("edge-uuid", "default:lamp", sequence),
        trace=TRACE,
    )
    assert read_to_cloud(over_the_wire(upload(STAMP, item))) == item


def test_bad_base64_and_unknown_kinds_are_malformed() -> None:
    for header in ({"encoding": "base64"}, {"encoding": "gzip"}, {"kind": "alert"}):
        text = json.dumps({"header": {"msg_id": "a", "upload": header}, "content": "%%%"})
        with pytest.raises(MalformedPacket):
            read_upload(decode(text))


def test_the_answer_to_a_spooled_upload_says_taken_retry_or_refused() -> None:
    asked = upload(STAMP, EdgeUpload(topic="t//d", payload=b""))
    taken = answer_upload(asked, STAMP, None)
    assert json.loads(encode(taken))["content"] == "OK"
    assert read_upload_answer(taken.content).verdict is Verdict.TAKEN
    later = read_upload_answer(answer_upload(asked, STAMP, NoConsumer()).content)
    assert (later.verdict, later.status, later.code) == (Verdict.RETRY, 503, "no.consumer")
    never = read_upload_answer(answer_upload(asked, STAMP, MalformedPacket("why")).content)
    assert (never.verdict, never.text) == (Verdict.REFUSED, "why")
    missing = read_upload_answer(answer_upload(asked, STAMP, NotBuilt("router")).content)
    assert missing.verdict is Verdict.REFUSED
    assert taken.parent_id == asked.msg_id


# --- names and documents ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Edge", "a_b", "-a", "a/b", "x" * (MAX_NODE_NAME + 1)])
def test_a_node_may_not_be_called_anything(name: str) -> None:
    with pytest.raises(GatewayError):
        check_node_name(name)


def test_the_longest_node_name_fits_into_a_common_name() -> None:
    name = check_node_name("x" * MAX_NODE_NAME)
    assert len(common_name(name)) == 64
    assert node_of(common_name(name)) == name
    assert node_of("KubeEdge") is None


@pytest.mark.parametrize("resource", ["pod", "", "a//b", "a/b/c/d", "a/b/" + "x" * 600])
def test_a_resource_of_another_shape_is_malformed(resource: str) -> None:
    with pytest.raises(MalformedPacket):
        Subject.parse(resource)


def test_cluster_scoped_subjects_say_null() -> None:
    subject = Subject.parse("null/node/edge-1")
    assert subject == Subject(None, "node", "edge-1")
    assert str(subject) == "null/node/edge-1"
    assert str(Subject.parse("default/podlist")) == "default/podlist"


def test_a_twin_document_on_mqtt_must_be_an_object() -> None:
    assert read(b'{"twin":{"t":null}}', TWIN_UPDATE).twin == {"t": None}
    for payload in (b"", b"[]", b'"{}"', b'{"twin":{"t":{"actual":{"value":5}}}}'):
        with pytest.raises(MalformedPacket):
            read(payload, TWIN_UPDATE)
    with pytest.raises(TooLarge):
        read(b" " * (1024 * 1024 + 1), TWIN_UPDATE)
