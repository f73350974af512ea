"""Which Pod is to be placed next: by priority, then by age; what failed waits until something has changed.

Holds no clock: `now` is a parameter, in seconds that never go back. Source: kube-scheduler, its three queues.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

from gateway.wire.kube.scheduling.filters import Cause
from gateway.wire.kube.scheduling.pods import Key, PodInfo

FIRST_BACKOFF, MAX_BACKOFF = 1.0, 10.0
FORGOTTEN_SECONDS = 300.0
"""After this what failed is tried again in any case."""


@dataclass(slots=True)
class _Entry:
    rank: tuple[int, float, int]
    attempts: int = 0
    failed_at: float = 0.0
    causes: Cause = Cause.ANY
    state: str = "active"
    """`active`, `delayed` (its back-off runs), `parked` (until something changes), `taken`."""
    is_stale: bool = False
    """True for one that changed while it was taken."""

    @property
    def ready_at(self) -> float:
        if not self.attempts:
            return 0.0
        pause: float = min(FIRST_BACKOFF * 2 ** min(self.attempts - 1, 8), MAX_BACKOFF)
        return self.failed_at + pause


@dataclass(slots=True)
class SchedulingQueue:
    """Pods that have no node yet. Bounded by their number."""

    _entries: dict[Key, _Entry] = field(default_factory=dict)
    _active: list[tuple[tuple[int, float, int], Key]] = field(default_factory=list)
    _delayed: list[tuple[float, int, Key]] = field(default_factory=list)
    _parked: dict[Key, None] = field(default_factory=dict)
    _news: Counter[Cause] = field(default_factory=Counter)
    _numbers: count[int] = field(default_factory=count)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def add(self, pod: PodInfo) -> None:
        """A Pod wants a node; one that is known is tried again soon: it has changed."""
        known = self._entries.get(pod.key)
        if known is None:
            rank = (-pod.priority, pod.created, next(self._numbers))
            known = self._entries[pod.key] = _Entry(rank)
            self._activate(pod.key, known)
        elif known.state == "parked":
            known.rank = (-pod.priority, *known.rank[1:])
            self._activate(pod.key, known)
        else:
            known.is_stale = known.state == "taken"

    def drop(self, key: Key) -> None:
        """A Pod is gone, or has a node."""
        self._entries.pop(key, None)
        self._parked.pop(key, None)

    def pop(self, now: float) -> Key | None:
        """Take the next Pod; give it back with `park` or `retry`, or `drop` it."""
        self._move_due(now)
        while self._active:
            rank, key = heapq.heappop(self._active)
            entry = self._entries.get(key)
            if entry is not None and entry.state == "active" and entry.rank == rank:
                entry.state, entry.is_stale = "taken", False
                entry.attempts += 1
                return key
        return None

    def next_due(self, now: float) -> float | None:
        """After how many seconds a back-off ends; None when none runs."""
        return max(self._delayed[0][0] - now, 0.0) if self._delayed else None

    def mark(self) -> Counter[Cause]:
        """Note what has happened so far, for `park`."""
        return Counter(self._news)

    def park(self, key: Key, causes: Cause, since: Counter[Cause], now: float) -> None:
        """Put a Pod aside until one of these causes; at once where one came since that mark."""
        entry = self._entries.get(key)
        if entry is None or entry.state != "taken":
            return
        entry.failed_at, entry.causes = now, causes
        if entry.is_stale or any(self._news[cause] > since[cause] for cause in causes):
            self._delay(key, entry)
        else:
            entry.state = "parked"
            self._parked[key] = None

    def retry(self, key: Key, now: float) -> None:
        """Try a Pod again after its back-off."""
        entry = self._entries.get(key)
        if entry is not None and entry.state == "taken":
            entry.failed_at = now
            self._delay(key, entry)

    def wake(self, causes: Cause) -> None:
        """Something happened: who waits for it is tried again."""
        self._news.update(list(causes))
        for key in [key for key in self._parked if self._entries[key].causes & causes]:
            del self._parked[key]
            self._delay(key, self._entries[key])

    def wake_forgotten(self, now: float) -> None:
        """Try again what has waited for long."""
        for key in list(self._parked):
            if now - self._entries[key].failed_at >= FORGOTTEN_SECONDS:
                del self._parked[key]
                self._activate(key, self._entries[key])

    def _activate(self, key: Key, entry: _Entry) -> None:
        self._parked.pop(key, None)
        entry.state = "active"
        heapq.heappush(self._active, (entry.rank, key))

    def _delay(self, key: Key, entry: _Entry) -> None:
        entry.state = "delayed"
        heapq.heappush(self._delayed, (entry.ready_at, next(self._numbers), key))

    def _move_due(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            _, _, key = heapq.heappop(self._delayed)
            entry = self._entries.get(key)
            if entry is not None and entry.state == "delayed" and entry.ready_at <= now:
                self._activate(key, entry)
