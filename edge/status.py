"""What an edge node says about itself: link, spool, twins; from the running process, or from its disk.

The document is the same in both cases: `running` tells which, and what only a process knows is null without
one. `hours_left` says how long the spool would take what comes in now, until telemetry pushes out the oldest
or events are refused; null while nothing comes in.
"""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.clock import now_ms, rfc3339
from edge.devicefaults import META_TYPE
from edge.identity import FOLDER, Identity
from edge.podreport import pods_of_disk
from edge.quarantine import FACT as SET_ASIDE
from edge.quarantine import SetAside
from edge.taskmanager import META_TYPE as TASK_TYPE
from edge.taskmanager import facts_of
from gateway.errors import InvalidSetting
from gateway.model.json import JsonObject
from gateway.model.message import Kind
from gateway.runtime.listener import ENDPOINTS_FILE
from gateway.wire.kube.parts import part

if TYPE_CHECKING:
    from edge.core import EdgeCore
    from edge.pods.build import Pods
    from gateway.config.edge import Spool as SpoolSettings

PATH = "/edge"
"""Where the operations port of a running edge serves the document."""
DISCOVERED_PATH = "/edge/discovered"
"""Where it serves what its mappers see."""
SECONDS = 3.0
MAX_BODY = 1024 * 1024
MAX_SEEN = 64 * 1024 * 1024
BUSY_SECONDS = 2.0


def documents(core: EdgeCore) -> dict[str, Callable[[], JsonObject]]:
    """Return what the operations port of a running EdgeCore serves, by path."""
    return {PATH: lambda: of_core(core), DISCOVERED_PATH: core.devices.book.document}


def of_core(core: EdgeCore) -> JsonObject:
    """Return the document of a running EdgeCore."""
    hub = core.hub
    return {
        "node": core.node_name,
        "running": True,
        "link": {
            "state": "up" if hub.is_connected else "down",
            "since": rfc3339(hub.since) if hub.since else None,
            "last_error": hub.last_error or None,
        },
        "spool": {
            kind.value: _spool(
                core.spool.depths[kind].messages,
                core.spool.depths[kind].bytes,
                core.spool.limits[kind],
                core.spool.rate(kind),
            )
            for kind in Kind
        },
        "losses": {**core.spool.losses},
        "devices": len(core.twin.members()),
        "twins": core.twin.count,
        "devices_with_reports": len(core.reports),
        "external_mqtt": None if core.external is None else core.external.is_connected,
        "mappers": [] if core.dmi is None else core.dmi.facts(),
        "mapper_processes": [*core.devices.processes.facts()],
        "plugins": [plugin.facts() for plugin in core.devices.plugins],
        "faults": {device: {**parts} for device, parts in core.devices.faults.facts().items()},
        "set_aside": _facts(core.store.set_aside),
        "jobs": [*core.tasks.facts()],
        "workloads": None if core.pods is None else _workloads(core.pods),
    }


def _workloads(pods: Pods) -> JsonObject:
    """Return what runs here: the runtime, what is wrong with it, and Pods by phase."""
    shown = [each.status for each in pods.view.pods()]
    return {"runtime": pods.health.version, "problems": [*pods.health.problems], **_phases(shown)}


def _phases(statuses: Iterable[JsonObject]) -> JsonObject:
    phases = Counter(str(each.get("phase") or "Pending") for each in statuses)
    return {"pods": phases.total(), "phases": {**phases}}


def _facts(case: SetAside | None) -> JsonObject | None:
    return None if case is None else {**asdict(case)}


def _spool(messages: int, size: int, limit: int, rate: float | None) -> JsonObject:
    """Shape: `rate` in bytes a second, None where it is not known."""
    left = None if not rate else round(max(0, limit - size) / rate / 3_600, 1)
    return {"messages": messages, "bytes": size, "limit_bytes": limit, "hours_left": left}


