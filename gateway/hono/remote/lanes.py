"""What waits in memory on its way to the remote: lanes, messages under way, and the last refusal."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gateway.observe.tracing import Span
from gateway.runtime.backoff import Backoff
from gateway.store.relay import LaneKey, Stored

MESSAGE_BYTES: Final = 400
"""What a message costs in memory beside its payload."""


@dataclass(slots=True)
class Lane:
    """What waits in one lane: `head` in memory, the rest on disk up to `newest`.

    Shape:  ids up to `loaded` are in `head`, under way or done; those up to `sent_up_to` may have been sent.
    """

    key: LaneKey
    sent_up_to: int = 0
    head: deque[Stored] = field(default_factory=deque)
    loaded: int = 0
    newest: int = 0
    appending: int = 0
    under_way: Stored | None = None
    pause: Backoff | None = None
    strikes: int = 0
    is_queued: bool = False
    is_paused: bool = False
    is_suspect: bool = False

    @property
    def has_more_on_disk(self) -> bool:
        return self.loaded < self.newest

    @property
    def waits(self) -> bool:
        return bool(self.head) or self.has_more_on_disk

    @property
    def is_idle(self) -> bool:
        return self.under_way is None and not self.appending and not self.waits


@dataclass(slots=True)
class Flight:
    """A message without an outcome; `started` as `time.perf_counter` gives it."""

    lane: Lane
    item: Stored
    started: float
    span: Span


@dataclass(frozen=True, slots=True)
class LastRefusal:
    """What the remote refused last, for who looks why.

    Units:  `at` in seconds since the epoch.
    """

    at: float
    kind: str
    device: str
    status: int
    cause: str

    @property
    def text(self) -> str:
        """All of it in a line."""
        at = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds")
        return f"{at} {self.kind} of {self.device}: {self.status} {self.cause}"


def cost(item: Stored) -> int:
    """Return what a message takes in memory."""
    return len(item.message.payload) + MESSAGE_BYTES
