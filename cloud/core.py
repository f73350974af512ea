"""Builds CloudCore: the one place that knows how its rooms fit together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cloud.acceptance import Acceptance
from cloud.access import Access
from cloud.admission import Admission
from cloud.applications import build_applications
from cloud.authorizer import Authorizer, NodeRights
from cloud.bases import Bases
from cloud.catalog import Catalog
from cloud.delivery import Delivery
from cloud.devicecontroller import DeviceController
from cloud.devicethings import Policies, ThingSignals
from cloud.discoveries import Discoveries
from cloud.edgeapps import build_apps
from cloud.edgecontroller import EdgeController
from cloud.edgespans import EdgeSpanRoom
from cloud.events import EventRecorder
from cloud.facts import CloudFacts
from cloud.hub import CloudHub
from cloud.identity import Identity
from cloud.joining import JoinServer
from cloud.kubelets import EdgeKubelets
from cloud.leadership import LeaseLeadership
from cloud.nodeasks import NodeAsks
from cloud.nodebook import NodeBook
from cloud.nodemeters import NodeMeters
from cloud.nodepods import NodePods
from cloud.nodes import NodeWatch
from cloud.nodeusage import NodeUsages
from cloud.peers import Peers
from cloud.podobjects import build_pod_objects
from cloud.podstatus import PodReports
from cloud.presence import Presence
from cloud.reports import Reports
from cloud.router import build_router
from cloud.streamport import StreamPort
from cloud.streams import Tunnels
from cloud.streamserver import StreamServer
from cloud.syncbook import SyncBook
from cloud.tasks import NodeTasks, build_tasks
from cloud.thingsource import build_remote
from cloud.topology import NodeTopology
from cloud.tunnelplaces import TunnelPlaces
from cloud.upstream import Sequences, Upstream
from cloud.webhook import AdmissionServer
from gateway.config.tree import Settings
from gateway.hono.traffic import Traffic
from gateway.kube.client import KubeClient
from gateway.kube.hooks import Hooks
from gateway.kube.kubelets import Kubelets
from gateway.kube.usage import Usage
from gateway.model.ports import Downstream, Ingress, Things
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Module
from gateway.store.database import Database

MANAGER = "twinspan-cloudcore"
DEVICE_MANAGER = "twinspan-devicecontroller"


class ProcessParts(Protocol):
    """What every core of one process has in common (`gateway.core.Shared`)."""

    @property
    def settings(self) -> Settings: ...
    @property
    def endpoints(self) -> Endpoints: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def tracer(self) -> Tracer: ...


class ThingsAndSignals(Things, ThingSignals, Protocol):
    """The things service as CloudCore uses it."""


class GatewayParts(Protocol):
    """The gateway's ports that CloudCore uses (`gateway.core.Gateway`)."""

    @property
    def database(self) -> Database: ...
    @property
    def things(self) -> ThingsAndSignals: ...
    @property
    def policies(self) -> Policies: ...
    @property
    def messaging(self) -> Downstream: ...
    @property
    def ingress(self) -> Ingress: ...
    @property
    def traffic(self) -> Traffic: ...


class Clients(Protocol):
    """Where clients of the Kubernetes API come from (`gateway.kube.module.KubeApi`)."""

    def client(self, manager: str) -> KubeClient: ...
    @property
    def hooks(self) -> Hooks: ...
    def reach(self, way: Callable[[Kubelets], Kubelets]) -> None: ...
    def measure(self, usage: Usage, /) -> bool: ...


