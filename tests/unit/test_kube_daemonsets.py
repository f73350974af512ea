"""Where a DaemonSet's Pods belong and how they are replaced, with a cluster that is a dictionary."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.daemonplans import (
    DaemonPlan,
    daemon_status,
    is_same_status,
    plan_nodes,
    plan_update,
)
from gateway.wire.kube.daemons import (
    DaemonView,
    Fit,
    by_node,
    daemon_template,
    placement_of,
    target_node,
)
from gateway.wire.kube.parts import part

NOW = 1_000_000.0
RUNS, STAYS, LEAVES = Fit(True, True), Fit(False, True), Fit(False, False)


def a_daemon(spec: JsonObject | None = None, **more: Json) -> JsonObject:
    return {
        "metadata": {
            "name": "agent",
            "namespace": "shop",
            "annotations": {"deprecated.daemonset.template.generation": "3"},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "updateStrategy": rolling(1, 0),
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": spec or {}},
            **more,
        },
    }


def rolling(unavailable: Json, surge: Json) -> JsonObject:
    how: JsonObject = {"maxUnavailable": unavailable, "maxSurge": surge}
    return {"type": "RollingUpdate", "rollingUpdate": how}


def a_node(name: str = "n1", *taints: tuple[str, str], **labels: Json) -> JsonObject:
    found: list[Json] = [{"key": key, "effect": effect} for key, effect in taints]
    return {"metadata": {"name": name, "labels": labels}, "spec": {"taints": found}}


def fit(spec: JsonObject, node: JsonObject) -> Fit:
    return placement_of(a_daemon(spec)).fit(node)


# --- which nodes ----------------------------------------------------------------------------------


def test_labels_and_names_choose_nodes() -> None:
    assert fit({"nodeSelector": {"disk": "ssd"}}, a_node(disk="ssd")) == RUNS
    assert fit({"nodeSelector": {"disk": "ssd"}}, a_node()) == LEAVES
    assert fit({"nodeName": "n1"}, a_node("n1")) == RUNS
    assert fit({"nodeName": "n1"}, a_node("n2")) == LEAVES


def test_required_affinity_chooses_nodes() -> None:
    term: JsonObject = {
        "matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["b"]}],
        "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}],
    }
    required: JsonObject = {"nodeSelectorTerms": [term]}
    spec: JsonObject = {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    }
    assert fit(spec, a_node("n1", zone="a")) == RUNS
    assert fit(spec, a_node("n1", zone="b")) == LEAVES
    assert fit(spec, a_node("n2", zone="a")) == LEAVES


@pytest.mark.parametrize(
    ("taint", "expected"),
    [
        (("node.kubernetes.io/unschedulable", "NoSchedule"), RUNS),
        (("node.kubernetes.io/disk-pressure", "NoSchedule"), RUNS),
        (("node.kubernetes.io/unreachable", "NoExecute"), RUNS),
        (("node.kubernetes.io/unreachable", "NoSchedule"), STAYS),
        (("node.kubernetes.io/network-unavailable", "NoSchedule"), STAYS),
        (("dedicated", "NoSchedule"), STAYS),
        (("dedicated", "PreferNoSchedule"), RUNS),
        (("dedicated", "NoExecute"), LEAVES),
    ],
)
def test_taints_keep_new_pods_away_and_only_no_execute_drives_them_off(
    taint: tuple[str, str], expected: Fit
) -> None:
    assert fit({}, a_node("n1", taint)) == expected


def test_a_pod_on_a_node_that_is_away_stays() -> None:
    away = (
        ("node.kubernetes.io/unreachable", "NoSchedule"),
        (
            "node.kubernetes.io/unreachable",
            "NoExecute",
        ),
    )
    assert fit({}, a_node("n1", *away)).stays


def test_the_host_network_puts_up_with_a_missing_network() -> None:
    taint = ("node.kubernetes.io/network-unavailable", "NoSchedule")
    assert fit({"hostNetwork": True}, a_node("n1", taint)) == RUNS


# --- Pods -----------------------------------------------------------------------------------------


def test_a_pod_is_pinned_marked_and_tolerant() -> None:
    own: JsonObject = {"key": "dedicated", "operator": "Exists"}
    template = daemon_template(a_daemon({"tolerations": [own]}), "abc", "n7")
    assert part(template, "metadata")["labels"] == {
        "app": "agent",
        "pod-template-generation": "3",
        "controller-revision-hash": "abc",
    }
    tolerations = part(template, "spec")["tolerations"]
    assert isinstance(tolerations, list)
    assert tolerations[0] == own
    assert len(tolerations) == 7
    assert target_node(template) == "n7"


def test_a_toleration_that_is_said_already_is_not_doubled() -> None:
    said: JsonObject = {
        "key": "node.kubernetes.io/not-ready",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 5,
    }
    template = daemon_template(a_daemon({"tolerations": [said]}), "abc", "n7")
    tolerations = part(template, "spec")["tolerations"]
    assert isinstance(tolerations, list)
    assert len(tolerations) == 6
    assert "tolerationSeconds" not in str(tolerations)


def test_the_affinity_of_the_template_gives_way_to_the_pin_but_for_wishes() -> None:
    wish: list[Json] = [{"weight": 1, "preference": {}}]
    required: JsonObject = {"nodeSelectorTerms": []}
    affinity: JsonObject = {
        "podAntiAffinity": {"a": 1},
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": wish,
            "requiredDuringSchedulingIgnoredDuringExecution": required,
        },
    }
    template = daemon_template(a_daemon({"affinity": affinity}), "abc", "n7")
    found = part(template, "spec", "affinity")
    assert found["podAntiAffinity"] == {"a": 1}
    assert part(found, "nodeAffinity")["preferredDuringSchedulingIgnoredDuringExecution"] == wish
    assert target_node(template) == "n7"


def test_a_pod_without_node_or_pin_belongs_nowhere() -> None:
    assert target_node({"spec": {}}) is None
    assert target_node({"spec": {"nodeName": "n1"}}) == "n1"


# --- plans ----------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """A DaemonSet, nodes and Pods; what is done shows at once, what nodes do comes by chance."""

    daemon_set: JsonObject
    nodes: dict[str, Fit]
    pods: list[JsonObject] = field(default_factory=list)
    count: int = 0
    short: str = "new"

    def add(self, node: str, short: str, phase: str = "Running", *, ready: bool = True) -> str:
        self.count += 1
        name = f"agent-{self.count:03}"
        labels: JsonObject = {"controller-revision-hash": short}
        metadata: JsonObject = {
            "name": name,
            "labels": labels,
            "creationTimestamp": rfc3339(NOW + self.count),
        }
        spec: JsonObject = {"nodeName": node}
        self.pods.append({"metadata": metadata, "spec": spec, "status": state(phase, ready=ready)})
        return name

    def view(self) -> DaemonView:
        return DaemonView(self.daemon_set, self.short, self.nodes, by_node(self.pods), NOW)

    def plan(self) -> DaemonPlan:
        found = plan_nodes(self.view(), lambda _: False)
        return plan_update(self.view()) if found.is_empty else found

    def carry_out(self, plan: DaemonPlan) -> None:
        gone = {str(part(pod, "metadata")["name"]) for pod in plan.delete}
        for at, pod in enumerate(self.pods):
            if part(pod, "metadata")["name"] in gone:
                marked: JsonObject = {**part(pod, "metadata"), "deletionTimestamp": "soon"}
                self.pods[at] = {**pod, "metadata": marked}
        for node in plan.create:
            self.add(node, self.short, "Pending", ready=False)

    def settle(self) -> None:
        """All nodes do what they are told."""
        self.pods = [
            {**pod, "status": state("Running", ready=True)}
            for pod in self.pods
            if "deletionTimestamp" not in part(pod, "metadata")
        ]

    def living(self, node: str) -> list[JsonObject]:
        return [
            pod
            for pod in self.view().pods.get(node, [])
            if "deletionTimestamp" not in part(pod, "metadata")
            and part(pod, "status")["phase"] not in ("Failed", "Succeeded")
        ]

    def serving(self) -> set[str]:
        return {
            node
            for node in self.nodes
            if any(part(pod, "status").get("conditions") for pod in self.living(node))
        }


def state(phase: str, *, ready: bool) -> JsonObject:
    ready_condition: JsonObject = {
        "type": "Ready",
        "status": "True",
        "lastTransitionTime": rfc3339(NOW - 60),
    }
    return {"phase": phase, "conditions": [ready_condition] if ready else []}


def names(pods: list[JsonObject]) -> list[str]:
    return [str(part(pod, "metadata")["name"]) for pod in pods]


def test_each_node_that_fits_gets_one_and_the_others_lose_theirs() -> None:
    cluster = Cluster(a_daemon(), {"n1": RUNS, "n2": RUNS, "n3": LEAVES, "n4": STAYS})
    cluster.add("n2", "new")
    leaving = cluster.add("n3", "new")
    cluster.add("n4", "new")
    plan = cluster.plan()
    assert plan.create == ["n1"]
    assert names(plan.delete) == [leaving]


def test_of_two_the_older_stays() -> None:
    cluster = Cluster(a_daemon(), {"n1": RUNS})
    cluster.add("n1", "new")
    younger = cluster.add("n1", "new")
    assert names(cluster.plan().delete) == [younger]


def test_a_failed_pod_goes_unless_it_failed_a_moment_ago() -> None:
    cluster = Cluster(a_daemon(), {"n1": RUNS})
    failed = cluster.add("n1", "new", "Failed", ready=False)
    plan = plan_nodes(cluster.view(), lambda node: False)
    assert names(plan.delete) == names(plan.failed) == [failed]
    held = plan_nodes(cluster.view(), lambda node: node == "n1")
    assert held.is_empty
    assert held.held == ["n1"]


def test_a_pod_for_a_node_that_never_came_is_deleted() -> None:
    cluster = Cluster(a_daemon(), {})
    cluster.add("gone", "new")
    waiting = cluster.add("gone", "new", "Pending", ready=False)
    cluster.pods[1]["spec"] = daemon_template(a_daemon(), "new", "gone")["spec"]
    assert names(cluster.plan().delete) == [waiting]


def test_an_update_takes_broken_pods_first_and_of_the_others_as_many_as_may_be_missing() -> None:
    cluster = Cluster(a_daemon(updateStrategy=rolling(2, 0)), dict.fromkeys("abcd", RUNS))
    broken = cluster.add("a", "old", ready=False)
    first = cluster.add("b", "old")
    for node in "cd":
        cluster.add(node, "old")
    assert names(cluster.plan().delete) == [broken, first]


def test_shares_of_unavailable_pods_are_rounded_up() -> None:
    cluster = Cluster(a_daemon(updateStrategy=rolling("30%", 0)), dict.fromkeys("abcde", RUNS))
    for node in "abcde":
        cluster.add(node, "old")
    assert len(cluster.plan().delete) == 2


def test_on_a_surge_the_old_pod_goes_once_the_new_one_serves() -> None:
    cluster = Cluster(a_daemon(updateStrategy=rolling(0, 1)), dict.fromkeys("ab", RUNS))
    old = [cluster.add(node, "old") for node in "ab"]
    plan = cluster.plan()
    assert (plan.create, plan.delete) == (["a"], [])
    cluster.carry_out(plan)
    assert cluster.plan().is_empty
    cluster.pods[-1]["status"] = state("Running", ready=True)
    assert names(cluster.plan().delete) == [old[0]]


def test_the_status_counts_the_oldest_pod_of_each_node() -> None:
    cluster = Cluster(a_daemon(), {"a": RUNS, "b": RUNS, "c": RUNS, "d": STAYS})
    cluster.add("a", "new")
    cluster.add("b", "old", ready=False)
    cluster.add("d", "old")
    status = daemon_status(cluster.view(), 4, None)
    assert status == {
        "desiredNumberScheduled": 3,
        "currentNumberScheduled": 2,
        "numberMisscheduled": 1,
        "numberReady": 1,
        "numberAvailable": 1,
        "numberUnavailable": 2,
        "updatedNumberScheduled": 1,
        "observedGeneration": 4,
    }
    assert is_same_status(status, dict(status))
    assert not is_same_status(status, {**status, "numberReady": 2})


def test_counts_that_are_zero_are_left_out_but_for_four() -> None:
    assert daemon_status(Cluster(a_daemon(), {}).view(), 1, None) == {
        "desiredNumberScheduled": 0,
        "currentNumberScheduled": 0,
        "numberMisscheduled": 0,
        "numberReady": 0,
        "observedGeneration": 1,
    }


# --- whatever happens -----------------------------------------------------------------------------

_WHAT = st.sampled_from(["up", "down", "gone", "failed", "work"])


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(1, 5),
    limit=st.integers(1, 3),
    surging=st.booleans(),
    chances=st.lists(st.tuples(st.integers(0, 9), _WHAT), max_size=30),
)
def test_the_budget_of_an_update_is_kept_whatever_happens_and_the_end_is_reached(
    size: int, limit: int, surging: bool, chances: list[tuple[int, str]]
) -> None:
    strategy = rolling(0, limit) if surging else rolling(limit, 0)
    nodes = dict.fromkeys("abcde"[:size], RUNS)
    cluster = Cluster(a_daemon(updateStrategy=strategy), nodes)
    for node in nodes:
        cluster.add(node, "old")
    for which, what in [*chances, *([(0, "work"), (0, "settle")] * 12)]:
        if what == "settle":
            cluster.settle()
        elif what == "work":
            before = cluster.serving()
            plan = cluster.plan()
            assert sum(node in before for node in plan.create) <= limit
            cluster.carry_out(plan)
            lost = before - cluster.serving()
            allowed = 0 if surging else limit
            assert len(lost) <= max(allowed - (size - len(before)), 0)
            assert all(len(cluster.living(node)) <= 1 + surging for node in nodes)
        elif which < len(cluster.pods):
            pod = cluster.pods[which]
            if what != "gone":
                phase = "Failed" if what == "failed" else "Running"
                cluster.pods[which] = {**pod, "status": state(phase, ready=what == "up")}
            elif "deletionTimestamp" in part(pod, "metadata"):
                del cluster.pods[which]
    found = cluster.view()
    assert {node: [found.is_updated(pod) for pod in found.pods[node]] for node in nodes} == {
        node: [True] for node in nodes
    }
