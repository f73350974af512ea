"""Passwords off the loop: bcrypt in a few threads behind a bounded queue, a memory of what was right.

bcrypt costs tens of milliseconds on purpose, and many clients send their password with every request. Who
checks passwords takes from here the threads, the hash functions and the memory; whom a password proves, and
how long it is remembered, is decided there.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

from gateway.errors import StoreUnavailable
from gateway.model.credentials_json import MAX_PASSWORD_BYTES

T = TypeVar("T")

THREADS = 2
NICENESS = 10
_MARK_BYTES = 32
NOBODY = "$2a$10$CwTycUXWue0Thq9StjUM0uJ8ZkYb2Yr8lJ1Wk8fGz1H5r5e7rQ9bG"
"""A hash that no password is known for: with it unknown users cost the same time as known ones."""


def hash_bcrypt(password: str, cost: int) -> str:
    """Return a `$2a$` hash; slow on purpose."""
    import bcrypt  # a process without users does not pay for it

    salt = bcrypt.gensalt(cost, prefix=b"2a")
    return bcrypt.hashpw(password.encode()[:MAX_PASSWORD_BYTES], salt).decode()


def matches_bcrypt(password: bytes, hashed: bytes) -> bool:
    """True when `hashed` was made from `password`; slow on purpose. What is no hash never matches."""
    import bcrypt

    try:
        return bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], hashed)
    except ValueError:
        return False


def _step_back() -> None:
    """Let the loop have a busy processor first: wrong passwords must not slow down who is logged in."""
    if sys.platform == "linux":  # elsewhere this would be about the whole process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class HashPool:
    """Threads for slow hashes: they start with the first work and end with `close`.

    Full, or closed: StoreUnavailable.
    """

    def __init__(self, *, max_queue: int, threads: int = THREADS) -> None:
        self._max_queue = max_queue
        self._count = threads
        self._waiting = 0
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._is_closed = False

    @property
    def depth(self) -> int:
        """How many hashes wait or run."""
        return self._waiting

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` in a thread.

        Errors: StoreUnavailable when too many wait, or the pool has ended.
        """
        if self._is_closed:
            raise StoreUnavailable("password checks have ended")
        if self._waiting >= self._max_queue:
            raise StoreUnavailable("too many passwords wait to be checked")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._count, "password", initializer=_step_back)
        with self._lock:
            self._waiting += 1
        future = self._threads.submit(work)
        future.add_done_callback(self._one_less)
        return future

    def _one_less(self, _future: Future[Any]) -> None:
        with self._lock:
            self._waiting -= 1

    def close(self) -> None:
        """Stop the threads after what runs now; what waits is cancelled."""
        self._is_closed = True
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None


class RightPasswords(Generic[T]):
    """Passwords that were right a moment ago, each as a BLAKE2 hash under a key that only this process has.

    Shape:  at most `capacity` values, the oldest goes first; `now` is the clock of `until`, in seconds.
    """

    def __init__(self, *, capacity: int, now: Callable[[], float]) -> None:
        self._capacity = capacity
        self._now = now
        self._key = secrets.token_bytes(32)
        self._values: dict[bytes, tuple[T, float]] = {}

    def mark(self, *parts: bytes) -> bytes:
        """Return what stands for a user name, a password and what else must be the same next time."""
        sizes = b"".join([len(part).to_bytes(4) for part in parts])
        return hashlib.blake2b(
            sizes + b"".join(parts), key=self._key, digest_size=_MARK_BYTES
        ).digest()

    def find(self, mark: bytes) -> T | None:
        """Return what was kept under a mark, None where there is nothing or its time is over."""
        found = self._values.get(mark)
        return found[0] if found is not None and found[1] > self._now() else None

    def keep(self, mark: bytes, value: T, until: float) -> None:
        """Remember `value` until then."""
        self._values.pop(mark, None)
        if len(self._values) >= self._capacity:
            del self._values[next(iter(self._values))]
        self._values[mark] = (value, until)

    def forget(self, matches: Callable[[T], bool]) -> None:
        """Forget the values that match."""
        for mark in [mark for mark, (value, _) in self._values.items() if matches(value)]:
            del self._values[mark]
