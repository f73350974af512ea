"""Metrics of the process itself, of the links to its nodes, and of what leaves it for a collector.

Attributes of `Metrics.own`; see `gateway.observe.metrics` for how names and labels are chosen. Nodes are made
by an operator and bounded by `cloud.hub.node_limit`, so they may be label values.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.gc_collector import GCCollector

from gateway.observe.buckets import SECONDS
from gateway.observe.depths import Depths, Rows, Source
from gateway.observe.histograms import LoopHistogram


def _version() -> str:
    try:
        return version("twinspan")
    except PackageNotFoundError:
        return "unknown"


VERSION: Final = _version()


class WatchedStore(Protocol):
    """What is reported of a store."""

    schema: str
    fault: str
    read_seconds: Callable[[float], None]

    @property
    def reads_waiting(self) -> int: ...


class OwnMetrics:
    """Attributes of `Metrics.own`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        GCCollector(registry=registry)
        self.build = Gauge(
            "twinspan_build_info",
            "1; the labels say which version runs, and on what.",
            ("version", "python", "platform"),
            registry=registry,
        )
        self.build.labels(VERSION, platform.python_version(), platform.machine()).set(1)

        # --- queues -----------------------------------------------------------------------------
        self.queue_depth = Depths(
            "twinspan_queue_depth", "What waits in a bounded queue inside this process.", "queue"
        )
        registry.register(self.queue_depth)
        self.queue_limit = Depths(
            "twinspan_queue_limit",
            "How much the queue takes before it refuses, drops or pauses its source.",
            "queue",
        )
        registry.register(self.queue_limit)
        self.store_reads = Depths(
            "twinspan_store_read_queue_depth", "Reads that wait for a reader's thread.", "store"
        )
        registry.register(self.store_reads)
        self.store_read_seconds = LoopHistogram(
            "twinspan_store_read_duration_seconds",
            "Time of one read, with its wait for a reader's thread.",
            ("store",),
            buckets=SECONDS,
            registry=registry,
        )
        self.store_faulty = Depths(
            "twinspan_store_faulty", "1 while the store cannot write.", "store"
        )
        registry.register(self.store_faulty)
        self.events_bytes = Depths(
            "twinspan_events_stored_bytes", "Bytes on disk of events that consumers may still get."
        )
        registry.register(self.events_bytes)

        # --- links to edge nodes --------------------------------------------------------------------
        self.node_connected = Rows(
            "twinspan_cloudhub_node_connected",
            "1 while a node is connected to this CloudHub, 0 while it is away.",
            "node",
        )
        registry.register(self.node_connected)
        self.node_seen = Rows(
            "twinspan_cloudhub_node_last_seen_timestamp_seconds",
            "When the last keep-alive of a node came, or it left; since the start of this process.",
            "node",
        )
        registry.register(self.node_seen)
        self.node_waiting = Rows(
            "twinspan_cloudhub_node_unacknowledged_objects",
            "Objects that a connected node has not acknowledged yet.",
            "node",
        )
        registry.register(self.node_waiting)
        self.node_seconds = Rows(
            "twinspan_cloudhub_node_acknowledge_seconds",
            "Round trip of the last object that a connected node acknowledged, its storing it included.",
            "node",
        )
        registry.register(self.node_seconds)

        # --- the edge's spool -----------------------------------------------------------------------
        self.spool_limit_bytes = Depths(
            "twinspan_edge_spool_limit_bytes", "Bytes that the spool may hold.", "type"
        )
        registry.register(self.spool_limit_bytes)
        self.spool_seconds_left = Rows(
            "twinspan_edge_spool_seconds_left",
            "Time until the spool is full at the rate of late; absent while nothing comes in.",
            "type",
        )
        registry.register(self.spool_seconds_left)

        # --- export ---------------------------------------------------------------------------------
        self.otlp_spans = Counter(
            "twinspan_otlp_spans",
            "Spans for the collector: sent, dropped (too many waited), failed (late or refused).",
            ("outcome",),
            registry=registry,
        )
        self.otlp_logs = Counter(
            "twinspan_otlp_logs",
            "Log records for the collector: sent, dropped, failed.",
            ("outcome",),
            registry=registry,
        )
        self.hub_spans = Counter(
            "twinspan_edge_spans",
            "Spans of edges through the hub: sent, dropped (edge); taken, refused, malformed (cloud).",
            ("outcome",),
            registry=registry,
        )

    def watch_store(self, store: WatchedStore) -> None:
        """Report a store's reads and faults."""
        store.read_seconds = self.store_read_seconds.labels(store.schema).observe
        self.store_reads.watch(store.schema, lambda: store.reads_waiting)
        self.store_faulty.watch(store.schema, lambda: bool(store.fault))

    def watch_queue(self, name: str, depth: Source, limit: float) -> None:
        """Report a queue and how much it takes."""
        self.queue_depth.watch(name, depth)
        self.queue_limit.watch(name, partial(float, limit))
