"""Deployments: the current set, revisions and history, and what the status says when."""

from __future__ import annotations

from copy import deepcopy

import pytest

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.conditions import find
from gateway.wire.kube.deployments import (
    ENDLESS,
    HASH_LABEL,
    HISTORY,
    MAX_HISTORY,
    REVISION,
    current_set,
    deployment_status,
    is_complete,
    new_set,
    next_revision,
    noted_set,
    pause_condition,
    progressing,
    rollout_status,
    same_template,
    seconds_to_deadline,
    surplus_sets,
    with_condition,
)
from gateway.wire.kube.parts import annotations_of, part, rows, text

NOW = 1_700_000_000.0
STAMP = rfc3339(NOW)
REFERENCE: JsonObject = {"kind": "Deployment", "name": "web", "uid": "u"}


def a_template(image: str = "web:1", **labels: Json) -> JsonObject:
    containers: list[Json] = [{"name": "web", "image": image}]
    return {"metadata": {"labels": {"app": "web", **labels}}, "spec": {"containers": containers}}


def a_deployment(replicas: int = 3, image: str = "web:1", **spec: Json) -> JsonObject:
    return {
        "metadata": {"name": "web", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": a_template(image),
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 2,
            **spec,
        },
    }


def a_set(
    name: str, image: str = "web:1", size: int = 0, revision: str = "", **status: Json
) -> JsonObject:
    annotations: JsonObject = {REVISION: revision} if revision else {}
    return {
        "metadata": {"name": name, "creationTimestamp": name, "annotations": annotations},
        "spec": {"replicas": size, "template": a_template(image, **{HASH_LABEL: name})},
        "status": {"replicas": size, **status},
    }


def serving(name: str, size: int, **status: Json) -> JsonObject:
    """A set all of whose Pods serve."""
    counts: JsonObject = {
        "readyReplicas": size,
        "availableReplicas": size,
        "terminatingReplicas": 0,
    }
    return a_set(name, "web:1", size, "1", **(counts | status))


def condition(status: JsonObject, type_: str) -> JsonObject:
    return find(rows(status.get("conditions")), type_) or {}


# --- sets -----------------------------------------------------------------------------------------


def test_the_current_set_is_the_oldest_one_of_the_template() -> None:
    sets = [a_set("c"), a_set("b"), a_set("a", "web:2")]
    found = current_set(a_deployment(), sets)
    assert found is sets[1]
    assert current_set(a_deployment(image="web:3"), sets) is None


def test_an_empty_list_and_none_are_the_same_template() -> None:
    one, other = a_template(), a_template(**{HASH_LABEL: "abc"})
    part(one, "spec")["imagePullSecrets"] = []
    part(other, "metadata")["creationTimestamp"] = None
    assert same_template(one, other)
    assert not same_template(a_template("web:2"), other)


def test_a_new_set_is_named_after_its_template_and_knows_what_it_was_made_for() -> None:
    deployment = a_deployment(minReadySeconds=5)
    part(deployment, "metadata")["annotations"] = {
        "team": "x",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
        REVISION: "9",
    }
    before = deepcopy(deployment)
    made = new_set(deployment, REFERENCE, [a_set("old", "web:0", 3, "4")])
    hash_ = text(part(made, "metadata", "labels")[HASH_LABEL])
    assert part(made, "metadata")["name"] == f"web-{hash_}"
    assert annotations_of(made) == {
        "team": "x",
        REVISION: "5",
        "deployment.kubernetes.io/desired-replicas": "3",
        "deployment.kubernetes.io/max-replicas": "3",
    }
    assert part(made, "spec", "selector")["matchLabels"] == {"app": "web", HASH_LABEL: hash_}
    assert part(made, "spec", "template", "metadata")["labels"] == {
        "app": "web",
        HASH_LABEL: hash_,
    }
    assert part(made, "spec")["minReadySeconds"] == 5
    assert deployment == before


def test_a_long_name_makes_room_for_the_hash() -> None:
    deployment = a_deployment()
    part(deployment, "metadata")["name"] = "d" * 253
    assert len(text(part(new_set(deployment, REFERENCE, []), "metadata")["name"])) == 253


def test_a_collision_gives_another_name() -> None:
    deployment = a_deployment()
    names = set()
    for count in (None, 1, 2):
        deployment["status"] = {} if count is None else {"collisionCount": count}
        names.add(text(part(new_set(deployment, REFERENCE, []), "metadata")["name"]))
    assert len(names) == 3


def test_a_set_that_is_current_again_gets_the_next_revision_and_remembers_the_old_ones() -> None:
    deployment = a_deployment()
    again = noted_set(
        deployment, a_set("a", revision="1"), next_revision([a_set("b", revision="2")])
    )
    assert annotations_of(again) == {REVISION: "3", HISTORY: "1"}
    twice = noted_set(deployment, again, 5)
    assert annotations_of(twice) == {REVISION: "5", HISTORY: "1,3"}
    assert noted_set(deployment, twice, 5) is twice
    assert noted_set(deployment, twice, 2) is twice  # others were deleted meanwhile


def test_history_stays_short() -> None:
    item = a_set("a", revision="1000000")
    part(item, "metadata", "annotations")[HISTORY] = ",".join(
        str(n) for n in range(100_000, 100_400)
    )
    noted = noted_set(a_deployment(), item, 1_000_001)
    kept = annotations_of(noted)[HISTORY]
    assert len(kept) <= MAX_HISTORY
    assert kept.endswith(",1000000")
    assert not kept.startswith("100000,")


def test_revisions_that_somebody_spoiled_are_left_alone() -> None:
    spoiled = a_set("a", revision="many")
    assert annotations_of(noted_set(a_deployment(), spoiled, 4)) == {REVISION: "many"}
    assert next_revision([spoiled]) == 1


