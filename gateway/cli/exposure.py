"""Refuses listeners that would show plain text or sample passwords to other machines."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from gateway.config import Settings
from gateway.errors import InvalidSetting
from gateway.runtime.listener import parse_bind

# setting -> what protects it; listeners with client certificates or tokens may leave loopback
PLAIN = (
    "hono.registry.bind",
    "hono.http.bind",
    "hono.mqtt.bind",
    "hono.amqp.bind",
    "hono.coap.bind",
    "hono.lora.bind",
    "hono.sigfox.bind",
    "hono.northbound.bind",
    "hono.internal.bind",
    "ditto.http.bind",
    "cloud.router.bind",
    "edge.metaserver.bind",
    "edge.servicebus.bind",
    "observe.http.bind",
)
ENCRYPTED = (
    "hono.registry.tls_bind",
    "hono.http.tls_bind",
    "hono.mqtt.tls_bind",
    "hono.amqp.tls_bind",
    "hono.coap.tls_bind",
    "hono.lora.tls_bind",
    "hono.sigfox.tls_bind",
    "hono.northbound.tls_bind",
    "hono.internal.tls_bind",
)


def _value(settings: object, path: str) -> str:
    for name in path.split("."):
        settings = getattr(settings, name)
    return str(settings)


def is_loopback(host: str) -> bool:
    """True for addresses and names that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exposed(settings: Settings, listeners: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield setting and bind of each of these listeners that is beyond loopback."""
    for path in listeners:
        bind = _value(settings, path)
        if not is_loopback(parse_bind(bind, path)[0]):
            yield path, bind


def check(settings: Settings) -> None:
    """Refuse a start that would expose what it should not.

    Errors: InvalidSetting, naming setting, address and the way out.
    """
    for path, bind in exposed(settings, (*PLAIN, *ENCRYPTED) if settings.demo else ()):
        raise InvalidSetting(
            f"{path}: {bind} is reachable from other machines, and --demo has well-known"
            " passwords; start without --demo, or bind to loopback"
        )
    for path, bind in exposed(settings, PLAIN):
        if not settings.insecure:
            raise InvalidSetting(
                f"{path}: {bind} is reachable from other machines and speaks plain text; put TLS in"
                " front and bind to loopback, or accept that with --insecure"
            )
