"""What an operator's Kafka needs, put together and in its places."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config.hono import Hono
from gateway.hono.commands import CommandRouter
from gateway.hono.downstream import Messaging
from gateway.hono.kafka_commands import KafkaCommands
from gateway.hono.kafka_messaging import KafkaMessaging, KafkaTenants, messaging_type
from gateway.hono.kafka_notifications import KafkaNotifications
from gateway.hono.kafka_producer import KafkaProducer
from gateway.hono.kafka_properties import (
    admin_properties,
    consumer_properties,
    delivery_seconds,
    producer_properties,
)
from gateway.hono.kafka_topics import KafkaTopics
from gateway.hono.registry import Registry
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import Module

SPARE_SECONDS = 0.5
"""How much longer than the producer's own last try an upload waits for its outcome."""


@dataclass(frozen=True, slots=True)
class KafkaParts:
    """The modules of Kafka: what takes uploads and responses, what reads commands."""

    uploads: tuple[Module, ...] = ()
    commands: tuple[Module, ...] = ()


def build_kafka(
    hono: Hono,
    registry: Registry,
    messaging: Messaging,
    router: CommandRouter,
    metrics: Metrics,
    tracer: Tracer,
) -> KafkaParts:
    """Make Kafka the messaging of the tenants that ask for it; no modules where there is no broker."""
    settings = hono.kafka
    if not settings.bootstrap_servers:
        return KafkaParts()
    properties = producer_properties(settings)
    topics = KafkaTopics(admin_properties(settings), settings)
    tenants = KafkaTenants(registry, messaging_type(hono), topics.want)
    producer = KafkaProducer(properties, metrics)
    kafka = KafkaMessaging(tenants, producer, tracer, metrics)
    commands = KafkaCommands(
        settings, consumer_properties(settings), router, kafka, tenants, metrics
    )
    messaging.use_broker(kafka, delivery_seconds(properties) + SPARE_SECONDS)
    router.add_sink(kafka)
    router.on_subscription(commands.expect)
    registry.on_change(KafkaNotifications(registry, producer).on_change)
    return KafkaParts((topics, producer), (commands,))
