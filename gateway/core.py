"""Builds the gateway's objects: who is handed what stands here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from gateway import southbound
from gateway.config import Settings
from gateway.config.schema import plain
from gateway.connectivity import demo as connectivity_demo
from gateway.connectivity.endpoints import Northbound as OwnNorthbound
from gateway.connectivity.http import routes as connection_routes
from gateway.connectivity.hub import Connections as ConnectionHub
from gateway.connectivity.store import ConnectionStore
from gateway.ditto.auth import Authentication, Sessions, read_users
from gateway.ditto.creation_rules import CreationRules
from gateway.ditto.endpoint import Endpoints as DittoEndpoints
from gateway.ditto.fanout import Fanout
from gateway.ditto.http import DittoServer, fallback, routes
from gateway.ditto.namespace_access import AccessRules
from gateway.ditto.operator_commands import piggybacks
from gateway.ditto.passwords import LazyHashes, PasswordChecks
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.sse import EventStreams
from gateway.ditto.subject_expiry import SubjectExpiry
from gateway.ditto.tokens import Tokens
from gateway.ditto.upkeep import Upkeep
from gateway.ditto.websocket import WebSockets
from gateway.ditto.wot import WotHook
from gateway.ditto.wot_addresses import AddressRules
from gateway.ditto.wot_config_http import routes as wot_config_routes
from gateway.ditto.wot_config_service import WotConfig
from gateway.ditto.wot_config_store import WotConfigStore
from gateway.ditto.wot_fetch import Fetcher
from gateway.ditto.wot_http import Descriptions
from gateway.ditto.wot_judge import WotJudge
from gateway.ditto.wot_models import ThingModels
from gateway.errors import InvalidSetting, StoreUnavailable
from gateway.hono import demo as hono_demo
from gateway.hono import service_assembly as internal
from gateway.hono.authentication import DeviceAuthenticator
from gateway.hono.commands import CommandRouter
from gateway.hono.connection_events import with_events
from gateway.hono.downstream import Messaging
from gateway.hono.ingress import IngressService
from gateway.hono.kafka_setup import KafkaParts, build_kafka
from gateway.hono.last_gateways import LastGateways
from gateway.hono.limits import Connections, Usage
from gateway.hono.northbound import ApplicationUser, Northbound
from gateway.hono.provisioning import Provisioning
from gateway.hono.registry import Registry
from gateway.hono.registry_http import RegistryHttp, RegistryServer
from gateway.hono.remote.setup import build_relay, is_remote
from gateway.hono.stored_commands import StoredCommands
from gateway.hono.traffic import Traffic
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Module
from gateway.runtime.small_http import Reply
from gateway.runtime.users import Users
from gateway.store.database import Database
from gateway.store.events import SqliteEvents
from gateway.store.things_sqlite import SqliteThingStore
from gateway.twin.limits import Limits

if TYPE_CHECKING:
    from gateway.kube.cluster import ClusterApi
    from gateway.kube.module import KubeApi

log = logging.getLogger(__name__)

RELAY_SECONDS = 2.5
"""How long telemetry that connections see too waits for the disk on its way to a remote Hono."""


class Shared(Protocol):
    """What every core of one process has in common."""

    @property
    def settings(self) -> Settings: ...
    @property
    def users(self) -> Users: ...
    @property
    def endpoints(self) -> Endpoints: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def tracer(self) -> Tracer: ...
    @property
    def documents(self) -> dict[str, Callable[[], JsonObject | Reply]]: ...


class Front(Protocol):
    """A page in front of the APIs, on Ditto's port (`gateway.console.page.Console`)."""

    @property
    def sessions(self) -> Sessions: ...
    def routes(self, auth: Authentication, gateway: Gateway, /) -> list[web.RouteDef]: ...


def open_store(shared: Shared, schema: str) -> Database:
    """Return the store `<data-dir>/<schema>.db`, with its metrics."""
    file = shared.settings.data_dir / f"{schema}.db"
    min_free = shared.settings.min_free_bytes
    database = Database(file, schema, gives_back=schema == "gateway", min_free=min_free)
    database.commit_seconds = shared.metrics.store_commit_seconds.labels(schema).observe
    shared.metrics.store_queue.watch(schema, lambda: database.depth)
    shared.metrics.own.watch_store(database)
    shared.metrics.health.watch_disk(schema, file.parent)
    return database


