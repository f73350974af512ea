"""CronJobs: a Job each time the schedule says so.

The name of a Job says which start it is of, so no start happens twice, wherever the loop was ended. Clocks
that are set are noticed within `CLOCK_SECONDS`. Source: Kubernetes, "CronJob".
"""

from __future__ import annotations

import asyncio
import json

from gateway.errors import BadRequest, GatewayError, NotFound
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import controller_of, controller_uid, key_of, uid_of
from gateway.kube.control.pods_of import OwnerKind, is_namespace_ending
from gateway.kube.control.statuses import write_status
from gateway.kube.events import WARNING, reference_to
from gateway.kube.informer import Change, Key
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339, rfc3339
from gateway.wire.kube.cron import Every, Schedule, find_zone
from gateway.wire.kube.cronplan import (
    MANY,
    active_of,
    day_time,
    finished_surplus,
    job_from,
    job_name,
    missed,
    schedule_of,
    seconds_to_next,
)
from gateway.wire.kube.jobpods import COMPLETE, outcome_of
from gateway.wire.kube.parts import part, text
from gateway.wire.kube.podstate import is_deleting
from gateway.wire.kube.status import AlreadyExists

KIND = OwnerKind("batch/v1", "cronjobs", "CronJob", "cronjob-controller")
PLACE = KIND.group_version, KIND.plural
JOBS = "batch/v1", "jobs"
CLOCK_SECONDS = 20.0


