"""Where a connection's addresses lead inside Twinspan: tenants, kinds of messages, reply addresses.

Two types are served in process. `hono` speaks for one tenant by the aliases `telemetry`, `event`,
`command_response` and `command`. `amqp-10` is served when its URI is this gateway's own northbound
endpoint, and names AMQP addresses. Everything else is stored, and its status says that it is not built.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from gateway.connectivity.model import Connection, Source
from gateway.model.message import Kind
from gateway.runtime.listener import Endpoints
from gateway.wire.ditto.placeholders import Template

HONO, AMQP = "hono", "amqp-10"
NORTHBOUND = ("northbound.amqp", "northbound.amqps")
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1", "0.0.0.0"))  # noqa: S104  names, not a bind
_KINDS = {str(kind): kind for kind in Kind}
_DEVICE = Template.parse("{{ thing:id }}")
_CORRELATION = Template.parse("{{ header:correlation-id }}")


@dataclass(frozen=True, slots=True)
class Uploads:
    """A source of what devices send: one kind of messages of one tenant."""

    tenant: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Responses:
    """A source of devices' answers to commands: one reply address of one tenant."""

    tenant: str
    reply_id: str


Inlet = Uploads | Responses


class Northbound:
    """This gateway's own AMQP endpoint, as a connection's URI may name it.

    Shape:  `users` name -> password.
    """

    def __init__(self, bound: Endpoints, users: Mapping[str, str]) -> None:
        self._bound = bound
        self._users = users

    def fault_of(self, uri: str) -> str | None:
        """Why a URI is not served here; None when it is this endpoint and its credentials are right."""
        parts = urlsplit(uri)
        if not self._is_own(parts.hostname or "", parts.port or 0):
            return (
                f"amqp-10 connections to other endpoints than this gateway's own are not built"
                f" ({parts.hostname}:{parts.port})"
            )
        known = self._users.get(unquote(parts.username or ""))
        given = unquote(parts.password or "")
        if known is None or not hmac.compare_digest(known.encode(), given.encode()):
            return "the user name or password in the URI is wrong"
        return None

    def _is_own(self, host: str, port: int) -> bool:
        for name in NORTHBOUND:
            if name not in self._bound or self._bound.port(name) != port:
                continue
            own = self._bound.get(name).rpartition(":")[0].strip("[]")
            if host == own or (host in _LOOPBACK and own in _LOOPBACK):
                return True
        return False


def fault_of(connection: Connection, northbound: Northbound) -> str | None:
    """Why a connection cannot be opened, None when it can."""
    if connection.type == HONO:
        return None
    if connection.type == AMQP:
        return northbound.fault_of(connection.uri)
    return f"connections of type '{connection.type}' are not built"


def inlets(connection: Connection, source: Source) -> tuple[tuple[str, Inlet], ...]:
    """The addresses of a source with where they lead; addresses that lead nowhere are left out."""
    find = _hono_inlet if connection.type == HONO else _amqp_inlet
    found = ((address, find(connection, address)) for address in source.addresses)
    return tuple((address, inlet) for address, inlet in found if inlet is not None)


def _hono_inlet(connection: Connection, address: str) -> Inlet | None:
    if address == "command_response":
        return Responses(connection.tenant, connection.id)
    kind = _KINDS.get(address)
    return Uploads(connection.tenant, kind) if kind else None


def _amqp_inlet(_connection: Connection, address: str) -> Inlet | None:
    endpoint, _, rest = address.partition("/")
    tenant, _, reply_id = rest.partition("/")
    if endpoint == "command_response" and reply_id:
        return Responses(tenant, reply_id)
    kind = _KINDS.get(endpoint)
    return Uploads(tenant, kind) if kind and tenant and not reply_id else None


# --- header mappings that the type adds ---------------------------------------------------------


def target_headers(connection: Connection, own: Mapping[str, Template]) -> dict[str, Template]:
    """The header mapping of a target; a connection of type `hono` brings its own beneath."""
    return {**_HONO_TARGET, **own} if connection.type == HONO else dict(own)


def reply_headers(connection: Connection, own: Mapping[str, Template]) -> dict[str, Template]:
    """The header mapping of a reply target, likewise."""
    return {**_HONO_REPLY, **own} if connection.type == HONO else dict(own)


def source_headers(connection: Connection, source: Source, inlet: Inlet) -> dict[str, Template]:
    """The header mapping of a source, likewise; `content-type` and `reply-to` go through unasked."""
    added = _HONO_RESPONSE if isinstance(inlet, Responses) and connection.type == HONO else {}
    return {**added, **source.headers}


_HONO_TARGET = {
    "device_id": _DEVICE,
    "subject": Template.parse("{{ header:subject | fn:default(topic:action-subject) }}"),
    "response-required": Template.parse("{{ header:response-required }}"),
    "correlation-id": _CORRELATION,
}
_HONO_REPLY = {
    "device_id": _DEVICE,
    "subject": Template.parse(
        "{{ header:subject | fn:default(topic:action-subject) | fn:default(topic:criterion) }}-response"
    ),
    "correlation-id": _CORRELATION,
}
_HONO_RESPONSE = {
    "correlation-id": _CORRELATION,
    "status": Template.parse("{{ header:status }}"),
}
