"""What adapters ask of the registry, wherever it is: in this process, or behind Hono's service APIs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from gateway.errors import GatewayError
from gateway.hono.passwords import PasswordPool
from gateway.hono.registry_store import StoredDevice
from gateway.model.registry import Assertion, DeviceCredential, RegistryChange, Tenant

FoundTenant: TypeAlias = Callable[[Tenant | GatewayError], None]
FoundAssertion: TypeAlias = Callable[[Assertion | GatewayError], None]
FoundCredential: TypeAlias = Callable[[DeviceCredential | GatewayError], None]


class RegistryView(Protocol):
    """Tenants, devices and credentials, read only; `registry.Registry` says what each call answers."""

    passwords: PasswordPool

    def find_tenant(self, name: str, done: FoundTenant) -> None: ...

    def find_tenant_by_anchor(self, subject_dn: str, done: FoundTenant) -> None: ...

    def cached_tenant(self, name: str) -> Tenant | None: ...

    def assert_device(
        self, tenant: str, device: str, gateway: str | None, done: FoundAssertion
    ) -> None: ...

    def find_device(
        self, tenant: str, device: str, done: Callable[[StoredDevice | GatewayError], None]
    ) -> None: ...

    def find_credential(
        self, tenant: str, kind: str, auth_id: str, done: FoundCredential
    ) -> None: ...

    def on_change(self, listener: Callable[[RegistryChange], None]) -> Callable[[], None]: ...
