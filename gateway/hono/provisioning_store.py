"""The registry's tables, as provisioning uses them: each function is one piece of work on a connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from gateway.errors import Forbidden
from gateway.hono import registry_store as store
from gateway.hono.registry_store import StoredDevice
from gateway.model.json import JsonObject
from gateway.model.registry import UNLIMITED, Credential, Device, DeviceCredential

SENT = "auto-provisioning-notification-sent"
_UNANNOUNCED = (
    "json_extract(status, '$.\"auto-provisioned\"') = 1"
    " AND json_extract(status, '$.\"auto-provisioning-notification-sent\"') = 0"
)


def add_device(
    db: sqlite3.Connection, device: Device, status: JsonObject, versions: tuple[str, str]
) -> tuple[StoredDevice, bool]:
    """Add a device unless it is there; returns it as stored, and whether it is new.

    Errors: as `registry_store.insert_device`.
    """
    key = (device.tenant_id, device.device_id)
    if db.execute("SELECT 1 FROM device WHERE tenant = ? AND id = ?", key).fetchone():
        return store.load_device(db, *key), False
    store.insert_device(db, device, status, versions)
    return store.load_device(db, *key), True


def add_device_with_credential(
    db: sqlite3.Connection,
    device: Device,
    credential: Credential,
    status: JsonObject,
    versions: tuple[str, str],
) -> tuple[DeviceCredential, bool]:
    """Add a device and its credential unless that credential is there; returns it, and whether it is new.

    Errors: as `registry_store.insert_device`; Forbidden when the tenant allows a device no credentials.
    """
    tenant = device.tenant_id
    found = store.find_credential(db, tenant, credential.type, credential.auth_id)
    if found is not None:
        return found, False
    store.insert_device(db, device, status, versions)
    limit = store.required_tenant(db, tenant)[0].max_credentials_per_device
    if limit != UNLIMITED and limit < 1:
        raise Forbidden(f"configured maximum number of credentials per device ({limit}) exceeded")
    store.insert_credential(db, (tenant, device.device_id), 0, credential)
    return DeviceCredential(tenant, device.device_id, credential), True


def unannounced(db: sqlite3.Connection, limit: int) -> Iterator[StoredDevice]:
    """Yield devices whose provisioning has not been announced."""
    rows = db.execute(
        f"SELECT tenant, id FROM device WHERE {_UNANNOUNCED} ORDER BY tenant, id LIMIT ?",  # noqa: S608 fixed text
        (limit,),
    ).fetchall()
    for tenant, device in rows:
        yield store.load_device(db, tenant, device)


def mark_announced(db: sqlite3.Connection, tenant: str, device: str) -> None:
    """Note that a device's provisioning was announced; a device that has gone is none of it."""
    db.execute(
        f"UPDATE device SET status = json_set(status, '$.\"{SENT}\"', json('true'))"  # noqa: S608 fixed text
        " WHERE tenant = ? AND id = ?",
        (tenant, device),
    )
