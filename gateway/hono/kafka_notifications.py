"""Tells registry changes on Kafka, as Hono's registry does where its messaging is Kafka.

Nobody waits for them: a notification that the broker does not get is counted and logged by the producer.
Source: Hono, topics `hono.notification.registry-tenant` and `hono.notification.registry-device`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError
from gateway.hono.change_notifications import CONTENT_TYPE, address_of, encode_change, key_of
from gateway.hono.kafka_messaging import RecordSender
from gateway.hono.kafka_records import Header, Record
from gateway.hono.registry import Registry
from gateway.model.registry import Change, RegistryChange, Subject, Tenant

KIND: Final = "notification"
HEADERS: Final[list[Header]] = [("content-type", CONTENT_TYPE.encode())]


class KafkaNotifications:
    """Listens to a registry; `clock` gives seconds since the epoch."""

    def __init__(
        self, registry: Registry, sender: RecordSender, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._registry = registry
        self._sender = sender
        self._clock = clock

    def on_change(self, change: RegistryChange) -> None:
        """Send a change; of a tenant that was updated, with what it says about caches."""
        if change.subject is Subject.TENANT and change.change is not Change.DELETE:
            self._registry.find_tenant(change.tenant_id, lambda found: self._with(change, found))
        else:
            self._send(change, invalidates=False)

    def _with(self, change: RegistryChange, found: Tenant | GatewayError) -> None:
        ext = None if isinstance(found, GatewayError) else found.document.get("ext")
        wish = isinstance(ext, dict) and ext.get("invalidate-cache-on-update") is True
        self._send(change, invalidates=wish)

    def _send(self, change: RegistryChange, *, invalidates: bool) -> None:
        body = encode_change(change, self._clock(), invalidates=invalidates)
        topic = f"hono.notification.{address_of(change)}"
        record = Record(topic, key_of(change).encode(), body, HEADERS)
        self._sender.send(KIND, record, _no_matter)


def _no_matter(_error: GatewayError | None) -> None:
    """The producer has counted and logged it."""
