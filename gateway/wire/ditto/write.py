"""From answers, events, messages, errors to envelopes. A frame is built once and written to many."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, Pointer, format_pointer
from gateway.model.policy import PolicyCommand, PolicyEvent
from gateway.model.thing import (
    LIVE,
    TWIN,
    Action,
    Direction,
    EventAction,
    Headers,
    HeaderValue,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)
from gateway.wire.ditto.envelope import NOTHING, encode
from gateway.wire.ditto.headers import DITTO, JSON, MERGE_PATCH, error_json, is_json, is_text
from gateway.wire.ditto.topic import policy_topic, thing_topic

UNKNOWN: Final = "unknown:unknown"
"""The entity of errors that belong to none."""
_BOX: Final = {Direction.TO: "inbox", Direction.FROM: "outbox"}


# --- answers -----------------------------------------------------------------------------------


def thing_response(command: ThingCommand, result: ThingResult) -> bytes:
    """The answer to a thing command: its topic and path, with a status."""
    channel = str(result.headers.get("channel", command.channel))
    topic = thing_topic(command.thing_id, channel, "commands", command.action.value)
    return _response(topic, format_pointer(command.path), command.headers, result)


def policy_response(command: PolicyCommand, result: ThingResult) -> bytes:
    """The answer to a policy command."""
    topic = policy_topic(command.policy_id, "commands", command.action.value)
    return _response(topic, policy_path(command), command.headers, result)


def policy_path(command: PolicyCommand) -> str:
    """A policy path with its resource key or subject id as it was written."""
    return policy_pointer(command.path)


def policy_pointer(path: Pointer) -> str:
    """A path below a policy; a resource key or subject id stays as it was written."""
    if len(path) > 3 and path[0] == "entries":
        return f"{format_pointer(path[:3])}/{path[3]}"
    return format_pointer(path)


def many_response(topic: str, headers: Headers, found: Sequence[JsonObject] | JsonObject) -> bytes:
    """The answer to a command about several things or policies."""
    value: Json = found if isinstance(found, dict) else [*found]
    return _response(topic, "/", headers, ThingResult(status=200, value=value, has_value=True))


def _response(topic: str, path: str, asked: Headers, result: ThingResult) -> bytes:
    headers: dict[str, Any] = {**_correlation(asked), "response-required": False, "version": 2}
    if result.has_value:
        headers["content-type"] = JSON
    if result.etag is not None:
        headers["etag"] = result.etag
    if result.revision is not None:
        headers["entity-revision"] = result.revision
    headers.update(result.headers)
    value = result.value if result.has_value else NOTHING
    return encode(topic, path, headers, value, status=result.status)


def _correlation(asked: Headers) -> dict[str, HeaderValue]:
    return {name: asked[name] for name in ("correlation-id", "traceparent") if name in asked}


def error_frame(
    error: GatewayError,
    *,
    entity_id: str = UNKNOWN,
    headers: Headers | None = None,
    group: str = "things",
    channel: str = "twin",
) -> bytes:
    """An error as an envelope of its own."""
    if group == "policies":
        topic = policy_topic(entity_id, "errors")
    else:
        topic = thing_topic(entity_id, channel, "errors")
    carried: dict[str, Any] = {
        **_correlation(headers or {}),
        "response-required": False,
        "version": 2,
        "content-type": DITTO,
    }
    return encode(topic, "/", carried, error_json(error), status=error.status)


# --- events ------------------------------------------------------------------------------------


def event_frame(event: ThingEvent, extra: JsonObject | None = None) -> bytes:
    """An event; `extra` are the enriched fields."""
    return encode(
        event_topic(event),
        format_pointer(event.path),
        event_headers(event),
        NOTHING if event.action is EventAction.DELETED else event.value,
        extra=NOTHING if extra is None else extra,
        revision=event.revision or None,
        timestamp=event.timestamp or None,
    )


def event_topic(event: ThingEvent) -> str:
    """The topic of an event."""
    return thing_topic(event.thing_id, event.channel, "events", event.action.value)


def event_headers(event: ThingEvent) -> dict[str, Any]:
    """The headers that subscribers of an event see; custom ones of its command among them."""
    headers: dict[str, Any] = dict(event.headers)
    headers["content-type"] = MERGE_PATCH if event.action.is_merge else JSON
    headers["response-required"] = False
    headers.setdefault("requested-acks", [])
    headers["version"] = 2
    if event.revision:
        headers["entity-revision"] = event.revision
    if event.subjects:
        headers["ditto-originator"] = event.subjects[0]
    if event.trace is not None:
        headers["traceparent"] = event.trace.traceparent
    return headers


# --- live commands -----------------------------------------------------------------------------

_ROUTING: Final = frozenset(
    ("channel", "condition", "live-channel-condition", "live-channel-timeout-strategy")
)
"""Headers that said where a command goes; who gets it does not need them."""


def live_command_frame(command: ThingCommand, extra: JsonObject | None = None) -> bytes:
    """A live command for those who may carry it out."""
    has_value = command.action not in (Action.RETRIEVE, Action.DELETE)
    return encode(
        live_command_topic(command),
        format_pointer(command.path),
        live_command_headers(command),
        command.value if has_value else NOTHING,
        fields=command.fields,
        extra=NOTHING if extra is None else extra,
    )


def live_command_topic(command: ThingCommand) -> str:
    """The topic of a live command."""
    return thing_topic(command.thing_id, LIVE, "commands", command.action.value)


def live_command_headers(command: ThingCommand) -> dict[str, Any]:
    """The headers that receivers of a live command see."""
    headers: dict[str, Any] = {k: v for k, v in command.headers.items() if k not in _ROUTING}
    headers["version"] = 2
    headers.setdefault("response-required", True)
    if command.action is Action.MERGE:
        headers["content-type"] = MERGE_PATCH
    elif command.action not in (Action.RETRIEVE, Action.DELETE):
        headers["content-type"] = JSON
    if command.subjects:
        headers["ditto-originator"] = command.subjects[0]
    if command.trace is not None:
        headers["traceparent"] = command.trace.traceparent
    return headers


# --- messages ----------------------------------------------------------------------------------


def message_path(message: ThingMessage) -> str:
    """`/features/<id>/inbox/messages/<subject>` and its kin; the subject may have `/`."""
    tail = f"/{_BOX[message.direction]}/messages/{message.subject}"
    if message.feature_id is None:
        return tail
    return format_pointer(("features", message.feature_id)) + tail


def message_frame(message: ThingMessage, extra: JsonObject | None = None) -> bytes:
    """A live message for its receivers."""
    headers: dict[str, Any] = {
        **message.headers,
        "correlation-id": message.correlation_id,
        "timeout": f"{round(message.timeout * 1_000)}ms",
        "response-required": message.response_required,
        "ditto-message-subject": message.subject,
        "ditto-message-direction": message.direction.value,
        "ditto-message-thing-id": message.thing_id,
        "version": 2,
    }
    if message.feature_id is not None:
        headers["ditto-message-feature-id"] = message.feature_id
    if message.subjects:
        headers["ditto-originator"] = message.subjects[0]
    if message.trace is not None:
        headers["traceparent"] = message.trace.traceparent
    if message.content_type is not None:
        headers["content-type"] = message.content_type
    return encode(
        thing_topic(message.thing_id, "live", "messages", message.subject),
        message_path(message),
        headers,
        payload_value(message.payload, message.content_type),
        extra=NOTHING if extra is None else extra,
    )


def message_response_frame(message: ThingMessage, response: ThingMessageResponse) -> bytes:
    """The answer to a live message, for its sender or for the one who asked."""
    headers: dict[str, Any] = {
        **{name: value for name, value in response.headers.items() if name != "status"},
        "correlation-id": response.correlation_id,
        "response-required": False,
        "version": 2,
    }
    if response.content_type is not None:
        headers["content-type"] = response.content_type
    return encode(
        thing_topic(message.thing_id, "live", "messages", message.subject),
        message_path(message),
        headers,
        payload_value(response.payload, response.content_type),
        status=response.status,
    )


def payload_value(payload: bytes, content_type: str | None) -> Any:
    """A message's bytes as a value: JSON as it is, text as a string, anything else as base64.

    What says JSON and is none, or says text and is no UTF-8, goes as base64 too.
    """
    if not payload:
        return NOTHING
    if is_json(content_type) and _is_valid_json(payload):
        return msgspec.Raw(payload)
    if content_type is None or is_text(content_type):
        try:
            return payload.decode()
        except UnicodeDecodeError:
            return base64.b64encode(payload).decode()
    return base64.b64encode(payload).decode()


def _is_valid_json(payload: bytes) -> bool:
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


# --- acknowledgements --------------------------------------------------------------------------


def ack_frame(
    thing_id: str, channel: str, label: str, status: int, headers: Headers, value: Any = NOTHING
) -> bytes:
    """One acknowledgement."""
    topic = thing_topic(thing_id, channel, "acks", label)
    return encode(topic, "/", {**_correlation(headers), "version": 2}, value, status=status)


def acks_frame(
    thing_id: str, channel: str, acks: Mapping[str, JsonObject], headers: Headers
) -> bytes:
    """All acknowledgements of a signal: label to `{"status", "payload"?, "headers"?}`."""
    topic = thing_topic(thing_id, channel, "acks")
    carried = {**_correlation(headers), "version": 2}
    return encode(topic, "/", carried, dict(acks), status=combined_status(acks))


def combined_status(acks: Mapping[str, JsonObject]) -> int:
    """The status of an aggregate: that of a single one, 200 when all are good, else 424."""
    statuses = [ack["status"] for ack in acks.values()]
    if len(statuses) == 1 and isinstance(statuses[0], int):
        return statuses[0]
    good = all(isinstance(status, int) and 200 <= status < 300 for status in statuses)
    return 200 if good else 424


# --- commands that we send ---------------------------------------------------------------------


def command_frame(command: ThingCommand) -> bytes:
    """A thing command, for another Ditto. A JSON Patch has no form there.

    Errors: ValueError for a JSON Patch.
    """
    if command.action is Action.PATCH:
        raise ValueError("Ditto Protocol has no JSON Patch")
    has_value = command.action not in (Action.RETRIEVE, Action.DELETE)
    headers: dict[str, Any] = dict(command.headers)
    if command.action is Action.MERGE:
        headers["content-type"] = MERGE_PATCH
    if command.trace is not None:
        headers["traceparent"] = command.trace.traceparent
    return encode(
        thing_topic(command.thing_id, "twin", "commands", command.action.value),
        format_pointer(command.path),
        headers,
        command.value if has_value else NOTHING,
        fields=command.fields,
    )


# --- search ------------------------------------------------------------------------------------


def search_frame(action: str, value: JsonObject, headers: Headers) -> bytes:
    """`created`, `next`, `complete` or `failed` of a search."""
    return encode(f"_/_/things/twin/search/{action}", "/", _correlation(headers), value)


# --- streams of past events --------------------------------------------------------------------


def stream_frame(
    action: str, group: str, entity_id: str, value: Mapping[str, Any], headers: Headers
) -> bytes:
    """`created`, `next`, `complete` or `failed` of a stream; the `item` of a `next` may be raw JSON."""
    if group == "policies":
        topic = policy_topic(entity_id, "streaming", action)
    else:
        topic = thing_topic(entity_id, TWIN, "streaming", action)
    return encode(topic, "/", _correlation(headers), dict(value))


def policy_event_frame(event: PolicyEvent) -> bytes:
    """A change of a policy; only streams of past events carry them."""
    headers: dict[str, Any] = {**_correlation(event.headers), "response-required": False}
    headers |= {"version": 2, "content-type": JSON, "entity-revision": event.revision}
    if event.subjects:
        headers["ditto-originator"] = event.subjects[0]
    return encode(
        policy_topic(event.policy_id, "events", event.action.value),
        policy_pointer(event.path),
        headers,
        NOTHING if event.action is EventAction.DELETED else event.value,
        revision=event.revision,
        timestamp=event.timestamp,
    )
