"""A scrape has every meter of Hono's, under its name and with its labels."""

from __future__ import annotations

import gc
import logging

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from gateway.observe.exposition import Exposed
from gateway.observe.histograms import PEAK_SECONDS, LoopHistogram
from gateway.observe.metrics import Metrics
from gateway.observe.process import ProcessMeters

COMMON = {"host", "component_type", "component_name"}
UPLOAD = {"tenant", "type", "status", "qos", "ttd"}
COMMAND = {"tenant", "direction", "status"}
TIMED = ("_count", "_sum", "_max")

METERS = [
    ("hono_telemetry_processing_duration_seconds", TIMED, UPLOAD),
    ("hono_telemetry_payload_bytes", TIMED, UPLOAD),
    ("hono_command_processing_duration_seconds", TIMED, COMMAND),
    ("hono_command_payload_bytes", TIMED, COMMAND),
    ("hono_connections_authenticated", ("",), {"tenant"}),
    ("hono_connections_unauthenticated", ("",), set()),
    ("hono_connections_authenticated_duration_seconds", TIMED, {"tenant"}),
    ("hono_connections_attempts_total", ("",), {"tenant", "outcome", "cipher_suite"}),
    ("hono_amqp_delivery_duration_seconds", TIMED, {"tenant", "type", "outcome"}),
    ("hono_amqp_nocredit_total", ("",), {"tenant", "type"}),
    ("hono_amqp_timeout_total", ("",), {"tenant", "type"}),
    ("hono_authentication_attempts_total", ("",), {"outcome", "client_type"}),
    ("hono_tenants_total", ("",), set()),
]
"""Name, suffixes of what is seen, own labels. Source: Hono `Metrics.md`."""


def touched() -> Metrics:
    """Metrics with every one of Hono's used once, as the rooms do."""
    m = Metrics()
    upload = ("t", "telemetry", "forwarded", "1", "none", "hono-mqtt")
    command = ("t", "one-way", "forwarded", "hono-mqtt")
    m.telemetry_seconds.labels(*upload).observe(0.1)
    m.telemetry_bytes.labels(*upload).observe(10)
    m.command_seconds.labels(*command).observe(0.1)
    m.command_bytes.labels(*command).observe(10)
    m.connections.labels("t", "hono-mqtt").inc()
    m.connections_unauthenticated.labels("hono-mqtt").inc()
    m.connection_seconds.labels("t", "hono-mqtt").observe(5)
    m.connection_attempts.labels("t", "succeeded", "UNKNOWN", "hono-mqtt").inc()
    m.amqp_delivery_seconds.labels("t", "telemetry", "accepted").observe(0.1)
    m.amqp_nocredit.labels("t", "telemetry").inc()
    m.amqp_timeout.labels("t", "telemetry").inc()
    m.authentication_attempts.labels("succeeded", "unknown").inc()
    m.tenants.set(3)
    return m


def seen(text: str) -> dict[str, dict[str, str]]:
    """Sample name -> labels of its first sample."""
    found: dict[str, dict[str, str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, sample.labels)
    return found


@pytest.mark.parametrize(("name", "suffixes", "labels"), METERS, ids=[m[0] for m in METERS])
def test_a_meter_has_hono_s_name_and_labels(
    name: str, suffixes: tuple[str, ...], labels: set[str]
) -> None:
    samples = seen(touched().text().decode())
    for suffix in suffixes:
        assert set(samples[name + suffix]) == labels | COMMON


@pytest.mark.parametrize(
    ("name", "component", "kind"),
    [
        ("hono_telemetry_payload_bytes_count", "hono-mqtt", "adapter"),
        ("hono_tenants_total", "hono-registry", "service"),
        ("hono_authentication_attempts_total", "hono-auth", "service"),
        ("hono_amqp_nocredit_total", "twinspan", "service"),
        ("jvm_threads_live_threads", "twinspan", "service"),
    ],
)
def test_a_meter_says_whose_it_is(name: str, component: str, kind: str) -> None:
    labels = seen(touched().text().decode())[name]
    assert (labels["component_name"], labels["component_type"]) == (component, kind)
    assert labels["host"]


def test_meters_of_our_own_stay_as_they_are() -> None:
    metrics = Metrics()
    metrics.bulk_items.labels("done").inc()
    labels = seen(metrics.text().decode())["twinspan_bulk_items_total"]
    assert labels == {"outcome": "done"}


def test_who_counts_does_not_see_the_common_labels() -> None:
    metrics = touched()
    labels = {"outcome": "succeeded", "client_type": "unknown"}
    name = "hono_authentication_attempts_total"
    assert metrics.registry.get_sample_value(name, labels) == 1
    assert [f.name for f in Exposed(CollectorRegistry(), "here").collect()] == []


def test_openmetrics_has_the_same_labels() -> None:
    assert 'component_name="hono-registry"' in touched().openmetrics().decode()


def test_the_largest_value_is_told_for_a_while() -> None:
    now = [0.0]
    registry = CollectorRegistry(auto_describe=True)
    histogram = LoopHistogram(
        "a", "b", ("t",), buckets=(1,), registry=registry, has_max=True, now=lambda: now[0]
    )

    def largest() -> float | None:
        return registry.get_sample_value("a_max", {"t": "x"})

    histogram.labels("x").observe(5)
    histogram.labels("x").observe(2)
    assert largest() == 5
    now[0] += PEAK_SECONDS + 1
    assert largest() == 5
    histogram.labels("x").observe(1)
    now[0] += PEAK_SECONDS + 1
    assert largest() == 1
    now[0] += 3 * PEAK_SECONDS
    assert largest() == 0
    assert registry.get_sample_value("a_count", {"t": "x"}) == 3


def test_pauses_and_log_lines_are_counted_while_somebody_watches() -> None:
    meters = ProcessMeters()

    def told() -> dict[str, float]:
        return {
            sample.labels.get("level", sample.name): sample.value
            for family in meters.collect()
            for sample in family.samples
        }

    before = told()
    with meters.watching():
        gc.collect()
        logging.getLogger("twinspan.test").warning("for the count")
    logging.getLogger("twinspan.test").warning("after it")
    gc.collect()
    after = told()
    assert after["jvm_gc_pause_seconds_count"] >= before["jvm_gc_pause_seconds_count"] + 1
    assert after["jvm_gc_pause_seconds_sum"] > 0
    assert after["warn"] == before["warn"] + 1
    assert meters._on_gc not in gc.callbacks


def test_the_process_tells_of_itself() -> None:
    samples = seen(Metrics().text().decode())
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(Metrics().text().decode())
        for sample in family.samples
    }
    assert 0 < values["jvm_memory_used_bytes"] <= values["jvm_memory_max_bytes"]
    assert 1 <= values["jvm_threads_live_threads"] <= values["jvm_threads_peak_threads"]
    assert values["system_cpu_count"] >= 1
    assert values["process_files_open_files"] >= 3
    assert 0 <= values["process_cpu_usage"] <= 1
    assert 0 <= values["system_cpu_usage"] <= 1
    assert set(samples["logback_events_total"]) == {*COMMON, "level"}
