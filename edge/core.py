"""Builds EdgeCore: the list of modules that `twinspan up` and `twinspan edge run` hand to the same lifecycle.

Nothing heavy is imported here: a test holds the list of libraries that an edge agent must not load.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from edge.broker import Broker
from edge.devicerooms import DeviceRooms, Surroundings, build_device_rooms
from edge.devicetwin import DeviceTwin
from edge.discoverynews import DiscoveryNews
from edge.dmi import DmiServer
from edge.edgeapi import CloudOrDisk
from edge.enrolment import Enrolment, Ticket
from edge.eventbus import EventBus
from edge.external import ExternalBroker, check_mode
from edge.hub import EdgeHub, HubTarget, LinkListener
from edge.identity import FOLDER, Identity
from edge.kubeletaccess import KubeletToken, kubelet_of
from edge.machine import Machine, address_of
from edge.mappers.driver import DriverFactory
from edge.mappers.localtopics import LocalTopics
from edge.metamanager import MetaManager
from edge.metaserver import MetaParts, Rooms, build_metaserver
from edge.network.build import EdgeNetwork
from edge.network.services import Cloud
from edge.node import NodeAgent
from edge.podless import PodlessNode
from edge.pods.build import Ground, Pods, build_pods, endpoint_of
from edge.quarantine import counted
from edge.reports import Reports
from edge.rotation import Rotation, certificate_end
from edge.servicebus import ServiceBus
from edge.serviceentry import ServiceEntry
from edge.servicetargets import ServiceTargets
from edge.spannews import SpanNews
from edge.spool import Spool
from edge.spoolpump import SpoolPump
from edge.store import EdgeStore
from edge.stream import EdgeStream, TunnelTarget
from edge.taskmanager import TaskManager, build_tasks
from gateway.config.edge import Edge
from gateway.config.tree import Settings
from gateway.observe.metrics import Metrics
from gateway.observe.otlp_choices import is_on, resource
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints, parse_bind
from gateway.runtime.module import Module
from gateway.store.database import Database
from gateway.store.disk import Disk
from gateway.wire.cloudedge.names import check_node_name
from gateway.wire.cloudedge.routing import ServiceBusCall, ServiceBusTarget
from gateway.wire.cloudedge.to_edge import (
    AttributesChanged,
    BusCommand,
    MembershipChanged,
    ObjectChanged,
    TwinCommanded,
)

TUNNEL_ENDPOINT, TUNNEL_PORT = "tunnel.wss", 10004
"""CloudStream's listener for tunnels."""


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


@dataclass(frozen=True, slots=True)
class EdgeCore:
    """EdgeCore's modules in start order, and the rooms that others look into."""

    node_name: str
    modules: list[Module]
    hub: EdgeHub
    twin: DeviceTwin
    spool: Spool
    node: NodeAgent
    meta: MetaManager
    bus: EventBus
    targets: ServiceTargets
    broker: Broker | None
    external: ExternalBroker | None
    reports: Reports
    api: CloudOrDisk
    devices: DeviceRooms
    store: EdgeStore
    tasks: TaskManager
    pods: Pods | None = None
    """None on a node that runs none."""

    @property
    def dmi(self) -> DmiServer | None:
        return self.devices.dmi


