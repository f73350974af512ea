"""What adapters elsewhere send to applications: telemetry, events, responses to commands.

The adapter has checked device and tenant and has added their defaults; here the tenant's data volume is
counted. The outcome of the consumer, or of the store of events, goes back to the adapter as it was.
Source: Hono, Telemetry, Event and Command & Control API for AMQP 1.0, southbound operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

import msgspec

from gateway.errors import (
    BadRequest,
    Forbidden,
    GatewayError,
    NotFound,
    NotProcessed,
    QuotaExceeded,
    Rejected,
)
from gateway.hono.amqp_messages import scalars_of, trace_of
from gateway.hono.amqp_outcomes import CONSUMER_LIMIT, INTERNAL_ERROR
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.hono.limits import Usage
from gateway.hono.registry import Registry
from gateway.hono.service_commands import KAFKA_REPLY_ID
from gateway.hono.traffic import Traffic
from gateway.model.message import (
    DUPLICATE,
    Adapter,
    CommandResponse,
    Kind,
    Message,
    Scalar,
    Upload,
)
from gateway.model.ports import Done, Downstream
from gateway.model.registry import Tenant
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import new_context
from gateway.outcome import BAD_REQUEST, RESOURCE_LIMIT, UNAUTHORIZED, Processing, outcome_of
from gateway.wire.amqp import performatives as amqp
from gateway.wire.amqp.link import Incoming, ReceiverLink, Sent
from gateway.wire.amqp.message import AmqpMessage, decode_message, payload_of
from gateway.wire.amqp.performatives import ACCEPTED, RELEASED, Error
from gateway.wire.amqp.values import Symbol

_NO_TRACE: Final = TraceContext("1" * 32, "1" * 16)
KINDS: Final = {kind.value: kind for kind in Kind}
RESPONSES: Final = "command_response"
CREDIT: Final = 1_000
"""Messages of one link that may be without an outcome."""
ROUTED_CREDIT: Final = 250
"""The same for telemetry; what was granted stays the adapter's when the last consumer goes."""
_QOS: Final = b"\xa1\x03qos\x54"
"""The property `qos` up to its value, as our own adapters write it; it stands before the body."""
LATEST: Final = 253_402_300_799_000
"""Milliseconds: the last creation time that is a date."""
MAX_ID: Final = 1_024
_RETAIN: Final = Symbol("x-opt-retain")
_DUPLICATE: Final = Symbol(DUPLICATE)
_FIELDS: Final = frozenset(("device_id", "tenant_id", "qos", "orig_adapter", "orig_address", "ttd"))
_RESPONSE_FIELDS: Final = frozenset(("device_id", "tenant_id", "status"))


class Responses(Protocol):
    """Who takes responses that an adapter elsewhere has checked."""

    def pass_response(self, response: CommandResponse, done: Done) -> None: ...


def relayed_state(error: GatewayError | None) -> object:
    """Return the delivery state that says to an adapter what a consumer has said."""
    match error:
        case None:
            return ACCEPTED
        case NotProcessed() if "delivery_failed" in error.details:
            return amqp.Modified(delivery_failed=error.details["delivery_failed"] is True or None)
        case NotFound():
            return amqp.Modified(undeliverable_here=True)
        case QuotaExceeded():
            return amqp.Rejected(Error(RESOURCE_LIMIT, error.message))
        case Forbidden():
            return amqp.Rejected(Error(UNAUTHORIZED, error.message))
        case Rejected():
            return amqp.Rejected(Error(BAD_REQUEST, error.message))
    if error.message == CONSUMER_LIMIT:
        return amqp.Rejected(Error(RESOURCE_LIMIT, error.message))
    if error.status == 500:
        return amqp.Rejected(Error(INTERNAL_ERROR, error.message))
    return RELEASED


class Takers(Protocol):
    """Who is there for telemetry."""

    def takes_telemetry(self, message: Message) -> bool: ...

    def is_relayed(self, message: Message) -> bool: ...

    def relay(self, tenant: str, encoded: bytes, qos: int, done: Done) -> bool: ...

    def on_takers(self, listener: Callable[[str | None], None]) -> None: ...


