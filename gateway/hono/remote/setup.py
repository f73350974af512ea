"""Makes the relay out of its settings: checks them, reads secrets, loads what the protocol needs.

Errors: InvalidSetting throughout, naming the setting.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

from gateway.config.remote import Remote as Settings
from gateway.config.remote import RemoteGateway
from gateway.errors import InvalidSetting
from gateway.hono.remote.amqp import AmqpUplink
from gateway.hono.remote.dialer import Connection, Place
from gateway.hono.remote.meters import RelayMeters
from gateway.hono.remote.mqtt import MqttLogin, MqttUplink
from gateway.hono.remote.relay import GatewayRelay, Relay
from gateway.hono.remote.uplink import Hub, Remote
from gateway.model.message import Kind
from gateway.model.ports import CommandRouting
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.amqp_client import AmqpLogin, library
from gateway.store.database import Database
from gateway.store.relay import RelayLimits, RelaySpool
from gateway.wire.mqtt.packets import V3, V5

log = logging.getLogger(__name__)

HERE: Final = "hono.remote"
MODES: Final = ("embedded", "remote")
PORTS: Final = {"amqp": 5672, "amqps": 5671, "mqtt": 1883, "mqtts": 8883}
MAX_SECRET: Final = 8_192
MIN_BYTES: Final = 65_536
VERSIONS: Final = {3: V3, 5: V5}


def is_remote(mode: str) -> bool:
    """Read `hono.mode`."""
    if mode not in MODES:
        raise InvalidSetting(f"hono.mode: expected {' or '.join(MODES)}, got {mode!r}")
    return mode == "remote"


@dataclass(frozen=True, slots=True)
class _Login:
    """A gateway's credentials, secrets read."""

    username: str
    password: str
    has_certificate: bool


def build_relay(
    settings: Settings,
    database: Database,
    commands: CommandRouting,
    metrics: Metrics,
    tracer: Tracer,
) -> tuple[Relay, list[GatewayRelay]]:
    """Return the relay and its modules, one for each tenant."""
    url = _address(settings.address)
    _check(settings)
    if url.scheme in ("amqp", "mqtt") and not _is_loopback(url.hostname or ""):
        log.warning("passwords go to the remote in plain text", extra={"remote": settings.address})
    gateways: dict[str, GatewayRelay] = {}
    for at, gateway in enumerate(settings.gateways):
        where = f"{HERE}.gateways[{at}]"
        if not gateway.tenant or gateway.tenant in gateways:
            raise InvalidSetting(f"{where}.tenant: expected one entry for each tenant")
        meters = RelayMeters(metrics, gateway.tenant)
        spool = RelaySpool(database, gateway.tenant, _limits(settings), on_lost=meters.lost)
        relay = GatewayRelay(
            Remote(gateway.tenant, settings.address, gateway.username),
            spool,
            commands,
            meters,
            tracer,
            window=settings.window,
            answer_timeout=settings.answer_timeout,
            ready_without_remote=settings.ready_without_remote,
        )
        context = _tls(settings, gateway, where) if url.scheme in ("amqps", "mqtts") else None
        make = _maker(settings, url, gateway, where, is_secure=context is not None)
        relay.dial(_place(settings, url, context), make)
        gateways[gateway.tenant] = relay
    return Relay(gateways), list(gateways.values())


def _address(text: str) -> SplitResult:
    url = urlsplit(text)
    try:
        port = url.port
    except ValueError:
        port = -1
    is_bare = not (url.path.strip("/") or url.query or url.fragment or url.username)
    if url.scheme not in PORTS or not url.hostname or port == -1 or not is_bare:
        raise InvalidSetting(
            f"{HERE}.address: expected amqps://host:port, amqp://, mqtts:// or mqtt://, got {text!r}"
        )
    return url


