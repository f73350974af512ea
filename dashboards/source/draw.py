"""Draws a dashboard's panels from a Prometheus as SVG, for an eye without Grafana.

    python -m dashboards.source.draw http://127.0.0.1:9090 overview START END > overview.svg

START and END are Unix seconds. It shows whether curves are there and told apart, not how Grafana draws them.
"""

from __future__ import annotations

import json
import math
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from html import escape
from typing import Any

from dashboards.source.boards import BOARDS
from dashboards.source.panels import Panel

CELL_WIDTH, CELL_HEIGHT, HEAD = 60, 30, 18
LEGENDS = 6
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
VALUES = {"__rate_interval": "10s", "__range": "1m"}

Curve = tuple[str, list[tuple[float, float]]]


def main() -> None:
    base, name, start, end = sys.argv[1:]
    board = next(each for each in BOARDS if each.name == name)
    x = y = row = 0
    parts = []
    for panel in board.panels:
        width, height = panel.size
        if x + width > 24:
            x, y, row = 0, y + row, 0
        curves = list(curves_of(base, panel, float(start), float(end)))
        parts.append(drawn(panel, curves, x * CELL_WIDTH, y * CELL_HEIGHT))
        x, row = x + width, max(row, height)
    size = f'width="{24 * CELL_WIDTH}" height="{(y + row) * CELL_HEIGHT}"'
    sys.stdout.write(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>\n')


def curves_of(base: str, panel: Panel, start: float, end: float) -> Iterator[Curve]:
    """Ask for each query of a panel; one curve for each series, with its legend filled in."""
    for expr, legend in panel.series:
        query = re.sub(r"\$(\w+)", lambda found: VALUES.get(found[1], ".*"), expr)
        asked = urllib.parse.urlencode({"query": query, "start": start, "end": end, "step": 1})
        with urllib.request.urlopen(f"{base}/api/v1/query_range?{asked}", timeout=30) as reply:  # noqa: S310
            answer = json.load(reply)
        for series in answer["data"]["result"]:
            yield told(legend, series["metric"]), numbers(series["values"])


def told(legend: str, labels: dict[str, str]) -> str:
    if legend:
        return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], "-"), legend)
    return " ".join(labels.values())


def numbers(values: list[Any]) -> list[tuple[float, float]]:
    found = ((float(at), float(value)) for at, value in values)
    return [(at, value) for at, value in found if math.isfinite(value)]


def drawn(panel: Panel, curves: list[Curve], left: float, top: float) -> str:
    """Return a panel: frame, title, curves, and the first legends with their last values."""
    width, height = panel.size[0] * CELL_WIDTH - 6, panel.size[1] * CELL_HEIGHT - 6
    points = [point for _, curve in curves for point in curve]
    text = f'<g transform="translate({left},{top})" font-family="sans-serif" font-size="11">'
    frame = f'<rect width="{width}" height="{height}" fill="#fff" stroke="#bbb"/>'
    title = f'<text x="6" y="13" font-weight="bold">{escape(panel.title)} [{panel.unit}]</text>'
    if not points:
        why = "quiet" if panel.quiet else "not in use" if panel.needs else "NO DATA"
        return f'{text}{frame}{title}<text x="6" y="40" fill="#888">{why}</text></g>'
    lows, highs = zip(*((min(axis), max(axis)) for axis in zip(*points, strict=True)), strict=True)
    body = "".join(
        f'<polyline fill="none" stroke="{COLORS[at % len(COLORS)]}" points="{line}"/>'
        for at, (_, curve) in enumerate(curves)
        for line in [" ".join(_at(p, lows, highs, width, height) for p in curve)]
    )
    legends = "".join(
        f'<text x="8" y="{30 + 12 * at}" fill="{COLORS[at]}">{escape(name)}: {curve[-1][1]:.4g}</text>'
        for at, (name, curve) in enumerate(each for each in curves[:LEGENDS] if each[1])
    )
    return f"{text}{frame}{title}{body}{legends}</g>"


def _at(
    point: tuple[float, float],
    lows: tuple[float, ...],
    highs: tuple[float, ...],
    width: float,
    height: float,
) -> str:
    across = (point[0] - lows[0]) / ((highs[0] - lows[0]) or 1)
    up = (point[1] - min(0.0, lows[1])) / ((highs[1] - min(0.0, lows[1])) or 1)
    return f"{across * width:.1f},{height - 2 - up * (height - HEAD - 4):.1f}"


if __name__ == "__main__":
    main()
