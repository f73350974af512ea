"""Metrics of the embedded Kubernetes API, under the names and labels that a kube-apiserver gives them.

Attributes of `Metrics.apiserver`. `resource` and its kin come from the kinds that are served, which are the
built-in ones and those that an operator defines; requests for others count without them.
Source: Kubernetes, list of stable metrics (`apiserver_request_total`, `apiserver_request_duration_seconds`).
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.observe.histograms import LoopHistogram

REQUEST: Final = (
    "verb",
    "dry_run",
    "group",
    "version",
    "resource",
    "subresource",
    "scope",
    "component",
)
BUCKETS: Final = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10, 30, 60)
"""Those of a kube-apiserver, thinned out."""
COMPONENT: Final = "apiserver"


class ApiserverMetrics:
    """Attributes of `Metrics.apiserver`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "apiserver_request",
            "Requests of the embedded Kubernetes API, by verb, resource and status code.",
            (*REQUEST, "code"),
            registry=registry,
        )
        self.seconds = LoopHistogram(
            "apiserver_request_duration_seconds",
            "Time to answer a request of the embedded Kubernetes API; watches count when they end.",
            REQUEST,
            buckets=BUCKETS,
            registry=registry,
        )
        self.inflight = Gauge(
            "apiserver_current_inflight_requests",
            "Requests in work that are no watches.",
            ("request_kind",),
            registry=registry,
        )
        self.longrunning = Gauge(
            "apiserver_longrunning_requests",
            "Watches and streams that are open.",
            ("verb", "group", "version", "resource", "subresource", "scope", "component"),
            registry=registry,
        )
