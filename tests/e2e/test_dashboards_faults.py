"""Panels that are empty until something fails or is in use give data once their metrics count."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dashboards.source.boards import BOARDS
from tests.process import eventually
from tests.prometheus_server import ask_range, prometheus_with
from tests.promql import Selector, asked, filled
from tests.unit.test_dashboards import KNOWN, TARGET

pytestmark = pytest.mark.e2e

GRAFANA = {"__rate_interval": "5s", "__range": "30s"}
SECONDS = 30.0
MARKED = [
    (f"{board.name}: {panel.title}", filled(expr, GRAFANA))
    for board in BOARDS
    for panel in board.panels
    for expr, _ in panel.series
    if panel.quiet or panel.needs
]


def samples(selector: Selector, count: int) -> Iterator[str]:
    """Series that the matchers choose, with every declared label: one at 0, one that grows."""
    labels = dict.fromkeys(KNOWN[selector.metric] - TARGET - {"le"}, "x")
    for label, operator, value in selector.matchers:
        if operator in ("Equal", "Re") and value != ".*":
            labels[label] = value.partition("|")[0]
    labels = {label: value for label, value in labels.items() if label not in TARGET}
    bounds: tuple[str, ...] = ("0.1", "1", "+Inf") if selector.metric.endswith("_bucket") else ("",)
    for series, number in (("zero", 0), ("grows", count)):
        for bound in bounds:
            shown = {**labels, "series": series, **({"le": bound} if bound else {})}
            text = ",".join(f'{label}="{each}"' for label, each in sorted(shown.items()))
            yield f"{selector.metric}{{{text}}} {number}"


def exposition(count: int) -> str:
    lines = {
        line: None
        for _, expr in MARKED
        for selector in asked(expr).selectors
        if selector.metric != "up"
        for line in samples(selector, count)
    }
    return "\n".join(lines) + "\n"


@contextmanager
def exporter() -> Iterator[str]:
    """Serve what counts on at each scrape."""
    count = iter(range(1, 1_000_000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exposition(next(count)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_every_marked_panel_shows_what_it_waits_for(tmp_path: Path) -> None:
    assert len(MARKED) > 30
    with exporter() as address:
        target = {"targets": [address], "labels": {"node": "edge-1"}}
        settings = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
            "scrape_configs": [{"job_name": "twinspan", "static_configs": [target]}],
        }
        with prometheus_with(settings, tmp_path) as base:
            began = time.time()

            def empty() -> list[str]:
                return [
                    f"{name}: {expr}"
                    for name, expr in MARKED
                    if not ask_range(base, expr, began, time.time())
                ]

            eventually(
                lambda: not empty(), seconds=SECONDS, every=1.0, what="data in every marked panel"
            )
            assert not ask_range(base, "twinspan_no_such_metric", began, time.time())
