"""Settings of logs, metrics, traces and the operations port."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Otlp:
    """Export of traces to an OpenTelemetry collector."""

    enabled: bool = False
    """Needs the extra `twinspan[otlp]`."""
    endpoint: str = "http://127.0.0.1:4318"
    """Base URL of an OTLP/HTTP receiver; `/v1/traces` is added."""
    timeout: float = 5.0
    """Seconds for one export."""
    max_queue: int = 2_048
    """Spans that wait; more are dropped and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Which traces are kept and where they go."""

    ratio: float = 1.0
    """Share of new traces that are sampled, 0.0 to 1.0; a caller's decision is followed."""
    telemetry_per_second: int = 10
    """Of the traces that start with telemetry here, how many a second may be sampled; all carry ids."""
    otlp: Otlp = field(default_factory=Otlp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """What is logged and how."""

    level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    form: str = "text"
    """`text` for people, `json` for machines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpsHttp:
    """The operations port: /metrics, /liveness, /readiness."""

    bind: str = "127.0.0.1:8088"
    """host:port; port 0 takes a free one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observe:
    """Observability."""

    logs: Logs = field(default_factory=Logs)
    traces: Traces = field(default_factory=Traces)
    http: OpsHttp = field(default_factory=OpsHttp)
