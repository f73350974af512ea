"""One connection of one node, and what a room is handed when it brings a message."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from aiohttp import WSCloseCode, web

from gateway.errors import Forbidden
from gateway.wire.cloudedge.envelope import Envelope, Stamp
from gateway.wire.cloudedge.link import CloudLink, Ending
from gateway.wire.cloudedge.names import Refusal

log = logging.getLogger("cloud.hub")

CLOSE_SECONDS = 1.0

CLOSE_CODES = {
    Ending.GARBAGE: WSCloseCode.UNSUPPORTED_DATA,
    Ending.STOPPING: WSCloseCode.GOING_AWAY,
    Ending.NODE_DELETED: WSCloseCode.POLICY_VIOLATION,
    Ending.REVOKED: WSCloseCode.POLICY_VIOLATION,
}


def stamp() -> Stamp:
    """Make id and time of a new message."""
    return Stamp(str(uuid.uuid4()), time.time_ns() // 1_000_000)


@dataclass(slots=True, eq=False)
class NodeSession:
    """One connection of one node."""

    node: str
    serial: str
    link: CloudLink
    socket: web.WebSocketResponse
    transport: asyncio.Transport | None
    since: float
    edge: str
    """The edge's store, as the edge names it; else the certificate's serial."""
    is_ours: bool = False
    """True for our own edges, which name their store: they take a failure for a failure."""
    is_writing: bool = False
    room: asyncio.Event | None = None


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


async def hang_up(session: NodeSession, why: Ending) -> None:
    """Say goodbye, then make sure that the connection is gone."""
    code = CLOSE_CODES.get(why, WSCloseCode.OK)
    if why is not Ending.SLOW:
        with suppress(TimeoutError, ConnectionError, RuntimeError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await session.socket.close(code=code, message=why.value.encode())
    abort(session)


def abort(session: NodeSession) -> None:
    """Drop the connection."""
    if session.transport is not None:
        session.transport.abort()


def refused(why: Refusal, text: str) -> Forbidden:
    """Return the error that a refused upgrade is answered with."""
    return Forbidden(text, details={"refusal": why})