def test_history_keeps_the_newest_and_whatever_has_pods() -> None:
    olds = [a_set(f"s{n}", revision=str(n), observedGeneration=0) for n in (10, 9, 8, 7)]
    assert [part(item, "metadata")["name"] for item in surplus_sets(a_deployment(), olds)] == [
        "s7",
        "s8",
    ]
    part(olds[3], "spec")["replicas"] = 1
    part(olds[2], "metadata")["generation"] = 2
    assert surplus_sets(a_deployment(), olds) == []
    assert surplus_sets(a_deployment(revisionHistoryLimit=ENDLESS), olds) == []
    assert len(surplus_sets(a_deployment(revisionHistoryLimit=0), olds[:2])) == 2


# --- status ---------------------------------------------------------------------------------------


def test_a_status_counts_what_its_sets_say() -> None:
    old, new = serving("a", 2), serving("b", 1, availableReplicas=0, terminatingReplicas=2)
    status = deployment_status(a_deployment(4), [old, new], new, STAMP)
    assert {key: value for key, value in status.items() if key != "conditions"} == {
        "observedGeneration": 1,
        "replicas": 3,
        "updatedReplicas": 1,
        "readyReplicas": 3,
        "availableReplicas": 2,
        "unavailableReplicas": 1,
        "terminatingReplicas": 2,
    }
    assert condition(status, "Available")["reason"] == "MinimumReplicasUnavailable"


def test_what_is_going_is_unknown_while_a_set_does_not_say() -> None:
    silent = a_set("a", size=1, observedGeneration=1)
    assert "terminatingReplicas" not in deployment_status(a_deployment(), [silent], None, STAMP)
    fresh = a_set("a", size=1)
    assert deployment_status(a_deployment(), [fresh], None, STAMP)["terminatingReplicas"] == 0


def test_a_rollout_progresses_completes_and_is_left_alone_then() -> None:
    deployment = a_deployment()
    half = serving("a", 2)
    status = rollout_status(deployment, [half], half, STAMP)
    assert condition(status, "Progressing")["message"] == 'ReplicaSet "a" is progressing.'
    deployment["status"] = status
    whole = serving("a", 3)
    status = rollout_status(deployment, [whole], whole, rfc3339(NOW + 60))
    done = condition(status, "Progressing")
    assert (done["reason"], done["lastTransitionTime"]) == ("NewReplicaSetAvailable", STAMP)
    assert done["lastUpdateTime"] == rfc3339(NOW + 60)
    assert is_complete(deployment, status)
    deployment["status"] = status
    late = rfc3339(NOW + 10_000)
    lost = serving("a", 3, readyReplicas=1, availableReplicas=1)
    status = rollout_status(deployment, [lost], lost, late)
    assert condition(status, "Progressing") == done
    assert condition(status, "Available")["status"] == "False"


@pytest.mark.parametrize(("age", "is_late"), [(599.0, False), (600.0, False), (601.0, True)])
def test_a_rollout_without_progress_is_late_after_its_time(age: float, is_late: bool) -> None:
    deployment, item = a_deployment(), serving("a", 3, availableReplicas=0)
    first = rollout_status(deployment, [item], item, STAMP)
    deployment["status"] = first
    status = rollout_status(deployment, [item], item, rfc3339(NOW + age))
    assert (condition(status, "Progressing")["reason"] == "ProgressDeadlineExceeded") is is_late
    assert (status == first) is not is_late


def test_the_deadline_is_looked_at_when_it_comes_and_not_for_ever() -> None:
    deployment = a_deployment()
    deployment["status"] = with_condition({}, progressing("True", "ReplicaSetUpdated", "", STAMP))
    assert seconds_to_deadline(deployment, NOW + 10) == 591.0
    assert seconds_to_deadline(deployment, NOW + 9_000) == 1.0
    late = with_condition({}, progressing("False", "ProgressDeadlineExceeded", "", STAMP))
    assert seconds_to_deadline({**deployment, "status": late}, NOW) is None
    endless = a_deployment(progressDeadlineSeconds=ENDLESS)
    endless["status"] = deployment["status"]
    assert seconds_to_deadline(endless, NOW) is None
    assert "Progressing" not in str(rollout_status(endless, [], None, STAMP))


def test_a_pause_is_noted_once_and_so_is_its_end() -> None:
    deployment = a_deployment(paused=True)
    paused = pause_condition(deployment, STAMP)
    assert paused is not None
    assert (paused["reason"], paused["status"]) == ("DeploymentPaused", "Unknown")
    deployment["status"] = with_condition({}, paused)
    assert pause_condition(deployment, STAMP) is None
    part(deployment, "spec")["paused"] = False
    resumed = pause_condition(deployment, STAMP)
    assert resumed is not None
    assert resumed["message"] == "Deployment is resumed"
    deployment["status"] = with_condition(
        {}, progressing("False", "ProgressDeadlineExceeded", "", STAMP)
    )
    part(deployment, "spec")["paused"] = True
    assert pause_condition(deployment, STAMP) is None


def test_what_a_set_fails_at_is_shown_until_it_is_over() -> None:
    failure: JsonObject = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": "quota",
        "lastTransitionTime": STAMP,
    }
    deployment, broken = a_deployment(), serving("a", 1, conditions=[failure])
    deployment["status"] = rollout_status(deployment, [broken], broken, rfc3339(NOW + 5))
    shown = condition(part(deployment, "status"), "ReplicaFailure")
    assert (shown["message"], shown["lastUpdateTime"]) == ("quota", STAMP)
    well = serving("a", 3)
    status = rollout_status(deployment, [well], well, rfc3339(NOW + 9))
    assert not condition(status, "ReplicaFailure")
