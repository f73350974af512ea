"""The sample components of Hono's example deployment, for `--demo` alone: their passwords are well known."""

from __future__ import annotations

from typing import Final

from gateway.hono.service_authorities import Users, parse_permissions
from gateway.model.json import Json

ADAPTER: Final = "protocol-adapter"
APPLICATION: Final = "application"
ROUTER: Final = "command-router"
MANAGER: Final = "device-manager"
_PASSWORDS: Final = {
    "http-adapter@HONO": "http-secret",
    "mqtt-adapter@HONO": "mqtt-secret",
    "amqp-adapter@HONO": "amqp-secret",
    "coap-adapter@HONO": "coap-secret",
    "lora-adapter@HONO": "lora-secret",
    "sigfox-adapter@HONO": "sigfox-secret",
}


def adapter_rights() -> list[Json]:
    """Return what a protocol adapter needs of registry, command router and messaging."""
    both = ("tenant", "registration/*", "credentials/*", "cmd_router/*", "device_con/*")
    writes = ("telemetry/*", "event/*", "command_response/*")
    reads = ("command_internal/*", "notification/*")
    operations = (
        "tenant/*:get", "registration/*:assert", "credentials/*:get", "cmd_router/*:*",
        "device_con/*:*",
    )  # fmt: skip
    return [
        *(_right("resource", name, "READ", "WRITE") for name in both),
        *(_right("resource", name, "WRITE") for name in writes),
        *(_right("resource", name, "READ") for name in reads),
        *(_right("operation", name, "EXECUTE") for name in operations),
    ]


def _router_rights() -> list[Json]:
    both = ("tenant", "registration/*")
    return [
        *(_right("resource", name, "READ", "WRITE") for name in both),
        *(_right("operation", name, "EXECUTE") for name in ("tenant/*:*", "registration/*:*")),
    ]


def _manager_rights() -> list[Json]:
    return [
        _right("resource", "registration/*", "READ", "WRITE"),
        _right("operation", "registration/*:*", "EXECUTE"),
    ]


def _right(kind: str, name: str, *activities: str) -> Json:
    return {kind: name, "activities": list(activities)}


def _application_rights() -> list[Json]:
    reads = ("telemetry/*", "event/*", "command_response/*")
    return [
        *(_right("resource", name, "READ") for name in reads),
        _right("resource", "command/*", "WRITE"),
    ]


def _user(password: str, *roles: str) -> Json:
    return {"mechanism": "PLAIN", "password": password, "authorities": list(roles)}


def sample_users(applications: dict[str, str]) -> Users:
    """Return adapters and, for message routers that ask about them, `applications` (name -> password)."""
    roles: Json = {
        ADAPTER: adapter_rights(),
        ROUTER: _router_rights(),
        MANAGER: _manager_rights(),
        APPLICATION: _application_rights(),
    }
    users: dict[str, Json] = {
        name: _user(password, ADAPTER) for name, password in _PASSWORDS.items()
    }
    users["command-router@HONO"] = _user("cmd-router-secret", ROUTER)
    users["hono-client@HONO"] = _user("secret", ADAPTER, MANAGER)
    users |= {name: _user(password, APPLICATION) for name, password in applications.items()}
    return parse_permissions({"roles": roles, "users": users})