class Store:
    """Module: keeps a database open."""

    def __init__(self, database: Database) -> None:
        self.name = f"store.{database.schema}"
        self._database = database

    async def run(self, ready: Callable[[], None]) -> None:
        async with self._database.running():
            ready()
            await asyncio.Event().wait()


class Once:
    """Module: does something once when what stands before it is up, e.g. adds sample data.

    A store that takes nothing now keeps nobody from starting: the next start tries again.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._work = work

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            await self._work()
        except StoreUnavailable as error:
            log.warning(
                "left for the next start", extra={"what": self.name, "cause": error.message}
            )
        ready()
        await asyncio.Event().wait()


@dataclass(slots=True, kw_only=True)
class Gateway:
    """The gateway's modules in starting order, and the ports that other cores use."""

    database: Database
    registry: Registry
    things: ThingsService
    policies: PoliciesService
    upkeep: Upkeep
    messaging: Messaging
    ingress: IngressService
    commands: CommandRouter
    usage: Usage
    last_gateways: LastGateways
    traffic: Traffic
    stored_commands: StoredCommands
    wot_config: WotConfig
    models: ThingModels | None = None
    modules: list[Module] = field(default_factory=list)


def build_gateway(shared: Shared, front: Front | None = None) -> Gateway:
    """Build the Hono- and Ditto-compatible services and what joins them; `front` is None without a page."""
    settings, metrics, tracer = shared.settings, shared.metrics, shared.tracer
    database = open_store(shared, "gateway")
    registry = Registry(database, metrics, max_bcrypt_cost=settings.hono.registry.max_bcrypt_cost)
    events = SqliteEvents(
        open_store(shared, "events"),
        max_bytes=settings.hono.events.max_bytes,
        max_bytes_per_tenant=settings.hono.events.max_bytes_per_tenant,
        max_ttl=settings.hono.events.max_ttl,
        read_ahead=settings.hono.events.read_ahead,
        on_stored=lambda tenant: metrics.events_stored.labels(tenant).inc(),
        on_refused=lambda tenant, reason: metrics.events_refused.labels(tenant, reason).inc(),
    )
    metrics.own.events_bytes.watch((), lambda: events.size)
    metrics.health.events_limit.watch((), lambda: settings.hono.events.max_bytes)
    messaging = Messaging(events, metrics, timeout=settings.hono.send_message_timeout)
    messaging.tracer = tracer
    usage = Usage(database)
    last_gateways = LastGateways(database)
    registry.on_change(last_gateways.changed)
    traffic = Traffic()
    stored_commands = StoredCommands(
        database,
        settings.hono.stored_commands,
        metrics,
        tells_kafka=settings.hono.kafka.delivery_failures,
    )
    hono = (registry, messaging, usage, last_gateways, metrics, tracer)
    thing_store = SqliteThingStore(database, settings.ditto.policies.namespace_roots)
    limits = Limits(
        thing_bytes=settings.ditto.things.max_thing, policy_bytes=settings.ditto.things.max_policy
    )
    policies = PoliciesService(
        thing_store,
        limits=limits,
        cache=settings.ditto.things.cache,
        settings=settings.ditto.policies,
        rules=CreationRules(settings.ditto.creation),
    )
    models = _thing_models(shared)
    wot_config = WotConfig(WotConfigStore(database), settings.ditto.wot.validation)
    things = ThingsService(
        thing_store,
        policies,
        limits=limits,
        metrics=metrics,
        tracer=tracer,
        cache=settings.ditto.things.cache,
        historical_headers=settings.ditto.things.historical_headers,
        wot=_wot_hook(shared, models, wot_config),
    )
    gateway = Gateway(
        database=database,
        registry=registry,
        things=things,
        policies=policies,
        upkeep=Upkeep(thing_store, settings.ditto.history),
        messaging=messaging,
        ingress=IngressService(*hono, traffic=traffic),
        commands=CommandRouter(*hono, traffic=traffic, stored=stored_commands),
        usage=usage,
        last_gateways=last_gateways,
        traffic=traffic,
        stored_commands=stored_commands,
        wot_config=wot_config,
        models=models,
    )
    gateway.modules += [models] if models else []
    gateway.modules += [Store(database), wot_config, events, registry, usage]
    gateway.modules += [last_gateways, stored_commands]
    gateway.modules += [gateway.upkeep, things, SubjectExpiry(policies)]
    if settings.demo:
        samples = settings.data_dir / "sandbox"
        gateway.modules.append(Once("hono.demo", lambda: hono_demo.provision(registry, samples)))
    kafka = _kafka(shared, gateway)
    gateway.modules += kafka.uploads  # whoever hands uploads on comes later and stops earlier
    gateway.modules += _relay(shared, gateway)
    gateway.modules += _northbound(shared, gateway)
    connections = _connectivity(shared, gateway)
    gateway.modules.append(connections)
    if settings.demo:
        gateway.modules.append(
            Once(
                "connectivity.demo",
                lambda: connectivity_demo.provision(registry, connections, things, policies),
            )
        )
    gateway.modules += _ditto(shared, gateway, connections, front)
    gateway.modules += _registry_and_adapters(shared, gateway)
    gateway.modules += kafka.commands
    return gateway


