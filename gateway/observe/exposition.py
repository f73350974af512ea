"""What a scrape shows beside the metrics themselves: the labels that all of Hono's meters carry.

Hono runs a process per component and tells them apart by `host`, `component_type` and `component_name`. Here
one process is all of them, so `component_name` says whose part of the work it was, and `host` is the machine.
The labels are added when a scrape asks; who counts does not pay for them.
Source: Hono `Metrics.md`, minimum message tags; the dashboards of its Helm chart choose by `host`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

PREFIXES: Final = (
    "hono_",
    "jvm_",
    "system_cpu_",
    "process_cpu_usage",
    "process_files_",
    "logback_",
)
"""Families that Hono has too."""
OURSELVES: Final = "twinspan"
SERVICES: Final = frozenset({"hono-auth", "hono-command-router", "hono-registry", OURSELVES})
OWNERS: Final = {
    "hono_tenants_total": "hono-registry",
    "hono_authentication_attempts": "hono-auth",
}
"""Components of families whose samples do not name theirs."""


class Exposed(CollectorRegistry):
    """Another registry as scrapes see it; takes no collectors of its own.

    Shape:  `host` is the value of that label.
    """

    def __init__(self, registry: CollectorRegistry, host: str | None = None) -> None:
        super().__init__()
        self._shown = registry
        self._host = socket.gethostname() if host is None else host

    def collect(self) -> Iterator[Metric]:
        """Yield every family, Hono's with the common labels."""
        for family in self._shown.collect():
            yield self._labelled(family) if family.name.startswith(PREFIXES) else family

    def _labelled(self, family: Metric) -> Metric:
        shown = Metric(family.name, family.documentation, family.type, family.unit)
        owner = OWNERS.get(family.name, OURSELVES)
        shown.samples = [
            sample._replace(labels=self._common(owner, sample.labels)) for sample in family.samples
        ]
        return shown

    def _common(self, owner: str, labels: Mapping[str, str]) -> dict[str, str]:
        component = labels.get("component_name", owner)
        kind = "service" if component in SERVICES else "adapter"
        return {
            "host": self._host,
            "component_type": kind,
            "component_name": component,
            **labels,
        }
