"""Nodes and Pods to be placed."""

from __future__ import annotations

from typing import Any

from gateway.model.json import JsonObject
from gateway.wire.kube.scheduling.cluster import Cluster, Facts
from gateway.wire.kube.scheduling.placing import Placed, place
from gateway.wire.kube.scheduling.pods import read_pod

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def a_node(
    name: str, /, *, cpu: str = "2", memory: str = "2Gi", pods: str = "10", **more: Any
) -> JsonObject:
    labels = {HOST: name, **more.get("labels", {})}
    allocatable = {"cpu": cpu, "memory": memory, "pods": pods, **more.get("allocatable", {})}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": more.get("spec", {}),
        "status": {"allocatable": allocatable, "images": more.get("images", [])},
    }


def a_pod(name: str = "p", /, **more: Any) -> JsonObject:
    container: dict[str, Any] = {"name": "c", "image": "app"}
    container["resources"] = {"requests": more.pop("requests", {})}
    container["ports"] = more.pop("ports", [])
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}"}
    metadata |= {
        key: more.pop(key)
        for key in ("labels", "deletionTimestamp", "ownerReferences")
        if key in more
    }
    status = more.pop("status", {})
    return {"metadata": metadata, "spec": {"containers": [container], **more}, "status": status}


def a_cluster(*nodes: JsonObject, pods: tuple[JsonObject, ...] = (), **facts: Any) -> Cluster:
    cluster = Cluster(Facts(**facts))
    for node in nodes:
        cluster.set_node(node)
    for pod in pods:
        cluster.place(read_pod(pod))
    return cluster


def put(pod: JsonObject, cluster: Cluster) -> str:
    """Return the node, or why there is none."""
    found = place(read_pod(pod), cluster)
    return found.node if isinstance(found, Placed) else found.message


def affinity(**kinds: Any) -> dict[str, Any]:
    return {"affinity": kinds}


def required_terms(*terms: Any) -> dict[str, Any]:
    selector = {"nodeSelectorTerms": list(terms)}
    return affinity(nodeAffinity={"requiredDuringSchedulingIgnoredDuringExecution": selector})


def term(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def near(
    where: str, *, labels: dict[str, str], kind: str = "podAffinity", **more: Any
) -> dict[str, Any]:
    wanted = {"topologyKey": where, "labelSelector": {"matchLabels": labels}, **more}
    return affinity(**{kind: {"requiredDuringSchedulingIgnoredDuringExecution": [wanted]}})


def zones() -> tuple[JsonObject, ...]:
    return tuple(a_node(f"n{i}", labels={ZONE: f"z{i % 2}"}) for i in range(4))


def rule(**more: Any) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
        **more,
    }
