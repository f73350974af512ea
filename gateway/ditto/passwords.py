"""Checking passwords off the loop: a small thread pool, one flight per credential, a short memory.

bcrypt costs tens of milliseconds on purpose, and HTTP clients send their password with every request. A
password that was right is remembered for a minute as an HMAC under a key that lives in this process only;
the stored hash is part of what is remembered, so a changed password is never found. Wrong ones are forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import bcrypt

from gateway.errors import Undeliverable

THREADS = 2
MAX_PASSWORD = 72
"""Bytes that bcrypt looks at; longer passwords are wrong by definition."""
MAX_COST = 10
NOBODY = b"$2b$10$CwTycUXWue0Thq9StjUM0uJ8ZkYb2Yr8lJ1Wk8fGz1H5r5e7rQ9bG"
"""A hash that no password is known for: unknown users cost the same time as known ones."""


def hash_password(password: str, *, cost: int = MAX_COST) -> str:
    """Return a bcrypt hash as users files hold it."""
    salt = bcrypt.gensalt(cost, prefix=b"2a")
    return bcrypt.hashpw(password.encode()[:MAX_PASSWORD], salt).decode()


class PasswordChecks:
    """Verifies passwords against bcrypt hashes.

    Shape:  at most `queue` checks wait or run (more: Undeliverable, 503); at most `entries` right ones are
            remembered for `seconds`.
    """

    def __init__(
        self,
        *,
        seconds: float = 60.0,
        entries: int = 10_000,
        queue: int = 200,
        check: Callable[[bytes, bytes], bool] = bcrypt.checkpw,
    ) -> None:
        self._key = secrets.token_bytes(32)
        self._seconds = seconds
        self._entries = entries
        self._queue = queue
        self._check = check
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._flights: dict[bytes, asyncio.Future[bool]] = {}
        self._pool = ThreadPoolExecutor(THREADS, "ditto-passwords")

    def close(self) -> None:
        """End the threads; checks that run are finished first."""
        self._pool.shutdown()

    async def verify(self, name: str, password: bytes, hashed: str | None) -> bool:
        """Return True when `password` fits `hashed`; None stands for a user that does not exist.

        Errors: Undeliverable when too many checks wait.
        """
        if len(password) > MAX_PASSWORD or b"\0" in password:
            return False
        stored = NOBODY if hashed is None else hashed.encode()
        mark = self._mark(name, password, stored)
        if self._remembers(mark):
            return True
        flight = self._flights.get(mark) or self._start(mark, password, stored)
        right = await asyncio.shield(flight) and hashed is not None
        if right:
            self._remember(mark)
        return right

    def _mark(self, name: str, password: bytes, stored: bytes) -> bytes:
        text = b"\0".join((name.encode(), stored, password))
        return hmac.digest(self._key, text, hashlib.sha256)

    def _remembers(self, mark: bytes) -> bool:
        until = self._right.get(mark)
        return until is not None and asyncio.get_running_loop().time() < until

    def _remember(self, mark: bytes) -> None:
        self._right[mark] = asyncio.get_running_loop().time() + self._seconds
        self._right.move_to_end(mark)
        while len(self._right) > self._entries:
            self._right.popitem(last=False)

    def _start(self, mark: bytes, password: bytes, stored: bytes) -> asyncio.Future[bool]:
        if len(self._flights) >= self._queue:
            raise Undeliverable(
                "Too many passwords are being checked.",
                code="gateway:authentication.provider.unavailable",
                description="Try again later.",
            )
        loop = asyncio.get_running_loop()
        flight = loop.run_in_executor(self._pool, _checked, self._check, password, stored)
        self._flights[mark] = flight
        flight.add_done_callback(lambda _: self._flights.pop(mark, None))
        return flight


def _checked(check: Callable[[bytes, bytes], bool], password: bytes, stored: bytes) -> bool:
    try:
        return check(password, stored)
    except ValueError:
        return False  # not a bcrypt hash: nobody gets in with it
