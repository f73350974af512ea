"""Puts the internal services together from the rooms that they open to adapters elsewhere."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.config.internal import Internal
from gateway.errors import InvalidSetting
from gateway.hono.commands import CommandRouter
from gateway.hono.limits import Usage
from gateway.hono.provisioning import Provisioning
from gateway.hono.registry import Registry
from gateway.hono.service_authorities import Users, read_permissions
from gateway.hono.service_commands import CommandReceivers
from gateway.hono.service_credentials import CredentialsService
from gateway.hono.service_listener import InternalServices, Rooms, services
from gateway.hono.service_notifications import Notifications
from gateway.hono.service_registration import RegistrationService
from gateway.hono.service_requests import Desk, ReplyLinks
from gateway.hono.service_router import Gateways, RouterService
from gateway.hono.service_routes import Routes
from gateway.hono.service_samples import sample_users
from gateway.hono.service_tenants import TenantService
from gateway.hono.service_tokens import KEYS_PATH, KEYS_TYPE, Tokens, signing_key
from gateway.hono.service_uploads import Takers, Uploads
from gateway.hono.traffic import Traffic
from gateway.model.json import JsonObject
from gateway.model.ports import Downstream
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.certificates import server_context
from gateway.runtime.listener import Endpoints
from gateway.runtime.small_http import Reply
from gateway.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What stands behind the services."""

    registry: Registry
    provisioning: Provisioning
    commands: CommandRouter
    downstream: Downstream
    usage: Usage
    last_gateways: Gateways
    metrics: Metrics
    tracer: Tracer
    takers: Takers | None = None
    traffic: Traffic | None = None
    database: Database | None = None


def build(
    settings: Internal,
    endpoints: Endpoints,
    core: Core,
    *,
    applications: Mapping[str, str] | None,
    tls_files: tuple[Path, Path] | None,
    documents: MutableMapping[str, Callable[[], JsonObject | Reply]],
) -> list[InternalServices]:
    """Return the endpoint, none where settings switch it off; see `make_users`, `tls_for`.

    Shape:  `documents` is what the operations port serves; the keys of tokens are added.
    Errors: InvalidSetting.
    """
    if not settings.enabled and not settings.socket:
        return []
    users, tokens = make_users(settings, applications), make_tokens(settings)
    documents[KEYS_PATH] = lambda: Reply(msgspec.json.encode(tokens.keys()), KEYS_TYPE)
    tls_context = tls_for(settings, tls_files)
    return [internal_services(settings, endpoints, core, users, tokens, tls_context)]


def make_tokens(settings: Internal) -> Tokens:
    """Return what issues tokens.

    Errors: InvalidSetting.
    """
    return Tokens(
        signing_key(settings.signing_key, settings.shared_secret),
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        lifetime=settings.token_lifetime,
        clock=time.time,
    )


def make_users(settings: Internal, applications: Mapping[str, str] | None) -> Users:
    """Return who may log in; `applications` are those of a demonstration, None outside of it.

    Errors: InvalidSetting.
    """
    if settings.permissions:
        return read_permissions(settings.permissions, "hono.internal.permissions")
    if applications is not None:
        return sample_users(dict(applications))
    if settings.enabled:
        raise InvalidSetting("hono.internal.permissions: expected a file, its users may log in")
    return {}


def tls_for(settings: Internal, files: tuple[Path, Path] | None) -> ssl.SSLContext | None:
    """Return TLS with certificate and key of `files`, asking for certificates where an authority is given.

    Errors: InvalidSetting.
    """
    if files is None or not settings.enabled:
        return None
    context = server_context(*files, "hono.tls.certificate")
    if settings.client_ca:
        try:
            context.load_verify_locations(settings.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSetting(
                f"hono.internal.client_ca: cannot load {settings.client_ca}: {error}"
            ) from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def internal_services(
    settings: Internal,
    endpoints: Endpoints,
    core: Core,
    users: Users,
    tokens: Tokens,
    tls_context: ssl.SSLContext | None = None,
) -> InternalServices:
    """Return the endpoint, which hears of registry changes from now on."""
    registry, metrics, tracer = core.registry, core.metrics, core.tracer
    receivers = CommandReceivers()
    routes = Routes(core.commands, receivers, core.database)
    metrics.elsewhere.service_routes.set_function(lambda: len(routes))
    router = RouterService(
        registry, core.commands, routes, core.last_gateways, core.downstream, tracer
    )
    notifications = Notifications(registry)
    registry.on_change(notifications.on_change)
    age = settings.max_age
    rooms = Rooms(
        services=services(
            TenantService(registry, max_age=age),
            RegistrationService(registry, max_age=age),
            CredentialsService(registry, core.provisioning, max_age=age),
            router,
        ),
        desk=Desk(ReplyLinks(), metrics, tracer),
        tokens=tokens,
        uploads=Uploads(
            registry,
            core.downstream,
            core.commands,
            core.usage,
            metrics,
            takers=core.takers,
            traffic=core.traffic,
        ),
        routes=routes,
        receivers=receivers,
        notifications=notifications,
    )
    return InternalServices(settings, endpoints, users, rooms, metrics, tls_context=tls_context)
