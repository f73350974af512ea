"""A bounded cache of what services said, kept as long as they allowed.

One question per key at a time: who asks meanwhile waits for its answer. What was asked before something was
dropped may be older than the change: it is asked again, as `read_cache` does. Over `capacity` the value that
came first goes. Full of waiting: StoreUnavailable.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from gateway.errors import GatewayError, StoreUnavailable
from gateway.hono.read_cache import RETRIES

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_FLIGHTS = 10_000
MAX_WAITING_PER_KEY = 1_000
FULL = "too many wait for the registry"

Kept: TypeAlias = Callable[[V | GatewayError, float], None]
"""Takes a value and how long it may be kept, in seconds."""


class AnswerCache(Generic[K, V]):
    """Values by key.

    Shape:  `ask` finds a value and calls back; failures and absence are GatewayErrors and are not kept;
            `now` is a steady clock in seconds.
    """

    def __init__(
        self,
        ask: Callable[[K, Kept[V]], None],
        *,
        capacity: int = 100_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._capacity = capacity
        self._now = now
        self._values: dict[K, tuple[V, float]] = {}
        self._waiting: dict[K, list[Callable[[V | GatewayError], None]]] = {}
        self._generation = 0

    def peek(self, key: K) -> V | None:
        """Return the value if it is here."""
        found = self._values.get(key)
        return found[0] if found is not None and found[1] > self._now() else None

    def get(self, key: K, done: Callable[[V | GatewayError], None]) -> None:
        """Hand the value of `key` to `done`, at once when it is here."""
        value = self.peek(key)
        if value is not None:
            done(value)
            return
        waiting = self._waiting.get(key)
        if waiting is not None:
            if len(waiting) >= MAX_WAITING_PER_KEY:
                done(StoreUnavailable(FULL))
            else:
                waiting.append(done)
        elif len(self._waiting) >= MAX_FLIGHTS:
            done(StoreUnavailable(FULL))
        else:
            self._waiting[key] = [done]
            self._fly(key, RETRIES)

    def _fly(self, key: K, retries: int) -> None:
        self._ask(key, partial(self._landed, key, self._generation, retries))

    def _landed(
        self, key: K, generation: int, retries: int, answer: V | GatewayError, age: float
    ) -> None:
        if not isinstance(answer, GatewayError):
            is_old = generation != self._generation
            if is_old and retries:
                self._fly(key, retries - 1)
                return
            if age > 0 and not is_old:
                self._keep(key, answer, age)
        for done in self._waiting.pop(key, ()):
            try:
                done(answer)
            except Exception:  # top of a callback: the others in line must hear theirs
                log.exception("an answer of the registry was not taken")

    def _keep(self, key: K, value: V, age: float) -> None:
        self._values.pop(key, None)
        if len(self._values) >= self._capacity:
            del self._values[next(iter(self._values))]
        self._values[key] = value, self._now() + age

    def drop(self, matches: Callable[[K, V], bool]) -> None:
        """Forget the values that match, and do not keep what is being asked for."""
        self._generation += 1
        for key in [key for key, (value, _) in self._values.items() if matches(key, value)]:
            del self._values[key]
