"""The spool on disk: telemetry and events wait here until the cloud has taken them.

Each upload is appended before its sender is acknowledged, and deleted after the cloud's answer. A lane
orders the messages of one device and kind; the row id is the sequence, so it rises within every lane and is
never used twice. Limits are checked in the same transaction as the append: telemetry over its limit pushes
out the oldest telemetry, an event over its limit is refused. What is lost is counted by cause, on disk and
in the metrics.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import msgspec
from msgspec import Struct

from gateway.config.edge import Spool as SpoolSettings
from gateway.errors import GatewayError, StoreUnavailable, TooLarge, Undeliverable
from gateway.model.message import Kind, SpoolId
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.runtime.backoff import Backoff
from gateway.store.database import Database
from gateway.store.disk import Disk
from gateway.wire.cloudedge.uploads import EdgeUpload

ROW_BYTES = 200
"""What a row costs beside topic and payload: counted, so that empty messages are bounded too."""
DROP_AT_ONCE = 100
"""Rows that are pushed out in one go; more goes follow while it is not enough."""
SPARE_BYTES = 65_536
"""Free bytes inside the database that stay for its own trees."""
RATE_SECONDS = 600.0
MAX_LANE = 600
MAX_UNDELETED = 100_000
"""Answered rows that a failing disk still holds and that are remembered; more go at the next start."""

DELETE_FIRST = 0.5
DELETE_CAP = 15.0
"""Seconds until answered rows are deleted again that a failing disk kept."""

DROPPED_OLDEST = "dropped_oldest"
SPOOL_FULL = "spool_full"
REFUSED_BY_CLOUD = "refused_by_cloud"
UNANSWERED = "unanswered"
UNSENDABLE = "unsendable"


_TIGHT = "the edge's disk is nearly full"


class SpoolFull(Undeliverable):
    """The events that wait fill their share of the disk; the sender must keep this one."""

    code = "edge.spoolfull"
    default_message = "the edge's event spool is full"


@dataclass(frozen=True, slots=True)
class Waiting:
    """One lane with messages on disk, up to sequence `newest`."""

    lane: str
    newest: int


@dataclass(frozen=True, slots=True)
class Depth:
    """How much waits."""

    messages: int = 0
    bytes: int = 0


Depths = dict[Kind, Depth]


@dataclass(frozen=True, slots=True)
class _Appended:
    sequence: int
    dropped: int
    dropped_up_to: int
    depths: Depths


def lane_of(item: EdgeUpload) -> str:
    """Return the lane that keeps this upload's order: one per kind and device."""
    kind = "e" if item.kind is Kind.EVENT else "t"
    return f"{kind}/{item.device}"[:MAX_LANE]


class Rate:
    """An exponential average of what comes in.

    Units:  bytes; seconds of any clock that never goes back. What is `RATE_SECONDS` old counts a third.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._at = 0.0
        self._began: float | None = None

    def note(self, size: int, now: float) -> None:
        self._weight = self._faded(now) + size
        self._at = now
        if self._began is None:
            self._began = now

    def at(self, now: float) -> float:
        """Return bytes a second; a rate that is younger than the average's span is not made smaller by it."""
        if self._began is None:
            return 0.0
        span = RATE_SECONDS * -math.expm1(-max(now - self._began, 1.0) / RATE_SECONDS)
        return self._faded(now) / span

    def _faded(self, now: float) -> float:
        return self._weight * math.exp((self._at - now) / RATE_SECONDS)


