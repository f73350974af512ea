"""`/ws/2`: Ditto Protocol over WebSocket.

Frames for many sessions are built once and written to each transport. A session whose transport is full
queues up to a bound; above it the session is dropped, nobody waits for it. What a session asks for runs
beside its reading, at most `MAX_COMMANDS` at a time. Source: Ditto, WebSocket protocol binding.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from gateway.config.ditto import DittoWebSocket
from gateway.ditto.auth import Authentication, Caller
from gateway.ditto.fanout import Fanout, Interest
from gateway.ditto.frames import refusal, response, with_correlation
from gateway.ditto.messages_http import MessageRoutes
from gateway.ditto.request import ApiCall, command_timeout
from gateway.ditto.searches import Searches
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.subscriptions import Seen, Subscription
from gateway.errors import (
    BadRequest,
    Forbidden,
    GatewayError,
    NotBuilt,
    Unauthenticated,
    Undeliverable,
)
from gateway.model.policy import PolicyCommand
from gateway.model.thing import (
    Action,
    ThingCommand,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)
from gateway.observe.metrics import Metrics
from gateway.twin.ditto_errors import TooManyRequests
from gateway.twin.fields import FieldSelector
from gateway.wire.ditto.envelope import Envelope, decode
from gateway.wire.ditto.headers import DEFAULT_TIMEOUT, is_response_required, timeout_of
from gateway.wire.ditto.read import RetrieveThings, SearchSignal, Sender, Signal, signal_of
from gateway.wire.ditto.write import event_frame, many_response, message_frame

log = logging.getLogger(__name__)

KIND = "websocket"
HIGH_WATER = 65_536
"""Bytes in the transport's buffer above which frames wait in the session's own queue."""
MAX_COMMANDS = 100
"""Commands of one session under way; more wait unread."""
MAX_MESSAGES = 1_000
"""Messages of one session that wait for their answer; more are refused, so that answers can still be read."""
JWT_TOKEN = "JWT-TOKEN"  # noqa: S105  the name of a control message


def text_frame(payload: bytes) -> bytes:
    """A whole server text frame, the same for every session.

    Source: RFC 6455, section 5.2.
    """
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def seen_frame(seen: Seen) -> bytes:
    """The frame of a twin event."""
    return text_frame(event_frame(seen.event, seen.extra))


def heard_frame(message: ThingMessage) -> bytes:
    """The frame of a live message."""
    return text_frame(message_frame(message))


class Outbox:
    """What goes out to one session: at once while the transport takes it, else queued up to `limit`."""

    def __init__(
        self, session_id: str, request: web.Request, limit: int, drop: Callable[[], None]
    ) -> None:
        self.session_id = session_id
        self._transport = request.transport
        self._limit = limit
        self._drop = drop
        self._waiting: deque[bytes] = deque()
        self._room = asyncio.Event()

    def offer(self, frame: bytes) -> None:
        """Send a whole frame; never blocks."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not self._waiting and transport.get_write_buffer_size() < HIGH_WATER:
            transport.write(frame)
            return
        if len(self._waiting) >= self._limit:
            self._drop()
            transport.abort()
            return
        self._waiting.append(frame)
        self._room.set()

    async def drain(self) -> None:
        """Write what had to wait, as the transport empties; runs as long as the session."""
        transport = self._transport
        while transport is not None and not transport.is_closing():
            await self._room.wait()
            while self._waiting and transport.get_write_buffer_size() < HIGH_WATER:
                transport.write(self._waiting.popleft())
            if not self._waiting:
                self._room.clear()
            else:
                await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Control:
    """A control message: `START-SEND-EVENTS?filter=...`."""

    name: str
    parameters: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Control | None:
        """Read one, None for what is none.

        Errors: BadRequest for parameters that cannot be read.
        """
        if text[:1] in ("{", "["):
            return None
        name, _, query = text.strip().partition("?")
        if name not in _STREAMS and name != JWT_TOKEN:
            return None
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=20)
        except ValueError as error:
            raise BadRequest(f"The parameters of {name} could not be read.") from error
        return cls(name, dict(pairs))


_EVENTS, _MESSAGES = "EVENTS", "MESSAGES"
_KINDS = (_EVENTS, _MESSAGES, "LIVE-COMMANDS", "LIVE-EVENTS", "POLICY-ANNOUNCEMENTS")
_STREAMS = {f"{verb}-SEND-{kind}": (verb, kind) for kind in _KINDS for verb in ("START", "STOP")}


