"""Certificates and disks on a scrape: what is there is told, what is not is left out."""

from __future__ import annotations

import shutil
from pathlib import Path

from gateway.observe.metrics import Metrics
from gateway.runtime.certificates import ends_at, ensure_server


def sample(metrics: Metrics, name: str, label: str, value: str) -> float | None:
    return metrics.registry.get_sample_value(name, {label: value})


def test_the_end_of_a_certificate_in_a_file_is_told(tmp_path: Path) -> None:
    metrics = Metrics()
    certificate, _ = ensure_server(tmp_path, "authority", "server", ("localhost",))
    metrics.health.watch_certificate("devices", lambda: ends_at(certificate))
    name = "twinspan_certificate_expiry_timestamp_seconds"
    assert sample(metrics, name, "certificate", "devices") == ends_at(certificate)
    certificate.write_text("no PEM")
    assert sample(metrics, name, "certificate", "devices") is None
    certificate.unlink()
    assert b'certificate="devices"' not in metrics.text()


def test_the_disk_of_a_store_is_told_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.health.watch_disk("gateway", tmp_path)
    metrics.health.watch_disk("edge", tmp_path / "gone")
    size = sample(metrics, "twinspan_disk_size_bytes", "store", "gateway")
    free = sample(metrics, "twinspan_disk_free_bytes", "store", "gateway")
    assert size == shutil.disk_usage(tmp_path).total
    assert free is not None
    assert 0 < free <= size
    assert sample(metrics, "twinspan_disk_free_bytes", "store", "edge") is None
