"""What is done beside the requests: the search index catches up, the past gets shorter, space is given back.

Each step is a small write of its own, so requests go on between them. A step that could not be written is
tried again the next time; what was done before stays done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from gateway.config.ditto import History
from gateway.ditto.clock import Clock, text_of, utc_now
from gateway.errors import GatewayError
from gateway.store.things import Forgotten, Keep, ThingStore

log = logging.getLogger(__name__)

_INDEXED_AT_ONCE: Final = 100
_LOOKED_AT_ONCE: Final = 500
_PAGES_AT_ONCE: Final = 100
_RETRY_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.005
"""Between two steps that wrote something."""

Forget = Callable[[Keep, int, int], Awaitable[Forgotten]]


class Upkeep:
    """Module: begins before requests are taken, so that no search is answered by old root policies."""

    name = "ditto.upkeep"

    def __init__(
        self, store: ThingStore, history: History | None = None, clock: Clock = utc_now
    ) -> None:
        self._store = store
        self._history = history or History()
        self._clock = clock

    async def run(self, ready: Callable[[], None]) -> None:
        """Keep the index complete and the history within its retention until cancelled."""
        await self._store.catch_up(1)
        ready()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_index())
            tasks.create_task(self._keep_history())

    async def _keep_index(self) -> None:
        while True:
            if await self.catch_up():
                await self._store.behind.wait()
            else:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _keep_history(self) -> None:
        while True:
            await asyncio.sleep(self._history.interval)
            await self.forget()

    async def catch_up(self) -> bool:
        """Index all that waits for it; False when the store cannot write."""
        try:
            while await self._store.catch_up(_INDEXED_AT_ONCE):  # noqa: ASYNC110  not a wait: a turn
                await asyncio.sleep(0)
        except GatewayError as error:
            log.warning("things could not be indexed", extra={"cause": error.message})
            return False
        return True

    async def forget(self) -> None:
        """Drop all events past their retention that no kept state needs, and give free space back."""
        try:
            dropped = await self.forget_things() + await self.forget_policies()
            while await self._store.give_back(_PAGES_AT_ONCE):  # noqa: ASYNC110  not a wait: a turn
                await asyncio.sleep(_PAUSE_SECONDS)
        except GatewayError as error:
            log.warning("history could not be shortened", extra={"cause": error.message})
            return
        if dropped:
            log.info("history was shortened", extra={"events": dropped})

    async def forget_things(self) -> int:
        """Drop such events of things; returns how many.

        Errors: StoreUnavailable.
        """
        history = self._history
        return await self._shortened(self._store.forget, history.retention, history.revisions)

    async def forget_policies(self) -> int:
        """As `forget_things`, of policies."""
        history = self._history
        return await self._shortened(
            self._store.forget_policies, history.policy_retention, history.policy_revisions
        )

    async def _shortened(self, forget: Forget, seconds: float, revisions: int) -> int:
        """One walk over all events of a kind, from the oldest on."""
        keep = Keep(text_of(self._clock() - timedelta(seconds=seconds)), revisions)
        dropped, after = 0, 0
        while True:
            step = await forget(keep, after, _LOOKED_AT_ONCE)
            dropped += step.dropped
            if step.after is None:
                return dropped
            after = step.after
            await asyncio.sleep(_PAUSE_SECONDS if step.dropped else 0)
