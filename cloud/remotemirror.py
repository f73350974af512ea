"""What is known of things elsewhere: the last revision of each, brought forward by events.

An event says what changed, listeners want before and after. So the thing of each Device is kept as it was
last seen; an event of the next revision is applied to it, one of an older revision is known already, and
after a gap the thing is read again. While a thing is being read, what events tell of it decides whether what
was read is still good. No I/O: `reread` asks the owner to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, nests_within
from gateway.model.thing import TWIN, EventAction, Thing, ThingEvent
from gateway.twin.documents import MISSING, get, put, remove, same
from gateway.twin.merge import merged

APPLIED: Final = "applied"
KNOWN: Final = "known"
GAP: Final = "gap"
FOREIGN: Final = "foreign"
MAX_DEPTH: Final = 80
"""Objects and arrays inside each other; what is deeper counts as not there."""
READ_FIELDS: Final = "thingId,policyId,definition,attributes,features,_revision"


@dataclass(slots=True)
class _Reading:
    """A thing that is being read, `count` times at once; `seen` is the newest revision heard of meanwhile."""

    count: int = 0
    seen: int = 0


class Mirror:
    """The things of Devices; `is_ours` tells them from others, `tell` hands changes on."""

    def __init__(
        self,
        is_ours: Callable[[str], bool],
        tell: Callable[[ThingEvent], None],
        reread: Callable[[str], None],
    ) -> None:
        self._is_ours = is_ours
        self._tell = tell
        self._reread = reread
        self._things: dict[str, Thing] = {}
        self._reading: dict[str, _Reading] = {}

    def __len__(self) -> int:
        return len(self._things)

    def get(self, thing_id: str) -> Thing | None:
        """Return a thing as last seen."""
        return self._things.get(thing_id)

    def keep(self, ids: Iterable[str]) -> None:
        """Forget all things but these."""
        wanted = set(ids)
        for thing_id in [one for one in self._things if one not in wanted]:
            del self._things[thing_id]

    # --- reading ------------------------------------------------------------------------------------

    def reading(self, thing_id: str) -> None:
        """A read begins; `found` or `failed` ends it."""
        self._reading.setdefault(thing_id, _Reading()).count += 1

    def failed(self, thing_id: str) -> None:
        """A read ended without an answer."""
        self._ended(thing_id)

    def found(self, thing_id: str, document: JsonObject | None, *, tells: bool) -> None:
        """A read ended: with the whole thing and its `_revision`, or with nothing.

        Shape:  `tells` False where whoever asked takes the answer; then only what it could not see is told.
        """
        reading = self._ended(thing_id)
        is_readable = document is not None and nests_within(document, MAX_DEPTH)
        thing = thing_of(thing_id, document) if document is not None and is_readable else None
        if reading.seen > (thing.revision if thing else 0):
            if not reading.count:
                self._reread(thing_id)
            return
        before = self._things.get(thing_id)
        if thing is None:
            self._things.pop(thing_id, None)
        elif before is not None and _is_known(before, thing):
            return
        elif self._is_ours(thing_id):
            self._things[thing_id] = thing
        if tells:
            self._tell(_difference(thing_id, before, thing))

    def _ended(self, thing_id: str) -> _Reading:
        reading = self._reading.get(thing_id, _Reading(1))
        reading.count -= 1
        if not reading.count:
            self._reading.pop(thing_id, None)
        return reading

    # --- events ---------------------------------------------------------------------------------------

    def event(self, event: ThingEvent) -> str:
        """Take an event in; return what became of it: applied, known, gap, foreign."""
        if event.channel != TWIN or not self._is_ours(event.thing_id):
            return FOREIGN
        reading = self._reading.get(event.thing_id)
        if reading is not None:
            reading.seen = max(reading.seen, event.revision)
        before = self._things.get(event.thing_id)
        if before is not None and event.revision <= before.revision:
            return KNOWN
        try:
            after = self._after(before, event)
        except (GatewayError, _Gap):
            if reading is None:
                self._reread(event.thing_id)
            return GAP
        if after is None:
            self._things.pop(event.thing_id, None)
        else:
            self._things[event.thing_id] = after
        self._tell(replace(event, before=before, after=after, originator=None))
        return APPLIED

    def _after(self, before: Thing | None, event: ThingEvent) -> Thing | None:
        """Return the thing after an event, None when it is gone. Errors: _Gap."""
        if not nests_within(event.value, MAX_DEPTH):
            raise _Gap
        if not event.path and event.action is EventAction.DELETED:
            return None
        if not event.path and event.action in (EventAction.CREATED, EventAction.MODIFIED):
            return _thing(event, event.value)
        if before is None or event.revision != before.revision + 1:
            raise _Gap
        return _thing(event, changed(before.document, event))


def _is_known(before: Thing, thing: Thing) -> bool:
    """False for a lower revision too: nothing was heard meanwhile, so the remote went back to a backup."""
    return before.revision == thing.revision and same(before.document, thing.document)


class _Gap(Exception):
    """What an event changes is not known."""


def changed(document: JsonObject, event: ThingEvent) -> Json:
    """Return the document after an event of the next revision."""
    if event.action is EventAction.DELETED:
        return remove(document, event.path)
    value = event.value
    if event.action.is_merge:
        result = merged(get(document, event.path), value)
        if result is MISSING:
            return remove(document, event.path) if event.path else {}
        value = result
    return put(document, event.path, value) if event.path else value


def thing_of(thing_id: str, document: JsonObject) -> Thing:
    """Return the thing that was read with its hidden fields."""
    revision = document.get("_revision")
    return Thing(
        thing_id,
        revision if isinstance(revision, int) and not isinstance(revision, bool) else 0,
        {name: value for name, value in document.items() if not name.startswith("_")},
        "",
        "",
    )


def _thing(event: ThingEvent, value: Json) -> Thing:
    if not isinstance(value, dict):
        raise _Gap
    document = {name: one for name, one in value.items() if not name.startswith("_")}
    return Thing(event.thing_id, event.revision, document, "", event.timestamp)


def _difference(thing_id: str, before: Thing | None, after: Thing | None) -> ThingEvent:
    """Return the event that stands for all that happened unseen."""
    last = before.revision + 1 if before else 0
    return ThingEvent(
        thing_id=thing_id,
        action=EventAction.DELETED if after is None else EventAction.MODIFIED,
        path=(),
        revision=after.revision if after else last,
        timestamp="",
        before=before,
        after=after,
        value=None if after is None else after.document,
    )
