"""What a cloud says of devices beside their twins: kept on disk, told on `D/updated`, listed with members.

Only clouds older than the Device API of today say such things, with a membership or by `device/<id>/updated`.
Source: KubeEdge reference, sections 14.2 and 15.5.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping

from msgspec import Raw

from edge.clock import now_ms
from edge.deviceforms import DEVICE_TOPICS
from gateway.errors import GatewayError
from gateway.store.database import Database
from gateway.wire.cloudedge.twins import AttributesUpdate, write

log = logging.getLogger(__name__)

MAX_ATTRIBUTES = 100
"""Of one device."""
MAX_NAME = 256
MAX_VALUE = 4_096
_GONE = b"null"


class Attributes:
    """The attributes of this node's devices; `load` comes first."""

    def __init__(self, database: Database, publish: Callable[[str, bytes], None]) -> None:
        self._database = database
        self._publish = publish
        self._known: dict[str, dict[str, bytes]] = {}

    async def load(self) -> None:
        """Read what is on disk. Errors: StoreUnavailable."""
        rows = await self._database.read(
            lambda c: c.execute("SELECT deviceid, name, value FROM device_attr").fetchall()
        )
        for device, name, value in rows:
            self._known.setdefault(device, {})[name] = value.encode()

    def of(self, device: str) -> dict[str, Raw] | None:
        """Return a device's attributes, None without any."""
        known = self._known.get(device)
        return {name: Raw(value) for name, value in known.items()} if known else None

    def take(self, device: str, given: Mapping[str, Raw], event_id: str = "") -> None:
        """Take what the cloud says of a device of ours; `null` ends an attribute."""
        known = self._known.get(device, {})
        changed = {name: bytes(raw).strip() for name, raw in given.items()}
        changed = {n: v for n, v in changed.items() if v != known.get(n, _GONE) and _fits(n, v)}
        after = {n: v for n, v in {**known, **changed}.items() if v != _GONE}
        if not changed or len(after) > MAX_ATTRIBUTES:
            if changed:
                log.warning("too many attributes of a device", extra={"device": device})
            return
        self._known[device] = after
        self._store(device, after)
        said = {name: Raw(value) for name, value in changed.items()}
        update = AttributesUpdate(event_id, now_ms(), said)
        self._publish(f"{DEVICE_TOPICS}/{device}/updated", write(update))

    def forget(self, device: str) -> None:
        """The device is gone; what is on disk goes with its row."""
        self._known.pop(device, None)

    def _store(self, device: str, known: Mapping[str, bytes]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM device_attr WHERE deviceid = ?", (device,))
            connection.executemany(
                "INSERT INTO device_attr (deviceid, name, value) VALUES (?, ?, ?)",
                [(device, name, value.decode()) for name, value in known.items()],
            )

        self._database.submit(work, _logged)


def _fits(name: str, value: bytes) -> bool:
    return 0 < len(name) <= MAX_NAME and len(value) <= MAX_VALUE


def _logged(result: GatewayError | None) -> None:
    if result is not None:
        log.warning("attributes are not on disk", extra={"cause": result.message})
