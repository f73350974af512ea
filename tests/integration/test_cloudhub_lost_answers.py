"""What a node holds after an answer of its was lost, or after CloudCore slept while its disk was changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import mapping
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.to_cloud import report_twin
from gateway.wire.cloudedge.twins import Twin, TwinUpdate, TwinValue, TwinVersion, ValueMetadata
from tests.cloud_rig import (
    CloudCore,
    a_cloud,
    a_stamp,
    an_edge,
    apply_device,
    apply_model,
    content_of,
    eventually,
    join,
)
from tests.cloud_samples import DEVICES, a_device

SYNCS = ("reliablesyncs.kubeedge.io/v1alpha1", "objectsyncs")


async def all_synced(cloud: CloudCore, count: int) -> bool:
    found = await cloud.kube.list(*SYNCS)
    versions = [
        mapping(item.get("status")).get("objectResourceVersion", "0") for item in found.items
    ]
    return len(versions) == count and "0" not in versions


async def test_what_a_node_may_have_deleted_is_sent_anew_when_it_is_wanted_again(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate, store="one") as edge:
            await edge.register()
            await eventually(lambda: all_synced(cloud, 2))
            edge.acknowledges = False
            await cloud.kube.delete(DEVICES, "devices", "default", "lamp")
            await edge.object("default/devicemodel/lamp-model", "delete")
        await apply_device(cloud, a_device())
        async with an_edge(cloud, "edge-1", certificate, store="one") as edge:
            await edge.object("default/device/lamp", "insert")
            await edge.object("default/devicemodel/lamp-model", "insert")
            await eventually(lambda: all_synced(cloud, 2))


async def test_a_store_that_was_lost_while_cloudcore_slept_is_noticed(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate, store="one") as edge:
            await edge.register()
            await eventually(lambda: all_synced(cloud, 2))
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", certificate, store="two") as edge,
    ):
        await edge.object("default/device/lamp", "insert")


async def test_much_that_is_sent_at_once_arrives_without_a_word_from_the_node(
    tmp_path: Path,
) -> None:
    names = [f"map-{number}" for number in range(6)]
    async with a_cloud(tmp_path) as cloud:
        for name in names:
            body: JsonObject = {"metadata": {"name": name}, "data": {"a": "x" * 60_000}}
            await cloud.kube.create("v1", "configmaps", "default", body)
        pod: JsonObject = {
            "metadata": {"name": "p"},
            "spec": {
                "nodeName": "edge-1",
                "containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": name, "configMap": {"name": name}} for name in names],
            },
        }
        await cloud.kube.create("v1", "pods", "default", pod)
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            edge.acknowledges = False
            for name in names:
                await edge.object(f"default/configmap/{name}", "insert")
            came = [e for e in edge.received if "/configmap/map-" in e.route.resource]
            assert len(came) == len(names)  # none had to be sent again


async def test_reports_that_were_written_and_not_answered_are_not_written_again(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device(level="3"))
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
            await edge.object("default/device/lamp")
            for version, value in enumerate(("42", "45"), 1):
                assert content_of(await edge.report("lamp", version, level=value)) == "OK"
    async with a_cloud(tmp_path) as cloud, an_edge(cloud, "edge-1", certificate) as edge:
        before = await cloud.north.load("default:lamp")
        for version, value in enumerate(("42", "45"), 1):
            assert content_of(await edge.report("lamp", version, level=value)) == "OK"
        after = await cloud.north.load("default:lamp")
        assert before is not None
        assert after is not None
        assert after.revision == before.revision
        assert content_of(await edge.report("lamp", 3, level="46")) == "OK"
        found: Any = await cloud.thing("default:lamp")
        assert found["features"]["level"]["properties"]["value"] == 46


async def test_a_store_that_was_put_back_from_a_copy_is_heard(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device(level="3"))
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
            await edge.report("lamp", 40, level="42")
    async with a_cloud(tmp_path) as cloud, an_edge(cloud, "edge-1", certificate) as edge:
        newer = TwinValue("9", ValueMetadata(1_795_377_600_000 + 60_000))
        twins = {"level": Twin(actual=newer, actual_version=TwinVersion(0, 7))}
        at = a_stamp()
        update = TwinUpdate(at.msg_id, at.millis, dict(twins))
        await edge.ask(report_twin(at, DeviceKey("default", "lamp"), update))
        found: Any = await cloud.thing("default:lamp")
        assert found["features"]["level"]["properties"]["value"] == 9
