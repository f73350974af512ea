"""Payload mappers: what each makes of a message, and what it refuses."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.connectivity.journal import Category, Entry, Journal, Step
from gateway.connectivity.mappers.base import DittoMapper, External, Incoming, Outgoing
from gateway.connectivity.mappers.cloudevents import CloudEventsMapper
from gateway.connectivity.mappers.creation import ThingCreationMapper
from gateway.connectivity.mappers.engines import applies, configured
from gateway.connectivity.mappers.jsonpath import JsonPathMapper, common, nested, parse_path
from gateway.connectivity.mappers.live import LiveResponseMapper
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


@pytest.mark.parametrize(
    ("text", "status"),
    [("200", 200), ("\u00b2\u00b2\u00b2", None), ("9" * 5_000, None), ("x", None)],
)
def test_the_status_of_a_raw_message_is_one_or_is_not_there(text: str, status: int | None) -> None:
    headers = {"ditto-message-subject": "ask", "ditto-message-thing-id": "a:b", "status": text}
    made = only(run(RawMessageMapper({}), message(b"hi", "text/plain", **headers)))
    assert made.envelope.status == status


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


DATE = "2026-01-01T10:00:00Z"


@pytest.mark.parametrize(
    ("action", "path", "value", "expected"),
    [
        (EventAction.DELETED, ("attributes", "x"), None, {"attributes": {"x": DATE}}),
        (EventAction.DELETED, (), None, None),
        (EventAction.MODIFIED, ("attributes", "x"), None, None),
        (EventAction.MERGED, ("attributes", "x"), None, {"attributes": {"x": DATE}}),
        (
            EventAction.MERGED,
            (),
            {"attributes": {"a": {"b": None}, "c": 1, "{{ /t.*/ }}": None}, "definition": None},
            {"attributes": {"a": {"b": DATE}}, "definition": DATE},
        ),
        (EventAction.MERGED, (), {"attributes": {"{{ /t.*/ }}": None}}, None),
    ],
)
def test_deleted_fields_are_a_tree_of_instants(
    action: EventAction, path: tuple[str, ...], value: Json, expected: Json
) -> None:
    mapper = NormalizedMapper({"includeDeletedFields": True})
    found = normalized(mapper, an_event(action, path, value))
    assert found.get("_deletedFields") == expected


def test_deletions_of_parts_are_told_only_where_they_are_asked_for() -> None:
    gone = an_event(EventAction.DELETED, ("attributes", "x"))
    assert NormalizedMapper({}).outgoing(gone) is None
    assert NormalizedMapper({}).outgoing(an_event(EventAction.DELETED, ())) is not None


def test_a_merge_is_normalized_without_nulls_and_empty_objects() -> None:
    patch: Json = {"attributes": {"a": None, "b": {"c": None}, "d": 1}}
    found = normalized(NormalizedMapper({}), an_event(EventAction.MERGED, (), patch))
    assert found["attributes"] == {"d": 1}
    assert found["_context"]["value"] == {"attributes": {"d": 1}}


# --- CloudEvents ------------------------------------------------------------------------------------

COMMAND: JsonObject = {
    "topic": "a/b/things/twin/commands/modify",
    "path": "/attributes/x",
    "value": 1,
}
EVENT: JsonObject = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/s",
    "type": "t",
    "data": COMMAND,
}
BINARY = {"ce-id": "e-2", "ce-source": "/s", "ce-type": "t", "ce-specversion": "1.0"}
STRUCTURED = "application/cloudevents+json"
PROTOCOL = "application/vnd.eclipse.ditto+json"


def without(value: JsonObject, *names: str) -> JsonObject:
    return {name: below for name, below in value.items() if name not in names}


@pytest.mark.parametrize(
    ("payload", "content_type", "headers", "correlation_id"),
    [
        (EVENT, STRUCTURED, {}, "e-1"),
        (EVENT, f"{STRUCTURED}; charset=utf-8", {}, "e-1"),
        (
            {
                **without(EVENT, "data"),
                "data_base64": base64.b64encode(json.dumps(COMMAND).encode()).decode(),
            },
            STRUCTURED,
            {},
            "e-1",
        ),
        (COMMAND, PROTOCOL, BINARY, "e-2"),
        ({**COMMAND, "headers": {"Correlation-Id": "mine", "x": "y"}}, PROTOCOL, BINARY, "e-2"),
    ],
)
def test_the_protocol_is_taken_out_of_a_cloud_event(
    payload: JsonObject, content_type: str, headers: dict[str, str], correlation_id: str
) -> None:
    envelope = only(run(CloudEventsMapper(), message(payload, content_type, **headers))).envelope
    assert (envelope.topic, envelope.json_value()) == (COMMAND["topic"], 1)
    assert envelope.headers["correlation-id"] == correlation_id
    assert [name for name in envelope.headers if name.lower() == "correlation-id"] == [
        "correlation-id"
    ]


@pytest.mark.parametrize(
    ("payload", "content_type", "headers"),
    [
        *[(without(EVENT, name), STRUCTURED, {}) for name in EVENT],
        (b"x", STRUCTURED, {}),
        ({**EVENT, "data": 7}, STRUCTURED, {}),
        ({**EVENT, "data_base64": "?"}, STRUCTURED, {}),
        *[(COMMAND, PROTOCOL, {k: v for k, v in BINARY.items() if k != n}) for n in BINARY],
        (b"[]", PROTOCOL, BINARY),
    ],
)
def test_what_is_no_cloud_event_is_refused(
    payload: Any, content_type: str, headers: dict[str, str]
) -> None:
    with pytest.raises(GatewayError) as caught:
        run(CloudEventsMapper(), message(payload, content_type, **headers))
    assert caught.value.code == "connectivity:message.mapping.failed"


def test_other_content_is_not_for_the_cloud_events_mapper() -> None:
    assert run(CloudEventsMapper(), message(COMMAND)) == ()


def test_signals_go_out_as_structured_cloud_events() -> None:
    topic = "org.acme/pump-1/things/twin/events/modified"
    frame = {"topic": topic, "path": "/", "headers": {}, "value": 1, "timestamp": DATE}
    signal = Outgoing(topic, "/", {"correlation-id": "c-1"}, json.dumps(frame).encode())
    sent = CloudEventsMapper().outgoing(signal)
    assert sent is not None
    assert sent.content_type == STRUCTURED
    assert json.loads(sent.payload) == {
        "specversion": "1.0",
        "id": "c-1",
        "source": "https://github.com/eclipse-ditto/ditto",
        "type": "org.eclipse.ditto.outbound:things/twin/events/modified",
        "subject": "org.acme:pump-1",
        "time": DATE,
        "datacontenttype": PROTOCOL,
        "data": frame,
    }


# --- UpdateTwinWithLiveResponse ---------------------------------------------------------------------

LIVE_ANSWER: JsonObject = {
    "topic": "a/b/things/live/commands/retrieve",
    "path": "/features/t",
    "headers": {"correlation-id": "c-1"},
    "status": 200,
    "value": {"properties": {"value": 1}},
}


def test_a_live_answer_becomes_a_merge_of_what_is_there() -> None:
    envelope = only(run(LiveResponseMapper({}), message(LIVE_ANSWER))).envelope
    assert envelope.topic == "a/b/things/twin/commands/merge"
    assert (envelope.path, envelope.json_value()) == ("/features/t", LIVE_ANSWER["value"])
    assert envelope.headers == {
        "response-required": False,
        "if-match": "*",
        "correlation-id": "c-1-merge-into-twin",
    }


def test_the_headers_of_the_merge_may_have_placeholders() -> None:
    headers: JsonObject = {
        "Condition": "gt(_modified,'{{ header:creation-time }}')",
        "x": "{{ header:nope }}",
        "if-equal": "skip",
    }
    envelope = only(
        run(LiveResponseMapper({"dittoHeadersForMerge": headers}), message(LIVE_ANSWER))
    ).envelope
    assert envelope.headers == {
        "condition": "gt(_modified,'1700000000000')",
        "x": "{{ header:nope }}",
        "if-equal": "skip",
        "correlation-id": "c-1-merge-into-twin",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"topic": "a/b/things/twin/commands/retrieve"},
        {"topic": "a/b/things/live/commands/modify"},
        {"topic": "a/b/things/live/messages/retrieve"},
        {"topic": "a/b/policies/commands/retrieve"},
        {"topic": "_/_/things/live/commands/retrieve"},
        {"status": 404},
        {"status": None},
        {"topic": "x"},
    ],
)
def test_nothing_else_is_merged(change: JsonObject) -> None:
    assert run(LiveResponseMapper({}), message({**LIVE_ANSWER, **change})) == ()
    assert run(LiveResponseMapper({}), message(b"no json")) == ()


@pytest.mark.parametrize(
    "headers", [[], {"x": "{{ thing:id }}"}, {"x": "{{ header:a | fn:no() }}"}]
)
def test_headers_that_cannot_be_are_refused_at_once(headers: Json) -> None:
    with pytest.raises(GatewayError) as caught:
        LiveResponseMapper({"dittoHeadersForMerge": headers})
    assert caught.value.code == "connectivity:message.mapper.config.invalid"


# --- which mappers run ------------------------------------------------------------------------------


def a_connection(*names: str, **definitions: Json) -> Connection:
    source: JsonObject = {"addresses": ["telemetry"], "authorizationContext": ["s"]}
    if names:
        source["payloadMapping"] = list(names)
    document: JsonObject = {
        "connectionType": "hono",
        "sources": [source],
        "mappingDefinitions": definitions,
    }
    return Connection.parse(document, "c1")


def test_without_a_mapping_ditto_protocol_is_expected() -> None:
    assert configured(a_connection()).keys() == {"Ditto"}


@pytest.mark.parametrize(
    "name", ["Ditto", "RawMessage", "Normalized", "CloudEvents", "UpdateTwinWithLiveResponse"]
)
def test_a_mapper_that_needs_no_options_goes_by_its_own_name(name: str) -> None:
    assert configured(a_connection(name)).keys() == {name}


@pytest.mark.parametrize(
    "name", ["ConnectionStatus", "ImplicitThingCreation", "JsonPath", "nobody"]
)
def test_a_mapper_that_needs_options_does_not(name: str) -> None:
    with pytest.raises(GatewayError) as caught:
        configured(a_connection(name))
    assert caught.value.code == "connectivity:message.mapper.config.invalid"


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({}, True),
        ({"a": "fn:filter(header:ttd,'eq','30')"}, True),
        ({"a": "fn:filter(header:ttd,'eq','30')", "b": "fn:filter(header:x,'exists')"}, False),
        ({"a": "fn:filter(header:device_id,'like','org.acme:*|com:*')"}, True),
        ({"a": "header:nope"}, False),
        ({"a": "header:device_id | fn:substring-before(':')"}, True),
    ],
)
def test_a_mapper_runs_where_all_its_conditions_hold(
    conditions: dict[str, Json], holds: bool
) -> None:
    one: JsonObject = {"mappingEngine": "Ditto", "incomingConditions": conditions}
    (mapper,) = configured(a_connection("d", d=one)).values()
    assert applies(mapper.incoming, source_scope(DEVICE, "telemetry", "c1")) is holds


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("incomingConditions", {"a": "jwt:sub"}),
        ("outgoingConditions", {"a": "header:a | fn:explode()"}),
    ],
)
def test_conditions_that_cannot_hold_are_refused(member: str, value: Json) -> None:
    with pytest.raises(GatewayError, match=r"could not be resolved|unknown"):
        a_connection("d", d={"mappingEngine": "Ditto", member: value})


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("address", "{{ source:address }}"),
        ("address", "{{ jwt:sub }}"),
        ("headerMapping", "{{ policy-entry:label }}"),
        ("headerMapping", "{{ thing:size }}"),
    ],
)
def test_each_place_of_a_target_has_its_placeholders(place: str, text: str) -> None:
    target: JsonObject = {
        "address": "command",
        "topics": ["_/_/things/twin/events"],
        "authorizationContext": ["s"],
        place: {"x": text} if place == "headerMapping" else text,
    }
    with pytest.raises(GatewayError) as caught:
        Connection.parse({"connectionType": "hono", "targets": [target]}, "c1")
    assert caught.value.code == "placeholder:unresolved"
