"""The registry's tables: each function is one piece of work on a connection, atomic as its caller runs it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import Conflict, DeviceNotFound, Forbidden, PreconditionFailed, TenantNotFound
from gateway.model.credentials_json import merge, parse_stored, stored_json
from gateway.model.json import JsonObject
from gateway.model.registry import UNLIMITED, Credential, Device, DeviceCredential, Tenant
from gateway.model.registry_json import parse_device, parse_tenant

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class StoredDevice:
    """A device with what the registry keeps about it; `gateways` are all that may act for it."""

    device: Device
    status: JsonObject
    version: str
    gateways: tuple[str, ...] = ()


def _text(document: JsonObject) -> str:
    return _encode(document).decode()


def check_version(current: str, if_match: str | None) -> None:
    """Refuse a change that was made for another version; no condition matches all."""
    if if_match and if_match != current:
        raise PreconditionFailed("resource version mismatch")


# --- tenants -------------------------------------------------------------------------------------


def load_tenant(db: sqlite3.Connection, tenant_id: str) -> tuple[Tenant, str] | None:
    """Find a tenant by its id alone."""
    row = db.execute("SELECT document, version FROM tenant WHERE id = ?", (tenant_id,)).fetchone()
    return None if row is None else (parse_tenant(tenant_id, _decode(row[0])), row[1])


def find_tenant(db: sqlite3.Connection, name: str) -> Tenant:
    """Find a tenant by id or alias, as adapters do.

    Errors: TenantNotFound.
    """
    row = db.execute(
        "SELECT id, document FROM tenant WHERE id = ?1 OR alias = ?1 ORDER BY id = ?1 DESC", (name,)
    ).fetchone()
    if row is None:
        raise TenantNotFound
    return parse_tenant(row[0], _decode(row[1]))


def find_tenant_by_anchor(db: sqlite3.Connection, subject_dn: str) -> Tenant:
    """Find the one tenant that trusts a certificate authority.

    Errors: TenantNotFound, also where several tenants of a group trust it.
    """
    rows = db.execute(
        "SELECT t.id, t.document FROM tenant_anchor a JOIN tenant t ON t.id = a.tenant"
        " WHERE a.subject_dn = ? LIMIT 2",
        (subject_dn,),
    ).fetchall()
    if len(rows) != 1:
        raise TenantNotFound
    return parse_tenant(rows[0][0], _decode(rows[0][1]))


def required_tenant(db: sqlite3.Connection, tenant_id: str) -> tuple[Tenant, str]:
    """Find a tenant by its id; TenantNotFound names it as the management API does."""
    found = load_tenant(db, tenant_id)
    if found is None:
        raise TenantNotFound(f"no such tenant: {tenant_id}")
    return found


def insert_tenant(db: sqlite3.Connection, tenant: Tenant, version: str) -> None:
    """Add a tenant.

    Errors: Conflict for an id or alias that is taken, or a foreign trust anchor.
    """
    if db.execute("SELECT 1 FROM tenant WHERE id = ?", (tenant.tenant_id,)).fetchone():
        raise Conflict("tenant with given identifier already exists")
    _check_names(db, tenant)
    db.execute(
        "INSERT INTO tenant (id, alias, trust_anchor_group, document, version) VALUES (?, ?, ?, ?, ?)",
        (
            tenant.tenant_id,
            tenant.alias,
            tenant.trust_anchor_group,
            _text(tenant.document),
            version,
        ),
    )
    _write_anchors(db, tenant)


def update_tenant(
    db: sqlite3.Connection, tenant: Tenant, version: str, if_match: str | None
) -> None:
    """Replace a tenant.

    Errors: TenantNotFound; PreconditionFailed; Conflict as `insert_tenant`.
    """
    _, current = required_tenant(db, tenant.tenant_id)
    check_version(current, if_match)
    _check_names(db, tenant)
    db.execute(
        "UPDATE tenant SET alias = ?, trust_anchor_group = ?, document = ?, version = ? WHERE id = ?",
        (
            tenant.alias,
            tenant.trust_anchor_group,
            _text(tenant.document),
            version,
            tenant.tenant_id,
        ),
    )
    _write_anchors(db, tenant)


def _check_names(db: sqlite3.Connection, tenant: Tenant) -> None:
    own = tenant.tenant_id
    if db.execute("SELECT 1 FROM tenant WHERE alias = ?1 AND id <> ?1", (own,)).fetchone():
        raise Conflict("identifier is the alias of another tenant")
    taken = "SELECT 1 FROM tenant WHERE (alias = ?1 OR id = ?1) AND id <> ?2"
    if tenant.alias is not None and db.execute(taken, (tenant.alias, own)).fetchone():
        raise Conflict("alias is used by another tenant")


def _write_anchors(db: sqlite3.Connection, tenant: Tenant) -> None:
    """Note whose certificate authorities a tenant trusts; tenants share one only within a group."""
    db.execute("DELETE FROM tenant_anchor WHERE tenant = ?", (tenant.tenant_id,))
    for subject_dn in set(tenant.anchors):
        foreign = db.execute(
            "SELECT 1 FROM tenant_anchor a JOIN tenant t ON t.id = a.tenant WHERE a.subject_dn = ?"
            " AND (t.trust_anchor_group IS NULL OR t.trust_anchor_group IS NOT ?)",
            (subject_dn, tenant.trust_anchor_group),
        ).fetchone()
        if foreign:
            raise Conflict("certificate authority is already used by another tenant")
        db.execute("INSERT INTO tenant_anchor VALUES (?, ?)", (subject_dn, tenant.tenant_id))


def delete_tenant(db: sqlite3.Connection, tenant_id: str, if_match: str | None) -> None:
    """Remove a tenant and what it used; its devices stay until they are deleted.

    Errors: TenantNotFound; PreconditionFailed.
    """
    _, current = required_tenant(db, tenant_id)
    check_version(current, if_match)
    db.execute("DELETE FROM tenant WHERE id = ?", (tenant_id,))
    db.execute("DELETE FROM tenant_usage WHERE tenant = ?", (tenant_id,))


def count_tenants(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM tenant").fetchone()[0])


def each_tenant(db: sqlite3.Connection) -> Iterator[JsonObject]:
    """Yield all tenants as a search shows them."""
    for tenant_id, document in db.execute("SELECT id, document FROM tenant ORDER BY id"):
        yield {"id": tenant_id, **_decode(document)}


# --- devices -------------------------------------------------------------------------------------


def load_device(db: sqlite3.Connection, tenant_id: str, device_id: str) -> StoredDevice:
    """Find a device.

    Errors: DeviceNotFound.
    """
    row = db.execute(
        "SELECT document, status, version FROM device WHERE tenant = ? AND id = ?",
        (tenant_id, device_id),
    ).fetchone()
    if row is None:
        raise DeviceNotFound
    device = parse_device(tenant_id, device_id, _decode(row[0]))
    return StoredDevice(device, _decode(row[1]), row[2], _gateways_of(db, device))


def _gateways_of(db: sqlite3.Connection, device: Device) -> tuple[str, ...]:
    if not device.via_groups:
        return device.via
    marks = ", ".join("?" * len(device.via_groups))
    rows = db.execute(
        f"SELECT DISTINCT device FROM device_member WHERE tenant = ? AND group_id IN ({marks})"  # noqa: S608 marks only
        " ORDER BY device",
        (device.tenant_id, *device.via_groups),
    )
    return tuple(dict.fromkeys((*device.via, *(row[0] for row in rows))))


def insert_device(
    db: sqlite3.Connection, device: Device, status: JsonObject, versions: tuple[str, str]
) -> None:
    """Add a device with an empty set of credentials; `versions` of the device and of that set.

    Errors: TenantNotFound; Conflict; Forbidden over the tenant's limit.
    """
    tenant, _ = required_tenant(db, device.tenant_id)
    key = (device.tenant_id, device.device_id)
    if db.execute("SELECT 1 FROM device WHERE tenant = ? AND id = ?", key).fetchone():
        raise Conflict("device with given identifier already exists")
    if tenant.max_devices != UNLIMITED and _count_devices(db, key[0]) >= tenant.max_devices:
        raise Forbidden(f"configured maximum number of devices ({tenant.max_devices}) reached")
    db.execute(
        "INSERT INTO device (tenant, id, document, status, version, credentials_version)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (*key, _text(device.document), _text(status), *versions),
    )
    _write_roles(db, device)


def _count_devices(db: sqlite3.Connection, tenant_id: str) -> int:
    row = db.execute("SELECT count(*) FROM device WHERE tenant = ?", (tenant_id,)).fetchone()
    return int(row[0])


def update_device(
    db: sqlite3.Connection, device: Device, updated: str, version: str, if_match: str | None
) -> StoredDevice:
    """Replace a device; returns what it was before.

    Errors: TenantNotFound; DeviceNotFound; PreconditionFailed.
    """
    required_tenant(db, device.tenant_id)
    before = load_device(db, device.tenant_id, device.device_id)
    check_version(before.version, if_match)
    status = {**before.status, "updated": updated}
    db.execute(
        "UPDATE device SET document = ?, status = ?, version = ? WHERE tenant = ? AND id = ?",
        (_text(device.document), _text(status), version, device.tenant_id, device.device_id),
    )
    _write_roles(db, device)
    return before


def _write_roles(db: sqlite3.Connection, device: Device) -> None:
    key = (device.tenant_id, device.device_id)
    db.execute("DELETE FROM device_via WHERE tenant = ? AND device = ?", key)
    db.execute("DELETE FROM device_member WHERE tenant = ? AND device = ?", key)
    db.executemany(
        "INSERT INTO device_via (tenant, gateway, device) VALUES (?, ?, ?)",
        [(key[0], gateway, key[1]) for gateway in set(device.via)],
    )
    db.executemany(
        "INSERT INTO device_member (tenant, group_id, device) VALUES (?, ?, ?)",
        [(key[0], group, key[1]) for group in set(device.member_of)],
    )


def delete_device(
    db: sqlite3.Connection, tenant_id: str, device_id: str, if_match: str | None
) -> StoredDevice:
    """Remove a device and its credentials; returns what it was.

    Errors: DeviceNotFound; PreconditionFailed.
    """
    before = load_device(db, tenant_id, device_id)
    check_version(before.version, if_match)
    db.execute("DELETE FROM device WHERE tenant = ? AND id = ?", (tenant_id, device_id))
    return before


def delete_devices(db: sqlite3.Connection, tenant_id: str) -> int:
    """Remove all devices of a tenant, also of one that is gone; returns how many there were."""
    cursor = db.execute("DELETE FROM device WHERE tenant = ?", (tenant_id,))
    if not cursor.rowcount and load_tenant(db, tenant_id) is None:
        raise TenantNotFound(f"no such tenant: {tenant_id}")
    return cursor.rowcount


def each_device(
    db: sqlite3.Connection, tenant_id: str, is_gateway: bool | None
) -> Iterator[JsonObject]:
    """Yield a tenant's devices as a search shows them; `is_gateway` None takes all.

    Errors: TenantNotFound.
    """
    required_tenant(db, tenant_id)
    rows = db.execute(
        "SELECT id, document, status, EXISTS (SELECT 1 FROM device_via v WHERE v.tenant = d.tenant"
        " AND v.gateway = d.id) OR EXISTS (SELECT 1 FROM device_member m WHERE m.tenant = d.tenant"
        " AND m.device = d.id) FROM device d WHERE tenant = ? ORDER BY id",
        (tenant_id,),
    )
    for device_id, document, status, acts_as_gateway in rows:
        if is_gateway is None or is_gateway == bool(acts_as_gateway):
            yield {"id": device_id, **_decode(document), "status": _decode(status)}


# --- credentials ---------------------------------------------------------------------------------


def load_credentials(
    db: sqlite3.Connection, tenant_id: str, device_id: str
) -> tuple[tuple[Credential, ...], str]:
    """Return a device's credentials and the version of the set.

    Errors: DeviceNotFound.
    """
    key = (tenant_id, device_id)
    row = db.execute(
        "SELECT credentials_version FROM device WHERE tenant = ? AND id = ?", key
    ).fetchone()
    if row is None:
        raise DeviceNotFound(f"no such device: {device_id}")
    rows = db.execute(
        "SELECT document FROM credential WHERE tenant = ? AND device = ? ORDER BY position", key
    )
    return tuple(parse_stored(_decode(document)) for (document,) in rows), row[0]


def find_credential(
    db: sqlite3.Connection, tenant_id: str, kind: str, auth_id: str
) -> DeviceCredential | None:
    """Return the credential of that type and auth-id, whatever its state."""
    row = db.execute(
        "SELECT device, document FROM credential WHERE tenant = ? AND type = ? AND auth_id = ?",
        (tenant_id, kind, auth_id),
    ).fetchone()
    if row is None:
        return None
    return DeviceCredential(tenant_id, row[0], parse_stored(_decode(row[1])))


def replace_credentials(
    db: sqlite3.Connection,
    owner: tuple[str, str],
    drafts: Sequence[Credential],
    version: str,
    if_match: str | None,
    new_id: Callable[[], str],
) -> None:
    """Replace the credentials of `owner` (tenant, device), keeping what the drafts refer to.

    Errors: TenantNotFound; DeviceNotFound; PreconditionFailed; BadRequest for an unknown secret id;
            Conflict for an auth-id of another device; Forbidden over the tenant's limit.
    """
    tenant, _ = required_tenant(db, owner[0])
    stored, current = load_credentials(db, *owner)
    check_version(current, if_match)
    limit = tenant.max_credentials_per_device
    if limit != UNLIMITED and len(drafts) > limit:
        raise Forbidden(f"configured maximum number of credentials per device ({limit}) exceeded")
    merged = merge(drafts, stored, new_id)
    db.execute("DELETE FROM credential WHERE tenant = ? AND device = ?", owner)
    for position, credential in enumerate(merged):
        insert_credential(db, owner, position, credential)
    db.execute(
        "UPDATE device SET credentials_version = ? WHERE tenant = ? AND id = ?", (version, *owner)
    )


def insert_credential(
    db: sqlite3.Connection, owner: tuple[str, str], position: int, credential: Credential
) -> None:
    """Add one credential.

    Errors: Conflict for an auth-id of another device.
    """
    tenant, device = owner
    key = (tenant, credential.type, credential.auth_id)
    try:
        db.execute(
            "INSERT INTO credential (tenant, type, auth_id, device, position, document)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (*key, device, position, _text(stored_json(credential))),
        )
    except sqlite3.IntegrityError as error:
        raise Conflict(
            f"credentials of type {credential.type} with auth-id {credential.auth_id} belong to"
            " another device"
        ) from error
