"""CloudHub: the WebSocket listener of port 10000, one session per edge node.

A node is who its certificate says; the header `node_id` must agree, the certificate must not be revoked, and
there must be room. A second connection of a node takes over. What a node sends goes to the room that
registered for its type, in order per lane, lanes side by side; when too much of one node is in work,
reading from it pauses. What goes to a node is bounded and keeps only the newest version of an object; a node
that does not read is disconnected. Nothing is stored here: after a reconnect `cloud.delivery` sends again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from prometheus_client import Counter

from cloud.certificates import NodeCertificate, read_node_certificate
from cloud.connection import CLOSE_SECONDS, Connection, Upgrade
from cloud.sessions import (
    Inbound,
    NodeSession,
    hang_up,
    log_about,
    refused,
    stamp,
)
from gateway.errors import AdapterFull, GatewayError
from gateway.runtime.gate import listening_gate
from gateway.runtime.lanes import Lanes
from gateway.runtime.listener import MAX_CONNECTIONS, Endpoints
from gateway.wire.cloudedge.control import ControlAsked, answer_control
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.link import (
    CloudLink,
    Delivered,
    Ended,
    Ending,
    LinkEvent,
    LinkLimits,
    ObjectMessage,
    Received,
    Unanswered,
    Unreadable,
)
from gateway.wire.cloudedge.names import EDGE, NODE_ID, SPOOL, Refusal
from gateway.wire.cloudedge.to_cloud import EdgeFailed, Ignored, NotServed
from gateway.wire.websocket import Broken

if TYPE_CHECKING:
    from cloud.identity import Identity
    from cloud.nodebook import NodeBook
    from gateway.config.cloud import CloudHub as HubSettings
    from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
LANE_LIMIT = 10_000
"""Pending messages are bounded per node; a lane's own bound is never met first."""

M = TypeVar("M")


class NodeListener(Protocol):
    """Told what happens to nodes; must not block."""

    def node_connected(self, node: str) -> None: ...

    def node_disconnected(self, node: str) -> None: ...

    def node_is_new(self, node: str) -> None:
        """Its machine or its store is another one: what it had stored may be lost."""

    def delivered(self, node: str, item: ObjectMessage) -> None: ...


Handler = Callable[[Inbound, Any], Awaitable[None]]


