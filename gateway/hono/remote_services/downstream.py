"""Telemetry and events to a messaging network: the port `Downstream` over AMQP, outcomes passed through.

Each tenant has a link for its telemetry and one for its events; its credit is that of the tenant's consumers.
Telemetry of QoS 0 counts as delivered when it has gone out; our own main process, which tells the outcome of
handing it over at once, is waited for (`asks_always`). Anything else ends with the consumer's, or the event
store's, outcome. Full: NoConsumer.
Source: Hono, Telemetry and Event API (AMQP 1.0).
"""

from __future__ import annotations

from functools import partial
from uuid import uuid4

from gateway.errors import ConsumerTimeout, GatewayError, NoConsumer, Unencodable
from gateway.hono.amqp_messages import MessageEncoder
from gateway.hono.remote_services.connection import ServiceConnection
from gateway.hono.remote_services.links import OutLinks
from gateway.hono.unencodable import note_unencodable
from gateway.model.message import Kind, Message
from gateway.model.ports import Done
from gateway.observe.metrics import Metrics

_EVENT = Kind.EVENT


class RemoteDownstream:
    """The port `Downstream`.

    Units:  `timeout` in seconds.
    """

    def __init__(
        self,
        connection: ServiceConnection,
        metrics: Metrics,
        *,
        timeout: float = 1.0,
        asks_always: bool = False,
    ) -> None:
        self._connection = connection
        self._links = OutLinks(connection, timeout)
        self._metrics = metrics
        self._asks_always = asks_always
        self._encoder = MessageEncoder(uuid4().hex[:8])

    @property
    def is_connected(self) -> bool:
        """True while the messaging network is reached."""
        return self._connection.is_open

    def send(self, message: Message, done: Done) -> None:
        kind, tenant = message.kind, message.tenant
        try:
            payload = self._encode(message)
        except Unencodable as error:
            note_unencodable(self._metrics, kind.value, tenant, message.device, error)
            done(error)
            return
        self._links.send(
            f"{kind.value}/{tenant}",
            payload,
            partial(self._ended, tenant, kind, done),
            at_most_once=not (message.qos or self._asks_always),
        )

    def _encode(self, message: Message) -> bytes:
        if message.kind is _EVENT:
            return self._encoder.encode_event(message, 0, message.ttl)
        return self._encoder.encode(message)

    def _ended(self, tenant: str, kind: Kind, done: Done, error: GatewayError | None) -> None:
        if error is not None:
            self._count(tenant, kind, error)
        done(error)

    def _count(self, tenant: str, kind: Kind, error: GatewayError) -> None:
        if isinstance(error, NoConsumer):
            self._metrics.amqp_nocredit.labels(tenant, kind.value).inc()
        elif isinstance(error, ConsumerTimeout):
            self._metrics.amqp_timeout.labels(tenant, kind.value).inc()
