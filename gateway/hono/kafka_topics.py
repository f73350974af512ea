"""Makes the topics of a tenant when it first uses Kafka, where the broker is not to do it by itself.

Records that are sent meanwhile wait in the producer, at most for their delivery time-out. Topics that are
there already stay as they are. A broker that is away is tried again; what it refuses is logged and left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from gateway.config.hono import Kafka
from gateway.hono.kafka_library import admin_library, library, made, text_of
from gateway.hono.kafka_properties import Property
from gateway.hono.kafka_records import NOTIFICATION_TOPICS, topics_of
from gateway.runtime.backoff import Backoff

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 10.0
MAX_WAITING: Final = 10_000
"""Tenants whose topics are still to be made; of more than that, the broker's own ways have to do."""


class KafkaTopics:
    """Module: makes topics while it runs."""

    name = "kafka.topics"

    def __init__(self, properties: Mapping[str, Property], settings: Kafka) -> None:
        self._properties = properties
        self._settings = settings
        self._wanted: asyncio.Queue[tuple[str, ...]] = asyncio.Queue(MAX_WAITING)
        self._backoff = Backoff(0.2, 10.0)

    def want(self, tenant: str) -> None:
        """Make the topics of a tenant if they are not there; nothing where the broker does it."""
        self._want(topics_of(tenant))

    def _want(self, names: tuple[str, ...]) -> None:
        if self._settings.partitions <= 0:
            return
        try:
            self._wanted.put_nowait(names)
        except asyncio.QueueFull:
            log.warning("kafka topics are not made: too many wait", extra={"topic": names[0]})

    async def run(self, ready: Callable[[], None]) -> None:
        """Work until cancelled.

        Errors: InvalidSetting.
        """
        client = made(admin_library().AdminClient, self._properties)
        self._want(NOTIFICATION_TOPICS)
        ready()
        while True:
            names = await self._wanted.get()
            self._backoff.reset()
            while not await asyncio.to_thread(self._make, client, names):  # noqa: ASYNC110
                await asyncio.sleep(self._backoff.next())

    def _make(self, client: AdminClient, names: Iterable[str]) -> bool:
        """Ask the broker; False where it did not answer. Runs on a thread of its own."""
        make = admin_library().NewTopic
        partitions, copies = self._settings.partitions, self._settings.replication_factor
        wanted = [make(name, partitions, copies) for name in names]
        error = library().KafkaError
        answers = client.create_topics(wanted, request_timeout=ASK_SECONDS)
        for name, answer in answers.items():
            try:
                answer.result()
            except library().KafkaException as caught:
                cause = caught.args[0]
                if cause.code() in (error._TRANSPORT, error._TIMED_OUT, error._ALL_BROKERS_DOWN):
                    return False
                if cause.code() != error.TOPIC_ALREADY_EXISTS:
                    facts = {"topic": name, "cause": text_of(cause)}
                    log.warning("kafka topic not made", extra=facts)
        return True
