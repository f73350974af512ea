"""docs/metrics.md says what the registry has, and every family is described as an operator needs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from gateway.observe.apiserver_metrics import REQUEST
from gateway.observe.metrics import Metrics

ROOT = Path(__file__).parents[2]
OTHERS = frozenset({"KubeEdge_CloudHub_connected_nodes"})
"""Spelled as dashboards for others ask for them."""
IDENTITIES = {
    "device",
    "device_id",
    "thing",
    "thing_id",
    "correlation_id",
    "client_id",
    "path",
    "pod",
}
"""What there may be any number of, made by anybody."""


def test_the_document_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/metrics_doc.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def families() -> list[Metric]:
    return list(Metrics().registry.collect())


def test_every_metric_is_declared_once_with_help(families: list[Metric]) -> None:
    names = [family.name for family in families]
    assert len(names) == len(set(names)) > 150
    for family in families:
        assert len(family.documentation) > 9, family.name
        assert family.name in OTHERS or re.fullmatch(r"[a-z][a-z0-9_]*", family.name)


def test_no_label_names_what_anybody_can_make() -> None:
    for collector, names in Metrics().registry._collector_to_names.items():
        labels = getattr(collector, "_labelnames", None) or getattr(collector, "_labels", ())
        assert not IDENTITIES & set(labels or ()), names


def test_requests_of_the_kubernetes_api_have_the_labels_that_its_users_know() -> None:
    assert set(REQUEST) >= {"verb", "group", "version", "resource", "subresource", "scope"}


def test_times_and_sizes_say_their_unit(families: list[Metric]) -> None:
    for family in families:
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_bytes")), family.name
