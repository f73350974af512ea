"""The policies service: commands on policies, and the enforcers that the things service asks.

Commands of one policy run one after the other. An enforcer is built once per revision and dropped when
the policy, or one that it imports, changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from gateway.ditto.clock import Clock, text_of, utc_now
from gateway.ditto.lane import Lane, Pending, Resume, Wait
from gateway.errors import GatewayError, NotBuilt
from gateway.model.json import Json, JsonObject
from gateway.model.policy import Policy, PolicyCommand, PolicyEvent
from gateway.model.thing import Action, ThingResult
from gateway.store.things import Commit, Committed, PolicyWrite, StoredPolicy, ThingStore
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
)
from gateway.twin.policy import READ, Enforcer, build_enforcer, imports_of, resolved_document
from gateway.twin.policy_form import PolicyPart, policy_json

log = logging.getLogger(__name__)

PolicyListener = Callable[[PolicyEvent], None]

_MAX_WAITING: Final = 1_000
_NOT_BUILT: Final = ("at-historical-revision", "at-historical-timestamp")
_NOBODY: Final[tuple[str, ...]] = ()


class _Entry:
    """What is in memory of one policy id."""

    __slots__ = (
        "committed",
        "enforcer",
        "in_flight",
        "is_loaded",
        "lane",
        "newest",
        "policy_id",
        "revision",
        "settled",
    )

    def __init__(self, policy_id: str, service: PoliciesService) -> None:
        self.policy_id = policy_id
        self.is_loaded = False
        self.newest: Policy | None = None
        self.committed: Policy | None = None
        self.revision = 0
        self.in_flight = 0
        self.enforcer: Enforcer | None = None
        self.settled: list[Resume] = []
        self.lane: Lane[PolicyCommand] = Lane(
            lambda command, pending: service._step(self, command, pending), self.forget
        )

    def forget(self) -> None:
        """Read from the store before the next use."""
        self.is_loaded = False
        self.enforcer = None

    @property
    def is_idle(self) -> bool:
        return self.lane.is_idle and not self.in_flight and not self.settled


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
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._cache = cache
        self._entries: dict[str, _Entry] = {}
        self._importers: dict[str, set[str]] = {}
        self._listeners: list[PolicyListener] = []

    # --- commands -----------------------------------------------------------------------------

    def submit(
        self, command: PolicyCommand, done: Callable[[ThingResult | GatewayError], None]
    ) -> None:
        """Run a command; `done` once it is durable (or refused), on the loop's thread."""
        if any(name in command.headers for name in _NOT_BUILT):
            done(NotBuilt("policies: past states are not built"))
            return
        lane = self._entry(command.policy_id).lane
        if lane.depth >= _MAX_WAITING:
            done(ditto_error("policies:policy.toomanymodifyingrequests", id=command.policy_id))
            return
        lane.push(command, done)

    async def execute(self, command: PolicyCommand) -> ThingResult:
        """Run a command and wait; status, value and etag as Ditto answers them.

        Errors: `policies:*`, StoreUnavailable.
        """
        future: asyncio.Future[ThingResult] = asyncio.get_running_loop().create_future()
        self.submit(command, lambda answer: resolve(future, answer))
        return await future

    async def load(self, policy_id: str) -> Policy | None:
        """The newest durable state, no policy asked."""
        entry = self._entry(policy_id)
        if not entry.is_loaded:
            loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._fetch(entry, lambda error: resolve(loaded, error))
            await loaded
        return entry.committed

    async def history(self, policy_id: str, after: int, limit: int = 100) -> list[PolicyEvent]:
        """Kept events of a policy with revision > `after`, oldest first, no policy asked."""
        return await self._store.policy_events(policy_id, after, limit)

    def view(self, event: PolicyEvent, subjects: tuple[str, ...]) -> PolicyEvent | None:
        """A past event as these subjects may read it under the present policy; None for nothing."""
        enforcer = self.known_enforcer(event.policy_id)
        if enforcer is None:
            return None
        seen = enforcer.permissions(subjects, "", self.now()).view(event.path, event.value, "policy")
        return None if seen is MISSING else replace(event, value=seen)

    def listen(self, listener: PolicyListener) -> Callable[[], None]:
        """Add a listener for changes of policies, called synchronously after each commit."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # --- for the things service ---------------------------------------------------------------

    def enforcer(self, policy_id: str) -> Enforcer | None:
        """The enforcer of a policy's durable state, None where there is no such policy.

        Errors: Wait while it has to be read, or is being stored for the first time.
        """
        entry = self._loaded(policy_id)
        if entry.enforcer is not None:
            return entry.enforcer
        if entry.committed is None:
            if entry.in_flight:
                raise Wait(entry.settled.append)
            return None
        document = entry.committed.document
        entry.enforcer = build_enforcer(document, self._imported(policy_id, document))
        return entry.enforcer

    def known_enforcer(self, policy_id: str) -> Enforcer | None:
        """The enforcer if all that it needs is in memory; never waits."""
        try:
            return self.enforcer(policy_id)
        except Wait:
            return None

    def readable(self, policy_id: str, subjects: tuple[str, ...]) -> JsonObject | None:
        """A policy's JSON as these subjects may read it, if it is in memory."""
        enforcer, entry = self.known_enforcer(policy_id), self._entries.get(policy_id)
        if enforcer is None or entry is None or entry.committed is None:
            return None
        permissions = enforcer.permissions(subjects, "", self.now())
        seen = permissions.view((), entry.committed.document, "policy")
        return {"policyId": policy_id, **seen} if isinstance(seen, dict) else None

    def document(self, policy_id: str) -> JsonObject | None:
        """The newest document, also of a policy that is being stored; raises Wait."""
        newest = self._loaded(policy_id).newest
        return newest.document if newest else None

    def last_revision(self, policy_id: str) -> int:
        """The last revision that the id ever had, 0 for none; raises Wait."""
        return self._loaded(policy_id).revision

    def imported(self, policy_id: str, document: JsonObject) -> dict[str, JsonObject]:
        """The documents that a document imports; raises Wait."""
        return self._imported(policy_id, document)

    def begin(self, event: PolicyEvent) -> None:
        """A write of this event is on its way to the store."""
        entry = self._loaded(event.policy_id)
        entry.newest, entry.revision = event.after, event.revision
        entry.in_flight += 1

    def finish(self, event: PolicyEvent, error: GatewayError | None) -> None:
        """A write of this event is durable, or failed."""
        entry = self._entry(event.policy_id)
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

    def now(self) -> str:
        """This instant as texts of expiry are compared with."""
        return text_of(self._clock())

    # --- inside -------------------------------------------------------------------------------

    def _step(self, entry: _Entry, command: PolicyCommand, pending: Pending) -> object | None:
        self._loaded(command.policy_id)
        if entry.in_flight:
            raise Wait(entry.settled.append)
        enforcer = self.enforcer(command.policy_id)
        now = self.now()
        permissions = enforcer.permissions(command.subjects, "", now) if enforcer else None
        if command.action is Action.RETRIEVE:
            if entry.newest is None or permissions is None:
                raise policy_not_found(command.policy_id)
            policy = self._viewed(entry.newest, command)
            return _shown(policy, command, read_policy(policy, command, permissions))
        wanted = _imports_in(command)
        document: JsonObject = dict(entry.newest.document) if entry.newest else {}
        own = document.get("imports")
        names = [*wanted, *(own if isinstance(own, dict) else ())]
        imported = self._documents(command.policy_id, names)
        self._check_importable(command, wanted, now)
        context = PolicyContext(now, entry.revision, permissions, self._limits, imported)
        decision = decide_policy(entry.newest, command, context)
        result = ThingResult(
            status=decision.status,
            value=None if decision.value is MISSING else decision.value,
            has_value=decision.value is not MISSING,
            etag=decision.etag,
            revision=decision.event.revision,
        )
        self._write(decision.event, pending, result)
        return None

    def _write(self, event: PolicyEvent, pending: Pending, result: ThingResult) -> None:
        pending.is_write = True
        self.begin(event)
        document = encoded(event.after.document) if event.after else None

        def stored(answer: Committed | GatewayError) -> None:
            error = answer if isinstance(answer, GatewayError) else None
            self.finish(event, error)
            pending.settle(error or result)

        self._store.append(Commit(policy=PolicyWrite(event, document)), stored)

    def _viewed(self, policy: Policy, command: PolicyCommand) -> Policy:
        """The policy as `policy-view` asks for it: as written, or with what it imports."""
        if str(command.headers.get("policy-view", "original")) != "resolved":
            return policy
        imported = self._imported(policy.policy_id, policy.document)
        return replace(policy, document=resolved_document(policy.document, imported))

    def _check_importable(self, command: PolicyCommand, wanted: tuple[str, ...], now: str) -> None:
        """Whoever writes an import must be able to read what it brings."""
        for policy_id in wanted:
            enforcer = self.enforcer(policy_id)
            mine = enforcer.permissions(command.subjects, "", now) if enforcer else None
            if mine is None or not mine.partial("policy", ("entries",), READ):
                raise ditto_error("policies:import.notfound", id=command.policy_id, key=policy_id)

    def _loaded(self, policy_id: str) -> _Entry:
        entry = self._entry(policy_id)
        if not entry.is_loaded:
            raise Wait(lambda resume: self._fetch(entry, resume))
        return entry

    def _fetch(self, entry: _Entry, resume: Resume) -> None:
        def loaded(answer: StoredPolicy | GatewayError) -> None:
            if isinstance(answer, GatewayError):
                resume(answer)
                return
            if not entry.is_loaded and not entry.in_flight:
                entry.newest = entry.committed = answer.policy
                entry.revision = answer.revision
                entry.is_loaded = True
            resume(None)

        self._store.load_policy(entry.policy_id, loaded)

    def _imported(self, policy_id: str, document: JsonObject) -> dict[str, JsonObject]:
        return self._documents(policy_id, imports_of(document))

    def _documents(self, importer: str, names: object) -> dict[str, JsonObject]:
        found: dict[str, JsonObject] = {}
        for name in names if isinstance(names, (list, dict, tuple)) else ():
            self._importers.setdefault(name, set()).add(importer)
            committed = self._loaded(name).committed
            if committed is not None:
                found[name] = committed.document
        return found

    def _changed(self, event: PolicyEvent) -> None:
        for policy_id in (event.policy_id, *self._importers.get(event.policy_id, ())):
            entry = self._entries.get(policy_id)
            if entry is not None:
                entry.enforcer = None
        for listener in tuple(self._listeners):
            listener(event)

    def _entry(self, policy_id: str) -> _Entry:
        entry = self._entries.pop(policy_id, None)
        if entry is None:
            entry = _Entry(policy_id, self)
            self._make_room()
        self._entries[policy_id] = entry  # last is the most recently used
        return entry

    def _make_room(self) -> None:
        if len(self._entries) < self._cache:
            return
        oldest = next(iter(self._entries.values()))
        if oldest.is_idle:
            del self._entries[oldest.policy_id]
            for importers in self._importers.values():
                importers.discard(oldest.policy_id)


def _imports_in(command: PolicyCommand) -> tuple[str, ...]:
    """The policies that a command would add as imports."""
    value: Json = command.value
    match policy_part_of(command.path):
        case PolicyPart.POLICY:
            value = value.get("imports") if isinstance(value, dict) else None
        case PolicyPart.IMPORT if command.action is not Action.DELETE:
            return (command.path[1],)
        case PolicyPart.IMPORTS:
            pass
        case _:
            return _NOBODY
    return tuple(value) if isinstance(value, dict) else _NOBODY


def _shown(policy: Policy, command: PolicyCommand, value: Json) -> ThingResult:
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
    full: Json = policy_json(policy) if part is PolicyPart.POLICY else value
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
