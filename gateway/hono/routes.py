"""What the registry says about an upload, resolved once: the route, and the rules that it is made of.

Whom an address names, what tenant and device add by default, how long a message lives, which payloads
contradict their content type. Nothing here reads or waits.
Source: Hono, concepts Tenancy and Device identity; API Telemetry, Event, message defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from gateway.errors import BadRequest, Forbidden
from gateway.hono.meters import Meters
from gateway.hono.sampling import TenantSampling, sampling_of
from gateway.model.json import Json
from gateway.model.message import (
    CONTENT_ENCODING,
    EMPTY_NOTIFICATION,
    Adapter,
    Kind,
    Principal,
    Scalar,
    Upload,
)
from gateway.model.registry import UNLIMITED, Assertion, Tenant

_EVENT = Kind.EVENT

IGNORED_DEFAULTS = frozenset(
    {
        "content-type", "ttl", "ttl-telemetry-qos0", "ttl-telemetry-qos1", "ttl-command-response",
        "to", "subject", "reply-to", "message-id", "correlation-id", "creation-time",
        "absolute-expiry-time", "group-id", "group-sequence", "reply-to-group-id", "user-id",
        "durable", "priority", "delivery-count", "first-acquirer",
    }
)  # fmt: skip
"""Defaults that are fields of their own, or that would overwrite standard fields."""


@dataclass(frozen=True, slots=True)
class Ttl:
    """Time to live of one class of messages, in seconds: what applies without a wish, and the cap."""

    default: float | None
    maximum: int

    def effective(self, wished: float | None) -> float | None:
        ttl = self.default if wished is None else wished
        if self.maximum == UNLIMITED:
            return ttl
        return self.maximum if ttl is None else min(ttl, self.maximum)


@dataclass(frozen=True, slots=True)
class Route:
    """Everything about an upload that does not change from message to message."""

    tenant: Tenant
    device: str
    via: str | None
    several_gateways: bool
    content_type: str | None
    properties: Mapping[str, Scalar]
    event_ttl: Ttl
    telemetry_ttl: tuple[float | None, float | None]
    span_attributes: Mapping[str, str]
    adapter: str
    is_metered: bool
    """True when the tenant's data volume is counted."""
    sampling: TenantSampling | None
    """What the tenant says of tracing."""
    forwarded: dict[int, Meters]
    """Meters of forwarded uploads by QoS, events apart: what nearly every message needs."""

    @property
    def devices(self) -> tuple[tuple[str, str], ...]:
        """(tenant, id) of all devices whose registration this depends on."""
        own = (self.tenant.tenant_id, self.device)
        return (own,) if self.via is None else (own, (own[0], self.via))

    def ttl(self, upload: Upload) -> float | None:
        if upload.kind is not _EVENT:
            return self.telemetry_ttl[0 if upload.qos == 0 else 1]
        return self.event_ttl.effective(upload.ttl)


def resolve_address(
    sender: Principal | None, tenant: str | None, device: str | None
) -> tuple[str, str, str | None]:
    """Return (tenant, device, gateway or None) for who sent and what the address said.

    Errors: BadRequest; Forbidden for another tenant.
    """
    if sender is None:
        if not tenant or not device:
            raise BadRequest("address: an unauthenticated device must name tenant and device")
        return tenant, device, None
    if tenant and tenant != sender.tenant:
        raise Forbidden("address: a device may not send for another tenant")
    if not device:
        if tenant:
            raise BadRequest("address: a tenant without a device is not allowed")
        return sender.tenant, sender.device, None
    return sender.tenant, device, None if device == sender.device else sender.device


def make_route(assertion: Assertion, via: str | None, adapter: Adapter) -> Route:
    """Turn the registry's word into what messages need."""
    tenant, device = assertion.tenant, assertion.device
    defaults = {**tenant.defaults, **device.defaults}
    limits = tenant.limits
    attributes = {
        "tenant_id": tenant.tenant_id,
        "device_id": device.device_id,
        "component": adapter.value,
    }
    if via is not None:
        attributes["gateway_id"] = via
    return Route(
        tenant,
        device.device_id,
        via,
        len(assertion.via) > 1,
        default_content_type(defaults),
        scalar_defaults(defaults),
        Ttl(seconds_of(defaults.get("ttl")), limits.max_ttl),
        (
            _telemetry_ttl(defaults, "ttl-telemetry-qos0", limits.max_ttl_telemetry_qos0),
            _telemetry_ttl(defaults, "ttl-telemetry-qos1", limits.max_ttl_telemetry_qos1),
        ),
        attributes,
        adapter.value,
        limits.data_volume is not None,
        sampling_of(tenant),
        {},
    )


def _telemetry_ttl(defaults: Mapping[str, Json], name: str, maximum: int) -> float | None:
    return Ttl(seconds_of(defaults.get(name)), maximum).effective(None)


def scalar_defaults(defaults: Mapping[str, Json]) -> Mapping[str, Scalar]:
    """Return the defaults that become application properties, without those that no message can carry."""
    return {
        name: value
        for name, value in defaults.items()
        if name not in IGNORED_DEFAULTS and _is_carried(value, name)
    }


def _is_carried(value: Json, name: str) -> TypeGuard[Scalar]:
    if name == CONTENT_ENCODING:
        return isinstance(value, str) and value.isascii()
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, str | float)


def default_content_type(defaults: Mapping[str, Json]) -> str | None:
    """Return the content type of messages that come without one; None where there is no usable one."""
    value = defaults.get("content-type")
    return value if isinstance(value, str) and value.isascii() else None


def seconds_of(value: Json) -> float | None:
    """Return a default that is a time in seconds; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and value >= 0 else None  # type: ignore[arg-type, operator]


def check_content_type(content_type: str | None) -> None:
    """Refuse a content type that no application could be given: in AMQP it is a symbol.

    Errors: BadRequest.
    """
    if content_type is not None and not content_type.isascii():
        raise BadRequest("content type: expected ASCII")


def check_payload(payload: bytes, content_type: str | None) -> None:
    """Refuse a payload that its content type contradicts; `content_type` is the device's own.

    Errors: BadRequest.
    """
    check_content_type(content_type)
    if not payload and content_type is None:
        raise BadRequest("an empty payload needs a content type")
    if payload and content_type == EMPTY_NOTIFICATION:
        raise BadRequest(f"content type [{content_type}] does not match payload")
