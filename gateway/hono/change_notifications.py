"""Registry changes as Hono's components tell them to each other, so that they drop what they have cached.

Source: Hono, notifications of the device registry as seen from outside.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.model.json import JsonObject
from gateway.model.registry import RegistryChange, Subject

TENANTS: Final = "registry-tenant"
DEVICES: Final = "registry-device"
CONTENT_TYPE: Final = "application/json"


def address_of(change: RegistryChange) -> str:
    """Return the last part of the address or topic that a change is told on."""
    return TENANTS if change.subject is Subject.TENANT else DEVICES


def key_of(change: RegistryChange) -> str:
    """Return whose changes have to keep their order: the device's, else the tenant's."""
    return change.device_id or change.tenant_id


def encode_change(change: RegistryChange, at: float, *, invalidates: bool = False) -> bytes:
    """Return the body of a notification.

    Shape:  `invalidates` is the tenant's `ext.invalidate-cache-on-update`.
    Units:  `at` in seconds since the epoch.
    """
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    body: JsonObject = {
        "type": change.subject.value,
        "source": "device-registry",
        "creation-time": moment.replace("+00:00", "Z"),
        "tenant-id": change.tenant_id,
    }
    if change.device_id is not None:
        body["device-id"] = change.device_id
    if change.subject in (Subject.TENANT, Subject.DEVICE):
        body["change"] = change.change.value
        body["enabled"] = change.enabled
    if change.subject is Subject.TENANT:
        body["invalidate-cache-on-update"] = invalidates
    return msgspec.json.encode(body)
