"""The past of policies, and what is due of them, in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.model.json import JsonObject
from gateway.model.policy import Policy, PolicyEvent
from gateway.store.things import PolicyReplay

_SNAPSHOT: Final = """
SELECT revision, snapshot, timestamp FROM policy_events
WHERE policy_id = ?1 AND snapshot IS NOT NULL AND revision <= ?2 AND timestamp <= ?3 ORDER BY revision DESC
LIMIT 1
"""
_SINCE: Final = """
SELECT policy_id, revision, action, path, value, facts, timestamp FROM policy_events
WHERE policy_id = ? AND revision > ? AND revision <= ? AND timestamp <= ? ORDER BY revision
"""
_DUE: Final = "SELECT policy_id FROM policies WHERE due <= ? ORDER BY due LIMIT ?"
_ANY_REVISION: Final = 2**62
_ANY_TIME: Final = "~"
"""Sorts after every ISO 8601 instant."""

_decode = msgspec.json.Decoder().decode


def replay(
    connection: sqlite3.Connection,
    policy_id: str,
    revision: int | None,
    timestamp: str | None,
    event_of: Callable[[tuple[Any, ...]], PolicyEvent],
) -> PolicyReplay:
    """The newest kept state up to a revision or instant, and the events since."""
    bounds = (_ANY_REVISION if revision is None else revision, timestamp or _ANY_TIME)
    row = connection.execute(_SNAPSHOT, (policy_id, *bounds)).fetchone()
    base: Policy | None = None
    if row is not None:
        kept: JsonObject = _decode(row[1])
        document = kept["document"]
        assert isinstance(document, dict)  # noqa: S101  we wrote it
        base = Policy(policy_id, row[0], document, str(kept["created"]), row[2])
    if base is None:
        return PolicyReplay(None, ())
    events = connection.execute(_SINCE, (policy_id, base.revision, *bounds))
    return PolicyReplay(base, [event_of(event) for event in events])


def due(connection: sqlite3.Connection, until: str, limit: int) -> list[str]:
    """Policies with something due up to an instant, the earliest first."""
    return [str(row[0]) for row in connection.execute(_DUE, (until, limit))]
