"""Announcements of policies on their way to subscribers, and the acknowledgements they ask for.

A subscriber gets the announcements about its own subjects. Offering never waits. An announcement that asks
for acknowledgements is outstanding until all came or its time is over.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.model.entity_id import namespace_of
from gateway.wire.ditto.announcements import Announcement, subject_deletion

MAX_OUTSTANDING: Final = 10_000
"""Announcements that wait for acknowledgements; more count as not acknowledged at once."""
_AGAIN: Final = frozenset((408, 424))
"""Client-side statuses after which an announcement is repeated, as after all above 499."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectDeletion:
    """The deletion of a subject, to come or just done; instants are ISO 8601."""

    policy_id: str
    subject: str
    delete_at: str
    timestamp: str
    labels: tuple[str, ...] = ()
    ack_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Subscriber:
    namespaces: frozenset[str]
    send: Callable[[Announcement], None]


@dataclass(slots=True)
class _Outstanding:
    """An announcement whose acknowledgements are waited for."""

    policy_id: str
    missing: set[str]
    done: Callable[[bool], None]
    timer: asyncio.TimerHandle
    is_good: bool = True


class Announcements:
    """Who hears of announcements, and which are not acknowledged yet."""

    def __init__(self) -> None:
        self._subscribers: dict[str, dict[int, _Subscriber]] = {}
        self._outstanding: dict[str, _Outstanding] = {}
        self._count = 0

    def join(
        self,
        subjects: tuple[str, ...],
        namespaces: frozenset[str],
        send: Callable[[Announcement], None],
    ) -> Callable[[], None]:
        """Send the announcements about these subjects; returns the way to end it.

        Shape:  no namespaces takes the policies of all; `send` never blocks and never raises.
        """
        self._count += 1
        key, one = self._count, _Subscriber(namespaces, send)
        for subject in subjects:
            self._subscribers.setdefault(subject, {})[key] = one
        return lambda: self._leave(subjects, key)

    def _leave(self, subjects: tuple[str, ...], key: int) -> None:
        for subject in subjects:
            mine = self._subscribers.get(subject, {})
            mine.pop(key, None)
            if not mine:
                self._subscribers.pop(subject, None)

    def publish(self, announcement: SubjectDeletion, done: Callable[[bool], None]) -> None:
        """Tell all subscribers; `done` at once, or after the acknowledgements asked for.

        Shape:  `done(False)` says that they did not all come, or were not all good.
        """
        correlation_id = str(uuid.uuid4())
        if announcement.labels and not self._expect(correlation_id, announcement, done):
            done(False)
            return
        self._send(correlation_id, announcement)
        if not announcement.labels:
            done(True)

    def _send(self, correlation_id: str, announcement: SubjectDeletion) -> None:
        sent = subject_deletion(
            announcement.policy_id,
            (announcement.subject,),
            announcement.delete_at,
            correlation_id=correlation_id,
            timestamp=announcement.timestamp,
            labels=announcement.labels,
            timeout=announcement.ack_seconds,
        )
        namespace = namespace_of(announcement.policy_id)
        for one in list(self._subscribers.get(announcement.subject, {}).values()):
            if not one.namespaces or namespace in one.namespaces:
                one.send(sent)

    def _expect(
        self, correlation_id: str, announcement: SubjectDeletion, done: Callable[[bool], None]
    ) -> bool:
        if len(self._outstanding) >= MAX_OUTSTANDING:
            return False
        timer = asyncio.get_running_loop().call_later(
            announcement.ack_seconds, self._finish, correlation_id, False
        )
        self._outstanding[correlation_id] = _Outstanding(
            announcement.policy_id, set(announcement.labels), done, timer
        )
        return True

    def acknowledge(self, policy_id: str, correlation_id: str, label: str, status: int) -> bool:
        """Take one acknowledgement; False where nothing waits for it."""
        waiting = self._outstanding.get(correlation_id)
        if waiting is None or waiting.policy_id != policy_id or label not in waiting.missing:
            return False
        waiting.missing.discard(label)
        waiting.is_good = waiting.is_good and status < 500 and status not in _AGAIN
        if not waiting.missing:
            self._finish(correlation_id, waiting.is_good)
        return True

    @property
    def outstanding(self) -> int:
        """How many announcements wait for acknowledgements."""
        return len(self._outstanding)

    def _finish(self, correlation_id: str, is_good: bool) -> None:
        waiting = self._outstanding.pop(correlation_id)
        waiting.timer.cancel()
        waiting.done(is_good)

    def close(self) -> None:
        """Wait for nothing any more; nobody is told."""
        for waiting in self._outstanding.values():
            waiting.timer.cancel()
        self._outstanding.clear()
