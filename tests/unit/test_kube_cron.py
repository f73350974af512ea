"""Schedules of CronJobs: instants checked by hand and against the library that Kubernetes uses."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.model.json import JsonObject
from gateway.wire.kube.cron import Every, Schedule, find_zone, parse_schedule
from gateway.wire.kube.cronplan import (
    day_time,
    finished_surplus,
    job_from,
    job_name,
    missed,
    schedule_of,
    seconds_to_next,
)


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def following(schedule: str, after: str, zone: str = "UTC", count: int = 1) -> list[str]:
    parsed, found, now = parse_schedule(schedule, find_zone(zone)), [], at(after, zone)
    for _ in range(count):
        instant = parsed.next(now)
        assert instant is not None
        now = instant
        found.append(datetime.fromtimestamp(now, ZoneInfo(zone)).strftime("%Y-%m-%dT%H:%M%z"))
    return found


def test_a_schedule_beyond_all_length_is_not_read() -> None:
    with pytest.raises(BadRequest, match="at most 1000 characters, found 1001"):
        parse_schedule("*," * 496 + "* * * * *")
    assert parse_schedule("*," * 495 + "*  * * * *")


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("* * * * *", "2026-11-23T10:00:00", "2026-11-23T10:01+0000"),
        ("*/15 * * * *", "2026-11-23T10:46:00", "2026-11-23T11:00+0000"),
        ("5/20 * * * *", "2026-11-23T10:26:00", "2026-11-23T10:45+0000"),
        ("@hourly", "2026-11-23T10:00:00", "2026-11-23T11:00+0000"),
        ("@midnight", "2026-11-23T10:00:00", "2026-11-24T00:00+0000"),
        ("@weekly", "2026-11-23T10:00:00", "2026-11-29T00:00+0000"),
        ("@monthly", "2026-11-23T10:00:00", "2026-12-01T00:00+0000"),
        ("@yearly", "2026-11-23T10:00:00", "2027-01-01T00:00+0000"),
        ("0 9 * * MON-fri", "2026-11-27T09:00:00", "2026-11-30T09:00+0000"),
        ("0 0 29 feb ?", "2026-11-23T10:00:00", "2028-02-29T00:00+0000"),
        ("0 0 13 * 5", "2026-11-23T10:00:00", "2026-11-27T00:00+0000"),
        ("0 0 13 * */1", "2026-11-23T10:00:00", "2026-12-13T00:00+0000"),
        ("0 0 1-7 * 1,*", "2026-11-23T10:00:00", "2026-12-01T00:00+0000"),
        ("30 6-16/4 * * 1-5", "2026-11-27T15:00:00", "2026-11-30T06:30+0000"),
        ("CRON_TZ=Asia/Tokyo 0 9 * * *", "2026-11-23T10:00:00", "2026-11-24T00:00+0000"),
        ("@every 1h30m", "2026-11-23T10:00:00", "2026-11-23T11:30+0000"),
    ],
)
def test_a_schedule_has_its_next_instant(schedule: str, after: str, expected: str) -> None:
    assert following(schedule, after) == [expected]


def test_an_hour_that_the_clocks_leave_out_is_left_out() -> None:
    found = following("30 2 * * *", "2026-03-28T12:00:00", "Europe/Berlin", 2)
    assert found == ["2026-03-30T02:30+0200", "2026-03-31T02:30+0200"]


def test_an_hour_that_the_clocks_show_twice_comes_twice() -> None:
    found = following("30 2 * * *", "2026-10-24T12:00:00", "Europe/Berlin", 3)
    assert found == ["2026-10-25T02:30+0200", "2026-10-25T02:30+0100", "2026-10-26T02:30+0100"]


def test_a_day_without_midnight_begins_later() -> None:
    found = following("* * * * 6", "2018-11-01T12:00:00", "America/Sao_Paulo", 1)
    assert found == ["2018-11-03T00:00-0300"]
    assert following("0 * 4 11 *", "2018-11-03T12:00:00", "America/Sao_Paulo") == [
        "2018-11-04T01:00-0200"
    ]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        (
            "* * * foo *",
            'failed to parse int from foo: strconv.Atoi: parsing "foo": invalid syntax',
        ),
        ("@never", "unrecognized descriptor: @never"),
        ("@every x", 'failed to parse duration @every x: time: invalid duration "x"'),
    ],
)
def test_a_bad_schedule_is_refused_with_the_known_words(schedule: str, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_schedule(schedule)
    assert refused.value.message == message


@pytest.mark.parametrize("zone", ["Nowhere/City", "../../etc/passwd", "Europe"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(BadRequest, match="unknown time zone"):
        find_zone(zone)


@settings(deadline=None)
@given(
    st.integers(1_500_000_000, 1_900_000_000),
    st.sampled_from(["*/7 3 * * *", "1 2 3 * *", "0 0 * * 1-5", "59 23 31 12 *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]),
)
def test_an_instant_fits_its_schedule_and_none_lies_before_it(
    after: int, text: str, zone: str
) -> None:
    schedule = parse_schedule(text, find_zone(zone))
    assert isinstance(schedule, Schedule)
    found = schedule.next(after)
    assert found is not None
    assert found > after
    local = datetime.fromtimestamp(found, find_zone(zone))
    assert local.minute in schedule.minutes
    assert local.hour in schedule.hours
    assert local.second == 0
    assert schedule.next(found - 1) == found


# --- what is due ------------------------------------------------------------------------------------


def a_cron(schedule: str = "* * * * *", last: str = "", **spec: object) -> JsonObject:
    status: JsonObject = {"lastScheduleTime": last} if last else {}
    return {
        "metadata": {"name": "c", "uid": "u", "creationTimestamp": "2026-11-23T10:00:30Z"},
        "spec": {"schedule": schedule, "jobTemplate": {"spec": {"parallelism": 1}}, **spec},  # type: ignore[dict-item]
        "status": status,
    }


def test_nothing_is_due_before_the_first_instant() -> None:
    cron, now = a_cron(), at("2026-11-23T10:00:59")
    assert missed(cron, schedule_of(cron), now).latest is None
    assert seconds_to_next(cron, schedule_of(cron), now) == pytest.approx(1.1)


def test_of_several_that_were_missed_the_latest_is_due() -> None:
    cron, now = a_cron(), at("2026-11-23T10:30:10")
    found = missed(cron, schedule_of(cron), now)
    assert (found.latest, found.count) == (at("2026-11-23T10:30:00"), 30)
    assert seconds_to_next(cron, schedule_of(cron), now) == pytest.approx(50.1)


def test_a_hundred_and_more_are_counted_without_walking_through_all() -> None:
    cron, now = a_cron(last="1970-01-01T00:00:00Z"), at("2026-11-23T10:30:10")
    found = missed(cron, schedule_of(cron), now)
    assert found.latest == at("2026-11-23T10:30:00")
    assert found.count > 29_000_000


def test_what_is_older_than_the_deadline_is_not_looked_at() -> None:
    cron, now = a_cron("0 * * * *", startingDeadlineSeconds=60), at("2026-11-23T12:30:00")
    assert missed(cron, schedule_of(cron), now).latest is None


def test_a_day_that_never_comes_is_no_schedule() -> None:
    cron = a_cron("59 23 31 2 *")
    with pytest.raises(BadRequest, match="less than 1 second"):
        missed(cron, schedule_of(cron), at("2026-11-23T12:00:00"))
    assert seconds_to_next(cron, schedule_of(cron), at("2026-11-23T12:00:00")) > 3_600


def test_a_clock_that_goes_back_starts_nothing_again() -> None:
    cron, now = a_cron(last="2026-11-23T11:00:00Z"), at("2026-11-23T10:30:00")
    assert missed(cron, schedule_of(cron), now).latest is None
    assert seconds_to_next(cron, schedule_of(cron), now) == pytest.approx(1_860.1)


def test_a_job_says_which_start_it_is_of() -> None:
    cron = a_cron(timeZone="Asia/Kolkata")
    due = at("2026-11-23T12:05:00")
    job = job_from(cron, {"uid": "u"}, due)
    assert job_name(cron, due) == "c-29923925"
    metadata = job["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["annotations"] == {
        "batch.kubernetes.io/cronjob-scheduled-timestamp": "2026-11-23T17:35:00+05:30"
    }
    assert job["spec"] == {"parallelism": 1}
    assert day_time(due) == "Mon, 23 Nov 2026 12:05:00 +0000"


def test_the_history_keeps_the_newest() -> None:
    def ended(name: str, minute: int, kind: str) -> JsonObject:
        return {
            "metadata": {"name": name},
            "status": {
                "startTime": f"2026-11-23T10:{minute:02}:00Z",
                "conditions": [{"type": kind, "status": "True"}],
            },
        }

    cron = a_cron(successfulJobsHistoryLimit=1, failedJobsHistoryLimit=0)
    jobs = [ended("b", 2, "Complete"), ended("a", 1, "Complete"), ended("f", 3, "Failed")]
    going = [job["metadata"] for job in finished_surplus(cron, jobs)]
    assert going == [{"name": "a"}, {"name": "f"}]


def test_every_counts_whole_seconds() -> None:
    assert parse_schedule("@every 500ms") == Every(1)
    assert parse_schedule("@every 1.5h") == Every(5_400)
    assert find_zone("") is UTC
