"""Where Pods go: filters, scores, texts, and who has to make room."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.model.json import JsonObject
from gateway.wire.kube.scheduling.cluster import Cluster
from gateway.wire.kube.scheduling.needs import requests_of
from gateway.wire.kube.scheduling.placing import Refused, enough, place
from gateway.wire.kube.scheduling.pods import read_pod
from gateway.wire.kube.scheduling.preempting import NoWay, Way, make_room
from gateway.wire.kube.selectors import Requirement
from tests.scheduling_samples import (
    HOST,
    PREFERRED,
    ZONE,
    a_cluster,
    a_node,
    a_pod,
    affinity,
    near,
    put,
    required_terms,
    rule,
    term,
    zones,
)

# --- what a Pod takes -------------------------------------------------------------------------


def test_sidecars_stay_and_the_greediest_moment_of_the_start_counts() -> None:
    def box(cpu: str, **more: str) -> dict[str, Any]:
        return {"name": "x", "resources": {"requests": {"cpu": cpu}}, **more}

    pod: Any = {
        "spec": {
            "initContainers": [box("3"), box("500m", restartPolicy="Always"), box("2")],
            "containers": [box("1"), box("250m")],
            "overhead": {"cpu": "10m", "memory": "1Mi"},
        }
    }
    assert requests_of(pod) == {"cpu": 3_010, "memory": 1_048_576}
    pod["spec"]["initContainers"][0]["resources"]["requests"]["cpu"] = "100m"
    assert requests_of(pod)["cpu"] == 2_510
    pod["spec"]["resources"] = {"requests": {"cpu": "4", "example.com/a": "9"}}
    assert requests_of(pod)["cpu"] == 4_010


# --- filters and their texts ------------------------------------------------------------------


def test_without_nodes_there_is_nothing_to_choose() -> None:
    assert put(a_pod(), a_cluster()) == "no nodes available to schedule pods"


@pytest.mark.parametrize(
    ("node", "pod", "why"),
    [
        ({"spec": {"unschedulable": True}}, {}, "1 node(s) were unschedulable"),
        (
            {"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoExecute"}]}},
            {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]},
            "1 node(s) had untolerated taint(s)",
        ),
        (
            {},
            {"nodeSelector": {"disk": "ssd"}},
            "1 node(s) didn't match Pod's node affinity/selector",
        ),
        (
            {"labels": {"cores": "4"}},
            required_terms(term("cores", "Gt", "4"), {}),
            "1 node(s) didn't match Pod's node affinity/selector",
        ),
        ({"pods": "0"}, {}, "1 Too many pods"),
        ({}, {"requests": {"cpu": "2001m"}}, "1 Insufficient cpu"),
        (
            {"pods": "0"},
            {"requests": {"memory": "3Gi", "cpu": "3", "ephemeral-storage": "1", "a.b/gpu": "1"}},
            "1 Insufficient a.b/gpu, 1 Insufficient cpu, 1 Insufficient ephemeral-storage,"
            " 1 Insufficient memory, 1 Too many pods",
        ),
        (
            {},
            {
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule"}
                ]
            },
            "1 node(s) didn't match pod topology spread constraints (missing required label)",
        ),
    ],
)
def test_a_node_that_will_not_do_says_why(
    node: dict[str, Any], pod: dict[str, Any], why: str
) -> None:
    assert put(a_pod(**pod), a_cluster(a_node("n", **node))) == f"0/1 nodes are available: {why}."


@pytest.mark.parametrize(
    ("node", "pod"),
    [
        (
            {"spec": {"unschedulable": True}},
            {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]},
        ),
        (
            {"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}},
            {"tolerations": [{"key": "a", "value": "b"}]},
        ),
        (
            {
                "spec": {
                    "taints": [
                        {"key": "a", "effect": "NoSchedule"},
                        {"key": "b", "effect": "NoExecute"},
                    ]
                }
            },
            {"tolerations": [{"operator": "Exists"}]},
        ),
        ({"spec": {"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}}, {}),
        ({"labels": {"cores": "8"}}, required_terms(term("x", "Exists"), term("cores", "Gt", "4"))),
        ({}, required_terms(term("gone", "NotIn", "a"))),
        ({}, required_terms(term("gone", "DoesNotExist"))),
        ({}, {"requests": {"cpu": "2", "memory": "2048Mi"}}),
        ({"allocatable": {"a.b/gpu": "1"}}, {"requests": {"a.b/gpu": "1"}}),
    ],
)
def test_a_node_that_will_do_is_taken(node: dict[str, Any], pod: dict[str, Any]) -> None:
    assert put(a_pod(**pod), a_cluster(a_node("n", **node))) == "n"


def test_a_pod_pinned_by_name_asks_that_node_alone() -> None:
    def named(*names: str) -> dict[str, Any]:
        return {"matchFields": [{"key": "metadata.name", "operator": "In", "values": list(names)}]}

    cluster = a_cluster(a_node("a"), a_node("b", cpu="1"), a_node("c"))
    pinned = a_pod(requests={"cpu": "2"}, **required_terms(named("b")))
    assert put(pinned, cluster) == (
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    )
    assert put(a_pod(**required_terms(named("c"), named("x"))), cluster) == "c"
    conflict: dict[str, Any] = {
        "matchFields": named("a")["matchFields"] + named("b")["matchFields"]
    }
    assert put(a_pod(**required_terms(conflict)), cluster) == (
        "0/3 nodes are available: pod affinity terms conflict."
    )


@pytest.mark.parametrize(
    ("held", "asked", "is_free"),
    [
        (("", "TCP"), ("", "TCP"), False),
        (("", "TCP"), ("", "UDP"), True),
        (("127.0.0.1", "TCP"), ("", "TCP"), False),
        (("", "TCP"), ("127.0.0.1", "TCP"), False),
        (("127.0.0.1", "TCP"), ("127.0.0.2", "TCP"), True),
    ],
)
def test_a_port_of_a_node_is_taken_once(
    held: tuple[str, str], asked: tuple[str, str], is_free: bool
) -> None:
    def port(where: tuple[str, str]) -> dict[str, Any]:
        return {"hostPort": 80, "containerPort": 80, "hostIP": where[0], "protocol": where[1]}

    cluster = a_cluster(a_node("n"), pods=(a_pod("old", nodeName="n", ports=[port(held)]),))
    found = put(a_pod(ports=[port(asked)]), cluster)
    assert (found == "n") is is_free
    cluster.remove(("default", "old"))
    assert put(a_pod(ports=[port(asked)]), cluster) == "n"


def test_neighbours_are_wanted_and_refused_in_both_directions() -> None:
    web = a_pod("web", labels={"app": "web"}, nodeName="n1")
    cluster = a_cluster(*zones(), pods=(web,))
    assert put(a_pod(**near(ZONE, labels={"app": "web"})), cluster) in ("n1", "n3")
    assert put(a_pod(**near(HOST, labels={"app": "web"})), cluster) == "n1"
    assert put(a_pod(**near(HOST, labels={"app": "db"})), cluster) == (
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules."
    )
    away = near(ZONE, labels={"app": "web"}, kind="podAntiAffinity")
    assert put(a_pod(**away), cluster) in ("n0", "n2")
    cluster.place(
        read_pod(
            a_pod("shy", nodeName="n0", **near(ZONE, labels={"app": "web"}, kind="podAntiAffinity"))
        )
    )
    assert put(a_pod("web2", labels={"app": "web"}, **away), cluster) == (
        "0/4 nodes are available: 2 node(s) didn't match pod anti-affinity rules,"
        " 2 node(s) didn't satisfy existing pods anti-affinity rules."
    )


def test_the_first_of_a_family_that_wants_itself_may_begin_others_join_it() -> None:
    cluster = a_cluster(*zones())
    family = {"labels": {"app": "web"}, **near(ZONE, labels={"app": "web"})}
    first = put(a_pod("a", **family), cluster)
    cluster.place(read_pod(a_pod("a", nodeName=first, **family)))
    zone = cluster.nodes[first].labels[ZONE]
    assert cluster.nodes[put(a_pod("b", **family), cluster)].labels[ZONE] == zone


def test_neighbours_of_other_namespaces_count_where_they_are_named_or_labelled() -> None:
    other = a_pod("web", labels={"app": "web"}, nodeName="n1")
    other["metadata"]["namespace"] = "blue"  # type: ignore[index, call-overload]
    teams = {"blue": {"team": "a"}}
    cluster = a_cluster(*zones(), pods=(other,), namespace_labels=lambda name: teams.get(name, {}))
    wanted = {"app": "web"}
    assert "affinity rules" in put(a_pod(**near(HOST, labels=wanted)), cluster)
    assert put(a_pod(**near(HOST, labels=wanted, namespaces=["blue"])), cluster) == "n1"
    everywhere = near(HOST, labels=wanted, namespaceSelector={})
    assert put(a_pod(**everywhere), cluster) == "n1"
    mine = near(HOST, labels=wanted, namespaceSelector={"matchLabels": {"team": "a"}})
    assert put(a_pod(**mine), cluster) == "n1"
    theirs = near(HOST, labels=wanted, namespaceSelector={"matchLabels": {"team": "b"}})
    assert "affinity rules" in put(a_pod(**theirs), cluster)


def test_pods_are_spread_over_domains_as_evenly_as_asked() -> None:
    cluster = a_cluster(*zones(), pods=(a_pod("w", labels={"app": "web"}, nodeName="n0"),))
    web = {"labels": {"app": "web"}}
    assert put(a_pod(**web, topologySpreadConstraints=[rule()]), cluster) in ("n1", "n3")
    cluster.nodes["n1"].is_closed = cluster.nodes["n3"].is_closed = True
    assert put(a_pod(**web, topologySpreadConstraints=[rule()]), cluster) == (
        "0/4 nodes are available: 2 node(s) didn't match pod topology spread constraints,"
        " 2 node(s) were unschedulable."
    )
    only = {"nodeSelector": {ZONE: "z0"}}
    assert put(a_pod(**web, **only, topologySpreadConstraints=[rule()]), cluster) in ("n0", "n2")
    ignoring = rule(nodeAffinityPolicy="Ignore")
    assert "spread" in put(a_pod(**web, **only, topologySpreadConstraints=[ignoring]), cluster)
    lenient = rule(maxSkew=2)
    assert put(a_pod(**web, topologySpreadConstraints=[lenient]), cluster) in ("n0", "n2")
    many = rule(minDomains=3, maxSkew=1)
    assert "spread" in put(a_pod(**web, topologySpreadConstraints=[many]), cluster)
    soft = rule(whenUnsatisfiable="ScheduleAnyway")
    assert put(a_pod(**web, topologySpreadConstraints=[soft]), cluster) in ("n0", "n2")


def test_a_rule_that_minds_taints_counts_no_domain_that_is_out_of_reach() -> None:
    tainted = a_node(
        "far", labels={ZONE: "z9"}, spec={"taints": [{"key": "a", "effect": "NoSchedule"}]}
    )
    web = a_pod("w", labels={"app": "web"}, nodeName="n0")
    cluster = a_cluster(a_node("n0", labels={ZONE: "z0"}), tainted, pods=(web,))
    asked = {"labels": {"app": "web"}, "topologySpreadConstraints": [rule()]}
    assert "spread constraints" in put(a_pod(**asked), cluster)
    asked["topologySpreadConstraints"] = [rule(nodeTaintsPolicy="Honor")]
    assert put(a_pod(**asked), cluster) == "n0"


# --- volumes ----------------------------------------------------------------------------------


def a_claim(**spec: Any) -> JsonObject:
    return {"metadata": {"name": "data"}, "spec": spec, "status": {}}


def with_volume(**more: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}], **more}


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (None, 'persistentvolumeclaim "data" not found'),
        (a_claim(storageClassName="plain"), "pod has unbound immediate PersistentVolumeClaims"),
        (
            a_claim(storageClassName="late"),
            "2 node(s) didn't find available persistent volumes to bind",
        ),
        (
            a_claim(volumeName="gone"),
            "2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
        ),
        (
            {**a_claim(), "metadata": {"name": "data", "deletionTimestamp": "now"}},
            'persistentvolumeclaim "data" is being deleted',
        ),
        (
            {**a_claim(volumeName="pv"), "status": {"phase": "Lost"}},
            'persistentvolumeclaim "data" bound to non-existent persistentvolume "pv"',
        ),
    ],
)
def test_a_claim_that_is_not_bound_keeps_a_pod_waiting(claim: JsonObject | None, why: str) -> None:
    classes: dict[str, JsonObject] = {
        "late": {"volumeBindingMode": "WaitForFirstConsumer"},
        "plain": {},
    }
    cluster = a_cluster(
        a_node("a"), a_node("b"), claim=lambda _ns, _name: claim, storage_class=classes.get
    )
    assert put(a_pod(**with_volume()), cluster) == f"0/2 nodes are available: {why}."


def test_a_bound_volume_says_where_it_can_be_used() -> None:
    volume: JsonObject = {
        "metadata": {"labels": {}},
        "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [term(HOST, "In", "n2")]}}},
    }
    found = {"pv": volume}
    cluster = a_cluster(
        *zones(), claim=lambda _ns, _name: a_claim(volumeName="pv"), volume=found.get
    )
    assert put(a_pod(**with_volume()), cluster) == "n2"
    volume["spec"] = {}
    volume["metadata"] = {"labels": {ZONE: "z1"}}
    assert put(a_pod(**with_volume()), cluster) in ("n1", "n3")
    assert put(a_pod(**with_volume(nodeSelector={ZONE: "z0"})), cluster) == (
        "0/4 nodes are available: 2 node(s) didn't match Pod's node affinity/selector,"
        " 2 node(s) had no available volume zone."
    )


def test_a_claim_for_one_pod_alone_is_used_by_one() -> None:
    volume: JsonObject = {"metadata": {}, "spec": {}}
    claim = a_claim(volumeName="pv", accessModes=["ReadWriteOncePod"])
    cluster = a_cluster(a_node("n"), claim=lambda _ns, _name: claim, volume={"pv": volume}.get)
    assert put(a_pod(**with_volume()), cluster) == "n"
    cluster.place(read_pod(a_pod("first", nodeName="n", **with_volume())))
    assert "ReadWriteOncePod access mode already in-use" in put(a_pod(**with_volume()), cluster)


# --- scores -----------------------------------------------------------------------------------


def test_the_emptier_node_is_liked_more() -> None:
    busy = a_pod("b", nodeName="a", requests={"cpu": "1", "memory": "1Gi"})
    assert put(a_pod(), a_cluster(a_node("a"), a_node("b"), pods=(busy,))) == "b"


def test_preferences_decide_between_nodes_that_will_do() -> None:
    wish = {"weight": 10, "preference": term("disk", "In", "ssd")}
    preferred = affinity(nodeAffinity={PREFERRED: [wish]})
    nodes = (a_node("a"), a_node("b", labels={"disk": "ssd"}), a_node("c"))
    assert put(a_pod(**preferred), a_cluster(*nodes)) == "b"
    rather_not: dict[str, Any] = {"spec": {"taints": [{"key": "x", "effect": "PreferNoSchedule"}]}}
    assert put(a_pod(), a_cluster(a_node("a", **rather_not), a_node("b"))) == "b"
    image: dict[str, Any] = {"images": [{"names": ["app:latest"], "sizeBytes": 2_000_000_000}]}
    assert put(a_pod(), a_cluster(a_node("a"), a_node("b", **image))) == "b"
    liked = {
        "weight": 1,
        "podAffinityTerm": {"topologyKey": HOST, "labelSelector": {"matchLabels": {"app": "web"}}},
    }
    near_web = affinity(podAffinity={PREFERRED: [liked]})
    web = a_pod("web", labels={"app": "web"}, nodeName="n3")
    assert put(a_pod(**near_web), a_cluster(*zones(), pods=(web,))) == "n3"
    far_web = affinity(podAntiAffinity={PREFERRED: [liked]})
    web = a_pod("web", labels={"app": "web"}, nodeName="a", requests={})
    assert put(a_pod(**far_web), a_cluster(a_node("a"), a_node("b", cpu="1"), pods=(web,))) == "b"


def test_pods_of_one_owner_spread_though_they_do_not_say_so() -> None:
    terms = (Requirement("app", "in", frozenset({"web"})),)
    cluster = a_cluster(*(a_node(f"n{i}") for i in range(5)), spread_selector=lambda _pod: terms)
    for at in range(5):
        pod = a_pod(f"w{at}", labels={"app": "web"}, requests={"cpu": "1m"})
        pod["spec"]["nodeName"] = put(pod, cluster)  # type: ignore[index, call-overload]
        cluster.place(read_pod(pod))
    assert all(len(node.pods) == 1 for node in cluster.nodes.values())


@pytest.mark.parametrize(
    ("total", "wanted"), [(5, 5), (99, 99), (100, 100), (1_000, 420), (10_000, 500)]
)
def test_of_many_nodes_a_share_is_looked_at(total: int, wanted: int) -> None:
    assert enough(total) == wanted


# --- preemption -------------------------------------------------------------------------------


def way_for(pod: JsonObject, cluster: Cluster) -> Way | NoWay:
    info = read_pod(pod)
    found = place(info, cluster)
    assert isinstance(found, Refused)
    return make_room(info, cluster, found)


def full(name: str, node: str, priority: int, cpu: str = "2", **more: Any) -> JsonObject:
    return a_pod(name, nodeName=node, priority=priority, requests={"cpu": cpu}, **more)


def test_the_least_important_pods_go_and_only_as_many_as_must() -> None:
    pods = (
        full("a1", "a", 5, "1"), full("a2", "a", 1, "1"), full("b1", "b", 3), full("c1", "c", 9),
    )  # fmt: skip
    cluster = a_cluster(a_node("a"), a_node("b"), a_node("c"), pods=pods)
    found = way_for(a_pod("new", priority=9, requests={"cpu": "1"}), cluster)
    assert isinstance(found, Way)
    assert (found.node, [victim.key[1] for victim in found.victims]) == ("a", ["a2"])
    assert sorted(len(node.pods) for node in cluster.nodes.values()) == [1, 1, 2]
    found = way_for(a_pod("new", priority=9, requests={"cpu": "2"}), cluster)
    assert isinstance(found, Way)
    assert (found.node, [victim.key[1] for victim in found.victims]) == ("b", ["b1"])


def test_who_cannot_preempt_is_told_why() -> None:
    cluster = a_cluster(a_node("a"), a_node("b", cpu="1"), pods=(full("x", "a", 5),))
    asked = a_pod("new", priority=5, requests={"cpu": "2"})
    assert way_for(asked, cluster) == NoWay(
        "preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod,"
        " 1 Preemption is not helpful for scheduling."
    )
    asked["spec"] |= {"priority": 9, "preemptionPolicy": "Never"}  # type: ignore[operator]
    assert way_for(asked, cluster) == NoWay(
        "preemption: not eligible due to preemptionPolicy=Never."
    )


def test_a_budget_is_broken_last() -> None:
    budget: JsonObject = {
        "metadata": {"name": "b"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
        "status": {"disruptionsAllowed": 0},
    }
    pods = (full("kept", "a", 1, labels={"app": "web"}), full("other", "b", 2))
    cluster = a_cluster(a_node("a"), a_node("b"), pods=pods, budgets=lambda _ns: [budget])
    found = way_for(a_pod("new", priority=9, requests={"cpu": "2"}), cluster)
    assert isinstance(found, Way)
    assert found.node == "b"


def test_room_that_is_being_made_is_waited_for_and_kept() -> None:
    ending = full("x", "a", 1, deletionTimestamp="now")
    cluster = a_cluster(a_node("a"), pods=(ending,))
    asked = a_pod("new", priority=9, requests={"cpu": "2"}, status={"nominatedNodeName": "a"})
    assert way_for(asked, cluster) == NoWay(
        "preemption: not eligible due to a terminating pod on the nominated node.",
        keeps_promise=True,
    )
    cluster.promise(read_pod(asked), "a")
    cluster.remove(("default", "x"))
    lesser = a_pod("late", priority=3, requests={"cpu": "1"})
    assert put(lesser, cluster) == "0/1 nodes are available: 1 Insufficient cpu."
    assert put(a_pod("greater", priority=10, requests={"cpu": "1"}), cluster) == "a"
    assert put(asked, cluster) == "a"
