"""Past events over the protocol: a session subscribes to an entity's stored events, asks for some, cancels.

A stream is a place in the history and nothing else: no event is read before it is asked for, and one that
nobody asks for a minute is forgotten. Events are judged by the entity's present policy. Source: Ditto
Protocol, streaming subscription.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.ditto.history import Span
from gateway.ditto.policy_filter import policy_filter
from gateway.ditto.service import ThingsService
from gateway.ditto.subscriptions import Subscription, touches
from gateway.errors import BadRequest, CommandTimeout, GatewayError, NotFound, QuotaExceeded
from gateway.model.json import JsonObject, Pointer
from gateway.model.policy import PolicyCommand, PolicyEvent
from gateway.model.thing import Action, Headers, ThingEvent
from gateway.twin.ditto_errors import ditto_error
from gateway.wire.ditto.headers import error_json
from gateway.wire.ditto.read import SUBSCRIBE_EVENTS, StreamSignal
from gateway.wire.ditto.write import (
    error_frame,
    event_frame,
    policy_event_frame,
    stream_frame,
)

log = logging.getLogger(__name__)

MAX_STREAMS: Final = 10
MAX_DEMAND: Final = 1_000
IDLE_SECONDS: Final = 60.0
PROTOCOL_ERROR: Final = "streaming.subscription.protocol.error"
_BOUNDS: Final = {
    "fromHistoricalRevision": "from-historical-revision",
    "toHistoricalRevision": "to-historical-revision",
    "fromHistoricalTimestamp": "from-historical-timestamp",
    "toHistoricalTimestamp": "to-historical-timestamp",
}

Start = Callable[[Coroutine[Any, Any, None]], None]
Send = Callable[[bytes, Headers], None]
"""Sends a frame; the headers are those of the signal that it answers."""


@dataclass(slots=True)
class _Stream:
    """One subscription: where it stands, and the events asked for but not sent."""

    id: str
    group: str
    entity_id: str
    headers: Headers
    frames: AsyncIterator[bytes]
    timer: asyncio.TimerHandle
    demand: int = 0
    is_running: bool = False


class Histories:
    """The streams of one session."""

    def __init__(self, things: ThingsService, send: Send) -> None:
        self._things = things
        self._send = send
        self._open: dict[str, _Stream] = {}
        self._opening = 0

    def close(self) -> None:
        """Forget all of them."""
        for stream in self._open.values():
            stream.timer.cancel()
        self._open.clear()

    def handle(self, signal: StreamSignal, start: Start) -> None:
        """Do what a signal asks.

        Shape:  what is wrong with a demand or a subscription ID is told as `failed`; a stream that gets a
                wrong demand has ended.
        Errors: QuotaExceeded above `MAX_STREAMS`.
        """
        if signal.action == SUBSCRIBE_EVENTS:
            if len(self._open) + self._opening >= MAX_STREAMS:
                raise QuotaExceeded(
                    f"A session has at most {MAX_STREAMS} streams at a time.",
                    code="too.many.requests",
                )
            start(self._subscribe(signal))
            self._opening += 1
            return
        try:
            self._steer(signal, start)
        except (NotFound, BadRequest) as error:
            self._refuse(signal, error)

    def _steer(self, signal: StreamSignal, start: Start) -> None:
        stream = self._find(signal)
        if signal.action == "cancel":
            self._forget(stream)
            return
        stream.demand += _demand(signal)
        if not stream.is_running:
            start(self._serve(stream))
            stream.is_running = True

    def _refuse(self, signal: StreamSignal, error: GatewayError) -> None:
        stream_id = str(signal.value.get("subscriptionId", ""))
        if stream_id in self._open:
            self._forget(self._open[stream_id])
        body = {"subscriptionId": stream_id, "error": {**error_json(error)}}
        frame = stream_frame("failed", signal.group, signal.entity_id, body, signal.headers)
        self._send(frame, signal.headers)

    # --- life of a stream -------------------------------------------------------------------------

    async def _subscribe(self, signal: StreamSignal) -> None:
        try:
            frames = await self._frames(signal)
        except GatewayError as error:
            self._send(_refusal(signal, error), signal.headers)
            return
        except Exception:  # top of one request: the session goes on
            log.exception("stream could not be opened", extra={"entity": signal.entity_id})
            self._send(_refusal(signal, GatewayError()), signal.headers)
            return
        finally:
            self._opening -= 1
        stream_id = str(uuid.uuid4())
        stream = _Stream(
            stream_id,
            signal.group,
            signal.entity_id,
            signal.headers,
            frames,
            self._timer(stream_id),
        )
        self._open[stream_id] = stream
        self._tell(stream, "created", {})

    def _find(self, signal: StreamSignal) -> _Stream:
        stream = self._open.get(str(signal.value.get("subscriptionId", "")))
        if stream is None:
            raise NotFound(
                "No stream with this subscription ID was found.",
                code="streaming.subscription.not.found",
                description="It may have ended, or belong to another session.",
            )
        return stream

    def _forget(self, stream: _Stream) -> None:
        stream.timer.cancel()
        self._open.pop(stream.id, None)

    def _timer(self, stream_id: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(IDLE_SECONDS, self._idle, stream_id)

    def _idle(self, stream_id: str) -> None:
        stream = self._open.get(stream_id)
        if stream is None:
            return
        if stream.is_running:
            stream.timer = self._timer(stream_id)
            return
        code = "streaming.subscription.timeout"
        self._fail(stream, CommandTimeout("The stream was idle for too long.", code=code))

    def _fail(self, stream: _Stream, error: GatewayError) -> None:
        self._forget(stream)
        self._tell(stream, "failed", {"error": {**error_json(error)}})

    def _tell(self, stream: _Stream, action: str, value: dict[str, Any]) -> None:
        body = {"subscriptionId": stream.id, **value}
        frame = stream_frame(action, stream.group, stream.entity_id, body, stream.headers)
        self._send(frame, stream.headers)

    async def _serve(self, stream: _Stream) -> None:
        """Send events while some are asked for."""
        try:
            while stream.demand and stream.id in self._open:
                frame = await anext(stream.frames, None)
                if stream.id not in self._open:
                    return
                if frame is None:
                    self._forget(stream)
                    self._tell(stream, "complete", {})
                    return
                stream.demand -= 1
                self._tell(stream, "next", {"item": msgspec.Raw(frame)})
        except GatewayError as error:
            self._fail(stream, error)
        except Exception:  # top of one request: the session goes on
            log.exception("stream failed", extra={"stream": stream.id})
            self._fail(stream, GatewayError())
        finally:
            stream.is_running = False
            if stream.id in self._open:
                stream.timer.cancel()
                stream.timer = self._timer(stream.id)

    # --- what is streamed -------------------------------------------------------------------------

    async def _frames(self, signal: StreamSignal) -> AsyncIterator[bytes]:
        """The events as they go out.

        Errors: 404 of the entity; BadRequest for a bad bound or filter.
        """
        if signal.group == "policies":
            return await self._policy_frames(signal)
        thing = await self._things.load(signal.entity_id)
        if thing is None or self._things.thing_json(thing, signal.subjects) is None:
            raise ditto_error("things:thing.notfound", id=signal.entity_id)
        span = Span.parse(_bounds(signal.value), thing.revision)
        subscription = Subscription.parse(signal.subjects, _filter(signal.value))

        async def frames() -> AsyncIterator[bytes]:
            async for event in span.events(self._things, thing.thing_id):
                view = self._things.view_by(event, thing, signal.subjects)
                if view is not None and _wanted(view, signal.path) and subscription.matches(view):
                    yield event_frame(view)

        return frames()

    async def _policy_frames(self, signal: StreamSignal) -> AsyncIterator[bytes]:
        policies, policy_id = self._things.policies, signal.entity_id
        asked = PolicyCommand(policy_id=policy_id, action=Action.RETRIEVE, subjects=signal.subjects)
        await policies.execute(asked)  # refuses whoever may not read the policy
        policy = await policies.load(policy_id)
        if policy is None:
            raise ditto_error("policies:policy.notfound", id=policy_id)
        asked_for = signal.value.get("filter")
        holds = policy_filter(str(asked_for)) if asked_for else None
        span = Span.parse(_bounds(signal.value), policy.revision)

        async def frames() -> AsyncIterator[bytes]:
            async for event in span.policy_events(policies, policy_id):
                view = policies.view(event, signal.subjects)
                if view is None or not _wanted(view, signal.path):
                    continue
                if holds is None or holds(view):
                    yield policy_event_frame(view)

        return frames()


def _wanted(event: ThingEvent | PolicyEvent, path: Pointer) -> bool:
    return touches(event.path, path)


def _bounds(value: JsonObject) -> dict[str, str]:
    given = ((name, value.get(member)) for member, name in _BOUNDS.items())
    return {name: str(bound) for name, bound in given if bound is not None}


def _filter(value: JsonObject) -> dict[str, str]:
    given = value.get("filter")
    return {"filter": str(given)} if given else {}


def _refusal(signal: StreamSignal, error: GatewayError) -> bytes:
    return error_frame(
        error, entity_id=signal.entity_id, headers=signal.headers, group=signal.group
    )


def _demand(signal: StreamSignal) -> int:
    demand = signal.value.get("demand")
    if isinstance(demand, bool) or not isinstance(demand, int) or not 0 < demand <= MAX_DEMAND:
        raise BadRequest(f"The demand is a number from 1 to {MAX_DEMAND}.", code=PROTOCOL_ERROR)
    return demand
