"""Answers to envelopes that came in, whoever brought them: sessions and connections write the same ones."""

from __future__ import annotations

from gateway.ditto.acknowledgements import Acknowledgements
from gateway.ditto.correlation import new_correlation_id
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.model.policy import PolicyCommand
from gateway.model.thing import (
    Headers,
    ThingCommand,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)
from gateway.wire.ditto.envelope import Envelope
from gateway.wire.ditto.signals import CheckPermissions, RetrieveThings
from gateway.wire.ditto.topic import Topic
from gateway.wire.ditto.write import (
    UNKNOWN,
    acks_frame,
    error_frame,
    many_response,
    message_response_frame,
    policy_response,
    thing_response,
)

CORRELATION = "correlation-id"


def with_correlation(envelope: Envelope) -> Envelope:
    """The envelope with a correlation id, made where the sender gave none."""
    if not any(name.lower() == CORRELATION for name in envelope.headers):
        envelope.headers = {**envelope.headers, CORRELATION: new_correlation_id()}
    return envelope


def refusal(
    error: GatewayError, envelope: Envelope | None = None, headers: Headers | None = None
) -> bytes:
    """An error as the answer to an envelope, or to something that was none and had these headers."""
    if envelope is None:
        return error_frame(error, headers=headers)
    headers = {name.lower(): value for name, value in envelope.headers.items()}
    try:
        topic = Topic.parse(envelope.topic)
    except GatewayError:
        return error_frame(error, headers=headers)
    entity = UNKNOWN if topic.is_for_many else topic.entity_id
    channel = topic.channel or "twin"
    return error_frame(error, entity_id=entity, headers=headers, group=topic.group, channel=channel)


def wants_refusal(envelope: Envelope) -> bool:
    """False for an answer whose sender wants to hear nothing of it."""
    wanted = {name.lower(): value for name, value in envelope.headers.items()}
    return envelope.status is None or wanted.get("response-required") is not False


def response(
    signal: ThingCommand | PolicyCommand | ThingMessage | RetrieveThings | CheckPermissions,
    result: ThingResult | ThingMessageResponse | Acknowledgements | list[JsonObject] | JsonObject,
) -> bytes:
    """The answer to a command or message.

    Errors: TypeError for an answer that does not fit: a bug.
    """
    if isinstance(result, Acknowledgements):
        return acks_frame(result.thing_id, result.channel, result.body(), result.headers)
    match signal, result:
        case ThingCommand(), ThingResult():
            return thing_response(signal, result)
        case PolicyCommand(), ThingResult():
            return policy_response(signal, result)
        case ThingMessage(), ThingMessageResponse():
            return message_response_frame(signal, result)
        case RetrieveThings(), list():
            return many_response(signal.topic, signal.headers, result)
        case CheckPermissions(), dict():
            return many_response(signal.topic, signal.headers, result)
    raise TypeError(f"{type(result).__name__} is no answer to {type(signal).__name__}")
