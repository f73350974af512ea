"""EdgeHub: the edge's end of the cloud-edge link.

It keeps one WebSocket to CloudHub up (mTLS, keep-alive, jittered back-off in seconds), hands each message to
the room that it is for, and matches answers with who waits. It stores nothing: who must not lose a message
keeps it and sends it again (the spool, DeviceTwin's reports). When the link is down or its buffer is full,
`send` refuses.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import ssl
import sys
import termios
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from edge.clock import now_ms, stamp
from edge.upgrading import CHUNK, answered
from edge.websocket import ClientSession, Closed, Event, Opened, Refused, Text, TooLong
from gateway.config.edge import EdgeHub as HubSettings
from gateway.errors import GatewayError, Rejected, TooLarge, Undeliverable
from gateway.observe.metrics import Metrics
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.control import ControlAsked, answer_control
from gateway.wire.cloudedge.envelope import MAX_FRAME, Envelope, decode, encode
from gateway.wire.cloudedge.names import (
    CONNECTION_USE,
    DEFAULT_PROJECT,
    EDGE,
    NODE_ID,
    PROJECT_ID,
    REFUSAL,
    SPOOL,
    USE_MESSAGES,
    Refusal,
    events_path,
)
from gateway.wire.cloudedge.to_cloud import keepalive
from gateway.wire.cloudedge.to_edge import Answer, NotForUs, ToEdge, read_to_edge

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 30.0
GOODBYE_SECONDS = 1.0
ASK_SECONDS = 60.0
FIRST_RETRY = 0.5
SEND_LIMIT = 262_144
"""Bytes that may wait in the socket's buffer; above it `send` refuses until the peer reads.

Small, so that a keep-alive behind them still arrives in time over a slow line.
"""
STABLE_SECONDS = 10.0
"""A link that lived this long starts the pauses between tries anew: two machines that joined as one node,
and so take the link from each other, must not do it several times a second.
"""

T = TypeVar("T")


class NotConnected(Undeliverable):
    """The link to the cloud is down; the text is KubeEdge's."""

    code = "edge.notconnected"
    default_message = "not connected"


class LinkFull(Undeliverable):
    """The peer does not read fast enough; a moment later it may."""

    code = "edge.linkfull"
    default_message = "the link to the cloud is full"


class NoAnswer(Undeliverable):
    """The link is up, and the cloud did not answer in time."""

    code = "edge.noanswer"


class LinkLost(Undeliverable):
    """The link ended; says why."""

    code = "edge.linklost"
    default_message = "the link to the cloud was lost"


class JoinRefused(Rejected):
    """The cloud does not let this node in; the text says what helps."""

    status = 403
    code = "edge.refused"

    def __init__(self, message: str, named: str = "") -> None:
        super().__init__(message)
        self.named = named
        """The cloud's name for its reason, one of `Refusal`; empty where it gives none."""


_ANEW = "join again: twinspan edge join https://HOST:10002 --token TOKEN"
MENDS: Mapping[str, str] = {
    Refusal.REVOKED: f"its Node was deleted or replaced; {_ANEW}",
    Refusal.NO_CERTIFICATE: _ANEW,
    Refusal.NODE_MISMATCH: _ANEW,
    Refusal.NODE_LIMIT: "it has as many nodes as cloud.hub.node_limit allows",
}
"""What a refusal means and what helps; our edge asks again by itself in any case."""


@dataclass(frozen=True, slots=True)
class HubTarget:
    """Where CloudHub is and who we are towards it."""

    host: str
    port: int
    node: str
    context: ssl.SSLContext
    project: str = DEFAULT_PROJECT
    edge: str = ""
    """The store's uuid."""


class LinkListener(Protocol):
    """Told when the link comes and goes."""

    def link_up(self, *, has_spool: bool) -> None:
        """The link is open; `has_spool` says that spooled uploads are acknowledged."""

    def link_down(self) -> None: ...


class Sender(Protocol):
    """What rooms need of the hub."""

    def send(self, envelope: Envelope) -> None: ...
    async def ask(self, envelope: Envelope, seconds: float = ASK_SECONDS) -> Answer: ...