class CronJobController:
    """Follows CronJobs and the Jobs that are theirs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kube = context.kube
        self._now = context.now
        self._crons = context.mirrors.of(*PLACE)
        self._jobs = context.mirrors.of(*JOBS)
        self._owned = self._jobs.index("controller", controller_uid)
        self._due: dict[Key, float] = {}
        self._loop: Loop[Key] = Loop(self._work)
        self._crons.on_change(lambda change: self._loop.poke(change.key))
        self._jobs.on_change(self._on_job)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop.run())
            group.create_task(self._watch_clock())

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_SECONDS)
            for key, due in self._due.items():
                if self._now() >= due:
                    self._loop.poke(key)

    def _on_job(self, change: Change) -> None:
        for job in (change.old, change.new):
            owner = None if job is None else controller_of(job)
            if owner is not None and owner.get("kind") == KIND.kind:
                self._loop.poke((change.key[0], text(owner.get("name"))))

    # --- one CronJob ------------------------------------------------------------------------------

    async def _work(self, key: Key) -> None:
        cron = self._crons.get(*key)
        self._due.pop(key, None)
        if cron is None:
            self._loop.forget(key)
            return
        round_ = _Round(self._context, cron, self._owned.get(uid_of(cron)))
        error: GatewayError | None = None
        try:
            wait = await round_.run()
        except GatewayError as caught:
            wait, error = None, caught
        await round_.clean_up()
        await round_.store()
        if error is not None and not is_namespace_ending(error):
            raise error
        if wait is not None:
            self._due[key] = self._now() + wait
            self._loop.poke_after(key, wait)


class _Round:
    """One look at one CronJob; `cron` is a copy whose status changes on the way."""

    def __init__(self, context: Context, cron: JsonObject, jobs: list[JsonObject]) -> None:
        self._context = context
        self._kube = context.kube
        self._mirror = context.mirrors.of(*JOBS)
        self._stored = KIND.named(cron)
        self._status: JsonObject = dict(part(cron, "status"))
        self._cron: JsonObject = {**self._stored, "status": self._status}
        self._jobs = jobs
        self._is_sound = True

    async def run(self) -> float | None:
        """Start what is due; return the seconds until the next look. Errors: what the server says."""
        await self._follow_jobs()
        await self._forget_missing()
        schedule = None if is_deleting(self._cron) else self._schedule()
        if schedule is None:
            return None
        now = self._context.now()
        due = self._due(schedule, now)
        if due is not None:
            await self._start(due)
        elif not self._is_sound:
            return None
        return seconds_to_next(self._cron, schedule, now)

    async def store(self) -> None:
        """Write the status where it has changed."""
        if self._status != part(self._stored, "status"):
            await write_status(self._context, PLACE, self._stored, self._status)

    async def clean_up(self) -> None:
        """Delete finished Jobs that the history does not keep."""
        jobs = [job for job in self._jobs if not self._mirror.is_doomed(job)]
        for job in finished_surplus(self._cron, jobs):
            await self._delete(job)

    # --- Jobs that run ----------------------------------------------------------------------------

    async def _follow_jobs(self) -> None:
        for job in self._jobs:
            is_listed, outcome = self._lists(uid_of(job)), outcome_of(job)
            if outcome is None and not is_listed:
                await self._tell_unexpected(job)
            if outcome is None:
                continue
            if is_listed:
                self._strike(uid_of(job))
                kind = text(outcome.get("type"))
                message = f"Saw completed job: {key_of(job)[1]}, condition: {kind}"
                self._tell("SawCompletedJob", message)
            if outcome.get("type") == COMPLETE:
                self._note_success(part(job, "status").get("completionTime"))

    async def _tell_unexpected(self, job: JsonObject) -> None:
        fresh = await self._kube.get(*PLACE, *key_of(self._cron))
        if any(entry.get("uid") == uid_of(job) for entry in active_of(fresh)):
            return
        name = key_of(job)[1]
        message = f"Saw a job that the controller did not create or forgot: {name}"
        self._tell("UnexpectedJob", message, WARNING)

    def _note_success(self, ended: Json) -> None:
        last = parse_rfc3339(self._status.get("lastSuccessfulTime"))
        now = parse_rfc3339(ended)
        if now is not None and (last is None or now > last):
            self._status["lastSuccessfulTime"] = ended

    async def _forget_missing(self) -> None:
        known = {uid_of(job) for job in self._jobs}
        for entry in active_of(self._cron):
            if entry.get("uid") in known:
                continue
            name = text(entry.get("name"))
            try:
                await self._kube.get(*JOBS, text(entry.get("namespace")), name)
            except NotFound:
                self._tell("MissingJob", f"Active job went missing: {name}")
                self._strike(text(entry.get("uid")))

    def _lists(self, uid: str) -> bool:
        return any(entry.get("uid") == uid for entry in active_of(self._cron))

    def _strike(self, uid: str) -> None:
        left = [entry for entry in active_of(self._cron) if entry.get("uid") != uid]
        self._list(left)

    def _list(self, entries: list[JsonObject]) -> None:
        if entries:
            self._status["active"] = list[Json](entries)
        else:
            self._status.pop("active", None)

    # --- what is due ------------------------------------------------------------------------------

    def _schedule(self) -> Schedule | Every | None:
        """Return the schedule, None while nothing is to be started."""
        spec = part(self._cron, "spec")
        zone, said = text(spec.get("timeZone")), text(spec.get("schedule"))
        try:
            find_zone(zone)
        except BadRequest as error:
            told = f"invalid timeZone: {_quoted(zone)}: {error.message}"
            self._tell("UnknownTimeZone", told, WARNING)
            return None
        if spec.get("suspend") is True:
            return None
        try:
            return schedule_of(self._cron)
        except BadRequest as error:
            told = f"unparseable schedule: {_quoted(said)} : {error.message}"
            self._tell("UnparseableSchedule", told, WARNING)
            return None

    def _due(self, schedule: Schedule | Every, now: float) -> float | None:
        """Return the start that is to happen now, None when there is none."""
        spec = part(self._cron, "spec")
        try:
            found = missed(self._cron, schedule, now)
        except BadRequest as error:
            told = f"invalid schedule: {text(spec.get('schedule'))} : {error.message}"
            self._tell("InvalidSchedule", told, WARNING)
            self._is_sound = False
            return None
        if found.latest is None:
            return None
        if found.count > MANY:
            told = (
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds"
                " or check clock skew"
            )
            self._tell("TooManyMissedTimes", told, WARNING)
        deadline = spec.get("startingDeadlineSeconds")
        if isinstance(deadline, int) and found.latest + deadline < now:
            told = f"Missed scheduled time to start a job: {day_time(found.latest)}"
            self._tell("MissSchedule", told, WARNING)
            return None
        return None if self._is_started(found.latest) else self._allowed(found.latest)

    def _is_started(self, due: float) -> bool:
        name = job_name(self._cron, due)
        is_listed = any(entry.get("name") == name for entry in active_of(self._cron))
        return is_listed or parse_rfc3339(self._status.get("lastScheduleTime")) == due

    def _allowed(self, due: float) -> float | None:
        policy = part(self._cron, "spec").get("concurrencyPolicy")
        if policy == "Forbid" and active_of(self._cron):
            told = (
                "Not starting job because prior execution is running and concurrency policy"
                " is Forbid"
            )
            self._tell("JobAlreadyActive", told)
            return None
        return due

    # --- doing it ---------------------------------------------------------------------------------

    async def _start(self, due: float) -> None:
        if part(self._cron, "spec").get("concurrencyPolicy") == "Replace":
            await self._replace()
        body = job_from(self._cron, KIND.reference(self._cron), due)
        namespace = key_of(self._cron)[0]
        try:
            job = await self._kube.create(*JOBS, namespace, body)
        except AlreadyExists:
            job = await self._kube.get(*JOBS, namespace, job_name(self._cron, due))
            owner = controller_of(job)
            if owner is None or owner.get("uid") != uid_of(self._cron):
                return
            if self._lists(uid_of(job)):
                return
        except GatewayError as error:
            if not is_namespace_ending(error):
                self._tell("FailedCreate", f"Error creating job: {error.message}", WARNING)
            raise
        else:
            self._tell("SuccessfulCreate", f"Created job {key_of(job)[1]}")
        self._mirror.put(job)
        reference = reference_to({**job, "apiVersion": JOBS[0], "kind": "Job"})
        self._list([*active_of(self._cron), reference])
        self._status["lastScheduleTime"] = rfc3339(due)

    async def _replace(self) -> None:
        """End the Jobs that run still. Errors: the next round tries again."""
        for entry in active_of(self._cron):
            place = text(entry.get("namespace")), text(entry.get("name"))
            try:
                job = await self._kube.get(*JOBS, *place)
            except GatewayError as error:
                self._tell("FailedGet", f"Get job: {error.message}", WARNING)
                raise
            failure = await self._delete(job)
            if failure is not None:
                raise failure

    async def _delete(self, job: JsonObject) -> GatewayError | None:
        namespace, name = key_of(job)
        try:
            await self._kube.delete(*JOBS, namespace, name)
        except GatewayError as error:
            self._tell("FailedDelete", f"Deleted job: {error.message}", WARNING)
            return error
        self._mirror.doom(job)
        self._strike(uid_of(job))
        self._tell("SuccessfulDelete", f"Deleted job {name}")
        return None

    def _tell(self, reason: str, message: str, type_: str = "Normal") -> None:
        self._context.events.record(
            self._stored, reason, message, type_=type_, component=KIND.component
        )


def _quoted(said: str) -> str:
    return json.dumps(said, ensure_ascii=False)