class CloudHub:
    """Module: the hub. Rooms register with `on` and `add_listener` before it runs."""

    name = "cloud.hub"

    def __init__(
        self,
        settings: HubSettings,
        identity: Identity,
        book: NodeBook,
        endpoints: Endpoints,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._book = book
        self._endpoints = endpoints
        self._metrics = metrics
        self._limits = LinkLimits(
            keepalive_timeout=settings.keepalive_timeout,
            acknowledge_timeout=settings.acknowledge_timeout,
            queue=settings.queue,
            max_frame=settings.max_frame,
        )
        self._sessions: dict[str, NodeSession] = {}
        self._stores: dict[str, str] = {}
        """Which store each node had when it connected last; goes with the Node."""
        self.told_store: Callable[[str], str] = _not_told
        """Says what the cluster knows of that, "" for nothing: the last one may have been elsewhere."""
        self._pending: Tally[str] = Tally()
        """Messages of each node that are in work, those of its earlier connections too."""
        self._handlers: dict[type, tuple[Handler, Callable[[Any], Hashable], type]] = {}
        self._listeners: list[NodeListener] = []
        self._counters: dict[tuple[str, str], Counter] = {}
        """Looking one up by its labels costs more than counting."""
        self._connections: set[Connection] = set()
        self._hung_up = asyncio.Event()
        self._lanes: Lanes | None = None

    # --- for other rooms -----------------------------------------------------------------------

    def on(
        self,
        kind: type[M],
        handler: Callable[[Inbound, M], Awaitable[None]],
        lane: Callable[[M], Hashable],
        *,
        beside: type | None = None,
    ) -> None:
        """Send messages of `kind` to `handler`; those with the same `lane` of a node keep their order.

        Shape:  `beside` names another kind whose lanes these share.
        """
        self._handlers[kind] = (handler, lane, beside or kind)

    def add_listener(self, listener: NodeListener) -> None:
        self._listeners.append(listener)

    @property
    def nodes(self) -> list[str]:
        """Nodes that are connected now."""
        return list(self._sessions)

    def links(self) -> list[tuple[str, CloudLink]]:
        """Nodes that are connected now, and their links."""
        return [(node, session.link) for node, session in self._sessions.items()]

    @property
    def in_work(self) -> int:
        """Messages of all nodes that are in work."""
        return self._pending.total()

    @property
    def limit_of_work(self) -> int:
        """How many there may be: a node's reading pauses at its share."""
        return self._settings.pending * self._settings.node_limit

    def is_connected(self, node: str) -> bool:
        return node in self._sessions

    def connected_since(self, node: str) -> float | None:
        """When a node's link was made, by the loop's clock; None without one."""
        session = self._sessions.get(node)
        return None if session is None else session.since

    def is_ours(self, node: str) -> bool:
        """True when an edge of ours is connected under this name."""
        session = self._sessions.get(node)
        return session is not None and session.is_ours

    def is_sending(self, node: str, key: str, version: str) -> bool:
        """True when this version of an object waits for the node, or for its acknowledgement."""
        session = self._sessions.get(node)
        return session is not None and session.link.holds(key, version)

    def offer(self, node: str, item: ObjectMessage) -> bool:
        """Send an object reliably; False when the node is away or too much waits for it."""
        session = self._sessions.get(node)
        if session is None or not session.link.offer(item):
            return False
        self._count("down", "object")
        self._flush(session)
        return True

    def push(self, node: str, envelope: Envelope) -> bool:
        """Send a message once; False when the node is away or too much waits for it."""
        session = self._sessions.get(node)
        return session is not None and self.send(session, envelope)

    def send(self, session: NodeSession, envelope: Envelope) -> bool:
        """Send a message once on one connection."""
        if not session.link.push(envelope):
            return False
        self._count("down", "answer" if envelope.parent_id else "notice")
        self._flush(session)
        return True

    def store_of(self, node: str) -> str:
        """Return which store a node had when it connected last, "" when it was never here."""
        return self._stores.get(node, "")

    def joined(self, node: str) -> None:
        """A node got a certificate by a token: most likely its machine is new."""
        for listener in self._listeners:
            listener.node_is_new(node)

    def end(self, node: str, why: Ending) -> None:
        """End a node's session."""
        if why is Ending.NODE_DELETED:
            self._stores.pop(node, None)
        session = self._sessions.get(node)
        if session is not None:
            self._end(session, why)

    # --- module ---------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        max_frame, headers = self._settings.max_frame, {SPOOL: "1"}
        context = self._identity.tls(ssl.CERT_REQUIRED)
        context.num_tickets = 0  # edges start each session anew
        async with asyncio.TaskGroup() as group:
            self._lanes = Lanes(group, limit=LANE_LIMIT)
            try:
                async with listening_gate(
                    self._endpoints,
                    "cloudhub.wss",
                    self._settings.wss.bind,
                    lambda: Connection(self, max_frame, headers),
                    ssl=context,
                    setting="cloud.hub.wss.bind",
                ):
                    ready()
                    await self._tick_forever()
            finally:
                await self._hang_up_all()
                self._lanes = None

    async def _tick_forever(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(TICK_SECONDS)
            at = now()
            for session in list(self._sessions.values()):
                self._tick(session, at)

    def _tick(self, session: NodeSession, at: float) -> None:
        link, connection = session.link, session.connection
        since = connection.stalled_since
        if not connection.is_reading:
            link.touch(at)  # the keep-alives behind what waits are late by our doing
        if since is not None and at - since > self._settings.write_timeout:
            self._end(session, Ending.SLOW)
        elif link.wake_at <= at:
            self._take(session, link.tick(at, is_stalled=since is not None))
            self._flush(session)

    async def _hang_up_all(self) -> None:
        for session in list(self._sessions.values()):
            self._end(session, Ending.STOPPING)
        for connection in [c for c in self._connections if not c.is_leaving]:
            connection.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * CLOSE_SECONDS):
                while self._connections:
                    self._hung_up.clear()
                    await self._hung_up.wait()

    # --- connecting (`connection.Owner`) --------------------------------------------------------

    def made(self, connection: Connection) -> None:
        self._connections.add(connection)
        if len(self._connections) > MAX_CONNECTIONS:
            connection.abort()

    def admit(self, connection: Connection, asked: Upgrade) -> Callable[[], NodeSession]:
        """Let a node in. Errors: GatewayError, with the reason's name."""
        try:
            certificate = self._admitted(asked)
        except GatewayError as error:
            self._metrics.cloudhub_refused.labels(str(error.details.get("refusal"))).inc()
            log.info(
                "edge refused",
                extra={"peer": asked.peer, "status": error.status, "cause": error.message},
            )
            raise
        return partial(self._open, certificate, connection, asked)

    def lost(self, connection: Connection, session: NodeSession | None) -> None:
        self._connections.discard(connection)
        self._hung_up.set()
        if session is not None:
            self._forget(session)

    def _admitted(self, asked: Upgrade) -> NodeCertificate:
        if asked.certificate is None:
            raise refused(Refusal.NO_CERTIFICATE, "a client certificate is needed")
        certificate = read_node_certificate(asked.certificate)
        node = asked.headers.get(NODE_ID, "")
        if node != certificate.node:
            raise refused(
                Refusal.NODE_MISMATCH,
                f"the certificate is of node {certificate.node}, the header node_id says {node[:100]}",
            )
        self._judge(certificate)
        return certificate

    def _judge(self, certificate: NodeCertificate) -> None:
        node = certificate.node
        if self._book.is_revoked(certificate):
            raise refused(
                Refusal.REVOKED,
                f"node {node} was deleted or replaced after this certificate was issued: join again",
            )
        if node not in self._sessions and len(self._sessions) >= self._settings.node_limit:
            raise AdapterFull(
                f"cloud.hub.node_limit: {self._settings.node_limit} nodes are connected already",
                details={"refusal": Refusal.NODE_LIMIT},
            )

    def _open(
        self, certificate: NodeCertificate, connection: Connection, asked: Upgrade
    ) -> NodeSession:
        now = asyncio.get_running_loop().time()
        session = NodeSession(
            certificate.node,
            certificate.serial,
            CloudLink(now, self._limits),
            connection,
            now,
            asked.headers.get(EDGE, "")[:128] or certificate.serial,
            is_ours=bool(asked.headers.get(EDGE)),
        )
        old = self._sessions.get(session.node)
        self._sessions[session.node] = session
        known = self.store_of(session.node) or self.told_store(session.node)
        if known and known != session.edge:
            self.joined(session.node)
        self._stores[session.node] = session.edge
        if old is not None:
            self._end(old, Ending.REPLACED)
        self._show_connected()
        log.info("node connected", extra={"node": session.node, "peer": asked.peer})
        for listener in self._listeners:
            listener.node_connected(session.node)
        return session

    def _show_connected(self) -> None:
        self._metrics.nodes_connected.set(len(self._sessions))
        self._metrics.nodes_connected_as_kubeedge.set(len(self._sessions))

    def _forget(self, session: NodeSession) -> None:
        if session.link.ending is None:
            session.link.close(Ending.GONE)
        why = session.link.ending or Ending.GONE
        self._metrics.cloudhub_ended.labels(why.name.lower()).inc()
        is_current = self._sessions.get(session.node) is session
        log.info(
            "node disconnected",
            extra={"node": session.node, "cause": why.value, "current": is_current},
        )
        if not is_current:
            return
        del self._sessions[session.node]
        self._show_connected()
        for listener in self._listeners:
            listener.node_disconnected(session.node)

    # --- reading --------------------------------------------------------------------------------

    def received(self, session: NodeSession, message: bytes) -> None:
        self._take(session, session.link.receive(message, asyncio.get_running_loop().time()))
        if self._pending[session.node] >= self._settings.pending:
            session.connection.pause()  # let the socket fill up

    def broken(self, session: NodeSession, error: Broken) -> None:
        log.info("link ended", extra={"node": session.node, "cause": error.message})
        self._end(session, Ending.GARBAGE)

    def _take(self, session: NodeSession, events: list[LinkEvent]) -> None:
        for event in events:
            match event:
                case Received(envelope, message):
                    self._dispatch(session, envelope, message)
                case Delivered(item):
                    self._metrics.cloudhub_delivery.labels("acknowledged").inc()
                    self._tell_delivered(session, item)
                case Unanswered(item):
                    self._metrics.cloudhub_delivery.labels("unanswered").inc()
                    log_about("object not acknowledged", session, item.envelope)
                case Unreadable(envelope, error):
                    self._count("up", "unreadable")
                    log_about("odd message", session, envelope, error.message)
                case Ended(why, detail):
                    log.info("link ended", extra={"node": session.node, "cause": detail})
                    self._end(session, why)
        if events:
            self._flush(session)

    def _tell_delivered(self, session: NodeSession, item: ObjectMessage) -> None:
        for listener in self._listeners:
            listener.delivered(session.node, item)

    def _dispatch(self, session: NodeSession, envelope: Envelope, message: object) -> None:
        self._count("up", type(message).__name__)
        match message:
            case EdgeFailed(_, text):
                log_about("edge could not store", session, envelope, text)
            case ControlAsked():
                self.send(session, answer_control(envelope, stamp()))
            case NotServed(what) | Ignored(what):
                log.debug("message not served", extra={"node": session.node, "cause": what})
            case _:
                self._hand_over(session, envelope, message)

    def _hand_over(self, session: NodeSession, envelope: Envelope, message: object) -> None:
        registered = self._handlers.get(type(message))
        if registered is None or self._lanes is None:
            log.debug(
                "message not served", extra={"node": session.node, "cause": type(message).__name__}
            )
            return
        handler, lane, kind = registered
        inbound = Inbound(session, envelope, self)
        self._pending[session.node] += 1

        async def work() -> None:
            try:
                await handler(inbound, message)
            except GatewayError as error:
                log_about("message refused", session, envelope, error.message)
            except Exception:  # top of a task: one odd message must not end the hub
                log.exception("message failed", extra={"node": session.node})
            finally:
                self._done(session.node)

        self._lanes.put((session.node, kind, lane(message)), work)

    def _done(self, node: str) -> None:
        """One message of a node is dealt with; its reading may go on."""
        self._pending[node] -= 1
        if not self._pending[node]:
            del self._pending[node]
        session = self._sessions.get(node)
        if session is not None and self._pending[node] < max(1, self._settings.pending // 2):
            session.connection.resume()

    # --- writing --------------------------------------------------------------------------------

    def _flush(self, session: NodeSession) -> None:
        """Write what waits, with what else comes in this turn of the loop."""
        if not session.is_flush_due and not session.link.closed:
            session.is_flush_due = True
            asyncio.get_running_loop().call_soon(self.writable, session)

    def writable(self, session: NodeSession) -> None:
        """Write what waits, unless the node must read first."""
        session.is_flush_due = False
        now = asyncio.get_running_loop().time()
        while session.connection.stalled_since is None and (frames := session.link.frames(now)):
            session.connection.send(frames)

    def _end(self, session: NodeSession, why: Ending) -> None:
        if session.link.ending is None:
            session.link.close(why)
        self.writable(session)  # what was said last, e.g. that the Node was deleted
        hang_up(session, why)

    def _count(self, direction: str, kind: str) -> None:
        counter = self._counters.get((direction, kind))
        if counter is None:
            counter = self._metrics.cloudhub_messages.labels(direction, kind)
            self._counters[direction, kind] = counter
        counter.inc()


def _not_told(_node: str) -> str:
    """Nobody knows of stores."""
    return ""
