"""Devices that speak MQTT in a form of their own: mosquitto's tools are the device."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.model.message import Kind
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import MODEL, Node, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.mqtt_peers import run_tool, tool


def visited(name: str, desired: str = "", **visitor: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": name,
        "reportToCloud": True,
        "collectCycle": 100,
        "visitors": {"protocolName": "mqtt", "configData": visitor},
    }
    return entry | ({"desired": {"value": desired}} if desired else {})


def an_mqtt_device(*properties: dict[str, Any], **config: Any) -> dict[str, Any]:
    return {
        "spec": {
            "deviceModelRef": {"name": "m1"},
            "nodeName": "edge-1",
            "protocol": {"protocolName": "mqtt", "configData": config},
            "properties": list(properties),
        }
    }


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as running:
        running.members = [MemberDevice(id="default/d1", name="d1")]
        yield running


@pytest.fixture
async def node(cloud: FakeCloud, tmp_path: Path) -> AsyncIterator[Node]:
    await join_edge(cloud, tmp_path / "edge")
    async with a_node(tmp_path / "edge") as running:
        await linked(running, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        yield running


async def say(node: Node, topic: str, text: str, *more: str) -> None:
    """Publish as the device does."""
    port = str(node.endpoints.port("edge.mqtt"))
    done = await run_tool("mosquitto_pub", "-p", port, "-q", "1", "-t", topic, "-m", text, *more)
    assert done.code == 0, done.err


@asynccontextmanager
async def hearing(node: Node, topic: str) -> AsyncIterator[asyncio.StreamReader]:
    """Run mosquitto_sub as the device, subscribed."""
    process = await asyncio.create_subprocess_exec(
        *(tool("mosquitto_sub"), "-p", str(node.endpoints.port("edge.mqtt")), "-t", topic),
        stdout=asyncio.subprocess.PIPE,
    )
    assert node.core.broker is not None
    broker = node.core.broker
    await until(lambda: broker.has_subscribers(topic))
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        process.terminate()
        await process.wait()


def telemetry(cloud: FakeCloud) -> list[bytes]:
    return [u.payload for u in cloud.uploads if u.kind is Kind.TELEMETRY]


async def test_what_a_device_says_in_json_is_its_reported_value(
    cloud: FakeCloud, node: Node
) -> None:
    temp = visited("temp", path="$.state.t")
    label = visited("label", path="$.name")
    await cloud.push("device", "d1", an_mqtt_device(temp, label, topic="plant/pump"))
    await until(lambda: cloud.states)
    await say(node, "plant/pump", '{"state": {"t": 21}, "name": "north"}')
    await until(lambda: cloud.reported("temp") == ["21"] and cloud.reported("label") == ["north"])
    await say(node, "plant/pump", '{"state": {"t": 22.0}}')
    await until(lambda: cloud.reported("temp")[-1] == "22")
    await until(lambda: b'{"temp":22}' in telemetry(cloud))


async def test_what_is_wanted_reaches_the_device_once(cloud: FakeCloud, node: Node) -> None:
    places = {"topic": "pump/state", "commandTopic": "pump/set"}
    async with hearing(node, "pump/set") as heard:
        temp = visited("temp", "25", path="$.t", commandPath="$.set.t", **places)
        await cloud.push("device", "d1", an_mqtt_device(temp))
        assert await asyncio.wait_for(heard.readline(), 20) == b'{"set":{"t":25}}\n'
        await say(node, "pump/state", '{"t": 20}')
        await until(lambda: cloud.reported("temp") == ["20"])
        temp = visited("temp", "26", path="$.t", commandPath="$.set.t", **places)
        await cloud.push("device", "d1", an_mqtt_device(temp), Operation.UPDATE)
        assert await asyncio.wait_for(heard.readline(), 20) == b'{"set":{"t":26}}\n'
    await say(node, "pump/state", '{"t": 26}')
    await until(lambda: cloud.reported("temp")[-1] == "26")


async def test_a_retained_plain_value_is_there_from_the_start(cloud: FakeCloud, node: Node) -> None:
    await say(node, "pump/t", "19", "-r")
    await cloud.push("device", "d1", an_mqtt_device(visited("temp", topic="pump/t")))
    await until(lambda: cloud.reported("temp") == ["19"])


async def test_nonsense_is_no_value_and_the_device_goes_on(cloud: FakeCloud, node: Node) -> None:
    await cloud.push("device", "d1", an_mqtt_device(visited("temp", topic="t", path="$.t")))
    await until(lambda: cloud.states)
    for text in ("{", "[" * 5_000, '{"t": "warm"}', '{"t": null}', '{"t": [1]}', '{"u": 1}'):
        await say(node, "t", text)
    await say(node, "t", '{"t": 5}')
    await until(lambda: cloud.reported("temp"))
    assert cloud.reported("temp") == ["5"]


async def test_a_device_without_topics_speaks_for_itself(cloud: FakeCloud, node: Node) -> None:
    await cloud.push("device", "d1", an_mqtt_device({"name": "temp", "desired": {"value": "3"}}))
    await node.report("d1", temp="4")
    await until(lambda: cloud.reported("temp") == ["4"])
    assert not cloud.states


async def test_a_device_whose_topics_cannot_be_is_offline(
    cloud: FakeCloud, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    await cloud.push("device", "d1", an_mqtt_device(visited("temp", topic="$hw/x")))
    await until(lambda: cloud.states)
    assert [r.cause for r in caplog.records if hasattr(r, "cause")] == [
        "temp: topics that begin with $ belong to the edge"
    ]


async def test_a_model_that_comes_after_its_device_types_what_is_sent(
    cloud: FakeCloud, node: Node
) -> None:
    there = {"topic": "m/state", "path": "$.t", "commandTopic": "m/cmd", "commandPath": "$.t"}
    device = an_mqtt_device(visited("temp", **there))
    device["spec"]["deviceModelRef"]["name"] = "late"
    await cloud.push("device", "d1", device)
    await say(node, "m/state", '{"t": 20}')
    await until(lambda: cloud.reported("temp"))
    await cloud.push("devicemodel", "late", MODEL)
    async with hearing(node, "m/cmd") as heard:
        device["spec"]["properties"][0]["desired"] = {"value": "25"}
        await cloud.push("device", "d1", device, Operation.UPDATE)
        async with asyncio.timeout(20):
            assert await heard.readline() == b'{"t":25}\n'


async def test_a_value_that_is_bad_by_now_is_not_reported_again_as_good(
    cloud: FakeCloud, node: Node
) -> None:
    temp = visited("temp", topic="m/temp") | {"reportCycle": 100}
    label = visited("label", topic="m/label") | {"reportCycle": 100}
    await cloud.push("device", "d1", an_mqtt_device(temp, label))
    await say(node, "m/label", "clock")
    await say(node, "m/temp", "20")
    await until(lambda: len(cloud.reported("temp")) > 1)
    await say(node, "m/temp", "broken")
    known, ticks = len(cloud.reported("temp")), len(cloud.reported("label"))
    await until(lambda: len(cloud.reported("label")) > ticks + 5)
    assert len(cloud.reported("temp")) <= known + 2
