"""Things in SQLite: one row per entity, one row per event, in the database's group commits.

An update is three statements: the entity's row where its revision is the expected one, the event, and
the edge's place in its spool when it has one. Loading goes through the writer too: it sees all that was
appended before.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

import msgspec

from gateway.errors import GatewayError, RevisionConflict
from gateway.model.entity_id import namespace_of
from gateway.model.json import JsonObject, format_pointer
from gateway.model.message import SpoolId
from gateway.model.policy import PolicyEvent
from gateway.model.thing import EventAction, Thing, ThingEvent
from gateway.store import policies_sqlite
from gateway.store.erasure import erase
from gateway.store.history_sqlite import OF_POLICIES, OF_THINGS, Look, Past, drop, give_back, look
from gateway.store.search import Ask, Counted, Found
from gateway.store.search_memory import Memory
from gateway.store.search_presence import Presence
from gateway.store.search_sqlite import count, find, some, unsure
from gateway.store.search_writes import PolicyIndexing, ThingIndexing, catch_up
from gateway.store.things import (
    SNAPSHOT_EVERY,
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
from gateway.store.things_rows import Facts, event_of, policy_event_of, policy_of, thing_of
from gateway.twin.policy_roots import Root

T = TypeVar("T")

_PUT_THING: Final = """
INSERT INTO things (thing_id, namespace, policy_id, revision, document, created, modified)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7
WHERE ?4 = 1 OR EXISTS (SELECT 1 FROM things WHERE thing_id = ?1)
ON CONFLICT (thing_id) DO UPDATE SET policy_id = ?3, revision = ?4, document = ?5, created = ?6, modified = ?7
WHERE revision = ?4 - 1
"""
_UPDATE_THING: Final = """
UPDATE things SET revision = ?, document = ?, modified = ? WHERE thing_id = ? AND revision = ?
"""
_PUT_EVENT: Final = """
INSERT INTO thing_events (thing_id, revision, action, path, value, facts, timestamp, snapshot)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_PUT_POLICY: Final = """
INSERT INTO policies (policy_id, revision, document, created, modified, due)
SELECT ?1, ?2, ?3, ?4, ?5, ?6
WHERE ?2 = 1 OR EXISTS (SELECT 1 FROM policies WHERE policy_id = ?1)
ON CONFLICT (policy_id) DO UPDATE SET revision = ?2, document = ?3, created = ?4, modified = ?5, due = ?6
WHERE revision = ?2 - 1
"""
_PUT_POLICY_EVENT: Final = """
INSERT INTO policy_events (policy_id, revision, action, path, value, facts, timestamp, snapshot)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_PUT_SPOOL: Final = """
INSERT INTO edge_sequences (edge, lane, sequence) VALUES (?1, ?2, ?3)
ON CONFLICT (edge, lane) DO UPDATE SET sequence = ?3
"""
_THING: Final = "SELECT thing_id, revision, document, created, modified FROM things"
_EVENT: Final = """
SELECT sequence, thing_id, revision, action, path, value, facts, timestamp FROM thing_events
"""
_POLICY_EVENTS: Final = """
SELECT policy_id, revision, action, path, value, facts, timestamp FROM policy_events
WHERE policy_id = ? AND revision > ? ORDER BY revision LIMIT ?
"""


class _Database(Protocol):
    """What this store needs of `gateway.store.database.Database`."""

    def submit(self, work: Any, done: Any, *, grows: bool = False) -> None: ...

    async def read(self, work: Any) -> Any: ...

    async def write(self, work: Any, *, grows: bool = False) -> Any: ...


_MAX_PATHS: Final = 50_000
"""Paths whose numbers are kept in memory."""

_encoder = msgspec.json.Encoder()
_decode = msgspec.json.Decoder().decode


class SqliteThingStore:
    """`ThingStore` on the schema `gateway`; the database is opened and closed by its owner."""

    def __init__(self, database: _Database, roots: Sequence[Root] = ()) -> None:
        self._database = database
        self._roots = tuple(roots)
        self._paths: dict[str, int] = {}
        self._presence = Presence()
        self._memories = threading.local()
        self.behind = asyncio.Event()

    def append(self, commit: Commit, done: Answer[Committed]) -> None:
        """See `ThingStore.append`."""
        statements = _Statements(commit, self._paths, self._roots)
        learning = self._learning(statements, done)
        self._database.submit(statements.run, learning, grows=_grows(commit))

    def _learning(self, statements: _Statements, done: Answer[Committed]) -> Answer[Committed]:
        """Remember the numbers of paths once they are durable; a failed commit gives them away anew."""
        rows, readers = statements.rows, statements.readers
        if rows is None and readers is None:
            return done

        def learnt(answer: Committed | GatewayError) -> None:
            if rows is not None and rows.paths.met and isinstance(answer, Committed):
                if len(self._paths) > _MAX_PATHS:
                    self._paths.clear()
                self._paths.update(rows.paths.met)
            if readers is not None and readers.has_stale:
                self.behind.set()
            done(answer)

        return learnt

    def load_thing(self, thing_id: str, done: Answer[StoredThing]) -> None:
        """See `ThingStore.load_thing`."""

        def work(connection: sqlite3.Connection) -> StoredThing:
            row = connection.execute(f"{_THING} WHERE thing_id = ?", (thing_id,)).fetchone()
            return (
                StoredThing(None, 0) if row is None else StoredThing(thing_of(row), row[1], row[4])
            )

        self._database.submit(work, done)

    def load_policy(self, policy_id: str, done: Answer[StoredPolicy]) -> None:
        """See `ThingStore.load_policy`."""

        def work(connection: sqlite3.Connection) -> StoredPolicy:
            row = connection.execute(
                "SELECT policy_id, revision, document, created, modified FROM policies"
                " WHERE policy_id = ?",
                (policy_id,),
            ).fetchone()
            return StoredPolicy(None, 0) if row is None else StoredPolicy(policy_of(row), row[1])

        self._database.submit(work, done)

    def load_spool(self, edge: str, lane: str, done: Answer[int]) -> None:
        """See `ThingStore.load_spool`."""

        def work(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "SELECT sequence FROM edge_sequences WHERE edge = ? AND lane = ?", (edge, lane)
            ).fetchone()
            return 0 if row is None else int(row[0])

        self._database.submit(work, done)

    async def page(self, after: str, limit: int, namespaces: Sequence[str]) -> list[Thing]:
        """See `ThingStore.page`."""
        query = f"{_THING} WHERE thing_id > ? AND document IS NOT NULL"
        if namespaces:
            query += f" AND namespace IN ({','.join('?' * len(namespaces))})"
        query += " ORDER BY thing_id LIMIT ?"
        values = (after, *namespaces, limit)

        def work(connection: sqlite3.Connection) -> list[Thing]:
            rows = connection.execute(query, values)
            return [thing for row in rows if (thing := thing_of(row)) is not None]

        found: list[Thing] = await self._database.read(work)
        return found

    async def events(self, thing_id: str, after: int, limit: int) -> list[ThingEvent]:
        """See `ThingStore.events`."""
        query = f"{_EVENT} WHERE thing_id = ? AND revision > ? ORDER BY revision LIMIT ?"
        return await self._read_events(query, (thing_id, after, limit))

    async def policy_events(self, policy_id: str, after: int, limit: int) -> list[PolicyEvent]:
        """See `ThingStore.policy_events`."""

        def work(connection: sqlite3.Connection) -> list[PolicyEvent]:
            rows = connection.execute(_POLICY_EVENTS, (policy_id, after, limit))
            return [policy_event_of(row) for row in rows]

        found: list[PolicyEvent] = await self._database.read(work)
        return found

    async def changes(self, after: int, limit: int) -> list[ThingEvent]:
        """See `ThingStore.changes`."""
        query = f"{_EVENT} WHERE sequence > ? ORDER BY sequence LIMIT ?"
        return await self._read_events(query, (after, limit))

    async def _read_events(self, query: str, values: tuple[object, ...]) -> list[ThingEvent]:
        def work(connection: sqlite3.Connection) -> list[ThingEvent]:
            return [event_of(row) for row in connection.execute(query, values)]

        found: list[ThingEvent] = await self._database.read(work)
        return found

    async def replay(
        self, thing_id: str, *, revision: int | None = None, timestamp: str | None = None
    ) -> Replay:
        """See `ThingStore.replay`."""

        def work(connection: sqlite3.Connection) -> Replay:
            return _replay(connection, thing_id, revision, timestamp)

        found: Replay = await self._database.read(work)
        return found

    async def forget(self, keep: Keep, after: int, limit: int) -> Forgotten:
        """See `ThingStore.forget`."""
        return await self._forget(OF_THINGS, keep, after, limit)

    async def _forget(self, past: Past, keep: Keep, after: int, limit: int) -> Forgotten:
        """What may go once may go for ever: it is looked for by a reader, beside the writes."""
        found: Look = await self._database.read(lambda one: look(one, past, keep, after, limit))
        dropped = 0
        if found.sequences:
            dropped = await self._database.write(lambda one: drop(one, past, found.sequences))
        return Forgotten(dropped, found.after)

    async def give_back(self, pages: int) -> int:
        """See `ThingStore.give_back`."""
        given: int = await self._database.write(lambda one: give_back(one, pages))
        return given

    # --- policies -----------------------------------------------------------------------------

    async def replay_policy(
        self, policy_id: str, *, revision: int | None = None, timestamp: str | None = None
    ) -> PolicyReplay:
        """See `ThingStore.replay_policy`."""

        def work(connection: sqlite3.Connection) -> PolicyReplay:
            return policies_sqlite.replay(
                connection, policy_id, revision, timestamp, policy_event_of
            )

        found: PolicyReplay = await self._database.read(work)
        return found

    async def due_policies(self, until: str, limit: int) -> list[str]:
        """See `ThingStore.due_policies`."""
        found: list[str] = await self._database.read(
            lambda one: policies_sqlite.due(one, until, limit)
        )
        return found

    async def forget_policies(self, keep: Keep, after: int, limit: int) -> Forgotten:
        """See `ThingStore.forget_policies`."""
        return await self._forget(OF_POLICIES, keep, after, limit)

    async def total(self) -> int:
        """See `ThingStore.total`."""
        query = "SELECT COUNT(*) FROM things WHERE policy_id IS NOT NULL"
        found: int = await self._database.read(lambda one: one.execute(query).fetchone()[0])
        return found

    async def erase(self, namespace: str, limit: int) -> int:
        """See `ThingStore.erase`."""
        roots = self._roots
        erased: int = await self._database.write(lambda one: erase(one, namespace, limit, roots))
        self.behind.set()
        return erased

    # --- searching ----------------------------------------------------------------------------

    async def find(self, ask: Ask, skip: int, take: int) -> Found:
        """See `ThingIndex.find`."""
        found: Found = await self._database.read(
            lambda one: find(one, ask, skip, take, self._presence, self._memory())
        )
        return found

    def _memory(self) -> Memory:
        """What this thread's connection knows; each reader has one of its own."""
        found: Memory | None = getattr(self._memories, "one", None)
        if found is None:
            found = self._memories.one = Memory()
        return found

    async def count(self, ask: Ask) -> Counted:
        """See `ThingIndex.count`."""
        found: Counted = await self._database.read(lambda one: count(one, ask, self._memory()))
        return found

    async def unsure(self, ask: Ask, after: str, limit: int) -> Sequence[Thing]:
        """See `ThingIndex.unsure`."""
        found: list[Thing] = await self._database.read(lambda one: unsure(one, ask, after, limit))
        return found

    async def some(self, thing_ids: Sequence[str]) -> Sequence[Thing]:
        """See `ThingIndex.some`."""
        found: list[Thing] = await self._database.read(lambda one: some(one, thing_ids))
        return found

    async def catch_up(self, limit: int) -> int:
        """See `ThingIndex.catch_up`."""
        self.behind.clear()
        done: int = await self._database.write(lambda one: catch_up(one, limit, self._roots))
        return done


