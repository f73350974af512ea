"""Dashboards: up to date, their PromQL is sound, and they ask only for metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from gateway.observe.metrics import Metrics

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "dashboards").glob("*.json"))
SUFFIXES = ("_total", "_count", "_sum", "_bucket", "_created")


def queries(dashboard: Any) -> list[str]:
    """Every PromQL expression, with Grafana's variables filled in."""
    found = [t["expr"] for p in dashboard["panels"] for t in p.get("targets", [])]
    return [q.replace("$__rate_interval", "1m").replace("$tenant", ".*") for q in found]


def known_metrics() -> set[str]:
    names = set()
    for family in Metrics().registry.collect():
        names.add(family.name)
        names.update(family.name + suffix for suffix in SUFFIXES)
    return names


def test_the_committed_dashboards_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/dashboards.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_query_parses_and_names_a_declared_metric(file: Path) -> None:
    known = known_metrics()
    asked = queries(json.loads(file.read_text()))
    assert len(asked) > 10
    for query in asked:
        promql_parser.parse(query)
        names = set(re.findall(r"\b((?:hono|twinspan|process)_[a-z0-9_]+)", query))
        assert names, query
        assert names <= known, f"{query}: {names - known} is not declared"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_panels_do_not_overlap(file: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(file.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
