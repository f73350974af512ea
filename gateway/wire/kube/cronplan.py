"""When a CronJob is due, and the Job that it starts then.

Source: Kubernetes, "CronJob" (starting deadline, missed schedules, time zones); batch/v1.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.cron import Every, Schedule, find_zone, parse_schedule
from gateway.wire.kube.jobpods import outcome_of
from gateway.wire.kube.parts import part, rows, text

SCHEDULED: Final = "batch.kubernetes.io/cronjob-scheduled-timestamp"
LATE_SECONDS: Final = 0.1
"""A little after the instant: clocks of two machines differ."""
MANY: Final = 100


@dataclass(frozen=True, slots=True)
class Missed:
    """Starts that were due. Units: seconds since 1970; `latest` is None when none was."""

    since: float
    latest: float | None = None
    count: int = 0


def schedule_of(cron: JsonObject) -> Schedule | Every:
    """Read the schedule. Errors: BadRequest."""
    spec = part(cron, "spec")
    return parse_schedule(text(spec.get("schedule")), find_zone(text(spec.get("timeZone"))))


def missed(
    cron: JsonObject, schedule: Schedule | Every, now: float, *, with_deadline: bool = True
) -> Missed:
    """Return what was due since the last start, or since the CronJob is there.

    Errors: BadRequest for a schedule without instants, e.g. the 31st of February.
    """
    since = parse_rfc3339(part(cron, "status").get("lastScheduleTime"))
    if since is None:
        since = parse_rfc3339(part(cron, "metadata").get("creationTimestamp")) or now
    deadline = part(cron, "spec").get("startingDeadlineSeconds")
    if with_deadline and isinstance(deadline, int):
        since = max(since, now - deadline)
    first = schedule.next(since)
    second = None if first is None else schedule.next(first)
    if first is None or second is None:
        raise BadRequest("time difference between two schedules is less than 1 second")
    if now < first:
        return Missed(since)
    if now < second:
        return Missed(since, first)
    between = second - first
    count = int((now - first) // between) + 1
    return Missed(since, _latest(schedule, first + (count - 2) * between, now), count)


def _latest(schedule: Schedule | Every, since: float, now: float) -> float | None:
    latest, following = None, schedule.next(since)
    while following is not None and following <= now:
        latest, following = following, schedule.next(following)
    return latest


def seconds_to_next(cron: JsonObject, schedule: Schedule | Every, now: float) -> float:
    """After how long to look again."""
    try:
        known = missed(cron, schedule, now, with_deadline=False)
    except BadRequest:
        known = Missed(now, now)
    since = known.latest
    if since is None:
        since = now if known.count else known.since
    following = schedule.next(since)
    return max((following or now + 86_400.0) + LATE_SECONDS - now, 0.0)


def job_name(cron: JsonObject, due: float) -> str:
    """The name of the Job of a start: two attempts at one start have one name."""
    return f"{part(cron, 'metadata').get('name')}-{int(due) // 60}"


def job_from(cron: JsonObject, reference: JsonObject, due: float) -> JsonObject:
    """Return the Job of a start."""
    template = part(cron, "spec", "jobTemplate")
    metadata: JsonObject = {
        "name": job_name(cron, due),
        "annotations": {**part(template, "metadata", "annotations"), SCHEDULED: _shown(cron, due)},
        "ownerReferences": [reference],
    }
    labels = part(template, "metadata", "labels")
    if labels:
        metadata["labels"] = dict(labels)
    spec = deepcopy(part(template, "spec"))
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _shown(cron: JsonObject, due: float) -> str:
    zone = find_zone(text(part(cron, "spec").get("timeZone")))
    return datetime.fromtimestamp(int(due), zone).isoformat().replace("+00:00", "Z")


def day_time(seconds: float) -> str:
    """Write an instant as events name it: `Mon, 23 Nov 2026 11:00:00 +0000`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%a, %d %b %Y %H:%M:%S +0000")


def active_of(cron: JsonObject) -> list[JsonObject]:
    """The Jobs that a CronJob's status lists as running."""
    return rows(part(cron, "status").get("active"))


def finished_surplus(cron: JsonObject, jobs: list[JsonObject]) -> list[JsonObject]:
    """Return the finished Jobs beyond what the history keeps, oldest first."""
    spec = part(cron, "spec")
    going: list[JsonObject] = []
    for key, kind in (
        ("successfulJobsHistoryLimit", "Complete"),
        ("failedJobsHistoryLimit", "Failed"),
    ):
        limit = spec.get(key)
        if isinstance(limit, int):
            ended = sorted((job for job in jobs if _ended_as(job) == kind), key=_age_key)
            going += ended[: max(len(ended) - limit, 0)]
    return going


def _ended_as(job: JsonObject) -> Json:
    found = outcome_of(job)
    return None if found is None else found.get("type")


def _age_key(job: JsonObject) -> tuple[bool, float, str]:
    started = parse_rfc3339(part(job, "status").get("startTime"))
    return started is None, started or 0.0, text(part(job, "metadata").get("name"))
