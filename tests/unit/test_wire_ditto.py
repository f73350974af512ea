"""Ditto Protocol: topics, headers, envelopes, and signals both ways."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.json import Json
from gateway.model.policy import PolicyCommand
from gateway.model.thing import (
    Action,
    Direction,
    EventAction,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)
from gateway.model.trace import TraceContext
from gateway.twin.ditto_errors import ditto_error
from gateway.wire.ditto.envelope import MAX_BYTES, decode
from gateway.wire.ditto.headers import duration, labels, read_headers, timeout_of
from gateway.wire.ditto.read import (
    Acknowledgement,
    Response,
    RetrieveThings,
    SearchSignal,
    Sender,
    StreamSignal,
    signal_of,
)
from gateway.wire.ditto.signals import CheckPermissions
from gateway.wire.ditto.topic import Topic
from gateway.wire.ditto.write import (
    ack_frame,
    acks_frame,
    command_frame,
    error_frame,
    event_frame,
    live_command_frame,
    message_frame,
    message_response_frame,
    policy_response,
    stream_frame,
    thing_response,
)

ME = Sender(("nginx:me",), originator="session-1")
THING = "org.acme/pump-1/things/twin/commands"


def envelope(topic: str, path: str = "/", **members: Any) -> bytes:
    return msgspec.json.encode({"topic": topic, "path": path, **members})


def signal(topic: str, path: str = "/", **members: Any) -> Any:
    return signal_of(decode(envelope(topic, path, **members)), ME)


def as_json(frame: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(frame)
    return found


# --- topics ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{THING}/modify", Topic("org.acme", "pump-1", "things", "commands", "modify", "twin")),
        ("a/b/things/live/messages/x/y", Topic("a", "b", "things", "messages", "x/y", "live")),
        ("a/b/things/twin/errors", Topic("a", "b", "things", "errors", None, "twin")),
        ("a/b/policies/commands/create", Topic("a", "b", "policies", "commands", "create")),
        ("/b/things/twin/acks", Topic("", "b", "things", "acks", None, "twin")),
        (
            "_/_/things/twin/search/subscribe",
            Topic("_", "_", "things", "search", "subscribe", "twin"),
        ),
    ],
)
def test_a_topic_is_read_and_written(text: str, expected: Topic) -> None:
    found = Topic.parse(text)
    assert found == expected
    assert Topic.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/b/things",
        "a/b/cars/twin/events",
        "a/b/things/dead/events/x",
        "a/b/things/twin/x",
        "a" * 3_000,
    ],
)
def test_an_unknown_topic_is_refused(text: str) -> None:
    with pytest.raises(GatewayError) as caught:
        Topic.parse(text)
    assert caught.value.code == "protocoladapter:unknown.topicpath"


# --- headers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10.0), ("5s", 5.0), ("250ms", 0.25), ("1m", 60.0), (7, 7.0)]
)
def test_durations_have_units(text: object, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1h"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(GatewayError) as caught:
        duration(text)
    assert caught.value.code == "header.invalid"


def test_a_timeout_has_a_limit() -> None:
    assert timeout_of({}, 10.0) == 10.0
    assert timeout_of({"timeout": "60s"}, 10.0) == 60.0
    with pytest.raises(GatewayError) as caught:
        timeout_of({"timeout": "61"}, 10.0)
    assert caught.value.code == "timeout.invalid"


def test_headers_get_lower_case_names_and_their_types() -> None:
    assert read_headers(
        {
            "Correlation-ID": 5,
            "response-required": "false",
            "requested-acks": "a-b,twin-persisted",
            "X": None,
        }
    ) == {
        "correlation-id": "5",
        "response-required": False,
        "requested-acks": ["a-b", "twin-persisted"],
    }
    assert labels('["abc","def"]') == ["abc", "def"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"response-required": "maybe"}, "header.invalid"),
        ({"requested-acks": "a b"}, "header.invalid"),
        ({"requested-acks": 5}, "header.invalid"),
        ({"x": "y" * 6_000}, "headers.too.large"),
        ({f"h{n}": "" for n in range(200)}, "headers.too.large"),
    ],
)
def test_bad_headers_are_refused(headers: dict[str, Any], code: str) -> None:
    with pytest.raises(GatewayError) as caught:
        read_headers(headers)
    assert caught.value.code == code


# --- reading -----------------------------------------------------------------------------------


def test_a_thing_command_is_read() -> None:
    trace = TraceContext("0" * 31 + "1", "0" * 15 + "2")
    found = signal(
        f"{THING}/modify",
        "/features/a~1b/properties/rpm",
        value=1300,
        headers={"correlation-id": "c1", "traceparent": trace.traceparent},
        extra_member=1,
    )
    assert found == ThingCommand(
        thing_id="org.acme:pump-1",
        action=Action.MODIFY,
        path=("features", "a/b", "properties", "rpm"),
        value=1300,
        subjects=("nginx:me",),
        originator="session-1",
        headers={"correlation-id": "c1", "traceparent": trace.traceparent},
        trace=trace,
    )


def test_a_null_value_is_a_value() -> None:
    assert signal(f"{THING}/modify", "/attributes/a", value=None).value is None
    with pytest.raises(GatewayError) as caught:
        signal(f"{THING}/modify", "/attributes/a")
    assert caught.value.code == "json.field.missing"


def test_several_things_are_asked_for() -> None:
    found = signal(
        "_/_/things/twin/commands/retrieve", value={"thingIds": ["a:b", "a:c"]}, fields="thingId"
    )
    assert isinstance(found, RetrieveThings)
    assert (found.thing_ids, found.fields) == (("a:b", "a:c"), "thingId")


def test_a_policy_command_is_read() -> None:
    found = signal(
        "a/p/policies/commands/modify",
        "/entries/e/resources/thing:/attributes/x",
        value={"grant": [], "revoke": []},
    )
    assert isinstance(found, PolicyCommand)
    assert found.path == ("entries", "e", "resources", "thing:/attributes/x")
    assert found.policy_id == "a:p"


@pytest.mark.parametrize(
    ("content_type", "value", "payload"),
    [
        ("application/json", {"hard": True}, b'{"hard":true}'),
        ("application/vnd.x+json; charset=utf-8", [1], b"[1]"),
        ("text/plain", "héllo", "héllo".encode()),
        ("application/octet-stream", "AQI=", b"\x01\x02"),
        (None, "plain", b"plain"),
        (None, {"a": 1}, b'{"a":1}'),
    ],
)
def test_a_messages_payload_follows_its_content_type(
    content_type: str | None, value: Json, payload: bytes
) -> None:
    headers = {"correlation-id": "c"} | ({"content-type": content_type} if content_type else {})
    found = signal(
        "a/b/things/live/messages/reset",
        "/features/f/inbox/messages/reset",
        value=value,
        headers=headers,
    )
    assert isinstance(found, ThingMessage)
    assert (found.payload, found.feature_id, found.direction) == (payload, "f", Direction.TO)
    again = as_json(message_frame(found))
    assert (again["topic"], again["path"]) == (
        "a/b/things/live/messages/reset",
        "/features/f/inbox/messages/reset",
    )


def test_bad_base64_is_refused() -> None:
    with pytest.raises(GatewayError) as caught:
        signal(
            "a/b/things/live/messages/x",
            "/inbox/messages/x",
            value="***",
            headers={"content-type": "image/png"},
        )
    assert caught.value.code == "messages:messageformat.invalid"


@pytest.mark.parametrize(
    ("subject", "headers", "seconds"),
    [
        ("reset", {}, 10.0),
        ("reset", {"timeout": "3"}, 3.0),
        ("reset", {"response-required": False}, 0.0),
        ("claim", {}, 60.0),
        ("claim", {"timeout": "9m"}, 540.0),
    ],
)
def test_a_message_waits_as_long_as_it_says(
    subject: str, headers: dict[str, Any], seconds: float
) -> None:
    topic, path = f"a/b/things/live/messages/{subject}", f"/inbox/messages/{subject}"
    assert signal(topic, path, headers=headers).timeout == seconds


def test_a_message_with_a_status_is_an_answer() -> None:
    found = signal(
        "a/b/things/live/messages/x",
        "/inbox/messages/x",
        status=207,
        value="ok",
        headers={"correlation-id": "c", "content-type": "text/plain"},
    )
    assert found == ThingMessageResponse(
        thing_id="a:b",
        correlation_id="c",
        status=207,
        payload=b"ok",
        content_type="text/plain",
        headers={"correlation-id": "c", "content-type": "text/plain"},
    )


def test_acknowledgements_searches_and_responses_are_read() -> None:
    ack = signal("a/b/things/twin/acks/my-ack", status=200, headers={"correlation-id": "c"})
    assert isinstance(ack, Acknowledgement)
    assert (ack.label, ack.thing_id, ack.status) == ("my-ack", "a:b", 200)
    search = signal("_/_/things/twin/search/subscribe", value={"filter": "exists(a)"}, fields="a")
    assert isinstance(search, SearchSignal)
    assert search.value == {"filter": "exists(a)"}
    response = signal(f"{THING}/retrieve", "/attributes", status=200, value={"a": 1})
    assert isinstance(response, Response)
    assert (response.status, response.value) == (200, {"a": 1})


@pytest.mark.parametrize(
    ("topic", "path", "members", "code"),
    [
        (f"{THING}/explode", "/", {"value": 1}, "protocoladapter:unknown.command"),
        (f"{THING}/modify", "//", {"value": 1}, "json.pointer.invalid"),
        (f"{THING}/create", "/attributes", {"value": {}}, "protocoladapter:unknown.path"),
        ("1bad/x/things/twin/commands/retrieve", "/", {}, "things:id.invalid"),
        ("a/b/things/live/messages/x", "/nobox/messages/x", {}, "protocoladapter:unknown.path"),
        (
            "a/b/things/twin/acks/x-y",
            "/",
            {"status": 200},
            "acknowledgement:correlation-id.missing",
        ),
        ("a/b/things/twin/events/exploded", "/", {}, "protocoladapter:unknown.event"),
        ("a/b/connections/announcements/opened", "/", {}, "protocoladapter:unknown.signal"),
        ("a/p/policies/commands/merge", "/", {"value": {}}, "protocoladapter:unknown.command"),
        ("_/_/things/twin/search/explode", "/", {}, "protocoladapter:unknown.command"),
        ("_/_/things/twin/commands/retrieve", "/", {"value": {}}, "things:ids.missing"),
    ],
)
def test_signals_that_are_none_are_refused(
    topic: str, path: str, members: dict[str, Any], code: str
) -> None:
    with pytest.raises(GatewayError) as caught:
        signal(topic, path, **members)
    assert caught.value.code == code


def test_questions_about_permissions_have_names() -> None:
    asked = signal("_/_/policies/commands/checkPermissions", "/", value={"a": {}})
    assert isinstance(asked, CheckPermissions)
    assert (asked.questions, asked.subjects) == ({"a": {}}, ME.subjects)
    with pytest.raises(GatewayError, match="no JSON object"):
        signal("_/_/policies/commands/checkPermissions")


def test_live_commands_and_events_are_told_from_those_of_the_twin() -> None:
    command = signal("a/b/things/live/commands/modify", "/attributes/x", value=1)
    assert isinstance(command, ThingCommand)
    assert (command.channel, command.path, command.value) == ("live", ("attributes", "x"), 1)
    event = signal("a/b/things/live/events/created", "/attributes/x", value=1)
    assert isinstance(event, ThingEvent)
    assert (event.channel, event.subjects, event.originator) == (
        "live",
        ME.subjects,
        ME.originator,
    )


def test_an_answer_to_a_live_command_says_what_it_answers() -> None:
    found = signal("a/b/things/live/commands/modify", "/attributes/x", status=204)
    assert isinstance(found, Response)
    assert (str(found.topic), found.path, found.status) == (
        "a/b/things/live/commands/modify",
        ("attributes", "x"),
        204,
    )


def test_a_live_command_goes_out_without_what_chose_its_way() -> None:
    headers = {"correlation-id": "c", "live-channel-condition": "exists(thingId)", "own": "1"}
    command = signal("a/b/things/live/commands/retrieve", "/", headers=headers, fields="thingId")
    assert isinstance(command, ThingCommand)
    found = as_json(live_command_frame(command, {"policyId": "p:q"}))
    assert found["topic"] == "a/b/things/live/commands/retrieve"
    assert (found["fields"], found["extra"]) == ("thingId", {"policyId": "p:q"})
    assert found["headers"]["own"] == "1"
    assert "live-channel-condition" not in found["headers"]
    assert "value" not in found


def test_streams_of_past_events_are_asked_for_by_their_entity() -> None:
    found = signal("a/b/policies/streaming/subscribeForPersistedEvents", "/entries", value={})
    assert isinstance(found, StreamSignal)
    assert (found.group, found.entity_id, found.path) == ("policies", "a:b", ("entries",))
    frame = as_json(stream_frame("created", "things", "a:b", {"x": 1}, {"correlation-id": "c"}))
    assert (frame["topic"], frame["value"]) == ("a/b/things/twin/streaming/created", {"x": 1})
    frame = as_json(stream_frame("next", "policies", "a:b", {}, {}))
    assert frame["topic"] == "a/b/policies/streaming/next"


def test_a_bad_label_is_refused() -> None:
    with pytest.raises(GatewayError) as caught:
        signal("a/b/things/twin/acks/a b", status=200, headers={"correlation-id": "c"})
    assert caught.value.code == "acknowledgement:label.invalid"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "json.invalid"),
        (b"{", "json.invalid"),
        (b"[]", "json.invalid"),
        (b'{"topic": 5, "path": "/"}', "json.invalid"),
        (b'{"path": "/"}', "json.field.missing"),
        (b'{"topic": "a/b/things/twin/errors"}', "json.field.missing"),
        (b'{"topic":"x","path":"/","headers":[]}', "json.invalid"),
        (b"\xff\xfe", "json.invalid"),
        (b'{"topic":"x","path":"/","value":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "json.invalid"),
        (b" " * (MAX_BYTES + 1), "too.large"),
    ],
)
def test_what_is_no_envelope_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(GatewayError) as caught:
        signal_of(decode(data), ME)
    assert caught.value.code == code


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(GatewayError):
        signal_of(decode(data), ME)


TOPICS = [
    THING + "/merge",
    "a/b/things/live/messages/x",
    "a/b/things/twin/acks/label",
    "a/b/things/live/commands/modify",
    "a/b/things/live/events/modified",
    "a/b/things/twin/streaming/request",
    "a/p/policies/commands/modify",
]
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=6)),
    lambda below: st.one_of(
        st.lists(below, max_size=2), st.dictionaries(st.text(max_size=4), below, max_size=2)
    ),
    max_leaves=5,
)


@given(
    st.sampled_from(TOPICS),
    st.text("/abfeaturesinbox~01mg", max_size=30),
    st.dictionaries(st.sampled_from(["value", "headers", "status", "fields", "revision"]), JSON),
)
def test_any_envelope_is_read_or_refused(topic: str, path: str, members: dict[str, Any]) -> None:
    status = 200
    try:
        signal(topic, path, **members)
    except GatewayError as error:
        status = error.status
    assert status in (200, 400, 431, 501)


# --- writing -----------------------------------------------------------------------------------


def a_command(**more: Any) -> ThingCommand:
    facts = {
        "thing_id": "org.acme:pump-1",
        "action": Action.MODIFY,
        "path": ("attributes", "x"),
        "value": 1,
        "subjects": ("nginx:me",),
        "headers": {"correlation-id": "c1", "my": "header"},
        **more,
    }
    return ThingCommand(**facts)


def test_an_answer_has_the_commands_topic_and_path() -> None:
    result = ThingResult(status=204, etag='"hash:1a"', revision=9)
    assert as_json(thing_response(a_command(), result)) == {
        "topic": "org.acme/pump-1/things/twin/commands/modify",
        "path": "/attributes/x",
        "status": 204,
        "headers": {
            "correlation-id": "c1",
            "etag": '"hash:1a"',
            "entity-revision": 9,
            "response-required": False,
            "version": 2,
        },
    }
    created = as_json(
        thing_response(a_command(), ThingResult(status=201, value=None, has_value=True))
    )
    assert created["value"] is None
    assert created["headers"]["content-type"] == "application/json"


def test_an_answer_about_a_policy_keeps_its_resource_key() -> None:
    command = PolicyCommand(
        policy_id="a:p",
        action=Action.RETRIEVE,
        subjects=(),
        path=("entries", "e", "resources", "thing:/x/y"),
    )
    found = as_json(policy_response(command, ThingResult(status=200, value={}, has_value=True)))
    assert found["path"] == "/entries/e/resources/thing:/x/y"
    assert found["topic"] == "a/p/policies/commands/retrieve"


def an_event(**more: Any) -> ThingEvent:
    facts = {
        "thing_id": "org.acme:pump-1",
        "action": EventAction.MODIFIED,
        "path": ("attributes", "x"),
        "revision": 17,
        "timestamp": "2026-01-01T10:00:00.000000Z",
        "after": None,
        "value": 1300,
        "subjects": ("nginx:me",),
        "headers": {"correlation-id": "c1", "custom": "y"},
        **more,
    }
    return ThingEvent(**facts)


def test_an_event_is_written_as_ditto_writes_it() -> None:
    assert as_json(event_frame(an_event(), {"attributes": {"a": 1}})) == {
        "topic": "org.acme/pump-1/things/twin/events/modified",
        "path": "/attributes/x",
        "headers": {
            "correlation-id": "c1",
            "custom": "y",
            "content-type": "application/json",
            "ditto-originator": "nginx:me",
            "response-required": False,
            "requested-acks": [],
            "version": 2,
            "entity-revision": 17,
        },
        "value": 1300,
        "extra": {"attributes": {"a": 1}},
        "revision": 17,
        "timestamp": "2026-01-01T10:00:00.000000Z",
    }


def test_a_deletion_has_no_value_and_a_merge_its_content_type() -> None:
    assert "value" not in as_json(event_frame(an_event(action=EventAction.DELETED, value=None)))
    merged = as_json(event_frame(an_event(action=EventAction.MERGED, value=None)))
    assert merged["value"] is None
    assert merged["headers"]["content-type"] == "application/merge-patch+json"


@pytest.mark.parametrize("action", [EventAction.CREATED, EventAction.MODIFIED, EventAction.MERGED])
def test_an_event_survives_the_wire(action: EventAction) -> None:
    event = an_event(action=action)
    found = signal_of(decode(event_frame(event)), ME)
    assert isinstance(found, ThingEvent)
    assert (found.thing_id, found.action, found.path, found.value, found.revision) == (
        event.thing_id,
        action,
        event.path,
        event.value,
        event.revision,
    )


@pytest.mark.parametrize(
    "action", [Action.CREATE, Action.MODIFY, Action.MERGE, Action.DELETE, Action.RETRIEVE]
)
def test_a_command_survives_the_wire(action: Action) -> None:
    path = () if action is Action.CREATE else ("attributes", "x")
    has_value = action not in (Action.DELETE, Action.RETRIEVE)
    command = a_command(action=action, path=path, value={"a": 1} if has_value else None)
    found = signal_of(decode(command_frame(command)), ME)
    assert isinstance(found, ThingCommand)
    assert (found.action, found.path, found.value) == (action, path, command.value)


@pytest.mark.parametrize(
    ("payload", "content_type"),
    [
        (b'{"a": 1}', "application/json"),
        (b"text", "text/plain"),
        (b"\x00\xff", "application/octet-stream"),
        (b"", None),
        (b"plain", None),
    ],
)
def test_a_message_survives_the_wire(payload: bytes, content_type: str | None) -> None:
    message = ThingMessage(
        thing_id="a:b",
        subject="set/it",
        direction=Direction.FROM,
        correlation_id="c",
        subjects=("nginx:me",),
        feature_id="f/g",
        payload=payload,
        content_type=content_type,
        timeout=2.5,
    )
    found = signal_of(decode(message_frame(message)), ME)
    assert isinstance(found, ThingMessage)
    assert (found.payload, found.subject, found.direction) == (payload, "set/it", Direction.FROM)
    assert (found.feature_id, found.timeout, found.correlation_id) == ("f/g", 2.5, "c")
    answer = ThingMessageResponse(
        thing_id="a:b", correlation_id="c", status=200, payload=payload, content_type=content_type
    )
    again = signal_of(decode(message_response_frame(message, answer)), ME)
    assert isinstance(again, ThingMessageResponse)
    assert (again.status, again.payload) == (200, payload)


def test_a_payload_that_lies_about_being_json_goes_as_base64() -> None:
    message = ThingMessage(
        thing_id="a:b",
        subject="x",
        direction=Direction.TO,
        correlation_id="c",
        subjects=(),
        payload=b"{broken",
        content_type="application/json",
    )
    assert as_json(message_frame(message))["value"] == "e2Jyb2tlbg=="


def test_an_error_is_an_envelope() -> None:
    error = ditto_error("things:thing.notfound", id="org.acme:pump-1")
    found = as_json(
        error_frame(error, entity_id="org.acme:pump-1", headers={"correlation-id": "c"})
    )
    assert (found["topic"], found["path"], found["status"]) == (
        "org.acme/pump-1/things/twin/errors",
        "/",
        404,
    )
    assert found["value"]["error"] == "things:thing.notfound"
    assert found["headers"]["correlation-id"] == "c"
    assert as_json(error_frame(error))["topic"] == "unknown/unknown/things/twin/errors"
    assert (
        as_json(error_frame(error, entity_id="a:p", group="policies"))["topic"]
        == "a/p/policies/errors"
    )


@pytest.mark.parametrize(
    ("statuses", "expected"), [((204,), 204), ((408,), 408), ((200, 204), 200), ((200, 408), 424)]
)
def test_acknowledgements_are_summed_up(statuses: tuple[int, ...], expected: int) -> None:
    acks: dict[str, Any] = {f"label-{n}": {"status": status} for n, status in enumerate(statuses)}
    found = as_json(acks_frame("a:b", "twin", acks, {"correlation-id": "c"}))
    assert (found["topic"], found["status"], found["value"]) == (
        "a/b/things/twin/acks",
        expected,
        acks,
    )


def test_a_single_acknowledgement_survives_the_wire() -> None:
    frame = ack_frame("a:b", "live", "my-ack", 202, {"correlation-id": "c"}, {"x": 1})
    found = signal_of(decode(frame), ME)
    assert isinstance(found, Acknowledgement)
    assert (found.label, found.status, found.value, found.channel) == (
        "my-ack",
        202,
        {"x": 1},
        "live",
    )
