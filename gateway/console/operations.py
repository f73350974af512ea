"""The operations port: `/metrics`, `/liveness`, `/readiness`, `/traces`, and what a process adds (`/edge`).

Shapes follow Hono's health endpoints (MicroProfile Health):
`{"status": "UP", "checks": [{"name", "status"}]}`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping

from gateway.config.observe import OpsHttp
from gateway.console.trace_documents import TraceDocuments
from gateway.model.json import JsonObject
from gateway.observe.metrics import OPENMETRICS, TEXT, Metrics
from gateway.observe.recent import RecentTraces
from gateway.observe.scrape import scraped
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Readiness
from gateway.runtime.small_http import Document, Headers, Reply, serve_documents


class Operations:
    """Module: serves the operations port for the whole process."""

    name = "operations"

    def __init__(
        self,
        settings: OpsHttp,
        endpoints: Endpoints,
        metrics: Metrics,
        readiness: Readiness,
        more: Mapping[str, Callable[[], JsonObject | Reply]] | None = None,
        traces: RecentTraces | None = None,
    ) -> None:
        """`more` are documents of the process by path; read when the module runs."""
        self._more = {} if more is None else more
        self._settings = settings
        self._endpoints = endpoints
        self._metrics = metrics
        self._readiness = readiness
        self._scraping = asyncio.Lock()
        self._documents: dict[str, Document] = {
            "/metrics": self._scrape,
            "/prometheus": self._scrape,
            "/liveness": self._live,
            "/readiness": self._ready,
            "/started": self._ready,
        }
        if traces is not None:
            self._documents |= TraceDocuments(traces, for_all=settings.traces_for_all).by_path()

    async def run(self, ready: Callable[[], None]) -> None:
        more = {path: _document(make) for path, make in self._more.items()}
        async with serve_documents(
            self._endpoints,
            "ops.http",
            self._settings.bind,
            self._documents | more,
            setting="observe.http.bind",
        ):
            ready()
            await asyncio.Event().wait()

    async def _scrape(self, headers: Headers) -> Reply:
        openmetrics = "application/openmetrics-text" in headers.get("accept", "")
        async with self._scraping:  # many who scrape at once take turns
            body = await scraped(self._metrics, openmetrics=openmetrics)
        return Reply(body, OPENMETRICS if openmetrics else TEXT)

    def _live(self, _headers: Headers) -> Reply:
        return _json({"status": "UP", "checks": []})

    def _ready(self, _headers: Headers) -> Reply:
        states = self._readiness.states
        up = all(states.values())
        checks = [self._check(name, is_up=is_up) for name, is_up in states.items()]
        return _json({"status": "UP" if up else "DOWN", "checks": checks}, 200 if up else 503)

    def _check(self, name: str, *, is_up: bool) -> Mapping[str, object]:
        check: dict[str, object] = {"name": name, "status": "UP" if is_up else "DOWN"}
        facts = self._readiness.facts(name)
        return check | {"data": dict(facts)} if facts else check


def _document(make: Callable[[], JsonObject | Reply]) -> Document:
    def document(_headers: Headers) -> Reply:
        made = make()
        return made if isinstance(made, Reply) else _json(made)

    return document


def _json(body: Mapping[str, object], status: int = 200) -> Reply:
    return Reply(json.dumps(body).encode(), status=status)
