"""From an envelope to what it asks for: commands, messages, answers, acknowledgements, searches."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.errors import BadRequest, GatewayError
from gateway.model.entity_id import check_entity_id
from gateway.model.json import Json, JsonObject, Pointer, parse_pointer
from gateway.model.policy import PolicyCommand, parse_policy_path
from gateway.model.thing import (
    LIVE,
    TWIN,
    Action,
    Direction,
    EventAction,
    Headers,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
)
from gateway.model.trace import TraceContext
from gateway.wire.ditto.envelope import Envelope
from gateway.wire.ditto.headers import (
    LABEL_HINT,
    MAX_CLAIM_TIMEOUT,
    MAX_TIMEOUT,
    MESSAGE_TIMEOUT,
    is_json,
    is_label,
    is_response_required,
    is_text,
    read_headers,
    timeout_of,
    trace_of,
)
from gateway.wire.ditto.signals import (
    Acknowledgement,
    CheckPermissions,
    Response,
    RetrieveThings,
    SearchSignal,
    Sender,
    Signal,
    StreamSignal,
)
from gateway.wire.ditto.topic import PLACEHOLDER, Topic

__all__ = [
    "CLAIM",
    "SUBSCRIBE_EVENTS",
    "Acknowledgement",
    "CheckPermissions",
    "MessagePath",
    "Response",
    "RetrieveThings",
    "SearchSignal",
    "Sender",
    "Signal",
    "StreamSignal",
    "message_payload",
    "message_timeout",
    "signal_of",
]

MAX_RETRIEVED: Final = 1_000
_BOXES: Final = {"inbox": Direction.TO, "outbox": Direction.FROM}
_JSON_PATCH_ACTION: Final = "patch"
CLAIM: Final = "claim"
_CLAIM_TIMEOUT: Final = 60.0
SUBSCRIBE_EVENTS: Final = "subscribeForPersistedEvents"
_STREAM_ACTIONS: Final = frozenset((SUBSCRIBE_EVENTS, "request", "cancel"))


def signal_of(envelope: Envelope, sender: Sender) -> Signal:
    """What an envelope asks for or says.

    Errors: BadRequest `protocoladapter:*`, `header.invalid`, `json.*`, `*:id.invalid`.
    """
    topic = Topic.parse(envelope.topic)
    headers = read_headers(envelope.headers)
    reader = _READERS.get((topic.group, topic.criterion))
    if reader is None:
        raise _unknown(f"'{topic.criterion}' of {topic.group}", "protocoladapter:unknown.signal")
    return reader(_Case(topic, envelope, headers, sender))


@dataclass(frozen=True, slots=True)
class _Case:
    topic: Topic
    envelope: Envelope
    headers: Headers
    sender: Sender

    @property
    def trace(self) -> TraceContext | None:
        return trace_of(self.headers) or self.sender.trace

    @property
    def correlation_id(self) -> str:
        return str(self.headers.get("correlation-id", ""))


def _unknown(what: str, code: str) -> GatewayError:
    return BadRequest(f"The signal is not known: {what}.", code=code)


def _thing_id(topic: Topic) -> str:
    return check_entity_id(topic.entity_id, "things:id.invalid")


def _value(case: _Case) -> Json:
    return case.envelope.json_value()


def _object(case: _Case) -> JsonObject:
    value = _value(case)
    if not isinstance(value, dict):
        raise BadRequest("The value is no JSON object.", code="json.invalid")
    return value


# --- things ------------------------------------------------------------------------------------


def _thing_command(case: _Case) -> Signal:
    if case.envelope.status is not None:
        return _live_response(case) if case.topic.channel == LIVE else _response(case)
    if case.topic.is_for_many:
        return _retrieve_things(case)
    action = _action(case.topic.action)
    path = parse_pointer(case.envelope.path)
    _check_value(case, action)
    if action in (Action.CREATE, Action.MIGRATE) and path:
        raise BadRequest(f"'{action}' has the path '/'.", code="protocoladapter:unknown.path")
    return ThingCommand(
        thing_id=_thing_id(case.topic),
        action=action,
        path=path,
        value=_value(case),
        fields=case.envelope.fields,
        headers=case.headers,
        subjects=case.sender.subjects,
        originator=case.sender.originator,
        trace=case.trace,
        spool=case.sender.spool,
        channel=case.topic.channel or TWIN,
    )


def _action(name: str | None) -> Action:
    try:
        return Action(name or "")
    except ValueError as error:
        raise _unknown(f"the command '{name}'", "protocoladapter:unknown.command") from error


def _check_value(case: _Case, action: Action) -> None:
    if action not in (Action.RETRIEVE, Action.DELETE) and not case.envelope.has_value:
        raise BadRequest("The JSON has no field 'value'.", code="json.field.missing")


def _retrieve_things(case: _Case) -> RetrieveThings:
    if case.topic.action != "retrieve":
        raise _unknown(f"'{case.topic.action}' of many things", "protocoladapter:unknown.command")
    ids = _object(case).get("thingIds")
    if not isinstance(ids, list) or len(ids) > MAX_RETRIEVED:
        raise BadRequest(
            f"'thingIds' is an array of at most {MAX_RETRIEVED} IDs.", code="things:ids.missing"
        )
    return RetrieveThings(
        topic=case.envelope.topic,
        thing_ids=tuple(check_entity_id(str(one), "things:id.invalid") for one in ids),
        subjects=case.sender.subjects,
        fields=case.envelope.fields,
        headers=case.headers,
    )


_LIVE_STATUSES: Final = {
    "create": (201,),
    "retrieve": (200,),
    "modify": (201, 204),
    "merge": (201, 204),
    "delete": (204,),
}
"""How devices may answer live commands that went well."""


def _live_response(case: _Case) -> Response:
    """A device's answer to a command; an error may come under the command's own topic.

    Errors: 422 `protocoladapter:illegal.adaptable` for a status that the command cannot end with.
    """
    status, known = case.envelope.status or 0, _LIVE_STATUSES.get(case.topic.action or "")
    if known is None or (status < 400 and status not in known):
        raise GatewayError(
            f"The status {status} is no answer to '{case.topic.action}'.",
            code="protocoladapter:illegal.adaptable",
            status=422,
            description=f"Expected: {', '.join(map(str, known or ()))}, or an error.",
        )
    return _response(case)


def _response(case: _Case) -> Response:
    return Response(
        topic=case.topic,
        path=parse_pointer(case.envelope.path),
        status=case.envelope.status or 0,
        value=_value(case),
        has_value=case.envelope.has_value,
        headers=case.headers,
        subjects=case.sender.subjects,
    )


def _thing_event(case: _Case) -> ThingEvent:
    try:
        action = EventAction(case.topic.action or "")
    except ValueError as error:
        raise _unknown(
            f"the event '{case.topic.action}'", "protocoladapter:unknown.event"
        ) from error
    is_live = case.topic.channel == LIVE
    return ThingEvent(
        thing_id=_thing_id(case.topic),
        action=action,
        path=parse_pointer(case.envelope.path),
        revision=case.envelope.revision or 0,
        timestamp=case.envelope.timestamp or "",
        after=None,
        value=_value(case),
        headers=case.headers,
        originator=case.sender.originator if is_live else None,
        subjects=case.sender.subjects if is_live else _originator(case),
        trace=case.trace,
        channel=case.topic.channel or TWIN,
    )


def _originator(case: _Case) -> tuple[str, ...]:
    """Who changed a twin far away, as its Ditto says."""
    originator = case.headers.get("ditto-originator")
    return (originator,) if isinstance(originator, str) else ()


# --- messages ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MessagePath:
    """`/[features/<id>/]inbox|outbox/messages/<subject>`."""

    direction: Direction
    subject: str
    feature_id: str | None = None

    @classmethod
    def parse(cls, path: Pointer) -> MessagePath:
        """Read the path of a message.

        Errors: BadRequest `protocoladapter:unknown.path`.
        """
        feature_id = None
        rest = path
        if len(path) > 2 and path[0] == "features":
            feature_id, rest = path[1], path[2:]
        if len(rest) < 3 or rest[0] not in _BOXES or rest[1] != "messages":
            raise BadRequest(
                f"The path '/{'/'.join(path)[:200]}' is not one of a message.",
                code="protocoladapter:unknown.path",
            )
        return cls(_BOXES[rest[0]], "/".join(rest[2:]), feature_id)


def _message(case: _Case) -> ThingMessage | ThingMessageResponse:
    path = MessagePath.parse(parse_pointer(case.envelope.path))
    content_type = case.headers.get("content-type")
    kind = content_type if isinstance(content_type, str) else None
    payload = message_payload(case.envelope, kind)
    if case.envelope.status is not None:
        return ThingMessageResponse(
            thing_id=_thing_id(case.topic),
            correlation_id=case.correlation_id,
            status=case.envelope.status,
            payload=payload,
            content_type=kind,
            headers=case.headers,
        )
    return ThingMessage(
        thing_id=_thing_id(case.topic),
        subject=path.subject,
        direction=path.direction,
        correlation_id=case.correlation_id,
        subjects=case.sender.subjects,
        feature_id=path.feature_id,
        payload=payload,
        content_type=kind,
        timeout=message_timeout(case.headers, path.subject),
        headers=case.headers,
        originator=case.sender.originator,
        trace=case.trace,
    )


def message_timeout(headers: Headers, subject: str) -> float:
    """Seconds that a message's sender waits; 0 when it wants no answer.

    Errors: BadRequest `header.invalid`, `timeout.invalid`.
    """
    if not is_response_required(headers):
        return 0.0
    if subject == CLAIM:
        return timeout_of(headers, _CLAIM_TIMEOUT, MAX_CLAIM_TIMEOUT)
    return timeout_of(headers, MESSAGE_TIMEOUT, MAX_TIMEOUT)


def message_payload(envelope: Envelope, content_type: str | None) -> bytes:
    """The bytes of a message's value.

    Shape:  JSON stays JSON text; with `text/*` a JSON string is its text; else a string is base64.
    Errors: BadRequest `messages:messageformat.invalid` for what is no base64.
    """
    if not envelope.has_value:
        return b""
    if is_json(content_type):
        return envelope.raw_value()
    value = envelope.json_value()
    if not isinstance(value, str):
        return envelope.raw_value()
    if content_type is None or is_text(content_type):
        return value.encode()
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(
            f"The value of a message with content type '{content_type[:100]}' is base64.",
            code="messages:messageformat.invalid",
        ) from error


# --- the rest ----------------------------------------------------------------------------------


def _acknowledgement(case: _Case) -> Acknowledgement:
    if not case.correlation_id:
        raise BadRequest(
            "An acknowledgement has a correlation-id.",
            code="acknowledgement:correlation-id.missing",
        )
    if not case.topic.action or case.envelope.status is None:
        raise _unknown("acknowledgements are not sent in sums", "protocoladapter:unknown.signal")
    if not is_label(case.topic.action):
        raise BadRequest(
            f"The acknowledgement label '{case.topic.action[:200]}' is not valid.",
            code="acknowledgement:label.invalid",
            description=LABEL_HINT,
        )
    return Acknowledgement(
        thing_id=check_entity_id(case.topic.entity_id, f"{case.topic.group}:id.invalid"),
        group=case.topic.group,
        channel=case.topic.channel or "twin",
        label=case.topic.action,
        correlation_id=case.correlation_id,
        status=case.envelope.status,
        value=_value(case),
        has_value=case.envelope.has_value,
        headers=case.headers,
    )


def _search(case: _Case) -> SearchSignal:
    if case.topic.action not in ("subscribe", "request", "cancel"):
        raise _unknown(f"search '{case.topic.action}'", "protocoladapter:unknown.command")
    return SearchSignal(
        action=case.topic.action,
        value=_object(case) if case.envelope.has_value else {},
        subjects=case.sender.subjects,
        fields=case.envelope.fields,
        headers=case.headers,
    )


def _policy_command(case: _Case) -> Signal:
    if case.envelope.status is not None:
        return _response(case)
    if case.topic.namespace == PLACEHOLDER and case.topic.is_for_many:
        return _check_permissions(case)
    action = _action(case.topic.action)
    if action in (Action.MERGE, Action.PATCH, Action.MIGRATE):
        raise _unknown(f"'{action}' of policies", "protocoladapter:unknown.command")
    _check_value(case, action)
    return PolicyCommand(
        policy_id=check_entity_id(case.topic.entity_id, "policies:id.invalid"),
        action=action,
        path=parse_policy_path(case.envelope.path),
        value=_value(case),
        fields=case.envelope.fields,
        headers=case.headers,
        subjects=case.sender.subjects,
        originator=case.sender.originator,
        trace=case.trace,
    )


def _check_permissions(case: _Case) -> CheckPermissions:
    if case.topic.action != "checkPermissions":
        raise _unknown(f"'{case.topic.action}' of many policies", "protocoladapter:unknown.command")
    if parse_pointer(case.envelope.path):
        raise BadRequest(
            "'checkPermissions' has the path '/'.", code="protocoladapter:unknown.path"
        )
    return CheckPermissions(
        topic=case.envelope.topic,
        questions=_object(case),
        subjects=case.sender.subjects,
        headers=case.headers,
    )


def _error(case: _Case) -> Response:
    """An error that another Ditto answers with."""
    if case.envelope.status is None:
        raise _unknown("an error without a status", "protocoladapter:unknown.signal")
    return _response(case)


def _streaming(case: _Case) -> StreamSignal:
    if case.topic.action not in _STREAM_ACTIONS:
        raise _unknown(f"streaming '{case.topic.action}'", "protocoladapter:unknown.command")
    return StreamSignal(
        action=case.topic.action,
        group=case.topic.group,
        entity_id=check_entity_id(case.topic.entity_id, f"{case.topic.group}:id.invalid"),
        path=parse_pointer(case.envelope.path),
        value=_object(case) if case.envelope.has_value else {},
        subjects=case.sender.subjects,
        headers=case.headers,
    )


_READERS: Final[dict[tuple[str, str], Callable[[_Case], Signal]]] = {
    ("things", "commands"): _thing_command,
    ("things", "events"): _thing_event,
    ("things", "messages"): _message,
    ("things", "acks"): _acknowledgement,
    ("things", "errors"): _error,
    ("things", "search"): _search,
    ("things", "streaming"): _streaming,
    ("policies", "commands"): _policy_command,
    ("policies", "acks"): _acknowledgement,
    ("policies", "errors"): _error,
    ("policies", "streaming"): _streaming,
}
