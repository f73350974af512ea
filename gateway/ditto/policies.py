"""The policies service: commands on policies, and the enforcers that the things service asks.

Commands of one policy run one after the other. What is in memory, and when it is forgotten, is
`policy_cache`'s; ends of subjects and their announcements are `subject_expiry`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from gateway.config.ditto import Policies
from gateway.ditto.announcements import Announcements
from gateway.ditto.clock import Clock, text_of, utc_now
from gateway.ditto.creation_rules import CreationRules
from gateway.ditto.lane import Pending, Wait
from gateway.ditto.namespaces import BlockedNamespaces
from gateway.ditto.past import is_historical, past_instant, past_revision, told_headers
from gateway.ditto.policy_cache import Expire, Job, PolicyCache, PolicyEntry, Source
from gateway.errors import GatewayError, NotBuilt
from gateway.model.entity_id import namespace_of
from gateway.model.json import JsonObject
from gateway.model.policy import Policy, PolicyCommand, PolicyEvent
from gateway.model.thing import Action, ThingResult
from gateway.store.things import Commit, Committed, PolicyWrite, ThingStore
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, encoded
from gateway.twin.fields import FieldSelector
from gateway.twin.limits import DEFAULT_LIMITS, Limits
from gateway.twin.policies import (
    PolicyContext,
    decide_policy,
    policy_not_found,
    policy_part_of,
    policy_tag,
    read_policy,
    reduced_policy_event,
    replayed_policy,
)
from gateway.twin.policy import EVERYTHING, READ, Enforcer, Permissions
from gateway.twin.policy_actions import PolicyAction, decide_action, decide_expiry
from gateway.twin.policy_expiry import due_of
from gateway.twin.policy_form import PolicyPart, policy_json
from gateway.twin.policy_references import Rights
from gateway.twin.policy_resolution import resolved_document

log = logging.getLogger(__name__)

PolicyListener = Callable[[PolicyEvent], None]

_MAX_WAITING: Final = 1_000
_VIEWS: Final = ("original", "resolved")
_TAG_CONDITIONS: Final = frozenset(("if-match", "if-none-match"))


class PoliciesService:
    """Policies and their sub-resources."""

    name = "ditto.policies"

    def __init__(
        self,
        store: ThingStore,
        *,
        limits: Limits = DEFAULT_LIMITS,
        clock: Clock = utc_now,
        cache: int = 50_000,
        settings: Policies | None = None,
        rules: CreationRules | None = None,
    ) -> None:
        self.settings = settings or Policies()
        self.rules = rules or CreationRules()
        self.announcements = Announcements()
        self.namespaces = BlockedNamespaces()
        self.clock = clock
        self.store = store
        self.limits = replace(
            limits,
            expiry_grain=self.settings.expiry_grain,
            announcement_grain=self.settings.announcement_grain,
            lockout_prevention=self.settings.lockout_prevention,
        )
        self.memory = self._cache = PolicyCache(
            store, self._step, cache, self.settings.namespace_roots
        )
        self._listeners: list[PolicyListener] = []

    # --- commands -----------------------------------------------------------------------------

    def submit(
        self, command: PolicyCommand, done: Callable[[ThingResult | GatewayError], None]
    ) -> None:
        """Run a command; `done` once it is durable (or refused), on the loop's thread."""
        if is_historical(command):
            done(NotBuilt("policies: past states are read over HTTP and WebSocket"))
            return
        self._push(command, done)

    async def execute(self, command: PolicyCommand) -> ThingResult:
        """Run a command and wait; status, value and etag as Ditto answers them.

        Errors: `policies:*`, `entity.notcreatable`, StoreUnavailable.
        """
        if is_historical(command):
            return await self._historical(command)
        result: ThingResult = await self._done(command)
        return result

    async def act(self, action: PolicyAction) -> ThingResult:
        """Run an action on a policy and wait.

        Errors: `policies:action.failed`, `policies:policy.notfound`, `policies:*`, StoreUnavailable.
        """
        result: ThingResult = await self._done(action)
        return result

    async def expire(self, policy_id: str) -> bool:
        """Delete one subject whose time is over; False where there is none."""
        result: ThingResult = await self._done(Expire(), policy_id)
        return result.status == 200

    async def load(self, policy_id: str) -> Policy | None:
        """The newest durable state, no policy asked."""
        entry = self._cache.entry(policy_id)
        if not entry.is_loaded:
            loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._cache.fetch(entry, lambda error: resolve(loaded, error))
            await loaded
        return entry.committed

    async def history(self, policy_id: str, after: int, limit: int = 100) -> list[PolicyEvent]:
        """Kept events of a policy with revision > `after`, oldest first, without states, no policy asked."""
        return await self.store.policy_events(policy_id, after, limit)

    def view(self, event: PolicyEvent, subjects: tuple[str, ...]) -> PolicyEvent | None:
        """An event reduced to what these subjects may read under the present policy; None for nothing."""
        enforcer = self.known_enforcer(event.policy_id)
        if enforcer is None:
            return None
        mine = enforcer.permissions(subjects, namespace_of(event.policy_id), self.now())
        return reduced_policy_event(event, mine)

    def listen(self, listener: PolicyListener) -> Callable[[], None]:
        """Add a listener for changes of policies, called synchronously after each commit."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # --- for the things service ---------------------------------------------------------------

    def enforcer(self, policy_id: str) -> Enforcer | None:
        """The enforcer of a policy's durable state, None where there is no such policy.

        Errors: Wait while it has to be read, or is being stored for the first time.
        """
        return self._cache.enforcer(policy_id)

    def known_enforcer(self, policy_id: str) -> Enforcer | None:
        """The enforcer if all that it needs is in memory; never waits."""
        try:
            return self._cache.enforcer(policy_id)
        except Wait:
            return None

    def known(self, policy_id: str) -> Policy | None:
        """The durable state if it is in memory, as it is once its enforcer is; no policy asked."""
        entry = self._cache.known(policy_id)
        return entry.committed if entry is not None else None

    def rights(self, subjects: tuple[str, ...], now: str, is_sudo: bool = False) -> Rights:
        """What these subjects may do under other policies; what it returns raises Wait."""

        def under(policy_id: str) -> Permissions | None:
            enforcer = self._cache.enforcer(policy_id)
            if enforcer is None or is_sudo:
                return EVERYTHING if enforcer else None
            return enforcer.permissions(subjects, namespace_of(policy_id), now)

        return under

    def readable(self, policy_id: str, subjects: tuple[str, ...]) -> JsonObject | None:
        """A policy's JSON as these subjects may read it, if it is in memory."""
        enforcer, entry = self.known_enforcer(policy_id), self._cache.known(policy_id)
        if enforcer is None or entry is None or entry.committed is None:
            return None
        permissions = enforcer.permissions(subjects, namespace_of(policy_id), self.now())
        seen = permissions.view((), entry.committed.document, "policy")
        return {"policyId": policy_id, **seen} if isinstance(seen, dict) else None

    def document(self, policy_id: str) -> JsonObject | None:
        """The newest document, also of a policy that is being stored; raises Wait."""
        newest = self._cache.loaded(policy_id).newest
        return newest.document if newest else None

    def last_revision(self, policy_id: str) -> int:
        """The last revision that the id ever had, 0 for none; raises Wait."""
        return self._cache.loaded(policy_id).revision

    def source(self, policy_id: str) -> Source:
        """Where a policy finds what it imports; raises Wait when asked."""
        return self._cache.source(policy_id)

    def roots(self, policy_id: str) -> dict[str, JsonObject]:
        """The operator's root policies for a policy; raises Wait."""
        return self._cache.roots(policy_id)

    def importers(self, policy_id: str) -> tuple[str, ...]:
        """The policies in memory whose enforcers depend on this one, however far."""
        return self._cache.importers(policy_id)

    def begin(self, event: PolicyEvent) -> None:
        """A write of this event is on its way to the store."""
        entry = self._cache.loaded(event.policy_id)
        entry.newest, entry.revision = event.after, event.revision
        entry.in_flight += 1

    def finish(self, event: PolicyEvent, error: GatewayError | None) -> None:
        """A write of this event is durable, or failed."""
        entry = self._cache.entry(event.policy_id)
        entry.in_flight -= 1
        if error is None:
            entry.committed = event.after
            self._changed(event)
        else:
            entry.forget()
        if not entry.in_flight:
            waiting, entry.settled = entry.settled, []
            for resume in waiting:
                resume(None)

    def write_of(self, event: PolicyEvent) -> PolicyWrite:
        """An event as it is stored."""
        after = event.after
        if after is None:
            return PolicyWrite(event, None)
        due = due_of(after.document, self.settings.announcement_spread)
        return PolicyWrite(event, encoded(after.document), due)

    def now(self) -> str:
        """This instant as texts of expiry are compared with."""
        return text_of(self.clock())

    # --- inside -------------------------------------------------------------------------------

    def _push(
        self, job: Job, done: Callable[[ThingResult | GatewayError], None], policy_id: str = ""
    ) -> None:
        name = policy_id or getattr(job, "policy_id", "")
        lane = self._cache.entry(name).lane
        if lane.depth >= _MAX_WAITING:
            done(ditto_error("policies:policy.toomanymodifyingrequests", id=name))
            return
        lane.push(job, done)

    async def _done(self, job: Job, policy_id: str = "") -> Any:
        future: asyncio.Future[ThingResult] = asyncio.get_running_loop().create_future()
        self._push(job, lambda answer: resolve(future, answer), policy_id)
        return await future

    def _step(self, entry: PolicyEntry, job: Job, pending: Pending) -> object | None:
        self.namespaces.check(entry.policy_id)
        self._cache.loaded(entry.policy_id)
        if entry.in_flight:
            raise Wait(entry.settled.append)
        if isinstance(job, Expire):
            return self._expired(entry, pending)
        context = self._context(entry, job)
        if isinstance(job, PolicyAction):
            return self._act(entry, job, context, pending)
        if job.action is Action.RETRIEVE:
            return self._retrieve(entry.newest, job, context.permissions)
        self._change(entry, job, context, pending)
        return None

    def _context(self, entry: PolicyEntry, job: PolicyCommand | PolicyAction) -> PolicyContext:
        now, name = self.now(), entry.policy_id
        if entry.newest is not None:
            now = max(
                now, entry.newest.modified
            )  # a clock that is set back must not tangle history
        enforcer = self._cache.enforcer(name)
        permissions = (
            enforcer.permissions(job.subjects, namespace_of(name), now) if enforcer else None
        )
        is_sudo = isinstance(job, PolicyCommand) and job.sudo
        if permissions is not None and is_sudo:
            permissions = EVERYTHING
        roots = self._cache.roots(name)
        source = self._cache.source(name)
        rights = self.rights(job.subjects, now, is_sudo)
        return PolicyContext(now, entry.revision, permissions, self.limits, source, roots, rights)

    def _expired(self, entry: PolicyEntry, pending: Pending) -> ThingResult | None:
        event = decide_expiry(entry.newest, self.now())
        if event is None:
            return ThingResult(status=204)
        self._write(event, pending, ThingResult(status=200, revision=event.revision))
        return None

    def _act(
        self, entry: PolicyEntry, asked: PolicyAction, context: PolicyContext, pending: Pending
    ) -> ThingResult | None:
        event = decide_action(entry.newest, asked, context)
        if event is None:
            return ThingResult(status=204, revision=entry.revision)
        self._write(event, pending, ThingResult(status=204, revision=event.revision))
        return None

    def _change(
        self, entry: PolicyEntry, command: PolicyCommand, context: PolicyContext, pending: Pending
    ) -> None:
        if entry.newest is None and command.action is not Action.DELETE and not command.path:
            self.rules.check("policy", command.policy_id, command.subjects)
        decision = decide_policy(entry.newest, command, context)
        result = ThingResult(
            status=decision.status,
            value=None if decision.value is MISSING else decision.value,
            has_value=decision.value is not MISSING,
            etag=decision.etag,
            revision=decision.event.revision,
        )
        self._write(decision.event, pending, result)

    def _write(self, event: PolicyEvent, pending: Pending, result: ThingResult) -> None:
        pending.is_write = True
        self.begin(event)

        def stored(answer: Committed | GatewayError) -> None:
            error = answer if isinstance(answer, GatewayError) else None
            self.finish(event, error)
            pending.settle(error or result)

        self.store.append(Commit(policy=self.write_of(event)), stored)

    def _retrieve(
        self, policy: Policy | None, command: PolicyCommand, permissions: Permissions | None
    ) -> ThingResult:
        if policy is None or permissions is None:
            raise policy_not_found(command.policy_id)
        if not _is_resolved_asked(command):
            return _shown(policy, command, read_policy(policy, command, permissions))
        # It changes with what is imported, so it has no entity tag and answers no question about one.
        headers = {k: v for k, v in command.headers.items() if k not in _TAG_CONDITIONS}
        viewed = self._resolved(policy, command)
        value = read_policy(viewed, replace(command, headers=headers), permissions)
        return replace(_shown(viewed, command, value), etag=None)

    def _resolved(self, policy: Policy, command: PolicyCommand) -> Policy:
        """The policy with all that counts under it, as far as the caller may read it where it was written."""
        name = policy.policy_id
        rights = self.rights(command.subjects, self.now(), command.sudo)

        def is_seen(source: str, label: str) -> bool:
            mine = rights(source)
            return mine is not None and mine.partial("policy", ("entries", label), READ)

        source, roots = self._cache.source(name), self._cache.roots(name)
        document = resolved_document(policy.document, source, roots, name, is_seen)
        return replace(policy, document=document)

    async def _historical(self, command: PolicyCommand) -> ThingResult:
        """A past state, judged by the present policy."""
        present = await self._done(replace(command, headers={}, path=(), fields=None))
        assert present is not None  # noqa: S101  the caller may read something of it
        past = await self._past(command)
        enforcer = self._cache.enforcer(command.policy_id)
        subjects, namespace = command.subjects, namespace_of(command.policy_id)
        mine = enforcer.permissions(subjects, namespace, self.now()) if enforcer else None
        headers = {k: v for k, v in command.headers.items() if k != "policy-view"}
        result = self._retrieve(past, replace(command, headers=headers), mine)
        told = await self._told_headers(past)
        return replace(result, headers={"historical-headers": told})

    async def _told_headers(self, past: Policy) -> JsonObject:
        names = self.settings.historical_headers
        if not names:
            return {}
        events = await self.store.policy_events(past.policy_id, past.revision - 1, 1)
        return told_headers(events, past.revision, names)

    async def _past(self, command: PolicyCommand) -> Policy:
        revision, at = past_revision(command), past_instant(command)
        name = command.policy_id
        replay = await self.store.replay_policy(name, revision=revision, timestamp=at)
        past = replayed_policy(replay.base, replay.events)
        if past is None or (revision is not None and past.revision != revision):
            where = at or f"revision {revision}"
            raise ditto_error("policies:policy.history.notfound", id=name, at=where)
        return past

    def _changed(self, event: PolicyEvent) -> None:
        self._cache.forget_enforcers(event.policy_id)
        for listener in tuple(self._listeners):
            listener(event)


