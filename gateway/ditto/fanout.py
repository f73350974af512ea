"""One listener for all streaming sessions: a frame is built once for all who see the same.

Sessions that ask the same with the same subjects share a group. A session never gets back what it caused
itself. Offering never waits: a session that cannot take a frame ends itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from gateway.ditto.service import ThingsService
from gateway.ditto.subscriptions import Seen, Subscription
from gateway.model.thing import ThingEvent, ThingMessage

log = logging.getLogger(__name__)

S = TypeVar("S", Seen, ThingMessage)


class Outlet(Protocol):
    """A session as the fan-out sees it."""

    @property
    def session_id(self) -> str: ...

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


class Fanout:
    """Implements SignalListener for all sessions of the Ditto server."""

    def __init__(self, things: ThingsService) -> None:
        self._things = things
        self._events: _Groups[Seen] = _Groups()
        self._messages: _Groups[ThingMessage] = _Groups()
        self._stop: Callable[[], None] | None = None

    def join_events(self, interest: Interest[Seen], outlet: Outlet) -> Callable[[], None]:
        """Send an outlet the events of its interest; returns the way to end it."""
        self._listen()
        self._events.add(interest, outlet)
        return lambda: self._leave(self._events, interest, outlet)

    def join_messages(self, interest: Interest[ThingMessage], outlet: Outlet) -> Callable[[], None]:
        """Send an outlet the messages of its interest; returns the way to end it."""
        self._listen()
        self._messages.add(interest, outlet)
        return lambda: self._leave(self._messages, interest, outlet)

    def on_event(self, event: ThingEvent) -> None:
        for interest, outlets in list(self._events.members.items()):
            try:
                seen = interest.subscription.see(event, self._things)
                frame = None if seen is None else interest.render(seen)
            except Exception:  # one broken subscription must not take the others' events
                log.exception("event could not be rendered", extra={"thing": event.thing_id})
                continue
            _offer(frame, outlets, event.originator)

    def on_message(self, message: ThingMessage) -> None:
        for interest, outlets in list(self._messages.members.items()):
            try:
                heard = interest.subscription.hears(message, self._things)
                frame = interest.render(message) if heard else None
            except Exception:  # as above
                log.exception("message could not be rendered", extra={"thing": message.thing_id})
                continue
            _offer(frame, outlets, message.originator)

    def _listen(self) -> None:
        if self._stop is None:
            self._stop = self._things.listen(self)

    def _leave(self, groups: _Groups[S], interest: Interest[S], outlet: Outlet) -> None:
        groups.drop(interest, outlet)
        if self._stop is not None and not self._events.members and not self._messages.members:
            self._stop()
            self._stop = None


def _offer(frame: bytes | None, outlets: dict[str, Outlet], originator: str | None) -> None:
    if frame is None:
        return
    for session_id, outlet in list(outlets.items()):
        if session_id != originator:
            outlet.offer(frame)
