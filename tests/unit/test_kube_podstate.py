"""What the state of a Pod means, and which one goes first; Pods from templates and their short names."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.parts import part, text
from gateway.wire.kube.podstate import (
    DELETION_COST,
    deletion_cost,
    deletion_order,
    is_active,
    is_available,
    is_ended,
    is_ready,
    is_terminating,
    seconds_to_available,
)
from gateway.wire.kube.replicas import missing, selector_of
from gateway.wire.kube.shares import share_of
from gateway.wire.kube.templates import (
    fnv32a,
    name_prefix,
    owner_reference,
    pod_from,
    safe_text,
    template_hash,
)

NOW = 1_000_000.0


def a_pod(
    name: str = "a",
    *,
    node: str = "n1",
    phase: str = "Running",
    ready: float | None = 100.0,
    age: float = 1_000.0,
    restarts: int = 0,
    cost: str = "",
    deleted: bool = False,
) -> JsonObject:
    """A Pod that has served for `ready` seconds, None: it does not."""
    metadata: JsonObject = {
        "name": name,
        "uid": f"u-{name}",
        "creationTimestamp": rfc3339(NOW - age),
    }
    if cost:
        metadata["annotations"] = {DELETION_COST: cost}
    if deleted:
        metadata["deletionTimestamp"] = rfc3339(NOW)
    condition: JsonObject = {
        "type": "Ready",
        "status": "False" if ready is None else "True",
        "lastTransitionTime": rfc3339(NOW - (ready or 0)),
    }
    status: JsonObject = {
        "phase": phase,
        "conditions": [condition],
        "containerStatuses": [{"name": "c", "restartCount": restarts}],
    }
    return {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": status}


def first(*pods: JsonObject, related: tuple[JsonObject, ...] = ()) -> str:
    """Who goes first, however they are given."""
    shuffled = list(pods)
    random.Random(7).shuffle(shuffled)
    return text(part(deletion_order(shuffled, related, NOW)[0], "metadata")["name"])


def test_a_pod_is_active_until_it_ends_or_has_to_go() -> None:
    assert is_active(a_pod())
    assert is_active(a_pod(phase="Pending"))
    for phase in ("Succeeded", "Failed"):
        assert is_ended(a_pod(phase=phase))
        assert not is_active(a_pod(phase=phase))
        assert not is_terminating(a_pod(phase=phase, deleted=True))
    assert not is_active(a_pod(deleted=True))
    assert is_terminating(a_pod(deleted=True))


def test_a_pod_is_available_when_it_has_served_for_so_long() -> None:
    assert not is_ready(a_pod(ready=None))
    assert not is_available(a_pod(ready=None), 0, NOW)
    assert is_available(a_pod(ready=0.0), 0, NOW)
    assert not is_available(a_pod(ready=9.0), 10, NOW)
    assert is_available(a_pod(ready=10.0), 10, NOW)


def test_the_next_pod_to_become_available_is_waited_for() -> None:
    pods = [a_pod(ready=None), a_pod(ready=4.0), a_pod(ready=7.0), a_pod(ready=99.0)]
    assert seconds_to_available(pods, 10, NOW) == 3.0
    assert seconds_to_available(pods, 0, NOW) is None
    assert seconds_to_available(pods[:1], 10, NOW) is None


def test_what_has_come_least_far_goes_first() -> None:
    steps = [
        a_pod("nowhere", node="", phase="Pending", ready=None),
        a_pod("pending", phase="Pending", ready=None),
        a_pod("unknown", phase="Unknown", ready=None),
        a_pod("not-ready", ready=None),
        a_pod("cheap", cost="-5"),
        a_pod("crowded"),
        a_pod("fresh", node="n2", ready=1.0),
        a_pod("restless", node="n2", restarts=3),
        a_pod("younger", node="n2", age=200.0),
        a_pod("steady", node="n2"),
    ]
    crowd = tuple(a_pod(f"other-{number}") for number in range(4))
    for at in range(len(steps) - 1):
        expected = text(part(steps[at], "metadata")["name"])
        assert first(*steps[at:], related=crowd) == expected


def test_those_of_about_one_age_go_by_chance_not_by_age() -> None:
    """A tenth of a day more or less is no reason to give up the newest each time."""
    older, newer = a_pod("a", ready=100_000.0), a_pod("b", ready=90_000.0)
    assert first(older, newer) == "a"  # by uid
    assert first(older, a_pod("b", ready=9_000.0)) == "b"


@pytest.mark.parametrize(
    ("said", "cost"),
    [("10", 10), ("-3", -3), ("0", 0), ("+1", 0), ("007", 0), ("much", 0), ("99999999999", 0)],
)
def test_only_a_plain_number_is_a_cost(said: str, cost: int) -> None:
    assert deletion_cost(a_pod(cost=said)) == cost


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "n1", "n2"]),
            st.sampled_from(["Pending", "Running", "Unknown"]),
            st.none() | st.floats(0, 1e6),
            st.integers(0, 3),
        ),
        max_size=12,
    )
)
def test_the_order_keeps_all_and_never_prefers_one_that_serves(
    facts: list[tuple[str, str, float | None, int]],
) -> None:
    pods = [
        a_pod(str(number), node=node, phase=phase, ready=ready, restarts=restarts)
        for number, (node, phase, ready, restarts) in enumerate(facts)
    ]
    ordered = deletion_order(pods, pods, NOW)
    names = [text(part(pod, "metadata")["name"]) for pod in ordered]
    assert sorted(names) == sorted(str(number) for number in range(len(pods)))
    placed = [bool(part(pod, "spec").get("nodeName")) for pod in ordered]
    assert placed == sorted(placed)


# --- templates and numbers ------------------------------------------------------------------------


def a_template(**labels: Json) -> JsonObject:
    return {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


def test_a_pod_of_a_template_belongs_to_its_owner() -> None:
    owner: JsonObject = {"metadata": {"name": "web", "namespace": "n", "uid": "u"}}
    template = a_template(app="web")
    part(template, "metadata").update({"name": "no", "annotations": {"a": "b"}, "finalizers": []})
    pod = pod_from(template, owner, owner_reference("apps/v1", "ReplicaSet", owner))
    assert part(pod, "metadata") == {
        "generateName": "web-",
        "labels": {"app": "web"},
        "annotations": {"a": "b"},
        "ownerReferences": [
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "name": "web",
                "uid": "u",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    part(pod, "spec")["nodeName"] = "n1"
    assert "nodeName" not in part(template, "spec")
    assert name_prefix("a" * 252) == "a" * 252 + "-"
    assert name_prefix("a" * 253) == "a" * 253


def test_a_hash_is_the_same_for_equal_templates_and_another_after_a_collision() -> None:
    one, other = a_template(a="1", b="2"), a_template(b="2", a="1")
    assert template_hash(one) == template_hash(other)
    names = {template_hash(one, collisions) for collisions in (None, 0, 1, 2)}
    assert len(names) == 4
    assert all(set(name) <= set("bcdfghjklmnpqrstvwxz2456789") for name in names)


def test_hash_and_alphabet_are_those_of_the_field() -> None:
    assert fnv32a(b"") == 0x811C9DC5
    assert fnv32a(b"foobar") == 0xBF9CF968
    assert safe_text("0123456789") == "456789bcdf"


@pytest.mark.parametrize(
    ("said", "total", "up", "down"),
    [("25%", 10, 3, 2), ("0%", 9, 0, 0), ("100%", 7, 7, 7), (3, 10, 3, 3), ("x", 10, 0, 0),
     (None, 10, 0, 0), (True, 10, 0, 0)],
)  # fmt: skip
def test_shares_are_of_the_total(said: Json, total: int, up: int, down: int) -> None:
    assert share_of(said, total, up=True) == up
    assert share_of(said, total, up=False) == down


def test_a_set_misses_what_it_has_not_and_never_asks_for_too_much_at_once() -> None:
    owner: JsonObject = {"spec": {"replicas": 3}}
    assert [missing(owner, active) for active in (0, 3, 5)] == [3, 0, -2]
    assert missing({"spec": {"replicas": 10_000}}, 0) == 500
    assert missing({"spec": {"replicas": 0}}, 10_000) == -500
    assert missing({"spec": {}}, 0) == 1


def test_a_selector_is_read_in_both_forms_and_everything_is_none() -> None:
    plain, labels = {"spec": {"selector": {"a": "b"}}}, {"matchLabels": {"a": "b"}}
    for owner in (plain, {"spec": {"selector": labels}}):
        selector = selector_of(owner)  # type: ignore[arg-type]
        assert selector is not None
        assert selector.matches({"metadata": {"labels": {"a": "b"}}})
        assert not selector.matches({"metadata": {"labels": {"a": "c"}}})
    assert selector_of({"spec": {"selector": {}}}) is None
    assert selector_of({"spec": {}}) is None