def _is_resolved_asked(command: PolicyCommand) -> bool:
    """Whether `policy-view` asks for all that counts under the policy; parts of it have one view only."""
    if command.path:
        return False
    given = str(command.headers.get("policy-view", ""))
    view = given.strip().lower() or _VIEWS[0]
    if view not in _VIEWS:
        raise ditto_error("policies:view.invalid", value=given[:100])
    return view == _VIEWS[1]


def _shown(policy: Policy, command: PolicyCommand, value: Any) -> ThingResult:
    part = policy_part_of(command.path)
    if command.fields and isinstance(value, dict):
        extra: JsonObject = {}
        if part is PolicyPart.POLICY:
            extra = {
                "_revision": policy.revision,
                "_created": policy.created,
                "_modified": policy.modified,
                "_namespace": policy.policy_id.partition(":")[0],
            }
        value = FieldSelector.parse(command.fields).select({**value, **extra})
    full = policy_json(policy) if part is PolicyPart.POLICY else value
    return ThingResult(
        status=200,
        value=value,
        has_value=True,
        etag=policy_tag(policy, part, full),
        revision=policy.revision,
    )


def resolve(future: asyncio.Future[Any], answer: object) -> None:
    """Finish a future that may have been cancelled meanwhile."""
    if future.done():
        return
    if isinstance(answer, GatewayError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