class Uploads:
    """Where the uploads of all links go; `clock` gives seconds since the epoch.

    With `takers` a link for telemetry has no credit before somebody is there for it, as with a message
    router: adapters then know at once that nobody is, also of messages whose outcome they do not wait for.
    """

    def __init__(
        self,
        registry: Registry,
        downstream: Downstream,
        responses: Responses,
        usage: Usage,
        metrics: Metrics,
        *,
        takers: Takers | None = None,
        traffic: Traffic | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._downstream = downstream
        self._responses = responses
        self._usage = usage
        self._metrics = metrics
        self._relayed: dict[str, Tenant] = {}
        """Tenants whose telemetry nobody here reads, as they were when that was found out."""
        self.forwarded = metrics.elsewhere.service_uploads.labels(
            Kind.TELEMETRY.value, Processing.FORWARDED.value
        )
        self._takers = takers
        self._traffic = traffic or Traffic()
        self._clock = clock
        self._waiting: dict[str, set[UploadLink]] = {}
        if takers is not None:
            takers.on_takers(self._takers_changed)

    # --- credit -----------------------------------------------------------------------------------

    def open(self, link: UploadLink) -> int:
        """Return the credit of a new link; that of telemetry follows those who take it."""
        if link.kind is not Kind.TELEMETRY or self._takers is None:
            return CREDIT
        self._waiting.setdefault(link.tenant, set()).add(link)
        return self._credit(link.tenant)

    def close(self, link: UploadLink) -> None:
        """A link is gone."""
        links = self._waiting.get(link.tenant, set())
        links.discard(link)
        if not links:
            self._waiting.pop(link.tenant, None)

    def _credit(self, tenant: str) -> int:
        takers = self._takers
        return ROUTED_CREDIT if takers is None or takers.takes_telemetry(_probe(tenant)) else 0

    def _takers_changed(self, tenant: str | None) -> None:
        self._relayed.clear()
        for name in tuple(self._waiting) if tenant is None else (tenant,):
            links = self._waiting.get(name)
            credit = self._credit(name) if links else 0
            for link in links or ():
                link.grant(credit)

    # --- messages ---------------------------------------------------------------------------------

    def relay(self, tenant: str, payload: bytes, done: Done) -> bool:
        """Hand on telemetry as it came, where nobody here has to read it; False where somebody has.

        Its adapter must be trusted to have written what it should.
        Errors (through `done`): what the consumer says.
        """
        takers, known = self._takers, self._registry.cached_tenant(tenant)
        if takers is None or known is None or self._traffic.watchers:
            return False
        if self._relayed.get(tenant) is not known:
            is_metered = known.limits.data_volume is not None
            if is_metered or not takers.is_relayed(_probe(tenant)):
                return False
            self._relayed[tenant] = known
        at = payload.find(_QOS) + len(_QOS)
        qos = payload[at] if len(_QOS) <= at < len(payload) else -1
        return qos in (0, 1) and takers.relay(tenant, payload, qos, done)

    def send(self, kind: Kind, tenant: str, message: AmqpMessage, done: Done) -> None:
        """Hand on telemetry or an event.

        Errors (through `done`): QuotaExceeded; what `Downstream.send` says.
        """
        at, trace = self._at(message), trace_of(message) or new_context()
        read = read_message(kind, tenant, message, at, trace)
        if self._traffic.watchers:
            done = partial(self._seen, read, done)
        size = len(read.payload)
        work = partial(self._downstream.send, read)
        self._metered(kind.value, tenant, size, work, done)

    def respond(self, address: str, message: AmqpMessage, done: Done) -> None:
        """Hand on a response to a command.

        Errors (through `done`): QuotaExceeded; NoConsumer; what the application says.
        """
        response = read_response(address, message, self._at(message))
        if self._traffic.watchers:
            done = partial(self._answered, response, done)
        work = partial(self._responses.pass_response, response)
        self._metered(RESPONSES, response.tenant, len(response.payload), work, done)

    def _seen(self, message: Message, done: Done, error: GatewayError | None) -> None:
        """Tell who watches the tenant."""
        trace = message.trace.trace_id
        upload = _as_upload(message)
        self._traffic.uploaded(upload, message.tenant, message.device, trace, error)
        done(error)

    def _answered(self, response: CommandResponse, done: Done, error: GatewayError | None) -> None:
        trace = "" if response.trace is None else response.trace.trace_id
        self._traffic.responded(response, trace, error)
        done(error)

    def _at(self, message: AmqpMessage) -> float:
        created = message.properties.creation_time
        return created / 1_000 if created is not None and 0 <= created <= LATEST else self._clock()

    def _metered(
        self, kind: str, tenant: str, size: int, work: Callable[[Done], None], done: Done
    ) -> None:
        """Do `work` within the limits of the tenant; one that we do not know has none."""

        def with_tenant(found: Tenant | GatewayError) -> None:
            if isinstance(found, GatewayError):
                work(partial(self._finish, kind, done))
                return
            metered = found.metered_size(size)
            if self._usage.would_exceed(found, metered):
                self._finish(kind, done, QuotaExceeded())
                return
            work(partial(account, found, metered))

        def account(found: Tenant, metered: int, error: GatewayError | None) -> None:
            if error is None:
                self._usage.add_bytes(found, metered)
            self._finish(kind, done, error)

        self._registry.find_tenant(tenant, with_tenant)

    def _finish(self, kind: str, done: Done, error: GatewayError | None) -> None:
        self.count(kind, error)
        done(error)

    def count(self, kind: str, error: GatewayError | None) -> None:
        """Count a message with its outcome."""
        self._metrics.elsewhere.service_uploads.labels(kind, outcome_of(error).metric.value).inc()


class UploadLink:
    """An adapter's sender of telemetry or events of one tenant, or of responses at one address."""

    def __init__(
        self,
        protocol: AmqpProtocol,
        link: ReceiverLink,
        uploads: Uploads,
        address: str,
        *,
        is_trusted: bool = False,
    ) -> None:
        """`is_trusted` for adapters of our own, whose telemetry need not be read to be passed on."""
        self._protocol = protocol
        self._is_trusted = is_trusted
        self._link = link
        self._uploads = uploads
        self._address = address
        endpoint, _, self.tenant = address.partition("/")
        self.kind = KINDS.get(endpoint)

    def accept(self, max_message_size: int) -> None:
        """Attach, and grant the credit that there is now."""
        self._link.accept(credit=self._uploads.open(self), max_message_size=max_message_size)

    def grant(self, credit: int) -> None:
        """Let so many messages be on their way from now on."""
        self._link.window = credit
        self._link.top_up()
        self._protocol.flush_soon()

    def arrived(self, delivery: Incoming) -> None:
        """Hand on a message; its outcome settles the delivery."""
        if self._is_trusted and self.kind is Kind.TELEMETRY:
            passage = _Passage(self, delivery)
            if self._uploads.relay(self.tenant, delivery.payload, passage.end):
                return
        done = partial(self.settle, delivery)
        try:
            message = decode_message(delivery.payload)
            if self.kind is None:
                self._uploads.respond(self._address, message, done)
            else:
                self._uploads.send(self.kind, self.tenant, message, done)
        except GatewayError as error:
            done(error)

    def accepted(self, delivery: Incoming) -> None:
        """A message that was passed on has been accepted."""
        self._uploads.forwarded.inc()
        self._link.settle(delivery)
        self._protocol.flush_soon()

    def failed(self, delivery: Incoming, error: GatewayError) -> None:
        """A message that was passed on has not been accepted."""
        self._uploads.count(Kind.TELEMETRY.value, error)
        self.settle(delivery, error)

    def settle(self, delivery: Incoming, error: GatewayError | None) -> None:
        """Tell the outcome of a message."""
        self._link.settle(delivery, relayed_state(error))
        self._protocol.flush_soon()

    def lost(self, _unsettled: tuple[Sent, ...]) -> None:
        """Messages on their way go on; nobody is told."""
        self._uploads.close(self)


class _Passage(msgspec.Struct, eq=False):
    """A message that was passed on as it came, until its outcome."""

    link: UploadLink
    delivery: Incoming

    def end(self, error: GatewayError | None) -> None:
        """The outcome is known."""
        if error is None:
            self.link.accepted(self.delivery)
        else:
            self.link.failed(self.delivery, error)


def _as_upload(message: Message) -> Upload:
    """Return an upload such as the adapter elsewhere has read, for who watches."""
    known = {kind.value: kind for kind in Adapter}
    return Upload(
        adapter=known.get(message.adapter, Adapter.AMQP),
        principal=None,
        kind=message.kind,
        qos=message.qos,
        payload=message.payload,
        address=message.address,
        content_type=message.content_type,
    )


def _probe(tenant: str) -> Message:
    """Telemetry of a tenant, to ask whether somebody would take it."""
    return Message(
        tenant=tenant,
        device="",
        kind=Kind.TELEMETRY,
        qos=0,
        payload=b"",
        at=0.0,
        trace=_NO_TRACE,
    )


def read_message(
    kind: Kind, tenant: str, message: AmqpMessage, at: float, trace: TraceContext
) -> Message:
    """Read telemetry or an event as an adapter writes it.

    Errors: BadRequest.
    """
    given = scalars_of(message)
    payload = payload_of(message)
    if payload is None:
        raise BadRequest("body: expected a data section, or a value that is a string or binary")
    _check_to(message, kind.value, tenant)
    ttl, annotations = message.header.ttl, message.message_annotations or {}
    return Message(
        tenant=tenant,
        device=_text(given, "device_id"),
        kind=kind,
        qos=_qos(given, kind),
        payload=payload,
        at=at,
        trace=trace,
        content_type=message.properties.content_type,
        adapter=_optional(given, "orig_adapter"),
        address=_optional(given, "orig_address"),
        ttl=None if ttl is None else ttl / 1_000,
        ttd=_ttd(given),
        retain=annotations.get(_RETAIN) is True,
        duplicate=annotations.get(_DUPLICATE) is True,
        properties=_rest(message, given, _FIELDS),
    )


def _check_to(message: AmqpMessage, endpoint: str, tenant: str) -> None:
    """Refuse a message that names another place than its link."""
    to = message.properties.to
    if to is None:
        return
    named = to.split("/", 2)
    if named[:2] != [endpoint, tenant]:
        raise BadRequest(f"to: expected {endpoint}/{tenant}, got {to[:128]!r}")


def _text(given: Mapping[str, Scalar], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID:
        raise BadRequest(f"{name}: expected a string of 1..{MAX_ID} characters")
    return value


def _optional(given: Mapping[str, Scalar], name: str) -> str:
    value = given.get(name, "")
    return value if isinstance(value, str) else ""


def _qos(given: Mapping[str, Scalar], kind: Kind) -> int:
    """Return the quality of service; an adapter that does not say waits for the outcome."""
    if kind is Kind.EVENT:
        return 1
    return 0 if given.get("qos") == 0 else 1


def _ttd(given: Mapping[str, Scalar]) -> int | None:
    value = given.get("ttd")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _rest(
    message: AmqpMessage, given: Mapping[str, Scalar], fields: frozenset[str]
) -> dict[str, Scalar]:
    """Return what an adapter added beyond the fields of their own."""
    rest = {name: value for name, value in given.items() if name not in fields}
    encoding = message.properties.content_encoding
    if encoding is not None:
        rest["content-encoding"] = encoding
    return rest


def read_response(address: str, message: AmqpMessage, at: float) -> CommandResponse:
    """Read a device's response as an adapter writes it, for the reply address of its link.

    Errors: BadRequest.
    """
    tenant, reply_id = _reply_address(address, message.properties.to)
    given = scalars_of(message)
    status, correlation = given.get("status"), message.properties.correlation_id
    payload = payload_of(message)
    if isinstance(status, bool) or not isinstance(status, int) or payload is None:
        raise BadRequest("command response: expected an integer status and a body of bytes")
    if not isinstance(correlation, str):
        raise BadRequest("command response: expected a correlation-id that is a string")
    ttl = message.header.ttl
    return CommandResponse(
        tenant=tenant,
        device=_optional(given, "device_id"),
        reply_id="" if reply_id == KAFKA_REPLY_ID else reply_id,
        correlation_id=correlation,
        status=status,
        payload=payload,
        content_type=message.properties.content_type,
        at=at,
        ttl=None if ttl is None else ttl / 1_000,
        trace=trace_of(message),
        properties=_rest(message, given, _RESPONSE_FIELDS),
    )


def _reply_address(address: str, to: str | None) -> tuple[str, str]:
    """Return tenant and reply id of a link's address, or of `to` where the link names a tenant alone."""
    parts = address.split("/", 2)
    if len(parts) < 3:
        named = (to or "").split("/", 2)
        if len(named) < 3 or named[:2] != parts or not named[2]:
            raise BadRequest(f"to: expected {address}/<reply id>")
        parts = named
    return parts[1], parts[2]
