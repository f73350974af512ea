"""Metrics of the object half of the cloud-edge link and of the edge's own services.

Each is declared here once; see `gateway.observe.metrics` for how names and labels are chosen.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class EdgeMetrics:
    """Attributes of `Metrics.edge`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # --- CloudCore ------------------------------------------------------------------------
        self.applications = Counter(
            "twinspan_cloud_applications",
            "Requests of edges' MetaServers to the Kubernetes API, by verb and outcome.",
            ("verb", "outcome"),
            registry=registry,
        )
        self.watches = Gauge(
            "twinspan_cloud_watches",
            "Watches of edges' MetaServers that CloudCore keeps.",
            registry=registry,
        )
        self.router_deliveries = Counter(
            "twinspan_cloud_router_deliveries",
            "Messages that rules took, by target and outcome.",
            ("target", "outcome"),
            registry=registry,
        )
        self.tasks = Counter(
            "twinspan_cloud_node_tasks",
            "Nodes that ended a job, by kind of job and outcome.",
            ("kind", "outcome"),
            registry=registry,
        )
        self.tunnels = Gauge(
            "twinspan_cloud_tunnels",
            "Edge nodes whose stream tunnel is open.",
            registry=registry,
        )
        self.streams = Counter(
            "twinspan_cloud_streams",
            "Logs, exec, attach and metrics requests through tunnels, by kind and outcome.",
            ("kind", "outcome"),
            registry=registry,
        )
        self.leads = Gauge(
            "twinspan_cloud_leads",
            "1 while this CloudCore leads: it writes things from Devices.",
            registry=registry,
        )
        self.remote_up = Gauge(
            "twinspan_remote_things_up",
            "1 while the Ditto of `ditto.mode: remote` is reached and its events are followed.",
            registry=registry,
        )
        self.remote_requests = Counter(
            "twinspan_remote_things_requests",
            "Requests to the remote Ditto, by HTTP method and outcome.",
            ("method", "outcome"),
            registry=registry,
        )
        self.remote_seconds = Histogram(
            "twinspan_remote_things_request_seconds",
            "Time from sending a request to the remote Ditto to its answer.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
            registry=registry,
        )
        self.remote_events = Counter(
            "twinspan_remote_things_events",
            "Events of the remote Ditto: applied, known already, after a gap, of no Device, unreadable.",
            ("outcome",),
            registry=registry,
        )
        self.remote_resyncs = Counter(
            "twinspan_remote_things_resyncs",
            "Times that all things of Devices were read again at the remote Ditto.",
            registry=registry,
        )
        # --- EdgeCore -------------------------------------------------------------------------
        self.stores_set_aside = Counter(
            "twinspan_edge_stores_set_aside",
            "Times that the edge's database was damaged, put aside and begun anew.",
            registry=registry,
        )
        self.metaserver_requests = Counter(
            "twinspan_edge_metaserver_requests",
            "Requests to the edge's MetaServer, by verb, where the answer came from, and outcome.",
            ("verb", "origin", "outcome"),
            registry=registry,
        )
        self.metaserver_watches = Gauge(
            "twinspan_edge_metaserver_watches",
            "Watches that clients of the edge's MetaServer hold.",
            registry=registry,
        )
        self.servicebus_calls = Counter(
            "twinspan_edge_servicebus_calls",
            "HTTP requests through the edge's ServiceBus, down and up, by outcome.",
            ("direction", "outcome"),
            registry=registry,
        )
        self.dmi_calls = Counter(
            "twinspan_edge_dmi_calls",
            "Calls between EdgeCore and mappers over DMI, by method and outcome.",
            ("method", "outcome"),
            registry=registry,
        )
        self.dmi_mappers = Gauge(
            "twinspan_edge_dmi_mappers",
            "Mappers that are registered over DMI.",
            registry=registry,
        )
        self.pushes = Counter(
            "twinspan_edge_mapper_pushes",
            "Samples that mappers push elsewhere, by method and outcome.",
            ("method", "outcome"),
            registry=registry,
        )
        self.method_calls = Counter(
            "twinspan_edge_method_calls",
            "Calls of Devices' methods at the edge, by way (mqtt, http, plugin) and outcome.",
            ("way", "outcome"),
            registry=registry,
        )
        self.evictions = Counter(
            "twinspan_edge_evictions",
            "Pods evicted, by the signal of a shortage, or `limit` for one over its own limits.",
            ("signal",),
            registry=registry,
        )
        self.external_mqtt_up = Gauge(
            "twinspan_edge_external_mqtt_up",
            "1 while EventBus is connected to the external MQTT broker.",
            registry=registry,
        )
        self.pod_statuses = Counter(
            "twinspan_edge_pod_statuses",
            "Statuses of Pods that went to the API, by outcome: taken, refused, gone.",
            ("outcome",),
            registry=registry,
        )
        self.pod_events = Counter(
            "twinspan_edge_pod_events",
            "Events about Pods and the Node, by outcome: sent, filtered as spam, dropped for want of room.",
            ("outcome",),
            registry=registry,
        )
        self.service_ports = Gauge(
            "twinspan_edge_service_ports",
            "Ports of Services that the edge listens on.",
            registry=registry,
        )
        self.service_connections = Counter(
            "twinspan_edge_service_connections",
            "Connections (tcp) and peers (udp) through Services at the edge, by outcome.",
            ("protocol", "outcome"),
            registry=registry,
        )
        self.dns_queries = Counter(
            "twinspan_edge_dns_queries",
            "Questions to the edge's cluster DNS, by who answered (cluster, cache, upstream) and outcome.",
            ("origin", "outcome"),
            registry=registry,
        )
