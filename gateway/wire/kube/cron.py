"""Schedules of CronJobs: five fields, names, steps, `@hourly` and its kin, `@every`, in a time zone.

Source: Kubernetes, "CronJob", schedule syntax; the cron library that it is built on (robfig/cron v3), whose
rules for days, daylight saving time and messages are followed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.errors import BadRequest

YEARS_AHEAD: Final = 5
"""A schedule that has no instant within these years has none."""
MAX_LENGTH: Final = 1_000
"""A longer schedule is not read; one that names each minute, hour, day and month has 400 characters."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@dataclass(frozen=True, slots=True)
class _Field:
    least: int
    most: int
    names: tuple[str, ...] = ()

    def number(self, text: str) -> int:
        """Read a number or name. Errors: BadRequest."""
        if text.lower() in self.names:
            return self.least + self.names.index(text.lower())
        return _number(text)


_FIELDS = (
    _Field(0, 59),
    _Field(0, 23),
    _Field(1, 31),
    _Field(1, 12, _MONTHS),
    _Field(0, 6, _DAYS),
)
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EVERY = "@every "
_ZONES = ("TZ=", "CRON_TZ=")
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3_600.0,
}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class Every:
    """An instant each `seconds` after the last one."""

    seconds: int

    def next(self, after: float) -> float | None:
        """Return the first instant after `after` (seconds since 1970)."""
        return float(int(after) + self.seconds)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Sets of minutes, hours, days, months and weekdays (0 is Sunday) in a zone.

    Shape:  a day matches both sets while one of them is `*`, otherwise one of them.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    has_every_day: bool
    zone: tzinfo = UTC

    def next(self, after: float) -> float | None:
        """Return the first instant after `after` (seconds since 1970), None when there is none.

        What the clocks leave out is left out; what they show twice comes twice.
        """
        at = _local(int(after) + 1, self.zone)
        if at.second:
            at = _moved(at, 60 - at.second)
        last_year = at.year + YEARS_AHEAD
        while at.year <= last_year:
            if at.month not in self.months:
                at = _midnight(_first_of_next_month(at), self.zone)
            elif not self._is_day(at):
                at = _midnight(at.replace(tzinfo=None) + timedelta(days=1), self.zone)
            elif at.hour not in self.hours:
                at = _moved(at, 3_600 - at.minute * 60)
            elif at.minute not in self.minutes:
                at = _moved(at, 60)
            else:
                return at.timestamp()
        return None

    def _is_day(self, at: datetime) -> bool:
        is_day, is_weekday = at.day in self.days, at.isoweekday() % 7 in self.weekdays
        return (is_day and is_weekday) if self.has_every_day else (is_day or is_weekday)


def parse_schedule(text: str, zone: tzinfo = UTC) -> Schedule | Every:
    """Read a schedule.

    Errors: BadRequest with the text that the CronJob shows.
    """
    if not text:
        raise BadRequest("empty spec string")
    if len(text) > MAX_LENGTH:
        raise BadRequest(f"expected at most {MAX_LENGTH} characters, found {len(text)}")
    if text.startswith(_ZONES):
        name, _, text = text.partition("=")[2].partition(" ")
        zone, text = find_zone(name), text.strip()
    if text.startswith(_EVERY):
        return Every(_duration(text.removeprefix(_EVERY)))
    if text.startswith("@"):
        if text not in _NICKNAMES:
            raise BadRequest(f"unrecognized descriptor: {text}")
        text = _NICKNAMES[text]
    fields = text.split()
    if len(fields) != len(_FIELDS):
        shown = " ".join(fields)
        raise BadRequest(f"expected exactly 5 fields, found {len(fields)}: [{shown}]")
    read = [_field(part, field) for part, field in zip(fields, _FIELDS, strict=True)]
    minutes, hours, days, months, weekdays = (numbers for numbers, _ in read)
    return Schedule(
        minutes, hours, days, months, weekdays, has_every_day=read[2][1] or read[4][1], zone=zone
    )


def find_zone(name: str) -> tzinfo:
    """Return a time zone by its name; empty is UTC. Errors: BadRequest."""
    if name in ("", "UTC"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadRequest(f"unknown time zone {name}") from error


def _field(text: str, field: _Field) -> tuple[frozenset[int], bool]:
    """Return the numbers of a field, and whether it takes all of them by a star."""
    found: set[int] = set()
    is_star = False
    for part in filter(None, text.split(",")):
        numbers, star = _range(part, field)
        found |= set(numbers)
        is_star = is_star or star
    return frozenset(found), is_star


def _range(text: str, field: _Field) -> tuple[range, bool]:
    span, *steps = text.split("/")
    if len(steps) > 1:
        raise BadRequest(f"too many slashes: {text}")
    low, *highs = span.split("-")
    if len(highs) > 1:
        raise BadRequest(f"too many hyphens: {text}")
    is_star = low in ("*", "?")
    if is_star:
        first, last = field.least, field.most
    else:
        first = field.number(low)
        last = field.number(highs[0]) if highs else first
    step = 1
    if steps:
        step = _number(steps[0])
        last = last if highs else field.most
        is_star = is_star and step <= 1
    _check(first, last, step, field, text)
    return range(first, last + 1, step), is_star


def _check(first: int, last: int, step: int, field: _Field, text: str) -> None:
    if first < field.least:
        raise BadRequest(f"beginning of range ({first}) below minimum ({field.least}): {text}")
    if last > field.most:
        raise BadRequest(f"end of range ({last}) above maximum ({field.most}): {text}")
    if first > last:
        raise BadRequest(f"beginning of range ({first}) beyond end of range ({last}): {text}")
    if not step:
        raise BadRequest(f"step of range should be a positive number: {text}")


def _number(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise BadRequest(
            f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax'
        )
    number = int(text)
    if number < 0:
        raise BadRequest(f"negative number ({number}) not allowed: {text}")
    return number


def _duration(text: str) -> int:
    """Read `1h30m` as whole seconds, one at least. Errors: BadRequest."""
    unsigned = text.removeprefix("+").removeprefix("-")
    parts = _DURATION.findall(unsigned)
    if not parts or "".join(map("".join, parts)) != unsigned or len(text) > 100:
        why = f'failed to parse duration {_EVERY}{text}: time: invalid duration "{text}"'
        raise BadRequest(why)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return max(int(-total if text.startswith("-") else total), 1)


def _local(seconds: float, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(seconds, zone)


def _moved(at: datetime, seconds: int) -> datetime:
    """Move on by elapsed time, also over a change of the clocks."""
    return datetime.fromtimestamp(at.timestamp() + seconds, at.tzinfo)


def _midnight(day: datetime, zone: tzinfo) -> datetime:
    """Return a day's first instant: where midnight is left out, the first one there is."""
    found = day.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=zone)
    return datetime.fromtimestamp(found.timestamp(), zone)


def _first_of_next_month(at: datetime) -> datetime:
    year, month = (at.year + 1, 1) if at.month == 12 else (at.year, at.month + 1)
    return datetime(year, month, 1)  # noqa: DTZ001  the caller adds the zone
