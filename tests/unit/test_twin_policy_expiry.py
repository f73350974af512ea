"""Subjects that end: rounding, when what is due, announcements before and after, token integration."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject
from gateway.model.policy import Policy
from gateway.model.thing import EventAction
from gateway.twin.durations import duration_text, instant_of, instant_rounded_up, seconds_of
from gateway.twin.limits import DEFAULT_LIMITS
from gateway.twin.policies import PolicyContext, applied
from gateway.twin.policy import build_enforcer
from gateway.twin.policy_actions import PolicyAction, TokenAction, decide_action, decide_expiry
from gateway.twin.policy_expiry import Lease, Step, Watch, due_of, leases_of
from gateway.twin.policy_form import Caller, policy_document, subject_announcement

NOW = "2026-01-01T00:00:00.000000Z"
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


# --- form --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds", "written"),
    [("90s", 90, "90s"), ("5m", 300, "5m"), ("120m", 7_200, "2h"), ("1500ms", 1.5, "1500ms")],
)
def test_durations_are_read_and_written(text: str, seconds: float, written: str) -> None:
    assert seconds_of(text) == seconds
    assert duration_text(seconds) == written


@pytest.mark.parametrize("value", ["", "5", "0m", "-1s", "5d", 5, None, "5 m"])
def test_what_is_no_duration_is_refused(value: Json) -> None:
    with pytest.raises(ValueError, match="no positive number"):
        seconds_of(value)


@pytest.mark.parametrize(
    ("given", "grain", "expected"),
    [
        ("2026-06-01T10:00:00Z", 3_600, "2026-06-01T10:00:00+00:00"),
        ("2026-06-01T10:00:00.000001Z", 3_600, "2026-06-01T11:00:00+00:00"),
        ("2026-06-01T12:30:00+02:00", 3_600, "2026-06-01T11:00:00+00:00"),
        ("2026-06-01T10:00:01", 60, "2026-06-01T10:01:00+00:00"),
        ("2026-06-01T10:00:01Z", 0, "2026-06-01T10:00:01+00:00"),
    ],
)
def test_instants_are_rounded_up(given: str, grain: float, expected: str) -> None:
    assert instant_rounded_up(instant_of(given), grain).isoformat() == expected


def a_subject_document(**subject: Json) -> JsonObject:
    return {"entries": {"e": {"subjects": {"a:b": subject}}}}


def test_expiry_and_announcement_are_stored_rounded() -> None:
    announcement: JsonObject = {
        "beforeExpiry": "90s",
        "requestedAcks": {"labels": ["my:ack"], "timeout": "5s"},
        "randomizationInterval": "10s",
    }
    given = a_subject_document(expiry="2026-06-01T10:00:01Z", announcement=announcement)
    entries: Any = policy_document(Caller("a:p", "a:b", NOW), given)["entries"]
    assert entries["e"]["subjects"]["a:b"] == {
        "type": "unknown",
        "expiry": "2026-06-01T11:00:00Z",
        "announcement": {
            "beforeExpiry": "2m",
            "whenDeleted": False,
            "requestedAcks": {"labels": ["my:ack"], "timeout": "5s"},
            "randomizationInterval": "10s",
        },
    }


@pytest.mark.parametrize(
    "announcement",
    [
        [],
        "soon",
        {"beforeExpiry": "soon"},
        {"beforeExpiry": 5},
        {"whenDeleted": "yes"},
        {"randomizationInterval": "0s"},
        {"requestedAcks": {}},
        {"requestedAcks": {"labels": ["a b"]}},
        {"requestedAcks": {"labels": ["abc"], "timeout": "2h"}},
        {"requestedAcks": {"labels": ["abc"] * 11}},
    ],
)
def test_a_bad_announcement_is_refused(announcement: Json) -> None:
    with pytest.raises(GatewayError) as caught:
        subject_announcement(announcement, DEFAULT_LIMITS)
    assert (caught.value.status, caught.value.code) == (400, "policies:subjectannouncement.invalid")


# --- what is due when --------------------------------------------------------------------------


def test_the_first_of_all_subjects_says_when_a_policy_is_due() -> None:
    document: JsonObject = {
        "entries": {
            "e": {
                "subjects": {
                    "a:for-ever": {"type": "x"},
                    "a:late": {"expiry": "2026-06-01T00:00:00Z"},
                    "a:early": {
                        "expiry": "2026-05-01T00:00:00Z",
                        "announcement": {"beforeExpiry": "1h", "randomizationInterval": "1m"},
                    },
                }
            }
        }
    }
    assert due_of(document, 300.0) == "2026-04-30T22:59:00.000000Z"
    assert set(leases_of(document, 300.0)) == {"a:late", "a:early"}
    assert due_of({"entries": {}}, 300.0) is None


LEASE = Lease("a:b", at(100))


def watched(lease: Lease, **more: Any) -> Watch:
    watch = Watch(lease, grace=1_000, **more)
    watch.start(START)
    return watch


def run(watch: Watch, *moments: float) -> list[Step]:
    return [watch.step(at(moment)) for moment in moments]


def test_a_subject_without_announcement_is_deleted_when_its_time_is_over() -> None:
    watch = watched(LEASE)
    assert run(watch, 0, 99, 100) == [Step.NOTHING, Step.NOTHING, Step.DELETE]
    assert run(watch, 100.5, 101) == [Step.NOTHING, Step.DELETE]
    watch.deleted(at(101), True)
    assert watch.is_over


def test_the_end_is_announced_before_and_not_again_after() -> None:
    watch = watched(replace(LEASE, before=20, spread=10, when_deleted=True), jitter=0.5)
    assert watch.at == at(75)
    assert run(watch, 75, 76, 100) == [Step.ANNOUNCE, Step.NOTHING, Step.DELETE]
    watch.deleted(at(100), True)
    assert watch.is_over


def test_a_deletion_is_announced_when_it_happened() -> None:
    watch = watched(replace(LEASE, when_deleted=True))
    watch.deleted(at(7), True)
    assert watch.delete_at == at(7)
    assert run(watch, 7) == [Step.ANNOUNCE]
    assert watch.is_over
    silent = watched(replace(LEASE, when_deleted=True))
    silent.deleted(at(7), False)
    assert silent.is_over


def test_what_is_not_acknowledged_is_announced_again_with_growing_pauses() -> None:
    watch = watched(replace(LEASE, before=50, labels=("my:ack",)))
    assert run(watch, 50, 60) == [Step.ANNOUNCE, Step.NOTHING]
    watch.acknowledged(False, at(60))
    assert run(watch, 60.5, 61) == [Step.NOTHING, Step.ANNOUNCE]
    watch.acknowledged(False, at(71))
    assert run(watch, 72, 73) == [Step.NOTHING, Step.ANNOUNCE]
    watch.acknowledged(True, at(74))
    assert run(watch, 99, 100) == [Step.NOTHING, Step.DELETE]


def test_after_its_grace_an_announcement_is_given_up_and_the_subject_goes() -> None:
    watch = watched(replace(LEASE, before=50, labels=("my:ack",)))
    assert run(watch, 50) == [Step.ANNOUNCE]
    watch.acknowledged(False, at(1_200))
    assert run(watch, 1_201) == [Step.DELETE]


def test_a_subject_that_goes_while_acknowledgements_are_awaited_is_over_with_them() -> None:
    watch = watched(replace(LEASE, before=50, labels=("my:ack",)))
    assert run(watch, 50) == [Step.ANNOUNCE]
    watch.deleted(at(55), True)
    assert not watch.is_over
    watch.acknowledged(True, at(56))
    assert watch.is_over


def test_a_service_that_was_away_announces_and_deletes_late() -> None:
    watch = Watch(replace(LEASE, before=20), grace=1_000)
    watch.start(at(500))
    assert run(watch, 500, 500) == [Step.ANNOUNCE, Step.DELETE]


# --- deletion ----------------------------------------------------------------------------------


def a_policy(**entries: JsonObject) -> Policy:
    return Policy("a:p", 7, {"entries": dict(entries)}, NOW, NOW)


def test_each_subject_whose_time_is_over_goes_with_an_event_of_its_own() -> None:
    over: JsonObject = {"type": "x", "expiry": "2025-12-31T23:00:00Z"}
    ahead: JsonObject = {"type": "x", "expiry": "2026-01-01T01:00:00Z"}
    policy: Policy | None = a_policy(
        one={"subjects": {"a:x": over, "a:y": ahead}, "resources": {}},
        two={"subjects": {"a:x": over}, "resources": {}},
    )
    paths: list[tuple[str, ...]] = []
    while (event := decide_expiry(policy, NOW)) is not None:
        assert (event.action, event.revision) == (EventAction.DELETED, 8 + len(paths))
        assert applied(policy, event) == event.after
        paths.append(event.path)
        policy = event.after
    assert paths == [("entries", "one", "subjects", "a:x"), ("entries", "two", "subjects", "a:x")]
    assert policy is not None
    assert policy.document["entries"]["one"]["subjects"] == {"a:y": ahead}  # type: ignore[index, call-overload]


# --- token integration -------------------------------------------------------------------------

OWNER: JsonObject = {
    "subjects": {"pre:owner": {"type": "x"}},
    "resources": {"policy:/": {"grant": ["READ", "WRITE"], "revoke": []}},
}


def an_entry(subject: str, label: str, *grants: str, on: str = "thing:/a") -> JsonObject:
    may: JsonObject = {"grant": ["EXECUTE"], "revoke": []}
    return {
        "subjects": {subject: {"type": "x"}},
        "resources": {
            on: {"grant": list[Json](grants), "revoke": []},
            f"policy:/entries/{label}/actions": may,
        },
    }


def an_action(action: TokenAction = TokenAction.ACTIVATE, **more: Any) -> PolicyAction:
    return PolicyAction(
        policy_id="a:p",
        action=action,
        subjects=("jwt:me",),
        token_subjects=lambda label: (f"integration:{label}:aud",),
        expires=instant_of("2026-01-01T00:30:00Z").timestamp(),
        **more,
    )


def act(policy: Policy, asked: PolicyAction) -> Any:
    permissions = build_enforcer(policy.document, {}).permissions(asked.subjects, "a", NOW)
    return decide_action(
        policy, asked, PolicyContext(NOW, policy.revision, permissions, DEFAULT_LIMITS, {})
    )


FULL = a_policy(
    owner=OWNER,
    reader=an_entry("jwt:me", "reader", "READ"),
    writer=an_entry("jwt:me", "writer", "WRITE"),
    other=an_entry("jwt:other", "other", "READ"),
    messages=an_entry("jwt:me", "messages", "READ", on="message:/"),
)


def test_activation_adds_the_tokens_subject_where_the_entry_fits() -> None:
    event = act(FULL, an_action(announcement={"whenDeleted": True}))
    assert event.path == ("entries", "reader", "subjects", "integration:reader:aud")
    assert event.action is EventAction.CREATED
    assert event.value["expiry"] == "2026-01-01T01:00:00Z"
    assert event.value["announcement"] == {"whenDeleted": True}
    assert applied(FULL, event) == event.after
    again = act(event.after, an_action())
    assert again.action is EventAction.MODIFIED


def test_several_entries_change_with_one_event() -> None:
    policy = a_policy(
        owner=OWNER,
        one=an_entry("jwt:me", "one", "READ"),
        two=an_entry("jwt:me", "two", "READ"),
    )
    event = act(policy, an_action())
    assert event.path == ("entries",)
    assert applied(policy, event) == event.after
    gone = act(event.after, an_action(TokenAction.DEACTIVATE))
    assert gone.after.document == policy.document
    assert act(policy, an_action(TokenAction.DEACTIVATE)) is None


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"label": "owner"}, 403),
        ({"label": "nobody"}, 403),
        ({"label": "writer"}, 404),
        ({"label": "messages"}, 404),
        ({"label": "reader", "token_subjects": lambda _label: ()}, 400),
    ],
)
def test_an_action_that_cannot_be_done_says_why(more: dict[str, Any], status: int) -> None:
    with pytest.raises(GatewayError) as caught:
        act(FULL, replace(an_action(), **more))
    assert (caught.value.status, caught.value.code) == (status, "policies:action.failed")


def test_a_token_cannot_take_the_last_writers_permanence() -> None:
    entry: JsonObject = {
        "subjects": {
            "integration:me:aud": {"type": "x"},
            "jwt:me": {"type": "x", "expiry": "2027-01-01T00:00:00Z"},
        },
        "resources": {
            "policy:/": {"grant": ["READ", "WRITE", "EXECUTE"], "revoke": []},
            "thing:/": {"grant": ["READ"], "revoke": []},
        },
    }
    with pytest.raises(GatewayError) as caught:
        act(a_policy(me=entry), an_action())
    assert caught.value.code == "policies:entry.modificationinvalid"