def _grows(commit: Commit) -> bool:
    """Return whether a commit does anything but delete; a spool's mark alone lets an edge delete."""
    things = (commit.thing, commit.policy)
    return any(write is not None and write.event.after is not None for write in things)


class _Statements:
    """A commit as rows: made on the caller's thread, run on the writer's."""

    __slots__ = ("_policy", "_spool", "_thing", "readers", "rows")

    def __init__(self, commit: Commit, paths: Mapping[str, int], roots: Sequence[Root]) -> None:
        self._thing = _thing_rows(commit.thing) if commit.thing else None
        self._policy = _policy_rows(commit.policy) if commit.policy else None
        self._spool = _spool_row(commit.spool) if commit.spool else None
        self.rows = ThingIndexing(commit.thing.event, paths) if commit.thing else None
        self.readers = PolicyIndexing(commit.policy.event, roots) if commit.policy else None

    def run(self, connection: sqlite3.Connection) -> Committed:
        """Write all rows.

        Errors: RevisionConflict.
        """
        if self._policy is not None:
            entity, event = self._policy
            _changed_one(connection.execute(_PUT_POLICY, entity))
            connection.execute(_PUT_POLICY_EVENT, event)
        if self.readers is not None:
            self.readers.run(connection)
        if self._spool is not None:
            connection.execute(_PUT_SPOOL, self._spool)
        if self._thing is None:
            return Committed(0)
        statement, entity, event = self._thing
        _changed_one(connection.execute(statement, entity))
        if self.rows is not None:
            self.rows.run(connection)
        return Committed(connection.execute(_PUT_EVENT, event).lastrowid or 0)


