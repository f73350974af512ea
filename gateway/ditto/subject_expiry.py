"""Ends of policies' subjects: announced before, deleted when the time has come, announced after.

The store knows for each policy when something may be due; those of the next minutes are watched in memory.
After a restart the store is asked again: what came due meanwhile happens then, and what was announced
and not yet deleted is announced once more.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from gateway.ditto.announcements import SubjectDeletion
from gateway.ditto.clock import text_of
from gateway.ditto.policies import PoliciesService
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.model.policy import PolicyEvent
from gateway.twin.durations import instant_text
from gateway.twin.policy_expiry import Lease, Step, Watch, leases_of, subjects_of

log = logging.getLogger(__name__)

HORIZON_SECONDS: Final = 600.0
"""How far ahead subjects are watched in memory; the store is asked twice as often."""
MAX_POLICIES: Final = 100_000
"""Policies looked at in one go, the earliest first; the others come the next time."""


class SubjectExpiry:
    """Module: ends subjects in time."""

    name = "ditto.policies"

    def __init__(self, policies: PoliciesService, *, horizon: float = HORIZON_SECONDS) -> None:
        self._policies = policies
        self._settings = policies.settings
        self._horizon = timedelta(seconds=horizon)
        self._watches: dict[tuple[str, str], Watch] = {}
        self._heap: list[tuple[datetime, int, tuple[str, str]]] = []
        self._count = 0
        self._changed = asyncio.Event()

    async def run(self, ready: Callable[[], None]) -> None:
        """Watch until cancelled."""
        end = self._policies.listen(self._on_event)
        try:
            ready()
            while True:
                await self._look_ahead()
                await self._work_until(self._now() + self._horizon / 2)
        finally:
            end()
            self._policies.announcements.close()

    def _now(self) -> datetime:
        return self._policies.clock()

    # --- what is watched ----------------------------------------------------------------------

    async def _look_ahead(self) -> None:
        """Watch what the store says is due before the horizon."""
        until = text_of(self._now() + self._horizon)
        try:
            for name in await self._policies.store.due_policies(until, MAX_POLICIES):
                policy = await self._policies.load(name)
                if policy is not None:
                    self._watch(name, policy.document)
        except GatewayError as error:
            log.warning("ends of subjects could not be read", extra={"cause": error.message})

    def _watch(self, policy_id: str, document: JsonObject) -> None:
        now = self._now()
        for subject, lease in leases_of(document, self._settings.announcement_spread).items():
            key = (policy_id, subject)
            known = self._watches.get(key)
            if known is not None and known.lease == lease:
                continue
            self._watches.pop(key, None)
            watch = self._new(lease, now)
            if watch.at is not None and watch.at <= now + self._horizon:
                self._watches[key] = watch
                self._schedule(key, watch)

    def _new(self, lease: Lease, now: datetime) -> Watch:
        grace = self._settings.announcement_grace
        watch = Watch(lease, grace, jitter=random.random())  # noqa: S311  spreads load, hides nothing
        watch.start(now)
        return watch

    def _on_event(self, event: PolicyEvent) -> None:
        before = event.before.document if event.before else {}
        after = event.after.document if event.after else {}
        present = subjects_of(after)
        left = leases_of(after, self._settings.announcement_spread)
        for subject, lease in leases_of(before, self._settings.announcement_spread).items():
            key = (event.policy_id, subject)
            if subject not in present:
                self._on_deleted(key, lease)
            elif subject not in left:
                self._watches.pop(key, None)  # it ends no more
        if event.after is not None:
            self._watch(event.policy_id, after)

    def _on_deleted(self, key: tuple[str, str], lease: Lease) -> None:
        now = self._now()
        watch = self._watches.get(key)
        if watch is None:
            if not lease.when_deleted:
                return
            watch = self._watches[key] = self._new(lease, now)
        watch.deleted(now, self._settings.announce_when_deleted)
        self._schedule(key, watch)

    # --- what is done -------------------------------------------------------------------------

    async def _work_until(self, until: datetime) -> None:
        while (now := self._now()) < until:
            self._changed.clear()
            while self._heap and self._heap[0][0] <= now:
                at, _, key = heapq.heappop(self._heap)
                watch = self._watches.get(key)
                if watch is not None and watch.at == at:
                    await self._step(key, watch, now)
            wake = min(until, self._heap[0][0]) if self._heap else until
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, (wake - self._now()).total_seconds())):
                    await self._changed.wait()

    def _schedule(self, key: tuple[str, str], watch: Watch) -> None:
        """Come back when the next step is due; earlier appointments are void."""
        if watch.at is not None:
            self._count += 1
            heapq.heappush(self._heap, (watch.at, self._count, key))
            self._changed.set()

    async def _step(self, key: tuple[str, str], watch: Watch, now: datetime) -> None:
        step = watch.step(now)
        if step is Step.ANNOUNCE:
            self._announce(key, watch)
        elif step is Step.DELETE:
            await self._delete(key[0])
        if self._watches.get(key) is not watch:
            return
        if watch.is_over:
            del self._watches[key]
        else:
            self._schedule(key, watch)

    def _announce(self, key: tuple[str, str], watch: Watch) -> None:
        def done(is_good: bool) -> None:
            if watch.lease.labels:
                watch.acknowledged(is_good, self._now())
                self._schedule(key, watch)

        delete_at = watch.delete_at or self._now()
        self._policies.announcements.publish(
            SubjectDeletion(
                policy_id=key[0],
                subject=watch.lease.subject,
                delete_at=instant_text(delete_at),
                timestamp=text_of(self._now()),
                labels=watch.lease.labels,
                ack_seconds=watch.lease.ack_seconds,
            ),
            done,
        )

    async def _delete(self, policy_id: str) -> None:
        """Delete all that is over; a store that fails is asked again later."""
        try:
            while await self._policies.expire(policy_id):
                pass
        except GatewayError as error:
            log.warning(
                "expired subject could not be deleted",
                extra={"policy": policy_id, "cause": error.message},
            )
