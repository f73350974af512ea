"""The push method `mqtt`: a text for each sample to a topic of any broker, as KubeEdge's mappers send it.

Shape: `time is <yyyy-mm-dd hh:mm:ss>  <topic>: <value>`, the time in UTC. The connection is kept; a sample is
delivered when the broker has acknowledged it (QoS 1, 2) or it has left (QoS 0).
Source: KubeEdge reference, section 16.2, and its mapper template.
"""

from __future__ import annotations

import asyncio
import ssl as tls
import uuid
from collections.abc import Sequence
from urllib.parse import urlsplit

from edge.mappers.pushing import ONE, Sample
from edge.mappers.pushtimes import clock_text
from edge.mqttclient import BrokerAddress, MqttClient
from gateway.errors import GatewayError, MalformedTopic, Rejected
from gateway.model.json import JsonObject
from gateway.model.ports import Done
from gateway.wire.mqtt.filters import check_topic
from gateway.wire.mqtt.packets import Publish

PLAIN = ("tcp", "mqtt")
SECURE = ("ssl", "tls", "mqtts")


class MqttPusher:
    """One topic of one broker."""

    at_once = ONE

    def __init__(
        self,
        address: BrokerAddress,
        topic: str,
        *,
        qos: int,
        is_retained: bool,
        is_secure: bool,
    ) -> None:
        self._topic = topic
        self._qos = qos
        self._is_retained = is_retained
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        context = tls.create_default_context() if is_secure else None
        self._client = MqttClient(address, _ignore, on_link=self._on_link, tls_context=context)

    def _on_link(self, is_up: bool) -> None:
        if is_up:
            self._up.set()
        else:
            self._up.clear()

    async def push(self, samples: Sequence[Sample]) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._client.run(_nothing), name="push mqtt client")
        await self._up.wait()
        for sample in samples:
            await self._publish(f"time is {clock_text(sample.at)}  {self._topic}: {sample.text}")

    async def _publish(self, text: str) -> None:
        future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()

        def done(error: GatewayError | None) -> None:
            if not future.done():
                future.set_result(error)

        self._client.publish(
            self._topic, text.encode(), done, qos=self._qos, retain=self._is_retained
        )
        error = await future
        if error is not None:
            raise error

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


def _nothing() -> None:
    """The client is ready at once."""


def _ignore(_message: Publish, done: Done) -> None:
    done(None)


def make_mqtt_pusher(config: JsonObject) -> MqttPusher:
    """Read `mqtt` of a `pushMethod`. Errors: Rejected."""
    topic, qos = config.get("topic"), config.get("qos", 0)
    try:
        check_topic(topic if isinstance(topic, str) else "")
    except MalformedTopic as error:
        raise Rejected(f"pushMethod.mqtt.topic: {error.message}") from error
    if not isinstance(qos, int) or isinstance(qos, bool) or qos not in (0, 1, 2):
        raise Rejected("pushMethod.mqtt.qos: expected 0, 1 or 2")
    address, is_secure = _address(config.get("address"))
    return MqttPusher(
        address,
        str(topic),
        qos=qos,
        is_retained=config.get("retained") is True,
        is_secure=is_secure,
    )


def _address(value: object) -> tuple[BrokerAddress, bool]:
    text = value if isinstance(value, str) else ""
    try:
        parts = urlsplit(text if "://" in text else f"tcp://{text}")
        port = parts.port
    except ValueError as error:
        raise Rejected(f"pushMethod.mqtt.address: {error}") from error
    if parts.scheme not in (*PLAIN, *SECURE) or not parts.hostname:
        raise Rejected("pushMethod.mqtt.address: expected tcp://host:port or ssl://host:port")
    is_secure = parts.scheme in SECURE
    return BrokerAddress(
        host=parts.hostname,
        port=port or (8883 if is_secure else 1883),
        client_id=f"twinspan-push-{uuid.uuid4().hex[:8]}",
    ), is_secure
