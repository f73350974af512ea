"""Pods, ConfigMaps and Secrets on their way to nodes, with a made-up edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import NotFound
from gateway.kube.client import PatchType
from gateway.model.json import JsonObject
from gateway.wire.cloudedge import to_cloud
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from tests.cloud_rig import (
    CloudCore,
    Edge,
    a_cloud,
    a_stamp,
    an_edge,
    content_of,
    eventually,
    join,
)

SYNCS = "reliablesyncs.kubeedge.io/v1alpha1"
POD = "default/pod/p1"


def a_pod(name: str = "p1", node: str = "edge-1", **spec: Any) -> JsonObject:
    return {
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "reg/app:1"}], **spec},
    }


def naming(*names: str, name: str = "p1", node: str = "edge-1") -> JsonObject:
    """A Pod that mounts ConfigMaps (`cm-...`) and Secrets (`s-...`)."""
    volumes: list[JsonObject] = [
        {"name": each, "configMap": {"name": each}}
        if each.startswith("cm")
        else {"name": each, "secret": {"secretName": each}}
        for each in names
    ]
    return a_pod(name, node, volumes=volumes)


@asynccontextmanager
async def a_node(tmp_path: Path, **hub: Any) -> AsyncIterator[tuple[CloudCore, Edge]]:
    async with (
        a_cloud(tmp_path, **hub) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        edge.forget()
        yield cloud, edge


async def make_pod(cloud: CloudCore, pod: JsonObject) -> dict[str, Any]:
    return dict(await cloud.kube.create("v1", "pods", "default", pod))


async def syncs(cloud: CloudCore) -> dict[str, str]:
    """Name of an object -> version that its sync says."""
    found: list[Any] = (await cloud.kube.list(SYNCS, "objectsyncs")).items
    return {
        item["spec"]["objectName"]: item.get("status", {}).get("objectResourceVersion", "")
        for item in found
    }


async def has_sync(cloud: CloudCore, name: str, version: str | None) -> None:
    async def is_so() -> bool:
        return (await syncs(cloud)).get(name) == version

    await eventually(is_so, f"sync of {name} at {version}")


async def report(edge: Edge, pod: dict[str, Any], **status: Any) -> Envelope:
    """Send a podpatch, as a kubelet does, and return its answer."""
    patch: JsonObject = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
    subject = Subject("default", "podpatch", pod["metadata"]["name"])
    return await edge.ask_object(subject, Operation.PATCH, patch)


def of_pod(edge: Edge) -> list[str]:
    """Operations of what came about the Pod."""
    return [e.route.operation for e in edge.received if e.route.resource == POD and not e.parent_id]


async def test_a_pod_is_inserted_acknowledged_ended_and_deleted(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        pod = await make_pod(cloud, a_pod())
        inserted = await edge.object(POD)
        assert (inserted.route.operation, inserted.route.source, inserted.route.group) == (
            "insert",
            "edgecontroller",
            "resource",
        )
        assert inserted.header.resourceversion == pod["metadata"]["resourceVersion"]
        told = content_of(inserted)
        plain = {key: value for key, value in pod["metadata"].items() if key != "managedFields"}
        assert told == {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": plain}
        await has_sync(cloud, "p1", pod["metadata"]["resourceVersion"])

        await cloud.kube.delete("v1", "pods", "default", "p1")
        ending = await edge.object(POD, "update")
        assert content_of(ending)["metadata"]["deletionTimestamp"]
        ended = await report(edge, pod, phase="Succeeded")
        assert content_of(ended)["Err"] is None

        uid = pod["metadata"]["uid"]
        options: JsonObject = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        answer = await edge.ask_object(Subject("default", "pod", "p1"), Operation.DELETE, options)
        assert content_of(answer) == "OK"
        with pytest.raises(NotFound):
            await cloud.kube.get("v1", "pods", "default", "p1")
        deleted = await edge.object(POD, "delete")
        assert content_of(deleted)["metadata"]["uid"] == uid
        assert content_of(deleted)["status"]["phase"] == "Succeeded"
        await has_sync(cloud, "p1", None)


async def test_a_node_s_own_report_is_not_sent_back(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        pod = await make_pod(cloud, a_pod())
        await edge.object(POD, "insert")
        await has_sync(cloud, "p1", pod["metadata"]["resourceVersion"])
        for phase in ("Pending", "Running", "Running"):
            conditions = [{"type": "Ready", "status": "True", "reason": phase}]
            answer = await report(edge, pod, phase=phase, conditions=conditions)
        running = content_of(answer)["Object"]
        assert running["status"]["phase"] == "Running"
        await has_sync(cloud, "p1", running["metadata"]["resourceVersion"])
        label: JsonObject = {"metadata": {"labels": {"a": "b"}}}
        await cloud.kube.patch("v1", "pods", "default", "p1", label, patch_type=PatchType.MERGE)
        update = await edge.object(POD, "update")
        assert content_of(update)["metadata"]["labels"] == {"a": "b"}
        assert of_pod(edge) == ["insert", "update"]


async def test_what_a_pod_names_comes_before_it_and_goes_with_it(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        for plural, name in (("configmaps", "cm-1"), ("configmaps", "other"), ("secrets", "s-1")):
            await cloud.kube.create("v1", plural, "default", {"metadata": {"name": name}})
        pod = await make_pod(cloud, naming("cm-1", "s-1", "cm-2"))
        await edge.object("default/configmap/cm-1", "insert")
        await edge.object("default/secret/s-1", "update")
        await edge.object(POD, "insert")

        late: JsonObject = {"metadata": {"name": "cm-2"}, "data": {"a": "1"}}
        await cloud.kube.create("v1", "configmaps", "default", late)
        assert content_of(await edge.object("default/configmap/cm-2", "insert"))["data"] == {
            "a": "1"
        }
        change: JsonObject = {"data": {"a": "2"}}
        await cloud.kube.patch("v1", "configmaps", "default", "cm-2", change)
        assert content_of(await edge.object("default/configmap/cm-2", "update"))["data"] == {
            "a": "2"
        }
        await cloud.kube.delete("v1", "configmaps", "default", "cm-2")
        await edge.object("default/configmap/cm-2", "delete")

        uid = pod["metadata"]["uid"]
        await cloud.kube.delete("v1", "pods", "default", "p1", uid=uid, grace_seconds=0)
        await edge.object(POD, "delete")
        await edge.object("default/configmap/cm-1", "delete")
        await edge.object("default/secret/s-1", "delete")
        assert not [e for e in edge.received if e.route.resource.endswith("/other")]


async def test_pods_and_secrets_of_other_nodes_stay_away(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        await cloud.kube.create("v1", "secrets", "default", {"metadata": {"name": "s-1"}})
        await make_pod(cloud, naming("s-1", name="elsewhere", node="edge-2"))
        await make_pod(cloud, a_pod("last"))
        await edge.object("default/pod/last")
        came = [e.route.resource for e in edge.received if not e.parent_id]
        own = {  # of the account of its own Pod, and for its token
            "default/serviceaccountaccess/default",
            "default/configmap/kube-root-ca.crt",
        }
        assert [resource for resource in came if resource not in own] == ["default/pod/last"]


async def test_what_happens_while_a_node_is_away_reaches_it_when_it_is_back(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
            old = await make_pod(cloud, a_pod("old"))
            await edge.object("default/pod/old")
            await has_sync(cloud, "old", old["metadata"]["resourceVersion"])
        await cloud.kube.delete("v1", "pods", "default", "old", grace_seconds=0)
        await make_pod(cloud, a_pod("new"))
        async with an_edge(cloud, "edge-1", certificate) as edge:
            gone = await edge.object("default/pod/old", "delete")
            assert content_of(gone)["metadata"]["uid"] == old["metadata"]["uid"]
            await edge.object("default/pod/new", "insert")
            await has_sync(cloud, "old", None)


async def test_a_restart_deletes_nothing_that_is_still_wanted(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
            made = await cloud.kube.create(
                "v1", "configmaps", "default", {"metadata": {"name": "cm-1"}}
            )
            pod = await make_pod(cloud, naming("cm-1"))
            await edge.object(POD)
            meta: Any = made["metadata"]
            await has_sync(cloud, "cm-1", meta["resourceVersion"])
            await has_sync(cloud, "p1", pod["metadata"]["resourceVersion"])
    async with a_cloud(tmp_path) as cloud, an_edge(cloud, "edge-1", certificate) as edge:
        await make_pod(cloud, a_pod("p2"))
        await edge.object("default/pod/p2")
        assert [e.route.resource for e in edge.received if not e.parent_id] == ["default/pod/p2"]


async def test_a_pod_of_the_same_name_waits_until_the_old_one_is_gone(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        old = await make_pod(cloud, a_pod())
        await edge.object(POD, "insert")
        edge.acknowledges = False
        await cloud.kube.delete("v1", "pods", "default", "p1", grace_seconds=0)
        new = await make_pod(cloud, a_pod())
        deletion = await edge.object(POD, "delete")
        assert content_of(deletion)["metadata"]["uid"] == old["metadata"]["uid"]
        assert of_pod(edge) == ["insert", "delete"]
        edge.acknowledges = True
        edge.forget()
        await edge.send(to_cloud.acknowledge(deletion, a_stamp()))
        inserted = await edge.object(POD, "insert")
        assert content_of(inserted)["metadata"]["uid"] == new["metadata"]["uid"]


async def test_a_node_is_told_where_it_is_connected(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
        away: JsonObject = {"metadata": {"annotations": {"cloudcore": "192.0.2.9"}}}
        await cloud.kube.patch("v1", "nodes", None, "edge-1", away)
        async with an_edge(cloud, "edge-1", certificate):

            async def is_here() -> bool:
                node = await cloud.object("v1", "nodes", None, "edge-1")
                return bool(node["metadata"]["annotations"]["cloudcore"] == "127.0.0.1")

            await eventually(is_here)


async def test_a_change_by_others_between_reports_reaches_the_node(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        pod = await make_pod(cloud, a_pod())
        await edge.object(POD, "insert")
        await has_sync(cloud, "p1", pod["metadata"]["resourceVersion"])
        edge.acknowledges = False
        gate: JsonObject = {"status": {"conditions": [{"type": "Gate", "status": "True"}]}}
        await cloud.kube.patch(
            "v1",
            "pods",
            "default",
            "p1",
            gate,
            patch_type=PatchType.STRATEGIC,
            subresource="status",
        )
        answer = await report(edge, pod, phase="Running")
        both = content_of(answer)["Object"]
        assert [c["type"] for c in both["status"]["conditions"]] == ["Gate"]
        newest = both["metadata"]["resourceVersion"]
        edge.acknowledges = True
        await edge.wait_for(
            lambda e: e.route.resource == POD and e.header.resourceversion == newest
        )


async def test_reports_about_pods_of_others_are_refused(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        other = await make_pod(cloud, a_pod("theirs", "edge-2"))
        assert content_of(await report(edge, other, phase="Running"))["Err"]
        pod = await make_pod(cloud, a_pod())
        fake = {"metadata": {**pod["metadata"], "uid": "another"}}
        conflict = content_of(await report(edge, fake, phase="Running"))["Err"]["ErrStatus"]
        assert (conflict["reason"], conflict["code"]) == ("Conflict", 409)
        gone = {"metadata": {**pod["metadata"], "name": "no"}}
        missing = content_of(await report(edge, gone, phase="Running"))["Err"]["ErrStatus"]
        assert (missing["reason"], missing["code"]) == ("NotFound", 404)
