"""A real Prometheus that scrapes a running Twinspan."""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.process import tool
from tests.walk import Walk, curl, lines_of


@contextmanager
def prometheus(walk: Walk, folder: Path, *options: str) -> Iterator[str]:
    """Debian's Prometheus, scraping this Twinspan; its base URL."""
    scraped = {"targets": [walk.running.endpoints["ops.http"]]}
    settings = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms"},
        "scrape_configs": [{"job_name": "twinspan", "static_configs": [scraped]}],
    }
    with prometheus_with(settings, folder, *options) as base:
        yield base


@contextmanager
def prometheus_with(settings: Mapping[str, Any], folder: Path, *options: str) -> Iterator[str]:
    """Debian's Prometheus with settings of the test's own; its base URL."""
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(settings))
    address = f"127.0.0.1:{free_port()}"
    command = (
        tool("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
        *options,
    )
    with lines_of(*command) as lines:
        lines.until("Server is ready")
        yield f"http://{address}"


def ask(base: str, query: str) -> list[Any]:
    """The samples that a query gives, without those that are no number."""
    text = urllib.parse.urlencode({"query": query})
    answer = curl("GET", f"{base}/api/v1/query?{text}").json
    assert answer["status"] == "success", (query, answer)
    return [s for s in answer["data"]["result"] if not math.isnan(float(s["value"][1]))]


def ask_range(base: str, query: str, start: float, end: float, step: float = 1.0) -> list[Any]:
    """The series that a query gives in a time, each with those of its values that are numbers."""
    asked = {"query": query, "start": start, "end": end, "step": step}
    url = f"{base}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
    with urllib.request.urlopen(url, timeout=30) as reply:
        answer = json.load(reply)
    assert answer["status"] == "success", (query, answer)
    found = []
    for series in answer["data"]["result"]:
        values = [[at, value] for at, value in series["values"] if not math.isnan(float(value))]
        if values:
            found.append({**series, "values": values})
    return found
