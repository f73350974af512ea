"""Registry changes, told to every component that listens at `notification/registry-tenant` or `-device`.

Who is not there does not hear of a change. For who has no credit changes wait, at most `MAX_WAITING`; where
more come its link is detached with `amqp:resource-limit-exceeded`, so that it knows that it has missed some.
Source: Hono, notifications of the device registry over AMQP 1.0.
"""

from __future__ import annotations

import logging
import time
from collections import deque
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
from gateway.outcome import RESOURCE_LIMIT
from gateway.wire.amqp.link import SenderLink, Sent
from gateway.wire.amqp.message import AmqpMessage, Data, Properties, encode_message
from gateway.wire.amqp.performatives import Error

log = logging.getLogger(__name__)

ENDPOINT: Final = "notification"
ADDRESSES: Final = (f"{ENDPOINT}/{TENANTS}", f"{ENDPOINT}/{DEVICES}")
MAX_UNSETTLED: Final = 1_000
"""Notifications that a listener has not settled; above it more wait."""
MAX_WAITING: Final = 10_000


class NotificationLink:
    """One component that listens."""

    def __init__(self, protocol: AmqpProtocol, link: SenderLink) -> None:
        self.leave: Callable[[], None] = lambda: None
        self.protocol = protocol
        self._link = link
        self._waiting: deque[bytes] = deque()

    def tell(self, payload: bytes) -> bool:
        """Send a notification, now or when there is credit; False when too many wait: the link has ended."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.clear()
            error = Error(RESOURCE_LIMIT, "too many changes wait for their listener")
            self.protocol.handle([self._link.detach(error)])
            self.protocol.flush_soon()
            return False
        self._waiting.append(payload)
        self.resume()
        return True

    def resume(self) -> None:
        """Send what waits, as far as credit and socket allow."""
        link, waiting = self._link, self._waiting
        while waiting and self._may_send():
            link.send(waiting.popleft())
            self.protocol.flush_soon()

    def _may_send(self) -> bool:
        link = self._link
        is_behind = link.unsettled >= MAX_UNSETTLED or not self.protocol.is_writable
        return link.sendable > 0 and not is_behind

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

    def resume(self, protocol: AmqpProtocol) -> None:
        """A component's socket takes bytes again."""
        for links in self._links.values():
            for link in links:
                if link.protocol is protocol:
                    link.resume()

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
