"""The table of commands that wait for their devices: each function is one piece of work on a connection.

A row waits for its device until `expires`; a row with a failure waits until its application has been told.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from gateway.errors import DeviceNotFound
from gateway.model.message import Command, MessagingType, Scalar
from gateway.model.trace import TraceContext

DEVICE_GONE = (404, DeviceNotFound.default_message)
"""Status and text of commands whose device was deleted."""

_WAITS = "failure_status IS NULL AND expires > ?"
_COLUMNS = (
    "sequence, id, tenant, device, stored, expires, attempts, size, failure_status, failure_text,"
    " body, payload"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCommand:
    """A command with what is known of its stay.

    Shape:  `sequence` orders a device's commands; `command_id` is what the device recognises it by;
            `failure` is status and text of what it was refused with, None while it waits or when it expired.
    Units:  `stored` and `expires` in seconds since the epoch; `size` in bytes on disk.
    """

    sequence: int
    command_id: str
    command: Command
    stored: float
    expires: float
    size: int
    attempts: int = 0
    failure: tuple[int, str] | None = None


class _Body(msgspec.Struct, omit_defaults=True):
    """What is written of a command beside its columns and its payload."""

    name: str
    content_type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    trace: TraceContext | None = None
    properties: dict[str, Scalar] = {}
    messaging: MessagingType = MessagingType.AMQP


_decode = msgspec.json.Decoder(_Body).decode


def encode_body(command: Command) -> str:
    """Return a command as it is written, without tenant, device and payload."""
    body = _Body(
        command.name,
        command.content_type,
        command.correlation_id,
        command.reply_to,
        command.trace,
        dict(command.properties),
        command.messaging,
    )
    return msgspec.json.encode(body).decode()


def _read(row: Sequence[object]) -> StoredCommand:
    sequence, command_id, tenant, device, stored, expires, attempts, size, *rest = row
    status, text, body, payload = rest
    said = _decode(str(body))
    command = Command(
        tenant=str(tenant),
        device=str(device),
        name=said.name,
        payload=payload if isinstance(payload, bytes) else b"",
        content_type=said.content_type,
        correlation_id=said.correlation_id,
        reply_to=said.reply_to,
        trace=said.trace,
        properties=said.properties,
        messaging=said.messaging,
    )
    return StoredCommand(
        sequence=int(str(sequence)),
        command_id=str(command_id),
        command=command,
        stored=float(str(stored)),
        expires=float(str(expires)),
        size=int(str(size)),
        attempts=int(str(attempts)),
        failure=None if status is None else (int(str(status)), str(text)),
    )


# --- one device's line ---------------------------------------------------------------------------------


def insert(db: sqlite3.Connection, stored: StoredCommand, body: str) -> bool:
    """Add a command; False where its id is there already.

    Errors: DeviceNotFound.
    """
    command = stored.command
    if db.execute("SELECT 1 FROM stored_command WHERE id = ?", (stored.command_id,)).fetchone():
        return False
    of = (command.tenant, command.device)
    if not db.execute("SELECT 1 FROM device WHERE tenant = ? AND id = ?", of).fetchone():
        raise DeviceNotFound
    db.execute(
        "INSERT INTO stored_command (sequence, id, tenant, device, stored, expires, due, size,"
        " attempts, body, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            stored.sequence,
            stored.command_id,
            command.tenant,
            command.device,
            stored.stored,
            stored.expires,
            stored.expires,
            stored.size,
            stored.attempts,
            body,
            command.payload,
        ),
    )
    return True


def first(db: sqlite3.Connection, tenant: str, device: str, now: float) -> StoredCommand | None:
    """Return the command that a device gets next."""
    row = db.execute(
        f"SELECT {_COLUMNS} FROM stored_command WHERE tenant = ? AND device = ? AND {_WAITS}"  # noqa: S608 fixed text
        " ORDER BY sequence LIMIT 1",
        (tenant, device, now),
    ).fetchone()
    return None if row is None else _read(row)


def delete(db: sqlite3.Connection, sequences: Iterable[int]) -> None:
    """Remove commands that are over: delivered, or their application was told."""
    db.executemany("DELETE FROM stored_command WHERE sequence = ?", [(s,) for s in sequences])


def fail(db: sqlite3.Connection, sequence: int, failure: tuple[int, str]) -> None:
    """Note that a command will not be delivered; its application is told next."""
    db.execute(
        "UPDATE stored_command SET failure_status = ?, failure_text = ?, due = 0 WHERE sequence = ?",
        (*failure, sequence),
    )


def note_attempt(db: sqlite3.Connection, sequence: int) -> None:
    """Note that a command was sent without an outcome."""
    db.execute("UPDATE stored_command SET attempts = attempts + 1 WHERE sequence = ?", (sequence,))


def behind(db: sqlite3.Connection, tenant: str, gateway: str) -> list[str]:
    """Return the devices with commands that a gateway may act for, directly or by its groups."""
    rows = db.execute(
        "SELECT v.device FROM device_via v WHERE v.tenant = ?1 AND v.gateway = ?2 AND EXISTS (SELECT 1"
        " FROM stored_command s WHERE s.tenant = v.tenant AND s.device = v.device)",
        (tenant, gateway),
    ).fetchall()
    groups = db.execute(
        "SELECT group_id FROM device_member WHERE tenant = ? AND device = ?", (tenant, gateway)
    ).fetchall()
    if groups:
        rows += db.execute(
            "SELECT DISTINCT d.id FROM (SELECT DISTINCT device FROM stored_command WHERE tenant = ?1) s"
            " JOIN device d ON d.tenant = ?1 AND d.id = s.device,"
            " json_each(d.document, '$.viaGroups') g JOIN device_member m"
            " ON m.tenant = ?1 AND m.group_id = g.value AND m.device = ?2",
            (tenant, gateway),
        ).fetchall()
    return list(dict.fromkeys(device for (device,) in rows))


# --- all of them ---------------------------------------------------------------------------------------


def load(db: sqlite3.Connection) -> tuple[int, list[tuple[str, str, int, int]]]:
    """Return the highest sequence, and (tenant, device, count, bytes) of each line.

    Commands of devices that went while nobody looked have failed.
    """
    db.execute(
        "UPDATE stored_command SET failure_status = ?, failure_text = ?, due = 0 WHERE failure_status IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM device d WHERE d.tenant = stored_command.tenant"
        " AND d.id = stored_command.device)",
        DEVICE_GONE,
    )
    rows = db.execute(
        "SELECT tenant, device, count(*), sum(size) FROM stored_command GROUP BY tenant, device"
    ).fetchall()
    (highest,) = db.execute("SELECT coalesce(max(sequence), 0) FROM stored_command").fetchone()
    return int(highest), rows


def due(db: sqlite3.Connection, now: float, limit: int) -> list[StoredCommand]:
    """Return commands that expired or failed."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM stored_command WHERE due <= ? ORDER BY due, sequence LIMIT ?",  # noqa: S608 fixed text
        (now, limit),
    )
    return [_read(row) for row in rows]


