"""Metrics of messaging and services that are shared with others: adapters elsewhere, Kafka, a remote Hono.

Each is declared here once; see `gateway.observe.metrics` for how names and labels are chosen.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.observe.buckets import SECONDS
from gateway.observe.depths import Depths
from gateway.observe.histograms import LoopHistogram


class ElsewhereMetrics:
    """Attributes of `Metrics.elsewhere`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # --- internal services for adapters elsewhere -----------------------------------------
        self.service_requests = Counter(
            "twinspan_service_requests",
            "Requests of adapters elsewhere, by service, operation and status.",
            ("endpoint", "operation", "status"),
            registry=registry,
        )
        self.service_uploads = Counter(
            "twinspan_service_uploads",
            "Messages of adapters elsewhere for applications, by what became of them.",
            ("type", "status"),
            registry=registry,
        )
        self.service_connections = Gauge(
            "twinspan_service_connections", "Connected components.", registry=registry
        )
        self.service_routes = Gauge(
            "twinspan_service_routes",
            "Devices at adapters elsewhere that listen for commands.",
            registry=registry,
        )

        # --- Kafka northbound -----------------------------------------------------------------
        self.kafka_records = Counter(
            "twinspan_kafka_records",
            "Records for Kafka, by kind and outcome: delivered, failed, refused, unconfirmed.",
            ("kind", "outcome"),
            registry=registry,
        )
        self.kafka_seconds = LoopHistogram(
            "twinspan_kafka_delivery_seconds",
            "Time from handing a record over to the broker's outcome.",
            ("kind",),
            buckets=SECONDS,
            registry=registry,
        )
        self.kafka_queue = Depths(
            "twinspan_kafka_queue_depth", "Records and commands under way.", "client"
        )
        registry.register(self.kafka_queue)
        self.kafka_commands = Counter(
            "twinspan_kafka_commands",
            "Command records read: accepted, rejected, released, modified, expired, malformed.",
            ("outcome",),
            registry=registry,
        )

        # --- relay to a remote Hono -----------------------------------------------------------
        self.remote_up = Gauge(
            "twinspan_remote_up",
            "1 while the remote has let us in.",
            ("tenant",),
            registry=registry,
        )
        self.remote_connections = Counter(
            "twinspan_remote_connections_ended",
            "Connections to the remote, and tries, that ended: lost, refused, unreachable.",
            ("tenant", "reason"),
            registry=registry,
        )
        self.remote_messages = Counter(
            "twinspan_remote_messages",
            "Messages for the remote: accepted, sent (QoS 0), rejected, released, unanswered, not_taken.",
            ("tenant", "type", "outcome"),
            registry=registry,
        )
        self.remote_loss = Counter(
            "twinspan_remote_loss",
            "Messages that the remote will not get: refused, unsendable, expired, dropped_oldest.",
            ("tenant", "type", "cause"),
            registry=registry,
        )
        self.remote_seconds = LoopHistogram(
            "twinspan_remote_delivery_seconds",
            "Time from sending a message to the remote's accepting it.",
            ("tenant", "type"),
            buckets=SECONDS,
            registry=registry,
        )
        self.remote_waiting = Depths(
            "twinspan_remote_waiting_messages",
            "Messages on disk that wait for the remote.",
            "tenant",
            "type",
        )
        registry.register(self.remote_waiting)
        self.remote_waiting_bytes = Depths(
            "twinspan_remote_waiting_bytes",
            "Bytes on disk that wait for the remote.",
            "tenant",
            "type",
        )
        registry.register(self.remote_waiting_bytes)
        self.remote_commands = Counter(
            "twinspan_remote_commands",
            "Commands from the remote (accepted, released, rejected) and answers to it.",
            ("tenant", "outcome"),
            registry=registry,
        )
