"""What an adapter with lasting connections asks before a device comes in or speaks for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.errors import GatewayError
from gateway.model.message import Adapter, Principal
from gateway.model.registry import Assertion


class Lease(Protocol):
    """The place of a connection that was let in."""

    def release(self) -> None:
        """Give the place back; a second call changes nothing."""


class Admission(Protocol):
    """Tenant, adapter, limits and registration of a device that connects (`limits.Connections`)."""

    def admit(
        self,
        principal: Principal,
        adapter: Adapter,
        close: Callable[[GatewayError], None],
        done: Callable[[Lease | GatewayError], None],
        *,
        cipher_suite: str = "UNKNOWN",
        remote_id: str = "",
    ) -> None:
        """Ask whether an authenticated device may connect; `close` is called when it may no longer.

        Shape:  `remote_id` is what the device calls itself: MQTT client id, AMQP container id.
        """


class Assertions(Protocol):
    """Who may speak for whom (`registry.Registry`)."""

    def assert_device(
        self,
        tenant: str,
        device: str,
        gateway: str | None,
        done: Callable[[Assertion | GatewayError], None],
    ) -> None:
        """Ask whether a device is enabled, and `gateway` authorised to act for it."""