def next_due(db: sqlite3.Connection) -> float | None:
    """Return when the next command is due, seconds since the epoch; None where there is none."""
    (found,) = db.execute("SELECT min(due) FROM stored_command").fetchone()
    return None if found is None else float(found)


def postpone(db: sqlite3.Connection, sequences: Iterable[int], until: float) -> None:
    """Look at commands again later: their application could not be told."""
    db.executemany(
        "UPDATE stored_command SET due = ? WHERE sequence = ?", [(until, s) for s in sequences]
    )


def fail_all(
    db: sqlite3.Connection,
    tenant: str,
    device: str | None,
    failure: tuple[int, str],
    *,
    before: int,
    command_id: str | None = None,
) -> int:
    """Give up what waits of a tenant, of one of its devices, or one command; returns how many those were.

    Shape:  `before` spares what came after the reason.
    """
    cursor = db.execute(
        "UPDATE stored_command SET failure_status = ?1, failure_text = ?2, due = 0 WHERE tenant = ?3"
        " AND (?4 IS NULL OR device = ?4) AND (?5 IS NULL OR id = ?5) AND sequence < ?6"
        " AND failure_status IS NULL",
        (*failure, tenant, device, command_id, before),
    )
    return cursor.rowcount


def page(
    db: sqlite3.Connection,
    tenant: str,
    device: str | None,
    now: float,
    *,
    after: int,
    limit: int,
) -> tuple[int, list[StoredCommand]]:
    """Return how many commands wait, and some of them in their order, from behind sequence `after`."""
    where = f"tenant = ? AND (? IS NULL OR device = ?) AND {_WAITS}"
    of = (tenant, device, device, now)
    (total,) = db.execute(f"SELECT count(*) FROM stored_command WHERE {where}", of).fetchone()  # noqa: S608 fixed text
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM stored_command WHERE {where} AND sequence > ? ORDER BY sequence"  # noqa: S608 fixed text
        " LIMIT ?",
        (*of, after, limit),
    )
    return int(total), [_read(row) for row in rows]
