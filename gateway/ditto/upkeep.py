"""What is done beside the requests: the search index catches up with what was stored or changed without it.

Each step is a small write of its own, so requests go on between them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError
from gateway.store.things import ThingStore

log = logging.getLogger(__name__)

_INDEXED_AT_ONCE: Final = 100
_RETRY_SECONDS: Final = 10.0


class Upkeep:
    """Module: begins before requests are taken, so that no search is answered by old root policies."""

    name = "ditto.upkeep"

    def __init__(self, store: ThingStore) -> None:
        self._store = store

    async def run(self, ready: Callable[[], None]) -> None:
        """Keep the index complete until cancelled."""
        await self._store.catch_up(1)
        ready()
        while True:
            if await self.catch_up():
                await self._store.behind.wait()
            else:
                await asyncio.sleep(_RETRY_SECONDS)

    async def catch_up(self) -> bool:
        """Index all that waits for it; False when the store cannot write."""
        try:
            while await self._store.catch_up(_INDEXED_AT_ONCE):  # noqa: ASYNC110  not a wait: a turn
                await asyncio.sleep(0)
        except GatewayError as error:
            log.warning("things could not be indexed", extra={"cause": error.message})
            return False
        return True
