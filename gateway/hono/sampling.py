"""Which uploads a tenant wants traced: its `tracing` object, which goes before all else.

Source: Hono, Tenant Information, "Tracing": `sampling-mode` is default, all or none;
`sampling-mode-per-auth-id` overrides it for single credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.model.registry import Tenant

MODES: Final[Mapping[object, bool | None]] = {"all": True, "none": False}


class TenantSampling:
    """What a tenant says; None in `of` where it says nothing."""

    __slots__ = ("_by_auth_id", "_mode")

    def __init__(self, mode: bool | None, by_auth_id: Mapping[str, bool | None]) -> None:
        self._mode = mode
        self._by_auth_id = by_auth_id

    def of(self, auth_id: str | None) -> bool | None:
        """Return True or False where every or no trace is sampled, None where the usual rules hold."""
        return self._by_auth_id.get(auth_id, self._mode) if auth_id else self._mode


def sampling_of(tenant: Tenant) -> TenantSampling | None:
    """Read a tenant's document; None for one that overrides nothing."""
    tracing = tenant.document.get("tracing")
    if not isinstance(tracing, dict):
        return None
    named = tracing.get("sampling-mode-per-auth-id")
    by_auth_id = (
        {name: MODES.get(mode) for name, mode in named.items()} if isinstance(named, dict) else {}
    )
    mode = MODES.get(tracing.get("sampling-mode"))
    return None if mode is None and not by_auth_id else TenantSampling(mode, by_auth_id)
