"""Runs one function per key: never twice at once for one key, again when it was asked for meanwhile.

Asking often is cheap: what is asked for while the work runs is done in one more run. A failed run is tried
again with back-off. So the work must read the newest state by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

from gateway.errors import GatewayError
from gateway.runtime.backoff import Backoff

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)


class KeyWorker(Generic[K]):
    """The owner runs it inside its TaskGroup.

    Units:  `pause` seconds between two runs of one key; `at_once` runs of different keys side by side;
            `news_after` seconds after a failure a key that is asked for runs again, without waiting out its
            back-off: None waits it out; `max_wait` seconds of back-off at most.
    """

    def __init__(
        self,
        group: asyncio.TaskGroup,
        work: Callable[[K], Awaitable[None]],
        *,
        pause: float = 0.1,
        at_once: int = 32,
        news_after: float | None = None,
        max_wait: float = 30.0,
    ) -> None:
        self._group = group
        self._work = work
        self._pause = pause
        self._slots = asyncio.Semaphore(at_once)
        self._asked: dict[K, bool] = {}
        self._hurry = asyncio.Event()
        self._news_after = news_after
        self._max_wait = max_wait
        self._news: dict[K, asyncio.Event] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def poke(self, key: K) -> None:
        """Ask for a run of `key`."""
        if key in self._asked:
            self._asked[key] = True
            if key in self._news:
                self._news[key].set()
            return
        self._asked[key] = True
        self._group.create_task(self._drain(key))

    def hurry(self) -> None:
        """What failed is tried again now: its cause is gone."""
        self._hurry.set()
        self._hurry = asyncio.Event()
        for news in self._news.values():
            news.set()

    async def _drain(self, key: K) -> None:
        backoff = Backoff(0.2, self._max_wait)
        try:
            while self._asked[key]:
                self._asked[key] = False
                if await self._run(key):
                    backoff.reset()
                    await asyncio.sleep(self._pause)
                else:
                    self._asked[key] = True
                    await self._wait_out(key, backoff.next())
        finally:
            del self._asked[key]

    async def _wait_out(self, key: K, seconds: float) -> None:
        """Wait before the next try, less when somebody hurries, or asks for the key with news."""
        if self._news_after is None:
            await _within(seconds, self._hurry)
            return
        news = self._news[key] = asyncio.Event()
        try:
            first = min(self._news_after, seconds)
            await _within(first, self._hurry)
            await _within(seconds - first, news)
        finally:
            del self._news[key]

    async def _run(self, key: K) -> bool:
        async with self._slots:
            try:
                await self._work(key)
            except GatewayError as error:
                log.info("will try again", extra={"key": str(key), "cause": error.message})
                return False
            except Exception:  # top of a task: a bug with one key must not end the others
                log.exception("work failed", extra={"key": str(key)})
        return True


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, for some time at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
