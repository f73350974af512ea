"""EventBus behind the real broker, with clients that others wrote: paho and mosquitto_pub."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.config.edge import Edge, Spool
from gateway.model.json import JsonObject
from gateway.model.message import Kind
from gateway.wire.cloudedge.envelope import Route, make
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.routing import bus_command
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration import edge_node
from tests.integration.edge_cloud import FakeCloud, a_cloud, stamp
from tests.integration.edge_node import MODEL, Node, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until

DEVICE = "$hw/events/device/default/d1"
MAPPED = {"plant/#": "telemetry", "plant/+": "telemetry"}


class Local:
    """A paho client with its own thread; what it got, oldest first."""

    def __init__(self, port: int, version: MQTTProtocolVersion) -> None:
        self.got: list[tuple[str, Any]] = []
        self.subscribed = 0
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=version)
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._port = port

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self.got.append((message.topic, json.loads(message.payload)))

    def _on_subscribe(self, *_: object) -> None:
        self.subscribed += 1

    async def start(self, topic: str) -> None:
        await asyncio.to_thread(self._client.connect, "127.0.0.1", self._port)
        self._client.loop_start()
        await until(self._client.is_connected)
        self._client.subscribe(topic, 1)
        await until(lambda: self.subscribed)

    async def stop(self) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    async def publish(self, topic: str, payload: bytes, trace: str = "") -> None:
        """Publish with QoS 1 and wait for the acknowledgement."""
        properties = None
        if trace:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho has no types here
            properties.UserProperty = ("traceparent", trace)
        info = self._client.publish(topic, payload, 1, properties=properties)
        await until(info.is_published)

    def heard(self, ending: str) -> list[Any]:
        return [body for topic, body in list(self.got) if topic.endswith(ending)]


@asynccontextmanager
async def a_client(
    node: Node, topic: str, version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5
) -> AsyncIterator[Local]:
    client = Local(node.endpoints.port("edge.mqtt"), version)
    await client.start(topic)
    try:
        yield client
    finally:
        await client.stop()


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
    async with a_node(tmp_path / "edge", spool=Spool(max_event_bytes=2_000)) as running:
        await linked(running, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp="25"))
        yield running


@pytest.mark.parametrize("version", list(MQTTProtocolVersion)[1:])
async def test_a_client_updates_a_twin_and_hears_result_document_and_delta(
    cloud: FakeCloud, node: Node, version: MQTTProtocolVersion
) -> None:
    async with a_client(node, f"{DEVICE}/twin/#", version) as client:
        payload = {"event_id": "1", "twin": {"temp": {"actual": {"value": "20"}}}}
        await client.publish(f"{DEVICE}/twin/update", json.dumps(payload).encode())
        await until(lambda: client.heard("/update/delta"))
        assert client.heard("/update/result")[0]["twin"]["temp"]["actual"]["value"] == "20"
        assert client.heard("/update/document")[0]["twin"]["temp"]["last"]["expected"]
        assert client.heard("/update/delta")[0]["delta"] == {"temp": "25"}
        await until(lambda: cloud.reported("temp") == ["20"])


async def test_a_message_that_a_rule_wants_stays_telemetry(
    cloud: FakeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_node, "Edge", partial(Edge, telemetry_map=MAPPED))
    await join_edge(cloud, tmp_path / "edge")
    async with a_node(tmp_path / "edge") as node:
        await linked(node, cloud)
        bus, topic = node.core.bus, "plant/line"
        await cloud.send(bus_command(stamp(), Operation.SUBSCRIBE, topic))
        await until(lambda: bus._router_topics)
        assert await node.publish(topic, b"1") is None
        await cloud.send(bus_command(stamp(), Operation.UNSUBSCRIBE, topic))
        await until(lambda: not bus._router_topics)
        assert await node.publish(topic, b"2") is None
        await until(lambda: [item.payload for item in cloud.uploads] == [b"1", b"2"])
        assert [item.payload for item in cloud.for_router] == [b"1"]


async def test_states_and_faults_said_at_once_are_told_in_order(
    cloud: FakeCloud, node: Node
) -> None:
    key = DeviceKey("default", "d1")
    await until(lambda: node.core.twin.rows)
    twin = node.core.twin
    answers: list[object] = []
    twin.set_state(key, "online", answers.append)
    twin.set_state(key, "unhealthy", answers.append)
    twin.tell_faults(key, {"connection": "away"}, answers.append)
    await until(lambda: len(answers) == 3 and len(cloud.states) == 3)
    told = [state.update.device for state in cloud.states]
    assert [device.state for device in told] == ["online", "unhealthy", "unhealthy"]
    assert told[0].last_online_time
    assert {device.last_online_time for device in told} == {told[0].last_online_time}


async def test_a_device_that_was_made_anew_has_nothing_of_its_namesake(
    cloud: FakeCloud, node: Node
) -> None:
    key = DeviceKey("default", "d1")
    assert await node.report("d1", temp="20", extra="old") is None
    await until(lambda: cloud.reported("extra") == ["old"])
    later = a_device(temp="30") | {"metadata": {"uid": "another"}}
    await cloud.push("device", "d1", later)
    await until(lambda: "extra" not in node.core.twin.twins(key))
    temp = node.core.twin.twins(key)["temp"]
    assert temp.actual is None
    assert temp.expected is not None
    assert temp.expected.value == "30"
    assert await node.report("d1", temp="21") is None
    await until(lambda: cloud.reported("temp")[-1] == "21")


async def test_a_trace_goes_from_the_device_through_the_edge_to_the_cloud(
    cloud: FakeCloud, node: Node
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    parent = f"00-{trace}-00f067aa0ba902b7-01"
    async with a_client(node, "nothing") as client:
        await client.publish("telemetry//default:d1", b"{}", parent)
        body = b'{"twin": {"temp": {"actual": {"value": "21"}}}}'
        await client.publish(f"{DEVICE}/twin/update", body, parent)
    await until(lambda: cloud.uploads and cloud.reports)
    sent = [e for e, m in cloud.got if m in cloud.uploads or m in cloud.reports]
    assert [e.trace.trace_id for e in sent if e.trace] == [trace, trace]


async def test_an_event_over_the_limit_is_not_acknowledged(cloud: FakeCloud, node: Node) -> None:
    cloud.outcome = None
    async with a_client(node, "nothing") as client:
        await client.publish("event//default:d1", b"x" * 1_000)
        late = asyncio.create_task(client.publish("event//default:d1", b"y" * 1_000))
        await until(lambda: node.core.spool.losses.get("spool_full"))
        assert node.core.spool.losses["spool_full"] == 1
        late.cancel()


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="mosquitto_pub is not installed")
@pytest.mark.parametrize(
    ("version", "qos"), [("311", 0), ("311", 1), ("5", 0), ("5", 1)], ids=lambda v: str(v)
)
async def test_mosquitto_pub_sends_telemetry_through_the_edge(
    cloud: FakeCloud, node: Node, version: str, qos: int
) -> None:
    port = str(node.endpoints.port("edge.mqtt"))
    process = await asyncio.create_subprocess_exec(
        *("mosquitto_pub", "-p", port, "-V", f"mqttv{version}", "-q", str(qos)),
        *("-t", "telemetry/DEFAULT_TENANT/default:d1", "-m", '{"t": 1}'),
    )
    assert await process.wait() == 0
    await until(lambda: len(cloud.uploads) == 1)
    (item,) = cloud.uploads
    assert (item.payload, item.qos, item.device) == (b'{"t": 1}', qos, "default:d1")


async def test_a_mapper_s_data_is_telemetry_of_its_device(cloud: FakeCloud, node: Node) -> None:
    port = str(node.endpoints.port("edge.mqtt"))
    topic = "$ke/events/device/default/d1/data/update"
    for payload in ('{"data": {"temp": {"value": "20"}}}', "20"):
        process = await asyncio.create_subprocess_exec(
            *("mosquitto_pub", "-p", port, "-q", "1", "-t", topic, "-m", payload)
        )
        assert await process.wait() == 0
    await until(lambda: len(cloud.uploads) == 2)
    assert {item.device for item in cloud.uploads} == {"default:d1"}
    assert {item.kind for item in cloud.uploads} == {Kind.TELEMETRY}
    assert [(item.payload[:1], item.content_type) for item in cloud.uploads] == [
        (b"{", "application/json"),
        (b"2", ""),
    ]
    assert cloud.uploads[0].topic == topic
    assert not cloud.uploads[0].twin_owned


async def say(cloud: FakeCloud, resource: str, content: JsonObject) -> None:
    """Send what a DeviceController says to DeviceTwin."""
    route = Route(source="devicecontroller", group="twin", operation="update", resource=resource)
    await cloud.send(make(stamp(), route, content))


async def test_attributes_of_older_clouds_are_told_listed_and_kept(
    cloud: FakeCloud, node: Node
) -> None:
    place: JsonObject = {"value": "hall", "optional": True, "metadata": {"type": "string"}}
    async with a_client(node, "$hw/#") as client:
        await say(
            cloud,
            "membership",
            {"added_devices": [{"id": "default/d1", "name": "d1", "attributes": {"place": place}}]},
        )
        await until(lambda: client.heard("default/d1/updated"))
        assert client.heard("default/d1/updated")[0]["attributes"] == {"place": place}
        update: JsonObject = {
            "event_id": "7",
            "attributes": {"floor": {"value": "2"}, "place": place},
        }
        await say(cloud, "device/default/d1/updated", update)
        await until(lambda: len(client.heard("default/d1/updated")) == 2)
        said = client.heard("default/d1/updated")[1]
        assert (said["event_id"], said["attributes"]) == ("7", {"floor": {"value": "2"}})
        await say(cloud, "device/default/d1/updated", {"attributes": {"place": None, "none": None}})
        await until(lambda: len(client.heard("default/d1/updated")) == 3)
        assert client.heard("default/d1/updated")[2]["attributes"] == {"place": None}
        await say(cloud, "device/default/other/updated", update)
        await client.publish("$hw/events/node/edge-1/membership/get", b"{}")
        await until(lambda: client.heard("/membership/get/result"))
        (device,) = client.heard("/membership/get/result")[0]["devices"]
        assert device["attributes"] == {"floor": {"value": "2"}}
        assert not client.heard("default/other/updated")


async def test_attributes_survive_a_restart_and_go_with_their_device(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    await join_edge(cloud, tmp_path / "edge")
    member: JsonObject = {"id": "default/d1", "name": "d1", "attributes": {"floor": {"value": "2"}}}
    async with a_node(tmp_path / "edge") as node:
        await linked(node, cloud)
        await say(cloud, "membership", {"added_devices": [member]})
        await until(lambda: node.core.twin.attributes.of("default/d1") is not None)
    async with a_node(tmp_path / "edge") as node:
        assert node.core.twin.members()[0].attributes == {"floor": Raw(b'{"value":"2"}')}
        cloud.members = []
        await linked(node, cloud)
        await until(lambda: not node.core.twin.members())
    async with a_node(tmp_path / "edge") as node:
        assert node.core.twin.attributes.of("default/d1") is None
