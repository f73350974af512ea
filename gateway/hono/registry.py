"""The device registry: the single owner of tenants, devices and credentials.

Management calls are coroutines that return once the change is on disk. Adapters ask through `find_tenant`,
`assert_device` and `find_credential`: callbacks, answered at once from memory where the entry is known.
After each commit the caches forget what it touched, then the listeners of `on_change` are told; a listener
must not block.
Full of waiting reads or writes: StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

from gateway.errors import (
    DeviceNotFound,
    Forbidden,
    GatewayDisabled,
    GatewayError,
    TenantDisabled,
    Unauthenticated,
)
from gateway.hono import registry_store as store
from gateway.hono.certificates import expand_credentials, expand_tenant, templates_of
from gateway.hono.passwords import PasswordPool
from gateway.hono.read_cache import ReadCache
from gateway.hono.registry_changes import device_change
from gateway.hono.registry_store import StoredDevice
from gateway.hono.search import Search
from gateway.model.credentials_json import PLAIN, credential_json, parse_credentials
from gateway.model.json import Json, JsonObject
from gateway.model.members import format_instant
from gateway.model.registry import (
    Assertion,
    Change,
    Credential,
    DeviceCredential,
    RegistryChange,
    Secret,
    Subject,
    Tenant,
)
from gateway.model.registry_json import check_device_id, check_tenant_id, parse_device, parse_tenant
from gateway.observe.metrics import Metrics
from gateway.store.database import Database, T

log = logging.getLogger(__name__)

Listener = Callable[[RegistryChange], None]
UnknownDevice = Callable[[Tenant, str, str, Callable[[Assertion | GatewayError], None]], None]
"""What is done about (tenant, device, gateway)."""


def new_id() -> str:
    """Return an id nobody has: a random UUID, as Hono's registries use."""
    return str(uuid4())


