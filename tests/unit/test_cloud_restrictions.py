"""What an edge node may not say of itself, of Pods and of events."""

from __future__ import annotations

import pytest

from cloud.references import MIRROR
from cloud.restrictions import (
    check_event_about,
    check_event_of,
    check_mirror_pod,
    event_from,
    own_words,
    status_patch_of,
)
from gateway.errors import Forbidden
from gateway.model.json import JsonObject


def a_pod(
    spec: JsonObject | None = None, *, node: str = "edge-1", mirror: bool = True
) -> JsonObject:
    annotations: JsonObject = {MIRROR: "x"} if mirror else {}
    return {
        "metadata": {"namespace": "kubeedge", "name": "p", "annotations": annotations},
        "spec": {"nodeName": node, **(spec or {})},
    }


@pytest.mark.parametrize(
    "key",
    [
        "twinspan.io/tenant",
        "a.twinspan.io/x",
        "node-restriction.kubernetes.io/secure",
        "$patch",
        "$retainKeys",
    ],
)
def test_words_of_the_cloud_and_directives_are_not_the_edge_s(key: str) -> None:
    assert own_words({key: "mine", "zone": "a"}) == {"zone": "a"}


def test_an_edge_cannot_remove_labels_or_annotations() -> None:
    assert own_words({"twinspan.io/tenant": None, "zone": None, "a": "b"}) == {"a": "b"}
    assert own_words(None) == {}


def test_a_word_that_only_looks_like_the_cloud_s_stays() -> None:
    assert own_words({"nottwinspan.io/a": "1", "twinspan.io": "2"}) == {
        "nottwinspan.io/a": "1",
        "twinspan.io": "2",
    }


def test_a_patch_of_the_status_keeps_identity_and_own_words_alone() -> None:
    metadata: JsonObject = {
        "uid": "u",
        "annotations": {"twinspan.io/tenant": "other", "a": "b"},
        "labels": None,
        "finalizers": ["x/y"],
        "ownerReferences": [],
    }
    patch: JsonObject = {"metadata": metadata, "status": {"phase": "x"}}
    assert status_patch_of("edge-1", patch) == {
        "metadata": {"uid": "u", "annotations": {"a": "b"}},
        "status": {"phase": "x"},
    }
    assert status_patch_of("edge-1", {"metadata": {"annotations": None}}) == {"status": {}}
    with pytest.raises(Forbidden):
        status_patch_of("edge-1", {"spec": {}})
    labelled: JsonObject = {"metadata": {"labels": {"app": "bank"}}, "status": {}}
    assert status_patch_of("edge-1", labelled)["metadata"] == {"labels": {"app": "bank"}}
    assert "metadata" not in status_patch_of("edge-1", labelled, ("annotations",))


@pytest.mark.parametrize(
    "spec",
    [
        {"volumes": [{"name": "v", "secret": {"secretName": "casecret"}}]},
        {"containers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}]},
        {"imagePullSecrets": [{"name": "s"}]},
        {"serviceAccountName": "default"},
    ],
)
def test_a_mirror_pod_may_not_name_what_its_node_could_then_read(spec: JsonObject) -> None:
    with pytest.raises(Forbidden, match="may not name"):
        check_mirror_pod("edge-1", a_pod(spec))


def test_only_mirror_pods_of_its_own_may_be_made_by_a_node() -> None:
    check_mirror_pod("edge-1", a_pod())
    with pytest.raises(Forbidden, match="mirror Pods alone"):
        check_mirror_pod("edge-1", a_pod(mirror=False))
    with pytest.raises(Forbidden, match="not of node"):
        check_mirror_pod("edge-1", a_pod(node="edge-2"))


def test_an_event_is_of_the_node_that_sent_it() -> None:
    event = event_from("edge-1", {"source": {"component": "edged", "host": "edge-2"}})
    check_event_of("edge-1", event)
    with pytest.raises(Forbidden):
        check_event_of("edge-2", event)
    with pytest.raises(Forbidden):
        check_event_of("edge-2", {"metadata": {"name": "e"}})


@pytest.mark.parametrize(
    ("involved", "pod"),
    [
        ({"kind": "Node", "name": "edge-2"}, None),
        ({"kind": "Secret", "name": "edge-1"}, None),
        ({}, None),
        ({"kind": "Pod", "name": "p"}, a_pod(node="edge-2")),
    ],
)
def test_events_about_what_is_not_the_node_s_are_refused(
    involved: JsonObject, pod: JsonObject | None
) -> None:
    with pytest.raises(Forbidden):
        check_event_about("edge-1", {"involvedObject": involved}, pod)


@pytest.mark.parametrize(
    ("involved", "pod"),
    [
        ({"kind": "Node", "name": "edge-1"}, None),
        ({"kind": "Pod", "name": "p"}, a_pod()),
        ({"kind": "Pod", "name": "gone"}, None),
    ],
)
def test_events_about_its_pods_and_itself_are_the_node_s(
    involved: JsonObject, pod: JsonObject | None
) -> None:
    check_event_about("edge-1", {"involvedObject": involved}, pod)
