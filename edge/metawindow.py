"""What changed lately at this edge, in the order in which it came, and who follows it.

Versions come from the cloud and need not come in their order: a watch that goes on after version N gets all
that came after the first moment at which N was told (by a list, or with a change). So nothing is missed; a
change may be told twice, which clients of watches take. A version that was not told since the start is Gone:
the client lists again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from edge.store import Record
from gateway.wire.kube.status import expired

MAX_CHANGES = 1_000
MAX_CHARACTERS = 2 * 1024 * 1024
"""Of all changes that are remembered, and of those that wait for one follower."""
MAX_MARKS = 1_000
MAX_WAITING = 1_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """One change, as it is on disk.

    Shape:  `place` counts all changes since the start; `record` of a deletion is how it was named last.
    """

    place: int
    record: Record
    is_deleted: bool


class Follower:
    """The end of one watch; read it, close it. Too much waiting ends it."""

    def __init__(self, gvr: str, leave: Callable[[Follower], None]) -> None:
        self.gvr = gvr
        self._leave = leave
        self._waiting: deque[Arrival] = deque()
        self._size = 0
        self._wake = asyncio.Event()
        self.is_closed = False

    def offer(self, arrival: Arrival) -> None:
        if self.is_closed:
            return
        self._size += len(arrival.record.value)
        if len(self._waiting) >= MAX_WAITING or self._size > 2 * MAX_CHARACTERS:
            self._waiting.clear()
            self.close()
            return
        self._waiting.append(arrival)
        self._wake.set()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._leave(self)
            self._wake.set()

    async def next(self, until: float) -> list[Arrival] | None:
        """Return all that waits; [] when `until` (loop time) has passed, None at the end."""
        while not self._waiting:
            if self.is_closed:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._wake.wait()
            except TimeoutError:
                return []
        found = list(self._waiting)
        self._waiting.clear()
        self._size = 0
        return found


class ChangeWindow:
    """The latest changes of all kinds."""

    def __init__(self) -> None:
        self.place = 0
        """Of the newest change."""
        self._changes: deque[Arrival] = deque()
        self._size = 0
        self._forgotten = 0
        self._marks: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._followers: set[Follower] = set()

    @property
    def followers(self) -> int:
        return len(self._followers)

    def add(self, record: Record, *, is_deleted: bool) -> None:
        """Remember a change and tell who follows its kind."""
        self.place += 1
        arrival = Arrival(self.place, record, is_deleted)
        self._changes.append(arrival)
        self._size += len(record.value)
        while len(self._changes) > MAX_CHANGES or self._size > MAX_CHARACTERS:
            gone = self._changes.popleft()
            self._size -= len(gone.record.value)
            self._forgotten = gone.place
        for follower in tuple(self._followers):
            if follower.gvr == record.gvr:
                follower.offer(arrival)

    def mark(self, gvr: str, version: int, place: int) -> None:
        """Note that `version` is told to a client who knows what came up to `place`."""
        self._marks.setdefault((gvr, version), place)
        if len(self._marks) > MAX_MARKS:
            self._marks.popitem(last=False)

    def latest(self, gvr: str) -> int:
        """Return the version of the newest change of a kind that is remembered, 0 without one."""
        return next((a.record.version for a in reversed(self._changes) if a.record.gvr == gvr), 0)

    def follow(self, gvr: str, since: int | None = None) -> Follower:
        """Follow a kind from now, or from when a version was told.

        Errors: Gone for a version that nobody was told, or too long ago.
        """
        missed = [] if since is None else self._since(gvr, since)
        follower = Follower(gvr, self._followers.discard)
        for arrival in missed:
            follower.offer(arrival)
        self._followers.add(follower)
        return follower

    def _since(self, gvr: str, version: int) -> list[Arrival]:
        own = [a for a in self._changes if a.record.gvr == gvr]
        places = [a.place for a in own if a.record.version == version][:1]
        mark = self._marks.get((gvr, version))
        if mark is not None:
            places.append(mark)
        if not places or min(places) < self._forgotten:
            raise expired(f"too old resource version: {version}: it is not known at this edge")
        return [a for a in own if a.place > min(places)]

    def close(self) -> None:
        for follower in tuple(self._followers):
            follower.close()
