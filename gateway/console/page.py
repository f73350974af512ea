"""Puts the console together: its parts as the process has them, its routes, its module."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from aiohttp import web

from gateway.config.tree import Settings
from gateway.console.guard import Guard, table
from gateway.console.overview_http import Overview
from gateway.console.session_http import SessionRoutes
from gateway.console.sessions import Sessions
from gateway.console.static import Page
from gateway.console.streams import Streams
from gateway.ditto.auth import Authentication
from gateway.ditto.service import ThingsService
from gateway.hono.registry import Registry
from gateway.hono.stored_commands import StoredCommands
from gateway.hono.traffic import Traffic
from gateway.kube.client import KubeClient
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Module, Readiness


class ProcessParts(Protocol):
    """What every core of one process has in common (`gateway.cli.serving.Process`)."""

    @property
    def settings(self) -> Settings: ...
    @property
    def readiness(self) -> Readiness: ...
    @property
    def endpoints(self) -> Endpoints: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def tracer(self) -> Tracer: ...


class Cluster(Protocol):
    """The embedded API or a cluster (`gateway.kube.module.KubeApi`)."""

    def client(self, manager: str) -> KubeClient: ...


class GatewayParts(Protocol):
    """The gateway's rooms that are shown (`gateway.core.Gateway`)."""

    @property
    def registry(self) -> Registry: ...
    @property
    def things(self) -> ThingsService: ...
    @property
    def traffic(self) -> Traffic: ...
    @property
    def stored_commands(self) -> StoredCommands: ...


class Console:
    """The console of one process. Rooms that it shows are handed to it before it runs.

    Shape:  also the module that ends its streams before the port closes.
    """

    name = "console"

    def __init__(self, process: ProcessParts) -> None:
        self._process = process
        self._settings = process.settings.console
        self.sessions = Sessions(self._settings)
        self.streams = Streams(self._settings.max_streams, self.sessions)
        self._guard = Guard(self.sessions)
        self._kube: Cluster | None = None

    @property
    def modules(self) -> list[Module]:
        """In starting order; after all that the console shows."""
        return [self]

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            ready()
            await asyncio.Event().wait()
        finally:
            self.streams.close()

    def show_cluster(self, kube: Cluster) -> None:
        """Show what a Kubernetes API holds; before it runs."""
        self._kube = kube

    def routes(self, auth: Authentication, gateway: GatewayParts) -> list[web.RouteDef]:
        """All routes, for the server of Ditto's port."""
        process, guard = self._process, self._guard
        login = SessionRoutes(self.sessions, self._settings, auth.is_right)
        overview = Overview(
            process.settings, process.readiness, process.endpoints, self.parts, self._counts
        )
        paths = {
            "session": login.ways(guard.anyone),
            "overview": {"GET": guard.user(overview.show)},
        }
        return [*table(paths), *Page().routes()]

    def parts(self) -> Mapping[str, bool]:
        """What this process has, for the page to show."""
        return {"things": True}

    def _counts(self) -> Mapping[str, int]:
        return {}
