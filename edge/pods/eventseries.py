"""Which events are told, and which are another count of one told before. Pure: the time is an argument.

The same event again counts up; many that differ in their text alone become one; who says too much about one
object is heard no more for a while. Source: Kubernetes, "Events"; behaviour of client-go 0.36.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from edge.pods.pacing import Bucket

AGGREGATE_FROM = 10
"""So many texts of one reason about one object are told apart; more become one event."""
AGGREGATE_SECONDS = 600.0
SPAM_BURST, SPAM_RATE = 25.0, 1 / 300
MAX_KNOWN = 1_024
COMBINED = "(combined from similar events): "

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class About:
    """The object that an event is about."""

    kind: str
    namespace: str
    name: str
    uid: str
    field_path: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """One event. `name` is the Event's in the API; times are Unix seconds."""

    about: About
    type: str
    reason: str
    message: str
    name: str
    first: float
    last: float
    count: int = 1


@dataclass(slots=True)
class _Similar:
    texts: set[str] = field(default_factory=set)
    last: float = 0.0


class Recent(Generic[K, V]):
    """The entries that were used last, `limit` of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._held

    def get(self, key: K) -> V | None:
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def use(self, key: K, make: Callable[[], V]) -> V:
        """Return an entry, a new one where there is none."""
        found = self.get(key)
        return self.put(key, make()) if found is None else found

    def put(self, key: K, value: V) -> V:
        self._held[key] = value
        self._held.move_to_end(key)
        while len(self._held) > self._limit:
            self._held.popitem(last=False)
        return value


_Key = tuple[object, ...]


class Correlator:
    """Judges notices one after another."""

    def __init__(self, limit: int = MAX_KNOWN) -> None:
        self._similar: Recent[_Key, _Similar] = Recent(limit)
        self._told: Recent[_Key, Notice] = Recent(limit)
        self._buckets: Recent[_Key, Bucket] = Recent(limit)

    def judge(self, notice: Notice) -> Notice | None:
        """Return what is to be told: with a count above 1 it was told before, by that name. None: nothing."""
        notice, key = self._aggregated(notice)
        before = self._told.get(key)
        if before is not None:
            count = before.count + 1
            notice = replace(notice, name=before.name, first=before.first, count=count)
        self._told.put(key, notice)
        bucket = self._buckets.use(_source(notice), lambda: Bucket(SPAM_RATE, SPAM_BURST))
        return notice if bucket.try_take(notice.last) else None

    def _aggregated(self, notice: Notice) -> tuple[Notice, _Key]:
        group = _roughly(notice)
        similar = self._similar.use(group, _Similar)
        if notice.last - similar.last > AGGREGATE_SECONDS:
            similar.texts.clear()
        similar.texts.add(notice.message)
        similar.last = notice.last
        if len(similar.texts) < AGGREGATE_FROM:
            return notice, _exactly(notice)
        similar.texts.discard(next(each for each in similar.texts))
        return replace(notice, message=COMBINED + notice.message), group


def _source(notice: Notice) -> _Key:
    about = notice.about
    return about.kind, about.namespace, about.name, about.uid, notice.type


def _roughly(notice: Notice) -> _Key:
    return *_source(notice), notice.reason


def _exactly(notice: Notice) -> _Key:
    return *_roughly(notice), notice.about.field_path, notice.message