def _changed_one(cursor: sqlite3.Cursor) -> None:
    if cursor.rowcount != 1:
        raise RevisionConflict


def _thing_rows(write: ThingWrite) -> tuple[str, tuple[object, ...], tuple[object, ...]]:
    event = write.event
    state = event.after or event.before
    assert state is not None  # noqa: S101  an event has a state on one side
    if event.before and event.after and event.before.policy_id == event.after.policy_id:
        statement = _UPDATE_THING
        entity: tuple[object, ...] = (
            event.revision,
            write.document,
            event.timestamp,
            event.thing_id,
            event.revision - 1,
        )
    else:
        statement = _PUT_THING
        entity = (
            event.thing_id,
            namespace_of(event.thing_id),
            state.policy_id if event.after else None,
            event.revision,
            write.document,
            state.created,
            event.timestamp,
        )
    created = state.created if event.after is not None else None
    return statement, entity, (event.thing_id, *_event_row(event, write.document, created))


def _policy_rows(write: PolicyWrite) -> tuple[tuple[object, ...], tuple[object, ...]]:
    event = write.event
    state = event.after or event.before
    assert state is not None  # noqa: S101  an event has a state on one side
    facts = (event.revision, write.document, state.created, event.timestamp, write.due)
    entity = (event.policy_id, *facts)
    created = state.created if event.after is not None else None
    return entity, (event.policy_id, *_event_row(event, write.document, created))


