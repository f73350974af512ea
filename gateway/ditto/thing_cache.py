"""Things in memory: the newest decided state of each id in use, with its lane."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, TypeAlias

from gateway.ditto.lane import Lane, Pending, Resume, Wait
from gateway.errors import GatewayError
from gateway.model.entity_id import namespace_of
from gateway.model.thing import Thing, ThingCommand
from gateway.store.things import StoredThing, ThingStore

_LOOKED_AT: Final = 8
"""Entries that are looked at for one that may go."""


class Load:
    """A look at the newest durable state, in turn with the commands."""


class Look:
    """A judgement on the newest decided state, in turn with the commands; may raise Wait."""

    __slots__ = ("judge",)

    def __init__(self, judge: Callable[[ThingEntry], object]) -> None:
        self.judge = judge


Job: TypeAlias = ThingCommand | Look | Load

Step: TypeAlias = Callable[["ThingEntry", Job, Pending], object | None]


class ThingEntry:
    """What is in memory of one thing id: the newest decided state, which may not be durable yet."""

    __slots__ = ("_step", "is_loaded", "lane", "modified", "revision", "thing", "thing_id")

    def __init__(self, thing_id: str, step: Step) -> None:
        self.thing_id = thing_id
        self._step = step
        self.is_loaded = False
        self.thing: Thing | None = None
        self.revision = 0
        self.modified = ""
        self.lane: Lane[Job] = Lane(self)

    def step(self, job: Job, pending: Pending) -> object | None:
        """Decide a job of the lane."""
        return self._step(self, job, pending)

    def forget(self) -> None:
        """Read from the store before the next use."""
        self.is_loaded = False


class ThingCache:
    """The entries in use; the least recently used idle one goes when there are too many."""

    def __init__(self, store: ThingStore, step: Step, size: int) -> None:
        self._store = store
        self._step = step
        self._size = size
        self._entries: dict[str, ThingEntry] = {}

    def __contains__(self, thing_id: str) -> bool:
        return thing_id in self._entries

    def entry(self, thing_id: str) -> ThingEntry:
        """The entry of an id, made when it is not there; perhaps not loaded."""
        entry = self._entries.pop(thing_id, None)
        if entry is None:
            entry = ThingEntry(thing_id, self._step)
            self._make_room()
        self._entries[thing_id] = entry  # last is the most recently used
        return entry

    def at_rest(self, thing_id: str) -> ThingEntry | None:
        """The entry of an id whose state is in memory, durable, and not about to change."""
        entry = self._entries.get(thing_id)
        if entry is None or not entry.is_loaded or not entry.lane.is_idle:
            return None
        self._entries[thing_id] = self._entries.pop(thing_id)
        return entry

    def known(self, thing_id: str) -> Thing | None:
        """The newest state if it is in memory."""
        entry = self._entries.get(thing_id)
        return entry.thing if entry is not None else None

    def loaded(self, entry: ThingEntry) -> ThingEntry:
        """The entry with its state.

        Errors: Wait while it has to be read.
        """
        if not entry.is_loaded:
            raise Wait(lambda resume: self._fetch(entry, resume))
        return entry

    def _fetch(self, entry: ThingEntry, resume: Resume) -> None:
        def loaded(answer: StoredThing | GatewayError) -> None:
            if isinstance(answer, GatewayError):
                resume(answer)
                return
            if not entry.is_loaded:
                entry.thing, entry.revision = answer.thing, answer.revision
                entry.modified = answer.modified
                entry.is_loaded = True
            resume(None)

        self._store.load_thing(entry.thing_id, loaded)

    def __len__(self) -> int:
        return len(self._entries)

    def namespaces(self) -> Counter[str]:
        """How many things of each namespace are in memory."""
        present = (entry for entry in self._entries.values() if entry.thing is not None)
        return Counter(namespace_of(entry.thing_id) for entry in present)

    def forget(self, namespace: str) -> None:
        """Read the things of a namespace from the store before their next use."""
        for entry in [e for e in self._entries.values() if namespace_of(e.thing_id) == namespace]:
            entry.thing = None
            entry.forget()
            if entry.lane.is_idle:
                del self._entries[entry.thing_id]

    def _make_room(self) -> None:
        """One in use stays, and counts as used now: else all that come after it would stay too."""
        for _ in range(_LOOKED_AT):
            if len(self._entries) < self._size:
                return
            oldest = self._entries.pop(next(iter(self._entries)))
            if not oldest.lane.is_idle:
                self._entries[oldest.thing_id] = oldest
