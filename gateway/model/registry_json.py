"""Tenants and devices from and to the management representation of the registry API.

The document that is kept is what the operator wrote, checked member by member, with `enabled` spelled out and
instants in one form; what a record says beyond that is derived from it. Certificates are not read here:
`gateway.hono.certificates` turns a `cert` member into the members it stands for before.
Source: Hono device registry API v1, schemas Tenant, Device and what they refer to.
"""

from __future__ import annotations

import base64

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.model.members import Members, format_instant, parse_instant
from gateway.model.registry import (
    ALIAS,
    AUTO_PROVISIONING,
    DEVICE_ID,
    NO_JSON,
    TENANT_ID,
    UNLIMITED,
    AdapterOptions,
    Device,
    PeriodMode,
    Quota,
    ResourceLimits,
    Tenant,
    TrustAnchor,
)

SAMPLING_MODES = ("default", "all", "none")
TEMPLATE_PLACEHOLDERS = ("{{subject-dn}}", "{{subject-cn}}", "{{subject-ou}}", "{{subject-o}}")


def check_tenant_id(tenant_id: str) -> str:
    """Return `tenant_id`; BadRequest when it breaks the pattern."""
    if not TENANT_ID.fullmatch(tenant_id):
        raise BadRequest(
            f"tenant id: expected 1..255 of letters, digits, '-', '_', '.', got {tenant_id[:64]!r}"
        )
    return tenant_id


def check_device_id(device_id: str) -> str:
    """Return `device_id`; BadRequest when it breaks the pattern."""
    if not DEVICE_ID.fullmatch(device_id):
        raise BadRequest(
            "device id: expected 1..255 of letters, digits, '-', '_', '.', ':', '=',"
            f" got {device_id[:64]!r}"
        )
    return device_id


# --- tenants -------------------------------------------------------------------------------------


def parse_tenant(tenant_id: str, value: Json) -> Tenant:
    """Read a tenant.

    Errors: BadRequest, naming the member.
    """
    members = Members(value)
    document: JsonObject = dict(value) if isinstance(value, dict) else {}
    enabled = members.flag("enabled", True)
    members.object("ext")
    registration = _registration_limits(members.members("registration-limits"))
    _check_tracing(members.members("tracing"))
    trusted = [_trusted_ca(item) for item in members.each("trusted-ca")]
    tenant = Tenant(
        tenant_id=tenant_id,
        document=document,
        enabled=enabled,
        alias=members.text("alias", ALIAS),
        adapters=_adapters(members),
        defaults=members.object("defaults") or NO_JSON,
        minimum_message_size=members.integer("minimum-message-size", 0, 0),
        max_devices=registration[0],
        max_credentials_per_device=registration[1],
        limits=_resource_limits(members.members("resource-limits")),
        trust_anchor_group=members.text("trust-anchor-group", ALIAS),
        anchors=tuple(str(item["subject-dn"]) for item in trusted),
        trust_anchors=tuple(_trust_anchor(item) for item in trusted),
    )
    members.end()
    if len({anchor.anchor_id for anchor in tenant.trust_anchors}) != len(trusted):
        raise members.fail("trusted-ca", "each id once")
    document["enabled"] = enabled
    if trusted:
        document["trusted-ca"] = list(trusted)
    return tenant


def _adapters(members: Members) -> dict[str, AdapterOptions] | None:
    if members.array_is_empty("adapters"):
        raise members.fail("adapters", "at least one entry where it is given")
    adapters: dict[str, AdapterOptions] = {}
    for item in members.each("adapters"):
        kind = item.required_text("type")
        if kind in adapters:
            raise item.fail("type", f"each adapter once, got {kind[:64]!r} twice")
        adapters[kind] = _adapter_options(item)
    return adapters or None


def _adapter_options(item: Members) -> AdapterOptions:
    """Read one entry; these are open objects: further members are kept."""
    is_said = item.has("device-authentication-required")
    is_required = item.flag("device-authentication-required", True)
    return AdapterOptions(
        enabled=item.flag("enabled", False),
        authentication_required=is_required,
        refuses_anonymous=is_said and is_required,
        ext=item.object("ext") or NO_JSON,
    )


def _registration_limits(members: Members | None) -> tuple[int, int]:
    if members is None:
        return UNLIMITED, UNLIMITED
    limits = (
        members.integer("max-devices", UNLIMITED),
        members.integer("max-credentials-per-device", UNLIMITED),
    )
    members.end()
    return limits


def _resource_limits(members: Members | None) -> ResourceLimits:
    if members is None:
        return ResourceLimits()
    members.object("ext")
    limits = ResourceLimits(
        max_connections=members.integer("max-connections", UNLIMITED),
        max_ttl=members.integer("max-ttl", UNLIMITED),
        max_ttl_telemetry_qos0=members.integer("max-ttl-telemetry-qos0", UNLIMITED),
        max_ttl_telemetry_qos1=members.integer("max-ttl-telemetry-qos1", UNLIMITED),
        max_ttl_command_response=members.integer("max-ttl-command-response", UNLIMITED),
        data_volume=_quota(members.members("data-volume"), "max-bytes"),
        connection_duration=_quota(members.members("connection-duration"), "max-minutes"),
    )
    members.end()
    return limits


def _quota(members: Members | None, maximum: str) -> Quota | None:
    if members is None:
        return None
    since = members.instant("effective-since")
    if since is None:
        raise members.fail("effective-since", "a date-time, it is mandatory")
    mode, days = _period(members.members("period"))
    quota = Quota(since, members.integer(maximum, UNLIMITED), mode, days)
    members.end()
    return quota


