"""Statuses, events, ends and mirrors of Pods, from a real edge to a real CloudCore."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge.metamanager import MetaManager
from edge.pods.nodecopy import NodeCopy
from edge.pods.podspec import Pod, read_pod
from edge.pods.podstatus import rejected
from edge.pods.recorder import EventRecorder
from edge.pods.staticpods import StaticPods
from edge.pods.statuses import Statuses
from gateway.errors import NotFound
from gateway.model.trace import TraceContext
from gateway.runtime.module import Module, running
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.to_edge import ObjectChanged
from tests.cloud_rig import CloudCore, a_cloud, eventually
from tests.integration.edge_node import Node, a_node
from tests.integration.edge_support import until
from tests.integration.test_metaserver_cloud import an_edge

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers: [{name: c, image: "busybox:1"}]
"""


@dataclass
class Rooms:
    """The rooms of an edge's Pods that speak to the API, without those that run Pods."""

    node: Node
    statuses: Statuses
    recorder: EventRecorder
    static: StaticPods
    copy: NodeCopy
    taken: list[Pod] = field(default_factory=list)

    def object_changed(self, change: ObjectChanged, _trace: TraceContext | None) -> None:
        if not change.object:
            return
        pod = read_pod(change.object)
        self.static.pod_seen(pod, change.operation is not Operation.DELETE)
        if change.operation is Operation.DELETE:
            self.statuses.forget(pod.uid)


@asynccontextmanager
async def rooms_of(node: Node, manifests: Path) -> AsyncIterator[Rooms]:
    """Run the rooms beside an EdgeCore that has its link already."""
    core = node.core
    statuses = Statuses(core.api, core.store, node.metrics)
    recorder = EventRecorder("edge-1", core.hub, node.metrics)
    copy = NodeCopy("edge-1", core.meta)
    taken: list[Pod] = []

    def take(pods: Sequence[Pod]) -> None:
        taken[:] = pods

    static = StaticPods(
        "edge-1",
        manifests,
        core.api,
        recorder,
        statuses,
        take=take,
        node_uid=lambda: copy.uid,
        look_seconds=0.02,
    )
    rooms = Rooms(node, statuses, recorder, static, copy, taken)
    meta: MetaManager = core.meta
    meta.on_kind("pod", rooms)
    for item in await meta.list("pod"):
        static.pod_seen(read_pod(item), True)
    modules: list[Module] = [statuses, recorder, copy, static]
    async with AsyncExitStack() as up:
        for module in modules:
            await up.enter_async_context(running(module))
        for listener in (statuses, recorder, static):
            core.hub.on_link(listener)
            if core.hub.is_connected:
                listener.link_up(has_spool=True)
        yield rooms


async def make_pod(cloud: CloudCore, name: str = "p1") -> Pod:
    pod: Any = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i"}]},
    }
    return read_pod(await cloud.kube.create("v1", "pods", "default", pod))


def at(ip: str) -> dict[str, Any]:
    """A status of a Pod that runs at this address."""
    return {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}


async def events(cloud: CloudCore) -> list[dict[str, Any]]:
    """What edges said, not CloudCore itself."""
    listed = await cloud.kube.list("v1", "events", "default")
    every: list[Any] = [*listed.items]
    return [each for each in every if each["source"]["component"] == "kubelet"]


async def found(cloud: CloudCore, name: str) -> dict[str, Any] | None:
    try:
        return await cloud.object("v1", "pods", "default", name)
    except NotFound:
        return None


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[CloudCore]:
    async with a_cloud(tmp_path / "cloud") as core:
        yield core