def build_kube(shared: Shared) -> KubeApi | ClusterApi:
    """Build the embedded Kubernetes API server, or the way to a cluster."""
    from gateway.kube.cluster import ClusterApi, is_cluster
    from gateway.kube.module import KubeApi

    if is_cluster(shared.settings.kube.mode):
        return ClusterApi(shared.settings.kube)
    return KubeApi(
        shared.settings.kube,
        shared.endpoints,
        open_store(shared, "kube"),
        shared.metrics,
        shared.settings.data_dir,
        hosts=shared.settings.cloud.advertise,
    )


def build_controllers(shared: Shared, kube: KubeApi | ClusterApi) -> list[Module]:
    """Build the control loops of the embedded API; a cluster has its own."""
    from gateway.kube.cluster import ClusterApi
    from gateway.kube.control.manager import ControllerManager

    if isinstance(kube, ClusterApi):
        return []
    return [ControllerManager(kube.client, shared.settings.kube.controllers, keys=kube.keys)]


def _northbound(shared: Shared, gateway: Gateway) -> list[Module]:
    users = {
        name: ApplicationUser(name, password) for name, password in shared.users.northbound.items()
    }
    northbound = Northbound(
        shared.settings.hono.northbound,
        shared.endpoints,
        gateway.messaging,
        gateway.commands,
        users,
        shared.metrics,
        tls_context=southbound.tls(shared),
    )
    gateway.commands.add_sink(northbound)
    return [northbound]


def _kafka(shared: Shared, gateway: Gateway) -> KafkaParts:
    """Kafka as messaging of tenants; no modules where there is no broker."""
    return build_kafka(
        shared.settings.hono,
        gateway.registry,
        gateway.messaging,
        gateway.commands,
        shared.metrics,
        shared.tracer,
    )


def _relay(shared: Shared, gateway: Gateway) -> list[Module]:
    """The way to an existing Hono, for the tenants that have a gateway device there."""
    settings = shared.settings.hono
    if not is_remote(settings.mode):
        return []
    if settings.kafka.bootstrap_servers:
        raise InvalidSetting("hono.mode: remote does not go with hono.kafka.bootstrap_servers")
    database = open_store(shared, "relay")
    relay, gateways = build_relay(
        settings.remote, database, gateway.commands, shared.metrics, shared.tracer
    )
    gateway.messaging.use_broker(relay, RELAY_SECONDS)
    gateway.commands.add_sink(relay)
    return [Store(database), *gateways]


def _registry_and_adapters(shared: Shared, gateway: Gateway) -> list[Module]:
    settings, endpoints = shared.settings.hono, shared.endpoints
    server = RegistryServer(
        gateway.registry,
        settings.registry,
        shared.users.registry if settings.registry.authentication_required else None,
        shared.metrics,
        shared.tracer,
        gateway.traffic,
        gateway.stored_commands,
    )
    provisioning = Provisioning(
        gateway.registry, gateway.database, gateway.messaging, shared.tracer
    )
    connections = Connections(gateway.registry, gateway.usage, shared.metrics)
    rooms = southbound.Rooms(
        registry=gateway.registry,
        ingress=gateway.ingress,
        commands=gateway.commands,
        authenticator=DeviceAuthenticator(gateway.registry, provisioning=provisioning),
        admission=with_events(
            settings.connection_events, connections, gateway.messaging, shared.tracer
        ),
    )
    workers = southbound.build_workers(shared, gateway.registry, gateway.usage)
    adapters = workers.modules if workers else southbound.scalable(shared, rooms)
    socket = workers.services if workers else ""
    return [
        provisioning,
        RegistryHttp(server, settings.registry, endpoints, southbound.tls(shared)),
        *_internal(shared, gateway, provisioning, socket),
        *adapters,
        *southbound.others(shared, rooms),
    ]


