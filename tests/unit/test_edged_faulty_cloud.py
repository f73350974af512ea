"""What a cloud in error, or in others' hands, sends: each Pod's fault is its own, and no path leads out."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from edge.network.servicetable import ServiceTable
from edge.pods.containerstatuses import Facts
from edge.pods.environment import CREATE_ERROR, SECRET, Reference, Surroundings, environment
from edge.pods.keyring import entries_of_secret
from edge.pods.podresources import pod_limits, qos_of
from edge.pods.podspec import Pod, read_pod
from edge.pods.podstatus import pod_status
from edge.pods.ports import NotYet, Observed
from edge.pods.statuspatch import is_another_s, patch_text
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


def test_a_step_that_breaks_is_told_of_and_the_others_go_on() -> None:
    async def work(rig: PodRig) -> None:
        real = rig.rooms.prepare

        async def prepare(pod: Pod) -> None:
            if pod.uid == "u1":
                raise OverflowError("Python int too large to convert to C int")
            await real(pod)

        rig.rooms.prepare = prepare  # type: ignore[method-assign]
        async with rig.process():
            rig.apply(a_pod())
            rig.apply(a_pod("q", "u2", containers=[a_container("d")]))
            await rig.until(lambda: rig.runtime.running("d"))
            await rig.until(lambda: rig.rooms.told("FailedSync"))

    on_a_rig(work)


# --- values that no API gives ---------------------------------------------------------------------


@pytest.mark.parametrize("said", ["../..", "Best", "x" * 70_000])
def test_a_class_that_is_none_is_worked_out_anew(said: str) -> None:
    pod = read_pod({**a_pod(), "status": {"qosClass": said}})
    assert qos_of(pod) == "BestEffort"
    assert pod_limits(pod).cpu_shares == 2


@pytest.mark.parametrize("kind", [[], {}, 5, None])
def test_conditions_of_no_kind_are_somebody_else_s(kind: Any) -> None:
    odd: Any = {"phase": "Pending", "conditions": [{"type": kind, "status": "True"}]}
    pod = read_pod({**a_pod(), "status": odd})
    assert '"phase":"Pending"' in patch_text("u1", {"phase": "Pending"}, None, odd)
    assert is_another_s(odd, odd) is False
    facts = Facts(observed=Observed("u1"), now=1.0, host_ips=())
    assert pod_status(pod, facts)["phase"] == "Pending"


@pytest.mark.parametrize("number", [0, -1, 65_536, 10**9, 2**70])
def test_a_port_that_no_socket_has_is_no_port_of_a_service(number: int) -> None:
    table = ServiceTable("edge-1")
    spec: Any = {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": number}]}
    table.put_service({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec})
    service = table.find("shop", "web")
    assert service is not None
    assert service.ports == ()


def test_a_secret_that_is_no_base64_says_so_and_shows_nothing() -> None:
    env: Any = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}
    pod = read_pod(a_pod(containers=[a_container(env=[env])]))
    around = Surroundings(objects={Reference(SECRET, "keys"): {"data": {"k": "geheim\u00e4"}}})
    with pytest.raises(NotYet) as caught:
        environment(pod, pod.spec.containers[0], around)
    assert caught.value.reason == CREATE_ERROR
    assert "geheim" not in caught.value.message


@pytest.mark.parametrize("value", ["\u00e4", "e30", "eyJhdXRocyI6eyJhLmIiOnsiYXV0aCI6IsOkIn19fQ=="])
def test_a_pull_secret_that_is_no_base64_is_a_fault_of_its_own(value: str) -> None:
    secret: Any = {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": value}}
    with pytest.raises(BadRequest):
        entries_of_secret(secret)
