"""Who is signed in: sessions in memory, found by a random cookie; and how often one may try to sign in.

Of a cookie only its hash is kept. A session holds up to two identities: a user of the things' API, and an
operator. What is bounded is bounded by the oldest: a user's own sessions first, so that nobody pushes out
others.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.config.console import Console
from gateway.ditto.auth import SUBJECT_PREFIX, Caller
from gateway.errors import QuotaExceeded

MAX_PER_USER: Final = 50
MAX_TRIES: Final = 10_000
"""Pairs of user and address, and addresses, whose failures are remembered."""
FREE_TRIES: Final = 5
FREE_TRIES_OF_ADDRESS: Final = 50
PENALTY_SECONDS: Final = 15.0
LONGEST_PENALTY: Final = 900.0

Clock = Callable[[], float]


@dataclass(slots=True)
class Session:
    """One browser.

    Shape:  times in seconds; `seen` and `until` of the steady clock, `expires` of the epoch.
    """

    user: str
    ditto: str | None
    operator: str | None
    seen: float
    until: float
    expires: float
    is_over: bool = False

    @property
    def names(self) -> tuple[str | None, str | None]:
        return self.ditto, self.operator


class Sessions:
    """All sessions, the one used longest ago first."""

    def __init__(
        self, settings: Console, *, now: Clock = time.monotonic, epoch: Clock = time.time
    ) -> None:
        self._settings = settings
        self._now = now
        self._epoch = epoch
        self._known: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def open(self, name: str, *, is_operator: bool, before: Session | None = None) -> str:
        """Return the cookie of a new session of `name`, with the other identity of the one `before`."""
        now = self._now()
        ditto, operator = before.names if before is not None else (None, None)
        session = Session(
            name,
            ditto if is_operator else name,
            name if is_operator else operator,
            now,
            before.until if before is not None else now + self._settings.session_seconds,
            before.expires
            if before is not None
            else self._epoch() + self._settings.session_seconds,
        )
        self._make_room(name)
        cookie = secrets.token_urlsafe(32)
        self._known[_mark(cookie)] = session
        return cookie

    def find(self, cookie: str | None) -> Session | None:
        """Return a living session, which is used by that; None for any other."""
        if cookie is None:
            return None
        mark = _mark(cookie)
        session = self._known.get(mark)
        if session is None or not self.is_alive(session):
            self._end(mark)
            return None
        session.seen = self._now()
        self._known.move_to_end(mark)
        return session

    def is_alive(self, session: Session) -> bool:
        """False for a session that has ended; asking is no use."""
        now = self._now()
        is_idle = now - session.seen > self._settings.idle_seconds
        return not session.is_over and not is_idle and now < session.until

    def close(self, cookie: str | None) -> None:
        """End a session."""
        if cookie is not None:
            self._end(_mark(cookie))

    def end_all(self) -> None:
        """End all of them."""
        for mark in list(self._known):
            self._end(mark)

    # --- for Ditto's API (`gateway.ditto.auth.Sessions`) --------------------------------------------

    def caller(self, session: str) -> Caller | None:
        """The API's user of a living session."""
        found = self.find(session)
        if found is None or found.ditto is None:
            return None
        subject = f"{SUBJECT_PREFIX}:{found.ditto}"
        return Caller(
            (subject,), "pre-authenticated-http", is_over=lambda: not self.is_alive(found)
        )

    def operator(self, session: str) -> str | None:
        """The operator of a living session."""
        found = self.find(session)
        return None if found is None else found.operator

    # --- bounds -------------------------------------------------------------------------------------

    def _end(self, mark: bytes) -> None:
        session = self._known.pop(mark, None)
        if session is not None:
            session.is_over = True

    def _make_room(self, name: str) -> None:
        own = [mark for mark, session in self._known.items() if session.user == name]
        for mark in own[: max(0, len(own) + 1 - MAX_PER_USER)]:
            self._end(mark)
        while len(self._known) >= self._settings.max_sessions:
            self._end(next(iter(self._known)))


def _mark(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()


@dataclass(slots=True)
class _Tries:
    count: int = 0
    until: float = 0.0


class Throttle:
    """Slows down who guesses passwords: free tries for user and address, then pauses that double.

    A try counts as failed when it begins, so that many at once are no way around. What is refused is not
    noted: it would push out the failures of others.
    """

    def __init__(self, now: Clock = time.monotonic) -> None:
        self._now = now
        self._tries: OrderedDict[tuple[str, str], _Tries] = OrderedDict()

    def begin(self, user: str, address: str) -> None:
        """Note a try. Errors: QuotaExceeded 429 with `Retry-After`, while a pause lasts."""
        now, network = self._now(), network_of(address)
        keys = (user, network), ("", network)
        for key in keys:
            known = self._tries.get(key)
            if known is not None and known.until > now:
                raise _throttled(known.until - now)
        both = [self._of(key) for key in keys]
        for tries, free in zip(both, (FREE_TRIES, FREE_TRIES_OF_ADDRESS), strict=True):
            tries.count += 1
            over = tries.count - free
            if over >= 0:
                tries.until = now + min(LONGEST_PENALTY, PENALTY_SECONDS * 2 ** min(over, 10))

    def succeeded(self, user: str, address: str) -> None:
        """Forget the failures of a pair; of the address this try does not count."""
        network = network_of(address)
        self._tries.pop((user, network), None)
        tries = self._tries.get(("", network))
        if tries is not None:
            tries.count = max(0, tries.count - 1)
            tries.until = tries.until if tries.count >= FREE_TRIES_OF_ADDRESS else 0.0

    def _of(self, key: tuple[str, str]) -> _Tries:
        tries = self._tries.get(key)
        if tries is None:
            tries = self._tries[key] = _Tries()
        elif tries.until and tries.until + LONGEST_PENALTY < self._now():
            tries.count, tries.until = 0, 0.0
        self._tries.move_to_end(key)
        while len(self._tries) > MAX_TRIES:
            self._tries.popitem(last=False)
        return tries


def network_of(address: str) -> str:
    """An address as guesses are counted: of IPv6 the /64, all of which one client may have."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


def _throttled(seconds: float) -> QuotaExceeded:
    wait = str(int(seconds) + 1)
    return QuotaExceeded(
        "Too many failed attempts to sign in.",
        code="console:login.throttled",
        description=f"Try again in {wait} seconds.",
        details={"headers": {"Retry-After": wait}},
    )
