"""Server-sent events: twin events as parts of things, and messages.

Each stream has a bounded queue; a reader that falls behind is ended, not waited for. A comment goes out every
second while nothing else does, so that both ends notice a dead line. Source: Ditto, server sent events.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import msgspec
from aiohttp import hdrs, web

from gateway.config.ditto import DittoWebSocket
from gateway.ditto.auth import Caller
from gateway.ditto.endpoint import Endpoints, not_allowed
from gateway.ditto.fanout import Fanout, Interest
from gateway.ditto.history import HISTORICAL, Span
from gateway.ditto.messages_http import MessagePath
from gateway.ditto.request import EVENT_STREAM, ApiCall
from gateway.ditto.service import ThingsService
from gateway.ditto.subscriptions import (
    Heard,
    Seen,
    Subscription,
    overlaid,
    partial_thing,
)
from gateway.ditto.things_http import is_message_path, resource_path
from gateway.errors import GatewayError, NotFound, Unauthenticated, Undeliverable
from gateway.model.entity_id import check_entity_id, namespace_of
from gateway.model.json import JsonObject, Pointer, format_pointer
from gateway.model.thing import Direction, Thing, ThingMessage
from gateway.observe.metrics import Metrics
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, get
from gateway.twin.fields import THING_ROOTS, FieldSelector
from gateway.twin.metadata import METADATA, with_metadata
from gateway.wire.ditto.headers import error_json, is_json
from gateway.wire.ditto.write import event_headers, event_topic

log = logging.getLogger(__name__)

KIND = "sse"
HEARTBEAT_SECONDS = 1.0
HEARTBEAT = b":\n\n"
STALL_SECONDS = 60.0
_PARAMETERS = ("filter", "namespaces", "extraFields")
_SAID = FieldSelector.parse(METADATA)


@dataclass(frozen=True, slots=True)
class ThingFrames:
    """Builds the frames of a thing stream.

    Shape:  `path` narrows to a part of the thing; `fields` selects; equal texts build equal frames.
            `metadata` gives what the stream's reader may see of the metadata that an event changed.
    """

    fields_text: str | None = None
    path: Pointer = ()
    fields: FieldSelector | None = field(default=None, compare=False)
    metadata: Callable[[Seen], JsonObject] = field(default=lambda _seen: {}, compare=False)

    def __call__(self, seen: Seen) -> bytes | None:
        document = overlaid(seen.extra or {}, partial_thing(seen.event))
        if self.fields is not None:
            hidden = _hidden(seen, self.fields)
            if self.fields.takes(METADATA):
                hidden |= self.metadata(seen)
            document = self.fields.select({**document, **hidden})
        if self.path:
            part = get(document, self.path)
            return None if part is MISSING else frame(msgspec.json.encode(part))
        return frame(msgspec.json.encode(document)) if document else None


def _hidden(seen: Seen, fields: FieldSelector) -> JsonObject:
    """The `_` fields, made only where they are selected."""
    event, state = seen.event, seen.state
    hidden: JsonObject = {
        "_revision": event.revision,
        "_modified": event.timestamp,
        "_namespace": namespace_of(event.thing_id),
    }
    if state is not None:
        hidden["_created"] = state.created
    if fields.takes("_context"):
        context: JsonObject = {"topic": event_topic(event), "path": format_pointer(event.path)}
        if event.value is not None:
            context["value"] = event.value
        context["headers"] = event_headers(event)
        hidden["_context"] = context
    return hidden


@dataclass(frozen=True, slots=True)
class MessageFrames:
    """Builds the frames of a message stream: those of one box, feature and subject."""

    direction: Direction
    feature_id: str | None
    subject: str | None

    def __call__(self, heard: Heard[ThingMessage]) -> bytes | None:
        message = heard.signal
        if (message.direction, message.feature_id) != (self.direction, self.feature_id):
            return None
        if self.subject is not None and message.subject != self.subject:
            return None
        name = message.subject.encode().replace(b"\r", b"").replace(b"\n", b"")
        return b"event: " + name + b"\n" + frame(_payload(message))


def _payload(message: ThingMessage) -> bytes:
    """The text of a message: JSON without blanks, other text as it is."""
    if is_json(message.content_type):
        with contextlib.suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return msgspec.json.encode(msgspec.json.decode(message.payload))
    return message.payload.decode(errors="replace").encode()


def frame(data: bytes) -> bytes:
    """One event of the stream; each line of the data gets its prefix."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join(b"data:" + line + b"\n" for line in lines) + b"\n"


