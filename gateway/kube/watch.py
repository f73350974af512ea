"""Changes in order: a window of recent ones per kind, and watchers that follow it.

Nobody waits for a watcher: a change is put into each matching watcher's queue; a queue at its bound ends that
watch (the reader comes back with its last resourceVersion). A point older than the window is Gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from weakref import ref

import msgspec

from gateway.kube.client import EventType
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.selectors import EVERY_FIELD, EVERY_LABEL, FieldSelector, LabelSelector
from gateway.wire.kube.status import expired, future_version


@dataclass(frozen=True, slots=True)
class Key:
    """Where an object lives; `kind` is its storage key, `namespace` is empty for cluster scope."""

    kind: str
    namespace: str
    name: str


class Stored:
    """An object as it is stored; never changed, only replaced.

    Shape:  `object` is read, never changed; `body` its JSON text. An object takes five times its text: one
            that `rests` is kept as text alone, and read from it each time it is asked for. `plain` is the
            object without `managedFields`, the same one for everybody in this process as long as somebody
            keeps it.
    """

    __slots__ = ("_object", "_plain", "body", "key", "version")

    def __init__(self, key: Key, version: int, item: JsonObject | None, body: bytes) -> None:
        self.key = key
        self.version = version
        self.body = body
        self._object = item
        self._plain: Callable[[], JsonObject | None] = _nobody

    @property
    def object(self) -> JsonObject:
        return _decode(self.body) if self._object is None else self._object

    @property
    def plain(self) -> JsonObject:
        known = self._plain()
        if known is None:
            known = _without_managed_fields(self.object)
            self._plain = ref(known)
        return known

    @property
    def rests(self) -> bool:
        return self._object is None

    def rest(self) -> None:
        """Keep the text alone."""
        self._object = None

    def wake(self) -> None:
        """Keep the object, too: it will be asked for."""
        self._object = self.object


_decode: Callable[[bytes], JsonObject] = msgspec.json.Decoder(dict).decode


class Plain(dict[str, Json]):
    """An object that is known to be shared: it can be found again while somebody keeps it."""

    __slots__ = ("__weakref__",)


def _without_managed_fields(item: JsonObject) -> Plain:
    plain = Plain(item)
    metadata = item.get("metadata")
    if isinstance(metadata, dict) and "managedFields" in metadata:
        plain["metadata"] = {k: v for k, v in metadata.items() if k != "managedFields"}
    return plain


def _nobody() -> None:
    """Stands for an object that nobody keeps."""


@dataclass(frozen=True, slots=True)
class Change:
    """One committed write; `after` of a deletion is the last state with the deletion's version."""

    type: EventType
    before: Stored | None
    after: Stored


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list or watch asks for."""

    namespace: str | None = None
    labels: LabelSelector = EVERY_LABEL
    fields: FieldSelector = EVERY_FIELD

    def matches(self, stored: Stored) -> bool:
        if self.namespace is not None and stored.key.namespace != self.namespace:
            return False
        if not self.selects:
            return True
        item = stored.plain if stored.rests else stored.object
        return self.labels.matches(item) and self.fields.matches(item)

    @property
    def selects(self) -> bool:
        """True when a selector narrows the collection."""
        return bool(self.labels.terms or self.fields.terms)


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """What a watcher gets: the event and the state that it shows.

    Shape:  `lines` are its written forms, which all watchers that get it share.
    """

    type: EventType
    stored: Stored
    lines: dict[str, bytes] = field(default_factory=dict)


class Views:
    """A change as watchers see it, each way made once for all of them."""

    __slots__ = ("_items", "change")

    def __init__(self, change: Change) -> None:
        self.change = change
        self._items: dict[EventType, Item] = {}

    def seen_through(self, wanted: Filter) -> Item | None:
        """What a watcher with this filter sees; None when it sees nothing."""
        change = self.change
        is_in = change.type is not EventType.DELETED and wanted.matches(change.after)
        was_in = change.before is not None and wanted.matches(change.before)
        if is_in:
            return self._item(EventType.MODIFIED if was_in else EventType.ADDED)
        return self._item(EventType.DELETED) if was_in else None

    def _item(self, kind: EventType) -> Item:
        known = self._items.get(kind)
        if known is None:
            change = self.change
            shown = change.after
            if kind is EventType.DELETED is not change.type and change.before is not None:
                shown = stamped(change.before, shown.version)  # it left what is watched
            known = self._items[kind] = Item(kind, shown)
        return known


def stamped(stored: Stored, version: int) -> Stored:
    """The same state under another resourceVersion."""
    item = with_version(stored.object, version)
    return Stored(stored.key, version, item, msgspec.json.encode(item))


def with_version(item: JsonObject, version: int) -> JsonObject:
    metadata = item.get("metadata")
    fields: JsonObject = dict(metadata) if isinstance(metadata, dict) else {}
    fields["resourceVersion"] = str(version)
    return {**item, "metadata": fields}


class Watcher:
    """The end of one watch; iterate it, close it."""

    def __init__(self, wanted: Filter, bound: int, leave: Callable[[Watcher], None]) -> None:
        self.wanted = wanted
        self._bound = bound
        self._leave = leave
        self._items: deque[Item] = deque()
        self._wake = asyncio.Event()
        self._closed = False

    def offer(self, views: Views) -> None:
        """Queue what this watcher sees of a change; too many waiting ends the watch."""
        item = views.seen_through(self.wanted)
        if item is None or self._closed:
            return
        if len(self._items) >= self._bound:
            self._items.clear()
            self.close()
            return
        self._items.append(item)
        self._wake.set()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._leave(self)
            self._wake.set()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def waiting(self) -> tuple[Item, ...]:
        """What nobody has come for yet."""
        return tuple(self._items)

    async def next(self, until: float | None = None) -> list[Item] | None:
        """Return everything that waits; an empty list when `until` (loop time) passed, None at the end."""
        while not self._items:
            if self._closed:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._wake.wait()
            except TimeoutError:
                return []
        items = list(self._items)
        self._items.clear()
        return items


FEWEST = 100
"""Changes that a window keeps whatever they weigh."""


class Window:
    """Recent changes of one kind and who follows them.

    Shape:  at most `size` changes, of `most` bytes of text together.
    """

    def __init__(self, size: int, floor: int, most: int) -> None:
        self._changes: deque[Change] = deque()
        self._size = size
        self._most = most
        self._bytes = 0
        self._watchers: set[Watcher] = set()
        self.floor = floor
        """Changes up to this version may be forgotten."""

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    def add(self, change: Change) -> None:
        self._changes.append(change)
        self._bytes += len(change.after.body)
        while len(self._changes) > self._size or (
            self._bytes > self._most and len(self._changes) > FEWEST
        ):
            oldest = self._changes.popleft().after
            self._bytes -= len(oldest.body)
            self.floor = oldest.version
        views = Views(change)
        for watcher in tuple(self._watchers):
            watcher.offer(views)

    def since(self, version: int) -> list[Change]:
        """Changes after a version, oldest first. Errors: Gone when some are forgotten."""
        if version < self.floor:
            raise expired(f"too old resource version: {version} ({self.floor})")
        newer = takewhile(lambda change: change.after.version > version, reversed(self._changes))
        return list(newer)[::-1]

    def follow(self, wanted: Filter, bound: int, since: int, current: int) -> Watcher:
        """Start a watcher after `since`.

        Errors: Gone for a forgotten point; TooEarly for one in the future.
        """
        if since > current:
            raise future_version(since, current)
        missed = self.since(since)
        watcher = Watcher(wanted, max(bound, len(missed) + 1), self._watchers.discard)
        for change in missed:
            watcher.offer(Views(change))
        self._watchers.add(watcher)
        return watcher

    def before(self, version: int) -> dict[Key, Stored | None]:
        """Return what has changed since `version`, as it was then; None is absent. Errors: Gone."""
        return {change.after.key: change.before for change in reversed(self.since(version))}

    def close(self) -> None:
        for watcher in tuple(self._watchers):
            watcher.close()
