"""Puts together what adapters need where registry, router and messaging are services of another process."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.config.hono_services import Peer
from gateway.config.hono_services import Services as Settings
from gateway.errors import InvalidSetting
from gateway.hono.authentication import DeviceAuthenticator
from gateway.hono.commands import CommandRouter
from gateway.hono.ingress import IngressService
from gateway.hono.last_gateways import LastGateways
from gateway.hono.limits import Connections, Usage
from gateway.hono.remote_services.commands import RemoteCommands, RemoteResponses
from gateway.hono.remote_services.connection import ServiceConnection
from gateway.hono.remote_services.downstream import RemoteDownstream
from gateway.hono.remote_services.gate import CommandGate
from gateway.hono.remote_services.last_gateways import RemoteLastGateways
from gateway.hono.remote_services.notifications import Notifications
from gateway.hono.remote_services.registry import RemoteRegistry
from gateway.hono.remote_services.requests import Services
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import Module


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSide:
    """The rooms of adapters, and the modules behind them in starting order."""

    registry: RemoteRegistry
    downstream: RemoteDownstream
    ingress: IngressService
    commands: RemoteCommands
    authenticator: DeviceAuthenticator
    connections: Connections
    usage: Usage
    notifications: Notifications
    modules: tuple[Module, ...]


def remote_side(
    settings: Settings,
    metrics: Metrics,
    tracer: Tracer,
    *,
    instance: str,
    usage: Usage | None = None,
    send_timeout: float = 1.0,
) -> RemoteSide:
    """Build the client side of Hono's services.

    Shape:  `instance` names the process; `usage` is given to a worker of our own main process, which accounts
            for messages and commands; without it that is done here.
    Units:  `send_timeout` in seconds.
    Errors: InvalidSetting without an address.
    """
    is_worker = usage is not None
    usage = Usage(None) if usage is None else usage
    peers = _Connections(settings, instance)
    messaging = peers.get("messaging", settings.messaging)
    registry_services = Services(
        peers.get("registry", settings.registry), timeout=settings.request_timeout
    )
    router = Services(
        peers.get("command-router", settings.command_router), timeout=settings.request_timeout
    )
    registry = RemoteRegistry(registry_services)
    notifications = Notifications(messaging, registry)
    downstream = RemoteDownstream(messaging, metrics, timeout=send_timeout, asks_always=is_worker)
    responder = CommandRouter(registry, downstream, usage, LastGateways(), metrics, tracer)
    responder.add_sink(RemoteResponses(messaging, metrics, timeout=send_timeout))
    return RemoteSide(
        registry=registry,
        downstream=downstream,
        ingress=IngressService(
            registry, downstream, usage, RemoteLastGateways(router), metrics, tracer
        ),
        commands=RemoteCommands(
            router,
            messaging,
            responder,
            tracer,
            instance=instance,
            gate=None if is_worker else CommandGate(registry, usage, metrics),
        ),
        authenticator=DeviceAuthenticator(registry, provisioning=registry),
        connections=Connections(registry, usage, metrics),
        usage=usage,
        notifications=notifications,
        modules=(*peers.modules, registry, usage),
    )


class _Connections:
    """One connection for each peer that is told apart."""

    def __init__(self, settings: Settings, instance: str) -> None:
        self._default = settings.messaging
        self._instance = instance
        self._made: dict[Peer, ServiceConnection] = {}
        if not self._default.address:
            raise InvalidSetting("hono.services.messaging.address: expected host:port")

    @property
    def modules(self) -> tuple[ServiceConnection, ...]:
        return tuple(self._made.values())

    def get(self, name: str, peer: Peer) -> ServiceConnection:
        if not peer.address:
            peer = self._default if peer == Peer() else replace(peer, address=self._default.address)
        connection = self._made.get(peer)
        if connection is None:
            connection = self._made[peer] = ServiceConnection(
                peer, container_id=f"{self._instance}-{name}", name=f"services.{name}"
            )
        return connection
