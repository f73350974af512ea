"""What an EdgeApplication stands for, and when its parts are Available; what edges see of endpoints."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.appparts import (
    APPLIED,
    CONTAINED,
    MARK,
    MAX_PARTS,
    Ref,
    contained,
    contained_note,
    is_current,
    missing,
    owner_of,
    parts_of,
    unwanted,
)
from cloud.chores import Chores
from cloud.slices import as_seen
from cloud.targets import Target, targets_of
from gateway.errors import BadRequest
from gateway.model.json import JsonObject

MAP: JsonObject = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}}
SERVICE: JsonObject = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}


def a_deployment(name: str = "web", **spec: Any) -> JsonObject:
    pod: JsonObject = {"containers": [{"name": "c", "image": "app:1"}], **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"template": {"spec": pod}},
    }


def an_app(*manifests: Any, groups: Any = ("west", "east"), **scope: Any) -> JsonObject:
    targets: Any = [{"name": name} for name in groups]
    return {
        "metadata": {"name": "demo", "namespace": "plant", "uid": "u-app"},
        "spec": {
            "workloadTemplate": {"manifests": [*manifests]},
            "workloadScope": {"targetNodeGroups": targets, **scope},
        },
    }


def documents(app: JsonObject) -> dict[str, Any]:
    return {str(part.ref): part.document for part in parts_of(app)}


def test_workloads_are_copied_for_each_target_and_other_kinds_are_not() -> None:
    parts = parts_of(an_app(MAP, a_deployment(), SERVICE))
    assert [(part.ordinal, str(part.ref), part.group) for part in parts] == [
        (0, 'ConfigMap "m"', ""),
        (1, 'Deployment "web-west"', "west"),
        (1, 'Deployment "web-east"', "east"),
        (2, 'Service "s"', ""),
    ]
    for part in parts:
        document: Any = part.document
        assert document["metadata"]["name"] == part.ref.name
        assert document["metadata"]["namespace"] == "plant"
        assert document["metadata"]["labels"][MARK] == "u-app"
        assert owner_of(document) == ("demo", "u-app")


def test_what_a_template_says_of_itself_stays_and_what_servers_say_goes() -> None:
    template: Any = copy.deepcopy(MAP)
    template["metadata"] |= {
        "labels": {"app": "x"},
        "annotations": {"note": "y"},
        "resourceVersion": "7",
        "uid": "u",
        "ownerReferences": [{"kind": "Other"}],
    }
    template["status"] = {"phase": "x"}
    document = documents(an_app(template))['ConfigMap "m"']
    metadata = document["metadata"]
    assert metadata["labels"] == {"app": "x", MARK: "u-app"}
    assert set(metadata["annotations"]) == {"note", APPLIED}
    assert set(metadata) == {"name", "namespace", "labels", "annotations", "ownerReferences"}
    assert "status" not in document


def test_a_service_stays_within_its_group() -> None:
    document = documents(an_app(SERVICE))['Service "s"']
    notes = document["metadata"]["annotations"]
    assert notes["apps.kubeedge.io/service-topology"] == "range-nodegroup"


def test_a_copy_is_told_from_what_it_was_before() -> None:
    one, two = an_app(a_deployment()), an_app(a_deployment(hostNetwork=True))
    before, after = (documents(app)['Deployment "web-west"'] for app in (one, two))
    assert is_current(before, documents(one)['Deployment "web-west"'])
    assert not is_current(before, after)
    assert not is_current({"metadata": {}}, after)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({}, "needs apiVersion"),
        ({"apiVersion": "v1", "kind": "ConfigMap"}, "metadata.name"),
        ({**MAP, "metadata": {"name": "m", "namespace": "other"}}, "namespace other"),
        ("text", "needs apiVersion"),
    ],
)
def test_a_manifest_that_cannot_be_made_is_told_and_the_rest_is_made(
    manifest: Any, said: str
) -> None:
    bad, good = parts_of(an_app(manifest, MAP))
    assert said in bad.problem
    assert not bad.is_wanted
    assert bad.document is None
    assert good.document is not None


def test_without_targets_workloads_are_told_so() -> None:
    (part,) = parts_of(an_app(a_deployment(), groups=()))
    assert "no target" in part.problem


def test_what_runs_stays_wanted_while_its_overriders_are_wrong() -> None:
    app: Any = an_app(a_deployment(), groups=())
    scope = app["spec"]["workloadScope"]
    scope["targetNodeGroups"] = [{"name": "west", "overriders": {"replicas": -1}}]
    (part,) = parts_of(app)
    assert "replicas" in part.problem
    assert part.is_wanted
    assert part.ref.name == "web-west"


def test_one_object_is_made_once() -> None:
    first, second = parts_of(an_app(MAP, MAP))
    assert first.document is not None
    assert "manifest 0" in second.problem


def test_an_application_that_is_too_large_says_so_at_its_end() -> None:
    app = an_app(a_deployment(), MAP, groups=[f"g{at}" for at in range(MAX_PARTS + 10)])
    parts = parts_of(app)
    assert len(parts) == MAX_PARTS
    assert all(part.document is not None for part in parts[:-1])
    assert "at most" in parts[-1].problem


def test_an_application_of_another_form_stands_for_nothing() -> None:
    assert parts_of({}) == []
    assert parts_of({"spec": {"workloadTemplate": {"manifests": {}}, "workloadScope": []}}) == []


# --- targets ------------------------------------------------------------------------------------------

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def test_a_group_s_copy_asks_for_its_nodes_beside_what_the_template_asks() -> None:
    template = a_deployment(nodeSelector={"arch": "arm64"})
    copied: Any = Target(group="west").copy_of(template)
    assert copied["spec"]["template"]["spec"]["nodeSelector"] == {
        "arch": "arm64",
        "apps.kubeedge.io/belonging-to": "west",
    }


def test_labels_join_every_alternative_that_the_template_has() -> None:
    old = {"key": "disk", "operator": "Exists"}
    affinity = {
        "podAffinity": {"x": 1},
        "nodeAffinity": {
            "preferred": [],
            REQUIRED: {
                "nodeSelectorTerms": [{"matchExpressions": [old]}, {"matchFields": [{"key": "n"}]}]
            },
        },
    }
    selector: JsonObject = {
        "matchLabels": {"zone": "edge"},
        "matchExpressions": [{"key": "os", "operator": "NotIn", "values": ["w"]}],
    }
    copied: Any = Target(selector=selector).copy_of(a_deployment(affinity=affinity))
    found = copied["spec"]["template"]["spec"]["affinity"]
    added = [
        {"key": "zone", "operator": "In", "values": ["edge"]},
        {"key": "os", "operator": "NotIn", "values": ["w"]},
    ]
    assert found["podAffinity"] == {"x": 1}
    assert found["nodeAffinity"]["preferred"] == []
    assert found["nodeAffinity"][REQUIRED]["nodeSelectorTerms"] == [
        {"matchExpressions": [old, *added]},
        {"matchFields": [{"key": "n"}], "matchExpressions": added},
    ]


@pytest.mark.parametrize(
    "selector", [{}, {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}]
)
def test_a_selector_that_asks_for_nothing_usable_is_refused(selector: JsonObject) -> None:
    with pytest.raises(BadRequest, match="labelSelector"):
        Target(selector=selector).copy_of(a_deployment())


def test_names_of_copies_tell_targets_apart() -> None:
    labels = [
        Target(selector={"matchLabels": {"zone": "edge", "env": "prod"}}),
        Target(selector={"matchLabels": {"zone": "edge"}}),
        Target(selector={"matchExpressions": [{"key": "zone", "operator": "Exists"}]}),
    ]
    names = [each.name_of("web") for each in labels]
    assert names[0] == "web-ls-06daf707"  # printf envprodzoneedge | sha256sum
    assert len(set(names)) == 3


def test_targets_of_another_form_are_left_out() -> None:
    scope: JsonObject = {"targetNodeGroups": ["x", {}, {"name": "a"}], "targetNodeLabels": {}}
    assert [target.group for target in targets_of(scope)] == ["a"]


# --- what was made ------------------------------------------------------------------------------------

refs = st.builds(
    Ref,
    group=st.sampled_from(["", "apps"]),
    version=st.just("v1"),
    kind=st.sampled_from(["Pod", "Deployment"]),
    namespace=st.just("plant"),
    name=st.sampled_from(["a", "b", "c"]),
)


@given(st.sets(refs))
def test_what_was_made_is_read_as_it_was_written(made: set[Ref]) -> None:
    app = an_app()
    app["metadata"]["annotations"] = {CONTAINED: contained_note(made, ())}  # type: ignore[index,call-overload]
    assert contained(app) == made


def test_the_note_about_what_was_made_has_kubeedge_s_form() -> None:
    parts = parts_of(an_app(MAP, a_deployment(), groups=("west",)))
    assert json.loads(contained_note([part.ref for part in parts], parts)) == [
        {"ordinal": 0, "group": "", "version": "v1", "kind": "ConfigMap",
         "namespace": "plant", "name": "m"},
        {"ordinal": 1, "group": "apps", "version": "v1", "kind": "Deployment",
         "namespace": "plant", "name": "web-west"},
    ]  # fmt: skip


def test_another_version_of_a_kind_is_the_same_object() -> None:
    old, new = (Ref("apps", version, "Deployment", "plant", "x") for version in ("v1beta1", "v1"))
    other = Ref("apps", "v1", "Deployment", "plant", "y")
    assert unwanted({old, other}, {new}) == [other]


@pytest.mark.parametrize("note", ["", "{", "{}", "[1]", '[{"name": "x", "namespace": "other"}]'])
def test_a_note_that_says_nothing_of_use_is_nothing(note: str) -> None:
    app = an_app()
    app["metadata"]["annotations"] = {CONTAINED: note}  # type: ignore[index,call-overload]
    assert contained(app) == set()


# --- how it fares -------------------------------------------------------------------------------------


def an_object(status: Any, **spec: Any) -> JsonObject:
    return {"metadata": {"generation": 2}, "spec": spec, "status": status}


READY = [{"type": "Ready", "status": "True"}]


@pytest.mark.parametrize(
    ("kind", "item", "lack"),
    [
        ("ConfigMap", {}, ""),
        ("Pod", an_object({}), "the Pod is Pending"),
        ("Pod", an_object({"phase": "Running"}), "the Pod is Running, not ready"),
        ("Pod", an_object({"phase": "Running", "conditions": READY}), ""),
        ("Pod", an_object({"phase": "Succeeded"}), ""),
        ("Pod", an_object({"phase": "Failed"}), "the Pod is Failed"),
        ("Deployment", an_object({"observedGeneration": 1}), "the newest state is not seen yet"),
        ("Deployment", an_object({"observedGeneration": 2}), "0 of 1 are ready"),
        ("Deployment", an_object({"observedGeneration": 2, "readyReplicas": 2}, replicas=3),
         "2 of 3 are ready"),
        ("StatefulSet", an_object({"observedGeneration": 2, "readyReplicas": 3}, replicas=3), ""),
        ("Deployment", an_object({"observedGeneration": 2}, replicas=0), ""),
        ("DaemonSet", an_object({"observedGeneration": 2, "desiredNumberScheduled": 2,
                                 "numberReady": 1}), "1 of 2 are ready"),
        ("Job", an_object({}), "the Job is not complete"),
        ("Job", an_object({"conditions": [{"type": "Complete", "status": "True"}]}), ""),
    ],
)  # fmt: skip
def test_what_an_object_lacks_is_said(kind: str, item: JsonObject, lack: str) -> None:
    group = {"Pod": "", "ConfigMap": "", "Job": "batch"}.get(kind, "apps")
    assert missing(Ref(group, "v1", kind, "plant", "x"), item) == lack


# --- endpoints ----------------------------------------------------------------------------------------


class Together:
    """Nodes whose names begin alike belong together; Services named `near` are ranged."""

    def is_ranged(self, namespace: str, service: str) -> bool:
        return (namespace, service) == ("plant", "near")

    def are_together(self, node: str, other: str) -> bool:
        return node[0] == other[0]


def test_odd_endpoints_are_no_trouble() -> None:
    labels: JsonObject = {"kubernetes.io/service-name": "near"}
    meta: JsonObject = {"namespace": "plant", "name": "near", "labels": labels}
    entries: Any = [None, {}, {"nodeName": 7}, {"nodeName": "a2"}, {"nodeName": "b1"}]
    item: JsonObject = {"metadata": meta, "endpoints": entries}
    seen = as_seen("EndpointSlice", item, "a1", Together())
    assert seen["endpoints"] == [{"nodeName": "a2"}]
    assert item["endpoints"] == entries
    odd_ones: list[Any] = [None, {}, [None], [{}]]
    for odd in odd_ones:
        subsets: JsonObject = {"metadata": meta, "subsets": odd}
        found: Any = as_seen("Endpoints", subsets, "a1", Together())["subsets"]
        assert all(not each for each in found)
    assert as_seen("Pod", item, "a1", Together()) is item


# --- chores -------------------------------------------------------------------------------------------


async def test_what_failed_is_looked_at_later_and_what_is_new_at_once() -> None:
    chores: Chores[str] = Chores()
    chores.add(("a", "b", "a"))
    assert [await chores.next(), await chores.next()] == ["a", "b"]
    chores.again("a")
    chores.add(("c",))
    assert await chores.next() == "c"
    chores.add(("a",))
    assert await chores.next() == "a"
    waiting = asyncio.ensure_future(chores.next())
    await asyncio.sleep(0)
    chores.add(("d",))
    assert await waiting == "d"
    chores.done("a")
    chores.again("a")
    assert await chores.next() == "a"
