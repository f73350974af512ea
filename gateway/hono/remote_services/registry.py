"""The registry as adapters see it, behind Hono's Tenant, Device Registration and Credentials API.

Answers are kept as long as the service allows, and dropped when it tells of a change; after the connection
that changes come on was away, all of them are. Passwords are checked here, against the hashes that the
service tells. Devices that a gateway or a certificate may provision are made by the service.
Full, or the service away: StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import (
    BadRequest,
    DeviceNotFound,
    Forbidden,
    GatewayDisabled,
    GatewayError,
    NotBuilt,
    StoreUnavailable,
    TenantDisabled,
    TenantNotFound,
    Unauthenticated,
)
from gateway.hono.passwords import PasswordPool
from gateway.hono.provisioning import Newcomer
from gateway.hono.registry_store import StoredDevice
from gateway.hono.registry_view import FoundAssertion, FoundCredential, FoundTenant
from gateway.hono.remote_services.cache import AnswerCache, Kept
from gateway.hono.remote_services.documents import (
    Known,
    credential_of,
    credential_query,
    device_of,
    tenant_of,
)
from gateway.hono.remote_services.requests import Answer, Question, Services
from gateway.model.json import JsonObject
from gateway.model.registry import (
    PSK,
    RPK,
    X509,
    Assertion,
    Change,
    DeviceCredential,
    RegistryChange,
    Subject,
    Tenant,
)

log = logging.getLogger(__name__)

TENANT: Final = "tenant"
REGISTRATION: Final = "registration"
CREDENTIALS: Final = "credentials"
MAX_TENANTS: Final = 10_000
_SECRET_KEYS: Final = (PSK, RPK)

_DeviceKey = tuple[str, str, str]
"""Tenant, device, gateway or nothing."""
_CredentialKey = tuple[str, str, str]


class RemoteRegistry:
    """The port `RegistryView` on services; a module that ends the hashing threads."""

    name = "hono.registry.view"

    def __init__(self, services: Services) -> None:
        self.passwords = PasswordPool()
        self._services = services
        self._listeners: list[Callable[[RegistryChange], None]] = []
        self._told: set[str] = set()
        """Tenants that somebody may remember something of."""
        self._tenants: AnswerCache[str, Tenant] = AnswerCache(
            partial(self._ask_tenant, "tenant-id"), capacity=MAX_TENANTS
        )
        self._anchors: AnswerCache[str, Tenant] = AnswerCache(
            partial(self._ask_tenant, "subject-dn"), capacity=MAX_TENANTS
        )
        self._devices: AnswerCache[_DeviceKey, Known] = AnswerCache(self._ask_device)
        self._credentials: AnswerCache[_CredentialKey, DeviceCredential] = AnswerCache(
            self._ask_credential
        )

    async def run(self, ready: Callable[[], None]) -> None:
        """Check passwords until cancelled."""
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            self.passwords.close()

    # --- the port -------------------------------------------------------------------------------------

    def find_tenant(self, name: str, done: FoundTenant) -> None:
        self._tenants.get(name, done)

    def find_tenant_by_anchor(self, subject_dn: str, done: FoundTenant) -> None:
        self._anchors.get(subject_dn, done)

    def cached_tenant(self, name: str) -> Tenant | None:
        return self._tenants.peek(name)

    def assert_device(
        self, tenant: str, device: str, gateway: str | None, done: FoundAssertion
    ) -> None:
        def with_tenant(found: Tenant | GatewayError) -> None:
            if isinstance(found, GatewayError):
                done(found)
            elif not found.enabled:
                done(TenantDisabled())
            else:
                other = "" if gateway in (None, device) else str(gateway)
                self._assert(found, device, other, done)

        self._tenants.get(tenant, with_tenant)

    def find_device(
        self, tenant: str, device: str, done: Callable[[StoredDevice | GatewayError], None]
    ) -> None:
        del tenant, device
        done(NotBuilt("devices of edge nodes are known in the gateway's main process only"))

    def find_credential(self, tenant: str, kind: str, auth_id: str, done: FoundCredential) -> None:
        self._credentials.get((tenant, kind, auth_id), done)

    def on_change(self, listener: Callable[[RegistryChange], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def by_certificate(self, new: Newcomer, done: FoundCredential) -> None:
        """Have the service make the device that a trusted certificate stands for.

        Errors (through `done`): as `find_credential`.
        """
        tenant, certificate = new.tenant.tenant_id, new.certificate.public_bytes(Encoding.DER)
        question = _get(credential_query(X509, new.auth_id, certificate))
        self._services.ask(
            CREDENTIALS,
            tenant,
            question,
            lambda answer: done(_credential(tenant, answer)[0]),
        )

    # --- changes --------------------------------------------------------------------------------------

    def changed(self, change: RegistryChange) -> None:
        """Drop what a change touches, then tell the listeners."""
        if change.subject is Subject.TENANT:
            self._tenants.drop(lambda _, tenant: tenant.tenant_id == change.tenant_id)
            self._anchors.drop(lambda _name, _tenant: True)
        if change.subject is not Subject.CREDENTIALS:
            self._devices.drop(lambda key, _: _is_touched(key, change))
        self._credentials.drop(lambda _, c: change.concerns(c.tenant_id, c.device_id))
        self._tell(change)

    def _tell(self, change: RegistryChange) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(change)
            except Exception:  # top of a callback: the others must hear of it
                log.exception("a registry change was not taken")

    def forget_all(self) -> None:
        """Changes may have been missed: ask for everything anew, and so do the listeners."""
        for cache in (self._tenants, self._anchors, self._devices, self._credentials):
            cache.drop(lambda _key, _value: True)
        told, self._told = self._told, set()
        for tenant in told:
            self._tell(RegistryChange(Subject.TENANT, Change.UPDATE, tenant))

    # --- questions ------------------------------------------------------------------------------------

    def _ask_tenant(self, member: str, name: str, done: Kept[Tenant]) -> None:
        def told(answer: Answer | GatewayError) -> None:
            found, age = _tenant(answer)
            if isinstance(found, Tenant):
                self._told.add(found.tenant_id)
            done(found, age)

        self._services.ask(TENANT, None, _get({member: name}), told)

    def _assert(self, tenant: Tenant, device: str, gateway: str, done: FoundAssertion) -> None:
        def asserted(found: Known | GatewayError) -> None:
            if type(found) is Forbidden and gateway:
                self._tell_why(tenant, gateway, found, done)
            elif isinstance(found, GatewayError):
                done(found)
            else:
                done(Assertion(tenant, *found))

        self._devices.get((tenant.tenant_id, device, gateway), asserted)

    def _tell_why(
        self, tenant: Tenant, gateway: str, refusal: Forbidden, done: FoundAssertion
    ) -> None:
        """The service has one answer for a gateway that is gone and for one that may not."""
        self._devices.get(
            (tenant.tenant_id, gateway, ""),
            lambda own: done(GatewayDisabled() if isinstance(own, DeviceNotFound) else refusal),
        )

    def _ask_device(self, key: _DeviceKey, done: Kept[Known]) -> None:
        tenant, device, gateway = key
        properties: dict[object, object] = {"device_id": device}
        if gateway:
            properties["gateway_id"] = gateway
        self._services.ask(
            REGISTRATION,
            tenant,
            Question("assert", properties),
            lambda answer: done(*_known(tenant, answer)),
        )

    def _ask_credential(self, key: _CredentialKey, done: Kept[DeviceCredential]) -> None:
        tenant, kind, auth_id = key
        self._services.ask(
            CREDENTIALS,
            tenant,
            _get(credential_query(kind, auth_id)),
            lambda answer: done(*_credential(tenant, answer)),
        )


def _get(body: JsonObject) -> Question:
    return Question("get", body=msgspec.json.encode(body))


def _is_touched(key: _DeviceKey, change: RegistryChange) -> bool:
    """True for what is known of the device itself, and of it as a gateway."""
    tenant, device, gateway = key
    return tenant == change.tenant_id and change.device_id in (None, device, gateway)


# --- answers -------------------------------------------------------------------------------------------


def _tenant(answer: Answer | GatewayError) -> tuple[Tenant | GatewayError, float]:
    if isinstance(answer, GatewayError):
        return answer, 0.0
    if answer.status != 200:
        return TenantNotFound() if answer.status in (400, 403, 404) else _busy(), 0.0
    try:
        return tenant_of(answer.body), answer.max_age
    except StoreUnavailable as error:
        return error, 0.0


def _known(tenant: str, answer: Answer | GatewayError) -> tuple[Known | GatewayError, float]:
    if isinstance(answer, GatewayError):
        return answer, 0.0
    if answer.status != 200:
        return _refusal(answer), 0.0
    try:
        return device_of(tenant, answer.body), answer.max_age
    except StoreUnavailable as error:
        return error, 0.0


def _refusal(answer: Answer) -> GatewayError:
    match answer.status:
        case 404:
            return DeviceNotFound()
        case 403:
            return Forbidden(answer.text or None)
        case 400:
            return BadRequest(answer.text or None)
        case _:
            return _busy()


def _credential(
    tenant: str, answer: Answer | GatewayError
) -> tuple[DeviceCredential | GatewayError, float]:
    if isinstance(answer, GatewayError):
        return answer, 0.0
    if answer.status in (400, 404):
        return Unauthenticated("unknown credentials"), 0.0
    if answer.status not in (200, 201):
        return _busy(), 0.0
    try:
        found = credential_of(tenant, answer.body)
    except StoreUnavailable as error:
        return error, 0.0
    return found, 0.0 if found.credential.type in _SECRET_KEYS else answer.max_age


def _busy() -> StoreUnavailable:
    return StoreUnavailable("the registry cannot tell now")