async def test_a_status_and_then_a_pod_s_end_reach_the_api(
    cloud: CloudCore, tmp_path: Path
) -> None:
    async with (
        an_edge(cloud, tmp_path / "edge") as node,
        rooms_of(node, tmp_path / "none") as rooms,
    ):
        pod = await make_pod(cloud)
        condition = {
            "type": "Ready",
            "status": "True",
            "lastTransitionTime": "2027-01-15T08:00:00Z",
        }
        rooms.statuses.set(
            pod,
            {**at("10.0.0.5"), "conditions": [dict(condition)]},
        )

        async def runs() -> bool:
            stored: Any = await found(cloud, "p1")
            return bool(stored["status"]["phase"] == "Running")

        await eventually(runs)
        rooms.statuses.set(pod, at("10.0.0.6"))

        async def moved() -> bool:
            stored: Any = await found(cloud, "p1")
            return bool(stored["status"]["podIPs"] == [{"ip": "10.0.0.6"}])

        await eventually(moved)
        await cloud.kube.delete("v1", "pods", "default", "p1")
        rooms.statuses.finished(pod)

        async def is_gone() -> bool:
            return await found(cloud, "p1") is None

        await eventually(is_gone)
        await until(lambda: rooms.statuses.known(pod.uid) is None)


async def test_a_pod_that_is_refused_shows_why(cloud: CloudCore, tmp_path: Path) -> None:
    async with (
        an_edge(cloud, tmp_path / "edge") as node,
        rooms_of(node, tmp_path / "none") as rooms,
    ):
        pod = await make_pod(cloud)
        rooms.statuses.set(pod, rejected(pod, "OutOfcpu", "too little", 1_800_000_000.0))

        async def has_failed() -> bool:
            stored: Any = await found(cloud, "p1")
            status = stored["status"]
            return (status["phase"], status.get("reason")) == ("Failed", "OutOfcpu")

        await eventually(has_failed)


async def test_what_happened_without_cloud_is_told_when_it_is_back(
    cloud: CloudCore, tmp_path: Path
) -> None:
    async with an_edge(cloud, tmp_path / "edge") as node:
        pod = await make_pod(cloud)

        async def is_kept() -> bool:
            return bool(await node.core.meta.list("pod"))

        await eventually(is_kept)
    async with (
        a_node(tmp_path / "edge", server="127.0.0.1:1") as node,
        rooms_of(node, tmp_path / "none") as rooms,
    ):
        rooms.statuses.set(pod, {"phase": "Running", "message": "restarted"})
        assert rooms.statuses.waiting() == 1
    hub = cloud.wss.removeprefix("wss://")
    async with a_node(tmp_path / "edge", server=hub) as node:
        await until(lambda: node.core.hub.is_connected)
        async with rooms_of(node, tmp_path / "none") as rooms:
            known = rooms.statuses.known(pod.uid)
            assert known == {"phase": "Running", "message": "restarted"}
            rooms.statuses.set(pod, known)

            async def is_told() -> bool:
                stored: Any = await found(cloud, "p1")
                return bool(stored["status"].get("message") == "restarted")

            await eventually(is_told)


async def test_events_of_pods_are_seen_in_the_api_with_their_counts(
    cloud: CloudCore, tmp_path: Path
) -> None:
    async with (
        an_edge(cloud, tmp_path / "edge") as node,
        rooms_of(node, tmp_path / "none") as rooms,
    ):
        pod = await make_pod(cloud)

        async def counts() -> list[tuple[str, int]]:
            return [
                (e["reason"], e["count"])
                for e in await events(cloud)
                if _involved(pod).items() <= e["involvedObject"].items()
            ]

        rooms.recorder.event(pod, "Warning", "BackOff", "Back-off restarting failed container")

        async def is_there() -> bool:
            return await counts() == [("BackOff", 1)]

        await eventually(is_there)
        for _ in range(3):
            rooms.recorder.event(pod, "Warning", "BackOff", "Back-off restarting failed container")

        async def is_counted() -> bool:
            return await counts() == [("BackOff", 4)]

        await eventually(is_counted)


def _involved(pod: Pod) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "default",
        "name": pod.meta.name,
        "uid": pod.uid,
    }


