"""Tells the command router through which gateway devices were heard last, in batches.

Every 400 ms what is new goes out, 100 entries in one request at most, one alone in the form for one. The last
word on a device counts. Over `MAX_WAITING` unsent entries the oldest goes: the next upload tells again.
Source: Hono, Command Router API, set last known gateway.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from gateway.errors import GatewayError
from gateway.hono.remote_services.requests import Answer, Question, Services

log = logging.getLogger(__name__)

BATCH: Final = 100
EVERY: Final = 0.4
MAX_WAITING: Final = 100_000
ROUTER: Final = "cmd_router"
SET_LAST: Final = "set-last-known-gw"


class RemoteLastGateways:
    """What an ingress notes; loop-bound, started by its first entry."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiting: dict[tuple[str, str], str] = {}
        self._timer: asyncio.TimerHandle | None = None

    def note(self, tenant: str, device: str, gateway: str | None) -> None:
        """Remember who spoke for a device; None when it spoke itself."""
        key = tenant, device
        self._waiting.pop(key, None)
        self._waiting[key] = device if gateway is None else gateway
        if len(self._waiting) > MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._tell)

    def _tell(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, {}
        by_tenant: dict[str, list[tuple[str, str]]] = {}
        for (tenant, device), gateway in waiting.items():
            by_tenant.setdefault(tenant, []).append((device, gateway))
        for tenant, entries in by_tenant.items():
            for at in range(0, len(entries), BATCH):
                self._services.ask(ROUTER, tenant, _question(entries[at : at + BATCH]), _told)


def _question(entries: list[tuple[str, str]]) -> Question:
    if len(entries) == 1:
        device, gateway = entries[0]
        return Question(SET_LAST, {"device_id": device, "gateway_id": gateway})
    return Question(SET_LAST, body=msgspec.json.encode(dict(entries)))


def _told(answer: Answer | GatewayError) -> None:
    if isinstance(answer, GatewayError) or answer.status != 204:
        cause = answer.message if isinstance(answer, GatewayError) else str(answer.status)
        log.warning("last known gateways were not taken", extra={"cause": cause})
