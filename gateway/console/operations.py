"""The operations port: `/metrics`, `/liveness`, `/readiness`, `/started`.

Shapes follow Hono's health endpoints (MicroProfile Health):
`{"status": "UP", "checks": [{"name", "status"}]}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from gateway.config.observe import OpsHttp
from gateway.observe.metrics import OPENMETRICS, TEXT, Metrics
from gateway.runtime.listener import Endpoints, serve_app
from gateway.runtime.module import Readiness


class Operations:
    """Module: serves the operations port for the whole process."""

    name = "operations"

    def __init__(
        self, settings: OpsHttp, endpoints: Endpoints, metrics: Metrics, readiness: Readiness
    ) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._metrics = metrics
        self._readiness = readiness

    async def run(self, ready: Callable[[], None]) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._scrape),
                web.get("/prometheus", self._scrape),
                web.get("/liveness", self._live),
                web.get("/readiness", self._ready),
                web.get("/started", self._ready),
            ]
        )
        async with serve_app(
            self._endpoints, "ops.http", self._settings.bind, app, setting="observe.http.bind"
        ):
            ready()
            await asyncio.Event().wait()

    async def _scrape(self, request: web.Request) -> web.Response:
        if "application/openmetrics-text" in request.headers.get("Accept", ""):
            return web.Response(
                body=self._metrics.openmetrics(), headers={"Content-Type": OPENMETRICS}
            )
        return web.Response(body=self._metrics.text(), headers={"Content-Type": TEXT})

    async def _live(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "UP", "checks": []})

    async def _ready(self, _request: web.Request) -> web.Response:
        checks = [
            {"name": name, "status": "UP" if up else "DOWN"}
            for name, up in self._readiness.states.items()
        ]
        up = self._readiness.all_ready
        return web.json_response(
            {"status": "UP" if up else "DOWN", "checks": checks}, status=200 if up else 503
        )
