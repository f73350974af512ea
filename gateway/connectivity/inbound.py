"""Messages on their way in: mapped, given their headers, enforced, run, answered.

The outcome that a device sees is "accepted" as soon as every signal of its message is durable or finally
refused: a wrong mapping or a missing right is the connection's matter and stands in its log. What could not
be worked on now (408, 5xx) is Undeliverable, so the sender tries again. Source: Ditto, connections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.connectivity.endpoints import Inlet, source_headers
from gateway.connectivity.errors import mapping_failed, not_enforced
from gateway.connectivity.journal import Category, Entry, Journal, Step
from gateway.connectivity.mappers.base import External, Incoming, Outgoing
from gateway.connectivity.mappers.engines import Configured, applies
from gateway.connectivity.model import Connection, Source
from gateway.connectivity.outbound import Outbound, Route
from gateway.connectivity.scopes import (
    header_scope,
    header_text,
    signal_scope,
    source_scope,
    texts,
)
from gateway.ditto.acknowledgements import Acknowledgements
from gateway.ditto.frames import refusal, response, with_correlation
from gateway.ditto.service import ThingsService
from gateway.errors import GatewayError, NotBuilt, Undeliverable
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
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.wire.ditto.envelope import Envelope
from gateway.wire.ditto.headers import labels
from gateway.wire.ditto.placeholders import Lookup, Template
from gateway.wire.ditto.read import Acknowledgement, Response, Sender, signal_of

Signal = (
    ThingCommand
    | PolicyCommand
    | ThingMessage
    | ThingMessageResponse
    | ThingEvent
    | Acknowledgement
    | Response
)
Result = ThingResult | ThingMessageResponse | Acknowledgements
Answer = Callable[[ThingResult | GatewayError], None]
PolicyRunner = Callable[[PolicyCommand, Answer], None]

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


def external_of(message: Message) -> External:
    """A device's message as a connection's placeholders know it."""
    headers = {name.lower(): header_text(value) for name, value in message.properties.items()}
    headers |= {
        "device_id": message.device,
        "tenant_id": message.tenant,
        "qos": str(message.qos),
        "to": f"{message.kind}/{message.tenant}",
        "orig_adapter": message.adapter,
        "orig_address": message.address,
        "creation-time": str(int(message.at * 1_000)),
    }
    if message.content_type is not None:
        headers["content-type"] = message.content_type
    if message.ttd is not None:
        headers["ttd"] = str(message.ttd)
    if message.via is not None:
        headers["gateway_id"] = message.via
    return External(headers, message.payload, message.content_type, headers["to"])


def external_of_response(response: CommandResponse) -> External:
    """A device's answer to a command, likewise."""
    headers = {name.lower(): header_text(value) for name, value in response.properties.items()}
    headers |= {
        "device_id": response.device,
        "tenant_id": response.tenant,
        "correlation-id": response.correlation_id,
        "status": str(response.status),
    }
    if response.content_type is not None:
        headers["content-type"] = response.content_type
    address = f"command_response/{response.tenant}/{response.reply_id}"
    return External(headers, response.payload, response.content_type, address)


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
    reply: Route | None
    things: ThingsService
    policies: PolicyRunner
    outbound: Outbound
    journal: Journal
    metrics: Metrics

    @classmethod
    def of(
        cls,
        connection: Connection,
        source: Source,
        address: str,
        inlet: Inlet,
        mappers: Mapping[str, Configured],
        things: ThingsService,
        policies: PolicyRunner,
        outbound: Outbound,
        journal: Journal,
        metrics: Metrics,
    ) -> Inbound:
        """Put one together."""
        named = [mappers[name] for name in source.mappers]
        return cls(
            connection,
            source,
            address,
            source_headers(connection, source, inlet),
            named,
            outbound.reply_route(source.reply, named) if source.reply else None,
            things,
            policies,
            outbound,
            journal,
            metrics,
        )

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
        found: list[Incoming] = []
        failures: list[GatewayError] = []
        for configured in self.mappers:
            if not applies(configured.incoming, scope):
                continue
            try:
                found += configured.mapper.incoming(external, scope)
            except GatewayError as error:
                failures.append(error)
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
                self._reply(envelope, signal, result)
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
        signal = signal_of(envelope, own)
        if not isinstance(signal, Signal) or _is_twin_event(signal):
            raise NotBuilt(f"'{envelope.topic[:200]}' is not built for connections.")
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

    def _dispatch(self, signal: Signal, answer: Callable[[Result | GatewayError], None]) -> None:
        match signal:
            case ThingCommand() | ThingMessage():
                self.things.dispatcher.run(signal, answer)
            case PolicyCommand():
                self.policies(signal, answer)
            case ThingMessageResponse() | Response():
                self._respond(signal)
                answer(_DONE)
            case ThingEvent():
                self.things.live.event(
                    signal, lambda sent: answer(sent if isinstance(sent, GatewayError) else _DONE)
                )
            case Acknowledgement():
                answer(self._acknowledge(signal))

    def _respond(self, answer: ThingMessageResponse | Response) -> bool:
        if isinstance(answer, Response):
            return self.things.live.respond(answer)
        return self.things.respond(answer)

    def _acknowledge(self, ack: Acknowledgement) -> Result | GatewayError:
        try:
            self.things.desk.acknowledge(ack, self.connection.originator)
        except GatewayError as error:
            return error
        return _DONE

    def _reply(
        self, envelope: Envelope, signal: Signal | None, result: Result | GatewayError
    ) -> None:
        """Send the response to the reply target, where there is one and it wants this kind."""
        route, reply = self.reply, self.source.reply
        headers = texts(envelope.headers)
        if route is None or reply is None or headers.get("response-required") == "false":
            return
        if isinstance(result, GatewayError):
            kind, frame = "error", refusal(result, envelope)
        elif isinstance(signal, ThingCommand | PolicyCommand | ThingMessage):
            nack = isinstance(result, Acknowledgements) and not result.is_good
            kind, frame = "nack" if nack else "response", response(signal, result)
        else:
            return
        if kind in reply.expected:
            answered = Outgoing(envelope.topic, envelope.path, headers, frame)
            self.outbound.send(route, answered, None)

    # --- responses ------------------------------------------------------------------------------

    def take_response(self, response: CommandResponse) -> None:
        """Give a device's answer to who waits for it.

        An answer that is not Ditto Protocol counts as the raw answer to the message that was sent.
        """
        external = external_of_response(response)
        scope = source_scope(external.headers, self.address, self.connection.id)
        self._note(Step.CONSUMED, external.headers, category=Category.RESPONSE)
        asked = self.outbound.asked.take(response.correlation_id)
        failed: GatewayError | None = None
        answer: ThingMessageResponse | Response
        try:
            answer = self._protocol_answer(external, scope, response.trace)
        except GatewayError as error:
            if asked is None:
                failed = error
            else:
                answer = _raw_answer(asked, response)
        if failed is None and not self._respond(answer):
            failed = Undeliverable("Nobody waits for this answer any more.")
        self._count(failed)
        self._note(Step.ACKNOWLEDGED, external.headers, failed, category=Category.RESPONSE)

    def _protocol_answer(
        self, external: External, scope: Mapping[str, Lookup], trace: TraceContext | None
    ) -> ThingMessageResponse | Response:
        for configured in self.mappers:
            if not applies(configured.incoming, scope):
                continue
            for incoming in configured.mapper.incoming(external, scope):
                envelope = self._with_headers(incoming.envelope, scope)
                signal = self._signal(envelope, scope, Sender((), None, trace))
                if isinstance(signal, ThingMessageResponse | Response):
                    return signal
        raise mapping_failed("payloadMapping", "the answer is no Ditto Protocol response")

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
        namespace, name, *_ = f"{topic}//".split("/")
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
                thing_id=f"{namespace}:{name}" if name else None,
                message=text,
            )
        )


_DONE = ThingResult(status=204)


def _either_header(scope: Mapping[str, Lookup], envelope: Envelope) -> Mapping[str, Lookup]:
    """`header:` finds those of the signal, then those of the message it came in."""
    outer, inner = scope["header"], header_scope(texts(envelope.headers))
    return {**scope, "header": lambda name: inner(name) or outer(name)}


def _is_twin_event(signal: Signal) -> bool:
    return isinstance(signal, ThingEvent) and signal.channel != LIVE


def _raw_answer(asked: ThingMessage, response: CommandResponse) -> ThingMessageResponse:
    return ThingMessageResponse(
        thing_id=asked.thing_id,
        correlation_id=asked.correlation_id,
        status=response.status,
        payload=response.payload,
        content_type=response.content_type,
    )
