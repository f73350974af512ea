"""EdgeCore's disk: cloud objects, devices, twins and reports that wait for an answer.

One SQLite file with one writer (`gateway.store.database`). Everything here is SQL and its translation to
values; who decides what is written is MetaManager, DeviceTwin and the spool. An acknowledgement to anybody
is sent from a write's `done`, that is after its commit.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from edge.quarantine import SetAside, put_aside_if_damaged, remember, until_damaged
from edge.reserve import Reserve
from edge.twincells import (
    DROP_BOUND,
    PUT_BOUND,
    PUT_TWIN,
    SELECT_BOUND,
    SELECT_TWINS,
    cells_of,
    twin_of,
)
from edge.twinrules import Bound
from gateway.errors import GatewayError
from gateway.store.database import Database
from gateway.store.disk import Disk
from gateway.wire.cloudedge.twins import Twin

Done = Callable[[GatewayError | None], None]


@dataclass(frozen=True, slots=True)
class MetaObject:
    """An object of the cloud: wire resource, type token, JSON text."""

    key: str
    type: str
    value: str


@dataclass(frozen=True, slots=True)
class Record:
    """An object as MetaServer serves it: a row of `meta_v2`.

    Shape:  `key` `/core/v1/pods/default/p1`, `null` for no namespace; `gvr` Go's text `/v1, Resource=pods`;
            `namespace` "" for none; `version` 0 where the object has no numeric one; `value` JSON text.
    """

    key: str
    gvr: str
    namespace: str
    name: str
    version: int
    value: str


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device that belongs to this node.

    Shape:  `id` is `<namespace>/<name>`; `last_online` RFC 3339 or empty.
    """

    id: str
    name: str
    description: str = ""
    state: str = ""
    last_online: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A twin or state report to the cloud; it is sent again until answered, always with the same id."""

    id: int
    device: str
    msg_id: str
    resource: str
    content: str
    trace: str = ""


class EdgeStore:
    """The edge database as a module: open while it runs."""

    name = "edge.store"

    def __init__(
        self,
        database: Database,
        disk: Disk | None = None,
        on_set_aside: Callable[[SetAside], None] = lambda _found: None,
    ) -> None:
        self.database = database
        self._disk = disk
        self._on_set_aside = on_set_aside
        self.edge_id = ""
        """The spool's own uuid, made with the file."""
        self.set_aside: SetAside | None = None
        """The last damaged file that this store took the place of."""

    async def run(self, ready: Callable[[], None]) -> None:
        path = self.database.path
        if path is None:
            await self._serve(ready)
            return
        reserve = Reserve(path)
        await asyncio.to_thread(reserve.use)
        try:
            await self._serve(ready, reserve.keep)
        finally:
            reserve.keep()

    async def _serve(
        self, ready: Callable[[], None], opened: Callable[[], None] = lambda: None
    ) -> None:
        found = await put_aside_if_damaged(self.database)
        if found is not None:
            self._on_set_aside(found)
        async with self.database.running(is_examined=True):
            await asyncio.to_thread(_for_owner_alone, self.database.path)
            self.edge_id = await self.database.write(_edge_id)
            self.set_aside = await self.database.write(partial(remember, found))
            await asyncio.to_thread(opened)
            ready()
            await until_damaged(self.database)

    # --- meta ---------------------------------------------------------------------------------

    def put_meta(self, entry: MetaObject, done: Done, *, record: Record | None = None) -> None:
        """Write an object, and what MetaServer shows of it, both or neither."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_PUT_META, (entry.key, entry.type, entry.value))
            if record is not None:
                connection.execute(_PUT_RECORD, _record_cells(record))

        self.database.submit(work, _plain(done))

    def delete_meta(
        self,
        key: str,
        uid: str,
        done: Callable[[bool | GatewayError], None],
        *,
        record_key: str = "",
    ) -> None:
        """Delete an object; one with another uid than a given `uid` is a later object and stays.

        Shape:  `done` gets False when a later object stays; `record_key` names the record that goes too,
                judged by its own uid.
        """

        def work(connection: sqlite3.Connection) -> bool:
            if record_key:
                _delete_unless_later(connection, "meta_v2", record_key, uid)
            return _delete_unless_later(connection, "meta", key, uid)

        self.database.submit(work, done)

    def drop_ended(self, kind: str, now: float) -> None:
        """Forget objects of a type whose own `ends` is over, in its unit. Not waited for."""
        self._write(_nothing, _DROP_ENDED, [(kind, now)])

    def put_record(self, record: Record, done: Done) -> None:
        """Write what MetaServer shows of an object that nothing else here works on."""
        self._write(done, _PUT_RECORD, [_record_cells(record)])

    def delete_record(
        self, key: str, uid: str, done: Callable[[bool | GatewayError], None]
    ) -> None:
        """Delete a record; see `delete_meta`."""
        self.database.submit(lambda c: _delete_unless_later(c, "meta_v2", key, uid), done)

    async def record(self, key: str) -> Record | None:
        """Return one record, or None."""
        rows = await self._rows(f"{_SELECT_RECORDS} WHERE key = ?", (key,))
        return _record(rows[0]) if rows else None

    async def records(self, gvr: str, namespace: str | None = None) -> list[Record]:
        """Return the records of a resource, of all namespaces where None is given, by key."""
        where, values = "group_version_resource = ?", [gvr]
        if namespace is not None:
            where, values = f"{where} AND namespace = ?", [gvr, namespace]
        rows = await self._rows(f"{_SELECT_RECORDS} WHERE {where} ORDER BY key", tuple(values))
        return [_record(row) for row in rows]

    async def record_versions(self, gvr: str) -> dict[str, int]:
        """Return which versions the records of a resource have: key -> version."""
        rows = await self._rows(
            "SELECT key, resource_version FROM meta_v2 WHERE group_version_resource = ?", (gvr,)
        )
        return {key: int(version) for key, version in rows}

    async def record_samples(self) -> list[tuple[str, str]]:
        """Return one record's text of each resource: (gvr, text)."""
        rows = await self._rows(
            "SELECT group_version_resource, max(value) FROM meta_v2 GROUP BY 1", ()
        )
        return [(gvr, value) for gvr, value in rows]

    async def meta(self, key: str) -> MetaObject | None:
        """Return one object, or None."""
        rows = await self._rows("SELECT key, type, value FROM meta WHERE key = ?", (key,))
        return MetaObject(*rows[0]) if rows else None

    async def meta_of_type(self, kind: str) -> list[MetaObject]:
        """Return all objects of a type, by key."""
        rows = await self._rows(
            "SELECT key, type, value FROM meta WHERE type = ? ORDER BY key", (kind,)
        )
        return [MetaObject(*row) for row in rows]

    # --- devices and twins --------------------------------------------------------------------

    async def devices(self) -> list[DeviceRow]:
        rows = await self._rows("SELECT id, name, description, state, last_online FROM device", ())
        return [DeviceRow(*row) for row in rows]

    async def twins(self) -> dict[str, dict[str, Twin]]:
        """Return all twins: device id -> property -> twin."""
        rows = await self._rows(SELECT_TWINS, ())
        out: dict[str, dict[str, Twin]] = {}
        for device, name, *cells in rows:
            out.setdefault(device, {})[name] = twin_of(*cells)
        return out

    async def bound(self) -> dict[str, dict[str, Bound]]:
        """Return which desired values were last taken over: device id -> property -> value."""
        out: dict[str, dict[str, Bound]] = {}
        for device, name, *cells in await self._rows(SELECT_BOUND, ()):
            out.setdefault(device, {})[name] = Bound(*cells)
        return out

    def put_device(self, row: DeviceRow, done: Done) -> None:
        self._write(done, _PUT_DEVICE, [_cells(row)])

    def delete_device(self, device: str, done: Done) -> None:
        """Forget a device, its twins and what it had still to report."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM report WHERE deviceid = ?", (device,))
            connection.execute("DELETE FROM device WHERE id = ?", (device,))

        self.database.submit(work, _plain(done))

    def change(
        self,
        device: DeviceRow,
        twins: Mapping[str, Twin],
        bound: Mapping[str, Bound | None],
        report: Report | None,
        limit: int,
        done: Callable[[int | GatewayError], None],
    ) -> None:
        """Write changed twins, what was taken over from the Device and the report, all or nothing.

        Shape:  `done` gets the report's row id, 0 without one, `MERGED` when the device had `limit`
                reports waiting and this one was put into a waiting one. The device's own row is
                written too where it is missing: the write that made it may have failed.
        """

        def work(connection: sqlite3.Connection) -> int:
            connection.execute(_KEEP_DEVICE, _cells(device))
            connection.executemany(PUT_TWIN, [cells_of(device.id, *item) for item in twins.items()])
            _put_bound(connection, device.id, bound)
            return 0 if report is None else _put_report(connection, report, self._limit(limit))

        self.database.submit(work, done)

    def put_state(
        self, row: DeviceRow, report: Report, limit: int, done: Callable[[int | GatewayError], None]
    ) -> None:
        """Write a device's state and the report about it, both or neither."""

        def work(connection: sqlite3.Connection) -> int:
            connection.execute(_PUT_DEVICE, _cells(row))
            return _put_report(connection, report, self._limit(limit))

        self.database.submit(work, done)

    def _limit(self, limit: int) -> int:
        """How many reports of one device may wait: on a disk that is nearly full only the latest."""
        return 1 if self._disk is not None and self._disk.is_tight else limit

    # --- reports ------------------------------------------------------------------------------

    async def reports(self, device: str, after: int, limit: int) -> list[Report]:
        """Return what a device still has to report, oldest first."""
        rows = await self._rows(
            "SELECT id, deviceid, msg_id, resource, content, trace FROM report"
            " WHERE deviceid = ? AND id > ? ORDER BY id LIMIT ?",
            (device, after, limit),
        )
        return [Report(int(row_id), *cells) for row_id, *cells in rows]

    async def reporting_devices(self) -> list[tuple[str, int]]:
        """Return which devices have reports that wait, with the newest one's id; the longest wait first."""
        rows = await self._rows(
            "SELECT deviceid, max(id) FROM report GROUP BY deviceid ORDER BY min(id)", ()
        )
        return [(device, int(newest)) for device, newest in rows]

    def reported(self, device: str, up_to: int) -> None:
        """Forget a device's answered reports: all up to this one, as they are answered in order.

        Not waited for. A write that fails here is made good by the next; an older report never
        outlives a later one, so none can be sent after it.
        """
        self._write(
            _nothing, "DELETE FROM report WHERE deviceid = ? AND id <= ?", [(device, up_to)]
        )

    # --- router topics ------------------------------------------------------------------------

    async def topics(self) -> list[str]:
        return [topic for (topic,) in await self._rows("SELECT topic FROM sub_topics", ())]

    def add_topic(self, topic: str, done: Done) -> None:
        self._write(done, "INSERT OR IGNORE INTO sub_topics (topic) VALUES (?)", [(topic,)])

    def remove_topic(self, topic: str, done: Done) -> None:
        self._write(done, "DELETE FROM sub_topics WHERE topic = ?", [(topic,)])

    # --- ground -------------------------------------------------------------------------------

    def _write(self, done: Done, sql: str, rows: list[tuple[object, ...]]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(sql, rows)

        self.database.submit(work, _plain(done))

    async def _rows(self, sql: str, values: tuple[object, ...]) -> list[tuple[str, ...]]:
        return await self.database.read(
            lambda connection: connection.execute(sql, values).fetchall()
        )


_PUT_META = (
    "INSERT INTO meta (key, type, value) VALUES (?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET type = excluded.type, value = excluded.value"
)
_DROP_ENDED = "DELETE FROM meta WHERE type = ? AND json_extract(value, '$.ends') < ?"
_RECORD_COLUMNS = "key, group_version_resource, namespace, name, resource_version, value"
_SELECT_RECORDS = f"SELECT {_RECORD_COLUMNS} FROM meta_v2"  # noqa: S608  constants
_PUT_RECORD = f"INSERT OR REPLACE INTO meta_v2 ({_RECORD_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608


def _for_owner_alone(path: Path | None) -> None:
    """Keep others of this machine from reading the file before Secrets and tokens are in it."""
    if path is None:
        return
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        with suppress(FileNotFoundError):
            path.with_name(name).chmod(0o600)


def _delete_unless_later(connection: sqlite3.Connection, table: str, key: str, uid: str) -> bool:
    """Delete a row; one whose object has another uid than a given one is a later object and stays."""
    row = connection.execute(f"SELECT value FROM {table} WHERE key = ?", (key,)).fetchone()  # noqa: S608
    if row is not None and uid and _uid_of(row[0]) not in ("", uid):
        return False
    connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))  # noqa: S608  a name of ours
    return True


