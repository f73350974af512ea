"""Puts the console together: its parts as the process has them, its routes, its module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from aiohttp import web

from gateway.config.tree import Settings
from gateway.console.discovered_http import DiscoveredRoutes, discovered_row
from gateway.console.events_http import EventRoutes
from gateway.console.fleet import is_ready
from gateway.console.fleet_http import FleetRoutes
from gateway.console.guard import PREFIX, Call, Guard, Handler, RawHandler, missing, table
from gateway.console.mirrors import CloudFacts, Mirrors
from gateway.console.overview_http import Overview
from gateway.console.plots_http import PlotRoutes
from gateway.console.prometheus import Prometheus
from gateway.console.sampler import Sampler
from gateway.console.session_http import SessionRoutes
from gateway.console.sessions import Sessions
from gateway.console.static import Page
from gateway.console.streams import Streams
from gateway.console.tail_http import TailRoutes
from gateway.console.workloads_http import WorkloadRoutes
from gateway.ditto.auth import Authentication
from gateway.ditto.fresh import Fresh
from gateway.ditto.service import PoliciesService
from gateway.errors import NotFound
from gateway.hono.registry import Registry
from gateway.hono.registry_http import RegistryServer
from gateway.hono.stored_commands import StoredCommands
from gateway.hono.traffic import Traffic
from gateway.kube.client import KubeClient
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Module, Readiness

MANAGER: Final = "twinspan-console"
REGISTRY: Final = f"{PREFIX}/registry"
Paths: TypeAlias = "dict[str, Mapping[str, RawHandler]]"


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
    def pod_log(
        self, namespace: str, name: str, query: Mapping[str, str]
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


class Cloud(CloudFacts, Protocol):
    """What CloudCore knows (`cloud.facts.CloudFacts`); it tells of links."""

    on_link: Callable[[str], None]


class GatewayParts(Protocol):
    """The gateway's rooms that are shown (`gateway.core.Gateway`)."""

    @property
    def registry(self) -> Registry: ...
    @property
    def policies(self) -> PoliciesService: ...
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
        self._cloud: Cloud | None = None
        self._cluster: Cluster | None = None
        self.mirrors: Mirrors | None = None
        self._sampler = Sampler(process.metrics.registry)
        self._things: Fresh[int] | None = None

    @property
    def modules(self) -> list[Module]:
        """In starting order; after all that the console shows."""
        return [*([self.mirrors] if self.mirrors else []), self._sampler, self]

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            ready()
            await asyncio.Event().wait()
        finally:
            self.streams.close()

    def show_cloud(self, cloud: Cloud) -> None:
        """Show what CloudCore knows beside the API; before `show_cluster`."""
        self._cloud = cloud

    def show_cluster(self, cluster: Cluster) -> None:
        """Show what a Kubernetes API holds; before it runs."""
        self._cluster = cluster
        self.mirrors = Mirrors(cluster.client(MANAGER), self._cloud, discovered_row)
        if self._cloud is not None:
            self._cloud.on_link = self.mirrors.link_changed

    def routes(self, auth: Authentication, gateway: GatewayParts) -> list[web.RouteDef]:
        """All routes, for the server of Ditto's port."""
        self._things = Fresh(gateway.policies.store.total)
        process, guard = self._process, self._guard
        login = SessionRoutes(self.sessions, self._settings, auth.is_right, auth.throttle)
        overview = Overview(
            process.settings, process.readiness, process.endpoints, self.parts, self._counts
        )
        paths = {
            "session": login.ways(guard.anyone),
            "overview": {"GET": guard.user(overview.show)},
            **self._gateway_paths(gateway),
            **self._cluster_paths(),
            **self._plot_paths(),
        }
        return [*table(paths), *Page().routes()]

    def parts(self) -> Mapping[str, bool]:
        """What this process has, for the page to show."""
        has_cluster = self._cluster is not None
        return {
            "things": True,
            "registry": True,
            "tail": True,
            "plots": True,
            "kube": has_cluster,
            "logs": has_cluster,
            "hub": self._cloud is not None,
            "discovered": has_cluster,
        }

    # --- routes of the rooms ------------------------------------------------------------------------

    def _gateway_paths(self, gateway: GatewayParts) -> Paths:
        operator = self._guard.operator
        tail = TailRoutes(gateway.traffic, gateway.registry, self.streams)
        process = self._process
        server = RegistryServer(
            gateway.registry,
            process.settings.hono.registry,
            None,  # who asks is an operator already
            process.metrics,
            process.tracer,
            gateway.traffic,
            gateway.stored_commands,
            prefix=REGISTRY,
        )

        async def registry(call: Call) -> web.StreamResponse:
            if call.request.path.startswith(f"{REGISTRY}/v1/traffic"):
                raise NotFound("Messages are told by 'tail'.", code="console:path.unknown")
            return await server.answer(call.request)

        return {
            "tail": {"GET": operator(tail.stream)},
            "tenants": {"GET": operator(tail.tenants)},
            "registry/{rest:(?s:.*)}": {"*": operator(registry)},
        }

    def _plot_paths(self) -> Paths:
        url = self._settings.prometheus
        plots = PlotRoutes(self._sampler, Prometheus(url) if url else None)
        operator = self._guard.operator
        return {
            "plots": {"GET": operator(plots.list)},
            "plots/{id}": {"GET": operator(plots.show)},
        }

    def _cluster_paths(self) -> Paths:
        """Routes that find their rooms when they are asked: the cluster is shown after they are made."""

        def late(pick: Callable[[ClusterRooms], Handler]) -> RawHandler:
            async def handle(call: Call) -> web.StreamResponse:
                return await pick(self._rooms())(call)

            return self._guard.operator(handle)

        device = "{namespace}/{name}"
        return {
            "nodes": {"GET": late(lambda rooms: rooms.fleet.nodes)},
            "nodes/{name}": {"GET": late(lambda rooms: rooms.fleet.node)},
            "devices": {"GET": late(lambda rooms: rooms.fleet.devices)},
            f"devices/{device}": {"GET": late(lambda rooms: rooms.fleet.device)},
            f"devices/{device}/desired/{{property}}": {"PUT": late(lambda rooms: rooms.fleet.wish)},
            "discovered": {"GET": late(lambda rooms: rooms.discovered.list)},
            "discovered/{name}/accept": {"POST": late(lambda rooms: rooms.discovered.accept)},
            "models": {"GET": late(lambda rooms: rooms.fleet.models)},
            "events": {"GET": late(lambda rooms: rooms.events.stream)},
            "workloads": {"GET": late(lambda rooms: rooms.workloads.everything)},
            "namespaces": {"GET": late(lambda rooms: rooms.workloads.namespaces)},
            "workloads/{namespace}/{kind}/{name}/scale": {
                "POST": late(lambda rooms: rooms.workloads.scale)
            },
            "workloads/{namespace}/{kind}/{name}/restart": {
                "POST": late(lambda rooms: rooms.workloads.restart)
            },
            f"pods/{device}": {"DELETE": late(lambda rooms: rooms.workloads.delete_pod)},
            f"pods/{device}/log": {"GET": late(lambda rooms: rooms.workloads.log)},
        }

    def _rooms(self) -> ClusterRooms:
        """Errors: NotBuilt where this process has no cluster."""
        if self._cluster is None or self.mirrors is None:
            raise missing("kube", "this process runs the gateway alone")
        kube, mirrors = self._cluster.client(MANAGER), self.mirrors
        return ClusterRooms(
            FleetRoutes(kube, mirrors, self._cloud),
            EventRoutes(mirrors, self.streams),
            WorkloadRoutes(kube, mirrors, self._cluster, self.streams),
            DiscoveredRoutes(kube, mirrors),
        )

    async def _counts(self) -> Mapping[str, int]:
        """How much there is of what operators see."""
        found: dict[str, int] = {}
        mirrors = self.mirrors
        if self._things is not None:
            tenants = self._process.metrics.registry.get_sample_value("hono_tenants_total")
            found |= {"things": await self._things.get(), "tenants": int(tenants or 0)}
        if mirrors is not None:
            await mirrors.known()
            nodes = mirrors.nodes.objects.values()
            found |= {
                "nodes": len(nodes),
                "nodes_ready": sum(is_ready(each) for each in nodes),
                "devices": len(mirrors.index.devices),
                "devices_online": mirrors.index.online(mirrors.index.order),
                "pods": len(mirrors.pods.objects),
                "discovered": len(mirrors.discovered.objects),
            }
        return found


@dataclass(frozen=True, slots=True)
class ClusterRooms:
    """The handlers that need a cluster."""

    fleet: FleetRoutes
    events: EventRoutes
    workloads: WorkloadRoutes
    discovered: DiscoveredRoutes
