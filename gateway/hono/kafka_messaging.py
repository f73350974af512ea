"""Kafka as the messaging of those tenants that use it: which they are, their uploads and their responses.

A tenant says `ext.messaging-type`; who says nothing, or something that is not set up here, gets the default.
Uploads do not need a consumer: QoS 0 is done when it is queued, the rest when the broker has it.
Source: Hono, admin guide Kafka Client Configuration; Telemetry, Event and Command & Control API for Kafka.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from gateway.config.hono import Hono
from gateway.errors import GatewayError, InvalidSetting, Unencodable
from gateway.hono.kafka_records import Record, RecordEncoder, encode_response, response_topic
from gateway.hono.registry import Registry
from gateway.hono.unencodable import note_unencodable
from gateway.model.message import CommandResponse, Kind, Message, MessagingType
from gateway.model.ports import Done
from gateway.model.registry import RegistryChange, Subject, Tenant
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Span, Tracer

_SPANS: Final = {Kind.TELEMETRY: "forward Telemetry data", Kind.EVENT: "forward Event"}
RESPONSE: Final = "command_response"


def messaging_type(settings: Hono) -> MessagingType:
    """Return the messaging of tenants that say nothing.

    Errors: InvalidSetting.
    """
    try:
        return MessagingType(settings.messaging_type)
    except ValueError as error:
        raise InvalidSetting(
            f"hono.messaging_type: expected kafka or amqp, got {settings.messaging_type!r}"
        ) from error


class RecordSender(Protocol):
    """What hands records to a broker."""

    def send(self, kind: str, record: Record, done: Done) -> None: ...

    def send_and_forget(self, kind: str, record: Record, done: Done) -> None: ...


class KafkaTenants:
    """Which tenants' messaging is Kafka; `on_first` hears of each when it is first asked for."""

    def __init__(
        self,
        registry: Registry,
        default: MessagingType,
        on_first: Callable[[str], None] = lambda _tenant: None,
    ) -> None:
        self._registry = registry
        self._on_first = on_first
        self._default = default is MessagingType.KAFKA
        self._known: dict[str, bool] = {}
        registry.on_change(self._changed)

    def carries(self, tenant: str) -> bool | None:
        """Return whether Kafka carries a tenant's messages; None where the registry has to be asked."""
        carried = self._known.get(tenant)
        if carried is None:
            found = self._registry.cached_tenant(tenant)
            if found is not None:
                carried = self._known[tenant] = self._of(found)
                if carried:
                    self._on_first(tenant)
        return carried

    def find(self, tenant: str, done: Callable[[bool], None]) -> None:
        """Tell whether Kafka carries a tenant's messages; of one that is not there, the default says it."""

        def found(result: Tenant | GatewayError) -> None:
            done(self._default if isinstance(result, GatewayError) else self._of(result))

        self._registry.find_tenant(tenant, found)

    def _of(self, tenant: Tenant) -> bool:
        ext = tenant.document.get("ext")
        wished = ext.get("messaging-type") if isinstance(ext, dict) else None
        if wished in tuple(MessagingType):
            return wished == MessagingType.KAFKA
        return self._default

    def _changed(self, change: RegistryChange) -> None:
        if change.subject is Subject.TENANT:
            self._known.clear()  # all of them: a tenant may be known by its alias too


class KafkaMessaging:
    """The port `Broker`, and the `ResponseSink` of commands that came over Kafka."""

    def __init__(
        self, tenants: KafkaTenants, sender: RecordSender, tracer: Tracer, metrics: Metrics
    ) -> None:
        self._metrics = metrics
        self._tenants = tenants
        self._sender = sender
        self._tracer = tracer
        self._encoder = RecordEncoder()
        self.carries = tenants.carries
        self.find = tenants.find

    def send(self, message: Message, done: Done) -> None:
        """Send an upload.

        Errors (through `done`): BrokerUnavailable; Unencodable.
        """
        trace, kind = message.trace, message.kind
        if trace.is_sampled:
            span = self._span(_SPANS[kind], message.tenant, message.device, message)
            trace, done = span.context, _ending(span, done)
        try:
            record = self._encoder.encode(message, trace)
        except Unencodable as error:
            note_unencodable(self._metrics, kind.value, message.tenant, message.device, error)
            done(error)
            return
        if message.qos:
            self._sender.send(kind.value, record, done)
        else:
            self._sender.send_and_forget(kind.value, record, done)

    def _span(self, name: str, tenant: str, device: str, parent: Message | CommandResponse) -> Span:
        topic = (
            f"hono.{parent.kind.value}.{tenant}"
            if isinstance(parent, Message)
            else response_topic(tenant)
        )
        facts = {"tenant_id": tenant, "device_id": device, "message_bus.destination": topic}
        return self._tracer.start(name, parent.trace, "producer", facts)

    # --- responses -------------------------------------------------------------------------------------

    def owns(self, tenant: str, reply_id: str) -> bool:  # noqa: ARG002  any tenant may use Kafka
        """True for responses to commands that came over Kafka."""
        return not reply_id

    def take(self, response: CommandResponse, done: Done) -> None:
        """Send a response; as `send`."""
        span = self._span("forward Command response", response.tenant, response.device, response)
        try:
            record = encode_response(response, span.context)
        except Unencodable as error:
            note_unencodable(self._metrics, RESPONSE, response.tenant, response.device, error)
            _ending(span, done)(error)
        else:
            self._sender.send(RESPONSE, record, _ending(span, done))


def _ending(span: Span, done: Done) -> Done:
    def end(error: GatewayError | None) -> None:
        span.end(error)
        done(error)

    return end
