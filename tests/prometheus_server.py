"""A real Prometheus that scrapes a running Twinspan."""

from __future__ import annotations

import json
import math
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.edge_walk import free_port
from tests.process import tool
from tests.walk import Walk, curl, lines_of


@contextmanager
def prometheus(walk: Walk, folder: Path) -> Iterator[str]:
    """Debian's Prometheus, scraping this Twinspan; its base URL."""
    settings = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms"},
        "scrape_configs": [
            {
                "job_name": "twinspan",
                "static_configs": [{"targets": [walk.running.endpoints["ops.http"]]}],
            }
        ],
    }
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(settings))
    address = f"127.0.0.1:{free_port()}"
    command = (
        tool("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
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
