"""The life of a policy's subjects that end or are announced: what is due when, and what follows.

A `Watch` is one subject of one policy. Its deletion is announced before it expires, or when it is gone,
or not at all; an announcement that asks for acknowledgements is repeated with growing pauses until they
came or its grace is over. The caller does what a step says and tells what happened; nothing here waits.
Source: Ditto, policy announcements.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from gateway.model.json import JsonObject
from gateway.twin.durations import instant_of, instant_text, seconds_of
from gateway.twin.policy import comparable
from gateway.twin.policy_form import DEFAULT_ACK_SECONDS
from gateway.twin.policy_resolution import members, texts

FIRST_PAUSE: Final = 1.0
"""Seconds until an announcement is repeated for the first time; they double."""
LAST_PAUSE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A subject that expires or whose deletion is announced.

    Shape:  `before` seconds before expiry of the announcement, None for none; `spread` seconds that it may
            come earlier; `labels` of the acknowledgements it asks for, `ack_seconds` how long it waits.
    """

    subject: str
    expires: datetime | None
    before: float | None = None
    spread: float = 0.0
    when_deleted: bool = False
    labels: tuple[str, ...] = ()
    ack_seconds: float = DEFAULT_ACK_SECONDS


def leases_of(document: JsonObject, spread: float) -> dict[str, Lease]:
    """The subjects of a policy that end or are announced; of several entries, the first to end counts.

    Shape:  `spread` in seconds holds where a subject sets none.
    """
    found: dict[str, Lease] = {}
    for subject, body in _subjects(document):
        lease = _lease(subject, body, spread)
        if lease is None:
            continue
        known = found.get(subject)
        if known is None or _end(lease) < _end(known):
            found[subject] = lease
    return found


def _end(lease: Lease) -> float:
    return lease.expires.timestamp() if lease.expires is not None else float("inf")


def _subjects(document: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    for entry in members(document.get("entries")).values():
        for subject, body in members(members(entry).get("subjects")).items():
            yield subject, members(body)


def subjects_of(document: JsonObject) -> frozenset[str]:
    """All subjects of a policy's own entries."""
    return frozenset(subject for subject, _ in _subjects(document))


def _lease(subject: str, body: JsonObject, spread: float) -> Lease | None:
    expiry, announcement = body.get("expiry"), members(body.get("announcement"))
    if expiry is None and not announcement:
        return None
    expires = instant_of(str(expiry)) if expiry is not None else None
    lease = Lease(subject, expires, when_deleted=announcement.get("whenDeleted") is True)
    if "requestedAcks" in announcement:
        acks = members(announcement["requestedAcks"])
        timeout = acks.get("timeout")
        seconds = seconds_of(timeout) if timeout is not None else DEFAULT_ACK_SECONDS
        lease = replace(lease, labels=texts(acks.get("labels")), ack_seconds=seconds)
    if "beforeExpiry" not in announcement or expires is None:
        return lease
    interval = announcement.get("randomizationInterval")
    own = seconds_of(interval) if interval is not None else spread
    return replace(lease, before=seconds_of(announcement["beforeExpiry"]), spread=own)


def due_of(document: JsonObject, spread: float) -> str | None:
    """The first instant at which something of a policy may be due, as texts of instants compare."""
    starts = [
        lease.expires - timedelta(seconds=(lease.before or 0.0) + lease.spread)
        for lease in leases_of(document, spread).values()
        if lease.expires is not None
    ]
    return comparable(instant_text(min(starts))) if starts else None


class Step(enum.Enum):
    """What is to be done for a subject."""

    NOTHING = enum.auto()
    ANNOUNCE = enum.auto()
    DELETE = enum.auto()
    END = enum.auto()


@dataclass(slots=True)
class Watch:
    """Where a subject stands. `at` is when the next step is due, None while an event has to come first.

    Shape:  `jitter` is a random number from 0 to 1.
    """

    lease: Lease
    grace: float
    jitter: float = 0.0
    at: datetime | None = None
    is_deleted: bool = False
    is_announced: bool = False
    delete_at: datetime | None = None
    pause: float = FIRST_PAUSE
    _is_waiting: bool = False

    def start(self, now: datetime) -> None:
        """Find out what is due first."""
        self.delete_at = self.lease.expires
        self.at = self.lease.expires
        if self.lease.expires is not None and self.lease.before is not None:
            early = timedelta(seconds=self.lease.before + self.lease.spread * self.jitter)
            self.at = max(now, self.lease.expires - early)
        else:
            self.is_announced = not self.lease.when_deleted

    @property
    def _announces_early(self) -> bool:
        return self.lease.before is not None and not self.is_announced

    def step(self, now: datetime) -> Step:
        """What to do now that `at` has come."""
        if self._is_waiting or self.at is None or now < self.at:
            return Step.NOTHING
        if self._announces_early or (self.is_deleted and not self.is_announced):
            return self._announce()
        self.at = now + timedelta(seconds=self.pause)  # deleted again should this one fail
        return Step.END if self.is_deleted else Step.DELETE

    def _announce(self) -> Step:
        self._is_waiting = bool(self.lease.labels)
        if self._is_waiting:
            self.at = None
        else:
            self._announced()
        return Step.ANNOUNCE

    def _announced(self) -> None:
        """The announcement is done with; now only the deletion is left."""
        self.is_announced = True
        self.at = self.delete_at

    def acknowledged(self, is_good: bool, now: datetime) -> None:
        """All acknowledgements came, or not."""
        self._is_waiting = False
        if is_good:
            self._announced()
            return
        self.at = now + timedelta(seconds=self.pause)
        self.pause = min(self.pause * 2, LAST_PAUSE)
        if self.delete_at is not None and self.at > self.delete_at + timedelta(seconds=self.grace):
            self._announced()

    def deleted(self, now: datetime, announces: bool) -> None:
        """The subject is gone from the policy; `announces` says whether the service tells of that at all."""
        if self.is_deleted:
            return
        self.is_deleted = True
        self.delete_at = now
        if not (announces and self.lease.when_deleted) and not self._is_waiting:
            self.is_announced = True
        if not self._is_waiting:
            self.at = now

    @property
    def is_over(self) -> bool:
        """True when nothing is left to do."""
        return self.is_deleted and self.is_announced and not self._is_waiting