class Spool:
    """Uploads on disk. Answers come on the loop's thread, those of appends in the order they were made."""

    def __init__(
        self,
        database: Database,
        settings: SpoolSettings,
        metrics: Metrics,
        disk: Disk | None = None,
    ) -> None:
        self._database = database
        self._disk = disk
        self.limits = {
            Kind.TELEMETRY: settings.max_telemetry_bytes,
            Kind.EVENT: settings.max_event_bytes,
        }
        self._metrics = metrics
        self._rates = {kind: Rate() for kind in Kind}
        self.depths: Depths = {kind: Depth() for kind in Kind}
        self._undeleted: list[int] = []
        self._again: asyncio.TimerHandle | None = None
        self._pause = Backoff(DELETE_FIRST, DELETE_CAP)
        self.losses: dict[str, int] = {}
        """Messages lost or refused for good since this node joined, by cause."""
        for kind in Kind:
            metrics.edge_spool_messages.watch(kind, partial(self._depth, kind, "messages"))
            metrics.edge_spool_bytes.watch(kind, partial(self._depth, kind, "bytes"))
        for kind, limit in self.limits.items():
            metrics.own.spool_limit_bytes.watch(kind, partial(float, limit))
        metrics.own.spool_seconds_left.watch(self._seconds_left)
        self.on_pushed_out: Callable[[int], None] = _ignore
        """Told the highest sequence that was pushed out; the pump forgets what it still holds."""

    def _depth(self, kind: Kind, what: str) -> float:
        return float(getattr(self.depths[kind], what))

    def _seconds_left(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """How long there is room at the rate of late, for the kinds of which something comes."""
        for kind, limit in self.limits.items():
            if (rate := self.rate(kind)) > 0:
                yield (kind.value,), max(0.0, limit - self.depths[kind].bytes) / rate

    def rate(self, kind: Kind) -> float:
        """Return how much comes in now, in bytes a second."""
        return self._rates[kind].at(time.monotonic())

    async def load(self) -> list[Waiting]:
        """Read what an earlier run left: the lanes with messages, the one with the oldest first."""
        self.depths = await self._database.read(_depths)
        self.losses = dict(
            await self._database.read(
                lambda c: c.execute("SELECT cause, messages FROM loss").fetchall()
            )
        )
        rows = await self._database.read(
            lambda c: c.execute(
                "SELECT lane, max(id) FROM spool GROUP BY lane ORDER BY min(id)"
            ).fetchall()
        )
        return [Waiting(*row) for row in rows]

    def append(self, item: EdgeUpload, done: Callable[[int | GatewayError], None]) -> None:
        """Put an upload on disk; `done` gets its sequence after the commit.

        Errors (through `done`): SpoolFull, TooLarge, StoreUnavailable.
        """
        kind = item.kind or Kind.TELEMETRY
        row = _row_of(item, kind)
        limit = self.limits[kind]

        def answer(result: _Appended | GatewayError) -> None:
            if isinstance(result, _Appended):
                self._rates[kind].note(row.size, time.monotonic())
            self._note(kind, result)
            done(result.sequence if isinstance(result, _Appended) else result)

        if row.size > limit:
            answer(TooLarge(f"upload of {row.size} bytes: the spool holds {limit}"))
        else:
            self._database.submit(
                lambda connection: _append(connection, row, limit, is_tight=self._is_tight), answer
            )

    @property
    def _is_tight(self) -> bool:
        return self._disk is not None and self._disk.is_tight

    def _note(self, kind: Kind, result: _Appended | GatewayError) -> None:
        if isinstance(result, _Appended):
            self.depths = result.depths
            if result.dropped:
                self.on_pushed_out(result.dropped_up_to)
                self._metrics.edge_loss.labels(DROPPED_OLDEST).inc(result.dropped)
                self._remember(DROPPED_OLDEST, result.dropped)
        elif isinstance(result, SpoolFull):
            self.lose(SPOOL_FULL, 1)
        outcome = "spooled" if isinstance(result, _Appended) else "refused"
        self._metrics.edge_spooled.labels(kind, outcome).inc()

    async def read(self, lane: str, after: int, limit: int, edge: str) -> list[EdgeUpload]:
        """Return a lane's next uploads, oldest first, each with its place in the spool of `edge`."""
        rows = await self._database.read(
            lambda c: c.execute(
                "SELECT id, lane, event, topic, payload, facts, trace FROM spool"
                " WHERE lane = ? AND id > ? ORDER BY id LIMIT ?",
                (lane, after, limit),
            ).fetchall()
        )
        return [_item_of(edge, *row) for row in rows]

    def remove(self, sequences: Iterable[int]) -> None:
        """Forget uploads that the cloud has answered. Not waited for: the cloud knows duplicates.

        What a disk in trouble does not delete is deleted with the next ones or a little later, so that it
        takes no room in the spool for ever.
        """
        ids = [*self._undeleted, *sequences]
        self._undeleted = []

        def answer(result: Depths | GatewayError) -> None:
            if isinstance(result, GatewayError):
                self._undeleted = [*self._undeleted, *ids][-MAX_UNDELETED:]
                self._delete_later()
            else:
                self.depths = result
                self._pause.reset()

        self._database.submit(lambda connection: _remove(connection, ids), answer)

    def _delete_later(self) -> None:
        if self._again is None and self._database.is_open:
            loop = asyncio.get_running_loop()
            self._again = loop.call_later(self._pause.next(), self._delete_again)

    def _delete_again(self) -> None:
        self._again = None
        if self._undeleted:
            self.remove(())

    def lose(self, cause: str, count: int) -> None:
        """Count uploads that nobody will get."""
        self._metrics.edge_loss.labels(cause).inc(count)
        self._remember(cause, count)
        self._database.submit(lambda connection: _count_loss(connection, cause, count), _ignore)

    def _remember(self, cause: str, count: int) -> None:
        self.losses[cause] = self.losses.get(cause, 0) + count


def _ignore(_result: object) -> None:
    """Nobody waits for this write."""


# --- rows ------------------------------------------------------------------------------------------


class _Facts(Struct, frozen=True, omit_defaults=True):
    """What a row keeps of an upload beside topic and payload."""

    device: str = ""
    content_type: str = ""
    qos: int = 0
    ttl: float | None = None
    at: int = 0
    twin_owned: bool = False
    properties: dict[str, str | int | float | bool] = {}


_decode_facts = msgspec.json.Decoder(_Facts).decode


@dataclass(frozen=True, slots=True)
class _Row:
    lane: str
    is_event: bool
    size: int
    topic: str
    payload: bytes
    facts: str
    trace: str


def _row_of(item: EdgeUpload, kind: Kind) -> _Row:
    facts = _Facts(
        device=item.device,
        content_type=item.content_type,
        qos=item.qos,
        ttl=item.ttl,
        at=item.at,
        twin_owned=item.twin_owned,
        properties=dict(item.properties),
    )
    text = msgspec.json.encode(facts).decode()
    return _Row(
        lane=lane_of(item),
        is_event=kind is Kind.EVENT,
        size=ROW_BYTES + len(item.topic) + len(item.payload) + len(text),
        topic=item.topic,
        payload=item.payload,
        facts=text,
        trace=trace_text(item.trace),
    )


def _item_of(
    edge: str,
    row_id: int,
    lane: str,
    is_event: int,
    topic: str,
    payload: bytes,
    facts: str,
    trace: str,
) -> EdgeUpload:
    known = _decode_facts(facts)
    return EdgeUpload(
        topic=topic,
        payload=payload,
        kind=Kind.EVENT if is_event else Kind.TELEMETRY,
        device=known.device,
        content_type=known.content_type,
        qos=known.qos,
        ttl=known.ttl,
        at=known.at,
        twin_owned=known.twin_owned,
        properties=known.properties,
        spool=SpoolId(edge, lane, row_id),
        trace=trace_of(trace),
    )


def trace_text(trace: TraceContext | None) -> str:
    """Write a context into one column: traceparent, a space, tracestate."""
    if trace is None:
        return ""
    return f"{trace.traceparent} {trace.state or ''}".rstrip()


def trace_of(text: str) -> TraceContext | None:
    """Read what `trace_text` wrote."""
    parent, _, state = text.partition(" ")
    return TraceContext.parse(parent or None, state or None)


# --- SQL, on the writer's connection ---------------------------------------------------------------


def _depths(connection: sqlite3.Connection) -> Depths:
    rows = connection.execute("SELECT event, messages, bytes FROM spool_total").fetchall()
    return {(Kind.EVENT if event else Kind.TELEMETRY): Depth(*cells) for event, *cells in rows}


def _append(connection: sqlite3.Connection, row: _Row, limit: int, *, is_tight: bool) -> _Appended:
    """Append a row; on a disk that is nearly full telemetry takes the place of older telemetry."""
    (used,) = connection.execute(
        "SELECT bytes FROM spool_total WHERE event = ?", (int(row.is_event),)
    ).fetchone()
    if is_tight and not _has_free_pages(connection, row.size):
        limit = min(limit, used)
    else:
        is_tight = False
    excess = used + row.size - limit
    dropped, up_to = 0, 0
    if excess > 0:
        if row.is_event:
            raise SpoolFull(_TIGHT if is_tight else SpoolFull.default_message)
        if excess > used:
            raise StoreUnavailable(_TIGHT)
        dropped, up_to = _drop_oldest(connection, excess)
    cursor = connection.execute(
        "INSERT INTO spool (lane, event, size, topic, payload, facts, trace)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (row.lane, int(row.is_event), row.size, row.topic, row.payload, row.facts, row.trace),
    )
    _add(connection, row.is_event, 1, row.size)
    return _Appended(cursor.lastrowid or 0, dropped, up_to, _depths(connection))


def _has_free_pages(connection: sqlite3.Connection, size: int) -> bool:
    """True when the database has room of its own: a file keeps what deleted rows took."""
    (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages) * int(page) > 2 * size + SPARE_BYTES


def _drop_oldest(connection: sqlite3.Connection, excess: int) -> tuple[int, int]:
    """Delete the oldest telemetry until `excess` bytes are free; return how many went, up to which."""
    dropped, up_to = 0, 0
    while excess > 0:
        rows = connection.execute(
            "SELECT id, size FROM spool WHERE event = 0 ORDER BY id LIMIT ?", (DROP_AT_ONCE,)
        ).fetchall()
        if not rows:
            break
        gone, freed = 0, 0
        for _, size in rows:
            gone, freed = gone + 1, freed + size
            if freed >= excess:
                break
        up_to = rows[gone - 1][0]
        connection.execute("DELETE FROM spool WHERE event = 0 AND id <= ?", (up_to,))
        _add(connection, False, -gone, -freed)
        dropped, excess = dropped + gone, excess - freed
    _count_loss(connection, DROPPED_OLDEST, dropped)
    return dropped, up_to


def _remove(connection: sqlite3.Connection, ids: list[int]) -> Depths:
    for row_id in ids:
        row = connection.execute(
            "DELETE FROM spool WHERE id = ? RETURNING event, size", (row_id,)
        ).fetchone()
        if row is not None:  # None: pushed out while it was on its way
            _add(connection, bool(row[0]), -1, -row[1])
    return _depths(connection)


def _add(connection: sqlite3.Connection, is_event: bool, messages: int, size: int) -> None:
    connection.execute(
        "UPDATE spool_total SET messages = messages + ?, bytes = bytes + ? WHERE event = ?",
        (messages, size, int(is_event)),
    )


def _count_loss(connection: sqlite3.Connection, cause: str, count: int) -> None:
    connection.execute(
        "INSERT INTO loss (cause, messages) VALUES (?, ?)"
        " ON CONFLICT (cause) DO UPDATE SET messages = messages + excluded.messages",
        (cause, count),
    )