def build_edge(
    process: ProcessParts,
    *,
    ticket: Ticket | None = None,
    server: Callable[[], str] | None = None,
    drivers: Mapping[str, DriverFactory] | None = None,
) -> EdgeCore:
    """Build EdgeCore.

    Shape:  `<data-dir>/edge` holds the identity from joining, and `edge.db`. In one process with its cloud,
            `ticket` makes the request to join and `server` tells CloudHub's `host:port`, both asked at
            run time. `drivers` replaces the mappers' drivers: protocol name -> factory.
    Errors: InvalidSetting when the node has not joined and there is no ticket; BadRequest for its name.
    """
    settings, data_dir = process.settings.edge, process.settings.data_dir
    metrics, tracer = process.metrics, process.tracer
    identity = Identity(data_dir)
    name = node_name(settings, identity, must_have_joined=ticket is None)
    (data_dir / FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
    disk = Disk(data_dir / FOLDER, settings.spool.min_free_bytes)
    store = EdgeStore(Database(data_dir / FOLDER / "edge.db", "edge"), disk, counted(metrics))
    store.database.commit_seconds = metrics.store_commit_seconds.labels("edge").observe
    metrics.store_queue.watch("edge", lambda: float(store.database.depth))
    metrics.own.watch_store(store.database)
    metrics.health.watch_disk("edge", data_dir / FOLDER)
    metrics.health.watch_certificate("edge", lambda: certificate_end(identity.certificate))
    hub = EdgeHub(settings.hub, lambda: _target(settings, identity, server, store), metrics)
    spool = Spool(store.database, settings.spool, metrics, disk)
    pump = SpoolPump(
        spool,
        hub,
        lambda: store.edge_id,
        window=settings.spool.window,
        metrics=metrics,
        tracer=tracer,
    )
    reports = Reports(store, hub, metrics)
    twin = DeviceTwin(name, store, hub, reports, metrics=metrics, tracer=tracer)
    meta = MetaManager(store, hub, twin)
    mode = check_mode(settings.mqtt.mode)
    broker = None if mode == "external" else Broker(settings.mqtt, process.endpoints, metrics)
    external = None if mode == "internal" else ExternalBroker(settings.mqtt, name, metrics)
    bus = EventBus(
        name,
        broker,
        twin,
        pump,
        hub,
        store,
        telemetry_map=settings.telemetry_map,
        tracer=tracer,
        remote=external,
    )
    topics = LocalTopics(bus.take, broker, external)
    brokers: list[Module] = []
    if broker is not None:
        broker.intercept = topics.take
        brokers.append(broker)
    if external is not None:
        external.take = topics.take
        brokers.append(external)
    devices = build_device_rooms(
        process,
        Surroundings(
            name,
            data_dir / FOLDER,
            twin,
            pump.submit,
            store,
            topics,
            broker,
            lambda: hub.is_connected,
        ),
        drivers,
    )
    machine = Machine(
        name,
        data_dir / FOLDER,
        settings.workloads.labels,
        address=lambda: address_of(hub.transport),
    )
    node = NodeAgent(machine, hub)
    for taker in (pump.take_answer, reports.take_answer, twin.membership.take_answer):
        hub.on_answer(taker)
    hub.on(ObjectChanged, meta.on_object)
    hub.on(MembershipChanged, twin.membership.on_membership)
    hub.on(AttributesChanged, twin.membership.on_attributes)
    hub.on(TwinCommanded, twin.on_twin_command)
    hub.on(BusCommand, bus.on_command)
    services = ServiceBus(settings.servicebus, hub, metrics)
    hub.on(ServiceBusCall, services.on_call)
    targets = ServiceTargets(store.database)
    hub.on(ServiceBusTarget, targets.on_target)
    entry = ServiceEntry(settings.servicebus, targets, hub, process.endpoints, metrics)
    api = CloudOrDisk(store, hub)
    endpoint = endpoint_of(settings.workloads)
    pods, network = None, None
    if endpoint is not None:
        network = EdgeNetwork(
            settings.network,
            settings.workloads,
            name,
            data_dir / FOLDER,
            process.endpoints,
            metrics,
        )
        ground = Ground(
            node=name,
            folder=data_dir / FOLDER,
            settings=settings.workloads,
            store=store,
            hub=hub,
            meta=meta,
            api=api,
            machine=machine,
            address=lambda: address_of(hub.transport),
            kick=node.kick,
            endpoints=process.endpoints,
            metrics=metrics,
            dns_servers=network.dns_servers,
            services=network.services,
        )
        pods = build_pods(ground, endpoint)
        hub.on_revoked(pods.revoked)
    podless = [PodlessNode(meta, api)] if pods is None else []
    seen = DiscoveryNews(devices.book, hub)
    spans = _span_news(process, hub, alone=server is None)
    listeners: list[LinkListener] = [reports, pump, twin.membership, node, seen, *podless, *spans]
    for listener in (*listeners, *(pods.listeners if pods is not None else [])):
        hub.on_link(listener)
    tasks = build_tasks(process, name, store, hub, api, pods.images if pods is not None else None)
    rooms = Rooms(
        name,
        identity.folder,
        store,
        hub,
        meta,
        twin,
        api,
        devices.methods,
        tasks.confirm,
        devices.processes.order,
    )
    metaserver = build_metaserver(settings.metaserver, process, rooms)
    enrolment = Enrolment(identity, name, ticket, settings.hub.https_server)
    modules: list[Module] = [
        store,
        enrolment,
        reports,
        pump,
        twin,
        bus,
        *brokers,
        *devices.modules,
        seen,
        *spans,
        services,
        tasks,
        entry,
        *podless,
        *_network(name, network, pods, metaserver),
        *(pods.modules if pods is not None else []),
        node,
        *(metaserver.modules if metaserver is not None else []),
        *_tunnel(process, identity, server),
        hub,
        Rotation(lambda: identity.certificate, enrolment.renew, hub.reconnect),
    ]
    return EdgeCore(
        name,
        modules,
        hub,
        twin,
        spool,
        node,
        meta,
        bus,
        targets,
        broker,
        external,
        reports,
        api,
        devices,
        store,
        tasks,
        pods,
    )


def _span_news(process: ProcessParts, hub: EdgeHub, *, alone: bool) -> list[SpanNews]:
    """Return what tells the cloud our spans: nothing where it has them already, or a collector gets them."""
    observe, settings = process.settings.observe, process.settings.edge.traces
    if not alone or not settings.over_hub or is_on(observe.traces.otlp, "traces", os.environ):
        return []
    who = resource(observe.resource, os.environ, {"service.name": "twinspan-edge"})
    return [SpanNews(settings, hub, process.tracer, process.metrics, who)]


def _network(
    node: str, network: EdgeNetwork | None, pods: Pods | None, metaserver: MetaParts | None
) -> list[Module]:
    """Return what gives Pods names and Services; nothing on a node that runs none."""
    if network is None or pods is None:
        return []
    cloud = None
    if metaserver is not None:
        cloud = Cloud(node, metaserver.records, metaserver.cloud)
    return network.modules(cloud, pods.view)


def node_name(settings: Edge, identity: Identity, *, must_have_joined: bool) -> str:
    """Return this node's name: as it joined, else as set, else the host's.

    Errors: InvalidSetting without a join where there must be one; BadRequest for a name that cannot be.
    """
    if must_have_joined:
        return identity.load().node
    return check_node_name(settings.node_name or socket.gethostname().lower())


def _target(
    settings: Edge, identity: Identity, server: Callable[[], str] | None, store: EdgeStore
) -> HubTarget:
    joined = identity.load()
    address = server() if server is not None else settings.hub.server or joined.server
    host, port = parse_bind(address, "edge.hub.server")
    context = identity.client_context()
    return HubTarget(host, port, joined.node, context, joined.project, store.edge_id)


def _tunnel(
    process: ProcessParts, identity: Identity, server: Callable[[], str] | None
) -> list[Module]:
    """Return the stream tunnel's module, none where it is switched off."""
    settings = process.settings.edge

    def target() -> TunnelTarget:
        joined = identity.load()
        address = settings.stream.server or _tunnel_address(process, joined.server, server)
        host, port = parse_bind(address, "edge.stream.server")
        return TunnelTarget(host, port, joined.node, identity.client_context())

    token = KubeletToken(process.settings.data_dir / FOLDER)
    kubelet = kubelet_of(settings.stream.kubelet, process.endpoints, token)
    return [EdgeStream(target, kubelet)] if settings.stream.enabled else []


def _tunnel_address(process: ProcessParts, joined: str, server: Callable[[], str] | None) -> str:
    """Return where the tunnel goes: the listener of this process, else its port on the hub's host."""
    if server is not None and TUNNEL_ENDPOINT in process.endpoints:
        return process.endpoints.get(TUNNEL_ENDPOINT)
    address = server() if server is not None else process.settings.edge.hub.server or joined
    return f"{address.rpartition(':')[0]}:{TUNNEL_PORT}"
