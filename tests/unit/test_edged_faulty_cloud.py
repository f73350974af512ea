"""What a cloud in error, or in others' hands, sends: each Pod's fault is its own, and no path leads out."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from edge.pods.podspec import read_pod
from gateway.errors import BadRequest
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import ObjectChanged
from tests.pod_rig import PodRig, a_container, a_pod, on_a_rig

LEADING_OUT = ("../../etc", "..", "a/b", ".hidden", "a\0b", "a\n", "A" * 300)


@pytest.mark.parametrize("name", LEADING_OUT)
@pytest.mark.parametrize("place", ["uid", "name", "namespace", "container"])
def test_names_that_would_lead_out_of_a_folder_make_no_pod(place: str, name: str) -> None:
    pod: Any = a_pod()
    if place == "container":
        pod["spec"]["initContainers"] = [a_container(name)]
    else:
        pod["metadata"][place] = name
    with pytest.raises(BadRequest) as caught:
        read_pod(pod)
    assert len(caught.value.message) < 400


def test_a_pod_that_is_too_deep_is_refused_before_it_ends_the_reading() -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = {"a": deep}
    pod: Any = a_pod()
    pod["metadata"]["ownerReferences"] = [{"kind": deep}]
    with pytest.raises(BadRequest):
        read_pod(pod)


def _change(operation: Operation, item: Any, uid: str = "") -> ObjectChanged:
    return ObjectChanged(Subject("default", "pod", "p"), operation, item, uid, "edge")


@pytest.mark.parametrize("place", ["uid", "name", "namespace"])
def test_a_pod_without_a_name_is_not_run(place: str) -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process() as edged:
            nameless: Any = a_pod()
            nameless["metadata"][place] = ""
            with pytest.raises(BadRequest):
                edged.object_changed(_change(Operation.UPDATE, nameless), None)
            assert edged.pods() == []

    on_a_rig(work)


def test_a_pod_on_disk_that_cannot_be_run_leaves_the_others_their_start() -> None:
    async def work(rig: PodRig) -> None:
        broken: Any = a_pod("q", "../..")
        rig.meta.stored = {"default/pod/q": broken, "default/pod/p": a_pod()}
        async with rig.process():
            await rig.until(lambda: rig.runtime.running("c"))

    on_a_rig(work)


def test_who_made_an_unreadable_pod_is_told_why() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process() as edged:
            broken: Any = a_pod(containers=10**9)
            with pytest.raises(BadRequest):
                edged.object_changed(_change(Operation.UPDATE, broken), None)
            (told,) = rig.rooms.told("FailedValidation")
            assert "$.spec.containers" in told

    on_a_rig(work)


def test_a_pod_whose_last_words_cannot_be_read_ends_all_the_same() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process() as edged:
            rig.apply(a_pod())
            await rig.until(lambda: rig.runtime.running("c"))
            broken: Any = copy.deepcopy(a_pod())
            broken["spec"]["containers"] = "none"
            edged.object_changed(_change(Operation.DELETE, broken, uid="u1"), None)
            await rig.until(lambda: rig.is_clean)

    on_a_rig(work)
