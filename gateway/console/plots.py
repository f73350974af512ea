"""The closed list of plots: which metric, over which labels, and how it is reckoned.

They mirror the main panels of the Grafana dashboards. The same entry makes the ring's numbers and the
expression for a Prometheus.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from gateway.console.series import MAX_SERIES, NODE_SERIES, QUANTILE
from gateway.model.json import JsonObject

MESSAGING: Final = "Messaging"
TWINS: Final = "Twins"
FLEET: Final = "Edge fleet"
CLUSTER: Final = "Kubernetes"
RUNTIME: Final = "Runtime"


class Kind(enum.StrEnum):
    """How a plot comes from its metric."""

    RATE = "rate"
    GAUGE = "gauge"
    QUANTILE = "p99"


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot. Shape: `sample` is a sample's name, without `_bucket` for quantiles; `by` its labels."""

    id: str
    title: str
    unit: str
    group: str
    kind: Kind
    sample: str
    by: tuple[str, ...] = ()
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    most: int = MAX_SERIES

    @property
    def family(self) -> str:
        """The name that the sample is registered under."""
        if self.kind is Kind.RATE:
            for ending in ("_count", "_sum", "_total"):
                if self.sample.endswith(ending):
                    return self.sample.removesuffix(ending)
        return self.sample

    def told(self) -> JsonObject:
        return {
            "id": self.id,
            "title": self.title,
            "unit": self.unit,
            "group": self.group,
            "kind": self.kind.value,
        }

    def expression(self, window: int) -> str:
        """The same for a Prometheus. Shape: `window` in seconds."""
        by = ", ".join(self.by)
        chosen = ",".join(f'{name}=~"{"|".join(values)}"' for name, values in self.where)
        braces = f"{{{chosen}}}" if chosen else ""
        if self.kind is Kind.GAUGE:
            inner = f"sum by ({by}) ({self.sample}{braces})"
        elif self.kind is Kind.RATE:
            inner = f"sum by ({by}) (rate({self.sample}{braces}[{window}s]))"
        else:
            le = f"le, {by}" if by else "le"
            rate = f"rate({self.sample}_bucket{braces}[{window}s])"
            inner = f"histogram_quantile({QUANTILE}, sum by ({le}) ({rate}))"
        return f"topk({MAX_SERIES}, {inner})"


_R, _G, _Q = Kind.RATE, Kind.GAUGE, Kind.QUANTILE
_UPLOADS = "hono_telemetry_processing_duration_seconds"
_COMMANDS = "hono_command_processing_duration_seconds"
_HTTP = "twinspan_http_request"
_KINDS = ("pods", "nodes", "deployments.apps", "devices.devices.kubeedge.io")

PLOTS: Final[tuple[Plot, ...]] = (
    Plot("uploads", "Uploads by outcome", "1/s", MESSAGING, _R, f"{_UPLOADS}_count", ("status",)),
    Plot("uploads-tenant", "Uploads by tenant", "1/s", MESSAGING, _R, f"{_UPLOADS}_count", ("tenant",)),
    Plot("uploads-p99", "Time to an upload's outcome, p99", "s", MESSAGING, _Q, _UPLOADS, ("type",)),
    Plot("payload", "Payload", "B/s", MESSAGING, _R, "hono_telemetry_payload_bytes_sum", ("type",)),
    Plot("commands", "Commands", "1/s", MESSAGING, _R, f"{_COMMANDS}_count", ("direction", "status")),
    Plot("commands-p99", "Time of a command, p99", "s", MESSAGING, _Q, _COMMANDS, ("direction",)),
    Plot("devices-connected", "Connected devices", "1", MESSAGING, _G,
         "hono_connections_authenticated", ("component_name",)),
    Plot("logins", "Attempts to connect", "1/s", MESSAGING, _R,
         "hono_connections_attempts_total", ("outcome",)),
    Plot("events-stored", "Events written to disk", "1/s", MESSAGING, _R,
         "twinspan_events_stored_total", ("tenant",)),
    Plot("links", "Links of applications", "1", MESSAGING, _G, "twinspan_northbound_links", ("type",)),
    Plot("thing-commands", "Commands to things", "1/s", TWINS, _R,
         "twinspan_thing_commands_total", ("outcome",)),
    Plot("things-p99", "Time of a thing command, p99", "s", TWINS, _Q,
         "twinspan_thing_command_duration_seconds", ("action",)),
    Plot("sessions", "WebSocket and SSE sessions", "1", TWINS, _G, "twinspan_stream_sessions", ("kind",)),
    Plot("connections", "Messages of connections", "1/s", TWINS, _R,
         "twinspan_connection_messages_total", ("direction", "outcome")),
    Plot("http", "HTTP requests", "1/s", TWINS, _R, f"{_HTTP}s_total", ("server",)),
    Plot("http-status", "HTTP requests by status", "1/s", TWINS, _R, f"{_HTTP}s_total", ("status",)),
    Plot("http-p99", "Time of an HTTP request, p99", "s", TWINS, _Q, f"{_HTTP}_duration_seconds",
         ("server",)),
    Plot("nodes", "Connected nodes", "1", FLEET, _G, "twinspan_cloudhub_connected_nodes"),
    Plot("hub", "Messages of nodes", "1/s", FLEET, _R, "twinspan_cloudhub_messages_total",
         ("direction",)),
    Plot("edge-uploads", "Uploads of nodes", "1/s", FLEET, _R, "twinspan_edge_uploads_total",
         ("outcome",)),
    Plot("reports", "Reported values of nodes", "1/s", FLEET, _R, "twinspan_edge_reports_total",
         ("outcome",)),
    Plot("mapper-reads", "Reads of devices at this process's edge", "1/s", FLEET, _R,
         "twinspan_edge_mapper_reads_total", ("driver", "quality")),
    Plot("kube-objects", "Objects", "1", CLUSTER, _G, "twinspan_kube_objects", ("resource",),
         (("resource", _KINDS),)),
    Plot("kube-watchers", "Open watches", "1", CLUSTER, _G, "twinspan_kube_watchers"),
    Plot("loop-lag", "Lag of the event loop, p99", "s", RUNTIME, _Q, "twinspan_event_loop_lag_seconds"),
    Plot("store-queue", "Writes that wait", "1", RUNTIME, _G, "twinspan_store_queue_depth", ("store",)),
    Plot("commits-p99", "Time of a commit, p99", "s", RUNTIME, _Q,
         "twinspan_store_commit_duration_seconds", ("store",)),
    Plot("memory", "Memory", "B", RUNTIME, _G, "process_resident_memory_bytes"),
    Plot("cpu", "CPU", "cores", RUNTIME, _R, "process_cpu_seconds_total"),
)  # fmt: skip
NODE_PLOTS: Final[tuple[Plot, ...]] = (
    Plot("node-link", "Link (1: connected)", "1", FLEET, _G, "twinspan_cloudhub_node_connected",
         ("node",), most=NODE_SERIES),
    Plot("node-round-trip", "Round trip of an object to the node", "s", FLEET, _G,
         "twinspan_cloudhub_node_acknowledge_seconds", ("node",), most=NODE_SERIES),
    Plot("node-waiting", "Objects that the node has not acknowledged", "1", FLEET, _G,
         "twinspan_cloudhub_node_unacknowledged_objects", ("node",), most=NODE_SERIES),
)  # fmt: skip
"""What is shown of one node at a time."""
BY_ID: Final = {plot.id: plot for plot in (*PLOTS, *NODE_PLOTS)}
