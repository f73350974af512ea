"""Nodes that change under their name, many at once, and Devices that are made again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from gateway.errors import NotFound
from gateway.kube.client import PatchType
from gateway.model.json import Json
from gateway.model.message import Kind, SpoolId
from gateway.wire.cloudedge.devices import DeviceView, mapping
from gateway.wire.cloudedge.names import NODE_ID
from gateway.wire.cloudedge.uploads import EdgeUpload, read_upload_answer
from gateway.wire.cloudedge.uploads import upload as an_upload
from tests.cloud_rig import (
    Certificate,
    CloudCore,
    a_cloud,
    a_stamp,
    an_edge,
    apply_device,
    apply_model,
    content_of,
    eventually,
    fetch_ca,
    join,
)
from tests.cloud_samples import DEVICES, a_device

SYNCS = ("reliablesyncs.kubeedge.io/v1alpha1", "objectsyncs")


async def all_synced(cloud: CloudCore, count: int = 2) -> bool:
    found = await cloud.kube.list(*SYNCS)
    versions = [
        mapping(item.get("status")).get("objectResourceVersion", "0") for item in found.items
    ]
    return len(versions) == count and "0" not in versions


async def deliver(cloud: CloudCore, certificate: Certificate, store: str = "") -> None:
    async with an_edge(cloud, "edge-1", certificate, store=store):
        await eventually(lambda: all_synced(cloud))


async def test_a_new_machine_under_an_old_name_gets_everything(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        await deliver(cloud, await join(cloud, "edge-1"))
        fresh = await join(cloud, "edge-1", node="edge-1", replace=True)
        async with an_edge(cloud, "edge-1", fresh) as edge:
            await edge.object("default/devicemodel/lamp-model", "insert")
            await edge.object("default/device/lamp", "insert")


async def test_a_machine_that_lost_its_store_gets_everything(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        certificate = await join(cloud, "edge-1")
        await deliver(cloud, certificate, "first")
        async with an_edge(cloud, "edge-1", certificate, store="first") as edge:
            await edge.register()
            assert not any(e.route.resource == "default/device/lamp" for e in edge.received)
        async with an_edge(cloud, "edge-1", certificate, store="second") as edge:
            await edge.object("default/device/lamp", "insert")


async def test_many_that_come_at_once_do_not_pass_the_limit(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, node_limit=2) as cloud:
        names = [f"edge-{n}" for n in range(8)]
        certificates = [await join(cloud, name) for name in names]
        ca = await fetch_ca(cloud)
        most = 0

        async def visit(http: aiohttp.ClientSession, name: str, own: Certificate) -> None:
            nonlocal most
            try:
                await http.ws_connect(cloud.wss, headers={NODE_ID: name}, ssl=own.context(ca))
            except aiohttp.WSServerHandshakeError:
                return
            most = max(most, int(cloud.sample("twinspan_cloudhub_connected_nodes")))

        async with aiohttp.ClientSession() as http:
            await asyncio.gather(
                *(visit(http, *pair) for pair in zip(names, certificates, strict=True))
            )
            assert 1 <= most <= 2
            assert cloud.sample("twinspan_cloudhub_connected_nodes") <= 2


async def test_a_device_that_is_made_again_starts_anew(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await apply_model(cloud)
        first = await apply_device(cloud, a_device(on="true"))
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.object("default/device/lamp", "insert")
            await edge.report("lamp", level="44")
            await cloud.kube.delete(DEVICES, "devices", "default", "lamp")
            second = await apply_device(cloud, a_device(on="false"))
            assert first["metadata"]["uid"] != second["metadata"]["uid"]  # type: ignore[index, call-overload]

            async def is_new() -> bool:
                thing = await cloud.thing("default:lamp") or {}
                on = thing.get("features", {}).get("on", {})
                level = thing.get("features", {}).get("level", {})
                return on.get("desiredProperties") == {"value": False} and "properties" not in level

            await eventually(is_new)
            await edge.report("lamp", 9, on="false")

            async def is_told() -> bool:
                try:
                    found = await cloud.object(DEVICES, "devicestatuses", "default", "lamp")
                except NotFound:
                    return False
                names = [twin["propertyName"] for twin in found["status"]["twins"]]
                owner = found["metadata"]["ownerReferences"][0]["uid"]
                return names == ["on"] and owner == second["metadata"]["uid"]  # type: ignore[index, call-overload]

            await eventually(is_told)


async def test_a_device_waits_for_the_model_that_gives_its_wishes_types(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
            await apply_device(cloud, a_device(level="7"))

            async def is_seen() -> bool:
                found = (await cloud.kube.list("v1", "events", "default")).items
                return any(event["reason"] == "ModelNotFound" for event in found)

            await eventually(is_seen)
            await apply_model(cloud)
            device = content_of(await edge.object("default/device/lamp", "insert"))
            desired = device["spec"]["properties"][1]["desired"]
            assert (desired["value"], desired["metadata"]["type"]) == ("7", "int")
            await cloud.kube.delete(DEVICES, "devicemodels", "default", "lamp-model")
            await edge.object("default/devicemodel/lamp-model", "delete")
            kinds = [e.route.operation for e in edge.received if "device/lamp" in e.route.resource]
            assert "delete" not in kinds


async def test_a_copied_store_does_not_make_the_messages_of_another_node_old(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as cloud:
        await apply_model(cloud)
        for number in (1, 2):
            await apply_device(cloud, a_device(f"lamp-{number}", f"edge-{number}"))
            device = f"default:lamp-{number}"

            async def is_known(thing: str = device) -> bool:
                return await cloud.thing(thing) is not None

            await eventually(is_known)
            certificate = await join(cloud, f"edge-{number}")
            async with an_edge(cloud, f"edge-{number}", certificate) as edge:
                item = EdgeUpload(
                    topic=f"telemetry//{device}",
                    payload=b"{}",
                    kind=Kind.TELEMETRY,
                    device=device,
                    spool=SpoolId("copied", "lane", 3 - number),
                )
                answer = await edge.ask(an_upload(a_stamp(), item))
                assert read_upload_answer(answer.content)
        sent = cloud.gateway.messaging.messages
        assert [(m.device, m.duplicate) for m in sent] == [
            ("default:lamp-1", False),
            ("default:lamp-2", False),
        ]


async def test_what_happens_again_is_one_event_that_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.events.QUIET_SECONDS", 0.0)
    async with a_cloud(tmp_path) as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device(level="many"))

        async def counted() -> int:
            found = (await cloud.kube.list("v1", "events", "default")).items
            counts = [item["count"] for item in found if item["reason"] == "BadDesired"]
            assert len(counts) <= 1
            return int(str(counts[0])) if counts else 0

        async def is_counted(least: int) -> bool:
            return await counted() >= least

        await eventually(lambda: is_counted(1))
        await eventually(lambda: cloud.thing("default:lamp"))
        await cloud.want("default:lamp", "on", True)

        async def is_on() -> bool:
            view = DeviceView.read(await cloud.device("lamp"))
            return view.properties["on"].desired == "true"

        async def says_five() -> bool:
            features = mapping((await cloud.thing("default:lamp") or {}).get("features"))
            return features["level"] == {"desiredProperties": {"value": 5}}

        async def want_level(value: str) -> None:
            place = "/spec/properties/1/desired/value"
            patch: list[Json] = [{"op": "replace", "path": place, "value": value}]
            await cloud.kube.patch(
                DEVICES, "devices", "default", "lamp", patch, patch_type=PatchType.JSON
            )

        await eventually(is_on)
        assert await counted() == 1  # what stays as it is, is not told again
        await want_level("5")
        await eventually(says_five)
        await want_level("many")
        await eventually(lambda: is_counted(2))
