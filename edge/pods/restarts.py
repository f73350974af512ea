"""Back-off of containers that end again and again: 10 s, doubled to 300 s, forgotten after ten good minutes.

The first restart is at once; a wait counts from the end of the last run, not from when it was noticed.
Source: Kubernetes, container restart policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edge.pods.podspec import Container, Pod
from edge.pods.runtime import ContainerState

FIRST_SECONDS, MOST_SECONDS = 10.0, 300.0
GOOD_SECONDS = 600.0
"""A run of this length starts the back-off anew."""
SECOND = 1_000_000_000

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    seconds: float
    since: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A container may not start yet: `until` is a Unix time, `seconds` the whole back-off."""

    seconds: float
    until: float


class Restarts:
    """Back-off per container. Times are Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: dict[Key, _Entry] = {}
        self._clock = clock
        self._to_come: dict[Key, tuple[str, float]] = {}
        """Container that ended in what is the future now, and when that was seen, by a clock nobody sets."""

    def waiting(
        self, pod: Pod, container: Container, last: ContainerState | None, now: float
    ) -> Waiting | None:
        """Return how long a container has to wait after its `last` run, None when it may start.

        A clock that was set back makes no wait longer than its back-off.
        """
        key = _key(pod, container)
        entry = self._entries.get(key)
        if last is None or entry is None:
            return None
        ended = self._ended(key, last, now)
        if ended - entry.since > GOOD_SECONDS or now - ended >= entry.seconds:
            return None
        return Waiting(entry.seconds, ended + entry.seconds)

    def _ended(self, key: Key, last: ContainerState, now: float) -> float:
        """Return when a run ended; where that is still to come the clock was set back: as seen first."""
        ended = last.finished_at / SECOND
        if ended <= now:
            return ended
        seen = self._to_come.get(key)
        if seen is None or seen[0] != last.id:
            seen = self._to_come[key] = last.id, self._clock()
        return now - (self._clock() - seen[1])

    def started(
        self, pod: Pod, container: Container, last: ContainerState | None, now: float
    ) -> None:
        """Note a start after a `last` run; a container's first start needs none."""
        if last is None:
            return
        key = _key(pod, container)
        entry = self._entries.get(key)
        is_fresh = entry is None or min(last.finished_at / SECOND, now) - entry.since > GOOD_SECONDS
        seconds = (
            FIRST_SECONDS if entry is None or is_fresh else min(entry.seconds * 2, MOST_SECONDS)
        )
        self._entries[key] = _Entry(seconds, now)
        self._to_come.pop(key, None)

    def forget(self, uid: str) -> None:
        """Drop what is known of a Pod."""
        for key in [each for each in self._entries if each[0] == uid]:
            del self._entries[key]
            self._to_come.pop(key, None)


def crash_loop_message(pod: Pod, container: Container, seconds: float) -> str:
    """Return the text of a container's waiting state."""
    namespace, name = pod.key
    return (
        f"back-off {go_duration(seconds)} restarting failed container={container.name} "
        f"pod={name}_{namespace}({pod.uid})"
    )


def go_duration(seconds: float) -> str:
    """Write whole seconds as Go does: `10s`, `2m40s`, `5m0s`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _key(pod: Pod, container: Container) -> Key:
    """An edited image starts the back-off anew."""
    return pod.uid, container.name, container.image