def _internal(
    shared: Shared, gateway: Gateway, provisioning: Provisioning, socket: str
) -> Sequence[Module]:
    """Hono's internal services, for protocol adapters that run elsewhere; `socket` for our workers."""
    settings = shared.settings
    own = settings.hono.internal
    if socket:
        own = replace(own, socket=socket)
    behind = internal.Core(
        registry=gateway.registry,
        provisioning=provisioning,
        commands=gateway.commands,
        downstream=gateway.messaging,
        usage=gateway.usage,
        last_gateways=gateway.last_gateways,
        metrics=shared.metrics,
        tracer=shared.tracer,
        takers=gateway.messaging,
        traffic=gateway.traffic,
        database=gateway.database,
    )
    return internal.build(
        own,
        shared.endpoints,
        behind,
        applications=shared.users.northbound if settings.demo else None,
        tls_files=southbound.tls_files(shared) if own.enabled else None,
        documents=shared.documents,
    )


def _connectivity(shared: Shared, gateway: Gateway) -> ConnectionHub:
    connections = ConnectionHub(
        ConnectionStore(gateway.database),
        gateway.things,
        gateway.policies,
        gateway.commands,
        gateway.messaging,
        OwnNorthbound(shared.endpoints, shared.users.northbound),
        shared.metrics,
    )
    gateway.commands.add_sink(connections)
    return connections


def _thing_models(shared: Shared) -> ThingModels | None:
    """Thing Models of the Web of Things; None where they are switched off."""
    settings = shared.settings.ditto.wot
    if not settings.enabled:
        return None
    rules = AddressRules.of(settings.allowed_addresses)
    fetcher = Fetcher(settings.models, rules, shared.metrics, shared.tracer)
    return ThingModels(settings.models, fetcher, shared.metrics)


def _wot_hook(shared: Shared, models: ThingModels | None, config: WotConfig) -> WotHook | None:
    """What Thing Models say of changes and messages."""
    if models is None:
        return None
    judge = WotJudge(config, shared.metrics)
    return WotHook(models, shared.settings.ditto.wot.skeleton, judge)


def _ditto(
    shared: Shared, gateway: Gateway, connections: ConnectionHub, front: Front | None
) -> list[Module]:
    settings, metrics = shared.settings.ditto, shared.metrics
    checks = PasswordChecks()
    metrics.own.watch_queue("ditto_passwords", lambda: checks.depth, checks.limit)
    metrics.live_entities.watch("thing", lambda: len(gateway.things.memory))
    metrics.live_entities.watch("policy", lambda: len(gateway.policies.memory))
    known = {**shared.users.ditto, **shared.users.devops}
    file = settings.http.users_file
    users = LazyHashes(known, read_users(Path(file)) if file else {})
    auth = Authentication(
        users,
        checks,
        Tokens(settings.http.openid),
        pre_authentication=settings.http.pre_authentication,
        sessions=front.sessions if front else None,
    )
    access = AccessRules(settings.namespace_access)
    endpoints = DittoEndpoints(auth, settings.http, metrics, shared.tracer, access)
    fanout = Fanout(gateway.things)
    streams = EventStreams(gateway.things, fanout, endpoints, settings.websocket, metrics)
    sockets = WebSockets(
        gateway.things,
        gateway.policies,
        fanout,
        auth,
        settings.websocket,
        metrics,
        settings.http.max_body,
    )
    models, wot = gateway.models, settings.wot.description
    descriptions = Descriptions(gateway.things, models, wot) if models else None
    table: list[web.RouteDef] = [
        *routes(
            endpoints,
            gateway.things,
            gateway.policies,
            streams,
            sockets,
            descriptions,
            plain(shared.settings),
        ),
        *connection_routes(
            endpoints,
            connections,
            piggybacks(
                gateway.things, gateway.policies, gateway.upkeep, plain(shared.settings), metrics
            ),
        ),
        *wot_config_routes(endpoints, gateway.wot_config),
        *(front.routes(auth, gateway) if front else []),
        *fallback(endpoints),
    ]
    return [DittoServer(settings.http, shared.endpoints, table, auth, sockets, streams)]
