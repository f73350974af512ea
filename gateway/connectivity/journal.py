"""What happened on a connection: bounded log entries, and counts per minute.

The log is what tells a user why a message did not become a twin change, so it is on from the start; it keeps
the last ten successes and failures of each kind and address. Source: Ditto, connection logs and metrics.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.model.json import Json, JsonObject
from gateway.model.members import format_instant

KEPT = 10
"""Entries of one level, category, type and address."""
MAX_KINDS = 200
LOG_SECONDS = 86_400.0
MINUTES = 1_440
_WINDOWS = {"PT1M": 1, "PT1H": 60, "PT24H": MINUTES}


class Category(enum.StrEnum):
    """Which end of the connection."""

    SOURCE = "source"
    TARGET = "target"
    RESPONSE = "response"
    CONNECTION = "connection"


class Step(enum.StrEnum):
    """How far a message came."""

    CONSUMED = "consumed"
    MAPPED = "mapped"
    DROPPED = "dropped"
    ENFORCED = "enforced"
    ACKNOWLEDGED = "acknowledged"
    THROTTLED = "throttled"
    DISPATCHED = "dispatched"
    FILTERED = "filtered"
    PUBLISHED = "published"
    OTHER = "other"


INBOUND = (
    Step.CONSUMED,
    Step.MAPPED,
    Step.DROPPED,
    Step.ENFORCED,
    Step.ACKNOWLEDGED,
    Step.THROTTLED,
)
OUTBOUND = (
    Step.DISPATCHED,
    Step.FILTERED,
    Step.MAPPED,
    Step.DROPPED,
    Step.PUBLISHED,
    Step.ACKNOWLEDGED,
)
_INBOUND_ENDS = frozenset((Category.SOURCE, Category.RESPONSE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened to one message."""

    category: Category
    step: Step
    address: str = ""
    failure: str | None = None
    correlation_id: str = ""
    entity_id: str | None = None
    entity_type: str = "thing"
    message: str = ""
    at: float = field(default_factory=time.time)

    @property
    def level(self) -> str:
        return "success" if self.failure is None else "failure"

    def json(self) -> JsonObject:
        """The entry as `/logs` shows it."""
        shown: JsonObject = {
            "correlationId": self.correlation_id or "n/a",
            "timestamp": format_instant(self.at),
            "category": str(self.category),
            "type": str(self.step),
            "level": self.level,
            "message": (self.failure or self.message or f"Message was {self.step}.")[:1_000],
            "address": self.address,
        }
        if self.entity_id:
            shown |= {"entityId": self.entity_id, "entityType": self.entity_type}
        if self.entity_id and self.entity_type == "thing":
            shown["thingId"] = self.entity_id
        return shown


@dataclass(frozen=True, slots=True)
class Subject:
    """What an entry is about."""

    entity_id: str | None
    entity_type: str = "thing"

    @classmethod
    def of(cls, topic: str) -> Subject:
        """That of a signal, by its topic; none for topics of many."""
        namespace, name, group, *_ = f"{topic}///".split("/")
        if not name or name == "_":
            return cls(None)
        if group == "connections":
            return cls(name, "connection")
        return cls(f"{namespace}:{name}", "policy" if group == "policies" else "thing")


@dataclass(slots=True)
class Meter:
    """Counts per minute over a day."""

    minutes: deque[list[int]] = field(default_factory=lambda: deque(maxlen=MINUTES))
    last: float | None = None

    def count(self, at: float) -> None:
        minute = int(at // 60)
        if self.minutes and self.minutes[-1][0] == minute:
            self.minutes[-1][1] += 1
        else:
            self.minutes.append([minute, 1])
        self.last = at

    def json(self, now: float) -> JsonObject:
        minute = int(now // 60)
        shown: JsonObject = {
            name: sum(n for at, n in self.minutes if at > minute - span)
            for name, span in _WINDOWS.items()
        }
        shown["lastMessageAt"] = format_instant(self.last) if self.last else None
        return shown


class Journal:
    """The log and the counts of one connection."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, ...], deque[Entry]] = {}
        self._meters: dict[tuple[bool, str, Step, bool], Meter] = {}
        self._since: float | None = None
        self._until = 0.0

    def enable(self) -> None:
        """Log for a day from now."""
        self._since = time.time()
        self._until = self._since + LOG_SECONDS

    def reset_log(self) -> None:
        self._entries.clear()

    def reset_metrics(self) -> None:
        self._meters.clear()

    def note(self, entry: Entry) -> None:
        """Count an entry, and keep it while logging is on."""
        inbound = entry.category in _INBOUND_ENDS
        key = (inbound, entry.address, entry.step, entry.failure is None)
        meter = self._meters.get(key)
        if meter is None and len(self._meters) < MAX_KINDS:
            meter = self._meters[key] = Meter()
        if meter is not None:
            meter.count(entry.at)
        if entry.at < self._until:
            self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        kind = (entry.level, entry.category, entry.step, entry.address)
        kept = self._entries.get(kind)
        if kept is None:
            if len(self._entries) >= MAX_KINDS:
                return
            kept = self._entries[kind] = deque(maxlen=KEPT)
        kept.append(entry)

    # --- as JSON --------------------------------------------------------------------------------

    def logs(self) -> JsonObject:
        """`connectionLogs`, oldest first, with the time that logging covers."""
        entries = sorted((e for kept in self._entries.values() for e in kept), key=lambda e: e.at)
        shown: JsonObject = {"connectionLogs": [entry.json() for entry in entries]}
        if time.time() < self._until:
            if self._since:
                shown["enabledSince"] = format_instant(self._since)
            shown["enabledUntil"] = format_instant(self._until)
        return shown

    def metrics(self) -> JsonObject:
        """`connectionMetrics` and those per address."""
        now = time.time()
        failed = any(not success for (_, _, _, success) in self._meters)
        return {
            "containsFailures": failed,
            "connectionMetrics": {
                "inbound": self._counts(True, INBOUND, None, now),
                "outbound": self._counts(False, OUTBOUND, None, now),
            },
            "sourceMetrics": {"addressMetrics": self._by_address(True, INBOUND, now)},
            "targetMetrics": {"addressMetrics": self._by_address(False, OUTBOUND, now)},
        }

    def _by_address(self, inbound: bool, steps: Iterable[Step], now: float) -> JsonObject:
        addresses = sorted({address for (way, address, _, _) in self._meters if way is inbound})
        return {address: self._counts(inbound, steps, address, now) for address in addresses}

    def _counts(
        self, inbound: bool, steps: Iterable[Step], address: str | None, now: float
    ) -> JsonObject:
        return {
            str(step): {
                level: self._sum(inbound, step, level == "success", address, now)
                for level in ("success", "failure")
            }
            for step in steps
        }

    def _sum(
        self, inbound: bool, step: Step, success: bool, address: str | None, now: float
    ) -> Json:
        total: dict[str, int] = dict.fromkeys(_WINDOWS, 0)
        last: float | None = None
        for (way, where, kind, good), meter in self._meters.items():
            if (way, kind, good) != (inbound, step, success) or address not in (None, where):
                continue
            shown = meter.json(now)
            for window in _WINDOWS:
                total[window] += int(str(shown[window]))
            last = max(last or 0.0, meter.last or 0.0)
        return {**total, "lastMessageAt": format_instant(last) if last else None}
