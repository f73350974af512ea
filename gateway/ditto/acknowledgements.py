"""Acknowledgements as values: what a sender wants to be told, what it is told, and who may say what.

Built in are `twin-persisted` (a durable change), `live-response` (an answered message or live command) and
`search-persisted`, which follows at once because searching reads what is stored. All other labels are issued
by those who declared them. Source: Ditto, acknowledgements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.model.thing import (
    BUILT_IN_ACKS,
    LIVE,
    NO_HEADERS,
    Headers,
    HeaderValue,
    ThingCommand,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)
from gateway.twin.ditto_errors import ditto_error
from gateway.wire.ditto.headers import (
    DEFAULT_TIMEOUT,
    JSON,
    MAX_CLAIM_TIMEOUT,
    MAX_TIMEOUT,
    MESSAGE_TIMEOUT,
    error_json,
    timeout_of,
)
from gateway.wire.ditto.read import CLAIM, Acknowledgement
from gateway.wire.ditto.write import combined_status, payload_value

TWIN_PERSISTED: Final = "twin-persisted"
LIVE_RESPONSE: Final = "live-response"
SEARCH_PERSISTED: Final = "search-persisted"
BUILT_IN: Final = BUILT_IN_ACKS

CLAIM_TIMEOUT: Final = 60.0
MAX_LABELS: Final = 50


@dataclass(frozen=True, slots=True)
class Requested:
    """What a sender wants to be told.

    Shape:  `labels` in the order asked; `default` is the one that a plain answer stands for; `timeout`
            seconds, 0 for no wait at all.
    """

    response_required: bool
    labels: tuple[str, ...]
    default: str
    timeout: float = DEFAULT_TIMEOUT

    @property
    def is_plain(self) -> bool:
        """True when one plain answer says it all."""
        return self.labels in ((), (self.default,))

    @property
    def is_silent(self) -> bool:
        """True when nobody waits for anything."""
        return not self.response_required and not self.labels

    @property
    def awaited(self) -> tuple[str, ...]:
        """The labels that are waited for; a plain answer is waited for as its default label."""
        return self.labels or ((self.default,) if self.response_required else ())

    @property
    def foreign(self) -> list[str]:
        """The labels that others have to issue."""
        return [label for label in self.labels if label not in BUILT_IN]


def requested(headers: Mapping[str, HeaderValue], default: str, timeout: float) -> Requested:
    """Read `response-required`, `requested-acks` and `timeout` together, with Ditto's defaults.

    Errors: BadRequest `header.invalid` where the timeout is 0 but an answer is asked for.
    """
    given = headers.get("requested-acks")
    labels = tuple(dict.fromkeys(map(str, given))) if isinstance(given, list) else None
    if labels is not None and len(labels) > MAX_LABELS:
        hint = f"At most {MAX_LABELS} labels."
        raise ditto_error("header.invalid", header="requested-acks", value=len(labels), hint=hint)
    required = bool(headers.get("response-required", timeout > 0 and labels != ()))
    if timeout == 0 and (required or labels):
        raise ditto_error(
            "header.invalid", header="timeout", value="0", hint="An answer needs a timeout above 0."
        )
    if labels is None:
        labels = (default,) if required else ()
    elif default == LIVE_RESPONSE:
        labels = _live_labels(labels, required)
    return Requested(required, labels, default, timeout)


def _live_labels(labels: tuple[str, ...], required: bool) -> tuple[str, ...]:
    """A wanted response is one of the acknowledgements; an unwanted one is not."""
    if not required:
        return tuple(label for label in labels if label != LIVE_RESPONSE)
    return labels if not labels or LIVE_RESPONSE in labels else (*labels, LIVE_RESPONSE)


def wanted_of(signal: ThingCommand | ThingMessage) -> Requested:
    """What the sender of a signal wants to be told.

    Errors: as `requested`; BadRequest `timeout.invalid`.
    """
    headers = signal.headers
    if isinstance(signal, ThingCommand):
        default = LIVE_RESPONSE if signal.channel == LIVE else TWIN_PERSISTED
        if not headers:
            return Requested(True, (default,), default)
        return requested(headers, default, timeout_of(headers, DEFAULT_TIMEOUT))
    is_claim = signal.subject == CLAIM and signal.feature_id is None
    usual, most = (CLAIM_TIMEOUT, MAX_CLAIM_TIMEOUT) if is_claim else (MESSAGE_TIMEOUT, MAX_TIMEOUT)
    return requested(headers, LIVE_RESPONSE, timeout_of(headers, usual, most))


def plain_answer(message: ThingMessage) -> Requested:
    """The answer of a device and nothing else, or nothing at all."""
    labels = (LIVE_RESPONSE,) if message.response_required else ()
    return Requested(message.response_required, labels, LIVE_RESPONSE, message.timeout)


# --- what is told ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ack:
    """One acknowledgement: a status and perhaps a payload."""

    status: int
    payload: Any = None
    has_payload: bool = False
    headers: Headers = field(default_factory=lambda: NO_HEADERS)

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> JsonObject:
        """As it stands in an aggregate."""
        body: JsonObject = {"status": self.status}
        if self.has_payload:
            body["payload"] = self.payload
        body["headers"] = {name: _json(value) for name, value in self.headers.items()}
        return body

    def under(self, correlation_id: HeaderValue | None) -> Ack:
        """With the correlation id that the sender knows, whatever it was on the way."""
        if correlation_id is None:
            return self
        return replace(self, headers={**self.headers, "correlation-id": correlation_id})

    @classmethod
    def of(cls, issued: Acknowledgement) -> Ack:
        """What a declarer issued."""
        return cls(issued.status, issued.value, issued.has_value, issued.headers)

    @classmethod
    def of_result(cls, result: ThingResult) -> Ack:
        """The answer to a command."""
        headers: dict[str, HeaderValue] = dict(result.headers)
        if result.etag:
            headers["etag"] = result.etag
        if result.revision is not None:
            headers["entity-revision"] = result.revision
        if result.has_value:
            headers["content-type"] = JSON
        return cls(result.status, result.value, result.has_value, headers)

    @classmethod
    def of_message(cls, response: ThingMessageResponse) -> Ack:
        """The answer to a message."""
        headers = {k: v for k, v in response.headers.items() if k != "status"}
        if response.content_type is not None:
            headers["content-type"] = response.content_type
        value = payload_value(response.payload, response.content_type)
        return cls(response.status, value, bool(response.payload), headers)

    @classmethod
    def of_error(cls, error: GatewayError) -> Ack:
        """A failure: data, as far as the aggregate is concerned."""
        return cls(error.status, error_json(error), True)


def _json(value: HeaderValue) -> Any:
    return value


SEARCHABLE: Final = Ack(204)
"""`search-persisted` of a change: searches read what is stored."""

NOT_RECEIVED: Final = Ack(
    200,
    "The acknowledgement was given in place of a subscriber that did not receive the signal.",
    True,
    {"ditto-weak-ack": True},
)
"""A weak acknowledgement: whoever declared the label was not told of the signal."""


def missed(timeout: float) -> Ack:
    """An acknowledgement that was not issued in time."""
    return Ack.of_error(
        ditto_error("acknowledgement:request.timeout", milliseconds=f"{round(timeout * 1_000):,}")
    )


@dataclass(frozen=True, slots=True)
class Acknowledgements:
    """All that a sender asked for.

    Shape:  `acks` in the order asked; `response_required` False says that only failures are of interest.
    """

    thing_id: str
    channel: str
    acks: Mapping[str, Ack]
    headers: Headers
    response_required: bool = True

    @property
    def status(self) -> int:
        """That of a single one, 200 when all are good, else 424."""
        return combined_status({label: {"status": a.status} for label, a in self.acks.items()})

    @property
    def is_good(self) -> bool:
        return all(ack.is_good for ack in self.acks.values())

    def located(self, location: str) -> Acknowledgements:
        """With the place of what was created, where something was."""
        acks = {
            label: replace(ack, headers={**ack.headers, "location": location})
            if label == TWIN_PERSISTED and ack.status == 201
            else ack
            for label, ack in self.acks.items()
        }
        return replace(self, acks=acks)

    def body(self) -> dict[str, JsonObject]:
        """Label to acknowledgement; statuses alone where no response was required."""
        if not self.response_required:
            return {label: {"status": ack.status} for label, ack in self.acks.items()}
        return {label: ack.json() for label, ack in self.acks.items()}


def check_own_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """The labels, which somebody from outside wants to declare.

    Errors: BadRequest `acknowledgement:ditto.acklabel.forbidden` for built-in ones.
    """
    found = tuple(dict.fromkeys(labels))
    for label in found:
        if label in BUILT_IN:
            raise ditto_error("acknowledgement:ditto.acklabel.forbidden", label=label)
    if len(found) > MAX_LABELS:
        hint = f"At most {MAX_LABELS} labels."
        raise ditto_error("header.invalid", header="declared-acks", value=len(found), hint=hint)
    return found
