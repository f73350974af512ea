"""The link with strangers in Go, on the parts that KubeEdge uses: encoding/json, gorilla/websocket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from edge.identity import Identity
from edge.join import JoinRequest, join
from gateway.errors import NotFound
from gateway.model.json import JsonObject
from tests.cloud_rig import CloudCore, a_cloud, apply_device, apply_model, eventually
from tests.cloud_samples import DEVICES, a_device
from tests.go_peers import GoPeer, go_peer, go_program
from tests.integration.edge_node import MODEL, a_node
from tests.integration.edge_node import a_device as an_edge_device
from tests.integration.edge_support import until

NODE = "go-edge"


# --- their edge at our cloud -------------------------------------------------------------------------


async def stored(cloud: CloudCore, *where: Any) -> JsonObject | None:
    try:
        return await cloud.kube.get(*where)
    except NotFound:
        return None


def address(url: str) -> str:
    """gorilla checks the certificate for the host asked: loopback by its address."""
    return "127.0.0.1:" + url.rpartition(":")[2]


async def test_a_go_edge_joins_boots_and_serves_a_device_at_our_cloud(tmp_path: Path) -> None:
    go_program("edge")
    async with a_cloud(tmp_path) as cloud:
        token = await cloud.token()
        arguments = ("-https", address(cloud.https), "-hub", address(cloud.wss), "-node", NODE)
        async with go_peer("edge", *arguments, "-token", token) as edge:
            await edge.event("connected")
            detail = await edge.message("membership/detail", "response")
            assert detail["message"]["content"]["devices"] == []
            lease = await edge.message(f"kube-node-lease/lease/{NODE}", "response")
            assert lease["read"] == {"reason": "NotFound", "code": 404, "has_object": False}
            made = await edge.message(f"null/node/{NODE}", "response")
            assert made["read"] == {"has_object": True}
            await edge.message(f"null/nodepatch/{NODE}", "response")
            node: Any = await cloud.kube.get("v1", "nodes", None, NODE)
            assert node["metadata"]["annotations"]["note"] == "<a> & b"
            await a_device_comes_and_reports(cloud, edge)
            await a_lease_is_made_and_renewed(cloud, edge)
            await the_device_goes(cloud, edge)


async def a_device_comes_and_reports(cloud: CloudCore, edge: GoPeer) -> None:
    await apply_model(cloud)
    await apply_device(cloud, a_device(node=NODE, level="5"))
    added = await edge.message("membership", "update")
    assert added["read"] == {"added": 1, "removed": 0}
    device = await edge.message("default/device/lamp", "insert")
    assert device["message"]["content"]["spec"]["nodeName"] == NODE
    sync = await eventually(lambda: delivered(cloud, device), "an ObjectSync with the version")
    assert sync["spec"]["objectKind"] == "Device"
    asked = await edge.send(
        "device/default/lamp/twin/edge_updated",
        "update",
        {
            "event_id": "e",
            "timestamp": 1_795_377_600_000,
            "twin": {
                "temp": {
                    "actual": {"value": "20.5", "metadata": {"timestamp": 1_795_377_600_000}},
                    "optional": True,
                    "metadata": {"type": "float"},
                    "actual_version": {"cloud": 0, "edge": 1},
                }
            },
        },
        source="twin",
        group="resource",
    )
    answer = await edge.message("twin", "response", parent=asked)
    assert answer["message"]["content"] == "OK"
    status: Any = await cloud.kube.get(DEVICES, "devicestatuses", "default", "lamp")
    assert [t["reported"]["value"] for t in status["status"]["twins"]] == ["20.5"]


async def delivered(cloud: CloudCore, sent: Any) -> Any:
    """The ObjectSync of a message once the Go edge's acknowledgement counted."""
    uid = sent["message"]["content"]["metadata"]["uid"]
    found: Any = await stored(
        cloud, "reliablesyncs.kubeedge.io/v1alpha1", "objectsyncs", "default", f"{NODE}.{uid}"
    )
    version = sent["message"]["header"]["resourceversion"]
    is_told = found and found.get("status", {}).get("objectResourceVersion") == version
    return found if is_told else None


