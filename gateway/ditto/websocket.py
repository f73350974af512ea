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
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from gateway.config.ditto import DittoWebSocket
from gateway.ditto.acknowledgements import Requested, wanted_of
from gateway.ditto.asking import Asking
from gateway.ditto.auth import Authentication, Caller
from gateway.ditto.control import ANNOUNCEMENTS, JWT_TOKEN, STREAMS, Control, join
from gateway.ditto.dispatch import Outcome
from gateway.ditto.fanout import Fanout
from gateway.ditto.frames import CORRELATION, refusal, response, wants_refusal, with_correlation
from gateway.ditto.histories import Histories
from gateway.ditto.messages_http import MessageRoutes
from gateway.ditto.namespace_access import admitted
from gateway.ditto.outbox import Outbox, text_frame
from gateway.ditto.permissions import PermissionChecks
from gateway.ditto.request import ApiCall
from gateway.ditto.searches import Searches
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.session_rate import Rate
from gateway.ditto.subscriptions import Subscription
from gateway.errors import BadRequest, Forbidden, GatewayError, Unauthenticated, Undeliverable
from gateway.model.entity_id import namespace_of
from gateway.model.policy import PolicyCommand
from gateway.model.thing import (
    LIVE,
    Action,
    Headers,
    HeaderValue,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
)
from gateway.observe.metrics import Metrics
from gateway.twin.ditto_errors import TooManyRequests, ditto_error
from gateway.twin.fields import FieldSelector
from gateway.wire.ditto.announcements import Announcement
from gateway.wire.ditto.envelope import Envelope, decode
from gateway.wire.ditto.headers import is_response_required
from gateway.wire.ditto.read import (
    Acknowledgement,
    CheckPermissions,
    Response,
    RetrieveThings,
    SearchSignal,
    Sender,
    Signal,
    StreamSignal,
    signal_of,
)

log = logging.getLogger(__name__)

KIND = "websocket"
MAX_COMMANDS = 100
"""Commands of one session under way; more wait unread."""
MAX_WAITS = 1_000
"""Signals of one session that wait for others; more are refused, so that answers can still be read."""


