"""What the stores promise, whatever engine is below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.model.message import Message
from gateway.model.ports import Done

CONSUMERS = "consumers"
"""The cursor that the competing consumers of a tenant share; every tenant with events has it."""


@dataclass(slots=True)
class StoredEvent:
    """An event as a cursor hands it out.

    Shape:  `id` rises with the order of storing; `attempts` counts deliveries that failed before.
    Units:  `expires` in seconds since the epoch, `left` in seconds of life from the moment it was taken;
            None for ever.
    """

    id: int
    message: Message
    expires: float | None
    attempts: int = 0
    left: float | None = None


class EventCursor(Protocol):
    """What one reader is still owed; survives restarts.

    Whatever was taken is settled or released, in any order. After a crash everything not settled is owed
    again.
    """

    def take(self) -> StoredEvent | None:
        """Return the oldest event that is owed and not taken; None when there is none at hand now.

        One whose time is over is settled, not returned.
        """

    def is_over(self, event: StoredEvent) -> bool:
        """True where the time of an event that was taken is over by now."""

    def settle(self, event: StoredEvent) -> None:
        """The reader is done with this event; also after `close`."""

    def release(self, event: StoredEvent, *, failed: bool) -> None:
        """Give an event back: it comes again, first; `failed` counts as an attempt."""

    def close(self) -> None:
        """Stop reading; what is not settled stays owed."""


class EventStore(Protocol):
    """Events on disk, each kept until every cursor of its tenant is done with it or its time is over.

    Full: an event that would exceed the size limit, or its tenant's share of it, is refused with
    StoreUnavailable; none is dropped.
    """

    def append(self, message: Message, done: Done, *, consumers: bool = True) -> None:
        """Store an event; `done(None)` once it survives a crash.

        Without `consumers` it is owed to the tenant's other cursors alone.
        Errors (through `done`): StoreUnavailable.
        """

    def has_taps(self, tenant: str) -> bool:
        """True where a cursor beside CONSUMERS is owed the tenant's events, open or not."""

    def open_cursor(self, tenant: str, name: str, on_ready: Callable[[], None]) -> EventCursor:
        """Read on where `name` stopped; a new name starts with the next event, CONSUMERS with the first.

        `on_ready` is called whenever `take` may have something again.
        """

    def drop_cursor(self, tenant: str, name: str) -> None:
        """Forget a reader for good: nothing is owed to it any more."""
