"""Small facts of the kubelet, each seen at a kubelet 1.36.3 beside this node on one API server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edge.pods.health import plain_version
from edge.pods.nodecopy import NodeCopy
from edge.pods.podspec import read_pod
from edge.pods.podstatus import rejected
from edge.pods.runtime import RuntimeFault
from gateway.model.json import JsonObject


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("1.6.20~ds1", "1.6.20"),
        ("v1.7.24", "v1.7.24"),
        ("2.0.0-rc.3", "2.0.0-rc.3"),
        ("1.30.0+build5", "1.30.0+build5"),
        ("strange", "strange"),
    ],
)
def test_a_runtime_s_version_is_shown_without_what_a_distribution_adds(
    told: str, shown: str
) -> None:
    assert plain_version(told) == shown


def test_a_fault_in_full_names_the_status_of_the_call() -> None:
    found = RuntimeFault("no such file")
    assert found.in_full == "no such file"
    found.rpc = "Unknown"
    assert found.in_full == "rpc error: code = Unknown desc = no such file"
    assert found.message == "no such file"


def test_a_pod_that_is_refused_has_nothing_set_aside() -> None:
    raw: JsonObject = {
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "90"}}}]},
    }
    assert "allocatedResources" not in rejected(read_pod(raw), "OutOfcpu", "too much", 0.0)


def node(version: str, labels: JsonObject) -> JsonObject:
    return {"metadata": {"name": "edge-1", "resourceVersion": version, "labels": labels}}


def seen(copy: NodeCopy) -> JsonObject | None:
    return copy.node


def test_the_node_s_labels_are_known_from_the_first_report_on() -> None:
    """Without them a Pod whose `nodeSelector` does not match would run."""
    meta: Any = SimpleNamespace(on_kind=lambda *_: None)
    answers: list[JsonObject] = [{}]
    copy = NodeCopy("edge-1", meta, lambda: answers[-1])
    assert seen(copy) is None
    answers.append(node("7", {"a": "1"}))
    assert seen(copy) == answers[-1]
    newer = node("9", {"a": "2"})
    change: Any = SimpleNamespace(
        subject=SimpleNamespace(name="edge-1"), operation="update", object=newer
    )
    copy.object_changed(change, None)
    assert seen(copy) == newer
    answers.append(node("8", {"a": "3"}))
    assert seen(copy) == newer
    answers.append(node("12", {"a": "4"}))
    assert seen(copy) == answers[-1]
