"""Messages on their way in: mapped, given their headers, enforced, run, answered.

The outcome that a device sees is "accepted" as soon as every signal of its message is durable or finally
refused: a wrong mapping or a missing right is the connection's matter and stands in its log. What could not
be worked on now (408, 5xx) is Undeliverable, so the sender tries again. Source: Ditto, connections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from msgspec.structs import replace as replaced

from gateway.connectivity.answering import DIVERSIONS, Answering, Result
from gateway.connectivity.arrivals import external_of, external_of_response
from gateway.connectivity.errors import mapping_failed, not_enforced
from gateway.connectivity.journal import Category, Entry, Journal, Step, Subject
from gateway.connectivity.mappers.base import External, Incoming
from gateway.connectivity.mappers.engines import Configured, applies
from gateway.connectivity.model import Connection, Source
from gateway.connectivity.outbound import Asked
from gateway.connectivity.queries import Queries
from gateway.connectivity.scopes import header_scope, signal_scope, source_scope, texts
from gateway.ditto.acknowledgements import Acknowledgements
from gateway.ditto.frames import with_correlation
from gateway.ditto.past import is_historical
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.errors import BadRequest, GatewayError, Undeliverable
from gateway.model.message import CommandResponse, Message
from gateway.model.policy import PolicyCommand
from gateway.model.ports import Done
from gateway.model.thing import (
    LIVE,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)
from gateway.observe.metrics import Metrics
from gateway.wire.ditto.envelope import Envelope
from gateway.wire.ditto.headers import labels
from gateway.wire.ditto.placeholders import Lookup, Template
from gateway.wire.ditto.read import (
    Acknowledgement,
    CheckPermissions,
    Response,
    RetrieveThings,
    SearchSignal,
    Sender,
    Signal,
    StreamSignal,
    signal_of,
)

Answer: TypeAlias = Callable[["Result | GatewayError"], None]

_TRY_AGAIN = frozenset((408, 429))


def _may_succeed_later(status: int) -> bool:
    return status >= 500 or status in _TRY_AGAIN


def refused_by(acks: Acknowledgements) -> GatewayError | None:
    """What failed acknowledgements mean for a message: None for nothing, 503 where trying again may help."""
    failed = {label: ack.status for label, ack in acks.acks.items() if not ack.is_good}
    if not failed:
        return None
    text = ", ".join(f"{label}: {status}" for label, status in failed.items())
    status = 503 if any(map(_may_succeed_later, failed.values())) else acks.status
    return GatewayError(f"Acknowledgements failed ({text}).", code="acks.failed", status=status)


class _Rest:
    """Calls `done` once all signals of a message have their outcome; the worst one counts."""

    def __init__(self, waits: int, done: Done) -> None:
        self._waits = waits
        self._done = done
        self._error: GatewayError | None = None

    def one(self, error: GatewayError | None) -> None:
        if error is not None and _may_succeed_later(error.status):
            self._error = Undeliverable(error.message)
        self._waits -= 1
        if not self._waits:
            self._done(self._error)


@dataclass(frozen=True, slots=True)
class Inbound:
    """One address of one source of an open connection."""

    connection: Connection
    source: Source
    address: str
    headers: Mapping[str, Template]
    mappers: Sequence[Configured]
    answering: Answering
    queries: Queries
    asked: Asked
    things: ThingsService
    policies: PoliciesService
    journal: Journal
    metrics: Metrics

    # --- uploads --------------------------------------------------------------------------------

    def take(self, message: Message, done: Done) -> None:
        """Work on a device's message."""
        external = external_of(message)
        scope = source_scope(external.headers, self.address, self.connection.id)
        self._note(Step.CONSUMED, external.headers)
        found = self._map(external, scope)
        if not found:
            done(None)
            return
        rest = _Rest(len(found), done)
        for at, incoming in enumerate(found, 1):
            spool = message.spool if at == len(found) else None
            self._run(incoming, scope, Sender((), None, message.trace, spool), rest)

    def _map(self, external: External, scope: Mapping[str, Lookup]) -> list[Incoming]:
        """Every mapper runs; a failure counts only where no other mapper understood the message."""
        mapped = list(self._incoming(external, scope))
        found = [one for one in mapped if isinstance(one, Incoming)]
        failures = [one for one in mapped if isinstance(one, GatewayError)]
        if found:
            self._note(Step.MAPPED, external.headers)
        elif failures:
            self._count(failures[0])
            for failure in failures:
                self._note(Step.MAPPED, external.headers, failure)
        else:
            self._note(Step.DROPPED, external.headers, text="No mapper had use for it.")
        return found

    def _run(
        self, incoming: Incoming, scope: Mapping[str, Lookup], sender: Sender, rest: _Rest
    ) -> None:
        envelope = with_correlation(incoming.envelope)
        signal: Signal | None = None

        def answer(result: Result | GatewayError) -> None:
            failed = result if isinstance(result, GatewayError) else None
            if isinstance(result, Acknowledgements):
                failed = refused_by(result)
            tolerated = failed is not None and failed.status in incoming.tolerated
            failed = None if tolerated else failed
            self._count(failed)
            self._note(Step.ACKNOWLEDGED, texts(envelope.headers), failed, topic=envelope.topic)
            if not tolerated:
                self.answering.tell(envelope, signal, result)
            rest.one(failed)

        try:
            envelope = self._with_headers(envelope, scope)
            signal = self._signal(envelope, scope, sender)
            self._note(Step.ENFORCED, texts(envelope.headers), topic=envelope.topic)
        except GatewayError as refused:
            self._note(Step.ENFORCED, texts(envelope.headers), refused, topic=envelope.topic)
            answer(refused)
            return
        self._dispatch(signal, answer)

    def _with_headers(self, envelope: Envelope, scope: Mapping[str, Lookup]) -> Envelope:
        """The envelope with the source's header mapping laid over its headers."""
        known = {**signal_scope(envelope.topic, envelope.path), **scope}
        headers = {name.lower(): value for name, value in envelope.headers.items()}
        for name, template in self.headers.items():
            value = template.resolve(known)
            # The envelope's own content type says what its value is.
            if value is not None and (name.lower() != "content-type" or name not in headers):
                headers[name.lower()] = value
        envelope.headers = headers
        return envelope

    def _signal(self, envelope: Envelope, scope: Mapping[str, Lookup], sender: Sender) -> Signal:
        known = {**scope, **signal_scope(envelope.topic, envelope.path)}
        self._enforce(scope, known)
        subjects = tuple(
            text for t in self.source.authorization for text in t.resolve_all(known) if text
        )
        if not subjects:
            raise mapping_failed("authorizationContext", "no subject could be resolved")
        own = replace(sender, subjects=subjects, originator=self.connection.originator)
        self._request_acks(envelope, known)
        signal = signal_of(_for_others(envelope), own)
        if isinstance(signal, ThingEvent) and signal.channel != LIVE:
            raise BadRequest(
                "Events of the twin are not sent to it.", code="protocoladapter:unknown.signal"
            )
        return signal

    def _request_acks(self, envelope: Envelope, scope: Mapping[str, Lookup]) -> None:
        wanted = self.source.acknowledgements
        if wanted is None or envelope.status is not None:
            return
        if wanted.filter is not None and not wanted.filter.resolve(_either_header(scope, envelope)):
            return
        given = envelope.headers.get("requested-acks")
        asked = labels(given) if given is not None else []
        envelope.headers["requested-acks"] = list(dict.fromkeys([*asked, *wanted.includes]))

    def _enforce(self, before: Mapping[str, Lookup], after: Mapping[str, Lookup]) -> None:
        enforcement = self.source.enforcement
        if enforcement is None:
            return
        wanted = enforcement.input.resolve(before)
        if wanted is None or not any(f.resolve(after) == wanted for f in enforcement.filters):
            raise not_enforced(wanted)

    def _dispatch(self, signal: Signal, answer: Answer) -> None:
        match signal:
            case ThingCommand() | ThingMessage():
                self.things.dispatcher.run(signal, answer)
            case PolicyCommand() if not is_historical(signal):
                self.policies.submit(signal, answer)
            case ThingEvent():
                self.things.live.event(
                    signal, lambda sent: answer(sent if isinstance(sent, GatewayError) else _DONE)
                )
            case _:
                self._handle(signal, answer)

    def _handle(
        self,
        signal: PolicyCommand
        | ThingMessageResponse
        | Response
        | Acknowledgement
        | RetrieveThings
        | CheckPermissions
        | SearchSignal
        | StreamSignal,
        answer: Answer,
    ) -> None:
        """What is settled as soon as it is handed on."""
        try:
            match signal:
                case RetrieveThings():
                    self.queries.retrieve(signal, answer)
                    return
                case CheckPermissions():
                    self.queries.check(signal, answer)
                    return
                case PolicyCommand():
                    self.queries.look_back(signal, answer)
                    return
                case SearchSignal() | StreamSignal():
                    self.queries.handle(signal)
                case Acknowledgement():
                    self._acknowledge(signal)
                case _:
                    self._respond(signal)
        except GatewayError as error:
            answer(error)
        else:
            answer(_DONE)

    def _respond(self, answer: ThingMessageResponse | Response) -> bool:
        if isinstance(answer, Response):
            return self.things.live.respond(answer)
        return self.things.respond(answer)

    def _acknowledge(self, ack: Acknowledgement) -> None:
        if ack.group != "policies":
            self.things.desk.acknowledge(ack, self.connection.originator)
            return
        self.things.desk.check_declared(ack.label, self.connection.originator)
        self.policies.announcements.acknowledge(
            ack.thing_id, ack.correlation_id, ack.label, ack.status
        )

    # --- responses ------------------------------------------------------------------------------

    def take_response(self, response: CommandResponse) -> None:
        """Give a device's answer to who waits for it.

        An answer that is not Ditto Protocol counts as the raw answer to the message that was sent. What else
        the mappers make of it is run as if it had come in a message.
        """
        external = external_of_response(response)
        scope = source_scope(external.headers, self.address, self.connection.id)
        self._note(Step.CONSUMED, external.headers, category=Category.RESPONSE)
        sender = Sender((), None, response.trace)
        asked = self.asked.take(response.correlation_id)
        answer, others, failed = self._answer_in(external, scope, sender)
        if answer is None and asked is not None:
            answer, failed = _raw_answer(asked, response), None
        if answer is not None and not self._respond(answer):
            failed = Undeliverable("Nobody waits for this answer any more.")
        self._count(failed)
        self._note(Step.ACKNOWLEDGED, external.headers, failed, category=Category.RESPONSE)
        for incoming in others:
            self._run(incoming, scope, sender, _Rest(1, lambda _error: None))

    def _answer_in(
        self, external: External, scope: Mapping[str, Lookup], sender: Sender
    ) -> tuple[ThingMessageResponse | Response | None, list[Incoming], GatewayError | None]:
        """The first answer that the mappers make, what else they make, and why there is no answer."""
        answer: ThingMessageResponse | Response | None = None
        others: list[Incoming] = []
        failed = mapping_failed("payloadMapping", "the answer is no Ditto Protocol response")
        for incoming in self._incoming(external, scope):
            if isinstance(incoming, GatewayError):
                failed = incoming
            elif incoming.envelope.status is None:
                others.append(incoming)
            elif answer is None:
                try:
                    answer = self._answer_of(incoming.envelope, scope, sender)
                except GatewayError as error:
                    failed = error
        return answer, others, None if answer else failed

    def _answer_of(
        self, envelope: Envelope, scope: Mapping[str, Lookup], sender: Sender
    ) -> ThingMessageResponse | Response | None:
        signal = self._signal(self._with_headers(envelope, scope), scope, sender)
        return signal if isinstance(signal, ThingMessageResponse | Response) else None

    def _incoming(
        self, external: External, scope: Mapping[str, Lookup]
    ) -> Iterator[Incoming | GatewayError]:
        """What every mapper makes of a message, or why it makes nothing."""
        for configured in self.mappers:
            try:
                if applies(configured.incoming, scope):
                    yield from configured.mapper.incoming(external, scope)
            except GatewayError as error:
                yield error

    # --- notes ----------------------------------------------------------------------------------

    def _count(self, error: GatewayError | None) -> None:
        labels = ("inbound", "failure" if error else "success")
        self.metrics.connection_messages.labels(*labels).inc()

    def _note(
        self,
        step: Step,
        headers: Mapping[str, str],
        error: GatewayError | None = None,
        *,
        topic: str = "",
        text: str = "",
        category: Category = Category.SOURCE,
    ) -> None:
        about = Subject.of(topic)
        failure = None
        if error is not None:
            failure = f"{error.message} {error.description or ''} ({error.code})".strip()
        self.journal.note(
            Entry(
                category=category,
                step=step,
                address=self.address,
                failure=failure,
                correlation_id=headers.get("correlation-id", ""),
                entity_id=about.entity_id,
                entity_type=about.entity_type,
                message=text,
            )
        )


_DONE = ThingResult(status=204)


def _either_header(scope: Mapping[str, Lookup], envelope: Envelope) -> Mapping[str, Lookup]:
    """`header:` finds those of the signal, then those of the message it came in."""
    outer, inner = scope["header"], header_scope(texts(envelope.headers))
    return {**scope, "header": lambda name: inner(name) or outer(name)}


def _for_others(envelope: Envelope) -> Envelope:
    """The envelope without what only its answer is about."""
    kept = {name: value for name, value in envelope.headers.items() if name not in DIVERSIONS}
    return replaced(envelope, headers=kept) if len(kept) < len(envelope.headers) else envelope


def _raw_answer(asked: ThingMessage, response: CommandResponse) -> ThingMessageResponse:
    return ThingMessageResponse(
        thing_id=asked.thing_id,
        correlation_id=asked.correlation_id,
        status=response.status,
        payload=response.payload,
        content_type=response.content_type,
    )
