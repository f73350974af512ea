"""Writes docs/metrics.md from the registry: every metric, what it means, its labels and unit.

`scripts/metrics_doc.py` writes the file, `--check` says whether it is up to date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gateway.observe.metrics import Metrics  # noqa: E402  the tree's own, wherever this is run

FILE = ROOT / "docs" / "metrics.md"
HEAD = """# Metrics

Written by `scripts/metrics_doc.py` from the registry: do not edit. What to do with them is in
[observability.md](observability.md).

One process has one registry and one `/metrics` (port 8088, alias `/prometheus`); EdgeCore has its own.
Metrics of parts that a process does not run have no samples. Counters end with `_total`, histograms have
`_bucket`, `_sum` and `_count`. Values of `tenant`, `node`, `store`, `resource` come from what an operator
made; all other labels have closed sets. Families of Hono carry `host`, `component_type` and
`component_name` too.
"""
UNITS = ("seconds", "bytes", "celsius", "ratio")
PARTS = (
    ("Messaging, under Hono's names", ("hono_",)),
    ("Twins, under Ditto's names", ("roundtrip_", "live_", "sudo_", "streaming_")),
    ("Embedded Kubernetes API, under its names", ("apiserver_",)),
    (
        "Cloud side of edge nodes",
        (
            "twinspan_cloud",
            "KubeEdge_",
            "twinspan_device",
            "twinspan_edge_reports_",
            "twinspan_edge_uploads",
            "twinspan_edge_certificates",
            "twinspan_remote_things",
        ),
    ),
    ("Edge nodes and mappers", ("twinspan_edge",)),
    (
        "Process",
        (
            "process_",
            "python_",
            "jvm_",
            "system_",
            "logback_",
            "twinspan_event_loop",
            "twinspan_module",
            "twinspan_build",
            "twinspan_worker",
            "twinspan_queue",
            "twinspan_otlp",
            "twinspan_store",
        ),
    ),
    ("Everything else of Twinspan", ("",)),
)
SPECIAL_LABELS = {
    "python_gc_objects_collected": ("generation",),
    "python_gc_objects_uncollectable": ("generation",),
    "python_gc_collections": ("generation",),
    "logback_events": ("level",),
    "streaming_messages": ("type", "direction"),
}
"""Labels of families whose collectors do not tell theirs."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    text: str


def rows() -> Iterator[Row]:
    """Every family of a fresh registry."""
    metrics = Metrics()
    labels = dict(_labels(metrics))
    for family in metrics.registry.collect():
        name = family.name
        shown = f"{name}_total" if family.type == "counter" else name
        unit = next((unit for unit in UNITS if name.endswith(f"_{unit}")), "")
        own = labels.get(name, SPECIAL_LABELS.get(name, ()))
        yield Row(shown, family.type, unit, own, family.documentation)


def _labels(metrics: Metrics) -> Iterator[tuple[str, tuple[str, ...]]]:
    collectors: dict[Any, list[str]] = metrics.registry._collector_to_names
    for collector, names in collectors.items():
        found = getattr(collector, "_labelnames", None) or getattr(collector, "_labels", ())
        yield from ((name, tuple(found)) for name in names if found and isinstance(found, tuple))


def text() -> str:
    """The whole document."""
    left = sorted(rows(), key=lambda row: row.name)
    lines = [HEAD]
    for title, prefixes in PARTS:
        part = [row for row in left if row.name.startswith(prefixes)]
        left = [row for row in left if row not in part]
        lines += [
            f"## {title}",
            "",
            "| metric | kind | unit | labels | meaning |",
            "|---|---|---|---|---|",
        ]
        lines += [_line(row) for row in part]
        lines.append("")
    return "\n".join(lines)


def _line(row: Row) -> str:
    labels = ", ".join(f"`{label}`" for label in row.labels)
    meaning = row.text.replace("|", "\\|")
    return f"| `{row.name}` | {row.kind} | {row.unit} | {labels} | {meaning} |"


def main() -> None:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    wanted = text()
    if not parser.parse_args().check:
        FILE.write_text(wanted)
    elif not FILE.exists() or FILE.read_text() != wanted:
        sys.exit("docs/metrics.md is out of date: run scripts/metrics_doc.py")


if __name__ == "__main__":
    main()
