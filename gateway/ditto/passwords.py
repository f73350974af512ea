"""Who may use Ditto's API by password: users' bcrypt hashes, one flight per credential, a short memory.

A password that was right is remembered for a minute; the stored hash is part of what is remembered, so a
changed password is never found. Who guesses waits: what has been right once in this process is checked
without that, so that nobody shuts out others by guessing from their address; what was wrong a moment ago is
wrong still, and no further guess.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from gateway.ditto.throttle import Throttle
from gateway.errors import StoreUnavailable, Undeliverable
from gateway.model.credentials_json import MAX_PASSWORD_BYTES
from gateway.runtime.passwords import (
    NOBODY,
    HashPool,
    RightPasswords,
    hash_bcrypt,
    matches_bcrypt,
)

MAX_COST = 10
WRONG_SECONDS = 600.0
PROVEN_SECONDS = 604_800.0


def hash_password(password: str, *, cost: int = MAX_COST) -> str:
    """Return a bcrypt hash as users files hold it."""
    return hash_bcrypt(password, cost)


class LazyHashes(Mapping[str, str]):
    """Name -> bcrypt hash; those of known passwords are made when somebody asks for them, not at the start.

    Shape:  `hashes` are there already, and win.
    """

    def __init__(self, passwords: Mapping[str, str], hashes: Mapping[str, str]) -> None:
        self._passwords = passwords
        self._hashes = dict(hashes)

    def __getitem__(self, name: str) -> str:
        known = self._hashes.get(name)
        if known is None:
            known = self._hashes[name] = hash_password(self._passwords[name])
        return known

    def __iter__(self) -> Iterator[str]:
        return iter({**self._passwords, **self._hashes})

    def __len__(self) -> int:
        return len({**self._passwords, **self._hashes})


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
        check: Callable[[bytes, bytes], bool] = matches_bcrypt,
        throttle: Throttle | None = None,
    ) -> None:
        self.throttle = throttle or Throttle()
        self._seconds = seconds
        self._queue = queue
        self._check = check
        self._right: RightPasswords[bool] = RightPasswords(capacity=entries, now=time.monotonic)
        self._proven: RightPasswords[bool] = RightPasswords(capacity=entries, now=time.monotonic)
        self._wrong: RightPasswords[bool] = RightPasswords(capacity=entries, now=time.monotonic)
        self._flights: dict[bytes, asyncio.Future[bool]] = {}
        self._pool = HashPool(max_queue=queue)

    @property
    def depth(self) -> int:
        """How many checks wait or run."""
        return self._pool.depth

    @property
    def limit(self) -> int:
        """How many may."""
        return self._queue

    def close(self) -> None:
        """End the threads; checks that run are finished first."""
        self._pool.close()

    async def verify(
        self, name: str, password: bytes, hashed: str | None, address: str | None = None
    ) -> bool:
        """Return True when `password` fits `hashed`; None stands for a user that does not exist.

        Shape:  guesses from `address` are slowed down; None: somebody else does that.
        Errors: Undeliverable when too many checks wait; QuotaExceeded after too many wrong ones.
        """
        if len(password) > MAX_PASSWORD_BYTES or b"\0" in password:
            return False  # no user has such a one
        stored = (NOBODY if hashed is None else hashed).encode()
        mark = self._right.mark(name.encode(), stored, password)
        if self._right.find(mark):
            return True
        if self._wrong.find(mark):
            return False
        flight = self._flights.get(mark) or self._start(mark, name, password, stored, address)
        right = await asyncio.shield(flight) and hashed is not None
        if right:
            self._right.keep(mark, True, time.monotonic() + self._seconds)
        return right

    def _start(
        self, mark: bytes, name: str, password: bytes, stored: bytes, address: str | None
    ) -> asyncio.Future[bool]:
        if max(len(self._flights), self._pool.depth) >= self._queue:
            raise _busy()
        guesser = None if self._proven.find(mark) else address
        if guesser is not None:
            self.throttle.begin_request(name, guesser)
        try:
            running = self._pool.submit(partial(self._check, password, stored))
        except StoreUnavailable as error:
            raise _busy() from error
        flight = self._flights[mark] = asyncio.wrap_future(running)
        flight.add_done_callback(partial(self._landed, mark, name, guesser))
        return flight

    def _landed(
        self, mark: bytes, name: str, guesser: str | None, flight: asyncio.Future[bool]
    ) -> None:
        """A check has ended, whether or not somebody still waits for it."""
        self._flights.pop(mark, None)
        if flight.cancelled() or flight.exception() is not None:
            return
        now = time.monotonic()
        if flight.result():
            self._proven.keep(mark, True, now + PROVEN_SECONDS)
            if guesser is not None:
                self.throttle.forget(name, guesser)
            return
        self._wrong.keep(mark, True, now + WRONG_SECONDS)
        if guesser is not None:
            self.throttle.failed_request(guesser)


def _busy() -> Undeliverable:
    return Undeliverable(
        "Too many passwords are being checked.",
        code="gateway:authentication.provider.unavailable",
        description="Try again later.",
    )
