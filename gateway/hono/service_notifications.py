"""Registry changes, told to every component that listens at `notification/registry-tenant` or `-device`.

Nothing is kept: who is not there, or has no credit, does not hear of a change. Their caches have a bounded
life for that reason.
Source: Hono, notifications of the device registry over AMQP 1.0.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final
from uuid import uuid4

from gateway.errors import GatewayError
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.hono.change_notifications import (
    CONTENT_TYPE,
    DEVICES,
    TENANTS,
    address_of,
    encode_change,
)
from gateway.hono.registry import Registry
from gateway.model.registry import Change, RegistryChange, Subject, Tenant
from gateway.wire.amqp.link import SenderLink, Sent
from gateway.wire.amqp.message import AmqpMessage, Data, Properties, encode_message

log = logging.getLogger(__name__)

ENDPOINT: Final = "notification"
ADDRESSES: Final = (f"{ENDPOINT}/{TENANTS}", f"{ENDPOINT}/{DEVICES}")
MAX_UNSETTLED: Final = 1_000
"""Notifications that a listener has not settled; above it more are not sent to it."""


class NotificationLink:
    """One component that listens."""

    def __init__(self, protocol: AmqpProtocol, link: SenderLink) -> None:
        self.leave: Callable[[], None] = lambda: None
        self._protocol = protocol
        self._link = link

    def tell(self, payload: bytes) -> bool:
        """Send a notification; False when it could not be taken."""
        link = self._link
        if link.sendable <= 0 or link.unsettled >= MAX_UNSETTLED or not self._protocol.is_writable:
            return False
        link.send(payload)
        self._protocol.flush_soon()
        return True

    def lost(self, _unsettled: tuple[Sent, ...]) -> None:
        self.leave()


class Notifications:
    """Listens to a registry; `clock` gives seconds since the epoch."""

    def __init__(self, registry: Registry, *, clock: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._clock = clock
        self._links: dict[str, set[NotificationLink]] = {address: set() for address in ADDRESSES}

    def add(self, address: str, link: NotificationLink) -> None:
        """Tell `link` the changes of one of `ADDRESSES` until it leaves."""
        links = self._links[address]
        links.add(link)
        link.leave = lambda: links.discard(link)

    def on_change(self, change: RegistryChange) -> None:
        """Tell a change; of a tenant that is still there, with what it says about caches."""
        if not any(self._links.values()):
            return
        if change.subject is Subject.TENANT and change.change is not Change.DELETE:
            self._registry.find_tenant(change.tenant_id, lambda found: self._with(change, found))
        else:
            self._tell(change, invalidates=False)

    def _with(self, change: RegistryChange, found: Tenant | GatewayError) -> None:
        ext = None if isinstance(found, GatewayError) else found.document.get("ext")
        wish = isinstance(ext, dict) and ext.get("invalidate-cache-on-update") is True
        self._tell(change, invalidates=wish)

    def _tell(self, change: RegistryChange, *, invalidates: bool) -> None:
        address = f"{ENDPOINT}/{address_of(change)}"
        now = self._clock()
        message = AmqpMessage(
            properties=Properties(
                message_id=str(uuid4()),
                to=address,
                content_type=CONTENT_TYPE,
                creation_time=int(now * 1_000),
            ),
            body=Data(encode_change(change, now, invalidates=invalidates)),
        )
        payload = encode_message(message)
        for link in tuple(self._links[address]):
            if not link.tell(payload):
                log.warning("a registry change was not told", extra={"address": address})
