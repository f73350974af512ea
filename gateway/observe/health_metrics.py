"""Metrics of what runs out: certificates and disks.

Attributes of `Metrics.health`; see `gateway.observe.metrics` for how names and labels are chosen. Everything
is looked at when a scrape asks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry

from gateway.observe.depths import Depths, Rows

Row = tuple[tuple[str, ...], float]


class HealthMetrics:
    """Attributes of `Metrics.health`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._certificates: dict[str, Callable[[], float]] = {}
        self._disks: dict[str, Path] = {}
        self.certificate_ends = Rows(
            "twinspan_certificate_expiry_timestamp_seconds",
            "When a certificate that this process uses ends: edge, cloudhub, cloudhub-ca, devices.",
            "certificate",
        )
        self.certificate_ends.watch(self._ends)
        registry.register(self.certificate_ends)
        self.disk_free = Rows(
            "twinspan_disk_free_bytes", "Bytes that are free where a store is.", "store"
        )
        self.disk_free.watch(lambda: self._usage("free"))
        registry.register(self.disk_free)
        self.disk_size = Rows(
            "twinspan_disk_size_bytes", "Size of the disk where a store is.", "store"
        )
        self.disk_size.watch(lambda: self._usage("total"))
        registry.register(self.disk_size)

        self.events_limit = Depths(
            "twinspan_events_limit_bytes",
            "Bytes that the event store may hold; above it events are refused.",
        )
        registry.register(self.events_limit)

    def watch_certificate(self, name: str, ends: Callable[[], float]) -> None:
        """Report when a certificate ends, Unix seconds.

        Errors: OSError, ValueError, RuntimeError of `ends` say that it is not there now.
        """
        self._certificates[name] = ends

    def watch_disk(self, store: str, folder: Path) -> None:
        """Report the room on the disk of a store."""
        self._disks[store] = folder

    def _ends(self) -> Iterator[Row]:
        for name, ends in self._certificates.items():
            with suppress(OSError, ValueError, RuntimeError):
                yield (name,), ends()

    def _usage(self, part: str) -> Iterator[Row]:
        for store, folder in self._disks.items():
            with suppress(OSError):
                yield (store,), float(getattr(shutil.disk_usage(folder), part))
