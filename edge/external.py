"""EventBus at a broker that is not ours: the settings `edge.mqtt.mode` `external` and `both`.

The edge is a client there: it subscribes to the topics that EventBus works on and publishes its answers with
QoS 1. A message is acknowledged to that broker once it is on disk. What is published while the broker is away
is lost and counted, as in KubeEdge; what is to reach the cloud waits in the spool as ever. A retained message
that comes because of a subscription was worked on when it was new, and is left out.

Source: KubeEdge reference, section 14.1.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl as tls
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge.mqttclient import BrokerAddress, MqttClient
from gateway.config.edge import EdgeMqtt as Settings
from gateway.errors import GatewayError, InvalidSetting
from gateway.model.ports import Done
from gateway.runtime.listener import parse_bind
from gateway.wire.mqtt.packets import Publish

if TYPE_CHECKING:
    from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

AWAY = "external broker away"
MODES = ("internal", "external", "both")


def check_mode(mode: str) -> str:
    """Return `mode` if there is such a one. Errors: InvalidSetting."""
    if mode not in MODES:
        raise InvalidSetting(f"edge.mqtt.mode: expected one of {', '.join(MODES)}, got {mode!r}")
    return mode


class ExternalBroker:
    """The client as a module; `take` sees each message, its `done` before the PUBACK."""

    name = "edge.mqtt.external"

    def __init__(
        self,
        settings: Settings,
        node: str,
        metrics: Metrics,
        take: Callable[[Publish, Done], None] | None = None,
    ) -> None:
        self.take = take
        self._settings = settings
        self._node = node
        self._metrics = metrics
        self._filters: Counter[str] = Counter()
        self._client: MqttClient | None = None

    @property
    def is_connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    async def run(self, ready: Callable[[], None]) -> None:
        """Keep the connection until cancelled. Errors: InvalidSetting."""
        self._client = MqttClient(
            self._address(),
            self._on_message,
            on_link=self._on_link,
            tls_context=_tls_of(self._settings),
        )
        for topic_filter in self._filters:
            self._client.subscribe(topic_filter)
        try:
            await self._client.run(ready)
        finally:
            self._client = None

    def _address(self) -> BrokerAddress:
        settings = self._settings
        host, port = parse_bind(settings.external, "edge.mqtt.external")
        password = _password_of(settings)
        if password is not None and not settings.external_tls and not _is_loopback(host):
            raise InvalidSetting(
                f"edge.mqtt.external_tls: a password would go to {host} in plain text; set it to true"
            )
        return BrokerAddress(
            host=host,
            port=port,
            client_id=settings.external_client_id or f"twinspan-{self._node}",
            username=settings.external_username or None,
            password=password,
            max_packet=settings.max_packet,
            max_in_flight=settings.max_in_flight,
        )

    def _on_link(self, is_up: bool) -> None:
        self._metrics.edge.external_mqtt_up.set(int(is_up))

    def _on_message(self, message: Publish, done: Done) -> None:
        if message.retain or self.take is None:
            done(None)
            return
        self._metrics.edge_mqtt_messages.labels("in").inc()
        self.take(message, done)

    # --- for EventBus -----------------------------------------------------------------------------

    def subscribe(self, topic_filter: str) -> None:
        """Ask for messages, now and after each connect; several may ask for the same."""
        self._filters[topic_filter] += 1
        if self._client is not None and self._filters[topic_filter] == 1:
            self._client.subscribe(topic_filter)

    def unsubscribe(self, topic_filter: str) -> None:
        """End one wish; the last one ends the messages."""
        self._filters[topic_filter] -= 1
        if self._filters[topic_filter] <= 0:
            del self._filters[topic_filter]
            if self._client is not None:
                self._client.unsubscribe(topic_filter)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Publish with QoS 1, whatever `qos` asks for: so does KubeEdge."""
        if self._client is None:
            self._metrics.edge_mqtt_dropped.labels(AWAY).inc()
        else:
            self._client.publish(topic, payload, self._noted, qos=max(qos, 1), retain=retain)

    def _noted(self, error: GatewayError | None) -> None:
        if error is None:
            self._metrics.edge_mqtt_messages.labels("out").inc()
        else:
            self._metrics.edge_mqtt_dropped.labels(AWAY).inc()
            log.debug("not published at the external broker", extra={"cause": error.message})


def _password_of(settings: Settings) -> bytes | None:
    if not settings.external_password_file:
        return None
    try:
        return Path(settings.external_password_file).read_bytes().strip()
    except OSError as error:
        raise InvalidSetting(f"edge.mqtt.external_password_file: {error}") from error


def _tls_of(settings: Settings) -> tls.SSLContext | None:
    if not settings.external_tls:
        return None
    try:
        context = tls.create_default_context(cafile=settings.external_ca or None)
        context.minimum_version = tls.TLSVersion.TLSv1_2
        if settings.external_cert:
            context.load_cert_chain(settings.external_cert, settings.external_key or None)
    except OSError as error:
        raise InvalidSetting(f"edge.mqtt.external_ca, external_cert: {error}") from error
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
