"""A scrape that holds nobody up: values are read on the loop in short pieces, text is made in a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from gateway.observe.exposition import Exposed
from gateway.observe.metrics import Metrics

PIECE_SECONDS: Final = 0.002
"""How long families are read before others have their turn; one family is read whole."""


class _Read(CollectorRegistry):
    """Families that were read already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


async def scraped(metrics: Metrics, *, openmetrics: bool) -> bytes:
    """Return what `Metrics.text` or `Metrics.openmetrics` returns."""
    families: list[Metric] = []
    until = time.perf_counter() + PIECE_SECONDS
    for family in Exposed(metrics.registry).collect():
        families.append(family)
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + PIECE_SECONDS
    return await asyncio.to_thread(_text, families, openmetrics)


def _text(families: Sequence[Metric], openmetrics: bool) -> bytes:
    read = _Read(families)
    return bytes(generate_openmetrics(read)) if openmetrics else generate_latest(read)  # type: ignore[no-untyped-call]  # the library has no types there