def _record_cells(record: Record) -> tuple[object, ...]:
    return (
        record.key,
        record.gvr,
        record.namespace,
        record.name,
        record.version,
        record.value,
    )


def _record(row: tuple[str, ...]) -> Record:
    key, gvr, namespace, name, version, value = row
    return Record(key, gvr, namespace, name, int(version), value)


MERGED = -1
MAX_MERGED = 2 * 1024 * 1024
"""Characters of a report that others were merged into; a larger one would not fit into a frame."""

_INSERT_DEVICE = (
    "INSERT INTO device (id, name, description, state, last_online) VALUES (?, ?, ?, ?, ?)"
)
_KEEP_DEVICE = f"{_INSERT_DEVICE} ON CONFLICT (id) DO NOTHING"
_PUT_DEVICE = (
    f"{_INSERT_DEVICE} ON CONFLICT (id) DO UPDATE SET name = excluded.name,"
    " description = excluded.description, state = excluded.state,"
    " last_online = excluded.last_online"
)


def _put_bound(
    connection: sqlite3.Connection, device: str, bound: Mapping[str, Bound | None]
) -> None:
    for name, it in bound.items():
        if it is None:
            connection.execute(DROP_BOUND, (device, name))
        else:
            connection.execute(PUT_BOUND, (device, name, it.uid, it.text))


