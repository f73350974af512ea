"""The live channel: messages, live commands and live events on their way from sender to receivers.

Each is judged against its thing's policy and the twin's present state, in turn with the thing's commands;
then every listener is told. Nothing of it is stored. Source: Ditto, protocol specification, live channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from gateway.ditto.clock import Clock, text_of
from gateway.ditto.desk import Desk
from gateway.ditto.thing_cache import Look, ThingCache, ThingEntry
from gateway.ditto.wot import WotHook
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import JsonObject
from gateway.model.ports import SignalListener
from gateway.model.thing import (
    Action,
    Thing,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
)
from gateway.twin.authorization import (
    authorize,
    authorize_message,
    may_receive,
    may_receive_command,
)
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, Maybe
from gateway.twin.limits import Limits
from gateway.twin.policy import WRITE, Permissions
from gateway.twin.resources import part_of
from gateway.twin.showing import Context, check_condition, condition_holds
from gateway.wire.ditto.read import Response

MAX_WAITING: Final = 1_000
"""Signals that wait for one thing; more are refused with 429."""

S = TypeVar("S", ThingMessage, ThingCommand, ThingEvent)
Sent: TypeAlias = Callable[["S | GatewayError"], None]

PermissionsOf: TypeAlias = Callable[[Thing, tuple[str, ...], str], "Permissions | None"]


class LiveListener(Protocol):
    """Gets live commands and events, synchronously; must not block and never raises."""

    def on_live_command(self, command: ThingCommand) -> None: ...

    def on_live_event(self, event: ThingEvent) -> None: ...


class LiveChannel:
    """Judges and delivers. `on_message` listeners are those of the things service."""

    def __init__(
        self,
        things: ThingCache,
        desk: Desk,
        permissions_of: PermissionsOf,
        known_permissions_of: Callable[[Thing, tuple[str, ...]], Permissions],
        limits: Limits,
        clock: Clock,
        wot: WotHook | None = None,
    ) -> None:
        self._wot = wot
        self._things = things
        self._desk = desk
        self._permissions_of = permissions_of
        self._known = known_permissions_of
        self._limits = limits
        self._clock = clock
        self._listeners: tuple[LiveListener, ...] = ()
        self.message_listeners: tuple[SignalListener, ...] = ()

    def listen(self, listener: LiveListener) -> Callable[[], None]:
        """Add a listener of live commands and events; returns the way to end it."""
        self._listeners = (*self._listeners, listener)

        def end() -> None:
            self._listeners = tuple(one for one in self._listeners if one is not listener)

        return end

    # --- sending ----------------------------------------------------------------------------------

    def message(self, message: ThingMessage, sent: Sent[ThingMessage]) -> None:
        """Deliver a message; `sent` once it is with its receivers, or refused.

        Errors (through `sent`): `things:thing.notfound` 404, `messages:send.notallowed` 403,
                `messages:payload.toolarge` 413.
        """
        size, limit = len(message.payload), self._limits.message_bytes
        if size > limit:
            sent(ditto_error("messages:payload.toolarge", size=size, limit=limit))
            return

        def judge(entry: ThingEntry) -> ThingMessage:
            thing, context = self._case(entry, message.subjects)
            authorize_message(message, context.permissions)
            _check_condition(message, thing, context)
            if self._wot is not None:
                self._wot.message(message, thing)
            return message

        def tell(judged: ThingMessage) -> None:
            for listener in self.message_listeners:
                listener.on_message(judged)
            self._desk.published(judged.thing_id, judged.correlation_id)

        self._pass(message.thing_id, judge, tell, sent)

    def command(self, command: ThingCommand, sent: Sent[ThingCommand]) -> None:
        """Deliver a live command, likewise.

        Errors (through `sent`): those of the same command on the twin: 404, 403, 412.
        """

        def judge(entry: ThingEntry) -> ThingCommand:
            if command.action in (Action.PATCH, Action.MIGRATE):
                raise BadRequest(
                    f"There is no '{command.action}' on the live channel.",
                    code="protocoladapter:unknown.command",
                )
            thing, context = self._case(entry, command.subjects)
            authorize(command, part_of(command.path), context.permissions)
            _check_condition(command, thing, context)
            return command

        def tell(judged: ThingCommand) -> None:
            for listener in self._listeners:
                listener.on_live_command(judged)
            self._desk.published(judged.thing_id, str(judged.headers.get("correlation-id", "")))

        self._pass(command.thing_id, judge, tell, sent)

    def event(self, event: ThingEvent, sent: Sent[ThingEvent]) -> None:
        """Deliver a live event, likewise.

        Errors (through `sent`): `things:thing.notfound` 404, `things:event.notallowed` 403.
        """

        def judge(entry: ThingEntry) -> ThingEvent:
            thing, context = self._case(entry, event.subjects)
            if not context.permissions.unrestricted("thing", event.path, WRITE):
                raise ditto_error("things:event.notallowed", id=event.thing_id, path=event.path)
            return replace(event, after=thing)

        def tell(judged: ThingEvent) -> None:
            for listener in self._listeners:
                listener.on_live_event(judged)

        self._pass(event.thing_id, judge, tell, sent)

    def choose(self, command: ThingCommand, chosen: Callable[[bool | GatewayError], None]) -> None:
        """Whether a query goes to the device: its `live-channel-condition`, judged on the twin.

        Errors (through `chosen`): 404; 400 `things:condition.invalid`.
        """

        def judge(entry: ThingEntry) -> bool:
            thing, context = self._case(entry, command.subjects)
            authorize(command, part_of(command.path), context.permissions)
            return condition_holds(thing, str(command.headers["live-channel-condition"]), context)

        self.look(command.thing_id, judge, chosen)

    def _pass(
        self,
        thing_id: str,
        judge: Callable[[ThingEntry], S],
        tell: Callable[[S], None],
        sent: Sent[S],
    ) -> None:
        def judged(answer: S | GatewayError) -> None:
            if not isinstance(answer, GatewayError):
                tell(answer)
            sent(answer)

        self.look(thing_id, judge, judged)

    def look(
        self, thing_id: str, judge: Callable[[ThingEntry], object], done: Callable[[Any], None]
    ) -> None:
        """Judge a thing's newest state, in turn with its commands; `judge` may raise Wait.

        Errors (through `done`): what `judge` raised; 429 `things:thing.toomanymodifyingrequests`.
        """
        lane = self._things.entry(thing_id).lane
        if lane.depth >= MAX_WAITING:
            done(ditto_error("things:thing.toomanymodifyingrequests", id=thing_id))
            return
        lane.push(Look(judge), done)

    def _case(self, entry: ThingEntry, subjects: tuple[str, ...]) -> tuple[Thing, Context]:
        thing, moment = entry.thing, self._clock()
        now = text_of(moment)
        permissions = self._permissions_of(thing, subjects, now) if thing else None
        if thing is None or permissions is None:
            raise ditto_error("things:thing.notfound", id=entry.thing_id)
        return thing, Context(now, moment, thing.revision, permissions, self._limits)

    # --- answers ----------------------------------------------------------------------------------

    def judged(
        self, message: ThingMessage, answer: ThingMessageResponse
    ) -> ThingMessageResponse | GatewayError:
        """A device's answer as its thing's model lets it pass, else the error in its place."""
        try:
            if self._wot is not None:
                self._wot.response(message, answer, self._things.known(message.thing_id))
        except GatewayError as error:
            return error
        return answer

    def respond(self, response: Response) -> bool:
        """Hand an answer, or an error in its place, to who waits for it; False when nobody does."""
        correlation_id = str(response.headers.get("correlation-id", ""))
        return self._desk.answer(response.topic.entity_id, correlation_id, response)

    # --- receiving --------------------------------------------------------------------------------

    def can_receive(self, signal: ThingMessage | ThingCommand, subjects: tuple[str, ...]) -> bool:
        """True when these subjects may see a signal. Its thing is in memory: it was just judged."""
        thing = self._things.known(signal.thing_id)
        if thing is None:
            return False
        permissions = self._known(thing, subjects)
        if isinstance(signal, ThingMessage):
            return may_receive(signal, permissions)
        return may_receive_command(signal.path, permissions)

    def twin_of(self, signal: ThingMessage | ThingCommand) -> Thing | None:
        """The twin as it is now, for extra fields."""
        return self._things.known(signal.thing_id)

    def readable(self, command: ThingCommand, value: Maybe) -> Maybe:
        """What a device answered to a query, reduced to what its sender may read."""
        thing = self._things.known(command.thing_id)
        if thing is None or value is MISSING:
            return MISSING
        permissions = self._known(thing, command.subjects)
        seen = permissions.view(command.path, value)
        if command.path or not isinstance(value, dict):
            return seen
        kept: JsonObject = {"thingId": command.thing_id}
        return {**kept, **seen} if isinstance(seen, dict) else kept


def _check_condition(signal: ThingMessage | ThingCommand, thing: Thing, context: Context) -> None:
    condition = signal.headers.get("condition")
    if condition is not None:
        check_condition(thing, str(condition), context)
