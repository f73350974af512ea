"""Things in memory, for tests and for trying things out: the same port, nothing survives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from gateway.errors import GatewayError, RevisionConflict
from gateway.model.entity_id import namespace_of
from gateway.model.policy import PolicyEvent
from gateway.model.thing import Thing, ThingEvent
from gateway.store.search import Ask, Counted, Found
from gateway.store.things import (
    Answer,
    Commit,
    Committed,
    Forgotten,
    Keep,
    PolicyReplay,
    PolicyWrite,
    Replay,
    StoredPolicy,
    StoredThing,
    ThingWrite,
)


class MemoryThingStore:
    """`ThingStore` over dicts; answers before the call returns. `refuse` makes writes fail (tests)."""

    def __init__(self) -> None:
        self.refuse: GatewayError | None = None
        self.behind = asyncio.Event()
        self._things: dict[str, StoredThing] = {}
        self._policies: dict[str, StoredPolicy] = {}
        self._spools: dict[tuple[str, str], int] = {}
        self._events: list[ThingEvent] = []
        self._policy_events: list[PolicyEvent] = []
        self._due: dict[str, str] = {}
        self._sequence = 0

    def append(self, commit: Commit, done: Answer[Committed]) -> None:
        """See `ThingStore.append`."""
        done(self.refuse or self._append(commit))

    def _append(self, commit: Commit) -> Committed | GatewayError:
        if commit.thing and self._thing_revision(commit.thing) != commit.thing.event.revision - 1:
            return RevisionConflict()
        if (
            commit.policy
            and self._policy_revision(commit.policy) != commit.policy.event.revision - 1
        ):
            return RevisionConflict()
        if commit.policy:
            event = commit.policy.event
            self._policies[event.policy_id] = StoredPolicy(event.after, event.revision)
            self._policy_events.append(event)
            self._due.pop(event.policy_id, None)
            if commit.policy.due is not None:
                self._due[event.policy_id] = commit.policy.due
        if commit.spool:
            self._spools[commit.spool.edge, commit.spool.lane] = commit.spool.sequence
        return Committed(self._keep(commit.thing) if commit.thing else 0)

    def _thing_revision(self, write: ThingWrite) -> int:
        return self._things.get(write.event.thing_id, StoredThing(None, 0)).revision

    def _policy_revision(self, write: PolicyWrite) -> int:
        return self._policies.get(write.event.policy_id, StoredPolicy(None, 0)).revision

    def _keep(self, write: ThingWrite) -> int:
        self._sequence += 1
        event = replace(write.event, sequence=self._sequence)
        self._things[event.thing_id] = StoredThing(event.after, event.revision, event.timestamp)
        self._events.append(event)
        return self._sequence

    def load_thing(self, thing_id: str, done: Answer[StoredThing]) -> None:
        """See `ThingStore.load_thing`."""
        done(self._things.get(thing_id, StoredThing(None, 0)))

    def load_policy(self, policy_id: str, done: Answer[StoredPolicy]) -> None:
        """See `ThingStore.load_policy`."""
        done(self._policies.get(policy_id, StoredPolicy(None, 0)))

    def load_spool(self, edge: str, lane: str, done: Answer[int]) -> None:
        """See `ThingStore.load_spool`."""
        done(self._spools.get((edge, lane), 0))

    async def page(self, after: str, limit: int, namespaces: Sequence[str]) -> list[Thing]:
        """See `ThingStore.page`."""
        found = [
            stored.thing
            for thing_id, stored in sorted(self._things.items())
            if stored.thing is not None
            and thing_id > after
            and (not namespaces or namespace_of(thing_id) in namespaces)
        ]
        return found[:limit]

    async def find(self, ask: Ask, skip: int, take: int) -> Found:  # noqa: ARG002
        """See `ThingIndex.find`; there is no index, so nothing is certain."""
        return Found((), has_unsure=True)

    async def count(self, ask: Ask) -> Counted:  # noqa: ARG002
        """See `ThingIndex.count`."""
        return Counted(0, has_unsure=True)

    async def unsure(self, ask: Ask, after: str, limit: int) -> Sequence[Thing]:
        """See `ThingIndex.unsure`."""
        found: list[Thing] = []
        while len(found) < limit and (page := await self.page(after, limit, ask.namespaces or ())):
            after = page[-1].thing_id
            found += [one for one in page if _is_asked_for(one, ask)]
        return found[:limit]

    async def some(self, thing_ids: Sequence[str]) -> Sequence[Thing]:
        """See `ThingIndex.some`."""
        stored = [self._things.get(thing_id) for thing_id in thing_ids]
        return [one.thing for one in stored if one is not None and one.thing is not None]

    async def catch_up(self, limit: int) -> int:  # noqa: ARG002
        """See `ThingIndex.catch_up`."""
        return 0

    async def events(self, thing_id: str, after: int, limit: int) -> list[ThingEvent]:
        """See `ThingStore.events`."""
        found = [e for e in self._events if e.thing_id == thing_id and e.revision > after]
        return [replace(event, after=None, before=None) for event in found[:limit]]

    async def policy_events(self, policy_id: str, after: int, limit: int) -> list[PolicyEvent]:
        """See `ThingStore.policy_events`."""
        found = [e for e in self._policy_events if e.policy_id == policy_id and e.revision > after]
        return [replace(event, after=None, before=None) for event in found[:limit]]

    async def changes(self, after: int, limit: int) -> list[ThingEvent]:
        """See `ThingStore.changes`."""
        found = [event for event in self._events if event.sequence > after]
        return [replace(event, after=None, before=None) for event in found[:limit]]

    async def replay(
        self, thing_id: str, *, revision: int | None = None, timestamp: str | None = None
    ) -> Replay:
        """See `ThingStore.replay`."""
        mine = [
            event
            for event in self._events
            if event.thing_id == thing_id
            and (revision is None or event.revision <= revision)
            and (timestamp is None or event.timestamp <= timestamp)
        ]
        if not mine or mine[-1].after is not None:
            return Replay(mine[-1].after if mine else None, ())
        return Replay(None, mine[-1:])

    async def forget(self, keep: Keep, after: int, limit: int) -> Forgotten:  # noqa: ARG002
        """See `ThingStore.forget`; all in one step."""
        newest = {one.thing_id: one.revision for one in self._events}
        kept = [one for one in self._events if _stays(one, newest[one.thing_id], keep)]
        dropped, self._events = len(self._events) - len(kept), kept
        return Forgotten(dropped)

    async def total(self) -> int:
        """See `ThingStore.total`."""
        return sum(stored.thing is not None for stored in self._things.values())

    async def erase(self, namespace: str, limit: int) -> int:
        """See `ThingStore.erase`."""
        things = [name for name in self._things if namespace_of(name) == namespace][:limit]
        policies = [name for name in self._policies if namespace_of(name) == namespace][:limit]
        for name in things:
            del self._things[name]
        for name in policies:
            del self._policies[name]
            self._due.pop(name, None)
        self._events = [e for e in self._events if e.thing_id not in things]
        self._policy_events = [e for e in self._policy_events if e.policy_id not in policies]
        return len(things) + len(policies)

    async def give_back(self, pages: int) -> int:  # noqa: ARG002
        """See `ThingStore.give_back`."""
        return 0

    async def replay_policy(
        self, policy_id: str, *, revision: int | None = None, timestamp: str | None = None
    ) -> PolicyReplay:
        """See `ThingStore.replay_policy`."""
        mine = [
            event
            for event in self._policy_events
            if event.policy_id == policy_id
            and (revision is None or event.revision <= revision)
            and (timestamp is None or event.timestamp <= timestamp)
        ]
        if not mine or mine[-1].after is not None:
            return PolicyReplay(mine[-1].after if mine else None, ())
        return PolicyReplay(None, mine[-1:])

    async def due_policies(self, until: str, limit: int) -> list[str]:
        """See `ThingStore.due_policies`."""
        found = sorted((due, policy_id) for policy_id, due in self._due.items() if due <= until)
        return [policy_id for _, policy_id in found[:limit]]

    async def forget_policies(self, keep: Keep, after: int, limit: int) -> Forgotten:  # noqa: ARG002
        """See `ThingStore.forget_policies`; all in one step."""
        newest = {one.policy_id: one.revision for one in self._policy_events}
        kept = [one for one in self._policy_events if _stays(one, newest[one.policy_id], keep)]
        dropped, self._policy_events = len(self._policy_events) - len(kept), kept
        return Forgotten(dropped)


def _stays(event: ThingEvent | PolicyEvent, newest: int, keep: Keep) -> bool:
    if keep.revisions and event.revision <= newest - keep.revisions:
        return False
    return event.timestamp >= keep.since or event.revision == newest


def _is_asked_for(thing: Thing, ask: Ask) -> bool:
    namespace = namespace_of(thing.thing_id)
    return ask.scope.admits(namespace) and (ask.namespaces is None or namespace in ask.namespaces)
