"""What the node, its Pods and their containers use: the port of those who show it.

`edge.pods.statsource.PodStats` is the one behind it; samples are taken on demand and kept for ten seconds.

Source: kubelet stats v1alpha1, kubelet `/metrics/resource`, cAdvisor's Prometheus names.
"""

from __future__ import annotations

from typing import Protocol

from gateway.model.json import JsonObject

METRICS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of the texts."""


class NodeStats(Protocol):
    """Use of resources, for `/stats/summary`, `/metrics/resource`, `/metrics/cadvisor`, `/metrics/probes`."""

    async def summary(self, *, only_cpu_and_memory: bool = False) -> JsonObject:
        """Return the document of `/stats/summary`."""

    async def resource_metrics(self) -> str:
        """Return the text of `/metrics/resource`, never an error: `resource_scrape_error` tells of one."""

    async def cadvisor_metrics(self) -> str:
        """Return the text of `/metrics/cadvisor`."""

    def probe_metrics(self) -> str:
        """Return the text of `/metrics/probes`: `prober_probe_total`."""
