"""The sample tenants and devices that Hono's sandbox has, for `--demo`.

What is there already stays as it is, so a demo data directory keeps what its user changed.
Source: Hono sandbox, example data.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from gateway.errors import Conflict
from gateway.hono.registry import Registry
from gateway.model.json import Json, JsonObject
from gateway.model.registry import HASHED_PASSWORD, PSK, X509

DEFAULT_TENANT = "DEFAULT_TENANT"

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
        "CN=Device 4711,OU=Hono,O=Eclipse IoT,L=Ottawa,C=CA",
    ),
    Sample("gw-1", {}, ("gw", "gw-secret")),
    Sample("4712", {"via": ["gw-1"]}),
)


async def provision(registry: Registry) -> None:
    """Register the samples that are not there yet."""
    for tenant, body in TENANTS.items():
        with suppress(Conflict):
            await registry.create_tenant(tenant, dict(body))
    for sample in DEVICES:
        await _provision_device(registry, sample)


async def _provision_device(registry: Registry, sample: Sample) -> None:
    with suppress(Conflict):  # credentials may still be missing: an earlier start may have been cut
        await registry.create_device(DEFAULT_TENANT, sample.device, dict(sample.body))
    stored, version = await registry.read_credentials(DEFAULT_TENANT, sample.device)
    drafts = sample.credentials()
    if drafts and not stored:
        await registry.update_credentials(DEFAULT_TENANT, sample.device, drafts, version)


def _credential(kind: str, auth_id: str, secret: JsonObject) -> Json:
    return {"type": kind, "auth-id": auth_id, "secrets": [secret]}
