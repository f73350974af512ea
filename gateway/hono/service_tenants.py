"""The tenant service: what adapters may know of a tenant, by id, alias or trust anchor.

Source: Hono, Tenant API.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from gateway.errors import BadRequest, Forbidden, GatewayError
from gateway.hono.certificates import canonical_dn
from gateway.hono.registry import Registry
from gateway.hono.service_requests import Answer, Operations, Request, Response
from gateway.model.json import Json, JsonObject
from gateway.model.registry import Tenant

ENDPOINT: Final = "tenant"
GET: Final = "get"
_SHOWN: Final = ("defaults", "resource-limits", "tracing", "ext")
_HIDDEN: Final = frozenset(
    (
        "id",
        "cert",
        "not-before",
        "not-after",
        "auto-provision-as-gateway",
        "auto-provisioning-device-id-template",
    )
)


class TenantService:
    """Answers from the registry; `max_age` in seconds, `clock` gives seconds since the epoch."""

    def __init__(
        self, registry: Registry, *, max_age: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._registry = registry
        self._max_age = max_age
        self._clock = clock
        self.operations: Operations = {GET: self._get}

    def _get(self, request: Request, answer: Answer) -> None:
        asked = request.document() if request.payload else _by_property(request)
        found = partial(self._found, request, answer)
        tenant_id, subject_dn = asked.get("tenant-id"), asked.get("subject-dn")
        if isinstance(tenant_id, str) and tenant_id:
            self._registry.find_tenant(tenant_id, found)
        elif isinstance(subject_dn, str) and subject_dn:
            name = canonical_dn(subject_dn, "subject-dn")
            self._registry.find_tenant_by_anchor(name, found)
        else:
            raise BadRequest("body: expected tenant-id or subject-dn")

    def _found(self, request: Request, answer: Answer, found: Tenant | GatewayError) -> None:
        if isinstance(found, GatewayError):
            answer(found)
        elif not request.user.authorities.may_execute(GET, f"{ENDPOINT}/{found.tenant_id}"):
            answer(Forbidden("not allowed to read this tenant"))
        else:
            body = tenant_body(found, self._clock())
            answer(Response(body=body, tenant=found.tenant_id, max_age=self._max_age))


def _by_property(request: Request) -> JsonObject:
    """Read the old form: the tenant as a property, without a body."""
    return {"tenant-id": request.text("tenant_id")}


def tenant_body(tenant: Tenant, now: float) -> JsonObject:
    """Return what adapters see of a tenant; `now` in seconds since the epoch."""
    document = tenant.document
    body: JsonObject = {"tenant-id": tenant.tenant_id, "enabled": tenant.enabled}
    body |= {name: document[name] for name in _SHOWN if name in document}
    if tenant.minimum_message_size:
        body["minimum-message-size"] = tenant.minimum_message_size
    adapters = document.get("adapters")
    if isinstance(adapters, list):
        body["adapters"] = [_adapter(item) for item in adapters if isinstance(item, dict)]
    anchors = _anchors(tenant, now)
    if anchors:
        body["trusted-ca"] = anchors
    return body


def _adapter(item: Mapping[str, Json]) -> JsonObject:
    """Leave out whether logins are needed where nobody said it: adapters then take `true`."""
    return {"enabled": False, **item}


def _anchors(tenant: Tenant, now: float) -> list[Json]:
    """Return the trust anchors that are valid now, without what only the registry uses."""
    valid = {anchor.anchor_id for anchor in tenant.trust_anchors if anchor.is_valid(now)}
    written = tenant.document.get("trusted-ca")
    return [
        {name: value for name, value in item.items() if name not in _HIDDEN}
        for item in (written if isinstance(written, list) else ())
        if isinstance(item, dict) and item.get("id") in valid
    ]