def _event_row(
    event: ThingEvent | PolicyEvent, document: bytes | None, created: str | None
) -> tuple[object, ...]:
    has_value = event.action is not EventAction.DELETED
    return (
        event.revision,
        event.action.value,
        _path_text(event.path),
        _encoder.encode(event.value) if has_value else None,
        _facts(event),
        event.timestamp,
        _snapshot(event, document, created),
    )


_path_text = lru_cache(maxsize=4_096)(format_pointer)
"""Paths repeat: the same property is written again and again."""


def _facts(event: ThingEvent | PolicyEvent) -> bytes:
    trace = event.trace.traceparent if event.trace else None
    metadata = event.metadata if isinstance(event, ThingEvent) else None
    return _encoder.encode(
        Facts(dict(event.headers), event.originator, event.subjects, trace, metadata)
    )


def _snapshot(
    event: ThingEvent | PolicyEvent, document: bytes | None, created: str | None
) -> bytes | None:
    due = event.before is None or event.revision % SNAPSHOT_EVERY == 0
    if document is None or created is None or not due:
        return None
    return b'{"created":"%b","document":%b}' % (created.encode(), document)


def _spool_row(spool: SpoolId) -> tuple[object, ...]:
    return spool.edge, spool.lane, spool.sequence


# --- reading -----------------------------------------------------------------------------------


_SNAPSHOTS: Final = """
SELECT revision, snapshot, timestamp FROM thing_events
WHERE thing_id = ?1 AND snapshot IS NOT NULL AND revision <= ?2 AND timestamp <= ?3 ORDER BY revision DESC
LIMIT 1
"""
_SINCE: Final = f"""
{_EVENT} WHERE thing_id = ? AND revision > ? AND revision <= ? AND timestamp <= ? ORDER BY revision
"""
_ANY_REVISION: Final = 2**62
_ANY_TIME: Final = "~"
"""Sorts after every ISO 8601 instant."""


def _replay(
    connection: sqlite3.Connection, thing_id: str, revision: int | None, timestamp: str | None
) -> Replay:
    bounds = (_ANY_REVISION if revision is None else revision, timestamp or _ANY_TIME)
    row = connection.execute(_SNAPSHOTS, (thing_id, *bounds)).fetchone()
    base: Thing | None = None
    if row is not None:
        kept: JsonObject = _decode(row[1])
        document = kept["document"]
        assert isinstance(document, dict)  # noqa: S101  we wrote it
        base = Thing(thing_id, row[0], document, str(kept["created"]), row[2])
    if base is None:
        return Replay(None, ())  # what is left of a past that is being forgotten, or a deletion
    events = connection.execute(_SINCE, (thing_id, base.revision, *bounds))
    return Replay(base, [event_of(event) for event in events])
