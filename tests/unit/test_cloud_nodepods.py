"""Which Pods are on which node, what they name, and who is told."""

from __future__ import annotations

from typing import Any, cast

from cloud.nodepods import Need, NodePods
from gateway.kube.informer import Change
from gateway.model.json import JsonObject

EDGE: JsonObject = {"metadata": {"name": "e", "labels": {"node-role.kubernetes.io/edge": ""}}}
CONFIG = Need("configmap", "default", "c")


def a_pod(node: str = "e", uid: str = "u", account: str = "", **volumes: str) -> JsonObject:
    spec: JsonObject = {
        "nodeName": node,
        "volumes": [{"name": key, "configMap": {"name": key}} for key in volumes],
    }
    if account:
        spec["serviceAccountName"] = account
    return {"metadata": {"namespace": "default", "name": "p", "uid": uid}, "spec": spec}


class Watched:
    """A `NodePods` whose watch the test plays."""

    def __init__(self) -> None:
        self.pods = NodePods(cast("Any", None))
        self.nodes: list[str] = []
        self.needs: list[Need] = []
        self.gone: list[JsonObject] = []
        self.pods.on_change(self.nodes.append)
        self.pods.on_need(self.needs.append)
        self.pods.on_gone(self.gone.append)

    def change(self, old: JsonObject | None, new: JsonObject | None) -> None:
        self.pods._changed(Change(("default", "p"), old, new))

    def node(self, new: JsonObject | None) -> None:
        self.pods.node_changed(Change(("", "e"), None, new))


def test_pods_and_accounts_are_known_by_node() -> None:
    watched, pod = Watched(), a_pod(account="app")
    watched.change(None, pod)
    assert list(watched.pods.pods("e")) == [pod]
    assert watched.pods.service_accounts("e") == {("default", "app")}
    assert list(watched.pods.pods("other")) == []
    watched.change(pod, None)
    assert list(watched.pods.pods("e")) == []
    assert watched.gone == [pod]
    assert watched.nodes == ["e", "e"]


def test_only_edge_nodes_need_anything_and_they_stay_edge_nodes() -> None:
    watched, pod = Watched(), a_pod(c="")
    watched.change(None, pod)
    assert watched.pods.uses("e", ("configmap", "c"), "default")
    assert not watched.pods.uses("e", ("configmap", "c"), "kube-system")
    assert watched.pods.users(CONFIG) == []
    watched.node(EDGE)
    assert watched.pods.users(CONFIG) == ["e"]
    assert CONFIG in watched.needs
    watched.node({"metadata": {"name": "e"}})
    assert watched.pods.users(CONFIG) == ["e"]
    watched.node(None)
    assert watched.pods.users(CONFIG) == []


def test_a_need_ends_with_the_last_pod_that_names_it() -> None:
    watched = Watched()
    watched.pods.is_edge("e")
    first, second = a_pod(c=""), a_pod(uid="v")
    watched.change(None, first)
    watched.needs.clear()
    watched.change(first, {**first, "status": {}})
    assert watched.needs == []
    watched.change(first, second)
    assert watched.needs == [CONFIG]
    assert watched.pods.users(CONFIG) == []
    assert watched.gone == [first]  # its namesake is another Pod
    assert CONFIG not in set(watched.pods.needs("e"))
