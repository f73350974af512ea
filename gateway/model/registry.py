"""Tenants, devices and credentials as the registry knows them, and what changed about them.

A value is made by `parse_tenant`, `parse_device` (`gateway.model.registry_json`) or `parse_credentials`
(`gateway.model.credentials_json`) only, so what exists is valid. `document` keeps the management
representation, written out with what the registry derives; the other fields are the parts that somebody asks
for on a hot path.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gateway.model.json import Json, JsonObject

TENANT_ID = re.compile(r"[a-zA-Z0-9\-_.]{1,255}")
DEVICE_ID = re.compile(r"[a-zA-Z0-9\-_.:=]{1,255}")
AUTH_ID = re.compile(r"[a-zA-Z0-9\-_=.]{1,255}")
CREDENTIAL_TYPE = re.compile(r"[a-z0-9-]{1,64}")
ALIAS = re.compile(r"[a-z0-9-]{1,255}")

HASHED_PASSWORD = "hashed-password"  # noqa: S105 a type name
PSK = "psk"
X509 = "x509-cert"
RPK = "rpk"
AUTO_PROVISIONING = "auto-provisioning-enabled"

UNLIMITED = -1
ANONYMOUS = "the tenant demands that devices authenticate"
NO_JSON: Mapping[str, Json] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """What a tenant says about one adapter type."""

    enabled: bool = True
    authentication_required: bool = True
    refuses_anonymous: bool = False
    """True where the tenant said in so many words that devices have to authenticate."""
    ext: Mapping[str, Json] = field(default_factory=lambda: NO_JSON)

    @property
    def max_ttd(self) -> int:
        """Longest time in seconds that a device may wait for a command in one request."""
        value = self.ext.get("max-ttd")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 60


_ANY_ADAPTER = AdapterOptions()
_NO_ADAPTER = AdapterOptions(enabled=False)


class PeriodMode(enum.StrEnum):
    """How a limit's accounting period recurs."""

    DAYS = "days"
    MONTHLY = "monthly"


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit on something counted per accounting period.

    Shape:  `since` seconds since the epoch; `maximum` -1 is unlimited; `days` counts for mode `days` only;
            mode None is one period without end.
    Source: reference of the registry API, DataVolume, ConnectionDuration, Period.
    """

    since: int
    maximum: int = UNLIMITED
    mode: PeriodMode | None = None
    days: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimits:
    """A tenant's limits; -1 is unlimited. TTLs in seconds."""

    max_connections: int = UNLIMITED
    max_ttl: int = UNLIMITED
    max_ttl_telemetry_qos0: int = UNLIMITED
    max_ttl_telemetry_qos1: int = UNLIMITED
    max_ttl_command_response: int = UNLIMITED
    data_volume: Quota | None = None
    connection_duration: Quota | None = None


