"""`UpdateTwinWithLiveResponse`: what a device answers to a live query is merged into its twin.

It makes the merge and nothing else; that the answer itself goes on is the business of a mapper beside it
(`["Ditto", "UpdateTwinWithLiveResponse"]`). Source: Ditto, payload mapping.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from gateway.connectivity.errors import mapper_invalid
from gateway.connectivity.mappers.base import External, Incoming, Outgoing, topic_of
from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject
from gateway.model.thing import LIVE
from gateway.wire.ditto.envelope import Envelope, decode
from gateway.wire.ditto.placeholders import Scope, Template
from gateway.wire.ditto.topic import Topic

NAME = "UpdateTwinWithLiveResponse"
OPTION = "dittoHeadersForMerge"
DEFAULT: JsonObject = {"response-required": False, "if-match": "*"}
SUFFIX = "-merge-into-twin"
PLACEHOLDERS = frozenset(("header", "request", "time"))


class LiveResponseMapper:
    """Option: `dittoHeadersForMerge`, the headers of the merge, with placeholders. Inbound only."""

    def __init__(self, options: JsonObject) -> None:
        headers = options.get(OPTION, DEFAULT)
        if not isinstance(headers, dict):
            raise mapper_invalid(NAME, f"'{OPTION}' has to be an object")
        try:
            self._headers = {name.lower(): _compiled(value) for name, value in headers.items()}
        except GatewayError as error:
            raise mapper_invalid(NAME, error.message) from error

    def incoming(self, message: External, scope: Scope) -> Sequence[Incoming]:
        envelope = _live_answer(message.payload)
        if envelope is None:
            return ()
        topic = Topic.parse(envelope.topic)
        given = {name.lower(): value for name, value in envelope.headers.items()}
        headers = _filled(self._headers, scope)
        headers["correlation-id"] = f"{given.get('correlation-id') or uuid.uuid4()}{SUFFIX}"
        made = Incoming.made(
            topic_of(topic.entity_id, "twin/commands/merge"), envelope.path, headers, envelope.value
        )
        return (made,)

    def outgoing(self, _signal: Outgoing) -> External | None:
        return None


def _live_answer(payload: bytes) -> Envelope | None:
    """The good answer to a live query of one thing, None for everything else."""
    try:
        envelope = decode(payload)
        topic = Topic.parse(envelope.topic)
    except GatewayError:
        return None
    is_query = (topic.criterion, topic.action) == ("commands", "retrieve")
    is_live = topic.channel == LIVE and not topic.is_for_many
    good = envelope.status is not None and 200 <= envelope.status < 300 and envelope.has_value
    return envelope if is_query and is_live and good else None


def _compiled(value: Json) -> Template | Json:
    if isinstance(value, str) and "{{" in value:
        return Template.parse(value, PLACEHOLDERS)
    return value


def _filled(headers: Mapping[str, Template | Json], scope: Scope) -> dict[str, Json]:
    """What cannot be resolved stays as it was written."""
    return {
        name: (value.resolve(scope) or value.text) if isinstance(value, Template) else value
        for name, value in headers.items()
    }
