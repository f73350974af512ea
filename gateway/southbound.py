"""Builds the adapters of devices: in the gateway's own process, in its workers, or apart from it.

Those with TCP listeners can share their ports among processes (`scalable`); the others keep what belongs
together, DTLS sessions or connections to network servers, in one place.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from gateway.config import Settings
from gateway.config.schema import plain
from gateway.errors import InvalidSetting
from gateway.hono.adapters.admission import Admission
from gateway.hono.adapters.amqp import AmqpAdapter
from gateway.hono.adapters.amqp_device import Rooms as AmqpRooms
from gateway.hono.adapters.coap import CoapAdapter
from gateway.hono.adapters.coap_dtls import SecureSockets, why_not
from gateway.hono.adapters.coap_keys import CoapKeys
from gateway.hono.adapters.http import HttpAdapter
from gateway.hono.adapters.lora import LoraAdapter
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms as MqttRooms
from gateway.hono.adapters.sigfox import SigfoxAdapter
from gateway.hono.connection_events import with_events
from gateway.hono.ingress import IngressService
from gateway.hono.limits import Usage
from gateway.hono.registry_view import RegistryView
from gateway.hono.remote_services.assembly import RemoteSide, remote_side
from gateway.hono.remote_services.usage import SharedUsage
from gateway.hono.worker_figures import Ledger
from gateway.hono.workers import Plan, Workers, socket_folder, worker_settings
from gateway.model.ports import Authenticator, CommandRouting
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.certificates import ends_at, ensure_server, server_context
from gateway.runtime.device_tls import device_context
from gateway.runtime.listener import Door, Endpoints, doors_of
from gateway.runtime.module import Module


class Shared(Protocol):
    """What every builder of one process has in common."""

    @property
    def settings(self) -> Settings: ...
    @property
    def endpoints(self) -> Endpoints: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def tracer(self) -> Tracer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """What adapters are handed."""

    registry: RegistryView
    ingress: IngressService
    commands: CommandRouting
    authenticator: Authenticator
    admission: Admission


def tls(
    shared: Shared, make: Callable[[Path, Path, str], ssl.SSLContext] = server_context
) -> ssl.SSLContext | None:
    """TLS of the registry, the adapters and the northbound endpoint; None where it is switched off."""
    files = tls_files(shared)
    if files is None:
        return None
    shared.metrics.health.watch_certificate("devices", lambda: ends_at(files[0]))
    return make(*files, "hono.tls.certificate")


def tls_files(shared: Shared) -> tuple[Path, Path] | None:
    """Certificate and key of the adapters; None where TLS is switched off."""
    settings = shared.settings.hono.tls
    if not settings.enabled:
        return None
    if settings.certificate:
        return Path(settings.certificate), Path(settings.key)
    hosts = ("localhost", "127.0.0.1", "::1", socket.gethostname(), *settings.hosts)
    return ensure_server(shared.settings.data_dir / "tls", "twinspan-devices", "twinspan", hosts)


def scalable(shared: Shared, rooms: Rooms) -> list[Module]:
    """The adapters that several processes may run on the same ports."""
    settings, endpoints, metrics = shared.settings.hono, shared.endpoints, shared.metrics
    context = tls(shared, device_context)
    doors: dict[str, Any] = {
        "ingress": rooms.ingress,
        "commands": rooms.commands,
        "authenticator": rooms.authenticator,
        "admission": rooms.admission,
        "assertions": rooms.registry,
    }
    return [
        HttpAdapter(settings.http, endpoints, *_http(rooms), tls_context=context),
        MqttAdapter(settings.mqtt, endpoints, metrics, MqttRooms(**doors), tls_context=context),
        AmqpAdapter(settings.amqp, endpoints, metrics, AmqpRooms(**doors), tls_context=context),
    ]


def scalable_doors(shared: Shared) -> list[Door]:
    """Where the `scalable` adapters listen."""
    hono, context = shared.settings.hono, tls(shared, device_context)
    doors: list[Door] = []
    for name, of in (("http", hono.http), ("mqtt", hono.mqtt), ("amqp", hono.amqp)):
        plain = Door(f"hono.{name}", of.bind, f"hono.{name}.bind")
        doors += doors_of(plain, f"hono.{name}s", of.tls_bind, context)
    return doors


def others(shared: Shared, rooms: Rooms) -> list[Module]:
    """The adapters that run in one process."""
    settings, endpoints = shared.settings.hono, shared.endpoints
    modules: list[Module] = [*_coap(shared, rooms)]
    context = tls(shared, device_context)
    if settings.lora.enabled:
        modules.append(LoraAdapter(settings.lora, endpoints, *_http(rooms), tls_context=context))
    if settings.sigfox.enabled:
        sigfox = SigfoxAdapter(settings.sigfox, endpoints, *_http(rooms), tls_context=context)
        modules.append(sigfox)
    return modules


def _http(rooms: Rooms) -> tuple[Authenticator, RegistryView, IngressService, CommandRouting]:
    return rooms.authenticator, rooms.registry, rooms.ingress, rooms.commands


def _coap(shared: Shared, rooms: Rooms) -> list[CoapAdapter]:
    settings, metrics = shared.settings.hono.coap, shared.metrics
    if not settings.enabled:
        return []
    missing = why_not(settings.tls)
    keys = CoapKeys(rooms.registry, rooms.authenticator)
    secure = None if missing else SecureSockets(settings, keys, metrics, tls_files(shared))
    adapter = CoapAdapter(
        settings,
        shared.endpoints,
        rooms.registry,
        rooms.ingress,
        rooms.commands,
        metrics,
        secure=secure,
        missing=missing or "",
    )
    return [adapter]


# --- adapters apart from the services ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Worker:
    """The modules of a worker process, and what it tells its main process."""

    side: RemoteSide
    usage: SharedUsage
    modules: list[Module]


def build_worker(shared: Shared, instance: str) -> Worker:
    """Build what a worker process runs; `hono.services` leads to its main process."""
    usage = SharedUsage()
    side = _remote_side(shared, instance, usage)
    return Worker(side, usage, [*side.modules, *scalable(shared, _rooms(shared, side))])


def build_adapters(shared: Shared) -> list[Module]:
    """Build all adapters for an existing Hono's registry, router and messaging.

    Errors: InvalidSetting.
    """
    settings = shared.settings.hono
    if settings.workers:
        raise InvalidSetting("hono.workers: start `twinspan adapters` more than once instead")
    side = _remote_side(shared, uuid4().hex)
    rooms = _rooms(shared, side)
    return [*side.modules, *scalable(shared, rooms), *others(shared, rooms)]


def _remote_side(shared: Shared, instance: str, usage: SharedUsage | None = None) -> RemoteSide:
    settings = shared.settings.hono
    return remote_side(
        settings.services,
        shared.metrics,
        shared.tracer,
        instance=instance,
        usage=usage,
        send_timeout=settings.send_message_timeout,
    )


def _rooms(shared: Shared, side: RemoteSide) -> Rooms:
    events = shared.settings.hono.connection_events
    return Rooms(
        registry=side.registry,
        ingress=side.ingress,
        commands=side.commands,
        authenticator=side.authenticator,
        admission=with_events(events, side.connections, side.downstream, shared.tracer),
    )


# --- the workers of a gateway --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerProcesses:
    """The module that keeps workers up, and the Unix socket on which they look for Hono's services."""

    services: str
    modules: list[Module]


def build_workers(shared: Shared, registry: RegistryView, usage: Usage) -> WorkerProcesses | None:
    """Build what runs the `scalable` adapters in processes of their own, where that is asked for.

    Errors: InvalidSetting.
    """
    settings = shared.settings
    if settings.hono.workers < 0:
        raise InvalidSetting(f"hono.workers: expected 0 or more, got {settings.hono.workers}")
    if not settings.hono.workers:
        return None
    folder = socket_folder(settings.data_dir)
    services = settings.hono.internal.socket or str(folder / "services")
    plan = Plan(
        count=settings.hono.workers,
        folder=folder,
        doors=scalable_doors(shared),
        settings=partial(worker_settings, plain(settings), services),
    )
    workers = Workers(plan, shared.endpoints, Ledger(registry, usage), shared.metrics)
    shared.tracer.elsewhere = workers.spans
    return WorkerProcesses(services, [workers])
