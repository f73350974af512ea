"""Payload mappers: what each makes of a message, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.connectivity.journal import Category, Entry, Journal, Step
from gateway.connectivity.mappers.base import DittoMapper, External, Incoming, Outgoing
from gateway.connectivity.mappers.creation import ThingCreationMapper
from gateway.connectivity.mappers.jsonpath import JsonPathMapper, common, nested, parse_path
from gateway.connectivity.mappers.normalized import NormalizedMapper
from gateway.connectivity.mappers.raw import RawMessageMapper
from gateway.connectivity.mappers.status import ConnectionStatusMapper
from gateway.connectivity.model import Connection, masked_uri
from gateway.connectivity.scopes import source_scope, topic_parts
from gateway.ditto.subscriptions import Seen
from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject
from gateway.model.thing import EventAction, ThingEvent

DEVICE = {"device_id": "org.acme:pump-1", "ttd": "30", "creation-time": "1700000000000"}


def message(
    payload: Any, content_type: str | None = "application/json", **headers: str
) -> External:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    known = {**DEVICE, **headers}
    if content_type is not None:
        known["content-type"] = content_type
    return External(known, body, content_type, "telemetry/T")


def only(found: Any) -> Incoming:
    (incoming,) = found
    assert isinstance(incoming, Incoming)
    return incoming


def run(mapper: Any, external: External) -> Any:
    return mapper.incoming(external, source_scope(external.headers, external.address, "c1"))


def an_event(action: EventAction, path: tuple[str, ...], value: Json = None) -> Outgoing:
    event = ThingEvent(
        thing_id="org.acme:pump-1",
        action=action,
        path=path,
        revision=7,
        timestamp="2026-01-01T10:00:00Z",
        after=None,
        value=value,
    )
    return Outgoing("t", "/", {}, b"frame", seen=Seen(event, None, None))


# --- Ditto, RawMessage ------------------------------------------------------------------------------


def test_ditto_takes_protocol_under_any_content_type_but_not_honos_notices() -> None:
    mapper = DittoMapper()
    envelope = {"topic": "a/b/things/twin/commands/modify", "path": "/", "value": 1}
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", None):
        assert only(run(mapper, message(envelope, kind))).envelope.topic == envelope["topic"]
    empty = "application/vnd.eclipse-hono-empty-notification"
    assert run(mapper, message(b"", empty)) == ()
    assert mapper.outgoing(Outgoing("t", "/", {}, b"frame")) == External(
        {}, b"frame", "application/vnd.eclipse.ditto+json"
    )


@pytest.mark.parametrize("payload", [b"x", b"[1]", b"{}", b'{"topic": 7, "path": "/"}', b"\xff"])
def test_what_is_no_protocol_is_refused_with_a_reason(payload: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        run(DittoMapper(), message(payload))
    assert caught.value.code == "connectivity:message.mapping.failed"


def test_a_raw_message_is_wrapped_by_its_headers() -> None:
    headers = {
        "ditto-message-subject": "hello",
        "ditto-message-thing-id": "org.acme:pump-1",
        "ditto-message-direction": "FROM",
        "ditto-message-feature-id": "motor",
        "status": "200",
    }
    made = only(run(RawMessageMapper({}), message(b"hi", "text/plain", **headers))).envelope
    assert made.topic == "org.acme/pump-1/things/live/messages/hello"
    assert made.path == "/features/motor/outbox/messages/hello"
    assert (made.json_value(), made.status) == ("hi", 200)
    assert made.headers["content-type"] == "text/plain"
    with pytest.raises(GatewayError, match="subject could not be resolved"):
        run(RawMessageMapper({}), message(b"hi"))


def test_a_raw_message_goes_out_as_it_is_and_other_signals_as_protocol() -> None:
    mapper = RawMessageMapper({"outgoingContentType": "application/x-mine"})
    raw = Outgoing("t", "/", {}, b"frame", b"\x00", None, is_message=True)
    assert mapper.outgoing(raw) == External({}, b"\x00", "application/x-mine")
    sent = mapper.outgoing(Outgoing("t", "/", {}, b"frame"))
    assert sent is not None
    assert sent.payload == b"frame"


# --- Normalized -------------------------------------------------------------------------------------


def normalized(mapper: NormalizedMapper, signal: Outgoing) -> Any:
    found = mapper.outgoing(signal)
    return None if found is None else json.loads(found.payload)


def test_events_become_parts_of_things() -> None:
    mapper = NormalizedMapper({})
    path = ("features", "motor", "properties", "rpm")
    found = normalized(mapper, an_event(EventAction.MODIFIED, path, 9))
    assert found["features"] == {"motor": {"properties": {"rpm": 9}}}
    assert (found["_revision"], found["_modified"]) == (7, "2026-01-01T10:00:00Z")
    assert found["_context"]["path"] == "/features/motor/properties/rpm"
    gone = normalized(mapper, an_event(EventAction.DELETED, ()))
    assert gone["_deleted"] == "2026-01-01T10:00:00Z"
    assert mapper.outgoing(Outgoing("t", "/", {}, b"frame", is_message=True)) is None


def test_deleted_fields_are_named_when_asked_for() -> None:
    mapper = NormalizedMapper({"includeDeletedFields": True, "fields": "_deletedFields,attributes"})
    merged = an_event(EventAction.MERGED, ("attributes",), {"a": None, "b": {"c": None, "d": 1}})
    found = normalized(mapper, merged)
    instant = "2026-01-01T10:00:00Z"
    assert found == {
        "attributes": {"b": {"d": 1}},
        "_deletedFields": {"attributes": {"a": instant, "b": {"c": instant}}},
    }
    with pytest.raises(GatewayError, match="Normalized"):
        NormalizedMapper({"fields": "a(("})


# --- ImplicitThingCreation, ConnectionStatus ----------------------------------------------------------


def test_a_template_is_filled_where_it_has_placeholders() -> None:
    thing: JsonObject = {
        "thingId": "{{ header:device_id }}",
        "attributes": {"list": ["{{ header:ttd }}", 1, None, True]},
        "_policy": {"entries": {"x": {"subjects": {"a:{{ header:ttd }}": {"type": "t"}}}}},
    }
    made = only(run(ThingCreationMapper({"thing": thing}), message(b"")))
    assert made.tolerated == {409, 412}
    assert made.envelope.topic == "org.acme/pump-1/things/twin/commands/create"
    assert made.envelope.headers == {"if-none-match": "*", "allow-policy-lockout": True}
    value: Any = made.envelope.json_value()
    assert value["attributes"]["list"] == ["30", 1, None, True]
    assert list(value["_policy"]["entries"]["x"]["subjects"]) == ["a:30"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"thing": {}},
        {"thing": {"thingId": "{{ nope }}"}},
        {"thing": {"thingId": "a:b"}, "commandHeaders": 7},
    ],
)
def test_a_template_that_cannot_work_is_refused(options: JsonObject) -> None:
    with pytest.raises(GatewayError) as caught:
        ThingCreationMapper(options)
    assert caught.value.code == "connectivity:message.mapper.config.invalid"


@pytest.mark.parametrize(
    ("ttd", "status"),
    [
        ("30", {"readySince": "2023-11-14T22:13:20Z", "readyUntil": "2023-11-14T22:13:50Z"}),
        ("-1", {"readySince": "2023-11-14T22:13:20Z", "readyUntil": "9999-12-31T23:59:59Z"}),
        ("0", {"readyUntil": "2023-11-14T22:13:20Z"}),
    ],
)
def test_ttd_says_until_when_a_device_listens(ttd: str, status: JsonObject) -> None:
    mapper = ConnectionStatusMapper({"thingId": "{{ header:device_id }}"})
    made = only(run(mapper, message(b"", ttd=ttd))).envelope
    assert made.path == "/features/ConnectionStatus"
    value: Any = made.json_value()
    assert value["properties"]["status"] == status


@pytest.mark.parametrize(
    "headers", [{"ttd": "x"}, {"ttd": "-5"}, {"creation-time": "9" * 30}, {"ttd": "9" * 12}]
)
def test_a_ttd_without_meaning_is_refused(headers: dict[str, str]) -> None:
    mapper = ConnectionStatusMapper({"thingId": "{{ header:device_id }}"})
    with pytest.raises(GatewayError) as caught:
        run(mapper, message(b"", **headers))
    assert caught.value.code == "connectivity:message.mapping.failed"


def test_no_ttd_says_nothing() -> None:
    mapper = ConnectionStatusMapper({"thingId": "a:b"})
    assert run(mapper, External({"device_id": "a:b"})) == ()


# --- JsonPath ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("$", ()),
        ("$.a.b", ("a", "b")),
        ("$['a b'][0]", ("a b", 0)),
        ('$["x"][-1].y-z', ("x", -1, "y-z")),
    ],
)
def test_paths_are_read(text: str, path: tuple[str | int, ...]) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["", "a", "$.", "$..a", "$[a]", "$['a", "$.a b"])
def test_paths_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(GatewayError):
        parse_path(text)


@pytest.mark.parametrize(
    "options", [{}, {"fields": {}}, {"fields": {"/policyId": "$"}}, {"fields": {"/": "$"}}]
)
def test_fields_go_to_attributes_and_features_alone(options: JsonObject) -> None:
    with pytest.raises(GatewayError) as caught:
        JsonPathMapper(options)
    assert caught.value.code == "connectivity:message.mapper.config.invalid"


def test_values_of_any_kind_are_taken_and_absent_ones_left_alone() -> None:
    fields: JsonObject = {
        "/features/a/properties/x": "$.x",
        "/features/a/properties/y": "$.list[-1]",
        "/features/a/properties/z": "$.list[9]",
    }
    mapper = JsonPathMapper({"fields": fields})
    made = only(run(mapper, message({"x": None, "list": [1, {"k": []}]}))).envelope
    assert made.path == "/features/a/properties"
    assert made.json_value() == {"x": None, "y": {"k": []}}
    assert made.headers == {"response-required": False}
    assert run(mapper, message({"other": 1})) == ()
    assert run(mapper, message(b"")) == ()
    with pytest.raises(GatewayError):
        run(mapper, message(b"{"))


POINTER = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(tuple)


@given(st.dictionaries(POINTER, st.integers(), min_size=1, max_size=6))
def test_the_common_place_begins_every_pointer_and_values_are_found_below_it(
    values: dict[tuple[str, ...], int],
) -> None:
    at = common(list(values))
    assert all(pointer[: len(at)] == at for pointer in values)
    document: Any = nested(list(values.items()), at)
    last_pointer, last = list(values.items())[-1]
    for segment in last_pointer[len(at) :]:
        document = document[segment]
    assert document == last


# --- documents, topics, journal -----------------------------------------------------------------------


def test_a_password_in_an_uri_is_hidden() -> None:
    assert masked_uri("amqp://user%40x:secret@host:1") == "amqp://user%40x:*****@host:1"
    assert masked_uri("amqp://host:1") == "amqp://host:1"


def test_members_that_are_not_used_are_kept() -> None:
    document: JsonObject = {
        "connectionType": "hono",
        "clientCount": 3,
        "tags": ["a"],
        "sources": [{"addresses": ["telemetry"], "authorizationContext": ["a:b"], "qos": 1}],
    }
    connection = Connection.parse(document, "c1")
    assert connection.document == {**document, "id": "c1", "connectionStatus": "open"}
    assert connection.tenant == "c1", "the connection's id stands for the tenant"


@pytest.mark.parametrize("connection_id", ["", "a/b", "x" * 101, "ä"])
def test_a_connection_has_a_plain_id(connection_id: str) -> None:
    with pytest.raises(GatewayError) as caught:
        Connection.parse({}, connection_id)
    assert caught.value.code == "connectivity:connection.id.invalid"


def test_topics_are_taken_apart() -> None:
    parts = topic_parts("org.acme/pump/things/live/messages/a/b")
    assert parts["subject"] == parts["action-subject"] == "a/b"
    assert parts["entityId"] == "org.acme:pump"
    policy = topic_parts("org.acme/pol/policies/commands/modify")
    assert (policy["entityType"], policy["criterion"], policy["action"]) == (
        "policy",
        "commands",
        "modify",
    )
    assert topic_parts("x/y") == {}


def test_a_journal_is_bounded_and_counts_what_it_does_not_keep() -> None:
    journal = Journal()
    journal.note(Entry(category=Category.SOURCE, step=Step.CONSUMED, address="a"))
    assert journal.logs()["connectionLogs"] == []
    journal.enable()
    for at in range(50):
        failure = "no" if at % 2 else None
        journal.note(
            Entry(category=Category.SOURCE, step=Step.MAPPED, address="a", failure=failure)
        )
    for at in range(1_000):
        journal.note(Entry(category=Category.TARGET, step=Step.PUBLISHED, address=f"a{at}"))
    logs: Any = journal.logs()["connectionLogs"]
    assert len([e for e in logs if e["type"] == "mapped"]) == 20
    assert len(logs) <= 10 * 200
    metrics: Any = journal.metrics()
    mapped = metrics["connectionMetrics"]["inbound"]["mapped"]
    assert (mapped["success"]["PT1M"], mapped["failure"]["PT24H"]) == (25, 25)
    journal.reset_metrics()
    journal.reset_log()
    assert journal.logs()["connectionLogs"] == []