def build_cloud(
    process: ProcessParts,
    gateway: GatewayParts,
    kube: Clients,
    show: Callable[[CloudFacts], None] | None = None,
) -> list[Module]:
    """Build CloudCore's modules in starting order; the gateway's and the API's stand before them.

    Shape:  `show` is handed what CloudCore knows, where somebody wants to look at it.
    """
    cluster = kube.client(MANAGER)
    Admission(cluster).register(kube.hooks)
    settings, metrics, tracer = process.settings.cloud, process.metrics, process.tracer
    identity = Identity(cluster, settings, process.settings.data_dir)
    book = NodeBook(gateway.database, revokes=settings.hub.node_deletion_revokes)
    catalog = Catalog(cluster, default_tenant=settings.default_tenant, demo=process.settings.demo)
    hub = CloudHub(settings.hub, identity, book, process.endpoints, metrics)
    syncs = SyncBook(cluster)
    events = EventRecorder(cluster)
    delivery = Delivery(catalog, hub, syncs, tracer, settings.hub.sync_interval)
    elsewhere = build_remote(process.settings.ditto, metrics)
    leadership = LeaseLeadership(
        cluster, process.settings.data_dir / "cloud", settings.leader.lease_seconds
    )
    controller = DeviceController(
        kube=kube.client(DEVICE_MANAGER),
        things=elsewhere.things if elsewhere else gateway.things,
        policies=elsewhere.policies if elsewhere else gateway.policies,
        signals=elsewhere.signals if elsewhere else gateway.things,
        catalog=catalog,
        bases=Bases(gateway.database),
        delivery=delivery,
        events=events,
        metrics=metrics,
        tracer=tracer,
        operators=process.settings.ditto.devices.subjects
        or (("nginx:ditto",) if process.settings.demo else ()),
        is_guarded=elsewhere is None,
        leadership=leadership,
    )
    reports = Reports(
        kube=kube.client(DEVICE_MANAGER),
        catalog=catalog,
        controller=controller,
        events=events,
        metrics=metrics,
        tracer=tracer,
        things_may_lag=elsewhere is not None,
        leadership=leadership,
    )
    if elsewhere is not None:
        elsewhere.serve(controller, reports)
    reports.attach(hub)
    sequences = Sequences(gateway.database)
    upstream = Upstream(
        catalog=catalog,
        ingress=gateway.ingress,
        downstream=gateway.messaging,
        sequences=sequences,
        metrics=metrics,
        tracer=tracer,
        traffic=gateway.traffic,
    )
    upstream.attach(hub)
    address = settings.advertise[0] if settings.advertise else "127.0.0.1"
    place = StreamPort(cluster, address, has_streams=settings.stream.enabled)
    peers = Peers(catalog, place)
    pods, presence = NodePods(cluster), Presence(cluster, place, hub.store_of)
    pod_objects = build_pod_objects(cluster, pods, catalog, hub, delivery, syncs)
    hub.add_listener(presence)
    NodeMeters(hub, book, metrics)
    metrics.health.watch_certificate("cloudhub", lambda: identity.server.ends_at)
    metrics.health.watch_certificate("cloudhub-ca", lambda: identity.ca.ends_at)
    hub.told_store = catalog.store_of
    if show is not None:
        show(CloudFacts(hub, book, catalog))
    asks = NodeAsks(cluster, pods, settings.hub.authorization)
    pod_reports = PodReports(cluster, delivery)
    EdgeController(cluster, identity, tracer, place, pod_reports, asks).attach(hub)
    authorizer = Authorizer(settings.hub.authorization, cluster, NodeRights(pods, catalog))
    topology = NodeTopology(cluster, catalog)
    watches = build_applications(
        cluster, authorizer, hub, topology, settings.dynamic, metrics, tracer
    )
    delivery.is_shown = watches.shows
    apps = build_apps(cluster, catalog, pods, events, leadership)
    access = Access(cluster, pods, syncs, delivery, leadership)
    discoveries = Discoveries(cluster, catalog, leadership, metrics.mappers)
    discoveries.attach(hub)
    EdgeSpanRoom(tracer, metrics).attach(hub)
    acceptance = Acceptance(kube.client(DEVICE_MANAGER), catalog, discoveries, leadership)
    router = build_router(settings.router, cluster, hub, events, metrics, peers, process.endpoints)
    nodes = NodeWatch(catalog, hub, book, syncs, metrics, settings.hub)
    tasks = (
        NodeTasks(cluster, hub, catalog.nodes, leadership, metrics, address)
        if settings.tasks.enabled
        else None
    )
    if tasks is not None:
        asks.allow(tasks.needs)
    joining = JoinServer(
        settings.hub, identity, book, cluster, process.endpoints, metrics, hub, tasks
    )
    return [
        identity,
        *syncs.modules,
        syncs,
        *catalog.modules,
        *pod_objects,
        *topology.modules,
        nodes,
        events,
        sequences,
        leadership,
        *([elsewhere] if elsewhere else []),
        controller,
        delivery,
        place,
        presence,
        watches,
        access,
        discoveries,
        acceptance,
        *router,
        *apps,
        *build_tasks(tasks),
        hub,
        joining,
        *_webhook(process, identity, kube.hooks),
        *_streams(process, identity, book, kube, peers, pods),
    ]


def _webhook(process: ProcessParts, identity: Identity, hooks: Hooks) -> list[Module]:
    """Return the admission webhook's listener, none where it is switched off."""
    settings = process.settings.cloud.admission
    if not settings.enabled:
        return []
    return [AdmissionServer(settings, identity, hooks, process.endpoints)]


def _streams(
    process: ProcessParts,
    identity: Identity,
    book: NodeBook,
    kube: Clients,
    peers: Peers,
    pods: NodePods,
) -> list[Module]:
    """Return the stream tunnels and the listener for API servers, none where they are switched off."""
    settings, metrics = process.settings.cloud.stream, process.metrics
    if not settings.enabled:
        return []
    tunnels = Tunnels(settings, identity, book, process.endpoints, metrics)
    kube.reach(lambda others: EdgeKubelets(tunnels, others))
    places = TunnelPlaces(kube.client(MANAGER), peers, tunnels)
    server = StreamServer(settings, identity, tunnels, peers, pods, process.endpoints, metrics)
    usages = NodeUsages(tunnels, settings.usage_interval)
    measures = settings.usage_interval > 0 and kube.measure(usages)
    return [places, tunnels, server, *([usages] if measures else [])]
