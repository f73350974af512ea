"""What a StatefulSet does next, with a cluster that is a dictionary."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.parts import part
from gateway.wire.kube.revisions import revision_data
from gateway.wire.kube.statefulplans import (
    Deed,
    StatefulView,
    Step,
    is_news,
    plan,
    revision_of,
    stateful_status,
)
from gateway.wire.kube.statefulsets import (
    claim_owners,
    has_foreign_controller,
    is_stale_claim,
    member_claims,
    member_of,
    member_pod,
    name_of,
    ordinal_of,
    ordinals,
    repaired,
)

NOW = 1_000_000.0


def a_set(replicas: int = 3, image: str = "web:1", **spec: Json) -> JsonObject:
    return {
        "metadata": {"name": "web", "namespace": "shop", "uid": "set-uid", "generation": 1},
        "spec": {
            "replicas": replicas,
            "serviceName": "webs",
            "selector": {"matchLabels": {"app": "web"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "podManagementPolicy": "OrderedReady",
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
            **spec,
        },
    }


def a_revision(name: str, stateful_set: JsonObject, number: int = 1) -> JsonObject:
    return {"metadata": {"name": name}, "data": revision_data(stateful_set), "revision": number}


def a_claim_template(name: str = "data") -> JsonObject:
    return {"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"]}}


def alive(pod: JsonObject, *, ready: bool = True, since: float = NOW - 100) -> JsonObject:
    status: JsonObject = {"phase": "Running", "conditions": []}
    if ready:
        status["conditions"] = [
            {"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(since)}
        ]
    return {**pod, "status": status}


def pending(pod: JsonObject) -> JsonObject:
    return {**pod, "status": {"phase": "Pending"}}


def going(pod: JsonObject) -> JsonObject:
    return {**pod, "metadata": {**part(pod, "metadata"), "deletionTimestamp": "soon"}}


def members(stateful_set: JsonObject, *which: int, revision: str = "one") -> list[JsonObject]:
    return [alive(member_pod(stateful_set, ordinal, revision)) for ordinal in which]


def view(
    stateful_set: JsonObject, pods: list[JsonObject], update: JsonObject | None = None
) -> StatefulView:
    current = a_revision("one", stateful_set)
    return StatefulView(stateful_set, current, update or current, pods, NOW)


def deeds(found: StatefulView) -> list[tuple[str, str]]:
    return [
        (step.deed.value, name_of(step.pod))
        for steps in plan(found).stages
        for step in steps
        if step.deed not in (Deed.REPAIR, Deed.RELEASE)
    ]


# --- members --------------------------------------------------------------------------------------


def test_a_member_has_its_name_its_labels_and_its_claims() -> None:
    pod = member_pod(a_set(volumeClaimTemplates=[a_claim_template()]), 2, "web-5c")
    assert part(pod, "metadata")["name"] == "web-2"
    assert part(pod, "metadata")["labels"] == {
        "app": "web",
        "statefulset.kubernetes.io/pod-name": "web-2",
        "apps.kubernetes.io/pod-index": "2",
        "controller-revision-hash": "web-5c",
    }
    assert part(pod, "spec")["hostname"] == "web-2"
    assert part(pod, "spec")["subdomain"] == "webs"
    assert part(pod, "spec")["volumes"] == [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-2"}}
    ]


def test_a_claim_stands_for_the_volume_of_its_name() -> None:
    stateful_set = a_set(volumeClaimTemplates=[a_claim_template()])
    part(stateful_set, "spec", "template", "spec")["volumes"] = [
        {"name": "data", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    volumes = part(member_pod(stateful_set, 0, "one"), "spec")["volumes"]
    assert volumes == [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}},
        {"name": "tmp", "emptyDir": {}},
    ]


def test_claims_carry_what_the_set_selects() -> None:
    template = a_claim_template()
    part(template, "metadata")["labels"] = {"disk": "fast"}
    (claim,) = member_claims(a_set(volumeClaimTemplates=[template]), 1)
    assert part(claim, "metadata") == {
        "name": "data-web-1",
        "namespace": "shop",
        "labels": {"disk": "fast", "app": "web"},
    }


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("web-0", ("web", 0)),
        ("a-b-12", ("a-b", 12)),
        ("web", ("", -1)),
        ("web-", ("", -1)),
        ("web-99999999999", ("web", -1)),
    ],
)
def test_a_name_says_whose_member_a_pod_is(name: str, member: tuple[str, int]) -> None:
    assert member_of({"metadata": {"name": name}}) == member


def test_ordinals_may_start_later() -> None:
    assert list(ordinals(a_set(2, ordinals={"start": 5}))) == [5, 6]
    assert deeds(view(a_set(2, ordinals={"start": 5}), [])) == [("create", "web-5")]


def test_a_member_that_lost_its_label_or_volume_is_mended() -> None:
    stateful_set = a_set(volumeClaimTemplates=[a_claim_template()])
    (pod,) = members(stateful_set, 0)
    assert repaired(stateful_set, pod) is None
    broken: JsonObject = {**pod, "metadata": {"name": "web-0", "labels": {"app": "web"}}}
    fixed = repaired(stateful_set, broken)
    assert fixed is not None
    assert part(fixed, "metadata", "labels")["statefulset.kubernetes.io/pod-name"] == "web-0"
    bare: JsonObject = {**pod, "spec": {"volumes": [{"name": "data", "emptyDir": {}}]}}
    fixed = repaired(stateful_set, bare)
    assert fixed is not None
    assert part(fixed, "spec")["volumes"] == part(pod, "spec")["volumes"]


# --- order ----------------------------------------------------------------------------------------


def test_the_first_member_comes_first() -> None:
    assert deeds(view(a_set(), [])) == [("create", "web-0")]


def test_the_next_waits_until_the_one_before_serves() -> None:
    stateful_set = a_set()
    first = member_pod(stateful_set, 0, "one")
    assert deeds(view(stateful_set, [alive(first, ready=False)])) == []
    assert deeds(view(stateful_set, [pending(first)])) == [("claims", "web-0")]
    assert deeds(view(stateful_set, [alive(first)])) == [("create", "web-1")]


def test_the_next_waits_for_the_seconds_that_count_as_ready() -> None:
    stateful_set = a_set(minReadySeconds=30)
    first = member_pod(stateful_set, 0, "one")
    assert deeds(view(stateful_set, [alive(first, since=NOW - 29)])) == []
    assert deeds(view(stateful_set, [alive(first, since=NOW - 30)])) == [("create", "web-1")]


def test_more_members_than_fit_into_memory_are_made_some_at_a_time() -> None:
    wanted = a_set(2_147_483_647, podManagementPolicy="Parallel")
    found = plan(view(wanted, []))
    assert [name_of(step.pod) for step in found.stages[0]] == [f"web-{at}" for at in range(500)]
    made = [step.pod for step in found.stages[0]]
    births = [step for step in plan(view(wanted, made)).stages[0] if step.deed is Deed.CREATE]
    assert (len(births), name_of(births[0].pod)) == (500, "web-500")


def test_in_parallel_all_are_made_at_once() -> None:
    found = plan(view(a_set(podManagementPolicy="Parallel"), []))
    assert not found.in_order
    assert [name_of(step.pod) for step in found.stages[0]] == ["web-0", "web-1", "web-2"]


def test_the_highest_goes_first_when_there_are_too_many() -> None:
    stateful_set = a_set(1)
    assert deeds(view(stateful_set, members(stateful_set, 0, 1, 2))) == [("delete", "web-2")]


def test_nobody_goes_while_a_member_does_not_serve() -> None:
    stateful_set = a_set(1)
    first, second, third = members(stateful_set, 0, 1, 2)
    assert deeds(view(stateful_set, [alive(first, ready=False), second, third])) == []
    assert deeds(view(stateful_set, [first, alive(second, ready=False), third])) == [
        ("delete", "web-2")
    ]
    assert deeds(view(stateful_set, [first, second, alive(third, ready=False)])) == [
        ("delete", "web-2")
    ]
    assert deeds(view(stateful_set, [first, second, going(third)])) == []


def test_a_member_that_ended_is_deleted_and_awaited() -> None:
    stateful_set = a_set(2)
    first, second = members(stateful_set, 0, 1)
    ended: JsonObject = {**first, "status": {"phase": "Failed"}}
    assert deeds(view(stateful_set, [ended, second])) == [("delete", "web-0")]
    assert deeds(view(stateful_set, [going(ended), second])) == []
    assert deeds(view(stateful_set, [second])) == [("create", "web-0")]


def test_a_set_that_is_deleted_does_nothing() -> None:
    assert deeds(view(going(a_set()), [])) == []


# --- updates --------------------------------------------------------------------------------------


def test_an_update_takes_the_highest_that_is_old() -> None:
    stateful_set = a_set(image="web:2")
    update = a_revision("two", stateful_set, 2)
    pods = members(stateful_set, 0, 1, 2)
    assert deeds(view(stateful_set, pods, update)) == [("delete", "web-2")]
    pods[2:] = members(stateful_set, 2, revision="two")
    assert deeds(view(stateful_set, pods, update)) == [("delete", "web-1")]
    pods[2] = alive(pods[2], ready=False)
    assert deeds(view(stateful_set, pods, update)) == []


def test_below_the_partition_nothing_changes() -> None:
    strategy: JsonObject = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
    stateful_set = a_set(updateStrategy=strategy)
    update = a_revision("two", a_set(image="web:2"), 2)
    done = members(stateful_set, 0, 1) + members(stateful_set, 2, revision="two")
    assert deeds(view(stateful_set, done, update)) == []
    lost = view(stateful_set, [done[0], done[2]], update)
    ((*_, step),) = plan(lost).stages
    assert (name_of(step.pod), revision_of(step.pod)) == ("web-1", "one")
    lost = view(stateful_set, done[:2], update)
    ((*_, step),) = plan(lost).stages
    assert (name_of(step.pod), revision_of(step.pod)) == ("web-2", "two")
    assert part(step.pod, "spec")["containers"] == [{"name": "web", "image": "web:2"}]


def test_on_delete_nothing_is_deleted_for_an_update() -> None:
    stateful_set = a_set(updateStrategy={"type": "OnDelete"})
    update = a_revision("two", stateful_set, 2)
    assert deeds(view(stateful_set, members(stateful_set, 0, 1, 2), update)) == []
    ((*_, step),) = plan(view(stateful_set, members(stateful_set, 0, 1), update)).stages
    assert revision_of(step.pod) == "two"


# --- status ---------------------------------------------------------------------------------------


def test_the_status_counts_and_moves_on_when_an_update_is_complete() -> None:
    stateful_set = a_set()
    update = a_revision("two", stateful_set, 2)
    pods = members(stateful_set, 0) + members(stateful_set, 1, 2, revision="two")
    assert stateful_status(view(stateful_set, pods, update), 0) == {
        "observedGeneration": 1,
        "replicas": 3,
        "readyReplicas": 3,
        "availableReplicas": 3,
        "currentReplicas": 1,
        "updatedReplicas": 2,
        "currentRevision": "one",
        "updateRevision": "two",
        "collisionCount": 0,
    }
    pods = members(stateful_set, 0, 1, 2, revision="two")
    status = stateful_status(view(stateful_set, pods, update), 0)
    assert (status["currentRevision"], status["currentReplicas"]) == ("two", 3)
    assert not is_news(status, status)
    assert is_news(status, {**status, "readyReplicas": 2})


def test_counts_that_are_zero_are_left_out_but_for_two() -> None:
    assert stateful_status(view(a_set(), []), 0) == {
        "observedGeneration": 1,
        "replicas": 0,
        "availableReplicas": 0,
        "currentRevision": "one",
        "updateRevision": "one",
        "collisionCount": 0,
    }


# --- owners of claims -----------------------------------------------------------------------------


def keeping(deleted: str, scaled: str, replicas: int = 1) -> JsonObject:
    policy: JsonObject = {"whenDeleted": deleted, "whenScaled": scaled}
    return a_set(
        replicas,
        volumeClaimTemplates=[a_claim_template()],
        persistentVolumeClaimRetentionPolicy=policy,
    )


def owned_by(owners: list[Json] | None) -> list[str] | None:
    return None if owners is None else [str(row["kind"]) for row in owners if isinstance(row, dict)]


def a_member(ordinal: int) -> JsonObject:
    return {"metadata": {"name": f"web-{ordinal}", "namespace": "shop", "uid": f"uid-{ordinal}"}}


@pytest.mark.parametrize(
    ("deleted", "scaled", "kept", "condemned"),
    [
        ("Retain", "Retain", None, None),
        ("Delete", "Retain", ["StatefulSet"], ["StatefulSet"]),
        ("Retain", "Delete", None, ["Pod"]),
        ("Delete", "Delete", ["StatefulSet"], ["Pod"]),
    ],
)
def test_a_claim_goes_with_whom_the_set_says(
    deleted: str, scaled: str, kept: list[str] | None, condemned: list[str] | None
) -> None:
    stateful_set = keeping(deleted, scaled)
    claim: JsonObject = {"metadata": {"name": "data-web-0"}}
    for ordinal, expected in ((0, kept), (1, condemned)):
        owners = claim_owners(stateful_set, claim, a_member(ordinal))
        assert owned_by(owners) == expected
        done: JsonObject = {"metadata": {"ownerReferences": owners or []}}
        assert claim_owners(stateful_set, done, a_member(ordinal)) is None


def test_a_claim_is_let_go_when_the_set_keeps_claims_again() -> None:
    owners = claim_owners(keeping("Delete", "Delete"), {"metadata": {}}, a_member(0))
    claim: JsonObject = {"metadata": {"ownerReferences": owners}}
    assert claim_owners(keeping("Retain", "Retain"), claim, a_member(0)) == []


def test_a_claim_of_an_earlier_pod_is_left_alone_and_blocks_a_new_one() -> None:
    stateful_set = keeping("Delete", "Delete", replicas=2)
    earlier: JsonObject = {"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "before"}
    claim: JsonObject = {"metadata": {"name": "data-web-1", "ownerReferences": [earlier]}}
    assert is_stale_claim(stateful_set, claim, a_member(1))
    assert not is_stale_claim(keeping("Delete", "Retain"), claim, a_member(1))
    assert claim_owners(stateful_set, claim, a_member(1)) is None


def test_a_claim_that_somebody_else_manages_is_his() -> None:
    stateful_set = keeping("Delete", "Delete")
    other: JsonObject = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "boss",
        "uid": "x",
        "controller": True,
    }
    claim: JsonObject = {"metadata": {"ownerReferences": [other]}}
    assert has_foreign_controller(stateful_set, claim, a_member(0))
    assert claim_owners(stateful_set, claim, a_member(0)) is None
    mine = claim_owners(stateful_set, {"metadata": {}}, a_member(0)) or []
    both: JsonObject = {"metadata": {"ownerReferences": [other, *mine]}}
    assert claim_owners(stateful_set, both, a_member(0)) == [other]


# --- whatever happens -----------------------------------------------------------------------------


@dataclass
class Cluster:
    """A set and its Pods; what is done shows at once, what nodes do comes by chance."""

    stateful_set: JsonObject
    update: JsonObject
    current: JsonObject
    pods: dict[str, JsonObject] = field(default_factory=dict)

    def view(self) -> StatefulView:
        return StatefulView(
            self.stateful_set, self.current, self.update, list(self.pods.values()), NOW
        )

    def serving(self) -> set[str]:
        shown = self.view()
        return {
            name
            for name, pod in self.pods.items()
            if shown.serves(pod) and "deletionTimestamp" not in part(pod, "metadata")
        }

    def work(self) -> None:
        """One run; ends at the first stage boundary as the loop does when it is killed."""
        for steps in plan(self.view()).stages:
            for step in steps:
                self.do(step)

    def do(self, step: Step) -> None:
        name = name_of(step.pod)
        if step.deed is Deed.CREATE:
            assert name not in self.pods, "a second Pod of one ordinal"
            self.check_created(step.pod)
            self.pods[name] = pending(step.pod)
        elif step.deed is Deed.DELETE:
            self.check_deleted(step.pod)
            self.pods[name] = going(self.pods[name])

    def check_created(self, pod: JsonObject) -> None:
        shown = self.view()
        if shown.in_order:
            before = [f"web-{ordinal}" for ordinal in range(ordinal_of(pod))]
            assert set(before) <= self.serving()
        if ordinal_of(pod) < shown.partition:
            assert revision_of(pod) == "one"

    def check_deleted(self, pod: JsonObject) -> None:
        shown = self.view()
        if part(pod, "status").get("phase") in ("Failed", "Succeeded"):
            return
        if ordinal_of(pod) not in ordinals(self.stateful_set):
            assert not shown.in_order or ordinal_of(pod) == max(
                ordinal_of(each) for each in self.pods.values()
            )
            return
        assert revision_of(pod) != name_of(self.update)
        assert ordinal_of(pod) >= shown.partition
        above = {f"web-{n}" for n in ordinals(self.stateful_set) if n > ordinal_of(pod)}
        assert above <= self.serving(), "an update goes on while one above does not serve"

    def settle(self) -> None:
        """All nodes do what they are told."""
        for name, pod in list(self.pods.items()):
            if "deletionTimestamp" in part(pod, "metadata"):
                del self.pods[name]
            else:
                self.pods[name] = alive(pod)

    def status(self) -> JsonObject:
        return stateful_status(self.view(), 0)


@settings(max_examples=150, deadline=None)
@given(
    replicas=st.integers(0, 4),
    partition=st.integers(0, 5),
    parallel=st.booleans(),
    present=st.sets(st.integers(0, 5)),
    chances=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["up", "down", "gone", "failed", "work"])),
        max_size=25,
    ),
)
def test_order_partition_and_ordinals_hold_whatever_happens_and_the_end_is_reached(
    replicas: int,
    partition: int,
    parallel: bool,
    present: set[int],
    chances: list[tuple[int, str]],
) -> None:
    old, new = a_set(replicas), a_set(replicas, image="web:2")
    spec = part(new, "spec")
    spec["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}
    spec["podManagementPolicy"] = "Parallel" if parallel else "OrderedReady"
    cluster = Cluster(new, a_revision("two", new, 2), a_revision("one", old))
    cluster.pods = {name_of(pod): pod for pod in members(old, *present)}
    for ordinal, what in chances:
        name = f"web-{ordinal}"
        pod = cluster.pods.get(name)
        if what == "work":
            cluster.work()
        elif pod is not None and what == "gone":
            if "deletionTimestamp" in part(pod, "metadata"):
                del cluster.pods[name]
        elif pod is not None and what == "failed":
            cluster.pods[name] = {**pod, "status": {"phase": "Failed"}}
        elif pod is not None:
            cluster.pods[name] = alive(pod, ready=what == "up")
    for _ in range(40):
        cluster.work()
        cluster.settle()
    assert {name: revision_of(pod) for name, pod in cluster.pods.items()} == {
        f"web-{n}": "one" if n < partition else "two" for n in range(replicas)
    }
    assert cluster.status().get("readyReplicas", 0) == replicas
