"""Dashboards: what the code makes is committed, sound PromQL, and asks for what is exported."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.source.__main__ import stale
from dashboards.source.boards import BOARDS
from dashboards.source.panels import Board, Panel
from dashboards.source.unused import UNUSED
from gateway.observe.exposition import PREFIXES
from gateway.observe.metrics import Metrics
from tests.promql import asked, filled, variables_of

FOLDER = Path(__file__).parents[2] / "dashboards"
TARGET = frozenset({"instance", "job", "node"})
"""Labels that scrapes add."""
POD = frozenset({"namespace", "pod", "container", "id", "name", "image"})
SCRAPED = {
    "up": frozenset[str](),
    "container_cpu_usage_seconds_total": POD | {"cpu"},
    "container_memory_working_set_bytes": POD,
    "container_spec_memory_limit_bytes": POD,
    "container_start_time_seconds": POD,
    "container_processes": POD,
    "container_fs_usage_bytes": POD | {"device"},
    "container_oom_events_total": POD,
    "container_network_receive_bytes_total": POD | {"interface"},
    "container_network_transmit_bytes_total": POD | {"interface"},
    "prober_probe_total": POD | {"probe_type", "result", "pod_uid"},
}
"""What Prometheus and the kubelet's paths of edge nodes give, as e2e/test_dashboards_live.py proves."""
COMMON = frozenset({"host", "component_type", "component_name"})
SUFFIXES = ("_total", "_count", "_sum", "_bucket", "_max", "_created", "")

boards = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)


def labels_by_metric() -> dict[str, frozenset[str]]:
    """Every exported name of every sample, with the labels that it may have."""
    found: dict[str, frozenset[str]] = dict(SCRAPED)
    registry = Metrics().registry
    for collector, names in registry._collector_to_names.items():
        declared = frozenset(
            getattr(collector, "_labelnames", None) or getattr(collector, "_labels", None) or ()
        )
        for family in collector.collect():
            present = frozenset(label for sample in family.samples for label in sample.labels)
            common = COMMON if family.name.startswith(PREFIXES) else frozenset()
            for suffix in SUFFIXES:
                found[family.name + suffix] = declared | present | common | {"le"}
        assert names
    return found


KNOWN = labels_by_metric()


def families() -> set[str]:
    return {family.name for family in Metrics().registry.collect()}


def expressions(board: Board) -> list[tuple[Panel, str, str]]:
    return [(panel, expr, legend) for panel in board.panels for expr, legend in panel.series]


def rule_expressions() -> list[str]:
    found = []
    for file in sorted((FOLDER / "rules").glob("*.yaml")):
        groups = yaml.safe_load(file.read_text("utf-8"))["groups"]
        found += [rule["expr"] for group in groups for rule in group["rules"]]
    return found


def test_the_committed_files_are_what_the_code_makes() -> None:
    assert stale() == [], "run python -m dashboards.source"


@boards
def test_every_query_is_promql_and_asks_for_what_is_exported(board: Board) -> None:
    for panel, expr, _ in expressions(board):
        for selector in asked(expr).selectors:
            assert selector.metric in KNOWN, f"{panel.title}: {selector.metric} is not exported"
            labels = {label for label, _, _ in selector.matchers}
            unknown = labels - KNOWN[selector.metric] - TARGET
            assert not unknown, f"{panel.title}: {selector.metric} has no {unknown}"


@boards
def test_aggregations_and_legends_name_labels_that_are_there(board: Board) -> None:
    for panel, expr, legend in expressions(board):
        found = asked(expr)
        there = TARGET.union(*(KNOWN[selector.metric] for selector in found.selectors))
        assert found.by <= there, f"{panel.title}: {found.by - there}"
        shown = set(re.findall(r"{{(\w+)}}", legend))
        assert shown <= (found.by or there), f"{panel.title}: legend {shown}"
        if found.by - {"le"} and panel.kind == "timeseries":
            assert shown, f"{panel.title}: curves that no legend tells apart"


@boards
def test_variables_in_queries_and_links_are_the_dashboard_s(board: Board) -> None:
    own = {variable.name for variable in board.variables}
    for panel, expr, _ in expressions(board):
        assert variables_of(expr) <= own, f"{panel.title}: {variables_of(expr) - own}"
        for link in panel.links:
            used = variables_of(link.query)
            assert used <= own, f"{panel.title}: {used - own}"


@boards
def test_links_lead_to_dashboards_and_set_variables_that_are_there(board: Board) -> None:
    by_uid = {each.uid: {v.name for v in each.variables} for each in BOARDS}
    for panel in board.panels:
        for link in panel.links:
            assert link.uid in by_uid, f"{panel.title} leads to {link.uid}"
            sets = set(re.findall(r"var-(\w+)=", link.query))
            passed = set(re.findall(r"\$\{(\w+):queryparam\}", link.query))
            assert sets | passed <= by_uid[link.uid], f"{panel.title} -> {link.uid}"


@boards
def test_every_panel_says_what_it_shows(board: Board) -> None:
    assert board.about
    for panel in board.panels:
        assert panel.about.endswith((".", "?")) or panel.quiet or panel.needs, panel.title
        assert len(panel.about) > 12, panel.title
        assert panel.unit
        assert panel.series
        assert panel.kind != "table" or panel.columns, panel.title


@boards
def test_ids_are_unique_and_panels_do_not_overlap(board: Board) -> None:
    panels = json.loads((FOLDER / f"{board.name}.json").read_text("utf-8"))["panels"]
    everyone = [*panels, *(inner for panel in panels for inner in panel.get("panels", ()))]
    (_, most), *_ = Counter(panel["id"] for panel in everyone).most_common()
    assert most == 1
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        cells = set(cells_of(panel["gridPos"]))
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def cells_of(place: Any) -> list[tuple[int, int]]:
    columns = range(place["x"], place["x"] + place["w"])
    rows = range(place["y"], place["y"] + place["h"])
    return [(x, y) for x in columns for y in rows]


def test_titles_of_a_dashboard_s_panels_are_unique() -> None:
    for board in BOARDS:
        titles = Counter(panel.title for panel in board.panels)
        assert titles.most_common(1)[0][1] == 1, titles.most_common(1)


def test_every_metric_is_shown_or_left_out_on_purpose() -> None:
    everything = [expr for board in BOARDS for _, expr, _ in expressions(board)]
    used = {
        selector.metric
        for expr in [*everything, *rule_expressions()]
        for selector in asked(expr).selectors
    }
    exported = {name.removesuffix("_max") for name in families()}
    shown = {name for name in exported if used & {name + suffix for suffix in SUFFIXES}}
    assert exported - shown - set(UNUSED) == set(), "in no dashboard, and not in unused.py"
    assert shown & set(UNUSED) == set(), "listed as unused and used"
    assert set(UNUSED) <= exported, "listed as unused and not there"


def test_there_are_no_nulls_but_first_thresholds() -> None:
    for file in FOLDER.glob("*.json"):
        lines = [
            line
            for line in file.read_text("utf-8").splitlines()
            if line.endswith(("null", "null,"))
        ]
        assert {line.strip() for line in lines} <= {'"value": null'}, file.name


def test_filling_in_leaves_no_variable() -> None:
    assert filled('x{a=~"$node"}[$__rate_interval]') == 'x{a=~".*"}[1m]'
    assert filled("$x", {"x": "1"}) == "1"
