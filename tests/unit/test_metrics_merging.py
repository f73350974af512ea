"""Scrapes of several processes as one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from gateway.observe.merging import MergingRegistry, lasting, read_families


class Process:
    """What one process counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.uploads = Counter("uploads", "Uploads.", ("tenant",), registry=registry)
        self.open = Gauge("open", "Open.", registry=registry)
        self.ready = Gauge("twinspan_module_ready", "Ready.", ("module",), registry=registry)
        self.longest = Gauge("seconds_max", "Longest.", registry=registry)
        self.sizes = Histogram("sizes", "Sizes.", buckets=(1, 10), registry=registry)
        self.started = Gauge("process_start_time_seconds", "Began.", registry=registry)

    def text(self) -> str:
        return generate_latest(self.registry).decode()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def filled(process: Process, uploads: int, size: float) -> Process:
    process.uploads.labels("acme").inc(uploads)
    process.open.set(uploads)
    process.longest.set(size)
    process.ready.labels("mqtt").set(uploads > 1)
    process.sizes.observe(size)
    process.started.set(1_000 + uploads)
    return process


def test_counters_and_buckets_are_added_and_the_largest_maximum_counts() -> None:
    main = MergingRegistry()
    filled(Process(main), 1, 0.5)
    others = [
        read_families(filled(Process(CollectorRegistry()), n, n * 5.0).text()) for n in (2, 3)
    ]
    main.elsewhere = lambda: others
    assert value(main, "uploads_total", tenant="acme") == 6
    assert value(main, "open") == 6
    assert value(main, "seconds_max") == 15
    assert value(main, "twinspan_module_ready", module="mqtt") == 0
    assert value(main, "sizes_bucket", le="1.0") == 1
    assert value(main, "sizes_bucket", le="10.0") == 2
    assert value(main, "sizes_count") == 3
    assert value(main, "sizes_sum") == 25.5
    assert value(main, "process_start_time_seconds") == 1_001


def test_each_family_stands_once_in_the_text() -> None:
    main = MergingRegistry()
    filled(Process(main), 1, 0.5)
    extra = CollectorRegistry()
    Counter("only_there", "Not here.", registry=extra).inc(3)
    main.elsewhere = lambda: [read_families(generate_latest(extra).decode())] * 2
    text = generate_latest(main).decode()
    assert text.count("# TYPE only_there_total counter") == 1
    assert "only_there_total 6.0" in text
    assert text.count("# TYPE uploads_total counter") == 1


def test_of_a_process_that_ended_the_counters_stay() -> None:
    ended = lasting(read_families(filled(Process(CollectorRegistry()), 2, 5.0).text()))
    assert {"uploads", "sizes"} <= set(ended)
    assert not {"open", "twinspan_module_ready"} & set(ended)
