"""A bounded queue towards a slow peer: filled from anywhere, emptied in batches by a thread of its own.

Who fills it never waits: above the limit the newest is dropped and counted. At the end what waits gets one
more
chance, for a bounded time; the thread holds nobody up after that.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from prometheus_client import Counter

log = logging.getLogger(__name__)

T = TypeVar("T")
Export = Callable[[Sequence[T]], bool]
_Work = tuple[list[T], "asyncio.Future[bool]"]

BATCH: Final = 512
EVERY: Final = 1.0
"""Seconds between two looks at the queue."""


class Batches(Generic[T]):
    """Shape:  `export` runs in the thread, True for success; `outcomes` counts by sent, dropped, failed.

    Units:  `last` in seconds: how long the end may take.
    """

    def __init__(self, name: str, limit: int, outcomes: Counter, last: float) -> None:
        self._name = name
        self._limit = limit
        self._last = last
        self._waiting: deque[T] = deque()
        self._sent = outcomes.labels("sent")
        self._dropped = outcomes.labels("dropped")
        self._failed = outcomes.labels("failed")
        self._is_reached = True
        self._under_way: tuple[asyncio.Future[bool], int] | None = None
        """What was being sent when the end came."""

    @property
    def depth(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def put(self, item: T) -> None:
        """Take an item, from any thread; never blocks."""
        if len(self._waiting) >= self._limit:
            self._dropped.inc()
        else:
            self._waiting.append(item)

    async def run(self, export: Export[T], shutdown: Callable[[], None]) -> None:
        """Send until cancelled; `shutdown` makes an export that is under way give up."""
        work: queue.SimpleQueue[_Work[T] | None] = queue.SimpleQueue()
        loop = asyncio.get_running_loop()
        thread = threading.Thread(
            target=_serve, args=(work, export, loop), name=self._name, daemon=True
        )
        thread.start()
        try:
            while True:
                await asyncio.sleep(EVERY)
                while self._waiting:
                    await self._send(work)
        finally:
            await self._send_last(work, shutdown)

    async def _send(self, work: queue.SimpleQueue[_Work[T] | None]) -> None:
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        work.put((batch, done))
        self._under_way = done, len(batch)
        await self._settled()

    async def _settled(self) -> None:
        """Wait for what is under way and count it."""
        if self._under_way is None:
            return
        done, size = self._under_way
        is_sent = await asyncio.shield(done)
        self._under_way = None
        self._count(size, is_sent=is_sent)
        self._tell(is_sent)

    async def _send_last(
        self, work: queue.SimpleQueue[_Work[T] | None], shutdown: Callable[[], None]
    ) -> None:
        try:
            async with asyncio.timeout(self._last):
                await self._settled()
                while self._waiting:
                    await self._send(work)
        except TimeoutError:
            lost = 0 if self._under_way is None else self._under_way[1]
            self._count(len(self._waiting) + lost, is_sent=False)
            self._waiting.clear()
        work.put(None)
        threading.Thread(target=shutdown, name=f"{self._name}-end", daemon=True).start()

    def _count(self, size: int, *, is_sent: bool) -> None:
        (self._sent if is_sent else self._failed).inc(size)

    def _tell(self, is_reached: bool) -> None:
        if is_reached is not self._is_reached:
            self._is_reached = is_reached
            text = "the collector takes again" if is_reached else "the collector does not take"
            log.warning(text, extra={"what": self._name})


def _serve(
    work: queue.SimpleQueue[_Work[T] | None], export: Export[T], loop: asyncio.AbstractEventLoop
) -> None:
    while (item := work.get()) is not None:
        batch, done = item
        try:
            is_sent = export(batch)
        except Exception as error:  # noqa: BLE001  a library's or a peer's fault: these are lost, no more
            log.debug("export failed", extra={"cause": repr(error)[:300]})
            is_sent = False
        if loop.is_closed():
            return
        loop.call_soon_threadsafe(_settle, done, is_sent)


def _settle(done: asyncio.Future[bool], is_sent: bool) -> None:
    if not done.done():
        done.set_result(is_sent)