class Stream:
    """One reader: frames that wait for it, at most `limit`."""

    def __init__(self, limit: int, on_drop: Callable[[], None]) -> None:
        self.session_id = str(uuid.uuid4())
        self.labels: tuple[str, ...] = ()
        self._limit = limit
        self._on_drop = on_drop
        self._frames: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._is_last = False

    @property
    def depth(self) -> int:
        """How many frames wait."""
        return len(self._frames)

    def offer(self, frame: bytes) -> None:
        """Queue a frame; one above the limit ends the stream."""
        if self._ended or self._is_last:
            return
        if len(self._frames) >= self._limit:
            self._on_drop()
            self.end()
            return
        self._frames.append(frame)
        self._news.set()

    @property
    def has_ended(self) -> bool:
        return self._ended

    def end(self) -> None:
        self._ended = True
        self._news.set()

    def finish(self, frame: bytes) -> None:
        """End after what waits and a last frame."""
        if not self._ended:
            self._frames.append(frame)
            self._is_last = True
            self._news.set()

    async def next(self) -> bytes | None:
        """What to send next: all that waits, a heartbeat after a silent second, None at the end."""
        if not self._frames and not self._ended and not self._is_last:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                return HEARTBEAT
        if self._ended or (self._is_last and not self._frames):
            return None
        waiting = b"".join(self._frames)
        self._frames.clear()
        self._news.clear()
        return waiting


class EventStreams:
    """The handlers of event streams."""

    def __init__(
        self,
        things: ThingsService,
        fanout: Fanout,
        endpoints: Endpoints,
        settings: DittoWebSocket,
        metrics: Metrics,
    ) -> None:
        self._things = things
        self._fanout = fanout
        self._endpoints = endpoints
        self._settings = settings
        self._metrics = metrics
        self._open: dict[str, Stream] = {}
        metrics.own.watch_queue("sse_fullest", self._fullest, settings.outbound_buffer)

    def _fullest(self) -> int:
        """How many frames wait for the reader that is furthest behind."""
        return max((stream.depth for stream in self._open.values()), default=0)

    def close(self) -> None:
        """End all streams."""
        for stream in self._open.values():
            stream.end()

    async def answer(self, call: ApiCall, thing_id: str | None, rest: str) -> web.StreamResponse:
        """Stream the events of all things, of one, or of a part of one; or its messages."""
        if thing_id is not None and is_message_path(rest):
            return await self._messages(call, thing_id, rest)
        ids = _ids(call, thing_id)
        scope = call.caller.access.things
        subscription = Subscription.parse(call.subjects, _parameters(call), ids, scope)
        render = self._frames_of(call, resource_path(rest) if rest else ())
        if thing_id is not None:
            thing = await self._readable(call, thing_id)
            if any(name in call.request.query for name in HISTORICAL):
                return await self._past(call, thing, subscription, render)
        interest = Interest(subscription, render)
        return await self._serve(call, lambda out: self._fanout.join_events(interest, out))

    async def _past(
        self, call: ApiCall, thing: Thing, subscription: Subscription, render: ThingFrames
    ) -> web.StreamResponse:
        """Stream what is kept of a thing's past, judged by its present policy, then end."""
        span = Span.parse(call.request.query, thing.revision)

        async def frames() -> AsyncIterator[bytes]:
            async for event in span.events(self._things, thing.thing_id):
                view = self._things.view_by(event, thing, call.subjects)
                if view is not None and subscription.matches(view):
                    data = render(Seen(view, None, thing))
                    if data is not None:
                        yield data

        return await self.finite(call, frames())

    def _frames_of(self, call: ApiCall, path: Pointer) -> ThingFrames:
        text = call.query("fields")
        fields = FieldSelector.parse(text) if text is not None else None
        if fields is not None:
            fields.require_roots(THING_ROOTS)

        def metadata(seen: Seen) -> JsonObject:
            changed, thing = seen.event.metadata, seen.state
            if changed is None or thing is None:
                return {}
            said = replace(thing, document=with_metadata(thing.document, changed))
            return self._things.thing_json(said, call.subjects, _SAID) or {}

        return ThingFrames(text, path, fields, metadata)

    async def _messages(self, call: ApiCall, thing_id: str, rest: str) -> web.StreamResponse:
        if call.request.method != hdrs.METH_GET:
            raise not_allowed(call.request.method, ("GET", "POST"))
        whole_box = rest.endswith("/messages")
        path = MessagePath.parse(f"{rest}/any" if whole_box else rest)
        subscription = Subscription.parse(call.subjects, _parameters(call), frozenset((thing_id,)))
        render = MessageFrames(path.direction, path.feature_id, None if whole_box else path.subject)
        interest = Interest(subscription, render)
        return await self._serve(call, lambda out: self._fanout.join_messages(interest, out))

    async def finite(self, call: ApiCall, frames: AsyncIterator[bytes]) -> web.StreamResponse:
        """Stream what comes to an end by itself; each next frame is made when the last one was taken.

        A reader that takes nothing for `STALL_SECONDS` is cut.
        """
        if len(self._open) >= self._settings.max_sessions:
            raise Undeliverable("Too many streaming sessions are open.", code="service.unavailable")
        stream = Stream(0, lambda: None)
        self._open[stream.session_id] = stream
        gauge = self._metrics.stream_sessions.labels(KIND)
        gauge.inc()
        try:
            return await self._pass(call, frames, stream)
        finally:
            gauge.dec()
            del self._open[stream.session_id]

    async def _pass(
        self, call: ApiCall, frames: AsyncIterator[bytes], stream: Stream
    ) -> web.StreamResponse:
        response = await self._begin(call)
        sent = self._metrics.stream_frames.labels(KIND, "out")
        async for data in _told(frames):
            if stream.has_ended or call.caller.is_over():
                break
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await response.write(data)
            except TimeoutError:
                self._dropped(call.request)
                return response
            sent.inc()
        await response.write_eof()
        return response

    async def _readable(self, call: ApiCall, thing_id: str) -> Thing:
        thing = await self._things.load(thing_id)
        if thing is None or self._things.thing_json(thing, call.subjects) is None:
            raise ditto_error("things:thing.notfound", id=thing_id)
        return thing

    async def _serve(
        self, call: ApiCall, join: Callable[[Stream], Callable[[], None]]
    ) -> web.StreamResponse:
        if len(self._open) >= self._settings.max_sessions:
            raise Undeliverable("Too many streaming sessions are open.", code="service.unavailable")
        stream = Stream(self._settings.outbound_buffer, lambda: self._dropped(call.request))
        expiry = _expire(stream, call.caller)
        leave = join(stream)
        self._open[stream.session_id] = stream
        gauge = self._metrics.stream_sessions.labels(KIND)
        gauge.inc()
        try:
            return await self._send(call, stream)
        finally:
            gauge.dec()
            leave()
            if expiry is not None:
                expiry.cancel()
            del self._open[stream.session_id]

    def _dropped(self, request: web.Request) -> None:
        """A reader that fell behind may be stuck in a write: cut its line."""
        self._metrics.stream_dropped.labels(KIND).inc()
        if request.transport is not None:
            request.transport.abort()

    async def _send(self, call: ApiCall, stream: Stream) -> web.StreamResponse:
        response = await self._begin(call)
        frames = self._metrics.stream_frames.labels(KIND, "out")
        while (data := await stream.next()) is not None and not call.caller.is_over():
            await response.write(data)
            frames.inc()
        await response.write_eof()
        return response

    async def _begin(self, call: ApiCall) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: EVENT_STREAM,
                hdrs.CACHE_CONTROL: "no-cache",
                "correlation-id": call.correlation_id,
                "X-Accel-Buffering": "no",
            }
        )
        self._endpoints.allow_origin(call.request, response)
        await response.prepare(call.request)
        await response.write(HEARTBEAT)
        return response