NO_LIMITS = ResourceLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchor:
    """A certificate authority whose certificates a tenant takes from its devices.

    Shape:  `public_key` is DER (SubjectPublicKeyInfo), empty where what was registered is no base64;
            instants in seconds since the epoch; templates hold `{{subject-cn}}` and the like.
    """

    anchor_id: str
    subject_dn: str
    public_key: bytes = b""
    not_before: int = 0
    not_after: int = 0
    auth_id_template: str | None = None
    provisions: bool = False
    provisions_gateways: bool = False
    device_id_template: str | None = None
    checks_revocation: bool = False

    def is_valid(self, now: float) -> bool:
        """True when `now` (seconds since the epoch) lies in its validity."""
        return self.not_before <= now <= self.not_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One tenant.

    Shape:  `adapters` None means that every adapter is enabled; otherwise types not named are disabled.
            `anchors` are the subject DNs of `trust_anchors`.
    """

    tenant_id: str
    document: JsonObject
    enabled: bool = True
    alias: str | None = None
    adapters: Mapping[str, AdapterOptions] | None = None
    defaults: Mapping[str, Json] = field(default_factory=lambda: NO_JSON)
    minimum_message_size: int = 0
    max_devices: int = UNLIMITED
    max_credentials_per_device: int = UNLIMITED
    limits: ResourceLimits = NO_LIMITS
    trust_anchor_group: str | None = None
    anchors: tuple[str, ...] = ()
    trust_anchors: tuple[TrustAnchor, ...] = ()

    def adapter(self, adapter_type: str) -> AdapterOptions:
        """Return the options of an adapter type, also of one that is not listed."""
        if self.adapters is None:
            return _ANY_ADAPTER
        return self.adapters.get(adapter_type, _NO_ADAPTER)

    def metered_size(self, size: int) -> int:
        """Return what `size` payload bytes count as: the next multiple of the minimum message size."""
        minimum = self.minimum_message_size
        return size if minimum <= 0 or size <= 0 else -(-size // minimum) * minimum


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device's registration.

    Shape:  `via` are gateway ids as written; groups are resolved by the registry (`Assertion.via`).
    """

    tenant_id: str
    device_id: str
    document: JsonObject
    enabled: bool = True
    defaults: Mapping[str, Json] = field(default_factory=lambda: NO_JSON)
    via: tuple[str, ...] = ()
    via_groups: tuple[str, ...] = ()
    member_of: tuple[str, ...] = ()
    authorities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Assertion:
    """The registry's word that a device may be spoken for.

    Shape:  `via` are the ids of all gateways that may act for it, direct ones first.
    """

    tenant: Tenant
    device: Device
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One secret of a credential.

    Shape:  `data` holds the confidential members by their JSON names (`pwd-hash`, `salt`, `hash-function`,
            `key`, `algorithm`); a draft from a request may hold `pwd-plain`, which is never stored.
            `not_before`, `not_after` in seconds since the epoch.
    """

    secret_id: str | None = None
    enabled: bool = True
    not_before: int | None = None
    not_after: int | None = None
    comment: str | None = None
    data: Mapping[str, str] = field(default_factory=dict, repr=False)

    def is_usable(self, now: float) -> bool:
        """True when it is enabled and `now` (seconds since the epoch) lies in its validity."""
        return (
            self.enabled
            and (self.not_before is None or self.not_before <= now)
            and (self.not_after is None or now <= self.not_after)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a device proves its identity with; (`type`, `auth_id`) is unique within a tenant."""

    type: str
    auth_id: str
    secrets: tuple[Secret, ...]
    enabled: bool = True
    comment: str | None = None
    ext: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class DeviceCredential:
    """A credential with the device that it belongs to."""

    tenant_id: str
    device_id: str
    credential: Credential


class Change(enum.StrEnum):
    """What happened to a registry entry."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"


class Subject(enum.StrEnum):
    """Which kind of entry changed; the values name Hono's notifications."""

    TENANT = "tenant-change-v1"
    DEVICE = "device-change-v1"
    CREDENTIALS = "credentials-change-v1"
    ALL_DEVICES = "all-devices-of-tenant-deleted-v1"


@dataclass(frozen=True, slots=True)
class RegistryChange:
    """A committed change, told to all who cache registry entries or hold connections.

    Shape:  `device_id` is None for tenants and for all devices of a tenant; `regroups` says that the
            members of a gateway group changed, which touches what other devices' gateways are.
    """

    subject: Subject
    change: Change
    tenant_id: str
    device_id: str | None = None
    enabled: bool = True
    regroups: bool = False

    @property
    def ends_connections(self) -> bool:
        """True where connections of the device, or of all devices of the tenant, have to be closed."""
        return self.subject is not Subject.CREDENTIALS and (
            self.change is Change.DELETE or not self.enabled
        )

    def concerns(self, tenant_id: str, device_id: str) -> bool:
        """True when an entry about this device may depend on what changed."""
        return self.tenant_id == tenant_id and (
            self.regroups or self.device_id in (None, device_id)
        )
