"""One listener for all streaming sessions: a frame is built once for all who see the same.

Sessions that ask the same with the same subjects share a group. A session never gets back what it caused
itself. Offering never waits: a session that cannot take a frame ends itself. Who declared acknowledgement
labels and was told of a signal that asks for them is noted, so that the others are not waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from gateway.ditto.service import ThingsService
from gateway.ditto.subscriptions import Heard, Seen, Subscription
from gateway.model.thing import Headers, ThingCommand, ThingEvent, ThingMessage

log = logging.getLogger(__name__)

S = TypeVar("S", Seen, Heard[ThingMessage], Heard[ThingCommand])


class Outlet(Protocol):
    """A session as the fan-out sees it."""

    @property
    def session_id(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The acknowledgement labels that it declared."""

    def offer(self, frame: bytes) -> None:
        """Take a frame to send; must not block and never raises."""


@dataclass(frozen=True, slots=True)
class Interest(Generic[S]):
    """What makes a group: the same subscription in the same form.

    Shape:  `render` is hashable, equal ones build equal frames; None says that nothing is to be sent.
    """

    subscription: Subscription
    render: Callable[[S], bytes | None]


@dataclass(slots=True)
class _Groups(Generic[S]):
    members: dict[Interest[S], dict[str, Outlet]] = field(default_factory=dict)

    def add(self, interest: Interest[S], outlet: Outlet) -> None:
        self.members.setdefault(interest, {})[outlet.session_id] = outlet

    def drop(self, interest: Interest[S], outlet: Outlet) -> None:
        group = self.members.get(interest, {})
        group.pop(outlet.session_id, None)
        if not group:
            self.members.pop(interest, None)


@dataclass(frozen=True, slots=True)
class _Signal:
    """What is told to outlets: of which thing, from whom, with which headers."""

    thing_id: str
    correlation_id: str
    originator: str | None
    headers: Headers


class Fanout:
    """Implements SignalListener and LiveListener for all sessions of the Ditto server."""

    def __init__(self, things: ThingsService) -> None:
        self._things = things
        self._events: _Groups[Seen] = _Groups()
        self._messages: _Groups[Heard[ThingMessage]] = _Groups()
        self._commands: _Groups[Heard[ThingCommand]] = _Groups()
        self._live_events: _Groups[Seen] = _Groups()
        self._ends: tuple[Callable[[], None], ...] = ()

    # --- joining ----------------------------------------------------------------------------------

    def join_events(self, interest: Interest[Seen], outlet: Outlet) -> Callable[[], None]:
        """Send an outlet the twin events of its interest; returns the way to end it."""
        return self._join(self._events, interest, outlet)

    def join_messages(
        self, interest: Interest[Heard[ThingMessage]], outlet: Outlet
    ) -> Callable[[], None]:
        """Send an outlet the messages of its interest; returns the way to end it."""
        return self._join(self._messages, interest, outlet)

    def join_commands(
        self, interest: Interest[Heard[ThingCommand]], outlet: Outlet
    ) -> Callable[[], None]:
        """Send an outlet the live commands of its interest; returns the way to end it."""
        return self._join(self._commands, interest, outlet)

    def join_live_events(self, interest: Interest[Seen], outlet: Outlet) -> Callable[[], None]:
        """Send an outlet the live events of its interest; returns the way to end it."""
        return self._join(self._live_events, interest, outlet)

    def _join(
        self, groups: _Groups[S], interest: Interest[S], outlet: Outlet
    ) -> Callable[[], None]:
        if not self._ends:
            self._ends = (self._things.listen(self), self._things.live.listen(self))
        groups.add(interest, outlet)
        return lambda: self._leave(groups, interest, outlet)

    def _leave(self, groups: _Groups[S], interest: Interest[S], outlet: Outlet) -> None:
        groups.drop(interest, outlet)
        everybody = (self._events, self._messages, self._commands, self._live_events)
        if any(group.members for group in everybody):
            return
        for end in self._ends:
            end()
        self._ends = ()

    # --- telling ----------------------------------------------------------------------------------

    def on_event(self, event: ThingEvent) -> None:
        self._tell(self._events, _of_event(event), lambda one: one.see(event, self._things))

    def on_message(self, message: ThingMessage) -> None:
        signal = _Signal(
            message.thing_id, message.correlation_id, message.originator, message.headers
        )
        self._tell(self._messages, signal, lambda one: one.hear(message, self._things))

    def on_live_command(self, command: ThingCommand) -> None:
        correlation_id = str(command.headers.get("correlation-id", ""))
        signal = _Signal(command.thing_id, correlation_id, command.originator, command.headers)
        self._tell(self._commands, signal, lambda one: one.hear(command, self._things))

    def on_live_event(self, event: ThingEvent) -> None:
        self._tell(self._live_events, _of_event(event), lambda one: one.see(event, self._things))

    def _tell(
        self, groups: _Groups[S], signal: _Signal, see: Callable[[Subscription], S | None]
    ) -> None:
        for interest, outlets in list(groups.members.items()):
            try:
                seen = see(interest.subscription)
                frame = None if seen is None else interest.render(seen)
            except Exception:  # one broken subscription must not take the others' signals
                log.exception("signal could not be rendered", extra={"thing": signal.thing_id})
                continue
            if frame is not None:
                self._offer(frame, outlets, signal)

    def _offer(self, frame: bytes, outlets: dict[str, Outlet], signal: _Signal) -> None:
        is_acknowledged = "requested-acks" in signal.headers
        for session_id, outlet in list(outlets.items()):
            if session_id != signal.originator:
                outlet.offer(frame)
            if is_acknowledged and outlet.labels:
                self._things.desk.reached(signal.thing_id, signal.correlation_id, outlet.labels)


def _of_event(event: ThingEvent) -> _Signal:
    correlation_id = str(event.headers.get("correlation-id", ""))
    return _Signal(event.thing_id, correlation_id, event.originator, event.headers)
