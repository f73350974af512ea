"""Jobs: Pods until enough of them succeeded, each counted exactly once.

The decisions are in `gateway.wire.kube.jobplan` and `jobtally`. May be killed at any point: what was counted
stands in the status, what was not still has its finalizer. Source: Kubernetes, "Jobs".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.errors import GatewayError, NotFound
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import controller_of, key_of, uid_of
from gateway.kube.control.pods_of import (
    OwnerKind,
    PodsOf,
    first_error,
    is_namespace_ending,
    side_by_side,
    slow_start,
)
from gateway.kube.informer import Change, Key
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.jobplan import Look, births, look, removed, surplus
from gateway.wire.kube.jobpods import TRACKING, Backoff, is_tracked, outcome_of
from gateway.wire.kube.jobtally import counted, finish, settle, tally
from gateway.wire.kube.jobtemplates import job_pod
from gateway.wire.kube.parts import part
from gateway.wire.kube.podstate import is_deleting
from gateway.wire.kube.selectors import read_selector

KIND = OwnerKind("batch/v1", "jobs", "Job", "job-controller")
PLACE = KIND.group_version, KIND.plural
MANAGED_BY = "kubernetes.io/job-controller"
PAUSE_SECONDS = 0.2
"""News of Pods is taken in together."""


class JobPods(PodsOf):
    """The Pods of Jobs: an adopted one is to be counted, too."""

    async def _adopt(self, owner: JsonObject, item: JsonObject) -> JsonObject | None:
        patch: JsonObject = {
            "metadata": {
                "uid": uid_of(item),
                "ownerReferences": [self.kind.reference(owner)],
                "finalizers": [TRACKING],
            }
        }
        try:
            return await self._patch(item, patch)
        except NotFound:
            return None

    async def untrack(self, pod: JsonObject) -> None:
        """Take the finalizer away; a Pod that is gone is no error."""
        patch: JsonObject = {
            "metadata": {
                "uid": uid_of(pod),
                "$deleteFromPrimitiveList/finalizers": [TRACKING],
            }
        }
        try:
            await self._patch(pod, patch)
        except NotFound:
            return


class JobController:
    """Follows Jobs and their Pods."""

    def __init__(self, context: Context) -> None:
        self._kube = context.kube
        self._events = context.events
        self._now = context.now
        self._pods = JobPods(context, KIND)
        self._jobs = self._pods.owners
        self._records: dict[str, Backoff] = {}
        """uid of a Job -> how often its Pods failed; bounded by the Jobs that run."""
        self._loop: Loop[Key] = Loop(self._work, pause=PAUSE_SECONDS)
        self._left: Loop[Key] = Loop(self._release)
        self._pods.listen(self._loop.poke)
        self._pods.mirror.on_change(self._on_pod)
        self._jobs.on_change(self._on_job)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop.run())
            group.create_task(self._left.run())

    # --- Pods that no Job will count any more -----------------------------------------------------

    def _on_pod(self, change: Change) -> None:
        pod = change.new
        if pod is None or not is_tracked(pod):
            return
        owner = self._pods.owner_of(pod)
        if owner is None or outcome_of(owner) is not None:
            self._left.poke(change.key)

    def _on_job(self, change: Change) -> None:
        for job in (change.old, change.new):
            if job is None or (job is change.old and not _is_other(job, change.new)):
                continue
            if job is change.new and outcome_of(job) is None:
                continue
            self._records.pop(uid_of(job), None)
            for pod in self._pods.owned(job):
                if is_tracked(pod):
                    self._left.poke(key_of(pod))

    async def _release(self, key: Key) -> None:
        pod = self._pods.mirror.get(*key)
        if pod is not None and is_tracked(pod) and await self._is_left(pod):
            await self._pods.untrack(pod)

    async def _is_left(self, pod: JsonObject) -> bool:
        """True when nobody is going to count a Pod."""
        reference = controller_of(pod)
        if reference is None:
            return True
        if (reference.get("kind"), reference.get("apiVersion")) != (KIND.kind, KIND.group_version):
            return False
        job = self._pods.owner_of(pod)
        if job is None:  # this mirror may be late
            job = await self._find(key_of(pod)[0], str(reference.get("name")))
        if job is None or uid_of(job) != reference.get("uid"):
            return True
        return outcome_of(job) is not None and not _is_foreign(job)

    async def _find(self, namespace: str, name: str) -> JsonObject | None:
        try:
            return await self._kube.get(*PLACE, namespace, name)
        except NotFound:
            return None

    # --- one Job ----------------------------------------------------------------------------------

    async def _work(self, key: Key) -> None:
        job = self._jobs.get(*key)
        if job is None or outcome_of(job) is not None:
            self._loop.forget(key)
            return
        if _is_foreign(job):
            return
        found = await self._look(job)
        error = await self._manage(found)
        await self._write(found)
        if found.again is not None:
            self._loop.poke_after(key, found.again)
        if error is not None:
            raise error

    async def _look(self, job: JsonObject) -> Look:
        selector = read_selector(part(job, "spec", "selector"))
        pods = await self._pods.claim(job, selector) if selector.terms else self._pods.owned(job)
        record = self._records.get(uid_of(job), Backoff())
        return look(job, [self._shown(pod) for pod in pods], record, self._now())

    def _shown(self, pod: JsonObject) -> JsonObject:
        """Return a Pod as it will be: one that was deleted says so."""
        if is_deleting(pod) or not self._pods.mirror.is_doomed(pod):
            return pod
        stamp = rfc3339(self._now())
        return {**pod, "metadata": {**part(pod, "metadata"), "deletionTimestamp": stamp}}

    async def _manage(self, found: Look) -> GatewayError | None:
        """Start and end Pods; returns what went wrong."""
        if found.verdict is not None:
            error = await self._delete(found, found.active)
            if error is not None:
                found.verdict = None  # it is not over while Pods run
            return error
        error, is_managed = None, not is_deleting(found.job)
        if is_managed:
            error = await self._balance(found)
        settle(found, is_managed=is_managed)
        return error

    async def _balance(self, found: Look) -> GatewayError | None:
        going = surplus(found)
        if going:
            return await self._delete(found, going, uncounted=True)
        return await self._create(found, births(found))

    async def _delete(
        self, found: Look, pods: list[JsonObject], *, uncounted: bool = False
    ) -> GatewayError | None:
        """Delete running Pods; `uncounted`: those are not to count as failed."""

        async def delete(pod: JsonObject) -> None:
            if uncounted and is_tracked(pod):
                await self._pods.untrack(pod)
            await self._pods.delete(found.job, pod)

        errors = await side_by_side([lambda pod=pod: delete(pod) for pod in pods])  # type: ignore[misc]
        removed(found, [pod for pod, error in zip(pods, errors, strict=True) if error is None])
        return first_error(errors)

    async def _create(self, found: Look, indexes: list[int | None]) -> GatewayError | None:
        left = iter(indexes)
        reference = KIND.reference(found.job)

        async def create() -> None:
            index = next(left)
            replaced = None if index is None else found.waiting.get(index)
            await self._pods.create_as(found.job, job_pod(found.job, reference, index, replaced))

        done, error = await slow_start(len(indexes), create)
        found.running += done
        return None if error is not None and is_namespace_ending(error) else error

    # --- its status -------------------------------------------------------------------------------

    async def _write(self, found: Look) -> None:
        going, is_whole = tally(found)
        await self._store(found)
        self._tell(found)
        self._records[uid_of(found.job)] = found.record
        errors = await side_by_side([lambda pod=pod: self._pods.untrack(pod) for pod in going])  # type: ignore[misc]
        done = {uid_of(pod) for pod, error in zip(going, errors, strict=True) if error is None}
        counted(found, _tracked(found.pods) - done)
        error = first_error(errors)
        is_over = error is None and is_whole and finish(found)
        await self._store(found)
        self._tell(found)
        if is_over:
            self._records.pop(uid_of(found.job), None)
        if error is not None:
            raise error

    async def _store(self, found: Look) -> None:
        """Write the status where it differs; a conflict means that the whole look was on old news."""
        if found.status == found.job.get("status"):
            return
        body: JsonObject = {**KIND.named(found.job), "status": dict(found.status)}
        namespace = key_of(found.job)[0]
        found.job = await self._kube.update(*PLACE, namespace, body, subresource="status")
        self._jobs.put(found.job)

    def _tell(self, found: Look) -> None:
        about = KIND.named(found.job)
        for type_, reason, message in found.events:
            self._events.record(about, reason, message, type_=type_, component=KIND.component)
        found.events.clear()


def _tracked(pods: Iterable[JsonObject]) -> set[str]:
    return {uid_of(pod) for pod in pods if is_tracked(pod)}


def _is_foreign(job: JsonObject) -> bool:
    """True for a Job that another controller looks after."""
    return part(job, "spec").get("managedBy") not in (None, MANAGED_BY)


def _is_other(job: JsonObject, new: JsonObject | None) -> bool:
    return new is None or uid_of(new) != uid_of(job)