def ask(data_dir: Path, path: str = PATH, most: int = MAX_BODY) -> JsonObject | None:
    """Return the document of the process that runs on this data directory, None when none does."""
    try:
        endpoints = json.loads((data_dir / ENDPOINTS_FILE).read_text("utf-8"))
        address = endpoints["ops.http"]
        url = f"http://{address}{path}"
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            found = json.loads(answer.read(most))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def of_disk(data_dir: Path, limits: SpoolSettings) -> JsonObject:
    """Return the document as far as the disk tells it; nothing is written.

    Errors: InvalidSetting when this folder has not joined, or its database cannot be read.
    """
    node = Identity(data_dir).load().node
    file = data_dir / FOLDER / "edge.db"
    body: dict[str, Any] = {
        "node": node,
        "running": False,
        "link": {"state": "down", "since": None, "last_error": None},
        "spool": {},
        "losses": {},
        "devices": 0,
        "twins": 0,
        "devices_with_reports": 0,
        "external_mqtt": None,
        "mappers": [],
        "mapper_processes": [],
        "plugins": [],
        "faults": {},
        "set_aside": None,
        "jobs": [],
        "workloads": None,
    }
    bounds = {Kind.TELEMETRY: limits.max_telemetry_bytes, Kind.EVENT: limits.max_event_bytes}
    if not file.is_file():  # joined, and never run
        body["spool"] = {kind.value: _spool(0, 0, bounds[kind], None) for kind in Kind}
        return body
    try:
        with closing(
            sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        ) as db:
            body.update(_read(db, bounds))
        shown = [part(each, "status") for each in pods_of_disk(data_dir)]
        body["workloads"] = {"runtime": "", "problems": [], **_phases(shown)} if shown else None
    except sqlite3.Error as error:
        raise InvalidSetting(f"{file} cannot be read: {error}") from error
    return body


def _read(db: sqlite3.Connection, bounds: Mapping[Kind, int]) -> dict[str, Any]:
    def one(sql: str) -> int:
        return int(db.execute(sql).fetchone()[0])

    totals = {
        Kind.EVENT if event else Kind.TELEMETRY: (int(messages), int(size))
        for event, messages, size in db.execute("SELECT event, messages, bytes FROM spool_total")
    }
    return {
        "spool": {
            kind.value: _spool(
                totals[kind][0], totals[kind][1], bounds[kind], _rate(db, int(kind is Kind.EVENT))
            )
            for kind in Kind
        },
        "losses": dict(db.execute("SELECT cause, messages FROM loss").fetchall()),
        "faults": _faults(db),
        "devices": one("SELECT count(*) FROM device"),
        "twins": one("SELECT count(*) FROM device_twin"),
        "devices_with_reports": one("SELECT count(DISTINCT deviceid) FROM report"),
        "set_aside": _set_aside(db),
        "jobs": _jobs(db),
    }


def _faults(db: sqlite3.Connection) -> dict[str, Any]:
    """Return what the cloud was told that does not work: device -> part -> fault."""
    rows = db.execute("SELECT key, value FROM meta WHERE type = ? ORDER BY key", (META_TYPE,))
    return {key.partition("/")[2]: json.loads(value) for key, value in rows}


def _jobs(db: sqlite3.Connection) -> list[JsonObject]:
    rows = db.execute("SELECT value FROM meta WHERE type = ? ORDER BY key", (TASK_TYPE,))
    return facts_of(value for (value,) in rows)


def _set_aside(db: sqlite3.Connection) -> JsonObject | None:
    row = db.execute("SELECT value FROM identity WHERE name = ?", (SET_ASIDE,)).fetchone()
    found: JsonObject | None = json.loads(row[0]) if row else None
    return found


def _rate(db: sqlite3.Connection, event: int) -> float | None:
    """Return how fast what waits came in: bytes a second from the oldest to the newest of it."""
    row = db.execute(
        "SELECT (SELECT facts FROM spool WHERE event = ?1 ORDER BY id LIMIT 1),"
        " (SELECT facts FROM spool WHERE event = ?1 ORDER BY id DESC LIMIT 1),"
        " (SELECT bytes FROM spool_total WHERE event = ?1)",
        (event,),
    ).fetchone()
    if row[0] is None:
        return None
    first, last = (int(json.loads(facts).get("at", 0)) for facts in row[:2])
    seconds = (last - first) / 1_000
    return row[2] / seconds if first and seconds > 0 else None


def age(since: str | None) -> str:
    """Return how long ago an instant of the document was, for people."""
    from datetime import datetime

    if since is None:
        return ""
    seconds = max(0, now_ms() // 1_000 - int(datetime.fromisoformat(since).timestamp()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
