"""Telemetry and events from edges: whose they are, the answer, duplicates, order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateway.errors import DeviceNotFound, NoConsumer
from gateway.hono.amqp_messages import MessageEncoder
from gateway.model.json import JsonObject
from gateway.model.message import Kind, SpoolId
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.uploads import EdgeUpload, UploadAnswer, Verdict, read_upload_answer
from gateway.wire.cloudedge.uploads import upload as an_upload
from tests.cloud_rig import (
    CloudCore,
    Edge,
    a_cloud,
    a_stamp,
    an_edge,
    apply_device,
    apply_model,
    eventually,
    join,
)
from tests.cloud_samples import a_device


def item(
    sequence: int = 1, device: str = "default:lamp", *, lane: str = "lane", topic: str = ""
) -> EdgeUpload:
    return EdgeUpload(
        topic=topic or f"telemetry//{device}",
        payload=b'{"n":%d}' % sequence,
        qos=1,
        content_type="application/json",
        at=1_795_377_600_000,
        spool=SpoolId("edge-uuid", lane, sequence),
    )


async def send(edge: Edge, upload: EdgeUpload) -> UploadAnswer:
    answer: Envelope = await edge.ask(an_upload(a_stamp(), upload))
    return read_upload_answer(answer.content)


async def with_lamp(cloud: CloudCore, node: str = "edge-1") -> None:
    await apply_model(cloud)
    await apply_device(cloud, a_device(node=node))

    async def is_known() -> bool:
        return await cloud.thing("default:lamp") is not None

    await eventually(is_known)


async def test_telemetry_of_a_device_belongs_to_its_namespace_s_tenant(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await with_lamp(cloud)
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            assert edge.socket._response.headers["twinspan-spool"] == "1"
            answer = await send(edge, item())
            assert answer.verdict is Verdict.TAKEN
        (message,) = cloud.gateway.messaging.messages
        assert (message.tenant, message.device) == ("DEFAULT_TENANT", "default:lamp")
        assert (message.kind, message.qos, message.payload) == (Kind.TELEMETRY, 1, b'{"n":1}')
        assert message.adapter == "twinspan-edge"
        assert message.at == 1_795_377_600.0
        assert message.properties["edge_node"] == "edge-1"
        assert message.via == "edge-1"
        assert message.spool == SpoolId("edge-1/edge-uuid", "lane", 1)
        assert not message.duplicate


async def test_who_watches_a_tenant_sees_what_its_devices_at_edges_send(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await with_lamp(cloud)
        watcher, end = cloud.gateway.traffic.watch("DEFAULT_TENANT", frozenset(), None)
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            await send(edge, item(1))
            cloud.gateway.messaging.answer = lambda _: NoConsumer()
            await send(edge, item(2))
        _, (taken, refused) = await watcher.lines()
        end()
        assert (taken.device, taken.gateway, taken.status) == ("default:lamp", "edge-1", 202)
        assert (taken.adapter, taken.payload) == ("twinspan-edge", {"n": 1})
        assert (refused.status, refused.payload) == (503, {"n": 2})


async def test_any_other_device_belongs_to_the_node_s_tenant_and_is_asserted(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as cloud:
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            refused = await send(edge, item(1, "4711"))  # a Node that does not exist yet
            assert (refused.verdict, refused.status) == (Verdict.REFUSED, 403)
            await edge.register()
            assert (await send(edge, item(2, "4711"))).verdict is Verdict.TAKEN
            tenant: JsonObject = {"metadata": {"annotations": {"twinspan.io/tenant": "acme"}}}
            await cloud.kube.patch("v1", "nodes", None, "edge-1", tenant)
            await edge.object("null/node/edge-1", "update")
            cloud.gateway.ingress.answer = lambda _: DeviceNotFound()
            answer = await send(edge, item(3, "4711"))
            assert (answer.verdict, answer.status) == (Verdict.REFUSED, 404)
        assert [u.tenant for u in cloud.gateway.ingress.uploads] == ["DEFAULT_TENANT", "acme"]
        assert [u.device for u in cloud.gateway.ingress.uploads] == ["4711", "4711"]
        assert [u.via for u in cloud.gateway.ingress.uploads] == ["edge-1", "edge-1"]


async def test_a_node_is_no_gateway_of_its_own_messages(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        assert (await send(edge, item(1, "edge-1"))).verdict is Verdict.TAKEN
        (upload,) = cloud.gateway.ingress.uploads
        assert (upload.device, upload.via) == ("edge-1", None)


async def test_a_node_cannot_say_what_only_the_cloud_may_say(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await with_lamp(cloud)
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            given: dict[str, str | int | float | bool] = {
                "device_id": "x",
                "edge_node": "x",
                "x-opt-a": 1,
                "depth": 3,
                "big": "x" * 2_000,
            }
            await send(edge, replace(item(), properties=given))
        (message,) = cloud.gateway.messaging.messages
        assert message.properties == {"edge_node": "edge-1", "depth": 3}


async def test_a_node_may_not_send_for_another_node_s_device(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await with_lamp(cloud, "edge-2")
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            await edge.register()
            for device in ("default:lamp", "default/lamp"):
                topic = f"telemetry//{device}"
                upload = EdgeUpload(
                    topic=topic, payload=b"", kind=Kind.TELEMETRY, device=device,
                    spool=SpoolId("e", device, 1),
                )  # fmt: skip
                answer = await send(edge, upload)
                assert (answer.verdict, answer.status) == (Verdict.REFUSED, 403)
        assert cloud.gateway.messaging.messages == []
        labels = {"type": "telemetry", "outcome": "unprocessable"}
        assert cloud.sample("twinspan_edge_uploads_total", **labels) == 2


async def test_without_a_consumer_the_edge_is_told_to_try_again(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await with_lamp(cloud)
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            cloud.gateway.messaging.answer = lambda _: NoConsumer()
            answer = await send(edge, item())
            assert (answer.verdict, answer.status) == (Verdict.RETRY, 503)
            cloud.gateway.messaging.answer = lambda _: None
            assert (await send(edge, item())).verdict is Verdict.TAKEN
        assert [m.duplicate for m in cloud.gateway.messaging.messages] == [False, False]


async def test_what_was_taken_before_is_marked_as_duplicate_also_after_a_restart(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as cloud:
        await with_lamp(cloud)
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            for sequence in (1, 2, 2, 3):
                await send(edge, item(sequence))
            await send(edge, item(1, lane="other"))
        seen = [m.duplicate for m in cloud.gateway.messaging.messages]
        assert seen == [False, False, True, False, False]
    async with a_cloud(tmp_path) as cloud:
        async with an_edge(cloud, "edge-1", certificate) as edge:
            for sequence in (3, 4):
                await send(edge, item(sequence))
        assert [m.duplicate for m in cloud.gateway.messaging.messages] == [True, False]


async def test_a_lane_keeps_its_order_and_does_not_hold_up_another(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await with_lamp(cloud)
        down = cloud.gateway.messaging
        down.holds = lambda message: message.spool is not None and message.spool.lane == "slow"
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            for sequence in (1, 2, 3):
                await edge.send(an_upload(a_stamp(), item(sequence, lane="slow")))
            assert (await send(edge, item(9, lane="fast"))).verdict is Verdict.TAKEN

            async def one_waits() -> bool:
                return len(down.held) == 1

            for _ in range(3):
                await eventually(one_waits)
                down.held.pop()(None)
        sequences = [m.spool.sequence for m in down.messages if m.spool]
        assert [n for n in sequences if n != 9] == [1, 2, 3]


async def test_events_are_events_and_router_topics_are_refused(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await with_lamp(cloud)
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            upload = item(1, topic="event//default:lamp")
            assert (await send(edge, upload)).verdict is Verdict.TAKEN
            plain = EdgeUpload(topic="telemetry//default:lamp", payload=b"\xff\x00")
            await edge.send(an_upload(a_stamp(), plain))  # nobody waits for an answer
            router = await send(edge, item(2, topic="a/user/b"))
            assert (router.verdict, router.status) == (Verdict.REFUSED, 501)

            async def both_came() -> bool:
                return len(cloud.gateway.messaging.messages) == 2

            await eventually(both_came)
        kinds = {m.kind: m.payload for m in cloud.gateway.messaging.messages}
        assert kinds == {Kind.EVENT: b'{"n":1}', Kind.TELEMETRY: b"\xff\x00"}


async def test_what_no_application_could_be_given_is_not_stored_for_it(tmp_path: Path) -> None:
    encoder = MessageEncoder("test")
    odd = replace(
        item(),
        kind=Kind.EVENT,
        at=2**63 - 1,
        ttl=1e308,
        properties={"content-encoding": "é", "big": 2**64 - 1, "fine": "é"},
    )
    async with a_cloud(tmp_path) as cloud:
        await with_lamp(cloud)
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            assert (await send(edge, odd)).verdict is Verdict.TAKEN
            refused = await send(edge, replace(odd, content_type="text/é"))
            assert (refused.verdict, refused.status) == (Verdict.REFUSED, 400)
        (message,) = cloud.gateway.messaging.messages
        assert encoder.encode_event(message, 1, message.ttl)
        assert encoder.encode(message)
        assert "content-encoding" not in message.properties
        assert message.properties["fine"] == "é"
