"""Live messages: who waits for an answer, until when, and which answer is whose."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from gateway.errors import GatewayError, Undeliverable
from gateway.model.thing import ThingMessage, ThingMessageResponse
from gateway.twin.ditto_errors import ditto_error

MAX_WAITING: Final = 10_000

Answered = Callable[["ThingMessageResponse | GatewayError"], None]


@dataclass(frozen=True, slots=True)
class _Waiter:
    correlation_id: str
    done: Answered
    timer: asyncio.TimerHandle


class MessageDesk:
    """Senders that wait. The first answer counts; a correlation id in use gets a suffix meanwhile."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], _Waiter] = {}
        self._suffixes = itertools.count(1)

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, message: ThingMessage, done: Answered) -> ThingMessage:
        """Wait for the answer to a message; returns it with the correlation id that answers carry.

        Errors: Undeliverable when too many wait already.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Undeliverable(f"more than {MAX_WAITING} messages wait for an answer")
        key = (message.thing_id, message.correlation_id)
        if key in self._waiting:
            unique = f"{message.correlation_id}-{next(self._suffixes)}"
            key = (message.thing_id, unique)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(message.timeout, self._expire, key, message.timeout)
        self._waiting[key] = _Waiter(message.correlation_id, done, timer)
        return (
            message if key[1] == message.correlation_id else replace(message, correlation_id=key[1])
        )

    def answer(self, response: ThingMessageResponse) -> bool:
        """Hand an answer to who waits for it; False when nobody does."""
        waiter = self._waiting.pop((response.thing_id, response.correlation_id), None)
        if waiter is None:
            return False
        waiter.timer.cancel()
        waiter.done(replace(response, correlation_id=waiter.correlation_id))
        return True

    def _expire(self, key: tuple[str, str], timeout: float) -> None:
        waiter = self._waiting.pop(key)
        waiter.done(ditto_error("command.timeout", milliseconds=f"{round(timeout * 1_000):,}"))

    def close(self) -> None:
        """Answer all that wait: nobody will."""
        while self._waiting:
            _, waiter = self._waiting.popitem()
            waiter.timer.cancel()
            waiter.done(Undeliverable("shutting down"))