class Registry:
    """Tenants, devices and credentials in schema `gateway`; a module that is up while reads are served.

    Shape:  `clock` gives seconds since the epoch.
    """

    name = "registry"

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        *,
        passwords: PasswordPool | None = None,
        max_bcrypt_cost: int = 10,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.passwords = pool = passwords or PasswordPool()
        metrics.own.watch_queue("device_passwords", lambda: pool.depth, pool.limit)
        self._database = database
        self._metrics = metrics
        self._max_bcrypt_cost = max_bcrypt_cost
        self._clock = clock
        self._listeners: list[Listener] = []
        self._tenants: ReadCache[str, Tenant] = ReadCache(self._read_tenant, capacity=10_000)
        self._anchors: ReadCache[str, Tenant] = ReadCache(self._read_anchor, capacity=10_000)
        self._devices: ReadCache[tuple[str, str], StoredDevice] = ReadCache(self._read_device)
        self._credentials: ReadCache[tuple[str, str, str], DeviceCredential] = ReadCache(
            self._read_credential
        )
        self.on_unknown_device: UnknownDevice | None = None
        """Asked when a gateway speaks for a device that is not there, e.g. to provision it."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; then answer what waits and end the hashing threads."""
        self._metrics.tenants.set(await self._database.read(store.count_tenants))
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            for cache in (self._tenants, self._anchors, self._devices, self._credentials):
                await cache.close()
            self.passwords.close()

    # --- what adapters ask ------------------------------------------------------------------------

    def find_tenant(self, name: str, done: Callable[[Tenant | GatewayError], None]) -> None:
        """Find a tenant by id or alias, also a disabled one.

        Errors (through `done`): TenantNotFound; StoreUnavailable.
        """
        self._tenants.get(name, done)

    def find_tenant_by_anchor(
        self, subject_dn: str, done: Callable[[Tenant | GatewayError], None]
    ) -> None:
        """Find the tenant that trusts a certificate authority, named as `canonical_dn` writes names.

        Errors (through `done`): TenantNotFound, also where several tenants trust it; StoreUnavailable.
        """
        self._anchors.get(subject_dn, done)

    def cached_tenant(self, name: str) -> Tenant | None:
        """Return the tenant if it is in memory, without reading."""
        return self._tenants.peek(name)

    def assert_device(
        self,
        tenant: str,
        device: str,
        gateway: str | None,
        done: Callable[[Assertion | GatewayError], None],
    ) -> None:
        """Ask whether a device may be spoken for: all enabled, `gateway` (another device) authorised.

        Errors (through `done`): TenantNotFound; TenantDisabled; DeviceNotFound (unknown or disabled);
            GatewayDisabled; Forbidden; StoreUnavailable.
        """

        def with_tenant(found: Tenant | GatewayError) -> None:
            if isinstance(found, GatewayError):
                done(found)
            elif not found.enabled:
                done(TenantDisabled())
            else:
                self._with_device(found, device, gateway, done)

        self._tenants.get(tenant, with_tenant)

    def _with_device(
        self,
        tenant: Tenant,
        device: str,
        gateway: str | None,
        done: Callable[[Assertion | GatewayError], None],
    ) -> None:
        def with_device(found: StoredDevice | GatewayError) -> None:
            is_absent = isinstance(found, DeviceNotFound)
            if is_absent and gateway not in (None, device) and self.on_unknown_device is not None:
                self.on_unknown_device(tenant, device, str(gateway), done)
            elif isinstance(found, GatewayError):
                done(found)
            elif not found.device.enabled:
                done(DeviceNotFound())
            elif gateway is None or gateway == device:
                done(Assertion(tenant, found.device, found.gateways))
            else:
                self._with_gateway(tenant, found, gateway, done)

        self._devices.get((tenant.tenant_id, device), with_device)

    def _with_gateway(
        self,
        tenant: Tenant,
        device: StoredDevice,
        gateway: str,
        done: Callable[[Assertion | GatewayError], None],
    ) -> None:
        def with_gateway(found: StoredDevice | GatewayError) -> None:
            if isinstance(found, DeviceNotFound):
                done(GatewayDisabled())
            elif isinstance(found, GatewayError):
                done(found)
            elif not found.device.enabled:
                done(GatewayDisabled())
            elif gateway not in device.gateways:
                done(Forbidden("gateway is not authorized to act on behalf of the device"))
            else:
                done(Assertion(tenant, device.device, device.gateways))

        self._devices.get((tenant.tenant_id, gateway), with_gateway)

    def find_device(
        self, tenant: str, device: str, done: Callable[[StoredDevice | GatewayError], None]
    ) -> None:
        """Find a device by its tenant's id, also a disabled one.

        Errors (through `done`): DeviceNotFound; StoreUnavailable.
        """
        self._devices.get((tenant, device), done)

    def find_credential(
        self,
        tenant: str,
        kind: str,
        auth_id: str,
        done: Callable[[DeviceCredential | GatewayError], None],
    ) -> None:
        """Find a credential; validity is the caller's to check.

        Errors (through `done`): Unauthenticated when there is none; StoreUnavailable.
        """
        self._credentials.get((tenant, kind, auth_id), done)

    def on_change(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` every committed change, on the loop; returns the way to end it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def _read_tenant(self, name: str) -> Tenant:
        return await self._database.read(lambda db: store.find_tenant(db, name))

    async def _read_anchor(self, subject_dn: str) -> Tenant:
        return await self._database.read(lambda db: store.find_tenant_by_anchor(db, subject_dn))

    async def _read_device(self, key: tuple[str, str]) -> StoredDevice:
        return await self._database.read(lambda db: store.load_device(db, *key))

    async def _read_credential(self, key: tuple[str, str, str]) -> DeviceCredential:
        found = await self._database.read(lambda db: store.find_credential(db, *key))
        if found is None:
            raise Unauthenticated("unknown credentials")
        return found

    # --- tenants --------------------------------------------------------------------------------

    async def create_tenant(self, tenant_id: str | None, body: Json) -> tuple[str, str]:
        """Add a tenant; returns its id and version.

        Errors: BadRequest; Conflict.
        """
        tenant = parse_tenant(check_tenant_id(tenant_id or new_id()), expand_tenant(body, new_id))
        version = new_id()
        change = RegistryChange(
            Subject.TENANT, Change.CREATE, tenant.tenant_id, enabled=tenant.enabled
        )
        await self.write(lambda db: store.insert_tenant(db, tenant, version), lambda _: change)
        self._metrics.tenants.inc()
        return tenant.tenant_id, version

    async def read_tenant(self, tenant_id: str) -> tuple[JsonObject, str]:
        """Return a tenant's document and version.

        Errors: TenantNotFound.
        """
        check_tenant_id(tenant_id)
        tenant, version = await self._database.read(lambda db: store.required_tenant(db, tenant_id))
        return tenant.document, version

    async def update_tenant(self, tenant_id: str, body: Json, if_match: str | None) -> str:
        """Replace a tenant; returns its new version.

        Errors: BadRequest; TenantNotFound; Conflict; PreconditionFailed.
        """
        tenant = parse_tenant(check_tenant_id(tenant_id), expand_tenant(body, new_id))
        version = new_id()
        change = RegistryChange(Subject.TENANT, Change.UPDATE, tenant_id, enabled=tenant.enabled)
        await self.write(
            lambda db: store.update_tenant(db, tenant, version, if_match), lambda _: change
        )
        return version

    async def delete_tenant(self, tenant_id: str, if_match: str | None) -> None:
        """Remove a tenant; its devices stay.

        Errors: TenantNotFound; PreconditionFailed.
        """
        check_tenant_id(tenant_id)
        change = RegistryChange(Subject.TENANT, Change.DELETE, tenant_id)
        await self.write(
            lambda db: store.delete_tenant(db, tenant_id, if_match), lambda _: change, grows=False
        )
        self._metrics.tenants.dec()

    async def search_tenants(self, search: Search) -> JsonObject:
        """Return the tenants that match.

        Errors: NotFound when none does.
        """
        return await self._database.read(lambda db: search.run(store.each_tenant(db)))

    # --- devices --------------------------------------------------------------------------------

    async def create_device(
        self, tenant_id: str, device_id: str | None, body: Json
    ) -> tuple[str, str]:
        """Add a device with no credentials; returns its id and version.

        Errors: BadRequest; TenantNotFound; Conflict; Forbidden over the tenant's limit.
        """
        check_tenant_id(tenant_id)
        device = parse_device(tenant_id, check_device_id(device_id or new_id()), body)
        versions = (new_id(), new_id())
        status: JsonObject = {
            "created": format_instant(self._clock()),
            "auto-provisioned": False,
            "auto-provisioning-notification-sent": False,
        }
        await self.write(
            lambda db: store.insert_device(db, device, status, versions),
            lambda _: device_change(Change.CREATE, device),
        )
        return device.device_id, versions[0]

    async def read_device(self, tenant_id: str, device_id: str) -> tuple[JsonObject, str]:
        """Return a device's document with its status, and its version.

        Errors: TenantNotFound; DeviceNotFound.
        """
        check_tenant_id(tenant_id)
        check_device_id(device_id)

        def work(db: sqlite3.Connection) -> StoredDevice:
            store.required_tenant(db, tenant_id)
            return store.load_device(db, tenant_id, device_id)

        found = await self._database.read(work)
        return {**found.device.document, "status": found.status}, found.version

    async def update_device(
        self, tenant_id: str, device_id: str, body: Json, if_match: str | None
    ) -> str:
        """Replace a device; returns its new version.

        Errors: BadRequest; TenantNotFound; DeviceNotFound; PreconditionFailed.
        """
        check_tenant_id(tenant_id)
        device = parse_device(tenant_id, check_device_id(device_id), body)
        version, now = new_id(), format_instant(self._clock())
        await self.write(
            lambda db: store.update_device(db, device, now, version, if_match),
            lambda before: device_change(Change.UPDATE, device, before.device),
        )
        return version

    async def delete_device(self, tenant_id: str, device_id: str, if_match: str | None) -> None:
        """Remove a device and its credentials.

        Errors: DeviceNotFound; PreconditionFailed.
        """
        check_tenant_id(tenant_id)
        check_device_id(device_id)
        await self.write(
            lambda db: store.delete_device(db, tenant_id, device_id, if_match),
            lambda before: device_change(Change.DELETE, before.device),
            grows=False,
        )

    async def delete_devices(self, tenant_id: str) -> None:
        """Remove all devices of a tenant, also of one that is gone.

        Errors: TenantNotFound when there is neither tenant nor device.
        """
        check_tenant_id(tenant_id)
        change = RegistryChange(Subject.ALL_DEVICES, Change.DELETE, tenant_id)
        await self.write(
            lambda db: store.delete_devices(db, tenant_id), lambda _: change, grows=False
        )

    async def search_devices(self, tenant_id: str, search: Search) -> JsonObject:
        """Return the devices of a tenant that match.

        Errors: TenantNotFound; NotFound when none matches.
        """
        check_tenant_id(tenant_id)
        return await self._database.read(
            lambda db: search.run(store.each_device(db, tenant_id, search.is_gateway))
        )

    # --- credentials ----------------------------------------------------------------------------

    async def read_credentials(self, tenant_id: str, device_id: str) -> tuple[list[Json], str]:
        """Return a device's credentials without their confidential members, and the set's version.

        Errors: TenantNotFound; DeviceNotFound.
        """
        check_tenant_id(tenant_id)
        check_device_id(device_id)

        def work(db: sqlite3.Connection) -> tuple[tuple[Credential, ...], str]:
            store.required_tenant(db, tenant_id)
            return store.load_credentials(db, tenant_id, device_id)

        credentials, version = await self._database.read(work)
        return [credential_json(c) for c in credentials], version

    async def update_credentials(
        self, tenant_id: str, device_id: str, body: Json, if_match: str | None
    ) -> str:
        """Replace a device's credentials; returns the set's new version.

        Errors: BadRequest; TenantNotFound; DeviceNotFound; Conflict; Forbidden; PreconditionFailed;
            StoreUnavailable when too many passwords wait to be hashed.
        """
        owner = (check_tenant_id(tenant_id), check_device_id(device_id))
        tenant, _ = await self._database.read(lambda db: store.required_tenant(db, tenant_id))
        expanded = expand_credentials(body, templates_of(tenant.document))
        drafts = parse_credentials(expanded, self._max_bcrypt_cost)
        hashed = [await self._hashed(draft) for draft in drafts]
        version = new_id()
        change = RegistryChange(Subject.CREDENTIALS, Change.UPDATE, tenant_id, device_id)
        await self.write(
            lambda db: store.replace_credentials(db, owner, hashed, version, if_match, new_id),
            lambda _: change,
        )
        return version

    async def _hashed(self, draft: Credential) -> Credential:
        secrets = [await self._hashed_secret(secret) for secret in draft.secrets]
        return replace(draft, secrets=tuple(secrets))

    async def _hashed_secret(self, secret: Secret) -> Secret:
        plain = secret.data.get(PLAIN)
        if plain is None:
            return secret
        pwd_hash = await self.passwords.hash(plain)
        return replace(secret, data={"pwd-hash": pwd_hash, "hash-function": "bcrypt"})

    # --- commits --------------------------------------------------------------------------------

    async def write(
        self,
        work: Callable[[sqlite3.Connection], T],
        change_of: Callable[[T], RegistryChange | None],
        *,
        grows: bool = True,
    ) -> T:
        """Run a write as `submit` does and wait for it."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | GatewayError) -> None:
            if future.done():
                return  # the caller went away; the change stands
            if isinstance(result, GatewayError):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(work, change_of, done, grows=grows)
        return await future

    def submit(
        self,
        work: Callable[[sqlite3.Connection], T],
        change_of: Callable[[T], RegistryChange | None],
        done: Callable[[T | GatewayError], None],
        *,
        grows: bool = True,
    ) -> None:
        """Run a write; drop what it touched and tell the listeners before `done` hears the result.

        Shape:  `change_of` says what the result changed, None for nothing; `grows` as the database's.
        """

        def committed(result: T | GatewayError) -> None:
            if not isinstance(result, GatewayError) and (change := change_of(result)) is not None:
                self._changed(change)
            done(result)

        self._database.submit(work, committed, grows=grows)

    def _changed(self, change: RegistryChange) -> None:
        if change.subject is Subject.TENANT:
            self._tenants.drop(lambda _, tenant: tenant.tenant_id == change.tenant_id)
            self._anchors.drop(lambda _name, _tenant: True)
        elif change.subject is Subject.DEVICE and change.device_id and not change.regroups:
            self._devices.discard((change.tenant_id, change.device_id))
        elif change.subject is not Subject.CREDENTIALS:
            self._devices.drop(lambda key, _: key[0] == change.tenant_id)
        if change.change is not Change.CREATE:
            self._credentials.drop(lambda _, c: change.concerns(c.tenant_id, c.device_id))
        for listener in tuple(self._listeners):
            try:
                listener(change)
            except Exception:  # top of a callback: the others and the caller must hear of it
                log.exception("a registry change was not taken")