class Session:
    """One WebSocket.

    Shape:  `correlation_id` is that of the upgrade; what ends the session names it.
    """

    def __init__(
        self,
        caller: Caller,
        correlation_id: str,
        socket: web.WebSocketResponse,
        outbox: Outbox,
        hub: WebSockets,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.id = outbox.session_id
        self._caller = caller
        self._access = caller.access
        self._correlation_id = correlation_id
        self._rate = Rate(hub.settings.max_rate)
        self._socket = socket
        self._outbox = outbox
        self._hub = hub
        self._tasks = tasks
        self._streams: dict[str, Callable[[], None]] = {}
        self._slots = asyncio.Semaphore(MAX_COMMANDS)
        self._waits = asyncio.Semaphore(MAX_WAITS)
        self._searches = Searches(hub.things, self._told, self._access.things)
        self._histories = Histories(hub.things, self._told)
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def depth(self) -> int:
        """How many frames wait for the socket."""
        return self._outbox.depth

    # --- life -----------------------------------------------------------------------------------

    async def run(self, declared: HeaderValue | None) -> None:
        """Declare acknowledgement labels, then read until the socket closes."""
        labels = tuple(map(str, declared)) if isinstance(declared, list) else ()
        try:
            give_back = self._hub.things.desk.declare(labels, self.id)
        except GatewayError as error:
            await self.close(error)
            return
        self._outbox.labels = labels
        try:
            await self._read()
        finally:
            give_back()

    async def _read(self) -> None:
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
            self._histories.close()

    def send(self, message: bytes) -> None:
        """Send text to this session alone."""
        self._outbox.offer(text_frame(message))

    def _told(self, message: bytes, _headers: Headers) -> None:
        self.send(message)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.create_task(work)

    async def close(self, error: GatewayError | None = None) -> None:
        """End the session: with 1008 after an error envelope, or with 1001 because the server stops."""
        code = WSCloseCode.GOING_AWAY
        if error is not None:
            code = WSCloseCode.POLICY_VIOLATION
            self.send(refusal(error, headers={CORRELATION: self._correlation_id}))
        with contextlib.suppress(ConnectionError, RuntimeError):
            await self._socket.close(code=code)

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
        headers: Headers | None = None
        is_allowed = self._rate.allows(time.monotonic())
        try:
            control = Control.parse(frame.data)
            if control is not None:
                headers = control.headers
                self._check_rate(is_allowed)
                await self._control(control)
                return
            asked = with_correlation(decode(frame.data))
            self._check_rate(is_allowed)
            signal = signal_of(asked, Sender(self._caller.subjects, self.id))
            await self._on_signal(admitted(signal, self._access), asked)
        except GatewayError as error:
            if asked is None or wants_refusal(asked):
                self.send(refusal(error, asked, headers))
        except Exception:  # top of one request: the session goes on
            log.exception("frame failed", extra={"session": self.id})
            self.send(refusal(GatewayError(), asked))

    def _check_rate(self, is_allowed: bool) -> None:
        if not is_allowed:
            raise TooManyRequests(
                f"More than {self._hub.settings.max_rate:g} messages came in a second."
            )

    async def _control(self, control: Control) -> None:
        if control.name == JWT_TOKEN:
            await self._refresh(control.parameters.get("jwtToken", ""))
            return
        verb, kind = STREAMS[control.name]
        if verb == "START":
            self._subscribe(kind, control.parameters)
        elif kind in self._streams:
            self._streams.pop(kind)()
        self._outbox.offer(text_frame(f"{control.name}:ACK".encode()))

    def _subscribe(self, kind: str, parameters: dict[str, str]) -> None:
        """Nothing is sent in between: both happen in one step of the loop."""
        scope = self._access.things
        subscription = Subscription.parse(self._caller.subjects, parameters, scope=scope)
        before = self._streams.pop(kind, None)
        if before is not None:
            before()
        if kind == ANNOUNCEMENTS:
            self._streams[kind] = self._hub.policies.announcements.join(
                subscription.subjects, subscription.namespaces, self._announced
            )
            return
        self._streams[kind] = join(self._hub.fanout, kind, subscription, self._outbox)

    def _announced(self, sent: Announcement) -> None:
        if self._access.policies.admits(namespace_of(sent.entity_id)):
            self.send(sent.frame)

    async def _on_signal(self, signal: Signal, asked: Envelope) -> None:
        match signal:
            case ThingMessageResponse():
                self._hub.things.respond(signal)
            case Response():
                self._hub.things.live.respond(signal)
            case Acknowledgement(group="policies"):
                self._acknowledge(signal)
            case Acknowledgement():
                self._hub.things.desk.acknowledge(signal, self.id)
            case SearchSignal():
                self._searches.handle(signal, self._start)
            case StreamSignal():
                self._histories.handle(signal, self._start)
            case ThingCommand() | ThingMessage():
                await self._ask(signal, asked)
            case PolicyCommand() | RetrieveThings() | CheckPermissions():
                await self._slots.acquire()
                self._start(self._answer(signal, asked))
            case ThingEvent():
                self._emit(signal, asked)

    def _acknowledge(self, issued: Acknowledgement) -> None:
        """An acknowledgement of a policy's announcement."""
        self._hub.things.desk.check_declared(issued.label, self.id)
        self._hub.policies.announcements.acknowledge(
            issued.thing_id, issued.correlation_id, issued.label, issued.status
        )

    def _emit(self, event: ThingEvent, asked: Envelope) -> None:
        if event.channel != LIVE:
            raise BadRequest(
                "Events of the twin are not sent by clients.", code="protocoladapter:unknown.signal"
            )

        def sent(answer: ThingEvent | GatewayError) -> None:
            if isinstance(answer, GatewayError):
                self.send(refusal(answer, asked))

        self._hub.things.live.event(event, sent)

    # --- commands and messages --------------------------------------------------------------------

    async def _ask(self, signal: ThingCommand | ThingMessage, asked: Envelope) -> None:
        """In the order sent, without a task."""
        wanted, found = None, self._hub.things.dispatcher.at_once(signal)
        if found is not None:
            self.send(response(signal, found))
            return
        if isinstance(signal, ThingMessage) or signal.action is not Action.RETRIEVE:
            wanted = wanted_of(signal)
            if wanted.labels and not wanted.response_required:
                hint = "Acknowledgements are told in a response."
                name, value = "response-required", "false"
                raise ditto_error("header.invalid", header=name, value=value, hint=hint)
        slots = await self._slot(signal, wanted)

        def told(outcome: Outcome) -> None:
            slots.release()
            if isinstance(outcome, GatewayError):
                self.send(refusal(outcome, asked))
            elif wanted is None or wanted.response_required:
                self.send(response(signal, outcome))

        self._hub.things.dispatcher.run(signal, told, wanted)

    async def _slot(
        self, signal: ThingCommand | ThingMessage, wanted: Requested | None
    ) -> asyncio.Semaphore:
        """What waits for others must not keep this session from reading their answers."""
        is_local = isinstance(signal, ThingCommand) and not _asks_others(signal, wanted)
        slots = self._slots if is_local else self._waits
        if slots is self._waits and slots.locked():
            raise TooManyRequests(f"More than {MAX_WAITS} signals wait for an answer.")
        await slots.acquire()
        return slots

    async def _answer(
        self,
        signal: PolicyCommand | RetrieveThings | CheckPermissions,
        asked: Envelope,
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
            self._slots.release()

    async def _answer_to(
        self, signal: PolicyCommand | RetrieveThings | CheckPermissions
    ) -> bytes | None:
        if isinstance(signal, RetrieveThings):
            fields = FieldSelector.parse(signal.fields) if signal.fields else None
            things = await self._hub.things.retrieve_many(signal.thing_ids, signal.subjects, fields)
            return response(signal, things)
        if isinstance(signal, CheckPermissions):
            checks = self._hub.permissions
            return response(
                signal, await checks.answers(signal.questions, signal.subjects, self._access)
            )
        result = await self._hub.policies.execute(signal)
        wanted = is_response_required(signal.headers) or signal.action is Action.RETRIEVE
        return response(signal, result) if wanted else None


def _asks_others(command: ThingCommand, wanted: Requested | None) -> bool:
    return (
        command.channel == LIVE
        or "live-channel-condition" in command.headers
        or (wanted is not None and not wanted.is_plain)
    )


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
        self.permissions = PermissionChecks(things, policies)
        self.asking = Asking(things.dispatcher)
        self.messages = MessageRoutes(self.asking, max_body)
        self.settings = settings
        self._open: dict[str, Session] = {}
        metrics.own.watch_queue("websocket_fullest", self._fullest, settings.outbound_buffer)

    def _fullest(self) -> int:
        """How many frames wait for the session that is furthest behind."""
        return max((session.depth for session in self._open.values()), default=0)

    async def close(self) -> None:
        """End all sessions, and what waits for answers."""
        self.asking.close()
        for session in list(self._open.values()):
            await session.close()

    async def serve(self, call: ApiCall) -> web.StreamResponse:
        """Upgrade a request and run its session until it closes."""
        if len(self._open) >= self.settings.max_sessions:
            raise Undeliverable("Too many streaming sessions are open.", code="service.unavailable")
        socket = web.WebSocketResponse(
            heartbeat=self.settings.ping_seconds,
            max_msg_size=self.settings.max_frame,
            compress=False,
        )
        socket.headers["correlation-id"] = call.correlation_id
        if not socket.can_prepare(call.request).ok:
            raise BadRequest("Expected a WebSocket upgrade.", code="header.invalid")
        await socket.prepare(call.request)
        outbox = Outbox(
            str(uuid.uuid4()), call.request, self.settings.outbound_buffer, self._dropped
        )
        gauge = self.metrics.stream_sessions.labels(KIND)
        gauge.inc()
        try:
            await self._run(call, socket, outbox)
        finally:
            gauge.dec()
        return socket

    async def _run(self, call: ApiCall, socket: web.WebSocketResponse, outbox: Outbox) -> None:
        async with asyncio.TaskGroup() as tasks:
            session = Session(call.caller, call.correlation_id, socket, outbox, self, tasks)
            self._open[session.id] = session
            drain = tasks.create_task(outbox.drain())
            try:
                await session.run(call.headers.get("declared-acks"))
            finally:
                del self._open[session.id]
                drain.cancel()
                outbox.close()

    def _dropped(self) -> None:
        self.metrics.stream_dropped.labels(KIND).inc()
