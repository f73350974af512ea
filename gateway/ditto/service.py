"""The things service: every change and every live message of a thing passes this one door.

Load, policy check, decide, append, publish. Nothing is acknowledged or published before it is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.errors import GatewayError, NotBuilt
from gateway.model.json import Json, JsonObject
from gateway.model.policy import Policy, PolicyCommand
from gateway.model.ports import SignalListener
from gateway.model.thing import (
    Thing,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)
from gateway.twin.fields import FieldSelector

Guard = Callable[[ThingCommand, "Thing | None"], None]
"""Refuses a command, before it is stored, by raising a GatewayError (DeviceController)."""

Answer = Callable[["ThingResult | GatewayError"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """A search as `/search/things` and the protocol's `search/subscribe` ask it.

    Shape:  `filter` RQL (several filters joined by `and(...)` by the caller); `options` Ditto's text, e.g.
            `sort(+attributes/a,-thingId),size(50)`; `namespaces` empty for all.
    """

    subjects: tuple[str, ...]
    filter: str | None = None
    fields: str | None = None
    options: str | None = None
    namespaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """One page: `cursor` and `next_page_offset` are None where Ditto leaves them out."""

    items: list[Json]
    cursor: str | None = None
    next_page_offset: int | None = None


class ThingsService:
    """Things, their events and live messages. Implements the ports `Things` and `Signals`."""

    name = "ditto.things"

    async def run(self, ready: Callable[[], None]) -> None:
        """Module: keep the history within its retention until cancelled."""
        raise NotBuilt

    # --- twin channel -------------------------------------------------------------------------

    def submit(self, command: ThingCommand, done: Answer) -> None:
        """Run a command; `done` once it is durable (or refused), on the loop's thread.

        Shape:  commands of one thing run in the order submitted. `create`, `modify` and `merge` at `()`
                may carry `_policy` or `_copyPolicyFrom`. A duplicate of a spooled command changes nothing
                and its result has the header `duplicate: true`.
        """
        raise NotBuilt

    async def execute(self, command: ThingCommand) -> ThingResult:
        """Run a command and wait; raises what `submit` would answer."""
        raise NotBuilt

    def add_guard(self, guard: Guard) -> Callable[[], None]:
        """Ask `guard` before each change is stored; returns the way to end it."""
        raise NotBuilt

    # --- reading ------------------------------------------------------------------------------

    async def load(self, thing_id: str) -> Thing | None:
        """The newest durable state, no policy asked. Afterwards `thing_json` can judge it."""
        raise NotBuilt

    async def retrieve_many(
        self,
        thing_ids: Sequence[str],
        subjects: tuple[str, ...],
        fields: FieldSelector | None = None,
    ) -> list[JsonObject]:
        """The readable ones of these things, in the order asked; others are left out."""
        raise NotBuilt

    def thing_json(
        self,
        thing: Thing,
        subjects: tuple[str, ...],
        fields: FieldSelector | None = None,
    ) -> JsonObject | None:
        """A thing as these subjects may read it, `_` fields only where selected; None for nothing.

        The thing's policy is in memory after `load`, or when `thing` comes from an event.
        """
        raise NotBuilt

    async def search(self, query: SearchQuery) -> SearchPage:
        """One page of things that match and may be read."""
        raise NotBuilt

    async def count(self, query: SearchQuery) -> int:
        """How many things match and may be read."""
        raise NotBuilt

    async def history(self, thing_id: str, after: int, limit: int = 100) -> list[ThingEvent]:
        """Stored events of a thing with revision > `after`, oldest first, no policy asked."""
        raise NotBuilt

    # --- signals ------------------------------------------------------------------------------

    def listen(self, listener: SignalListener) -> Callable[[], None]:
        """Add a listener; returns the way to end it. Own signals are the listener's to skip (`originator`)."""
        raise NotBuilt

    def view(self, event: ThingEvent, subjects: tuple[str, ...]) -> ThingEvent | None:
        """The event reduced to what these subjects may read; None for nothing.

        `after` and `before` are not reduced: show them through `thing_json` only.
        """
        raise NotBuilt

    def can_receive(self, message: ThingMessage, subjects: tuple[str, ...]) -> bool:
        """True when these subjects have READ on the message's path."""
        raise NotBuilt

    def send(
        self, message: ThingMessage, done: Callable[[ThingMessageResponse | GatewayError], None]
    ) -> None:
        """Deliver a live message; `done` gets the answer (202 at once for fire and forget).

        Errors (through `done`): ThingNotFound, `messages:send.notallowed` 403, CommandTimeout 408,
                `messages:payload.toolarge` 413.
        """
        raise NotBuilt

    def respond(self, response: ThingMessageResponse) -> bool:
        """Hand an answer to who waits for its thing and correlation id; False when nobody does."""
        raise NotBuilt


class PoliciesService:
    """Policies and their sub-resources."""

    name = "ditto.policies"

    async def execute(self, command: PolicyCommand) -> ThingResult:
        """Run a command and wait; status, value and etag as Ditto answers them."""
        raise NotBuilt

    async def load(self, policy_id: str) -> Policy | None:
        """The newest durable state, no policy asked."""
        raise NotBuilt
