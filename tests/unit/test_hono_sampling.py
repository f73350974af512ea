"""What a tenant's `tracing` object says of its uploads."""

from __future__ import annotations

import pytest

from gateway.hono.sampling import sampling_of
from gateway.model.json import JsonObject
from gateway.model.registry import Tenant


@pytest.mark.parametrize(
    ("tracing", "auth_id", "expected"),
    [
        ({"sampling-mode": "all"}, "a", True),
        ({"sampling-mode": "none"}, None, False),
        ({"sampling-mode-per-auth-id": {"a": "all"}}, "a", True),
        ({"sampling-mode-per-auth-id": {"a": "all"}}, "b", None),
        ({"sampling-mode": "all", "sampling-mode-per-auth-id": {"a": "none"}}, "a", False),
        ({"sampling-mode": "all", "sampling-mode-per-auth-id": {"a": "default"}}, "a", None),
    ],
    ids=["all", "none", "one", "another", "all but one", "one as usual"],
)
def test_the_mode_of_a_credential(
    tracing: JsonObject, auth_id: str | None, expected: bool | None
) -> None:
    found = sampling_of(Tenant(tenant_id="t", document={"tracing": tracing}))
    assert found is not None
    assert found.of(auth_id) is expected


@pytest.mark.parametrize(
    "document", [{}, {"tracing": {}}, {"tracing": {"sampling-mode": "default"}}], ids=str
)
def test_a_tenant_that_says_nothing_costs_nothing(document: JsonObject) -> None:
    assert sampling_of(Tenant(tenant_id="t", document=document)) is None
