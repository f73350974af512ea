"""Metrics of mappers in processes of their own.

`Metrics.mappers`; see `gateway.observe.metrics` for how names and labels are chosen. `driver` is the protocol
of a Device; of a process that serves several it is the first of them. What a child process counts comes over
its link (`edge.mappers.family.Surroundings.count`).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.observe.buckets import SECONDS


class MapperMetrics:
    """Attributes of `Metrics.mappers`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.up = Gauge(
            "twinspan_edge_mapper_up",
            "1 while the process of a protocol's mapper runs.",
            ("driver",),
            registry=registry,
        )
        self.starts = Counter(
            "twinspan_edge_mapper_starts",
            "Starts of mapper processes; more than one tells of crashes or lost hardware.",
            ("driver",),
            registry=registry,
        )
        self.memory = Gauge(
            "twinspan_edge_mapper_resident_memory_bytes",
            "Resident memory of a mapper's process.",
            ("driver",),
            registry=registry,
        )
        self.devices = Gauge(
            "twinspan_edge_mapper_devices",
            "Devices of a mapper by state: connected, waiting.",
            ("driver", "state"),
            registry=registry,
        )
        self.call_seconds = Histogram(
            "twinspan_edge_mapper_call_duration_seconds",
            "Time of a call to a device: connect, read, write.",
            ("driver", "call"),
            buckets=SECONDS,
            registry=registry,
        )
        self.call_failures = Counter(
            "twinspan_edge_mapper_call_failures",
            "Calls to devices that failed, by call and cause: timeout, unreachable, refused, error.",
            ("driver", "call", "cause"),
            registry=registry,
        )
        self.discovered = Gauge(
            "twinspan_edge_mapper_discovered_devices",
            "Devices that a mapper sees and that may be nobody's Device yet.",
            ("driver",),
            registry=registry,
        )
        self.discoveries = Counter(
            "twinspan_cloud_discoveries",
            "Devices that nodes say they see: taken, refused (too many, or of no use).",
            ("outcome",),
            registry=registry,
        )
        self.notifications = Counter(
            "twinspan_edge_mapper_notifications",
            "Values that devices sent unasked: taken, coalesced (a newer one came first), malformed.",
            ("driver", "outcome"),
            registry=registry,
        )
        self.hardware_up = Gauge(
            "twinspan_edge_mapper_hardware_up",
            "1 while the adapter or coordinator of a mapper works.",
            ("driver",),
            registry=registry,
        )
