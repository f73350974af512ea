"""What Hono's services say about tenants, devices and credentials, as the gateway's own values.

Members that are not known here are left aside: a newer service may say more. A tenant's trust anchors come
without identifier and validity, as the service shows only valid ones; here they are valid as long as they are
remembered.
Source: Hono, Tenant, Device Registration and Credentials API.
"""

from __future__ import annotations

import base64
from typing import Any, Final, TypeAlias

import msgspec

from gateway.errors import GatewayError, StoreUnavailable
from gateway.hono.certificates import canonical_dn
from gateway.model.credentials_json import parse_stored
from gateway.model.json import Json, JsonObject
from gateway.model.registry import (
    NO_JSON,
    X509,
    Credential,
    Device,
    DeviceCredential,
    Tenant,
)
from gateway.model.registry_json import check_tenant_id, parse_tenant

_TENANT: Final = (
    "enabled",
    "defaults",
    "minimum-message-size",
    "adapters",
    "resource-limits",
    "tracing",
    "ext",
)
_ANCHOR: Final = (
    "subject-dn",
    "public-key",
    "algorithm",
    "auth-id-template",
    "auto-provisioning-enabled",
    "ocsp-revocation-enabled",
)
_CREDENTIAL: Final = ("type", "auth-id", "enabled", "ext")
_SECRET: Final = (
    "enabled",
    "not-before",
    "not-after",
    "pwd-hash",
    "salt",
    "hash-function",
    "key",
    "algorithm",
)
_ALWAYS: Final[JsonObject] = {
    "not-before": "1970-01-01T00:00:00Z",
    "not-after": "9999-12-31T23:59:59Z",
}

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def tenant_of(body: bytes) -> Tenant:
    """Read the Tenant API's answer.

    Errors: StoreUnavailable for one that cannot be read.
    """
    try:
        document = _decode(body)
        known = _only(document, _TENANT)
        anchors = document.get("trusted-ca")
        if isinstance(anchors, list) and anchors:
            known["trusted-ca"] = [_anchor(number, item) for number, item in enumerate(anchors)]
        return parse_tenant(check_tenant_id(str(document.get("tenant-id"))), known)
    except (GatewayError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable("tenant", error) from error


def _anchor(number: int, value: Json) -> Json:
    known = _only(value, _ANCHOR)
    name = known.get("subject-dn")
    if isinstance(name, str):
        known["subject-dn"] = canonical_dn(name, "trusted-ca.subject-dn")
    return {**known, **_ALWAYS, "id": str(number)}


Known: TypeAlias = tuple[Device, tuple[str, ...]]
"""A device that may be spoken for, and all gateways that may act for it."""


def device_of(tenant: str, body: bytes) -> Known:
    """Read the Device Registration API's answer.

    Errors: StoreUnavailable for one that cannot be read.
    """
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable("device", error) from error
    via, defaults = document.get("via"), document.get("defaults")
    gateways = tuple(g for g in via if isinstance(g, str)) if isinstance(via, list) else ()
    device_id = document.get("device-id")
    if not isinstance(device_id, str) or not device_id:
        raise StoreUnavailable("the registry's answer names no device")
    device = Device(
        tenant_id=tenant,
        device_id=device_id,
        document=document,
        defaults=defaults if isinstance(defaults, dict) else NO_JSON,
        via=gateways,
    )
    return device, gateways


def credential_of(tenant: str, body: bytes) -> DeviceCredential:
    """Read the Credentials API's answer.

    Errors: StoreUnavailable for one that cannot be read.
    """
    try:
        document = _decode(body)
        known = _only(document, _CREDENTIAL)
        secrets = document.get("secrets")
        known["secrets"] = [
            {**_only(item, _SECRET), "id": str(number)}
            for number, item in enumerate(secrets if isinstance(secrets, list) else ())
        ]
        credential: Credential = parse_stored(known)
        return DeviceCredential(tenant, str(document["device-id"]), credential)
    except (GatewayError, msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
        raise _unreadable("credentials", error) from error


def credential_query(kind: str, auth_id: str, certificate: bytes | None = None) -> JsonObject:
    """Return the body of a question to the Credentials API; a certificate asks for provisioning."""
    query: JsonObject = {"type": kind, "auth-id": auth_id}
    if kind == X509 and certificate is not None:
        query["client-certificate"] = base64.b64encode(certificate).decode()
    return query


def _only(value: Json, names: tuple[str, ...]) -> JsonObject:
    if not isinstance(value, dict):
        raise StoreUnavailable("expected an object")
    return {name: value[name] for name in names if value.get(name) is not None}


def _unreadable(what: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"the registry's {what} cannot be read: {str(error)[:200]}")
