"""One connection of one node, and what a room is handed when it brings a message."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import Protocol

from cloud.connection import Connection
from gateway.errors import Forbidden
from gateway.wire.cloudedge.envelope import Envelope, Stamp
from gateway.wire.cloudedge.link import CloudLink, Ending
from gateway.wire.cloudedge.names import Refusal
from gateway.wire.websocket import NORMAL, UNSUPPORTED

log = logging.getLogger("cloud.hub")

GOING_AWAY, POLICY_VIOLATION = 1001, 1008
CLOSE_CODES = {
    Ending.GARBAGE: UNSUPPORTED,
    Ending.STOPPING: GOING_AWAY,
    Ending.NODE_DELETED: POLICY_VIOLATION,
    Ending.REVOKED: POLICY_VIOLATION,
}


def stamp() -> Stamp:
    """Make id (a version 4 UUID) and time of a new message."""
    dice = os.urandom(16).hex()
    variant = "89ab"[int(dice[16], 16) & 3]
    msg_id = f"{dice[:8]}-{dice[8:12]}-4{dice[13:16]}-{variant}{dice[17:20]}-{dice[20:]}"
    return Stamp(msg_id, time.time_ns() // 1_000_000)


@dataclass(slots=True, eq=False)
class NodeSession:
    """One connection of one node."""

    node: str
    serial: str
    link: CloudLink
    connection: Connection
    since: float
    edge: str
    """The edge's store, as the edge names it; else the certificate's serial."""
    is_ours: bool = False
    """True for our own edges, which name their store: they take a failure for a failure."""
    is_flush_due: bool = False


class Replies(Protocol):
    """What `Inbound` needs of the hub."""

    def send(self, session: NodeSession, envelope: Envelope) -> bool: ...


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message from a node, with the way to answer it on the same connection."""

    session: NodeSession
    envelope: Envelope
    hub: Replies

    @property
    def node(self) -> str:
        return self.session.node

    def reply(self, answer: Envelope) -> None:
        """Send an answer; dropped when the connection is gone or its queue is full (edges ask again)."""
        self.hub.send(self.session, answer)


def log_about(text: str, session: NodeSession, envelope: Envelope, cause: str = "") -> None:
    """Warn about a message of a node, without its content."""
    facts = {"node": session.node, "resource": envelope.route.resource[:200], "cause": cause[:500]}
    log.warning(text, extra=facts)


def hang_up(session: NodeSession, why: Ending) -> None:
    """Say goodbye and end the connection; a node that does not read is hung up on at once."""
    if why is Ending.SLOW:
        session.connection.abort()
    else:
        session.connection.close(CLOSE_CODES.get(why, NORMAL), why.value)


def refused(why: Refusal, text: str) -> Forbidden:
    """Return the error that a refused upgrade is answered with."""
    return Forbidden(text, details={"refusal": why})