def _ids(call: ApiCall, thing_id: str | None) -> frozenset[str]:
    listed = (call.query("ids") or "").split(",")
    asked = frozenset(check_entity_id(one, "things:id.invalid") for one in listed if one)
    if thing_id is None:
        return asked
    if asked and thing_id not in asked:
        raise NotFound(f"The Thing '{thing_id}' is not among the 'ids'.")
    return frozenset((thing_id,))


def _parameters(call: ApiCall) -> dict[str, str]:
    return {name: value for name in _PARAMETERS if (value := call.query(name))}


async def _told(frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The frames; what goes wrong meanwhile is told in a last one."""
    try:
        async for one in frames:
            yield one
    except GatewayError as error:
        yield error_frame(error)
    except Exception:  # top of one request: the reader is told and the server goes on
        log.exception("event stream failed")
        yield error_frame(GatewayError())


def error_frame(error: GatewayError) -> bytes:
    """An error in a stream that has begun."""
    return frame(msgspec.json.encode(error_json(error)))


def _expire(stream: Stream, caller: Caller) -> asyncio.TimerHandle | None:
    """End a stream when its caller's token does; None where there is no end."""
    if caller.expires is None:
        return None
    error = Unauthenticated(
        "The stream has ended: its token is not valid any more.",
        code="gateway:websocket.session.expired",
        description="Open a new stream with a new token.",
    )
    seconds = max(0.0, caller.expires - time.time())
    return asyncio.get_running_loop().call_later(seconds, stream.finish, error_frame(error))
