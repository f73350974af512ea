"""Answers to what a source sent: to its reply target, or by way of another connection.

Source: Ditto, connections, reply targets and response diversion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway.connectivity.mappers.base import Outgoing
from gateway.connectivity.model import DEFAULT_ANSWERS, Connection, ReplyTarget
from gateway.connectivity.outbound import Outbound, Route
from gateway.connectivity.scopes import texts
from gateway.ditto.acknowledgements import Acknowledgements
from gateway.ditto.frames import refusal, response
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.model.policy import PolicyCommand
from gateway.model.thing import (
    Action,
    Headers,
    ThingCommand,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)
from gateway.wire.ditto.envelope import Envelope, decode, encode
from gateway.wire.ditto.signals import CheckPermissions, RetrieveThings, Signal

Result: TypeAlias = (
    "ThingResult | ThingMessageResponse | Acknowledgements | list[JsonObject] | JsonObject"
)
_ANSWERED = ThingCommand | PolicyCommand | ThingMessage | RetrieveThings | CheckPermissions
"""Signals that have answers; all others are settled when they are handed on."""

Divert: TypeAlias = Callable[[str, str, int, Outgoing], None]
"""`divert(to, of, index, answer)`: send the answer of a source of one connection by way of another.

Errors: GatewayError where the other one does not take it.
"""

RESPONSE, ERROR, NACK = "response", "error", "nack"
DIVERT_TO = "divert-response-to-connection"
DIVERT_KINDS = "divert-expected-response-types"
DIVERSIONS = frozenset((DIVERT_TO, DIVERT_KINDS))
"""Headers that say where an answer goes; nobody else is told."""
DIVERTED_FROM = "diverted-response-from-connection"


@dataclass(frozen=True, slots=True)
class Answering:
    """Where the answers to one source go.

    Shape:  `index` is the source's place in its connection; `failed` is told what could not be diverted.
    """

    connection: Connection
    index: int
    reply: ReplyTarget | None
    route: Route | None
    outbound: Outbound
    divert: Divert
    failed: Callable[[GatewayError, Mapping[str, str], str], None]

    def tell(
        self, envelope: Envelope, signal: Signal | None, result: Result | GatewayError
    ) -> None:
        """Answer an envelope, if its sender wants to hear."""
        headers = texts(envelope.headers)
        if headers.get("response-required") == "false" and not _reads(signal):
            return
        if isinstance(result, GatewayError):
            kind, frame = ERROR, refusal(result, envelope)
        elif isinstance(signal, _ANSWERED):
            nack = isinstance(result, Acknowledgements) and not result.is_good
            kind, frame = NACK if nack else RESPONSE, response(signal, result)
        else:
            return
        self._send(kind, Outgoing(envelope.topic, envelope.path, headers, frame))

    def push(self, frame: bytes, headers: Headers) -> None:
        """Send a part of an answer in several parts: to a search or a stream of past events."""
        found = decode(frame)
        known = texts({**headers, **found.headers})
        kind = ERROR if "/errors" in found.topic else RESPONSE
        self._send(kind, Outgoing(found.topic, found.path, known, frame))

    def _send(self, kind: str, answer: Outgoing) -> None:
        is_diverted = self._diverted(kind, answer)
        if is_diverted and not self.connection.diversion.keeps_answers:
            return
        if self.route is not None and self.reply is not None and kind in self.reply.expected:
            self.outbound.send(self.route, answer, None)

    def _diverted(self, kind: str, answer: Outgoing) -> bool:
        """True where the answer was to go another way, be it that the other way is closed."""
        target = str(answer.headers.get(DIVERT_TO, ""))
        if not target or not self.connection.diversion.is_source:
            return False
        kinds = str(answer.headers.get(DIVERT_KINDS, "")).split(",")
        wanted = {one.strip() for one in kinds if one.strip()} or DEFAULT_ANSWERS
        if kind not in wanted:
            return False
        own = self.connection.id
        try:
            self.divert(target, own, self.index, diverted(answer, own))
        except GatewayError as error:
            self.failed(error, texts(answer.headers), answer.topic)
        return True


def _reads(signal: Signal | None) -> bool:
    """True for queries: their senders always want an answer."""
    if isinstance(signal, ThingCommand | PolicyCommand):
        return signal.action is Action.RETRIEVE
    return isinstance(signal, RetrieveThings | CheckPermissions)


def diverted(answer: Outgoing, connection_id: str) -> Outgoing:
    """An answer that says by whose command it came about, and not any more where it is to go."""
    envelope = decode(answer.frame)
    frame = encode(
        envelope.topic,
        envelope.path,
        {**envelope.headers, DIVERTED_FROM: connection_id},
        envelope.value,
        fields=envelope.fields,
        extra=envelope.extra,
        status=envelope.status,
        revision=envelope.revision,
        timestamp=envelope.timestamp,
    )
    kept = {k: v for k, v in answer.headers.items() if k not in DIVERSIONS}
    return replace(answer, frame=frame, headers={**kept, DIVERTED_FROM: connection_id})
