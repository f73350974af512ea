"""CloudHub over real TLS sockets: a node joins, registers, gets its Devices, reports, takes wishes."""

from __future__ import annotations

from pathlib import Path

from gateway.wire.cloudedge.envelope import json_of
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import read_object, read_result
from tests.cloud_rig import (
    a_cloud,
    a_device,
    an_edge,
    apply_device,
    apply_model,
    content_of,
    eventually,
    join,
)


async def test_a_device_travels_to_its_node_and_its_report_becomes_a_thing(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            registered = read_result((await edge.register()).content)
            assert isinstance(registered, dict)
            await apply_model(cloud)
            await apply_device(cloud, a_device(on="true"))
            member = await edge.object("membership")
            assert content_of(member)["added_devices"] == [{"id": "default/lamp", "name": "lamp"}]
            model = await edge.object("default/devicemodel/lamp-model", "insert")
            device = await edge.object("default/device/lamp", "insert")
            assert edge.received.index(model) < edge.received.index(device)
            assert (
                device.header.resourceversion == content_of(device)["metadata"]["resourceVersion"]
            )

            answer = await edge.report("lamp", on="false", level="7", temp="21.5")
            assert (answer.route.resource, content_of(answer)) == ("twin", "OK")
            thing = await cloud.thing("default:lamp")
            assert thing is not None
            assert thing["features"] == {
                "on": {"properties": {"value": False}, "desiredProperties": {"value": True}},
                "level": {"properties": {"value": 7}},
                "temp": {"properties": {"value": 21.5}},
            }
            status = await cloud.kube.get(
                "devices.kubeedge.io/v1beta1", "devicestatuses", "default", "lamp"
            )
            twins = status["status"]["twins"]  # type: ignore[index, call-overload]
            assert [t["propertyName"] for t in twins] == ["on", "level", "temp"]  # type: ignore[union-attr, index, call-overload]


async def test_a_wish_at_the_thing_goes_down_through_the_device(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
            await apply_model(cloud)
            await apply_device(cloud, a_device())
            await edge.object("default/device/lamp", "insert")
            await eventually(lambda: cloud.thing("default:lamp"))
            await cloud.want("default:lamp", "level", 42)
            update = await edge.object("default/device/lamp", "update")
            level = content_of(update)["spec"]["properties"][1]
            assert level["desired"]["value"] == "42"
            assert level["desired"]["metadata"]["type"] == "int"


async def test_an_edge_asks_for_its_lease_and_gets_kubernetes_answers(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        lease = Subject("kube-node-lease", "lease", "edge-1")
        missing = read_result((await edge.ask_object(lease, Operation.QUERY)).content)
        assert getattr(missing, "reason", None) == "NotFound"
        body = {"metadata": {"name": "edge-1"}, "spec": {"holderIdentity": "edge-1"}}
        made = read_result((await edge.ask_object(lease, Operation.INSERT, body)).content)  # type: ignore[arg-type]
        assert isinstance(made, dict)
        found = await edge.ask_object(Subject(None, "node", "edge-1"), Operation.QUERY)
        assert getattr(read_object(found.content), "reason", None) == "NotFound"
        assert json_of(found.content) != {}
