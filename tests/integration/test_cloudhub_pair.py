"""Two CloudCores on one cluster: nodes move between them, and what they hold is remembered once."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from gateway.model.json import JsonObject
from gateway.wire.cloudedge.envelope import Envelope
from tests.cloud_pair import another_cloud
from tests.cloud_rig import (
    CloudCore,
    Edge,
    a_cloud,
    a_device,
    an_edge,
    apply_device,
    apply_model,
    content_of,
    eventually,
    join,
)
from tests.cloud_samples import DEVICES
from tests.integration.test_cloudhub_joining import refused_at_the_hub
from tests.integration.test_cloudhub_pods import SYNCS, a_pod, has_sync, make_pod, naming, syncs


def objects(edge: Edge) -> list[tuple[str, str]]:
    """Operation and resource of the object messages that came."""

    def is_object(e: Envelope) -> bool:
        return not e.parent_id and e.route.group == "resource" and e.route.source != "cloudhub"

    return [(e.route.operation, e.route.resource) for e in edge.received if is_object(e)]


async def set_data(cloud: CloudCore, name: str, value: str) -> None:
    await cloud.kube.patch("v1", "configmaps", "default", name, {"data": {"a": value}})


async def test_a_node_moves_and_nothing_is_lost_or_sent_twice(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as one, another_cloud(one, tmp_path / "two") as two:
        certificate = await join(one, "edge-1")
        await one.kube.create("v1", "configmaps", "default", {"metadata": {"name": "cm-1"}})
        async with an_edge(one, "edge-1", certificate) as edge:
            await edge.register()
            pod = await make_pod(one, naming("cm-1"))
            old = await make_pod(one, a_pod("old"))
            await edge.object("default/pod/p1")
            await edge.object("default/pod/old")
            await has_sync(one, "p1", pod["metadata"]["resourceVersion"])
            await has_sync(one, "old", old["metadata"]["resourceVersion"])
        await set_data(one, "cm-1", "changed")
        await one.kube.delete("v1", "pods", "default", "old", grace_seconds=0)
        await make_pod(one, a_pod("new"))
        async with an_edge(two, "edge-1", certificate) as edge:
            update = await edge.object("default/configmap/cm-1", "update")
            assert content_of(update)["data"] == {"a": "changed"}
            gone = await edge.object("default/pod/old", "delete")
            assert content_of(gone)["metadata"]["uid"] == old["metadata"]["uid"]
            await edge.object("default/pod/new", "insert")
            await has_sync(two, "old", None)
            assert ("insert", "default/pod/p1") not in objects(edge)
            assert ("update", "default/pod/p1") not in objects(edge)
            await set_data(one, "cm-1", "again")
            changed: Any = await one.kube.get("v1", "configmaps", "default", "cm-1")
            await has_sync(two, "cm-1", changed["metadata"]["resourceVersion"])
        async with an_edge(one, "edge-1", certificate) as edge:
            last = await make_pod(one, a_pod("last"))
            await edge.object("default/pod/last")
            await has_sync(one, "last", last["metadata"]["resourceVersion"])
            assert objects(edge) == [("insert", "default/pod/last")]
            rights = {"default", "kube-root-ca.crt"}  # of the account that the Pods run as
            assert set(await syncs(one)) - rights == {"p1", "new", "cm-1", "last"}
            names = [item["metadata"]["name"] for item in await all_syncs(one)]
            assert len(names) == len(set(names)) == 6


async def test_a_join_that_replaces_at_one_cloudcore_revokes_at_the_other(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as one, another_cloud(one, tmp_path / "two") as two:
        old = await join(one, "edge-1")
        async with an_edge(two, "edge-1", old) as edge:
            await edge.register()
            new = await join(one, "edge-1", node="edge-1", replace=True)
            assert await edge.closed() is not None
        assert await refused_at_the_hub(two, old, "edge-1") == (403, "revoked")
        assert await refused_at_the_hub(one, old, "edge-1") == (403, "revoked")
        async with an_edge(two, "edge-1", new) as edge:
            assert (await edge.register()).parent_id
            renewed = await join(two, "edge-1", node="edge-1", replace=True)
        label: JsonObject = {"metadata": {"labels": {"zone": "b"}}}
        await one.kube.patch("v1", "nodes", None, "edge-1", label)
        async with an_edge(one, "edge-1", renewed) as edge:
            assert (await edge.register()).parent_id


async def all_syncs(cloud: CloudCore) -> list[Any]:
    return list((await cloud.kube.list(SYNCS, "objectsyncs")).items)


async def test_the_cluster_knows_which_cloudcore_a_node_is_at(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as one, another_cloud(one, tmp_path / "two") as two:
        certificate = await join(two, "edge-1")
        async with an_edge(one, "edge-1", certificate) as edge:
            await edge.register()
            theirs: JsonObject = {"metadata": {"annotations": {"cloudcore": "192.0.2.1"}}}
            await one.kube.patch("v1", "nodes", None, "edge-1", theirs)
        async with an_edge(two, "edge-1", certificate):

            async def is_told() -> bool:
                node = await one.object("v1", "nodes", None, "edge-1")
                return bool(node["metadata"]["annotations"]["cloudcore"] == "127.0.0.1")

            await eventually(is_told)


async def test_a_sync_that_somebody_deletes_is_made_again(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        pod = await make_pod(cloud, a_pod())
        await edge.object("default/pod/p1")
        version = pod["metadata"]["resourceVersion"]
        await has_sync(cloud, "p1", version)
        name = f"edge-1.{pod['metadata']['uid']}"
        await cloud.kube.delete(SYNCS, "objectsyncs", "default", name)
        await has_sync(cloud, "p1", version)


async def test_syncs_of_nodes_that_are_no_more_go_at_the_next_start(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, cloudcore=False) as cloud:
        for plural, kind, namespace in (
            ("objectsyncs", "ObjectSync", "default"),
            ("clusterobjectsyncs", "ClusterObjectSync", None),
        ):
            body: JsonObject = {
                "kind": kind,
                "metadata": {"name": f"edge-9.uid-of-{kind.lower()}"},
                "spec": {"objectAPIVersion": "v1", "objectKind": "Pod", "objectName": "p"},
            }
            await cloud.kube.create(SYNCS, plural, namespace, body)
    async with a_cloud(tmp_path) as cloud:

        async def are_gone() -> bool:
            found = [
                *(await cloud.kube.list(SYNCS, "objectsyncs")).items,
                *(await cloud.kube.list(SYNCS, "clusterobjectsyncs")).items,
            ]
            return not found

        await eventually(are_gone)


async def test_one_cloudcore_settles_devices_and_the_other_takes_over(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, cloudcore=False) as base, AsyncExitStack() as first:
        one = await first.enter_async_context(another_cloud(base, tmp_path / "one"))
        async with another_cloud(base, tmp_path / "two") as two:
            certificate = await join(two, "edge-1")
            await apply_model(base)
            await apply_device(base, a_device(level="3"))
            await eventually(lambda: base.thing("default:lamp"))
            async with an_edge(two, "edge-1", certificate) as edge:
                await edge.register()
                await edge.object("default/device/lamp")
                assert content_of(await edge.report("lamp", level="4")) == "OK"
                assert await reported(base, "level") == 4
                await base.want("default:lamp", "level", 7)
                await edge.object("default/device/lamp", "update")
                assert await desired(base) == "7"
                assert written(one) == {("thing", "created"): 1, ("device", "written"): 1}
                assert written(two) == {("thing", "created"): 0, ("device", "written"): 0}
                await eventually(lambda: has_agreed(two, b"7"))
                await first.aclose()
                await base.want("default:lamp", "level", 8)

                async def is_settled() -> bool:
                    return await desired(base) == "8"

                await eventually(is_settled)
                assert written(two)[("device", "written")] == 1


async def test_reports_at_one_cloudcore_reach_the_things_of_the_one_that_leads(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as one, AsyncExitStack() as second:
        two = await second.enter_async_context(
            another_cloud(one, tmp_path / "two", has_own_things=True)
        )
        await apply_model(one)
        await apply_device(one, a_device(level="3"))
        await eventually(lambda: one.thing("default:lamp"))
        certificate = await join(two, "edge-1")
        async with an_edge(two, "edge-1", certificate) as edge:
            await edge.register()
            await edge.object("default/device/lamp")
            for version, value in enumerate(("4", "5", "6"), 1):
                assert content_of(await edge.report("lamp", version, level=value)) == "OK"
            await eventually(lambda: has_reported(one, "level", 6))
            assert await two.thing("default:lamp") is None
        async with an_edge(one, "edge-1", certificate) as edge:
            assert content_of(await edge.report("lamp", 4, level="7", colour="red")) == "OK"
        async with an_edge(two, "edge-1", certificate) as edge:
            assert content_of(await edge.report("lamp", 5, level="8")) == "OK"
            await eventually(lambda: has_reported(one, "level", 8))
            status: Any = await one.object(DEVICES, "devicestatuses", "default", "lamp")
            names = {twin["propertyName"] for twin in status["status"]["twins"]}
            assert names == {"level", "colour"}


async def has_reported(cloud: CloudCore, name: str, value: Any) -> bool:
    thing = await cloud.thing("default:lamp")
    found = (thing or {}).get("features", {}).get(name, {}).get("properties", {}).get("value")
    return bool(found == value)


def written(cloud: CloudCore) -> dict[tuple[str, str], float]:
    """What this CloudCore's controller wrote."""
    kinds = (("thing", "created"), ("device", "written"))
    name = "twinspan_device_desired_total"
    return {(t, o): cloud.sample(name, towards=t, outcome=o) for t, o in kinds}


async def has_agreed(cloud: CloudCore, value: bytes) -> bool:
    """True once this CloudCore has seen Device and thing agree on the level."""
    found = await cloud.gateway.database.read(
        lambda c: c.execute("SELECT desired FROM device_base WHERE property = 'level'").fetchall()
    )
    return bool(found) and str(found[0][0]).encode() == value


async def desired(cloud: CloudCore) -> str:
    device: Any = await cloud.device("lamp")
    entries = {each["name"]: each for each in device["spec"]["properties"]}
    return str(entries["level"]["desired"]["value"])


async def reported(cloud: CloudCore, name: str) -> Any:
    thing = await cloud.thing("default:lamp")
    assert thing is not None
    return thing["features"][name]["properties"]["value"]