async def a_lease_is_made_and_renewed(cloud: CloudCore, edge: GoPeer) -> None:
    resource = f"kube-node-lease/lease/{NODE}"
    spec = {"holderIdentity": NODE, "leaseDurationSeconds": 40}
    lease = {
        "metadata": {"name": NODE, "namespace": "kube-node-lease", "creationTimestamp": None},
        "spec": {**spec, "renewTime": "2026-11-22T20:05:07.123456Z"},
    }
    asked = await edge.send(resource, "insert", lease, source="edged", group="meta")
    made = await edge.message(resource, "response", parent=asked)
    kept = made["message"]["content"]["Object"]
    kept["spec"]["renewTime"] = "2026-11-22T20:05:17.123456Z"
    asked = await edge.send(resource, "update", kept, source="edged", group="meta")
    renewed = await edge.message(resource, "response", parent=asked)
    assert renewed["read"] == {"has_object": True}
    found: Any = await cloud.kube.get("coordination.k8s.io/v1", "leases", "kube-node-lease", NODE)
    assert found["spec"]["renewTime"] == "2026-11-22T20:05:17.123456Z"


async def the_device_goes(cloud: CloudCore, edge: GoPeer) -> None:
    await cloud.kube.delete(DEVICES, "devices", "default", "lamp")
    gone = await edge.message("default/device/lamp", "delete")
    assert "spec" not in gone["message"]["content"]
    await edge.message("default/devicemodel/lamp-model", "delete")


# --- our edge at their cloud -------------------------------------------------------------------------


async def test_our_edge_joins_boots_and_serves_a_device_at_a_go_cloud(tmp_path: Path) -> None:
    go_program("cloud")
    async with go_peer("cloud") as cloud:
        listening = await cloud.event("listening")
        request = JoinRequest(
            cloud=f"https://{listening['https']}",
            token=listening["token"],
            node="edge-1",
            hub=listening["hub"],
        )
        await until_joined(request, tmp_path)
        enrolled = await cloud.event("enrolled")
        assert "CN=system:node:edge-1" in enrolled["subject"]
        async with a_node(tmp_path) as node:
            connected = await cloud.event("connected")
            assert (connected["node"], connected["use"]) == ("edge-1", "msg")
            assert connected["path"] == f"/{connected['project']}/edge-1/events"
            await until(lambda: node.core.node.is_registered)
            await a_device_is_served(cloud, node)


async def until_joined(request: JoinRequest, folder: Path) -> None:
    await asyncio.to_thread(join, request, Identity(folder))


async def a_device_is_served(cloud: GoPeer, node: Any) -> None:
    route = {"source": "devicecontroller", "group": "resource"}
    model = {"metadata": {"name": "m1", "namespace": "default", "uid": "m"}, **MODEL}
    device = {
        "metadata": {"name": "d1", "namespace": "default", "uid": "d", "creationTimestamp": None},
        **an_edge_device(temp="25"),
    }
    members = {
        "event_id": "",
        "timestamp": 1,
        "added_devices": [{"id": "default/d1", "name": "d1"}],
    }
    await cloud.send("membership", "update", members, source="devicecontroller", group="twin")
    for resource, body in (("default/devicemodel/m1", model), ("default/device/d1", device)):
        sent = await cloud.send(resource, "insert", body, version="11", **route)
        answer = await cloud.message(resource, "response", parent=sent)
        assert answer["message"]["content"] == "OK"
        assert answer["message"]["route"]["source"] == "meta"
        assert answer["message"]["route"]["group"] == "twin"
    assert await node.report("d1", temp="20") is None
    updated = await cloud.message("device/default/d1/twin/edge_updated", "update")
    assert updated["read"] == {"temp": "20"}
    changed = {**device, "metadata": {**device["metadata"], "resourceVersion": "12"}}
    sent = await cloud.send("default/device/d1", "update", changed, version="12", **route)
    answer = await cloud.message("default/device/d1", "response", parent=sent)
    assert answer["message"]["route"]["source"] == "devicecontroller"
    ping = await cloud.send("r", "ping", None, source="viaduct")
    acknowledged = await cloud.message("r", "response", parent=ping)
    assert acknowledged["message"]["content"] == "ack"
