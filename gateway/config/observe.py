"""Settings of logs, metrics, traces and the operations port."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Otlp:
    """Export to an OpenTelemetry collector. What is empty here is taken from OTEL_* variables, then
    defaults."""

    enabled: bool = False
    """Also on with OTEL_TRACES_EXPORTER=otlp or OTEL_LOGS_EXPORTER=otlp. Needs the extra `twinspan[otlp]`."""
    endpoint: str = ""
    """Base URL of the receiver, else OTEL_EXPORTER_OTLP_ENDPOINT, else 127.0.0.1, port 4318 (HTTP) or 4317
    (gRPC).
    Over HTTP `/v1/traces` or `/v1/logs` is added. https:// means TLS, over gRPC too."""
    protocol: str = ""
    """`http/protobuf` or `grpc`; else OTEL_EXPORTER_OTLP_PROTOCOL, else http/protobuf."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with each export, e.g. a token; beside those of OTEL_EXPORTER_OTLP_HEADERS."""
    compression: str = ""
    """`none` or `gzip`; else OTEL_EXPORTER_OTLP_COMPRESSION, else none."""
    ca_file: str = ""
    """PEM file of those who may sign the collector's certificate; else the system's."""
    cert_file: str = ""
    """PEM file of a client certificate; needs `key_file`."""
    key_file: str = ""
    """PEM file of its key."""
    timeout: float = 0.0
    """Seconds for one export with all its tries, and for the last one at the end; 0 takes
    OTEL_EXPORTER_OTLP_TIMEOUT (milliseconds), else 5."""
    max_queue: int = 2_048
    """How many spans or records wait; more are dropped and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Which traces are kept and where they go."""

    ratio: float = 1.0
    """Share of new traces that are sampled, 0.0 to 1.0; a caller's decision is followed."""
    sampler: str = ""
    """As OTEL_TRACES_SAMPLER, which counts where this is empty: always_on, always_off, traceidratio, the
    same with
    `parentbased_` before, or rate_limiting. The argument is `ratio`, for rate_limiting traces a second."""
    telemetry_per_second: int = 10
    """Of the traces that start with telemetry here, how many a second may be sampled; all carry ids."""
    keep: int = 2_000
    """Finished spans that stay in memory, for `twinspan trace`; about 1 KB each."""
    otlp: Otlp = field(default_factory=Otlp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """What is logged and how."""

    level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    form: str = "text"
    """`text` for people, `json` for machines."""
    otlp: Otlp = field(default_factory=Otlp)
    """Log lines to a collector, beside standard error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpsHttp:
    """The operations port: /metrics, /liveness, /readiness, /traces."""

    bind: str = "127.0.0.1:8088"
    """host:port; port 0 takes a free one."""
    traces_for_all: bool = False
    """Show /traces, which names devices and things, to other machines too, where `bind` lets them in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observe:
    """Observability."""

    resource: dict[str, str] = field(default_factory=dict)
    """Resource attributes of exported spans and logs; before OTEL_SERVICE_NAME and
    OTEL_RESOURCE_ATTRIBUTES."""
    logs: Logs = field(default_factory=Logs)
    traces: Traces = field(default_factory=Traces)
    http: OpsHttp = field(default_factory=OpsHttp)