async def mirror_is(cloud: CloudCore, config_hash: str) -> dict[str, Any]:
    async def shown() -> dict[str, Any] | None:
        stored: Any = await found(cloud, "web-edge-1")
        if stored is None or "deletionTimestamp" in stored["metadata"]:
            return None
        mark = stored["metadata"]["annotations"]["kubernetes.io/config.mirror"]
        return dict(stored) if mark == config_hash else None

    return await eventually(shown) or {}


async def test_a_static_pod_has_a_mirror_that_comes_back_changes_and_goes_with_its_file(
    cloud: CloudCore, tmp_path: Path
) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    async with (
        an_edge(cloud, tmp_path / "edge") as node,
        rooms_of(node, folder) as rooms,
    ):
        assert rooms.taken == []
        (folder / "web.yaml").write_text(MANIFEST)
        await until(lambda: len(rooms.taken) == 1)
        pod = rooms.taken[0]
        first = await mirror_is(cloud, pod.uid)
        assert first["metadata"]["labels"] == {"app": "web"}
        rooms.statuses.set(pod, {"phase": "Running"})

        async def runs() -> bool:
            stored: Any = await found(cloud, "web-edge-1")
            return bool(stored and stored["status"].get("phase") == "Running")

        await eventually(runs)
        await cloud.kube.delete("v1", "pods", "default", "web-edge-1")

        async def is_another() -> bool:
            stored: Any = await found(cloud, "web-edge-1")
            return bool(stored and stored["metadata"]["uid"] != first["metadata"]["uid"])

        await eventually(is_another)
        await eventually(runs)
        (folder / "web.yaml").write_text(MANIFEST.replace("busybox:1", "busybox:22"))
        await until(lambda: rooms.taken[0].uid != pod.uid)
        await mirror_is(cloud, rooms.taken[0].uid)
        (folder / "web.yaml").unlink()
        await until(lambda: rooms.taken == [])

        async def is_gone() -> bool:
            return await found(cloud, "web-edge-1") is None

        await eventually(is_gone)


async def test_a_bad_file_is_told_and_takes_its_pod_away(cloud: CloudCore, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "web.yaml").write_text(MANIFEST)
    async with (
        an_edge(cloud, tmp_path / "edge") as node,
        rooms_of(node, folder) as rooms,
    ):
        assert len(rooms.taken) == 1
        (folder / "web.yaml").write_text("a: [")
        await until(lambda: rooms.taken == [])

        async def is_told() -> bool:
            return [e["reason"] for e in await events(cloud)] == ["InvalidStaticPod"]

        await eventually(is_told)


async def test_a_static_pod_is_there_without_cloud_and_its_mirror_follows(
    cloud: CloudCore, tmp_path: Path
) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "web.yaml").write_text(MANIFEST)
    async with an_edge(cloud, tmp_path / "edge"):
        pass
    async with (
        a_node(tmp_path / "edge", server="127.0.0.1:1") as node,
        rooms_of(node, folder) as rooms,
    ):
        assert [pod.key for pod in rooms.taken] == [("default", "web-edge-1")]
        uid = rooms.taken[0].uid
    hub = cloud.wss.removeprefix("wss://")
    async with a_node(tmp_path / "edge", server=hub) as node, rooms_of(node, folder) as rooms:
        assert rooms.taken[0].uid == uid
        await mirror_is(cloud, uid)


async def test_the_labels_that_an_operator_gives_the_node_come_to_it(
    cloud: CloudCore, tmp_path: Path
) -> None:
    async with (
        an_edge(cloud, tmp_path / "edge") as node,
        rooms_of(node, tmp_path / "none") as rooms,
    ):
        label: Any = {"metadata": {"labels": {"rack": "7"}}}
        await cloud.kube.patch("v1", "nodes", None, "edge-1", label)

        def has_label() -> bool:
            stored: Any = rooms.copy.node or {}
            return bool(stored.get("metadata", {}).get("labels", {}).get("rack") == "7")

        await until(has_label)
        assert rooms.copy.uid
