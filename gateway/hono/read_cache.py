"""A bounded cache that reads through: one flight per key, those who wait are answered in order of arrival.

Answers are callbacks; a hit answers before `get` returns. What is read while something was dropped may be
older than the change, which who asked meanwhile knows of: it is read again, up to `RETRIES` times, after that
handed to who waits, but not kept. Full of waiting keys: StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from gateway.errors import GatewayError, StoreUnavailable

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

MAX_FLIGHTS = 10_000
MAX_WAITING_PER_KEY = 1_000
RETRIES = 5


class ReadCache(Generic[K, V]):
    """Values by key.

    Shape:  `read` finds a value or raises a GatewayError (absence is one, and is not cached);
            over `capacity` the value that was read first goes.
    """

    def __init__(self, read: Callable[[K], Awaitable[V]], *, capacity: int = 100_000) -> None:
        self._read = read
        self._capacity = capacity
        self._values: dict[K, V] = {}
        self._waiting: dict[K, list[Callable[[V | GatewayError], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._generation = 0

    def peek(self, key: K) -> V | None:
        """Return the value if it is here."""
        return self._values.get(key)

    def get(self, key: K, done: Callable[[V | GatewayError], None]) -> None:
        """Hand the value of `key` to `done`, at once when it is here."""
        value = self._values.get(key)
        if value is not None:
            done(value)
            return
        waiting = self._waiting.get(key)
        if waiting is None:
            self._take_off(key, done)
        elif len(waiting) >= MAX_WAITING_PER_KEY:
            done(StoreUnavailable("too many wait for the registry"))
        else:
            waiting.append(done)

    def _take_off(self, key: K, done: Callable[[V | GatewayError], None]) -> None:
        if len(self._waiting) >= MAX_FLIGHTS:
            done(StoreUnavailable("too many wait for the registry"))
            return
        self._waiting[key] = [done]
        task = asyncio.get_running_loop().create_task(self._fly(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self, key: K) -> None:
        generation = self._generation
        answer: V | GatewayError = StoreUnavailable("the registry is stopping")
        try:
            for _ in range(RETRIES + 1):
                generation = self._generation
                answer = await self._read(key)
                if generation == self._generation:
                    break
        except GatewayError as error:
            answer = error
        except Exception:  # top of a task: who waits is answered
            log.exception("a registry entry was not read")
            answer = GatewayError()
        finally:
            if not isinstance(answer, GatewayError) and generation == self._generation:
                self._keep(key, answer)
            self._answer(key, answer)

    def _answer(self, key: K, answer: V | GatewayError) -> None:
        for done in self._waiting.pop(key, ()):
            try:
                done(answer)
            except Exception:  # top of a callback: the others in line must hear theirs
                log.exception("an answer of the registry was not taken")

    def _keep(self, key: K, value: V) -> None:
        if len(self._values) >= self._capacity:
            del self._values[next(iter(self._values))]
        self._values[key] = value

    def drop(self, matches: Callable[[K, V], bool]) -> None:
        """Forget the values that match; flights of this moment are not kept."""
        self._generation += 1
        for key in [key for key, value in self._values.items() if matches(key, value)]:
            del self._values[key]

    def discard(self, key: K) -> None:
        """Forget one value; flights of this moment are not kept."""
        self._generation += 1
        self._values.pop(key, None)

    async def close(self) -> None:
        """End the flights; those who wait are told StoreUnavailable."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for key in tuple(self._waiting):  # of flights that never began
            self._answer(key, StoreUnavailable("the registry is stopping"))
