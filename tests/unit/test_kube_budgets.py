"""How many Pods a PodDisruptionBudget lets go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.budgets import (
    Demand,
    budget_status,
    demand,
    failed_status,
    healthy,
    is_same_status,
    needs_scale,
    noted_evictions,
    selector_words,
    stale_target,
)
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.parts import rows, whole

NOW = 1_000_000.0


def a_budget(status: JsonObject | None = None, **spec: Json) -> JsonObject:
    return with_spec(spec, status)


def with_spec(spec: JsonObject, status: JsonObject | None = None) -> JsonObject:
    return {"metadata": {"name": "b", "generation": 2}, "spec": spec, "status": status or {}}


def a_pod(name: str, *, ready: bool = True, going: bool = False) -> JsonObject:
    condition: JsonObject = {"type": "Ready", "status": "True" if ready else "False"}
    metadata: JsonObject = {"name": name}
    if going:
        metadata["deletionTimestamp"] = rfc3339(NOW)
    return {"metadata": metadata, "status": {"phase": "Running", "conditions": [condition]}}


@pytest.mark.parametrize(
    ("spec", "pods", "scale", "expected"),
    [
        ({"minAvailable": 2}, 5, 0, Demand(5, 2)),
        ({"minAvailable": "50%"}, 4, 5, Demand(5, 3)),
        ({"maxUnavailable": 1}, 4, 5, Demand(5, 4)),
        ({"maxUnavailable": "50%"}, 4, 5, Demand(5, 2)),
        ({"maxUnavailable": 9}, 4, 5, Demand(5, 0)),
        ({"maxUnavailable": 0}, 4, 5, Demand(5, 5)),
    ],
)
def test_numbers_and_shares_say_how_many_have_to_serve(
    spec: JsonObject, pods: int, scale: int, expected: Demand
) -> None:
    assert demand(with_spec(spec), pods, scale) == expected


def test_only_a_plain_minimum_counts_what_is_there() -> None:
    assert not needs_scale(a_budget(minAvailable=1))
    assert needs_scale(a_budget(minAvailable="1%"))
    assert needs_scale(a_budget(maxUnavailable=0))


def test_a_granted_eviction_counts_as_done_for_two_minutes() -> None:
    granted: JsonObject = {
        "a": rfc3339(NOW - 100),
        "b": rfc3339(NOW - 121),
        "going": rfc3339(NOW),
        "unknown": rfc3339(NOW),
    }
    pods = [a_pod("a"), a_pod("b"), a_pod("c"), a_pod("going", going=True)]
    noted = noted_evictions(a_budget({"disruptedPods": granted}), pods, NOW)
    assert noted.pods == {"a": granted["a"]}
    assert noted.expired == (pods[1],)
    assert noted.until == NOW + 20
    assert healthy(pods, noted) == 2


def test_a_pod_that_was_made_since_under_the_same_name_is_another_one() -> None:
    meta: JsonObject = {"name": "web-0", "creationTimestamp": rfc3339(NOW - 9)}
    pod = {**a_pod("web-0"), "metadata": meta}
    noted = noted_evictions(a_budget({"disruptedPods": {"web-0": rfc3339(NOW - 10)}}), [pod], NOW)
    assert (noted.pods, noted.expired) == ({}, ())
    assert healthy([pod], noted) == 1


def test_the_status_says_how_many_may_go_and_why() -> None:
    noted = noted_evictions(a_budget(), [], NOW)
    status = budget_status(a_budget(), Demand(5, 3), 4, noted, NOW)
    assert status == {
        "observedGeneration": 2,
        "disruptionsAllowed": 1,
        "currentHealthy": 4,
        "desiredHealthy": 3,
        "expectedPods": 5,
        "conditions": [
            {
                "type": "DisruptionAllowed",
                "status": "True",
                "reason": "SufficientPods",
                "message": "",
                "observedGeneration": 2,
                "lastTransitionTime": rfc3339(NOW),
            }
        ],
    }
    later = budget_status(a_budget(status), Demand(5, 3), 5, noted, NOW + 60)
    assert rows(later["conditions"])[0]["lastTransitionTime"] == rfc3339(NOW)
    assert not is_same_status(status, later)
    assert is_same_status(later, dict(later))
    none = budget_status(a_budget(status), Demand(5, 5), 5, noted, NOW + 60)
    assert rows(none["conditions"])[0]["reason"] == "InsufficientPods"
    assert rows(none["conditions"])[0]["lastTransitionTime"] == rfc3339(NOW + 60)


def test_nothing_may_go_while_no_pods_are_expected() -> None:
    noted = noted_evictions(a_budget(), [], NOW)
    assert budget_status(a_budget(), Demand(0, 0), 3, noted, NOW)["disruptionsAllowed"] == 0


def test_what_cannot_be_judged_lets_nothing_go() -> None:
    status = failed_status(a_budget({"disruptionsAllowed": 3, "currentHealthy": 4}), "why", NOW)
    assert status["disruptionsAllowed"] == 0
    assert status["currentHealthy"] == 4
    assert rows(status["conditions"])[0]["reason"] == "SyncFailed"
    assert rows(status["conditions"])[0]["message"] == "why"
    assert failed_status(a_budget(status), "why", NOW + 9) == status


@given(
    ready=st.lists(st.booleans(), max_size=8),
    scale=st.integers(0, 10),
    limit=st.integers(0, 10),
    by_share=st.booleans(),
    granted=st.sets(st.integers(0, 7)),
)
def test_what_may_go_never_leaves_fewer_than_have_to_serve(
    ready: list[bool], scale: int, limit: int, by_share: bool, granted: set[int]
) -> None:
    pods = [a_pod(f"p{at}", ready=is_ready) for at, is_ready in enumerate(ready)]
    given_out: JsonObject = {f"p{at}": rfc3339(NOW) for at in granted}
    value: Json = f"{limit * 10}%" if by_share else limit
    specs: list[JsonObject] = [{"minAvailable": value}, {"maxUnavailable": value}]
    for spec in specs:
        budget = with_spec(spec, {"disruptedPods": given_out})
        wanted = demand(budget, len(pods), scale)
        noted = noted_evictions(budget, pods, NOW)
        serving = healthy(pods, noted)
        allowed = whole(budget_status(budget, wanted, serving, noted, NOW)["disruptionsAllowed"])
        assert allowed >= 0
        assert allowed == 0 or serving - allowed >= wanted.healthy


def test_a_pod_that_was_to_go_says_so_for_two_minutes() -> None:
    condition: JsonObject = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "lastTransitionTime": rfc3339(NOW - 30),
    }
    pod = a_pod("a")
    pod["status"] = {"phase": "Running", "conditions": [condition]}
    assert stale_target(pod, NOW) == 90
    assert stale_target(pod, NOW + 1000) == 0
    assert stale_target(a_pod("a"), NOW) is None
    condition["reason"] = "TerminationByKubelet"
    assert stale_target(pod, NOW) is None


def test_a_selector_is_written_as_events_show_it() -> None:
    selector: JsonObject = {
        "matchLabels": {"b": "2", "a": "1"},
        "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}],
    }
    assert selector_words(selector) == (
        "&LabelSelector{MatchLabels:map[string]string{a: 1,b: 2,},MatchExpressions:"
        "[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}"
    )
