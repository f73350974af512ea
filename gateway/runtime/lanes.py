"""Order per key: work for one thing or device runs one after another, different keys side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable

from gateway.errors import Undeliverable

Work = Callable[[], Awaitable[None]]


class Lanes:
    """One bounded queue and at most one task per key; a lane closes when it is idle.

    The owner runs it inside a TaskGroup. A lane that is full refuses with Undeliverable (the sender keeps
    the message and tries again); work that raises ends the group, so it must answer its own errors.
    """

    def __init__(self, group: asyncio.TaskGroup, *, limit: int = 1_000) -> None:
        self._group = group
        self._limit = limit
        self._lanes: dict[Hashable, deque[Work]] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def put(self, key: Hashable, work: Work) -> None:
        """Queue `work` behind what waits for `key`.

        Errors: Undeliverable when the lane holds `limit` items.
        """
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = deque((work,))
            self._group.create_task(self._drain(key, lane))
        elif len(lane) >= self._limit:
            raise Undeliverable(f"more than {self._limit} messages wait for {key}")
        else:
            lane.append(work)

    async def _drain(self, key: Hashable, lane: deque[Work]) -> None:
        try:
            while lane:
                await lane[0]()
                lane.popleft()
        finally:
            self._lanes.pop(key, None)
