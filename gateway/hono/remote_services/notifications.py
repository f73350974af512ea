"""Changes of the registry as its service tells them, so that nothing is remembered longer than it is true.

Both addresses are listened to while there is a connection. What was told while there was none is lost:
everything that is remembered goes when the connection is there again. A peer that has no such addresses is
asked no more until the next connection: then all that is remembered goes every `BLIND_SECONDS`.
Source: Hono, notifications of the device registry.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.errors import GatewayError, MalformedPacket
from gateway.hono.change_notifications import DEVICES, TENANTS
from gateway.hono.remote_services.connection import ServiceConnection
from gateway.hono.remote_services.registry import RemoteRegistry
from gateway.model.json import Json
from gateway.model.registry import Change, RegistryChange, Subject
from gateway.outcome import RESOURCE_LIMIT
from gateway.wire.amqp.link import Incoming, ReceiverLink
from gateway.wire.amqp.message import decode_message, payload_of
from gateway.wire.amqp.performatives import ACCEPTED, Error

log = logging.getLogger(__name__)

ADDRESSES: Final = (f"notification/{TENANTS}", f"notification/{DEVICES}")
CREDIT: Final = 200
MAX_SIZE: Final = 65_536
BLIND_SECONDS: Final = 180.0
"""How long Hono's registries let adapters keep what they say."""


class Notifications:
    """Listens on a connection and tells the registry."""

    def __init__(self, connection: ServiceConnection, registry: RemoteRegistry) -> None:
        self._connection = connection
        self._registry = registry
        self._listening: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        connection.on_open(self._opened)

    @property
    def is_listening(self) -> bool:
        """True while every change is heard."""
        return len(self._listening) == len(ADDRESSES)

    def _opened(self) -> None:
        self._registry.forget_all()
        for address in ADDRESSES:
            _Listener(
                self._connection, self._registry, address, self._listening, self._refused
            ).listen()

    def _refused(self) -> None:
        """Changes are not heard."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(BLIND_SECONDS, self._forget)

    def _forget(self) -> None:
        self._timer = None
        self._registry.forget_all()
        if self._connection.is_open and not self.is_listening:
            self._refused()


class _Listener:
    """One address."""

    def __init__(
        self,
        connection: ServiceConnection,
        registry: RemoteRegistry,
        address: str,
        listening: set[str],
        refused: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._registry = registry
        self._address = address
        self._listening = listening
        self._refused = refused

    def listen(self) -> None:
        """Attach a link."""
        try:
            self._connection.attach_receiver(
                self._address, self, credit=CREDIT, max_message_size=MAX_SIZE
            )
        except GatewayError as error:
            log.warning("changes are not told", extra={"cause": error.message})
            self._refused()

    def attached(self) -> None:
        """What was asked for between connection and this link may be older than a change."""
        self._listening.add(self._address)
        self._registry.forget_all()

    def sendable(self) -> None:
        """Nothing is sent here."""

    def arrived(self, link: ReceiverLink, delivery: Incoming) -> None:
        link.settle(delivery, ACCEPTED)
        self._connection.flush_soon()
        try:
            change = change_of(payload_of(decode_message(delivery.payload)) or b"")
        except MalformedPacket as error:
            log.warning("a change is malformed", extra={"cause": error.message})
            self._registry.forget_all()
        else:
            self._registry.changed(change)

    def detached(self, error: Error | None) -> None:
        self._listening.discard(self._address)
        if error is not None:
            facts = {"address": self._address, "cause": f"{error.condition}: {error.description}"}
            log.warning("changes of the registry are not told", extra=facts)
            if (
                error.condition == RESOURCE_LIMIT
            ):  # we have missed some, and forget all with a new link
                self.listen()
            else:
                self._refused()


def change_of(body: bytes) -> RegistryChange:
    """Read a notification.

    Errors: MalformedPacket.
    """
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
        subject = Subject(str(told["type"]))
        device = told.get("device-id")
        return RegistryChange(
            subject,
            _change(subject, told),
            str(told["tenant-id"]),
            str(device) if device is not None else None,
            enabled=told.get("enabled", True) is not False,
        )
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise MalformedPacket(f"notification: {str(error)[:128]}") from error


def _change(subject: Subject, told: dict[str, Json]) -> Change:
    if subject is Subject.ALL_DEVICES:
        return Change.DELETE
    return Change.UPDATE if subject is Subject.CREDENTIALS else Change(str(told["change"]))