class Session:
    """One WebSocket."""

    def __init__(
        self,
        caller: Caller,
        socket: web.WebSocketResponse,
        outbox: Outbox,
        hub: WebSockets,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.id = outbox.session_id
        self._caller = caller
        self._socket = socket
        self._outbox = outbox
        self._hub = hub
        self._tasks = tasks
        self._streams: dict[str, Callable[[], None]] = {}
        self._slots = asyncio.Semaphore(MAX_COMMANDS)
        self._messages = asyncio.Semaphore(MAX_MESSAGES)
        self._searches = Searches(hub.things, self.send)
        self._expiry: asyncio.TimerHandle | None = None

    # --- life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until the socket closes."""
        self._watch_expiry()
        received = self._hub.metrics.stream_frames.labels(KIND, "in")
        try:
            async for frame in self._socket:
                received.inc()
                await self._on_frame(frame)
        finally:
            if self._expiry is not None:
                self._expiry.cancel()
            for end in self._streams.values():
                end()
            self._searches.close()

    def send(self, message: bytes) -> None:
        """Send text to this session alone."""
        self._outbox.offer(text_frame(message))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.create_task(work)

    async def close(self, error: GatewayError | None = None) -> None:
        """End the session, with a last error envelope where there is a reason."""
        if error is not None:
            self.send(refusal(error))
        with contextlib.suppress(ConnectionError, RuntimeError):
            await self._socket.close(code=WSCloseCode.GOING_AWAY)

    # --- expiry of tokens -------------------------------------------------------------------------

    def _watch_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        if self._caller.expires is None:
            return
        seconds = max(0.0, self._caller.expires - time.time())
        self._expiry = asyncio.get_running_loop().call_later(seconds, self._expired)

    def _expired(self) -> None:
        error = Unauthenticated(
            "The WebSocket session has expired: its token is not valid any more.",
            code="gateway:websocket.session.expired",
            description="Open a new session with a new token.",
        )
        self._start(self.close(error))

    async def _refresh(self, token: str) -> None:
        caller = await self._hub.auth.bearer(token)
        if caller.subjects != self._caller.subjects:
            refused = Forbidden(
                "The WebSocket session was closed: its authorization context changed.",
                code="gateway:websocket.session.closed",
            )
            await self.close(refused)
            return
        self._caller = caller
        self._watch_expiry()

    # --- frames -----------------------------------------------------------------------------------

    async def _on_frame(self, frame: WSMessage) -> None:
        if frame.type is not WSMsgType.TEXT:
            return
        asked: Envelope | None = None
        try:
            control = Control.parse(frame.data)
            if control is not None:
                await self._control(control)
                return
            asked = with_correlation(decode(frame.data))
            await self._on_signal(signal_of(asked, Sender(self._caller.subjects, self.id)), asked)
        except GatewayError as error:
            self.send(refusal(error, asked))
        except Exception:  # top of one request: the session goes on
            log.exception("frame failed", extra={"session": self.id})
            self.send(refusal(GatewayError(), asked))

    async def _control(self, control: Control) -> None:
        if control.name == JWT_TOKEN:
            await self._refresh(control.parameters.get("jwtToken", ""))
            return
        verb, kind = _STREAMS[control.name]
        if verb == "START":
            self._subscribe(kind, control.parameters)
        elif kind in self._streams:
            self._streams.pop(kind)()
        self._outbox.offer(text_frame(f"{control.name}:ACK".encode()))

    def _subscribe(self, kind: str, parameters: dict[str, str]) -> None:
        subscription = Subscription.parse(self._caller.subjects, parameters)
        fanout = self._hub.fanout
        end: Callable[[], None]
        if kind == _EVENTS:
            end = fanout.join_events(Interest(subscription, seen_frame), self._outbox)
        elif kind == _MESSAGES:
            end = fanout.join_messages(Interest(subscription, heard_frame), self._outbox)
        else:
            end = _nothing_to_end  # nobody can send these signals yet, so none can be missed
        before = self._streams.pop(kind, None)
        if before is not None and not self._is_same(before):
            before()
            if kind in (_EVENTS, _MESSAGES):
                end = self._rejoin(kind, subscription)
        self._streams[kind] = end

    @staticmethod
    def _is_same(end: Callable[[], None]) -> bool:
        return end is _nothing_to_end

    def _rejoin(self, kind: str, subscription: Subscription) -> Callable[[], None]:
        """Join again: ending a subscription to the same group would have taken the new one with it."""
        if kind == _EVENTS:
            return self._hub.fanout.join_events(Interest(subscription, seen_frame), self._outbox)
        return self._hub.fanout.join_messages(Interest(subscription, heard_frame), self._outbox)

    async def _on_signal(self, signal: Signal, asked: Envelope) -> None:
        match signal:
            case ThingMessageResponse():
                self._hub.things.respond(signal)
            case SearchSignal():
                self._searches.handle(signal, self._start)
            case ThingCommand():
                await self._slots.acquire()
                self._submit(signal, asked)
            case PolicyCommand() | RetrieveThings():
                await self._slots.acquire()
                self._start(self._answer(signal, asked, self._slots))
            case ThingMessage():
                if self._messages.locked():
                    raise TooManyRequests(f"More than {MAX_MESSAGES} messages wait for an answer.")
                await self._messages.acquire()
                self._start(self._answer(signal, asked, self._messages))
            case _:
                raise NotBuilt(f"'{asked.topic[:200]}' is not built.")

    # --- commands ---------------------------------------------------------------------------------

    def _submit(self, command: ThingCommand, asked: Envelope) -> None:
        """A command of a thing: in the order sent, without a task."""
        waits = is_response_required(command.headers) or command.action is Action.RETRIEVE
        once = _Once(self._slots.release)

        def done(result: ThingResult | GatewayError) -> None:
            if not once.take():
                return
            timer.cancel()
            if isinstance(result, GatewayError):
                self.send(refusal(result, asked))
            elif waits:
                self.send(response(command, result))

        try:
            seconds = timeout_of(command.headers, DEFAULT_TIMEOUT) or DEFAULT_TIMEOUT
        except GatewayError:
            self._slots.release()
            raise
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, lambda: done(command_timeout(seconds)))
        self._hub.things.submit(command, done)

    async def _answer(
        self,
        signal: PolicyCommand | ThingMessage | RetrieveThings,
        asked: Envelope,
        slots: asyncio.Semaphore,
    ) -> None:
        try:
            answer = await self._answer_to(signal)
            if answer is not None:
                self.send(answer)
        except GatewayError as error:
            self.send(refusal(error, asked))
        except Exception:  # top of one request: the session goes on
            log.exception("command failed", extra={"session": self.id})
            self.send(refusal(GatewayError(), asked))
        finally:
            slots.release()

    async def _answer_to(
        self, signal: PolicyCommand | ThingMessage | RetrieveThings
    ) -> bytes | None:
        if isinstance(signal, RetrieveThings):
            fields = FieldSelector.parse(signal.fields) if signal.fields else None
            things = await self._hub.things.retrieve_many(signal.thing_ids, signal.subjects, fields)
            return many_response(signal.topic, signal.headers, things)
        if isinstance(signal, PolicyCommand):
            result = await self._hub.policies.execute(signal)
            wanted = is_response_required(signal.headers) or signal.action is Action.RETRIEVE
            return response(signal, result) if wanted else None
        heard = await self._hub.messages.send(signal)
        return response(signal, heard) if signal.response_required else None


