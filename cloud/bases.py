"""What the controller remembers of Devices across restarts: agreed values, and which thing it made."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from cloud.agreement import Base
from gateway.store.database import Database


@dataclass(slots=True)
class Memory:
    """What is remembered of one Device.

    Shape:  `made` says that the controller made the thing, `keep` that it stays when the Device goes.
    """

    thing_id: str = ""
    made: bool = False
    keep: bool = False
    bases: dict[str, Base] = field(default_factory=dict)


class Bases:
    """Durable memory of Devices by uid; reads are from memory after `load`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, Memory] = {}

    async def load(self) -> None:
        """Read everything."""
        self._known = await self._database.read(_read)

    def of(self, uid: str) -> Memory:
        """Return what is known of a Device; empty for a new one. Read only."""
        return self._known.get(uid) or Memory()

    @property
    def uids(self) -> list[str]:
        return list(self._known)

    async def agree(self, uid: str, bases: Mapping[str, Base], gone: frozenset[str]) -> None:
        """Remember agreed values, and forget those of properties that are gone."""
        if not bases and not gone:
            return
        await self._database.write(lambda c: _write_bases(c, uid, bases, gone))
        memory = self._known.setdefault(uid, Memory())
        memory.bases.update(bases)
        for name in gone:
            memory.bases.pop(name, None)

    async def bind(self, uid: str, thing_id: str, *, made: bool, keep: bool) -> None:
        """Remember which thing stands for a Device."""
        memory = self.of(uid)
        if (memory.thing_id, memory.made, memory.keep) == (thing_id, made, keep):
            return
        await self._database.write(lambda c: _write_thing(c, uid, thing_id, made, keep))
        memory = self._known.setdefault(uid, memory)
        memory.thing_id, memory.made, memory.keep = thing_id, made, keep

    async def forget(self, uid: str) -> None:
        """Forget a Device that is gone."""
        await self._database.write(lambda c: _forget(c, uid))
        self._known.pop(uid, None)


def _read(connection: sqlite3.Connection) -> dict[str, Memory]:
    known: dict[str, Memory] = {}
    for uid, thing_id, made, keep in connection.execute(
        "SELECT uid, thing_id, made, keep FROM device_thing"
    ):
        known[uid] = Memory(thing_id, bool(made), bool(keep))
    for uid, name, desired, generation, revision in connection.execute(
        "SELECT uid, property, desired, generation, revision FROM device_base"
    ):
        value = None if desired is None else msgspec.json.decode(desired)
        known.setdefault(uid, Memory()).bases[name] = Base(value, generation, revision)
    return known


def _write_bases(
    connection: sqlite3.Connection, uid: str, bases: Mapping[str, Base], gone: frozenset[str]
) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO device_base (uid, property, desired, generation, revision)"
        " VALUES (?, ?, ?, ?, ?)",
        [
            (uid, name, _encoded(base.desired), base.generation, base.revision)
            for name, base in bases.items()
        ],
    )
    connection.executemany(
        "DELETE FROM device_base WHERE uid = ? AND property = ?", [(uid, name) for name in gone]
    )


def _encoded(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _write_thing(
    connection: sqlite3.Connection, uid: str, thing_id: str, made: bool, keep: bool
) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO device_thing (uid, thing_id, made, keep) VALUES (?, ?, ?, ?)",
        (uid, thing_id, made, keep),
    )


def _forget(connection: sqlite3.Connection, uid: str) -> None:
    connection.execute("DELETE FROM device_base WHERE uid = ?", (uid,))
    connection.execute("DELETE FROM device_thing WHERE uid = ?", (uid,))