def _period(members: Members | None) -> tuple[PeriodMode | None, int]:
    if members is None:
        return None, 30
    text = members.required_text("mode")
    try:
        mode = PeriodMode(text)
    except ValueError:
        raise members.fail("mode", f"one of days, monthly, got {text[:64]!r}") from None
    days = members.integer("no-of-days", 0, 1)
    if mode is PeriodMode.DAYS and not days:
        raise members.fail("no-of-days", "a number of days, mode days needs it")
    members.end()
    return mode, days


def _check_tracing(members: Members | None) -> None:
    if members is None:
        return
    modes: JsonObject = {"sampling-mode": members.raw("sampling-mode")}
    modes.update(members.object("sampling-mode-per-auth-id") or {})
    for name, mode in modes.items():
        if mode is not None and mode not in SAMPLING_MODES:
            raise members.fail(name[:64], f"one of {', '.join(SAMPLING_MODES)}")
    members.end()


def _trusted_ca(members: Members) -> JsonObject:
    """Read one trust anchor whose certificate was already turned into key, name and validity."""
    if members.has("cert"):
        raise members.fail("cert", "no certificate here, it has to be read before")
    document: JsonObject = {
        "id": members.required_text("id"),
        "subject-dn": members.required_text("subject-dn"),
        "public-key": members.required_text("public-key"),
        "algorithm": members.text("algorithm") or "RSA",
        **_validity(members, mandatory=True),
        **_templates(members),
    }
    for name in ("auto-provisioning-enabled", "auto-provision-as-gateway"):
        document[name] = members.flag(name, False)
    for name in ("subject-dn-bytes", "ocsp-responder-uri", "ocsp-responder-cert"):
        if (text := members.text(name)) is not None:
            document[name] = text
    for name in ("ocsp-revocation-enabled", "ocsp-nonce-enabled"):
        if members.has(name):
            document[name] = members.flag(name, False)
    members.end()
    return document


def _trust_anchor(document: JsonObject) -> TrustAnchor:
    def instant(name: str) -> int:
        return parse_instant(str(document[name]), name)

    def text(name: str) -> str | None:
        found = document.get(name)
        return found if isinstance(found, str) else None

    return TrustAnchor(
        anchor_id=str(document["id"]),
        subject_dn=str(document["subject-dn"]),
        public_key=_bytes(str(document["public-key"])),
        not_before=instant("not-before"),
        not_after=instant("not-after"),
        auth_id_template=text("auth-id-template"),
        provisions=document["auto-provisioning-enabled"] is True,
        provisions_gateways=document["auto-provision-as-gateway"] is True,
        device_id_template=text("auto-provisioning-device-id-template"),
        checks_revocation=document.get("ocsp-revocation-enabled") is True,
    )


def _bytes(text: str) -> bytes:
    """Read base64; a key that is none is kept as it is written, and trusts nobody."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _templates(members: Members) -> JsonObject:
    found: JsonObject = {}
    for name in ("auth-id-template", "auto-provisioning-device-id-template"):
        text = members.text(name)
        if text is None:
            continue
        if not any(placeholder in text for placeholder in TEMPLATE_PLACEHOLDERS):
            raise members.fail(name, f"at least one of {', '.join(TEMPLATE_PLACEHOLDERS)}")
        found[name] = text
    return found


def _validity(members: Members, *, mandatory: bool) -> JsonObject:
    """Read `not-before` and `not-after`, which must be in this order."""
    bounds = {name: members.instant(name) for name in ("not-before", "not-after")}
    for name, instant in bounds.items():
        if mandatory and instant is None:
            raise members.fail(name, "a date-time, it is mandatory")
    check_order(members, bounds["not-before"], bounds["not-after"])
    return {name: format_instant(at) for name, at in bounds.items() if at is not None}


def check_order(members: Members, not_before: int | None, not_after: int | None) -> None:
    """Refuse a validity that ends before it begins."""
    if not_before is not None and not_after is not None and not_before > not_after:
        raise members.fail("not-before", "an instant that is not later than not-after")


# --- devices -------------------------------------------------------------------------------------


def parse_device(tenant_id: str, device_id: str, value: Json) -> Device:
    """Read a device; `status` is accepted and dropped, the registry writes its own.

    Errors: BadRequest, naming the member.
    """
    members = Members(value)
    document: JsonObject = dict(value) if isinstance(value, dict) else {}
    members.raw("status")
    members.object("ext")
    for name in ("downstream-message-mapper", "upstream-message-mapper"):
        members.text(name)
    _check_command_endpoint(members.members("command-endpoint"))
    device = Device(
        tenant_id=tenant_id,
        device_id=device_id,
        document=document,
        enabled=members.flag("enabled", True),
        defaults=members.object("defaults") or NO_JSON,
        via=members.texts("via"),
        via_groups=members.texts("viaGroups"),
        member_of=members.texts("memberOf"),
        authorities=frozenset(members.texts("authorities")),
    )
    members.end()
    _check_device(device)
    document.pop("status", None)
    document["enabled"] = device.enabled
    for name, ids in (("via", device.via), ("viaGroups", device.via_groups)):
        if ids:
            document[name] = list(ids)
    if device.member_of:
        document["memberOf"] = list(device.member_of)
    return device


def _check_device(device: Device) -> None:
    if device.member_of and (device.via or device.via_groups):
        raise BadRequest("memberOf: expected neither via nor viaGroups beside it")
    unknown = device.authorities - {AUTO_PROVISIONING}
    if unknown:
        raise BadRequest(f"authorities: expected {AUTO_PROVISIONING!r}, got {min(unknown)[:64]!r}")


def _check_command_endpoint(members: Members | None) -> None:
    if members is None:
        return
    members.required_text("uri")
    members.object("headers")
    members.object("payload-properties")
    members.end()
