"""Every metric of Twinspan, declared once, with help, unit and a closed set of labels.

Names are Hono's and Ditto's where they mean the same (Hono `Metrics.md`; Ditto, Operating), else
`twinspan_`. Label values come from closed sets or from what an operator made (tenants, nodes);
device and thing ids go to logs and traces. A `Metrics` has a registry of its own and is handed to
each room.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.process_collector import ProcessCollector

from gateway.observe.apiserver_metrics import ApiserverMetrics
from gateway.observe.buckets import BYTES, SECONDS
from gateway.observe.depths import Depths
from gateway.observe.ditto_metrics import DittoNames
from gateway.observe.edge_metrics import EdgeMetrics
from gateway.observe.edgecore_metrics import EdgeCoreMetrics
from gateway.observe.elsewhere_metrics import ElsewhereMetrics
from gateway.observe.exposition import Exposed
from gateway.observe.health_metrics import HealthMetrics
from gateway.observe.histograms import LoopHistogram
from gateway.observe.mapper_metrics import MapperMetrics
from gateway.observe.merging import MergingRegistry
from gateway.observe.own_metrics import OwnMetrics
from gateway.observe.process import ProcessMeters

TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Metrics(EdgeCoreMetrics):
    """One registry and all its metrics as attributes."""

    def __init__(self) -> None:
        self.registry = registry = MergingRegistry(auto_describe=True)
        super().__init__(registry)
        ProcessCollector(registry=registry)
        self.process = ProcessMeters()
        registry.register(self.process)

        # --- Hono: telemetry, events, commands, connections ---------------------------------
        self.telemetry_seconds = LoopHistogram(
            "hono_telemetry_processing_duration_seconds",
            "Time from receiving an upload to its outcome.",
            ("tenant", "type", "status", "qos", "ttd", "component_name"),
            buckets=SECONDS,
            registry=registry,
            has_max=True,
        )
        self.telemetry_bytes = LoopHistogram(
            "hono_telemetry_payload_bytes",
            "Payload size of uploads, rounded up to the tenant's minimum message size.",
            ("tenant", "type", "status", "qos", "ttd", "component_name"),
            buckets=BYTES,
            registry=registry,
            has_max=True,
        )
        self.command_seconds = LoopHistogram(
            "hono_command_processing_duration_seconds",
            "Time from receiving a command or response to its outcome.",
            ("tenant", "direction", "status", "component_name"),
            buckets=SECONDS,
            registry=registry,
            has_max=True,
        )
        self.command_bytes = LoopHistogram(
            "hono_command_payload_bytes",
            "Payload size of commands and responses.",
            ("tenant", "direction", "status", "component_name"),
            buckets=BYTES,
            registry=registry,
            has_max=True,
        )
        self.connections = Gauge(
            "hono_connections_authenticated",
            "Connected, authenticated devices.",
            ("tenant", "component_name"),
            registry=registry,
        )
        self.connections_unauthenticated = Gauge(
            "hono_connections_unauthenticated",
            "Connections without a proved device.",
            ("component_name",),
            registry=registry,
        )
        self.connection_seconds = LoopHistogram(
            "hono_connections_authenticated_duration_seconds",
            "How long authenticated connections lasted.",
            ("tenant", "component_name"),
            buckets=(1, 10, 60, 600, 3_600, 21_600, 86_400),
            registry=registry,
            has_max=True,
        )
        self.connection_attempts = Counter(
            "hono_connections_attempts",
            "Attempts to connect, by outcome.",
            ("tenant", "outcome", "cipher_suite", "component_name"),
            registry=registry,
        )
        self.authentication_attempts = Counter(
            "hono_authentication_attempts",
            "Applications and components that log in: succeeded, unauthorized, unavailable.",
            ("outcome", "client_type"),
            registry=registry,
        )
        self.tenants = Gauge("hono_tenants_total", "Registered tenants.", registry=registry)

        # --- commands that wait for their devices -------------------------------------------
        self.stored_commands = Counter(
            "twinspan_stored_commands",
            "Commands kept for devices: kept, refused, delivered, expired, rejected, deleted.",
            ("tenant", "outcome"),
            registry=registry,
        )
        self.stored_commands_waiting = Gauge(
            "twinspan_stored_commands_waiting",
            "Commands on disk that wait for their devices.",
            ("tenant",),
            registry=registry,
        )
        self.stored_commands_bytes = Gauge(
            "twinspan_stored_commands_bytes",
            "Bytes on disk of commands that wait for their devices.",
            registry=registry,
        )

        # --- AMQP northbound ------------------------------------------------------------------
        self.amqp_delivery_seconds = LoopHistogram(
            "hono_amqp_delivery_duration_seconds",
            "Time from sending a message to a consumer to its outcome.",
            ("tenant", "type", "outcome"),
            buckets=SECONDS,
            registry=registry,
            has_max=True,
        )
        self.amqp_nocredit = Counter(
            "hono_amqp_nocredit",
            "Messages refused because no consumer had credit.",
            ("tenant", "type"),
            registry=registry,
        )
        self.amqp_timeout = Counter(
            "hono_amqp_timeout",
            "Messages whose consumer gave no outcome in time.",
            ("tenant", "type"),
            registry=registry,
        )
        self.northbound_unencodable = Counter(
            "twinspan_northbound_unencodable",
            "Messages dropped because the protocol of applications has no form for them, by type.",
            ("type",),
            registry=registry,
        )
        self.northbound_links = Gauge(
            "twinspan_northbound_links",
            "Attached application links.",
            ("type",),
            registry=registry,
        )

        # --- CoAP adapter ---------------------------------------------------------------------
        self.coap_datagrams = Counter(
            "twinspan_coap_datagrams",
            "Datagrams of devices, by what they were or what became of them.",
            ("outcome",),
            registry=registry,
        )
        self.coap_sessions = Gauge(
            "twinspan_coap_dtls_sessions", "DTLS sessions of devices.", registry=registry
        )
        self.coap_handshakes = Counter(
            "twinspan_coap_dtls_handshakes",
            "DTLS handshakes, by outcome.",
            ("outcome",),
            registry=registry,
        )

        # --- Ditto ------------------------------------------------------------------------------
        self.thing_commands = Counter(
            "twinspan_thing_commands",
            "Commands to things, by action and outcome.",
            ("action", "outcome"),
            registry=registry,
        )
        self.thing_command_seconds = LoopHistogram(
            "twinspan_thing_command_duration_seconds",
            "Time from a thing command to its durable answer.",
            ("action",),
            buckets=SECONDS,
            registry=registry,
        )
        self.bulk_items = Counter(
            "twinspan_bulk_items",
            "Commands that came in bulk requests, by outcome: done, refused, failed, malformed.",
            ("outcome",),
            registry=registry,
        )
        self.http_requests = Counter(
            "twinspan_http_requests",
            "Requests answered, by server, method and status.",
            ("server", "method", "status"),
            registry=registry,
        )
        self.http_seconds = LoopHistogram(
            "twinspan_http_request_duration_seconds",
            "Time to answer a request.",
            ("server", "method"),
            buckets=SECONDS,
            registry=registry,
        )
        self.roundtrip_http_seconds = LoopHistogram(
            "roundtrip_http_seconds",
            "Time to answer a request of the Ditto API, by what its path begins with.",
            ("ditto_request_path", "ditto_request_method", "ditto_statusCode"),
            buckets=SECONDS,
            registry=registry,
        )
        self.live_entities = Depths("live_entities", "Things and policies in memory.", "type")
        registry.register(self.live_entities)
        self.sudo_commands = Counter(
            "sudo_commands",
            "Commands of operators that no policy was asked about.",
            ("type",),
            registry=registry,
        )
        self.stream_sessions = Gauge(
            "twinspan_stream_sessions",
            "Open WebSocket and SSE sessions.",
            ("kind",),
            registry=registry,
        )
        self.stream_frames = Counter(
            "twinspan_stream_frames",
            "Frames sent to (out) and received from (in) streaming sessions.",
            ("kind", "direction"),
            registry=registry,
        )
        self.stream_dropped = Counter(
            "twinspan_stream_sessions_dropped",
            "Streaming sessions ended because they read too slowly.",
            ("kind",),
            registry=registry,
        )
        self.connection_messages = Counter(
            "twinspan_connection_messages",
            "Messages through managed connections, by direction and outcome.",
            ("direction", "outcome"),
            registry=registry,
        )

        self.wot_models = Counter(
            "twinspan_wot_models",
            "Thing Models that were needed: in memory, out of date, fetched, known as not there.",
            ("found",),
            registry=registry,
        )
        self.wot_fetches = Counter(
            "twinspan_wot_fetches",
            "Thing Model documents asked for over HTTP, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.wot_fetch_seconds = Histogram(
            "twinspan_wot_fetch_duration_seconds",
            "Time to fetch a Thing Model document.",
            buckets=SECONDS,
            registry=registry,
        )

        self.wot_validations = Counter(
            "twinspan_wot_validations",
            "Changes, messages and answers judged by a Thing Model: fits, logged, refused.",
            ("outcome",),
            registry=registry,
        )

        # --- CloudCore ------------------------------------------------------------------------
        self.nodes_connected = Gauge(
            "twinspan_cloudhub_connected_nodes",
            "Edge nodes connected to this CloudHub.",
            registry=registry,
        )
        self.nodes_connected_as_kubeedge = Gauge(
            "KubeEdge_CloudHub_connected_nodes",
            "The same, under the name that dashboards for KubeEdge know.",
            registry=registry,
        )
        self.cloudhub_messages = Counter(
            "twinspan_cloudhub_messages",
            "Messages from (up) and to (down) edge nodes, by what they are about.",
            ("direction", "kind"),
            registry=registry,
        )
        self.cloudhub_refused = Counter(
            "twinspan_cloudhub_refused",
            "Connections and certificate requests of nodes that were refused, by reason.",
            ("reason",),
            registry=registry,
        )
        self.cloudhub_ended = Counter(
            "twinspan_cloudhub_sessions_ended",
            "Sessions of nodes that ended, by reason.",
            ("reason",),
            registry=registry,
        )
        self.cloudhub_delivery = Counter(
            "twinspan_cloudhub_deliveries",
            "Objects sent to nodes: acknowledged, or unanswered after all transmissions.",
            ("outcome",),
            registry=registry,
        )
        self.edge_certificates = Counter(
            "twinspan_edge_certificates",
            "Certificates of edge nodes, issued and revoked.",
            ("action",),
            registry=registry,
        )
        self.edge_reports = Counter(
            "twinspan_edge_reports",
            "Reported property values from edge nodes, by what became of them.",
            ("outcome",),
            registry=registry,
        )
        self.edge_uploads = Counter(
            "twinspan_edge_uploads",
            "Telemetry and events from edge nodes, by outcome.",
            ("type", "outcome"),
            registry=registry,
        )
        self.device_desired = Counter(
            "twinspan_device_desired",
            "Wanted values that the controller carried to the Device or the thing, by outcome.",
            ("towards", "outcome"),
            registry=registry,
        )

        # --- embedded Kubernetes API ------------------------------------------------------------
        self.kube_objects = Depths(
            "twinspan_kube_objects", "Objects of the embedded Kubernetes API.", "resource"
        )
        registry.register(self.kube_objects)
        self.kube_watchers = Gauge(
            "twinspan_kube_watchers", "Open watches on the embedded API.", registry=registry
        )
        self.kube_audit_dropped = Counter(
            "twinspan_kube_audit_dropped",
            "Audit events that were lost: too many waited, or the file could not be written.",
            registry=registry,
        )

        # --- stores -----------------------------------------------------------------------------
        self.store_commit_seconds = Histogram(
            "twinspan_store_commit_duration_seconds",
            "Time of one group commit.",
            ("store",),
            buckets=SECONDS,
            registry=registry,
        )
        self.store_queue = Depths(
            "twinspan_store_queue_depth", "Writes that wait for the writer.", "store"
        )
        registry.register(self.store_queue)
        self.events_stored = Counter(
            "twinspan_events_stored", "Events written to disk.", ("tenant",), registry=registry
        )
        self.events_refused = Counter(
            "twinspan_events_refused",
            "Events that were not stored: full for all, full for the tenant (share), store cannot write.",
            ("tenant", "reason"),
            registry=registry,
        )

        self.edge = EdgeMetrics(registry)
        self.elsewhere = ElsewhereMetrics(registry)
        self.mappers = MapperMetrics(registry)
        self.apiserver = ApiserverMetrics(registry)
        self.own = OwnMetrics(registry)
        self.health = HealthMetrics(registry)
        registry.register(DittoNames(self.stream_sessions, self.stream_frames))

        # --- process --------------------------------------------------------------------------
        self.loop_lag_seconds = Histogram(
            "twinspan_event_loop_lag_seconds",
            "How late the event loop runs what is due.",
            buckets=SECONDS,
            registry=registry,
        )
        self.workers = Gauge(
            "twinspan_workers", "Worker processes with adapters that are up.", registry=registry
        )
        self.worker_ends = Counter(
            "twinspan_worker_ends",
            "Worker processes that ended though nobody asked them to.",
            registry=registry,
        )
        self.modules_ready = Depths("twinspan_module_ready", "1 while a module is up.", "module")
        registry.register(self.modules_ready)

    def text(self) -> bytes:
        """Return the classic text format."""
        return generate_latest(Exposed(self.registry))

    def bare_text(self) -> bytes:
        """Return the classic text format for a process that adds it to its own."""
        return generate_latest(self.registry)

    def openmetrics(self) -> bytes:
        """Return OpenMetrics, which carries exemplars."""
        return bytes(generate_openmetrics(Exposed(self.registry)))  # type: ignore[no-untyped-call]  # the library has no types there


__all__ = ["OPENMETRICS", "TEXT", "Metrics"]
