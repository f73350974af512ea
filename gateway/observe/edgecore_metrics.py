"""Metrics of EdgeCore: its link, spool, twins, mappers and MQTT broker.

`Metrics` itself has them as attributes; see `gateway.observe.metrics` for how names and labels are chosen.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.observe.depths import Depths


class EdgeCoreMetrics:
    """What of `Metrics` is EdgeCore's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # --- EdgeCore ---------------------------------------------------------------------------
        self.edge_link_up = Gauge(
            "twinspan_edge_link_up", "1 while EdgeHub is linked to CloudHub.", registry=registry
        )
        self.edge_link_messages = Counter(
            "twinspan_edge_link_messages",
            "Messages on the edge's link to the cloud.",
            ("direction",),
            registry=registry,
        )
        self.edge_link_refused = Counter(
            "twinspan_edge_link_refused",
            "Messages from the cloud that the edge could not read.",
            registry=registry,
        )
        self.edge_spool_messages = Depths(
            "twinspan_edge_spool_messages",
            "Uploads on the edge's disk that wait for the cloud.",
            "type",
        )
        registry.register(self.edge_spool_messages)
        self.edge_spool_bytes = Depths(
            "twinspan_edge_spool_bytes", "Bytes on the edge's disk that wait for the cloud.", "type"
        )
        registry.register(self.edge_spool_bytes)
        self.edge_spooled = Counter(
            "twinspan_edge_spooled",
            "Telemetry and events taken at the edge, by outcome of spooling.",
            ("type", "outcome"),
            registry=registry,
        )
        self.edge_uploads_answered = Counter(
            "twinspan_edge_uploads_answered",
            "The cloud's answers to spooled uploads.",
            ("verdict",),
            registry=registry,
        )
        self.edge_loss = Counter(
            "twinspan_edge_loss",
            "Uploads lost or refused for good, by cause.",
            ("cause",),
            registry=registry,
        )
        self.edge_twin_updates = Counter(
            "twinspan_edge_twin_updates",
            "Twin updates at the edge, by who asked and outcome.",
            ("origin", "outcome"),
            registry=registry,
        )
        self.edge_reports_answered = Counter(
            "twinspan_edge_reports_answered",
            "The cloud's answers to twin and state reports.",
            ("outcome",),
            registry=registry,
        )
        self.edge_reports_waiting = Depths(
            "twinspan_edge_reporting_devices",
            "Devices with reports that wait for the cloud.",
            "node",
        )
        registry.register(self.edge_reports_waiting)
        self.edge_mapper_reads = Counter(
            "twinspan_edge_mapper_reads",
            "Properties read from devices by mappers.",
            ("driver", "quality"),
            registry=registry,
        )
        self.edge_mapper_writes = Counter(
            "twinspan_edge_mapper_writes",
            "Values written to devices by mappers.",
            ("driver", "outcome"),
            registry=registry,
        )

        # --- the edge's MQTT broker -------------------------------------------------------------
        self.edge_mqtt_clients = Gauge(
            "twinspan_edge_mqtt_clients",
            "Clients connected to the edge's broker.",
            registry=registry,
        )
        self.edge_mqtt_messages = Counter(
            "twinspan_edge_mqtt_messages",
            "Messages that the edge's broker got (in) and sent (out).",
            ("direction",),
            registry=registry,
        )
        self.edge_mqtt_dropped = Counter(
            "twinspan_edge_mqtt_dropped",
            "Messages that the edge's broker could not keep or deliver, by cause.",
            ("cause",),
            registry=registry,
        )
