"""EventBus as a client of a broker that is there already: Debian's mosquitto."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge.external import AWAY
from gateway.config.edge import EdgeMqtt
from gateway.errors import InvalidSetting
from gateway.wire.cloudedge.envelope import Route, make
from gateway.wire.cloudedge.names import Group, Operation, Source
from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration.edge_cloud import FakeCloud, a_cloud, stamp
from tests.integration.edge_node import MODEL, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.mqtt_peers import Paho, mosquitto, paho_client

DEVICE = "$hw/events/device/default/d1"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as running:
        running.members = [MemberDevice(id="default/d1", name="d1")]
        yield running


@pytest.fixture
async def data_dir(cloud: FakeCloud, tmp_path: Path) -> Path:
    await join_edge(cloud, tmp_path / "edge")
    return tmp_path / "edge"


def at(address: str, mode: str = "external", **more: Any) -> EdgeMqtt:
    return EdgeMqtt(bind="127.0.0.1:0", mode=mode, external=address, **more)


async def result(peer: Paho) -> Any:
    return json.loads((await peer.message()).payload)


async def test_twins_and_telemetry_go_through_the_external_broker(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with mosquitto() as address, a_node(data_dir, mqtt=at(address)) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp="25"))
        assert node.core.broker is None
        assert "edge.mqtt" not in node.endpoints
        async with paho_client(address) as peer:
            await peer.subscribe((f"{DEVICE}/twin/update/result", 1))
            body = json.dumps({"event_id": "x", "twin": {"temp": {"actual": {"value": "20"}}}})
            answer: Any = None
            while answer is None:  # until the edge's subscription is there
                peer.client.publish(f"{DEVICE}/twin/update", body, 1)
                try:
                    answer = await asyncio.wait_for(result(peer), 0.2)
                except TimeoutError:
                    continue
            assert answer["twin"]["temp"]["actual"]["value"] == "20"
            await until(lambda: cloud.reported("temp"))
            for number in range(20):
                peer.client.publish("telemetry//default:d1", str(number), 1)
            await until(lambda: len(cloud.uploads) == 20)
        assert [u.payload for u in cloud.uploads] == [str(n).encode() for n in range(20)]


async def test_both_brokers_are_told(cloud: FakeCloud, data_dir: Path) -> None:
    async with mosquitto() as address, a_node(data_dir, mqtt=at(address, "both")) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp=None))
        external = node.core.external
        assert external is not None
        await until(lambda: external.is_connected)
        inner = node.endpoints.get("edge.mqtt")
        async with paho_client(address) as outside, paho_client(inner) as inside:
            for peer in (outside, inside):
                await peer.subscribe((f"{DEVICE}/twin/update/document", 1))
            body = json.dumps({"twin": {"temp": {"actual": {"value": "20"}}}})
            inside.client.publish(f"{DEVICE}/twin/update", body, 1)
            for peer in (outside, inside):
                document = await result(peer)
                assert document["twin"]["temp"]["current"]["actual"]["value"] == "20"
        await until(lambda: cloud.reported("temp") == ["20"])


async def test_a_broker_that_comes_late_is_found_and_what_was_told_before_is_counted(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with mosquitto() as address:
        pass
    async with a_node(data_dir, mqtt=at(address)) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp=None))
        assert await node.report("d1", temp="1") is None
        lost = node.metrics.registry.get_sample_value(
            "twinspan_edge_mqtt_dropped_total", {"cause": AWAY}
        )
        assert lost
        async with mosquitto(int(address.rpartition(":")[2])):
            external = node.core.external
            assert external is not None
            await until(lambda: external.is_connected)


async def test_retained_messages_are_left_out(cloud: FakeCloud, data_dir: Path) -> None:
    async with mosquitto() as address:
        async with paho_client(address) as peer:
            peer.client.publish("telemetry//default:d1", b"old", 1, retain=True)
            await peer.ack()
            async with a_node(data_dir, mqtt=at(address)) as node:
                await linked(node, cloud)
                while not cloud.uploads:
                    peer.client.publish("telemetry//default:d1", b"new", 1)
                    await asyncio.sleep(0.02)
        assert {u.payload for u in cloud.uploads} == {b"new"}


def command(operation: Operation, content: str | None = None) -> Any:
    route = Route(
        source=Source.ROUTER_EVENT_BUS,
        group=Group.USER,
        operation=operation,
        resource="default/up",
    )
    return make(stamp(), route, content)


async def test_the_routers_topics_are_subscribed_there(cloud: FakeCloud, data_dir: Path) -> None:
    async with mosquitto() as address, a_node(data_dir, mqtt=at(address)) as node:
        await linked(node, cloud)
        await cloud.send(command(Operation.SUBSCRIBE))
        async with paho_client(address) as peer:
            while not cloud.for_router:
                peer.client.publish("default/up", b"x", 1)
                await asyncio.sleep(0.02)
            assert cloud.for_router[0].resource == "default/up"
            await peer.subscribe(("default/up", 1))
            await cloud.send(command(Operation.PUBLISH, "from the cloud"))
            while (await peer.message()).payload != b"from the cloud":
                pass


async def test_a_mapper_goes_on_hearing_a_topic_that_a_rule_wants_no_more(
    cloud: FakeCloud, data_dir: Path
) -> None:
    there = {"protocolName": "mqtt", "configData": {"topic": "default/up"}}
    device = a_device(label=None)
    device["spec"]["properties"][0]["visitors"] = there
    async with mosquitto() as address, a_node(data_dir, mqtt=at(address)) as node:
        await linked(node, cloud)
        await cloud.send(command(Operation.SUBSCRIBE))
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", device)
        async with paho_client(address) as peer:
            while not cloud.for_router or not cloud.reported("label"):
                peer.client.publish("default/up", b"one", 1)
                await asyncio.sleep(0.02)
            await cloud.send(command(Operation.UNSUBSCRIBE))
            await until(lambda: not node.core.bus._router_topics)
            while cloud.reported("label")[-1] != "two":
                peer.client.publish("default/up", b"two", 1)
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("mqtt", "named"),
    [
        (EdgeMqtt(mode="outside"), "edge.mqtt.mode"),
        (EdgeMqtt(mode="external", external="nowhere"), "edge.mqtt.external"),
        (
            EdgeMqtt(mode="external", external="10.0.0.1:1883", external_password_file=__file__),
            "external_tls",
        ),
        (EdgeMqtt(mode="external", external_tls=True, external_ca="/none"), "external_ca"),
        (EdgeMqtt(mode="external", external_password_file="/none"), "external_password_file"),
    ],
)
async def test_settings_that_cannot_be_are_named(
    cloud: FakeCloud, data_dir: Path, mqtt: EdgeMqtt, named: str
) -> None:
    with pytest.raises((InvalidSetting, ExceptionGroup)) as caught:
        async with a_node(data_dir, mqtt=mqtt), asyncio.timeout(30):
            await asyncio.Event().wait()  # the node's failure ends it
    assert named in _text(caught.value)


def _text(error: BaseException) -> str:
    if isinstance(error, ExceptionGroup):
        return " ".join(_text(inner) for inner in error.exceptions)
    return str(error)
