"""Is this service well? Asked of the store, through the one writer that every change needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

from gateway.ditto.clock import text_of
from gateway.ditto.fresh import Fresh
from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject

ROLES: Final = ("things", "policies", "gateway", "connectivity", "things-search")
"""Ditto's services, all of which are in this process."""
INSTANCE: Final = "twinspan"
"""What stands where Ditto names one instance of a service."""
UP: Final = "UP"
DOWN: Final = "DOWN"
PROBE_SECONDS: Final = 5.0


class Probed(Protocol):
    """What is asked of the store."""

    def load_spool(
        self, edge: str, lane: str, done: Callable[[int | GatewayError], None]
    ) -> None: ...


class Health:
    """The health of this process, good for a second."""

    def __init__(self, store: Probed) -> None:
        self._store = store
        self._fault: Fresh[str | None] = Fresh(self._probe)
        self._started = datetime.now(UTC)

    async def is_up(self) -> bool:
        return await self._fault.get() is None

    async def tree(self) -> JsonObject:
        """The health of all roles, as Ditto nests it."""
        fault = await self._fault.get()
        status = UP if fault is None else DOWN
        details: list[Json] = [] if fault is None else [{"ERROR": {"message": fault}}]
        store: JsonObject = {"label": "persistence", "status": status, "details": details}
        children: list[Json] = [
            {"label": role, "status": status, "children": [store]} for role in ROLES
        ]
        return {"label": "roles", "status": status, "children": children}

    def facts(self) -> JsonObject:
        """What does not change, and how long it has been so."""
        uptime = (datetime.now(UTC) - self._started).total_seconds()
        return {"startTime": text_of(self._started), "uptime": f"{uptime:.0f}s"}

    async def _probe(self) -> str | None:
        """What is wrong with the store; None when it answers."""
        answered: asyncio.Future[int | GatewayError] = asyncio.get_running_loop().create_future()

        def done(answer: int | GatewayError) -> None:
            if not answered.done():
                answered.set_result(answer)

        self._store.load_spool("", "", done)
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                answer = await answered
        except TimeoutError:
            return f"the store did not answer within {PROBE_SECONDS:g} s"
        return answer.message if isinstance(answer, GatewayError) else None


def cluster() -> JsonObject:
    """The members of a cluster of one."""
    alone: JsonObject = {"reachable": [INSTANCE], "unreachable": [], "leader": INSTANCE}
    return {
        "leader": INSTANCE,
        "own-address": INSTANCE,
        "own-roles": [*ROLES],
        "roles": dict.fromkeys(ROLES, alone),
    }
