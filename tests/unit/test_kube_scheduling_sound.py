"""Whatever the nodes and Pods are: nothing is placed where it may not be, and nobody waits for nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.json import JsonObject
from gateway.wire.kube.scheduling.cluster import Cluster
from gateway.wire.kube.scheduling.filters import FILTERS, Cycle
from gateway.wire.kube.scheduling.placing import Placed, Refused, place
from gateway.wire.kube.scheduling.pods import PodInfo, read_pod
from gateway.wire.kube.scheduling.preempting import NoWay, make_room
from gateway.wire.kube.taints import repels
from tests.scheduling_samples import HOST, ZONE, a_cluster, a_node, a_pod, near, rule

TAINTS = st.lists(
    st.fixed_dictionaries(
        {"key": st.sampled_from("ab"), "effect": st.sampled_from(["NoSchedule", "NoExecute"])}
    ),
    max_size=2,
)
NODES = st.lists(
    st.fixed_dictionaries(
        {
            "cpu": st.integers(0, 8),
            "pods": st.integers(0, 4),
            "zone": st.sampled_from(["x", "y", ""]),
            "taints": TAINTS,
            "closed": st.booleans(),
        }
    ),
    min_size=1,
    max_size=5,
)
PODS = st.lists(
    st.fixed_dictionaries(
        {
            "cpu": st.integers(0, 5),
            "port": st.sampled_from([0, 0, 80, 81]),
            "selects": st.sampled_from(["", "x", "y"]),
            "tolerates": st.sampled_from(["", "a", "b", "all"]),
            "shape": st.sampled_from(["", "spread", "apart", "together"]),
            "priority": st.integers(0, 2),
        }
    ),
    max_size=14,
)


def build_pod(at: int, drawn: dict[str, Any]) -> JsonObject:
    more: dict[str, Any] = {"requests": {"cpu": str(drawn["cpu"])}, "priority": drawn["priority"]}
    if drawn["port"]:
        more["ports"] = [{"hostPort": drawn["port"], "containerPort": 1}]
    if drawn["selects"]:
        more["nodeSelector"] = {ZONE: drawn["selects"]}
    if drawn["tolerates"]:
        key = {} if drawn["tolerates"] == "all" else {"key": drawn["tolerates"]}
        more["tolerations"] = [{"operator": "Exists", **key}]
    labels = {"app": drawn["shape"]}
    if drawn["shape"] == "spread":
        more["topologySpreadConstraints"] = [rule(labelSelector={"matchLabels": labels})]
    elif drawn["shape"] == "apart":
        more |= near(HOST, labels=labels, kind="podAntiAffinity")
    elif drawn["shape"] == "together":
        more |= near(ZONE, labels=labels)
    return a_pod(f"p{at}", labels=labels, **more)


def build_node(at: int, drawn: dict[str, Any]) -> JsonObject:
    labels = {ZONE: drawn["zone"]} if drawn["zone"] else {}
    spec = {"taints": drawn["taints"], "unschedulable": drawn["closed"]}
    return a_node(
        f"n{at}", cpu=str(drawn["cpu"]), pods=str(drawn["pods"]), labels=labels, spec=spec
    )


def is_sound(cluster: Cluster) -> None:
    """Check by hand, without the filters, that nothing is where it may not be."""
    for node in cluster.nodes.values():
        pods = list(node.pods.values())
        assert len(pods) <= node.max_pods
        assert sum(pod.requests.get("cpu", 0) for pod in pods) <= node.allocatable["cpu"]
        ports = [port for pod in pods for port in pod.ports]
        assert len(set(ports)) == len(ports)
        assert sum(pod.labels["app"] == "apart" for pod in pods) <= 1
        for pod in pods:
            assert not repels(node.taints, pod.tolerations)
            assert all(node.labels.get(key) == value for key, value in pod.wish.labels)
            if node.is_closed:
                assert any(not entry.key for entry in pod.tolerations)
    together = {
        node.labels.get(ZONE)
        for node in cluster.nodes.values()
        for pod in node.pods.values()
        if pod.labels["app"] == "together"
    }
    assert len(together) <= 1


@settings(max_examples=150, deadline=None)
@given(nodes=NODES, pods=PODS, data=st.data())
def test_nothing_is_placed_where_it_may_not_be_and_nobody_waits_for_nothing(
    nodes: list[dict[str, Any]], pods: list[dict[str, Any]], data: st.DataObject
) -> None:
    cluster = a_cluster(*(build_node(at, drawn) for at, drawn in enumerate(nodes)))
    waiting: list[PodInfo] = []
    for at, drawn in enumerate(pods):
        document = build_pod(at, drawn)
        info = read_pod(document)
        found = place(info, cluster, lambda names: data.draw(st.sampled_from(names)))
        if isinstance(found, Placed):
            document["spec"]["nodeName"] = found.node  # type: ignore[index, call-overload]
            cluster.place(read_pod(document))
            is_sound(cluster)
        else:
            waiting.append(info)
            cycle = Cycle(info, cluster)
            for node in cluster.nodes.values():
                assert any(filter_(cycle, node) is not None for filter_ in FILTERS)
            check_way(info, cluster, found)
    for key in list(cluster.placed):
        cluster.remove(key)
    for node in cluster.nodes.values():
        assert not node.pods
        assert not any(node.requested.values())
        assert not node.ports


def check_way(pod: PodInfo, cluster: Cluster, refused: Refused) -> None:
    """Whoever is sent away matters less, each of them is in the way, and without them there is room."""
    before = {name: set(node.pods) for name, node in cluster.nodes.items()}
    found = make_room(pod, cluster, refused)
    assert {name: set(node.pods) for name, node in cluster.nodes.items()} == before
    if isinstance(found, NoWay):
        return
    node = cluster.nodes[found.node]
    assert found.victims
    assert all(victim.priority < pod.priority for victim in found.victims)
    for victim in found.victims:
        cluster.remove(victim.key)
    assert all(filter_(Cycle(pod, cluster), node) is None for filter_ in FILTERS)
    for victim in found.victims:
        cluster.place(victim)