class _Once:
    """Lets one of several outcomes through, and gives the slot back with it."""

    __slots__ = ("_release",)

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def take(self) -> bool:
        if self._release is None:
            return False
        self._release()
        self._release = None
        return True


def _nothing_to_end() -> None:
    """The end of a subscription to signals that do not exist."""


class WebSockets:
    """All sessions."""

    def __init__(
        self,
        things: ThingsService,
        policies: PoliciesService,
        fanout: Fanout,
        auth: Authentication,
        settings: DittoWebSocket,
        metrics: Metrics,
        max_body: int,
    ) -> None:
        self.things = things
        self.policies = policies
        self.fanout = fanout
        self.auth = auth
        self.metrics = metrics
        self.messages = MessageRoutes(things, max_body)
        self._settings = settings
        self._open: dict[str, Session] = {}

    async def close(self) -> None:
        """End all sessions, and what waits for answers."""
        self.messages.close()
        for session in list(self._open.values()):
            await session.close()

    async def serve(self, call: ApiCall) -> web.StreamResponse:
        """Upgrade a request and run its session until it closes."""
        if len(self._open) >= self._settings.max_sessions:
            raise Undeliverable("Too many streaming sessions are open.", code="service.unavailable")
        socket = web.WebSocketResponse(
            heartbeat=self._settings.ping_seconds,
            max_msg_size=self._settings.max_frame,
            compress=False,
        )
        socket.headers["correlation-id"] = call.correlation_id
        if not socket.can_prepare(call.request).ok:
            raise BadRequest("Expected a WebSocket upgrade.", code="header.invalid")
        await socket.prepare(call.request)
        outbox = Outbox(
            str(uuid.uuid4()), call.request, self._settings.outbound_buffer, self._dropped
        )
        gauge = self.metrics.stream_sessions.labels(KIND)
        gauge.inc()
        try:
            await self._run(call.caller, socket, outbox)
        finally:
            gauge.dec()
        return socket

    async def _run(self, caller: Caller, socket: web.WebSocketResponse, outbox: Outbox) -> None:
        async with asyncio.TaskGroup() as tasks:
            session = Session(caller, socket, outbox, self, tasks)
            self._open[session.id] = session
            drain = tasks.create_task(outbox.drain())
            try:
                await session.run()
            finally:
                del self._open[session.id]
                drain.cancel()

    def _dropped(self) -> None:
        self.metrics.stream_dropped.labels(KIND).inc()
