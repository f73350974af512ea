"""Hashing and checking passwords; what is slow (bcrypt) runs in two threads behind a bounded queue.

Full: StoreUnavailable. Source: Hono Credentials API, hashed-password: base64(H(salt then UTF-8 password))
for the SHA functions, `$2a$` strings for bcrypt.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import bcrypt

from gateway.errors import GatewayError, StoreUnavailable
from gateway.model.credentials_json import (
    BCRYPT,
    FUNCTION,
    HASH,
    MAX_PASSWORD_BYTES,
    SALT,
    SHA_256,
    SHA_512,
)
from gateway.model.registry import Secret

T = TypeVar("T")

THREADS = 2
MAX_QUEUE = 1_000
DEFAULT_COST = 10
_DIGESTS = {SHA_256: hashlib.sha256, SHA_512: hashlib.sha512}


def hash_bcrypt(password: str, cost: int) -> str:
    """Return a `$2a$` hash; slow on purpose."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost, prefix=b"2a")).decode()


def is_slow(secret: Secret) -> bool:
    """True when checking against this secret needs a thread."""
    return secret.data.get(FUNCTION) == BCRYPT


def matches(secret: Secret, password: bytes) -> bool:
    """True when `password` is what the secret was made from; a broken secret never matches."""
    expected = secret.data.get(HASH)
    if expected is None:
        return False
    if is_slow(secret):
        return _matches_bcrypt(expected, password)
    digest = _DIGESTS.get(secret.data.get(FUNCTION, SHA_256))
    if digest is None:
        return False
    salt = base64.b64decode(secret.data.get(SALT, ""))
    return hmac.compare_digest(digest(salt + password).digest(), base64.b64decode(expected))


def _matches_bcrypt(expected: str, password: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], expected.encode())
    except ValueError:
        return False


class PasswordPool:
    """Two threads for slow hashes; starts with the first work, ends with `close`."""

    def __init__(self, *, cost: int = DEFAULT_COST, max_queue: int = MAX_QUEUE) -> None:
        self._cost = cost
        self._max_queue = max_queue
        self._waiting = 0
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    @property
    def depth(self) -> int:
        """How many hashes wait or run."""
        return self._waiting

    async def hash(self, password: str) -> str:
        """Return the bcrypt hash of a new password.

        Errors: StoreUnavailable when too many wait.
        """
        return await asyncio.wrap_future(self._submit(partial(hash_bcrypt, password, self._cost)))

    def check(
        self,
        secrets: tuple[Secret, ...],
        password: bytes,
        done: Callable[[Secret | GatewayError | None], None],
    ) -> None:
        """Find the first secret that matches; `done` is called on the loop.

        Errors (through `done`): StoreUnavailable when too many wait or the pool ends.
        """
        try:
            future = self._submit(partial(_first_match, secrets, password))
        except StoreUnavailable as error:
            done(error)
            return
        future.add_done_callback(partial(_tell, asyncio.get_running_loop(), done))

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        if self._waiting >= self._max_queue:
            raise StoreUnavailable("too many passwords wait to be checked")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "password")
        future = self._threads.submit(work)
        with self._lock:
            self._waiting += 1
        future.add_done_callback(self._one_less)
        return future

    def _one_less(self, _future: Future[Any]) -> None:
        with self._lock:
            self._waiting -= 1

    def close(self) -> None:
        """Stop the threads after what runs now; what waits is answered with StoreUnavailable."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None


def _first_match(secrets: tuple[Secret, ...], password: bytes) -> Secret | None:
    return next((secret for secret in secrets if matches(secret, password)), None)


def _tell(
    loop: asyncio.AbstractEventLoop,
    done: Callable[[Secret | GatewayError | None], None],
    future: Future[Secret | None],
) -> None:
    """Carry the answer from the pool's thread to the loop."""
    stopping = StoreUnavailable("the authenticator is stopping")
    answer = stopping if future.cancelled() else future.result()
    if not loop.is_closed():
        loop.call_soon_threadsafe(done, answer)