def _plain(done: Done) -> Callable[[object], None]:
    def answer(result: object) -> None:
        done(result if isinstance(result, GatewayError) else None)

    return answer


class _Metadata(msgspec.Struct):
    uid: str = ""


class _Object(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


def _uid_of(value: str) -> str:
    try:
        return msgspec.json.decode(value, type=_Object).metadata.uid
    except msgspec.DecodeError:
        return ""


def _nothing(_error: GatewayError | None) -> None:
    """Nobody waits for this write."""


def _edge_id(connection: sqlite3.Connection) -> str:
    connection.execute(
        "INSERT OR IGNORE INTO identity (name, value) VALUES ('edge', ?)", (str(uuid.uuid4()),)
    )
    (value,) = connection.execute("SELECT value FROM identity WHERE name = 'edge'").fetchone()
    return str(value)


def _put_report(connection: sqlite3.Connection, report: Report, limit: int) -> int:
    (waiting,) = connection.execute(
        "SELECT count(*) FROM report WHERE deviceid = ?", (report.device,)
    ).fetchone()
    if waiting >= limit and _merge(connection, report):
        return MERGED
    cursor = connection.execute(
        "INSERT INTO report (deviceid, msg_id, resource, content, trace) VALUES (?, ?, ?, ?, ?)",
        (report.device, report.msg_id, report.resource, report.content, report.trace),
    )
    return cursor.lastrowid or 0


def _merge(connection: sqlite3.Connection, report: Report) -> bool:
    """Put a report into the newest waiting one of the same resource: later values win.

    The device's oldest report stays as it is: it may be on its way.
    """
    row = connection.execute(
        "SELECT id, content FROM report WHERE deviceid = ? AND resource = ? AND id >"
        " (SELECT min(id) FROM report WHERE deviceid = ?) ORDER BY id DESC LIMIT 1",
        (report.device, report.resource, report.device),
    ).fetchone()
    if row is None:
        return False
    content = _merged(row[1], report.content)
    if len(content) > MAX_MERGED:
        return False
    connection.execute(
        "UPDATE report SET content = ?, msg_id = ?, trace = ? WHERE id = ?",
        (content, report.msg_id, report.trace, row[0]),
    )
    return True


def _merged(old_text: str, new_text: str) -> str:
    """Return the later report with the properties that only the earlier one has; states have none."""
    old, new = msgspec.json.decode(old_text), msgspec.json.decode(new_text)
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new_text
    if isinstance(old.get("twin"), dict) and isinstance(new.get("twin"), dict):
        new["twin"] = {**old["twin"], **new["twin"]}
    return msgspec.json.encode(new).decode()


def _cells(row: DeviceRow) -> tuple[str, ...]:
    return row.id, row.name, row.description, row.state, row.last_online
