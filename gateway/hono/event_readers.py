"""From the event store to those who read it: competing consumers, and connections (taps).

What a consumer accepts or rejects is done; what it releases or loses comes again, first. A tap's event that
it could not work on comes again after a pause; what it finally refused is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.errors import GatewayError, Rejected
from gateway.hono.consumers import Consumer, ConsumerGroup, EventOutcome
from gateway.model.ports import Tap
from gateway.store.ports import CONSUMERS, EventStore, StoredEvent

TAP_WINDOW = 64
"""Events that one tap works on at a time."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0

_NOBODY: frozenset[Consumer] = frozenset()


class ConsumerReaders:
    """The competing consumers of one tenant's events, over their shared cursor."""

    def __init__(self, events: EventStore, tenant: str) -> None:
        self._group = ConsumerGroup()
        self._excluded: dict[int, frozenset[Consumer]] = {}
        self._held: list[StoredEvent] = []
        self._is_pumping = True
        self._cursor = events.open_cursor(tenant, CONSUMERS, self.pump)
        self._is_pumping = False

    def __bool__(self) -> bool:
        return bool(self._group)

    def add(self, consumer: Consumer) -> None:
        self._group.add(consumer)
        held, self._held = self._held, []
        for event in held:
            self._cursor.release(event, failed=False)

    def remove(self, consumer: Consumer) -> None:
        self._group.remove(consumer)

    def close(self) -> None:
        self._cursor.close()

    def pump(self) -> None:
        """Hand out events while somebody has credit."""
        if self._is_pumping or not self._group:
            return
        self._is_pumping = True
        try:
            while self._hand_out_one():
                pass
        finally:
            self._is_pumping = False

    def _hand_out_one(self) -> bool:
        if not self._group.has_credit:
            return False
        event = self._cursor.take()
        if event is None:
            return False
        excluded = self._excluded.get(event.id, _NOBODY)
        consumer = self._group.next(excluded)
        if consumer is not None:
            consumer.send_event(event, self._outcome_of(event, consumer))
            return True
        if not self._group.covers(excluded):
            self._held.append(event)
            return True
        self._cursor.release(event, failed=False)
        return False

    def _outcome_of(self, event: StoredEvent, consumer: Consumer) -> Callable[[EventOutcome], None]:
        def ended(outcome: EventOutcome) -> None:
            if outcome is EventOutcome.DONE:
                self._excluded.pop(event.id, None)
                self._cursor.settle(event)
                return
            if outcome is EventOutcome.NOT_HERE:
                self._excluded[event.id] = self._excluded.get(event.id, _NOBODY) | {consumer}
            self._cursor.release(event, failed=outcome is not EventOutcome.RELEASED)

        return ended


class TapReader:
    """One named tap's events of one tenant, over its own cursor."""

    def __init__(self, events: EventStore, tenant: str, name: str, tap: Tap) -> None:
        self._tap = tap
        self._working = 0
        self._pause = FIRST_PAUSE
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = True
        self._is_pumping = True
        self._cursor = events.open_cursor(tenant, self.cursor_name(name), self._pump)
        self._is_pumping = False
        self._pump()

    @staticmethod
    def cursor_name(name: str) -> str:
        """Return what the store calls the cursor of a tap."""
        return f"tap:{name}"

    def close(self) -> None:
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
        self._cursor.close()

    def _pump(self) -> None:
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self._is_open and self._timer is None and self._working < TAP_WINDOW:
                event = self._cursor.take()
                if event is None:
                    break
                self._work(event)
        finally:
            self._is_pumping = False

    def _work(self, event: StoredEvent) -> None:
        if not self._tap.is_open(event.message):
            self._cursor.settle(event)
            return
        self._working += 1

        def done(error: GatewayError | None) -> None:
            self._working -= 1
            if error is None or isinstance(error, Rejected):
                self._pause = FIRST_PAUSE
                self._cursor.settle(event)
            else:
                self._wait()
                self._cursor.release(event, failed=True)
            self._pump()

        self._tap.take(event.message, done)

    def _wait(self) -> None:
        """Take nothing new until the pause is over: the tap's way is blocked, order is kept."""
        if self._timer is None and self._is_open:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._resume)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _resume(self) -> None:
        self._timer = None
        self._pump()
