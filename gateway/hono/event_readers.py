"""From the event store to those who read it: competing consumers, and connections (taps).

What a consumer accepts or rejects is done; what it releases or loses comes again, first. An event that cannot
be written for consumers is dropped, and those behind it go on. A tap works on one
event of a device at a time, on those of different devices side by side: what it could not work on comes again
after a pause and before what the device sent later; what it finally refused is done.
Full: events that nobody who has credit is to get are held, at most `MAX_HELD` for a tenant; then its events
wait for another consumer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from msgspec import structs

from gateway.errors import GatewayError, Rejected, Unencodable
from gateway.hono.consumers import Consumer, ConsumerGroup, EventOutcome
from gateway.hono.forward_spans import forward_span
from gateway.hono.unencodable import note_unencodable
from gateway.model.ports import Tap
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Span, Tracer
from gateway.store.ports import CONSUMERS, EventStore, StoredEvent

TAP_WINDOW = 64
"""Events that one tap works on at a time."""
MAX_HELD = 1_000
"""Events of a tenant that its consumers with credit called undeliverable."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0

_NOBODY: frozenset[Consumer] = frozenset()
_ELSEWHERE = frozenset((EventOutcome.NOT_HERE, EventOutcome.FAILED_HERE))
_COUNTED = frozenset((EventOutcome.FAILED, EventOutcome.FAILED_HERE))


class ConsumerReaders:
    """The competing consumers of one tenant's events, over their shared cursor."""

    def __init__(
        self, events: EventStore, tenant: str, metrics: Metrics, tracer: Tracer | None = None
    ) -> None:
        self._metrics = metrics
        self._tracer = tracer
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
        self.pump()

    def remove(self, consumer: Consumer) -> None:
        self._group.remove(consumer)
        self._excluded = {
            event_id: rest
            for event_id, consumers in self._excluded.items()
            if (rest := consumers - {consumer})
        }

    def close(self) -> None:
        self._cursor.close()

    def pump(self) -> None:
        """Hand out events while somebody has credit."""
        if self._is_pumping or not self._group:
            return
        self._is_pumping = True
        try:
            if self._held:
                self._stand_again()
            while self._hand_out_one():
                pass
        finally:
            self._is_pumping = False

    def _stand_again(self) -> None:
        """Let held events stand in line for whom somebody has credit now."""
        held, self._held = self._held, []
        for event in held:
            if self._group.has_credit_beside(self._excluded.get(event.id, _NOBODY)):
                self._cursor.release(event, failed=False)
            else:
                self._held.append(event)

    def _hand_out_one(self) -> bool:
        if len(self._held) >= MAX_HELD or not self._group.has_credit:
            return False
        event = self._cursor.take()
        if event is None:
            return False
        excluded = self._excluded.get(event.id, _NOBODY)
        consumer = self._group.next(excluded)
        if consumer is None:
            self._held.append(event)
        else:
            self._send(event, consumer)
        return True

    def _send(self, event: StoredEvent, consumer: Consumer) -> None:
        ended = self._outcome_of(event, consumer)
        message = event.message
        if self._tracer is not None and message.trace.flags & 1:
            span = forward_span(self._tracer, message)
            span.set("waited_ms", max(0, round((time.time() - message.at) * 1_000)))
            event = replace(event, message=structs.replace(message, trace=span.context))
            ended = _with_span(span, ended)
        try:
            consumer.send_event(event, ended)
        except Unencodable as error:
            note_unencodable(
                self._metrics, message.kind.value, message.tenant, message.device, error
            )
            ended(EventOutcome.DONE)

    def _outcome_of(self, event: StoredEvent, consumer: Consumer) -> Callable[[EventOutcome], None]:
        def ended(outcome: EventOutcome) -> None:
            if outcome is EventOutcome.DONE:
                self._excluded.pop(event.id, None)
                self._cursor.settle(event)
                return
            if outcome in _ELSEWHERE:
                self._excluded[event.id] = self._excluded.get(event.id, _NOBODY) | {consumer}
            self._cursor.release(event, failed=outcome in _COUNTED)

        return ended


def _with_span(span: Span, ended: Callable[[EventOutcome], None]) -> Callable[[EventOutcome], None]:
    def both(outcome: EventOutcome) -> None:
        span.set("outcome", outcome.name.lower())
        span.end()
        ended(outcome)

    return both


class TapReader:
    """One named tap's events of one tenant, over its own cursor."""

    def __init__(self, events: EventStore, tenant: str, name: str, tap: Tap) -> None:
        self._tap = tap
        self._lanes: dict[str, deque[StoredEvent]] = {}
        """Device -> the events that wait for the one that the tap works on."""
        self._taken = 0
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
        self._lanes.clear()
        self._cursor.close()

    def _pump(self) -> None:
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self._is_open and self._timer is None and self._taken < TAP_WINDOW:
                event = self._cursor.take()
                if event is None:
                    break
                self._start(event)
        finally:
            self._is_pumping = False

    def _start(self, event: StoredEvent) -> None:
        message = event.message
        if not self._tap.is_open(message):
            self._cursor.settle(event)
            return
        self._taken += 1
        lane = self._lanes.get(message.device)
        if lane is not None:
            lane.append(event)
            return
        self._lanes[message.device] = deque()
        self._work(event)

    def _work(self, event: StoredEvent) -> None:
        if self._cursor.is_over(event):  # it stood behind another for long
            self._done(event, None)
        else:
            self._tap.take(event.message, partial(self._done, event))

    def _done(self, event: StoredEvent, error: GatewayError | None) -> None:
        is_finished = error is None or isinstance(error, Rejected)
        if is_finished:
            self._cursor.settle(event)
        if not self._is_open:
            return
        self._taken -= 1
        if is_finished:
            self._pause = FIRST_PAUSE
            self._go_on(event.message.device)
        else:
            self._wait()
            self._give_back(event)
        self._pump()

    def _go_on(self, device: str) -> None:
        lane = self._lanes[device]
        if lane:
            self._work(lane.popleft())
        else:
            del self._lanes[device]

    def _give_back(self, event: StoredEvent) -> None:
        """Let an event come again, and before those of its device that stand behind it."""
        lane = self._lanes.pop(event.message.device)
        self._taken -= len(lane)
        self._cursor.release(event, failed=True)
        for behind in lane:
            self._cursor.release(behind, failed=False)

    def _wait(self) -> None:
        """Take nothing new until the pause is over: the tap's way is blocked."""
        if self._timer is None and self._is_open:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._resume)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _resume(self) -> None:
        self._timer = None
        self._pump()
