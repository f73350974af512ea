"""The things service: every change and every live message of a thing passes this one door.

Load, policy check, decide, append, publish. Commands of one thing run in the order submitted; nothing is
acknowledged or published before it is durable. The newest state in memory is a cache of the single owner;
the store's compare-and-set on the revision is the rule.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from gateway.ditto.acknowledgements import plain_answer
from gateway.ditto.clock import Clock, text_of, utc_now
from gateway.ditto.commits import Change, Committer
from gateway.ditto.creation import Creation, Creator
from gateway.ditto.desk import Desk
from gateway.ditto.dispatch import Dispatcher
from gateway.ditto.lane import Pending, Wait
from gateway.ditto.live import LiveChannel
from gateway.ditto.migration import is_dry_run, settled_migration, tried_migration
from gateway.ditto.past import Past, is_historical
from gateway.ditto.policies import PoliciesService, resolve
from gateway.ditto.search import Searcher, SearchPage, SearchQuery
from gateway.ditto.spool import Spools
from gateway.ditto.thing_cache import Job, Load, Look, ThingCache, ThingEntry
from gateway.ditto.wot import WotHook
from gateway.errors import GatewayError, Undeliverable
from gateway.model.entity_id import check_entity_id, namespace_of
from gateway.model.json import JsonObject
from gateway.model.policy import PolicyCommand
from gateway.model.ports import SignalListener
from gateway.model.thing import (
    Action,
    HeaderValue,
    Thing,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.store.things import StoredThing, ThingStore
from gateway.twin.authorization import without_policy
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.fields import FieldSelector
from gateway.twin.limits import DEFAULT_LIMITS, Limits
from gateway.twin.metadata import asked as asked_metadata
from gateway.twin.policy import EVERYTHING, NO_PERMISSIONS, READ, Permissions
from gateway.twin.resources import part_of
from gateway.twin.showing import (
    Context,
    readable_json,
    reduced_event,
    retrieve,
)
from gateway.twin.things import check_form, judge

log = logging.getLogger(__name__)

__all__ = [
    "PoliciesService",
    "PolicyCommand",
    "SearchPage",
    "SearchQuery",
    "ThingsService",
]

Guard: TypeAlias = Callable[[ThingCommand, "Thing | None"], None]
"""Refuses a command, before it is stored, by raising a GatewayError (DeviceController)."""

ChangeGuard: TypeAlias = Callable[[ThingEvent], None]
"""The same with the whole change: `before`, `after`, and what was written."""

Answer: TypeAlias = Callable[["ThingResult | GatewayError"], None]

MAX_WAITING: Final = 1_000
"""Commands that wait for one thing; more are refused with 429."""

_CREATING: Final = frozenset((Action.CREATE, Action.MODIFY, Action.MERGE))


class ThingsService:
    """Things, their events and live messages. Implements the ports `Things` and `Signals`."""

    name = "ditto.things"

    def __init__(
        self,
        store: ThingStore,
        policies: PoliciesService,
        *,
        metrics: Metrics,
        tracer: Tracer,
        limits: Limits = DEFAULT_LIMITS,
        clock: Clock = utc_now,
        cache: int = 50_000,
        historical_headers: tuple[str, ...] = (),
        wot: WotHook | None = None,
    ) -> None:
        self.policies = policies
        self._wot = wot
        self._store = store
        self._limits = limits
        self._clock = clock
        self._listeners: tuple[SignalListener, ...] = ()
        self._guards: tuple[Guard, ...] = ()
        self._change_guards: tuple[ChangeGuard, ...] = ()
        self.memory = self._things = ThingCache(store, self._step, cache)
        self._past = Past(store, historical_headers)
        self.desk = Desk()
        self.live = LiveChannel(
            self._things, self.desk, self._permissions, self._known_permissions, limits, clock, wot
        )
        self.dispatcher = Dispatcher(self.submit, self.peek, self.desk, self.live)
        self._tasks: asyncio.TaskGroup | None = None
        self._spools = Spools(store, cache)
        self._creator = Creator(policies, limits, self._policy_id_of)
        self._searcher = Searcher(store, policies)
        self._committer = Committer(store, policies, self._spools, metrics, tracer, self._publish)

    async def run(self, ready: Callable[[], None]) -> None:
        """Module: serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                ready()
                await asyncio.Event().wait()
        finally:
            self._tasks = None
            self.desk.close()

    # --- twin channel -------------------------------------------------------------------------

    def submit(self, command: ThingCommand, done: Answer) -> None:
        """Run a command; `done` once it is durable (or refused), on the loop's thread.

        Shape:  commands of one thing run in the order submitted. `create`, `modify` and `merge` at `()`
                may carry `_policy` or `_copyPolicyFrom`. A duplicate of a spooled command changes nothing
                and its result has the header `duplicate: true`; of several commands that one spooled
                message leads to, the last one carries its `spool`.
        Errors (through `done`): Ditto's `things:*` and `policies:*`, StoreUnavailable, what a guard raised.
        """
        try:
            if command.thing_id not in self._things:
                check_entity_id(command.thing_id, "things:id.invalid")
            if command.headers and is_historical(command):
                self._start(self._look_back(command, done))
                return
        except GatewayError as error:
            done(error)
            return
        lane = self._things.entry(command.thing_id).lane
        if lane.depth >= MAX_WAITING:
            done(ditto_error("things:thing.toomanymodifyingrequests", id=command.thing_id))
            return
        lane.push(command, done)

    def peek(self, command: ThingCommand) -> ThingResult | None:
        """What a query is answered where its thing is in memory and nothing is under way for it; else None.

        Errors: Ditto's `things:*`.
        """
        entry = self._things.at_rest(command.thing_id)
        if entry is None or is_historical(command):
            return None
        self.policies.namespaces.check(command.thing_id)
        try:
            return self._retrieve(entry, command)
        except Wait:
            return None  # its policy has to be read first

    async def execute(self, command: ThingCommand) -> ThingResult:
        """Run a command and wait; raises what `submit` would answer."""
        if is_historical(command):
            return await self._historical(command)
        future: asyncio.Future[ThingResult] = asyncio.get_running_loop().create_future()
        self.submit(command, lambda answer: resolve(future, answer))
        return await future

    def add_guard(self, guard: Guard) -> Callable[[], None]:
        """Ask `guard` before each permitted change is stored; returns the way to end it."""
        self._guards = (*self._guards, guard)

        def end() -> None:
            self._guards = tuple(one for one in self._guards if one is not guard)

        return end

    def add_change_guard(self, guard: ChangeGuard) -> Callable[[], None]:
        """Show `guard` each change (`before`, `after`) before it is stored; returns the way to end it."""
        self._change_guards = (*self._change_guards, guard)

        def end() -> None:
            self._change_guards = tuple(one for one in self._change_guards if one is not guard)

        return end

    # --- reading ------------------------------------------------------------------------------

    async def load(self, thing_id: str) -> Thing | None:
        """The newest durable state, no policy asked. Afterwards `thing_json` can judge it."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._things.entry(thing_id).lane.push(Load(), lambda answer: resolve(future, answer))
        stored: StoredThing = await future
        return stored.thing

    async def retrieve_many(
        self,
        thing_ids: Sequence[str],
        subjects: tuple[str, ...],
        fields: FieldSelector | None = None,
    ) -> list[JsonObject]:
        """The readable ones of these things, in the order asked; others are left out."""
        found: list[JsonObject] = []
        for thing in await asyncio.gather(*map(self.load, thing_ids)):
            shown = self.thing_json(thing, subjects, fields) if thing else None
            if shown is not None:
                found.append(shown)
        return found

    def thing_json(
        self, thing: Thing, subjects: tuple[str, ...], fields: FieldSelector | None = None
    ) -> JsonObject | None:
        """A thing as these subjects may read it, `_` fields only where selected; None for nothing.

        The thing's policy is in memory after `load`, or when `thing` comes from an event.
        """
        permissions = self._known_permissions(thing, subjects)
        extra = self._extra(thing, subjects, fields)
        return readable_json(thing, permissions, fields, extra)

    def permissions(self, thing: Thing, subjects: tuple[str, ...]) -> Permissions:
        """What these subjects may do with a thing; its policy is in memory, as for `thing_json`."""
        return self._known_permissions(thing, subjects)

    async def search(self, query: SearchQuery) -> SearchPage:
        """One page of things that match and may be read; the filter is evaluated over all things."""
        return await self._searcher.search(query, self._clock())

    async def count(self, query: SearchQuery) -> int:
        """How many things match and may be read."""
        return await self._searcher.count(query, self._clock())

    async def history(self, thing_id: str, after: int, limit: int = 100) -> list[ThingEvent]:
        """Kept events of a thing with revision > `after`, oldest first, no policy asked.

        Shape:  without `before` and `after` states.
        """
        return await self._store.events(thing_id, after, limit)

    async def at_revision(self, thing_id: str, revision: int) -> Thing | None:
        """The thing as it was after a revision, None where that is not kept or it was deleted."""
        return await self._past.at_revision(thing_id, revision)

    async def at_time(self, thing_id: str, timestamp: str) -> Thing | None:
        """The thing as it was at an ISO 8601 instant, None where that is not kept or it was not there."""
        return await self._past.at_time(thing_id, timestamp)

    # --- signals ------------------------------------------------------------------------------

    def listen(self, listener: SignalListener) -> Callable[[], None]:
        """Add a listener; returns the way to end it. It skips what it sent itself (`originator`)."""
        self._listeners = self.live.message_listeners = (*self._listeners, listener)

        def end() -> None:
            kept = tuple(one for one in self._listeners if one is not listener)
            self._listeners = self.live.message_listeners = kept

        return end

    def view(self, event: ThingEvent, subjects: tuple[str, ...]) -> ThingEvent | None:
        """The event reduced to what these subjects may read; None for nothing.

        `after` and `before` are not reduced: show them through `thing_json` only.
        """
        state = event.after or event.before
        if state is None:
            return None
        return reduced_event(event, self._known_permissions(state, subjects))

    def view_by(
        self, event: ThingEvent, thing: Thing, subjects: tuple[str, ...]
    ) -> ThingEvent | None:
        """As `view`, for an event from `history`: judged by the policy that `thing` has now."""
        return reduced_event(event, self._known_permissions(thing, subjects))

    def can_receive(self, signal: ThingMessage | ThingCommand, subjects: tuple[str, ...]) -> bool:
        """True when these subjects have READ on a live signal's path. The thing is in memory: it was sent."""
        return self.live.can_receive(signal, subjects)

    def twin_json(
        self, thing_id: str, subjects: tuple[str, ...], fields: FieldSelector
    ) -> JsonObject | None:
        """The selected parts of a thing in memory, as these subjects may read it."""
        thing = self._things.known(thing_id)
        return self.thing_json(thing, subjects, fields) if thing else None

    def send(
        self, message: ThingMessage, done: Callable[[ThingMessageResponse | GatewayError], None]
    ) -> None:
        """Deliver a live message; `done` gets the answer (202 at once for fire and forget).

        Errors (through `done`): `things:thing.notfound` 404, `messages:send.notallowed` 403,
                `command.timeout` 408, `messages:payload.toolarge` 413.
        """
        self.dispatcher.run(message, done, plain_answer(message))  # type: ignore[arg-type]

    def respond(self, response: ThingMessageResponse) -> bool:
        """Hand an answer to who waits for its thing and correlation id; False when nobody does."""
        return self.desk.answer(response.thing_id, response.correlation_id, response)

    # --- one step of a lane -------------------------------------------------------------------

    def _step(self, entry: ThingEntry, job: Job, pending: Pending) -> object | None:
        self.policies.namespaces.check(entry.thing_id)
        self._things.loaded(entry)
        if isinstance(job, Look):
            return job.judge(entry)
        if isinstance(job, Load):
            if entry.thing is not None:
                self.policies.enforcer(entry.thing.policy_id)
            return StoredThing(entry.thing, entry.revision)
        if job.action is Action.RETRIEVE:
            return self._retrieve(entry, job)
        if job.spool is not None and self._spools.is_duplicate(job.spool, entry.thing_id):
            return ThingResult(status=204, revision=entry.revision, headers={"duplicate": True})
        try:
            return self._change(entry, job, pending)
        except GatewayError:
            self._committer.refused(job.action)
            raise

    def _retrieve(self, entry: ThingEntry, command: ThingCommand) -> ThingResult:
        thing = entry.thing
        if thing is None:
            if command.fields:
                FieldSelector.parse(command.fields)
            raise ditto_error("things:thing.notfound", id=entry.thing_id)
        return self._shown(thing, command)

    def _shown(self, thing: Thing, command: ThingCommand) -> ThingResult:
        moment = self._clock()
        now = text_of(moment)
        permissions = self._mine(thing, command, now)
        if permissions is None:
            raise ditto_error("things:thing.notfound", id=thing.thing_id)
        fields = FieldSelector.parse(command.fields) if command.fields else None
        extra = self._extra(thing, command.subjects, fields)
        context = Context(now, moment, thing.revision, permissions, self._limits, extra or {})
        value, tag = retrieve(thing, command, context)
        headers: dict[str, HeaderValue] = {}
        said = asked_metadata(thing, command, part_of(command.path), permissions)
        if said is not None:
            headers["ditto-metadata"] = said
        return ThingResult(
            status=200,
            value=value,
            has_value=True,
            etag=tag,
            revision=thing.revision,
            headers=headers,
        )

    def _change(self, entry: ThingEntry, command: ThingCommand, pending: Pending) -> object | None:
        started = time.perf_counter()
        moment, job = self._clock(), command
        now = max(
            text_of(moment), entry.modified
        )  # a clock that is set back must not tangle history
        creation: Creation | None = None
        if entry.thing is None and command.action in _CREATING and not command.path:
            check_form(command)
            creation = self._creator.settle(command, now)
            command = creation.command
            permissions = creation.permissions
        elif entry.thing is not None:
            known = self._mine(entry.thing, command, now)
            if known is None:
                raise without_policy(entry.thing, is_read=False)
            permissions = known
        else:
            permissions = NO_PERMISSIONS
        context = Context(now, moment, entry.revision, permissions, self._limits)
        if command.action is Action.MIGRATE and entry.thing is not None:
            command = settled_migration(entry.thing, command, context, self._wot)
        decision = judge(entry.thing, command, context)
        if self._wot is not None:
            again = lambda one: judge(entry.thing, one, context)  # noqa: E731  short-lived
            decision = self._wot.settled(job, decision, again)
        event = decision.event
        if event is None:
            return ThingResult(status=204, etag=decision.etag, revision=entry.revision)
        self._check_policy_id(event, now)
        self._ask_guards(entry.thing, command, event)
        if command.action is Action.MIGRATE and is_dry_run(command):
            return tried_migration(command, decision, entry.revision)
        change = Change(command, decision, event, creation, started)
        self._committer.append(entry, change, pending)
        return None

    def _ask_guards(self, thing: Thing | None, command: ThingCommand, event: ThingEvent) -> None:
        for guard in self._guards:
            guard(command, thing)
        for change_guard in self._change_guards:
            change_guard(event)

    def _check_policy_id(self, event: ThingEvent, now: str) -> None:
        """A thing may only be given a policy that is there and that the caller may read."""
        if event.before is None or event.after is None:
            return
        policy_id = event.after.policy_id
        if policy_id == event.before.policy_id:
            return
        enforcer = self.policies.enforcer(policy_id)
        mine = enforcer.permissions(event.subjects, "", now) if enforcer else NO_PERMISSIONS
        if not mine.partial("policy", (), READ):
            raise ditto_error("policies:policy.notfound", id=policy_id)

    def _publish(self, event: ThingEvent) -> None:
        for listener in self._listeners:
            listener.on_event(event)
        if "requested-acks" in event.headers:
            self.desk.published(event.thing_id, str(event.headers.get("correlation-id", "")))

    # --- history ------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if self._tasks is None:
            work.close()
            raise Undeliverable("The things service is not running.")
        self._tasks.create_task(work)

    async def _look_back(self, command: ThingCommand, done: Answer) -> None:
        answer: ThingResult | GatewayError
        try:
            answer = await self._historical(command)
        except GatewayError as error:
            answer = error
        except Exception:  # top of one request: the service goes on
            log.exception("past state could not be read", extra={"thing": command.thing_id})
            answer = GatewayError()
        done(answer)

    async def _historical(self, command: ThingCommand) -> ThingResult:
        """A past state, judged by the thing's present policy."""
        present = await self.load(command.thing_id)
        if present is None:
            raise ditto_error("things:thing.notfound", id=command.thing_id)
        past = await self._past.asked(command)
        document = {**past.document, "policyId": present.policy_id}
        result = self._shown(replace(past, document=document), command)
        told = await self._past.headers(past)
        return replace(result, headers={**result.headers, "historical-headers": told})

    # --- in memory ----------------------------------------------------------------------------

    def _mine(self, thing: Thing, command: ThingCommand, now: str) -> Permissions | None:
        """What a command may do with this thing, None when its policy is gone; raises Wait."""
        if command.sudo:
            return EVERYTHING
        return self._permissions(thing, command.subjects, now)

    def _permissions(self, thing: Thing, subjects: tuple[str, ...], now: str) -> Permissions | None:
        """What the subjects may do with this thing, None when its policy is gone; raises Wait."""
        enforcer = self.policies.enforcer(thing.policy_id)
        if enforcer is None:
            return None
        return enforcer.permissions(subjects, namespace_of(thing.thing_id), now)

    def _known_permissions(self, thing: Thing, subjects: tuple[str, ...]) -> Permissions:
        enforcer = self.policies.known_enforcer(thing.policy_id)
        if enforcer is None:
            return NO_PERMISSIONS
        now = text_of(self._clock())
        return enforcer.permissions(subjects, namespace_of(thing.thing_id), now)

    def _extra(
        self, thing: Thing, subjects: tuple[str, ...], fields: FieldSelector | None
    ) -> JsonObject | None:
        if fields is None or not fields.takes("_policy"):
            return None
        policy = self.policies.readable(thing.policy_id, subjects)
        return {"_policy": policy} if policy is not None else None

    def _policy_id_of(self, thing_id: str, subjects: tuple[str, ...]) -> str:
        """The policy id of another thing that the caller may read; raises Wait."""
        check_entity_id(thing_id, "things:id.invalid")
        thing = self._things.loaded(self._things.entry(thing_id)).thing
        mine = self._permissions(thing, subjects, self.policies.now()) if thing else None
        if thing is None or mine is None or not mine.partial("thing", ("policyId",), READ):
            raise ditto_error("things:thing.notfound", id=thing_id)
        return thing.policy_id
