"""The sample tenants and devices that Hono's sandbox has, for `--demo`.

What is there already stays as it is, so a demo data directory keeps what its user changed. The sandbox's
authority has its name, and a key of our own beside the data: `default_tenant.key` signs certificates for
devices, `device-4711.crt` and its key are those of the sample device.
Source: Hono sandbox, example data.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import Conflict
from gateway.hono.registry import Registry
from gateway.model.json import Json, JsonObject
from gateway.model.registry import HASHED_PASSWORD, PSK, X509
from gateway.runtime.certificates import is_usable, issue, kept, make_authority, save

DEFAULT_TENANT = "DEFAULT_TENANT"
AUTHORITY_DN = "CN=DEFAULT_TENANT_CA,OU=Hono,O=Eclipse IoT,L=Ottawa,C=CA"
DEVICE_DN = "CN=Device 4711,OU=Hono,O=Eclipse IoT,L=Ottawa,C=CA"

TENANTS: Mapping[str, JsonObject] = {
    DEFAULT_TENANT: {},
    "HTTP_TENANT": {"adapters": [{"type": "hono-http", "enabled": True}]},
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A device of DEFAULT_TENANT; `login` is auth-id and password, also its pre-shared key."""

    device: str
    body: JsonObject
    login: tuple[str, str] | None = None
    subject_dn: str | None = None

    def credentials(self) -> list[Json]:
        found: list[Json] = []
        if self.login is not None:
            auth_id, password = self.login
            key = base64.b64encode(password.encode()).decode()
            found.append(_credential(HASHED_PASSWORD, auth_id, {"pwd-plain": password}))
            found.append(_credential(PSK, auth_id, {"key": key}))
        if self.subject_dn is not None:
            found.append(_credential(X509, self.subject_dn, {}))
        return found


DEVICES = (
    Sample(
        "4711",
        {"defaults": {"content-type": "application/vnd.bumlux", "importance": "high"}},
        ("sensor1", "hono-secret"),
        DEVICE_DN,
    ),
    Sample("gw-1", {}, ("gw", "gw-secret")),
    Sample("4712", {"via": ["gw-1"]}),
)


async def provision(registry: Registry, folder: Path | None = None) -> None:
    """Register the samples that are not there yet; `folder` keeps the sandbox's certificates."""
    for tenant, body in TENANTS.items():
        more: JsonObject = {}
        if folder is not None and tenant == DEFAULT_TENANT:
            more = {"trusted-ca": [{"id": "default-tenant-ca", "cert": sample_authority(folder)}]}
        with suppress(Conflict):
            await registry.create_tenant(tenant, {**body, **more})
    for sample in DEVICES:
        await _provision_device(registry, sample)


def sample_authority(folder: Path) -> str:
    """Keep the sandbox's authority and its device's certificate in a folder; returns the former.

    Shape:  base64 of the certificate's DER form.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = kept(folder, "default_tenant")
    if authority is None:
        authority = save(folder, "default_tenant", make_authority(AUTHORITY_DN))
    device = kept(folder, "device-4711")
    if device is None or not is_usable(device, ()):
        save(folder, "device-4711", issue(authority, DEVICE_DN))
    der = ssl.PEM_cert_to_DER_cert(authority.certificate.decode())
    return base64.b64encode(der).decode()


async def _provision_device(registry: Registry, sample: Sample) -> None:
    with suppress(Conflict):  # credentials may still be missing: an earlier start may have been cut
        await registry.create_device(DEFAULT_TENANT, sample.device, dict(sample.body))
    stored, version = await registry.read_credentials(DEFAULT_TENANT, sample.device)
    drafts = sample.credentials()
    if drafts and not stored:
        await registry.update_credentials(DEFAULT_TENANT, sample.device, drafts, version)


def _credential(kind: str, auth_id: str, secret: JsonObject) -> Json:
    return {"type": kind, "auth-id": auth_id, "secrets": [secret]}
