"""Who is signed in: sessions in memory, found by a random cookie.

Of a cookie only its hash is kept. A session holds up to two identities: a user of the things' API, and an
operator. What is bounded is bounded by the oldest: a user's own sessions first, so that nobody pushes out
others.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.config.console import Console
from gateway.ditto.auth import SUBJECT_PREFIX, Caller

MAX_PER_USER: Final = 50

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
