"""What downstream messaging asks of an application's receiver, and how work on an event can end."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Protocol

from gateway.model.message import Message
from gateway.model.ports import Done
from gateway.store.ports import StoredEvent


class EventOutcome(enum.Enum):
    """How a consumer's work on one event ended."""

    DONE = "done"
    """Accepted, or rejected for good: it does not come again."""
    RELEASED = "released"
    """Not looked at: it comes again as it was."""
    FAILED = "failed"
    """Tried in vain, or lost with the link: it comes again, counted."""
    NOT_HERE = "not here"
    """Not for this one: it comes again as it was, to another consumer."""
    FAILED_HERE = "failed here"
    """Tried in vain: it comes again, to another consumer, counted."""


class Consumer(Protocol):
    """One application's receiver."""

    @property
    def credit(self) -> int:
        """Messages that it takes now; 0 also while its transport is full."""

    def send(self, message: Message, outcome: Done) -> Callable[[], None] | None:
        """Send telemetry; returns the way to take it back, None when it went out settled.

        What went out settled has had its `outcome(None)` when this returns.
        Errors: Unencodable, with nothing sent and no outcome to come.
        """

    def send_encoded(self, payload: bytes, outcome: Done) -> Callable[[], None] | None:
        """Send telemetry that is written as applications get it already, as `send` does."""

    def send_event(self, event: StoredEvent, outcome: Callable[[EventOutcome], None]) -> None:
        """Send an event; the outcome comes once, also when the link is lost.

        Errors: Unencodable, with nothing sent and no outcome to come.
        """


class ConsumerGroup:
    """Consumers that compete for the same messages, taken in turn."""

    def __init__(self) -> None:
        self._consumers: deque[Consumer] = deque()

    def __bool__(self) -> bool:
        return bool(self._consumers)

    def __contains__(self, consumer: Consumer) -> bool:
        return consumer in self._consumers

    @property
    def has_credit(self) -> bool:
        return any(consumer.credit > 0 for consumer in self._consumers)

    def add(self, consumer: Consumer) -> None:
        self._consumers.append(consumer)

    def remove(self, consumer: Consumer) -> None:
        self._consumers.remove(consumer)

    def next(self, excluded: frozenset[Consumer] = frozenset()) -> Consumer | None:
        """Return the next one with credit; None when none has."""
        consumers = self._consumers
        for _ in range(len(consumers)):
            consumer = consumers[0]
            consumers.rotate(-1)
            if consumer.credit > 0 and consumer not in excluded:
                return consumer
        return None

    def has_credit_beside(self, excluded: frozenset[Consumer]) -> bool:
        """True when somebody has credit who is not excluded."""
        return any(consumer.credit > 0 and consumer not in excluded for consumer in self._consumers)
