"""Sessions at CloudHub: takeover, limits, silence, garbage, slow readers, resending, catching up."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cloud.restrictions import CERTIFICATE
from cloud.runtimetaint import KEY
from gateway.errors import NotFound
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge import to_cloud
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.envelope import Route, make
from gateway.wire.cloudedge.names import NODE_ID, Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import ApiFailure, ObjectChanged, read_object, read_result
from gateway.wire.cloudedge.to_edge import read_to_edge as read
from tests.cloud_rig import (
    CloudCore,
    Edge,
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

LEASES = "coordination.k8s.io/v1"


def failure(answer: object) -> str:
    assert isinstance(answer, ApiFailure)
    return answer.reason


async def synced_version(cloud: CloudCore, name: str = "lamp") -> bool:
    """True once the ObjectSync of a Device says that edge-1 has its newest version."""
    device = await cloud.device(name)
    meta = device["metadata"]
    assert isinstance(meta, dict)
    found = await cloud.kube.list("reliablesyncs.kubeedge.io/v1alpha1", "objectsyncs", "default")
    wanted = f"edge-1.{meta['uid']}"
    for item in found.items:
        if item["metadata"]["name"] == wanted:  # type: ignore[index, call-overload]
            version = item.get("status", {}).get("objectResourceVersion")  # type: ignore[union-attr]
            return bool(version == meta["resourceVersion"])
    return False


async def wants(cloud: CloudCore, level: str) -> bool:
    """True once the Device wants this level."""
    view = DeviceView.read(await cloud.device("lamp"))
    return view.properties["level"].desired == level


def objects_of(edge: Edge) -> list[str]:
    """`operation type/name` of all object messages that came, each message once."""
    seen: dict[str, str] = {}
    for envelope in edge.received:
        message = read(envelope)
        if isinstance(message, ObjectChanged):
            text = f"{message.operation.value} {message.subject.type}/{message.subject.name}"
            seen[envelope.msg_id] = text
    return list(seen.values())


async def test_a_second_connection_of_a_node_takes_over(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as first:
            await first.register()
            async with an_edge(cloud, "edge-1", certificate) as second:
                await second.register()
                await first.closed()
                assert (await second.register()).parent_id
                assert cloud.sample("twinspan_cloudhub_connected_nodes") == 1
                assert cloud.sample("KubeEdge_CloudHub_connected_nodes") == 1
        assert cloud.sample("twinspan_cloudhub_sessions_ended_total", reason="replaced") == 1


async def test_one_node_too_many_is_refused_and_a_known_one_may_come_again(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, node_limit=1) as cloud:
        one, two = await join(cloud, "edge-1"), await join(cloud, "edge-2")
        async with an_edge(cloud, "edge-1", one) as edge:
            await edge.register()
            context = two.context(await fetch_ca(cloud))
            async with aiohttp.ClientSession() as http:
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    await http.ws_connect(cloud.wss, headers={NODE_ID: "edge-2"}, ssl=context)
            assert caught.value.status == 503
            async with an_edge(cloud, "edge-1", one) as again:
                assert (await again.register()).parent_id


async def test_a_node_without_keepalive_is_disconnected(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, keepalive_timeout=0.3) as cloud:
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            await edge.closed()

        async def is_counted() -> bool:
            return cloud.sample("twinspan_cloudhub_sessions_ended_total", reason="silent") == 1

        await eventually(is_counted)


async def test_garbage_and_frames_over_the_limit_end_a_session(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, max_frame=10_000) as cloud:
        certificate = await join(cloud, "edge-1")
        for frame in (b"\x00\x01", "this is no JSON", "[" * 9_000, "x" * 10_001):
            async with an_edge(cloud, "edge-1", certificate) as edge:
                await edge.register()
                if isinstance(frame, bytes):
                    await edge.socket.send_bytes(frame)
                else:
                    await edge.socket.send_str(frame)
                await edge.closed()
        async with an_edge(cloud, "edge-1", certificate) as edge:
            assert (await edge.register()).parent_id


async def test_an_odd_message_is_dropped_and_the_session_goes_on(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        route = Route(source="twin", operation="update", resource="device/x")
        await edge.send(make(a_stamp(), route, "nonsense"))
        route = Route(source="edged", operation="query", resource="one/two/three/four")
        await edge.send(make(a_stamp(), route))
        assert (await edge.register()).parent_id
        labels = {"direction": "up", "kind": "unreadable"}
        assert cloud.sample("twinspan_cloudhub_messages_total", **labels) == 2


async def test_an_object_that_is_not_acknowledged_is_sent_again_with_the_same_id(
    tmp_path: Path,
) -> None:
    async with (
        a_cloud(tmp_path, acknowledge_timeout=0.2) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        edge.acknowledges = False
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        first = await edge.object("default/device/lamp")

        async def came_twice() -> bool:
            return [e.msg_id for e in edge.received].count(first.msg_id) >= 2

        await eventually(came_twice)
        edge.acknowledges = True
        await edge.send(to_cloud.acknowledge(first, a_stamp()))
        await eventually(lambda: synced_version(cloud))


async def test_a_node_gets_only_what_it_missed(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        await apply_device(cloud, a_device("heater"))
        await apply_device(cloud, a_device("elsewhere", "edge-2"))
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await eventually(lambda: synced_version(cloud, "lamp"))
            await eventually(lambda: synced_version(cloud, "heater"))
            assert objects_of(edge)[0] == "insert devicemodel/lamp-model"
            assert set(objects_of(edge)[1:]) == {"insert device/lamp", "insert device/heater"}
        await cloud.want("default:lamp", "level", 5)
        await eventually(lambda: wants(cloud, "5"))
        await cloud.kube.delete(DEVICES, "devices", "default", "heater")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            gone = await edge.object("default/device/heater", "delete")
            assert set(content_of(gone)["metadata"]) == {"name", "namespace", "uid"}
            assert gone.header.resourceversion == ""
            await eventually(lambda: synced_version(cloud, "lamp"))
            assert sorted(objects_of(edge)) == ["delete device/heater", "update device/lamp"]


async def test_what_a_node_has_is_remembered_across_a_restart(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
            await eventually(lambda: synced_version(cloud))
    async with a_cloud(tmp_path) as cloud, an_edge(cloud, "edge-1", certificate) as edge:
        await edge.register()
        await cloud.want("default:lamp", "level", 5)
        await edge.object("default/device/lamp", "update")
        assert objects_of(edge) == ["update device/lamp"]


async def test_membership_is_told_and_can_be_asked_for(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await apply_model(cloud)
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            empty = await edge.ask(to_cloud.ask_membership(a_stamp(), "edge-1"))
            assert content_of(empty)["devices"] == []
            await apply_device(cloud, a_device())
            added = await edge.object("membership")
            assert content_of(added)["removed_devices"] is None
            asked = await edge.ask(to_cloud.ask_membership(a_stamp(), "edge-1"))
            assert asked.route.group == "twin"
            assert [d["id"] for d in content_of(asked)["devices"]] == ["default/lamp"]
            edge.forget()
            move: JsonObject = {"spec": {"nodeName": "edge-2"}}
            await cloud.kube.patch(DEVICES, "devices", "default", "lamp", move)
            removed = await edge.object("membership")
            assert [d["id"] for d in content_of(removed)["removed_devices"]] == ["default/lamp"]
            await edge.object("default/device/lamp", "delete")
            await edge.object("default/devicemodel/lamp-model", "delete")


async def test_a_node_that_does_not_read_is_disconnected_and_the_others_are_served(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path, write_timeout=0.3) as cloud:
        await apply_model(cloud)
        certificate = await join(cloud, "edge-2")
        context = certificate.context(await fetch_ca(cloud))
        async with aiohttp.ClientSession() as http:
            slow = await http.ws_connect(cloud.wss, headers={NODE_ID: "edge-2"}, ssl=context)
            for number in range(16):  # nobody reads from `slow`: its buffers fill up
                device = a_device(f"d{number}", "edge-2")
                bulk: JsonObject = {"protocolName": "virtual", "configData": {"x": "x" * 900_000}}
                device["spec"]["protocol"] = bulk  # type: ignore[index, call-overload]
                await apply_device(cloud, device)

            async def is_ended() -> bool:
                name = "twinspan_cloudhub_sessions_ended_total"
                return cloud.sample(name, reason="slow") == 1

            async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
                await apply_device(cloud, a_device())
                await edge.object("default/device/lamp", "insert")
                await eventually(is_ended)
            await slow.close()


async def test_many_questions_at_once_are_all_answered(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path, pending=4) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        subject = Subject(None, "node", "edge-1")
        asked = [to_cloud.ask(a_stamp(), subject, Operation.QUERY) for _ in range(50)]
        for envelope in asked:
            await edge.send(envelope)
        ids = {envelope.msg_id for envelope in asked}

        async def all_answered() -> bool:
            return ids <= {envelope.parent_id for envelope in edge.received}

        await eventually(all_answered)


# --- what nodes ask for --------------------------------------------------------------------------


async def test_a_node_registers_patches_its_status_and_renews_its_lease(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        node = read_result((await edge.register()).content)
        assert isinstance(node, dict)
        stored = await cloud.kube.get("v1", "nodes", None, "edge-1")
        assert stored["metadata"]["annotations"]["cloudcore"] == "127.0.0.1"  # type: ignore[index, call-overload]
        again = read_result((await edge.register(zone="a")).content)
        assert isinstance(again, dict)
        assert again["metadata"]["labels"]["zone"] == "a"  # type: ignore[index, call-overload]

        patch = '{"status":{"conditions":[{"type":"Ready","status":"True"}],"phase":"x"}}'
        answer = await edge.ask_object(Subject(None, "nodepatch", "edge-1"), Operation.PATCH, patch)
        patched = read_result(answer.content)
        assert isinstance(patched, dict)
        assert patched["status"]["conditions"][0]["type"] == "Ready"  # type: ignore[index, call-overload]

        lease = Subject("kube-node-lease", "lease", "edge-1")
        body: JsonObject = {"spec": {"holderIdentity": "edge-1", "leaseDurationSeconds": 40}}
        made = read_result((await edge.ask_object(lease, Operation.INSERT, body)).content)
        assert isinstance(made, dict)
        second = read_result((await edge.ask_object(lease, Operation.INSERT, body)).content)
        assert failure(second) == "AlreadyExists"
        made["spec"]["leaseDurationSeconds"] = 50  # type: ignore[index, call-overload]
        renewed = read_result((await edge.ask_object(lease, Operation.UPDATE, made)).content)
        assert isinstance(renewed, dict)
        stale = read_result((await edge.ask_object(lease, Operation.UPDATE, made)).content)
        assert failure(stale) == "Conflict"


async def test_the_taint_of_a_node_without_a_runtime_follows_its_status(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        for runtime, expected in (
            ("none://", [KEY]),
            ("containerd://1.6.20", []),
            ("none://", [KEY]),
        ):
            patch = f'{{"status":{{"nodeInfo":{{"containerRuntimeVersion":"{runtime}"}}}}}}'
            subject = Subject(None, "nodepatch", "edge-1")
            answer = await edge.ask_object(subject, Operation.PATCH, patch)
            told: Any = read_result(answer.content)
            stored: Any = await cloud.kube.get("v1", "nodes", None, "edge-1")
            for node in (told, stored):
                taints = node["spec"].get("taints") or []
                assert [row["key"] for row in taints if row["key"] == KEY] == expected


async def test_a_node_may_touch_nothing_but_its_own(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        empty: JsonObject = {}
        for subject, operation, content in (
            (Subject(None, "node", "edge-2"), Operation.INSERT, empty),
            (Subject(None, "nodepatch", "edge-2"), Operation.PATCH, '{"status":{}}'),
            (Subject(None, "nodepatch", "edge-1"), Operation.PATCH, '{"spec":{}}'),
            (Subject("kube-node-lease", "lease", "edge-2"), Operation.INSERT, empty),
            (Subject("default", "lease", "edge-1"), Operation.INSERT, empty),
        ):
            answer = await edge.ask_object(subject, operation, content)
            assert failure(read_result(answer.content)) == "Forbidden", subject
        for subject in (
            Subject(None, "node", "edge-2"),
            Subject("kubeedge", "secret", "casecret"),
            Subject("default", "configmap", "settings"),
        ):
            answer = await edge.ask_object(subject, Operation.QUERY)
            assert failure(read_object(answer.content)) == "Forbidden", subject


async def test_a_node_cannot_choose_its_tenant(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        mine: JsonObject = {"twinspan.io/tenant": "victim", "zone": "a"}
        node: JsonObject = {"metadata": {"annotations": mine, "labels": mine}}
        subject = Subject(None, "node", "edge-1")
        await edge.ask_object(subject, Operation.INSERT, node)
        await edge.ask_object(subject, Operation.INSERT, node)  # it exists by now
        patch = '{"metadata":{"annotations":{"twinspan.io/tenant":"victim"}},"status":{}}'
        status = Subject(None, "nodepatch", "edge-1")
        await edge.ask_object(status, Operation.PATCH, patch)
        metadata = (await cloud.object("v1", "nodes", None, "edge-1"))["metadata"]
        assert metadata["annotations"].pop("twinspan.io/edge-store")
        assert metadata["annotations"].pop(CERTIFICATE)
        assert metadata["annotations"] == {"zone": "a", "cloudcore": "127.0.0.1"}
        assert metadata["labels"] == {"zone": "a"}

        chosen: JsonObject = {"metadata": {"annotations": {"twinspan.io/tenant": "acme"}}}
        await cloud.kube.patch("v1", "nodes", None, "edge-1", chosen)
        await edge.ask_object(status, Operation.PATCH, '{"metadata":{"annotations":null}}')
        metadata = (await cloud.object("v1", "nodes", None, "edge-1"))["metadata"]
        assert metadata["annotations"]["twinspan.io/tenant"] == "acme"


async def test_a_node_cannot_rewrite_the_events_of_others(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        event: JsonObject = {
            "metadata": {"name": "e"},
            "involvedObject": {"kind": "Node", "name": "edge-2"},
            "message": "theirs",
            "source": {"component": "kubelet", "host": "edge-2"},
        }
        await cloud.kube.create("v1", "events", "default", event)
        subject = Subject("default", "event", "e")
        forged: JsonObject = {**event, "message": "forged"}
        await edge.send(to_cloud.ask(a_stamp(), subject, Operation.INSERT, forged))
        await edge.send(to_cloud.ask(a_stamp(), subject, Operation.PATCH, {"event": forged}))
        of_another = Subject("default", "event", "of-another")
        await edge.send(to_cloud.ask(a_stamp(), of_another, Operation.INSERT, forged))
        own = Subject("default", "event", "mine")
        about_me: JsonObject = {**forged, "involvedObject": {"kind": "Node", "name": "edge-1"}}
        await edge.send(to_cloud.ask(a_stamp(), own, Operation.INSERT, about_me))

        async def is_stored() -> bool:
            return len((await cloud.kube.list("v1", "events", "default")).items) == 2

        await eventually(is_stored)
        await edge.ask(to_cloud.ask_ca(a_stamp()))
        assert (await cloud.object("v1", "events", "default", "e"))["message"] == "theirs"
        mine = await cloud.object("v1", "events", "default", "mine")
        assert mine["source"]["host"] == "edge-1"
        with pytest.raises(NotFound):
            await cloud.object("v1", "events", "default", "of-another")


async def test_an_event_that_the_api_has_forgotten_is_stored_anew_when_it_happens_again(
    tmp_path: Path,
) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        event: JsonObject = {
            "involvedObject": {"kind": "Node", "name": "edge-1"},
            "reason": "Starting",
            "count": 7,
        }
        subject = Subject("default", "event", "edge-1.17")
        again = to_cloud.ask(a_stamp(), subject, Operation.PATCH, {"event": event, "patchData": ""})
        await edge.send(again)

        async def is_stored() -> bool:
            found = await cloud.kube.list("v1", "events", "default")
            return [(e["count"], e["source"]) for e in found.items] == [(7, {"host": "edge-1"})]

        await eventually(is_stored)


async def test_what_is_not_built_is_answered_with_a_status(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        for token in ("runtimeclass", "csidriver"):
            answer = await edge.ask_object(Subject("default", token, "x"), Operation.QUERY)
            assert failure(read_object(answer.content)) == "NotImplemented"


async def test_the_ca_and_an_empty_list_of_pods_are_answered(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        ca = content_of(await edge.ask(to_cloud.ask_ca(a_stamp())))
        root: Any = await cloud.object("v1", "configmaps", "default", "kube-root-ca.crt")
        assert ca == root["data"]["ca.crt"]
        assert ssl.PEM_cert_to_DER_cert(ca) != await fetch_ca(cloud)
        pods = await edge.ask_object(Subject("default", "podlist"), Operation.QUERY)
        assert content_of(pods) == []


async def test_events_of_a_node_are_stored(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        event: dict[str, Json] = {
            "involvedObject": {"kind": "Node", "name": "edge-1"},
            "reason": "Starting",
            "message": "Starting kubelet.",
            "type": "Normal",
        }
        subject = Subject("default", "event", "edge-1.17")
        await edge.send(to_cloud.ask(a_stamp(), subject, Operation.INSERT, event))

        async def is_stored() -> bool:
            found = await cloud.kube.list("v1", "events", "default")
            return [e["reason"] for e in found.items] == ["Starting"]

        await eventually(is_stored)


async def test_somebody_else_s_change_of_a_node_reaches_it_and_its_own_does_not(
    tmp_path: Path,
) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        edge.forget()
        status = '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}'
        subject = Subject(None, "nodepatch", "edge-1")
        await edge.ask_object(subject, Operation.PATCH, status)
        label: JsonObject = {"metadata": {"labels": {"zone": "b"}}}
        await cloud.kube.patch("v1", "nodes", None, "edge-1", label)
        update = await edge.object("null/node/edge-1", "update")
        assert content_of(update)["metadata"]["labels"]["zone"] == "b"
        assert objects_of(edge) == ["update node/edge-1"]


async def test_what_changed_of_a_node_while_it_was_away_goes_there_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
        label: JsonObject = {"metadata": {"labels": {"zone": "b"}}}
        await cloud.kube.patch("v1", "nodes", None, "edge-1", label)
        async with an_edge(cloud, "edge-1", certificate) as edge:
            update = await edge.object("null/node/edge-1", "update")
            assert content_of(update)["metadata"]["labels"]["zone"] == "b"


async def test_the_cloud_says_goodbye_when_it_stops(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        context = certificate.context(await fetch_ca(cloud))
        http = aiohttp.ClientSession()
        socket = await http.ws_connect(cloud.wss, headers={NODE_ID: "edge-1"}, ssl=context)
        reading = asyncio.create_task(socket.receive())
    async with asyncio.timeout(5):
        await reading
    assert socket.close_code in (1001, 1006)
    await http.close()