def _check(settings: Settings) -> None:
    if not settings.gateways:
        raise InvalidSetting(
            f"{HERE}.gateways: expected a gateway device of the remote for each tenant,"
            " e.g. [{tenant: T, username: gw@T, password_file: ...}]"
        )
    if settings.mqtt_version not in VERSIONS:
        raise InvalidSetting(f"{HERE}.mqtt_version: expected 5 or 3, got {settings.mqtt_version}")
    if settings.telemetry_when_full not in ("drop_oldest", "refuse"):
        raise InvalidSetting(
            f"{HERE}.telemetry_when_full: expected drop_oldest or refuse,"
            f" got {settings.telemetry_when_full!r}"
        )
    for name in ("max_telemetry_bytes", "max_event_bytes"):
        if getattr(settings, name) < MIN_BYTES:
            raise InvalidSetting(f"{HERE}.{name}: expected {MIN_BYTES} or more")
    for name in ("connect_timeout", "answer_timeout", "keep_alive", "reconnect_cap", "window"):
        if getattr(settings, name) <= 0:
            raise InvalidSetting(f"{HERE}.{name}: expected more than 0")


def _limits(settings: Settings) -> RelayLimits:
    return RelayLimits(
        bytes={
            Kind.TELEMETRY: settings.max_telemetry_bytes,
            Kind.EVENT: settings.max_event_bytes,
        },
        age={Kind.TELEMETRY: settings.max_telemetry_age, Kind.EVENT: settings.max_event_age},
        drops_telemetry=settings.telemetry_when_full == "drop_oldest",
    )


def _place(settings: Settings, url: SplitResult, context: ssl.SSLContext | None) -> Place:
    host = url.hostname or ""
    return Place(
        host=host,
        port=url.port or PORTS[url.scheme],
        tls=context,
        server_name=settings.server_name or host,
        connect_timeout=settings.connect_timeout,
        reconnect_cap=settings.reconnect_cap,
    )


def _tls(settings: Settings, gateway: RemoteGateway, where: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca or None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSetting(f"{HERE}.ca: cannot load {settings.ca}: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if gateway.certificate:
        try:
            context.load_cert_chain(gateway.certificate, gateway.key or None)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSetting(
                f"{where}.certificate: cannot load {gateway.certificate} and"
                f" {gateway.key or 'its key'}: {error}"
            ) from error
    return context


def _login(gateway: RemoteGateway, where: str, *, is_secure: bool) -> _Login:
    password = gateway.password
    if gateway.password_file:
        password = _secret(Path(gateway.password_file), where)
    has_certificate = bool(gateway.certificate)
    if has_certificate and not is_secure:
        raise InvalidSetting(f"{where}.certificate: needs amqps:// or mqtts:// in {HERE}.address")
    if not gateway.username and not has_certificate:
        raise InvalidSetting(f"{where}: expected username and password, or a certificate")
    if gateway.username and not password:
        raise InvalidSetting(f"{where}.password: expected one for {gateway.username}")
    return _Login(gateway.username, password, has_certificate)


def _secret(file: Path, where: str) -> str:
    try:
        text = file.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{where}.password_file: cannot be read: {error}") from error
    if len(text) > MAX_SECRET:
        raise InvalidSetting(f"{where}.password_file: at most {MAX_SECRET} characters")
    return text.rstrip("\r\n")


def _maker(
    settings: Settings, url: SplitResult, gateway: RemoteGateway, where: str, *, is_secure: bool
) -> Callable[[Hub], Connection]:
    """Return what makes a connection; the library that AMQP needs is looked for now, not at the first try."""
    login = _login(gateway, where, is_secure=is_secure)
    name = f"twinspan-relay-{uuid4().hex[:12]}"
    if url.scheme.startswith("mqtt"):
        mqtt = _mqtt_login(settings, login, name)
        return lambda hub: MqttUplink(mqtt, hub, gateway.tenant, commands=settings.commands)
    proton = library(f"{HERE}.address")
    amqp = AmqpLogin(
        host=settings.server_name or url.hostname or "",
        container=name,
        mechanism="PLAIN" if login.username else "EXTERNAL",
        username=login.username,
        password=login.password,
        idle_timeout=settings.keep_alive * 2,
    )
    return lambda hub: AmqpUplink(proton, amqp, hub, gateway.tenant, commands=settings.commands)


def _mqtt_login(settings: Settings, login: _Login, name: str) -> MqttLogin:
    return MqttLogin(
        client_id=name,
        version=VERSIONS[settings.mqtt_version],
        username=login.username or None,
        password=login.password.encode() if login.username else None,
        keep_alive=max(1, min(65_535, round(settings.keep_alive))),
        connect_timeout=settings.connect_timeout,
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