class EdgeHub:
    """The link as a module. `target` is asked at each try, so that a new certificate counts at once."""

    name = "edge.hub"

    def __init__(
        self, settings: HubSettings, target: Callable[[], HubTarget], metrics: Metrics
    ) -> None:
        self._settings = settings
        self._target = target
        self._metrics = metrics
        self._listeners: list[LinkListener] = []
        self._handlers: dict[type, Callable[[Envelope, Any], None]] = {}
        self._takers: list[Callable[[Answer], bool]] = []
        self._revoked_listeners: list[Callable[[], None]] = []
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._session: ClientSession | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._written = 0
        self._starts_over = False
        self.since = 0
        """When the link came or went, Unix ms; 0 before the first try."""
        self.last_error = ""
        """Why the link is down, for people."""

    # --- wiring, before `run` -----------------------------------------------------------------

    def on_link(self, listener: LinkListener) -> None:
        """Tell `listener` when the link comes and goes."""
        self._listeners.append(listener)

    def on(self, kind: type[T], handler: Callable[[Envelope, T], None]) -> None:
        """Hand messages of `kind` (see `to_edge.ToEdge`) to `handler`; it must not block or raise."""
        self._handlers[kind] = handler

    def on_answer(self, taker: Callable[[Answer], bool]) -> None:
        """Offer answers that no `ask` waits for to `taker`; True says that it was its."""
        self._takers.append(taker)

    def on_revoked(self, listener: Callable[[], None]) -> None:
        """Tell `listener` when the cloud says that this Node was deleted or replaced; at each try."""
        self._revoked_listeners.append(listener)

    # --- what rooms call ----------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        return self._session is not None

    @property
    def transport(self) -> asyncio.WriteTransport | None:
        """The link's connection, None while there is none."""
        return None if self._writer is None else self._writer.transport

    def send(self, envelope: Envelope) -> None:
        """Write a message to the link.

        Errors: NotConnected; LinkFull when the peer does not read fast enough; TooLarge for what no
                peer would take.
        """
        if self._session is None or self._writer is None:
            raise NotConnected
        if self._writer.transport.get_write_buffer_size() > SEND_LIMIT:
            raise LinkFull
        self._write(encode(envelope))

    def _write(self, frame: bytes) -> None:
        if len(frame) > MAX_FRAME:
            raise TooLarge(f"a message of {len(frame)} bytes; the link takes {MAX_FRAME}")
        if self._session is not None:
            self._session.send_text(frame)
            self._metrics.edge_link_messages.labels("out").inc()
            self._flush()

    def _beat(self) -> None:
        """Say that we live, also when much waits before it."""
        self._write(encode(keepalive(stamp())))

    async def ask(self, envelope: Envelope, seconds: float = ASK_SECONDS) -> Answer:
        """Send a message and wait for its answer.

        Errors: NotConnected; LinkLost when the link ends first; NoAnswer after `seconds`.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[envelope.msg_id] = future
        try:
            self.send(envelope)
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            raise NoAnswer(
                f"no answer to {envelope.route.operation} {envelope.route.resource} in {seconds:g} s"
            ) from None
        finally:
            self._waiting.pop(envelope.msg_id, None)

    # --- the link -----------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        ready()  # the edge works without a cloud
        self.since = now_ms()
        backoff = Backoff(FIRST_RETRY, self._settings.reconnect_cap)
        while True:
            try:
                await self._one_connection(backoff)
            except (OSError, GatewayError, TimeoutError, EOFError) as error:
                if not self._starts_over:
                    self._note_failure(error)
            if self._starts_over:
                self._starts_over = False
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next())

    def reconnect(self) -> None:
        """End the link and make it anew at once, e.g. with a new certificate."""
        if self._session is not None and self._writer is not None:
            self._starts_over = True
            self._session.close()
            self._flush()
            self._writer.close()

    def _note_failure(self, error: BaseException) -> None:
        text = str(error) or type(error).__name__
        level = logging.WARNING if text != self.last_error else logging.DEBUG
        self.last_error = text
        log.log(level, "no link to the cloud", extra={"cause": text})
        if isinstance(error, JoinRefused) and error.named == Refusal.REVOKED:
            for listener in self._revoked_listeners:
                listener()

    async def _one_connection(self, backoff: Backoff) -> None:
        target = self._target()
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            reader, writer = await asyncio.open_connection(
                target.host, target.port, ssl=target.context, limit=CHUNK
            )
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                session, opened, rest = await _upgrade(target, reader, writer)
            time = asyncio.get_running_loop().time
            started = time()
            self._up(session, writer, opened)
            try:
                await self._pump(session, reader, rest)
            finally:
                if time() - started > STABLE_SECONDS:
                    backoff.reset()
                self._down()
        finally:
            await _close(writer)

    def _up(self, session: ClientSession, writer: asyncio.StreamWriter, opened: Opened) -> None:
        self._session, self._writer, self.last_error = session, writer, ""
        self._written, self.since = 0, now_ms()
        self._metrics.edge_link_up.set(1)
        has_spool = opened.headers.get(SPOOL) == "1"
        log.info("linked to the cloud", extra={"spool": has_spool})
        self._beat()
        for listener in self._listeners:
            listener.link_up(has_spool=has_spool)

    def _down(self) -> None:
        if self._session is not None:
            self._session.close()
            self._flush()
        self._session = self._writer = None
        self.since = now_ms()
        self._metrics.edge_link_up.set(0)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LinkLost())
        for listener in self._listeners:
            listener.link_down()

    async def _pump(
        self, session: ClientSession, reader: asyncio.StreamReader, rest: list[Event]
    ) -> None:
        """Read until the link ends; between reads keep it alive and notice a silent peer."""
        time = asyncio.get_running_loop().time
        beat = self._settings.keepalive
        heard, next_beat, pile, read = time(), time() + beat, 0, 0
        self._take_all(rest)
        while not session.closed:
            try:
                async with asyncio.timeout_at(next_beat):
                    data = await reader.read(CHUNK)
            except TimeoutError:
                backlog = self._backlog()
                if pile and self._written - backlog > read:  # it reads a pile slowly: it lives
                    heard = time()
                if time() - heard > 2 * beat + 1:
                    raise LinkLost(f"the cloud was silent for {time() - heard:.0f} s") from None
                pile, read = backlog, self._written - backlog
                session.ping()
                self._beat()
                next_beat = time() + beat
                continue
            heard = time()
            self._take_all(session.receive(data))
            self._flush()
            if time() >= next_beat:  # a busy link must not starve the keep-alive
                self._beat()
                next_beat = time() + beat

    def _backlog(self) -> int:
        """Bytes that we wrote and the cloud's machine has not acknowledged: ours, and the kernel's."""
        if self._writer is None:
            return 0
        transport = self._writer.transport
        return transport.get_write_buffer_size() + unacknowledged(transport)

    def _flush(self) -> None:
        if self._session is not None and self._writer is not None:
            data = self._session.to_send()
            if data and not self._writer.is_closing():
                self._writer.write(data)
                self._written += len(data)

    def _take_all(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Text):
                self._take(event.data)
            elif isinstance(event, TooLong):
                self._metrics.edge_link_refused.inc()
                log.warning(
                    "a message from the cloud was dropped",
                    extra={"cause": f"it has more than {MAX_FRAME} bytes"},
                )
            elif isinstance(event, Closed):
                raise LinkLost(f"the cloud closed the link: {event.code} {event.reason}".rstrip())

    def _take(self, data: bytes) -> None:
        self._metrics.edge_link_messages.labels("in").inc()
        try:
            envelope = decode(data)
            message = read_to_edge(envelope)
        except GatewayError as error:
            self._metrics.edge_link_refused.inc()
            log.warning("a message from the cloud was dropped", extra={"cause": error.message})
            return
        try:
            self._dispatch(envelope, message)
        except GatewayError as error:
            self._metrics.edge_link_refused.inc()
            log.warning("a message from the cloud was refused", extra={"cause": error.message})
        except Exception:  # top of a message: an odd one must not end the link
            log.exception("a message from the cloud failed")

    def _dispatch(self, envelope: Envelope, message: ToEdge) -> None:
        if isinstance(message, Answer):
            self._answer(message)
            return
        if isinstance(message, ControlAsked):
            self.send(answer_control(envelope, stamp()))
            return
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(envelope, message)
            return
        why = message.why if isinstance(message, NotForUs) else type(message).__name__
        log.warning("a message from the cloud is not for this edge", extra={"cause": why})

    def _answer(self, answer: Answer) -> None:
        future = self._waiting.get(answer.parent_id)
        if future is not None:
            if not future.done():
                future.set_result(answer)
            return
        if not any(taker(answer) for taker in self._takers):
            log.debug("an answer that nobody waits for", extra={"resource": answer.resource})


def unacknowledged(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes the kernel keeps because the peer's has not acknowledged them.

    Every write to a dead link succeeds until the kernel's buffer is full, so that alone is no sign of life.
    """
    socket = transport.get_extra_info("socket")
    if socket is None:  # closed in between
        return 0
    try:
        answer = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:  # closed in between
        return 0
    return int.from_bytes(answer, sys.byteorder)


async def _upgrade(
    target: HubTarget, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[ClientSession, Opened, list[Event]]:
    session = ClientSession(
        f"{target.host}:{target.port}",
        events_path(target.project, target.node),
        {
            NODE_ID: target.node,
            PROJECT_ID: target.project,
            CONNECTION_USE: USE_MESSAGES,
            EDGE: target.edge,
        },
        key=os.urandom(16),
        mask=lambda: os.urandom(4),
        limit=MAX_FRAME,
    )
    return session, *await answered(session, reader, writer, _refusal)


def _refusal(event: Event) -> GatewayError:
    if not isinstance(event, Refused):
        return LinkLost("the cloud closed the connection instead of answering the upgrade")
    named = event.headers.get(REFUSAL, "")
    mend = MENDS.get(named, "")
    text = f"the cloud refused this node: {event.status} {named or event.reason}"
    return JoinRefused(f"{text}; {mend}" if mend else text, named)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(GOODBYE_SECONDS):
            await writer.wait_closed()
    writer.transport.abort()
