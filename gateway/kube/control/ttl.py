"""Finished Jobs go when their time is over. Source: Kubernetes, "Automatic Cleanup for Finished Jobs"."""

from __future__ import annotations

from gateway.errors import NotFound
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import uid_of
from gateway.kube.informer import Key
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.jobpods import outcome_of
from gateway.wire.kube.parts import part
from gateway.wire.kube.podstate import is_deleting

PLACE = "batch/v1", "jobs"


class TtlController:
    """Follows Jobs that have ended."""

    def __init__(self, context: Context) -> None:
        self._kube = context.kube
        self._now = context.now
        self._jobs = context.mirrors.of(*PLACE)
        self._loop: Loop[Key] = Loop(self._work)
        self._jobs.on_change(lambda change: self._loop.poke(change.key))

    async def run(self) -> None:
        """Work until cancelled."""
        await self._loop.run()

    async def _work(self, key: Key) -> None:
        job = self._jobs.get(*key)
        if job is None or self._jobs.is_doomed(job) or not self._is_over(key, job):
            return
        try:
            fresh = await self._kube.get(*PLACE, *key)  # its time may have been prolonged
            if not self._is_over(key, fresh):
                return
            await self._kube.delete(*PLACE, *key, uid=uid_of(fresh), propagation="Foreground")
        except NotFound:
            return
        self._jobs.doom(job)

    def _is_over(self, key: Key, job: JsonObject) -> bool:
        """True when a Job's time is over; makes an appointment when it is not yet."""
        left = seconds_left(job, self._now())
        if left is None:
            self._loop.forget(key)
            return False
        if left > 0:
            self._loop.forget(key)
            self._loop.poke_after(key, left)
        return left <= 0


def seconds_left(job: JsonObject, now: float) -> float | None:
    """Return how long a Job is to stay; None for one that stays, runs still or is going."""
    ttl, outcome = part(job, "spec").get("ttlSecondsAfterFinished"), outcome_of(job)
    if not isinstance(ttl, int) or outcome is None or is_deleting(job):
        return None
    ended = parse_rfc3339(outcome.get("lastTransitionTime"))
    return None if ended is None else ended + ttl - now
