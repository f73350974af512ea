"""Methods of Devices, called at the edge: by mosquitto's tools on its broker, and by POST to MetaServer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge import devicemethods
from edge.mappers.driver import DriverFactory
from edge.mappers.virtual import make_virtual
from gateway.errors import QuotaExceeded
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import Node, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.integration.metaserver_client import ADMIN, client_of
from tests.mqtt_peers import run_tool, tool

LAMP = DeviceKey("default", "lamp")
METHODS = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices/lamp/methods"
MODEL: dict[str, Any] = {
    "spec": {
        "properties": [
            {"name": "on", "type": "BOOLEAN", "accessMode": "ReadWrite"},
            {"name": "brightness", "type": "INT", "minimum": "0", "maximum": "100"},
            {"name": "hours", "type": "INT", "accessMode": "ReadOnly"},
        ]
    }
}


def a_lamp(*, protocol: str = "virtual", brightness: str | None = None) -> dict[str, Any]:
    lamp = a_device(protocol=protocol, on=None, brightness=brightness, hours=None)
    lamp["spec"]["methods"] = [
        {"name": "dim", "description": "switch and dim", "propertyNames": ["on", "brightness"]},
        {"name": "age", "propertyNames": ["hours"]},
        {"name": "paint", "propertyNames": ["colour"]},
    ]
    return lamp


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as served:
        served.members = [MemberDevice(id="default/lamp", name="lamp")]
        yield served


@pytest.fixture
async def node(cloud: FakeCloud, tmp_path: Path) -> AsyncIterator[Node]:
    await join_edge(cloud, tmp_path / "edge")
    (tmp_path / "edge" / "edge" / "metaserver.token").write_text("admin")
    async with a_node(tmp_path / "edge") as served:
        await linked(served, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        yield served


async def ask(node: Node, payload: str, device: str = "lamp", method: str = "dim") -> Any:
    """Call a method with mosquitto's tools; return the answer."""
    port = str(node.endpoints.port("edge.mqtt"))
    topic = f"twinspan/method/default/{device}/{method}"
    hears = await asyncio.create_subprocess_exec(
        *(tool("mosquitto_sub"), "-p", port, "-t", f"{topic}/result", "-C", "1", "-W", "20"),
        stdout=asyncio.subprocess.PIPE,
    )
    broker = node.core.broker
    assert broker is not None
    await until(lambda: broker.has_subscribers(f"{topic}/result"))
    said = await run_tool("mosquitto_pub", "-p", port, "-q", "1", "-t", topic, "-m", payload)
    assert said.code == 0, said.err
    answer, _ = await hears.communicate()
    return json.loads(answer)


async def test_a_method_is_called_by_mqtt_and_the_device_obeys(
    cloud: FakeCloud, node: Node
) -> None:
    await cloud.push("device", "lamp", a_lamp())
    await until(lambda: cloud.reported("brightness") == ["100"])
    answer = await ask(node, '{"event_id": "e7", "values": {"brightness": 40, "on": "true"}}')
    assert answer["event_id"] == "e7"
    assert answer["method"] == "dim"
    assert answer["properties"] == {
        "on": {"value": "true", "state": "written"},
        "brightness": {"value": "40", "state": "written"},
    }
    await until(lambda: cloud.reported("brightness")[-1] == "40")
    await until(lambda: cloud.reported("on")[-1] == "true")
    assert node.core.twin.twins(LAMP)["brightness"].expected is None  # an action is no wish


async def test_what_a_method_writes_takes_the_place_of_an_earlier_wish(
    cloud: FakeCloud, node: Node
) -> None:
    await cloud.push("device", "lamp", a_lamp(brightness="70"))
    await until(lambda: cloud.reported("brightness")[-1:] == ["70"])
    answer = await ask(node, '{"values": {"brightness": 40}}')
    assert answer["properties"]["brightness"]["state"] == "written"
    await until(lambda: cloud.reported("brightness")[-1] == "40")
    twin = node.core.twin.twins(LAMP)["brightness"]
    assert twin.expected is not None
    assert twin.expected.value == "40"
    await cloud.push("device", "lamp", a_lamp(brightness="75"), Operation.UPDATE)
    await until(lambda: cloud.reported("brightness")[-1] == "75")


@pytest.mark.parametrize(
    ("method", "payload", "code", "said"),
    [
        ("dim", '{"values": {"brightness": 101}}', 400, "brightness: expected at most 100"),
        ("dim", '{"values": {"brightness": "full"}}', 400, "brightness: expected a decimal"),
        ("dim", '{"values": {"on": 1}}', 400, "on: expected a boolean"),
        ("dim", '{"values": {"hours": 1}}', 400, "method dim writes on, brightness; got 'hours'"),
        ("dim", "{}", 400, "expected a value for 'on'"),
        ("dim", "{", 400, "cannot be read"),
        ("dim", '{"values": {"on": [1]}}', 400, "cannot be read"),
        ("age", '{"values": {"hours": 1}}', 400, "property 'hours' is ReadOnly"),
        ("paint", '{"values": {"colour": "red"}}', 400, "the Device has no property 'colour'"),
        ("sing", '{"values": {"on": true}}', 404, "no method 'sing'; it has: dim, age, paint"),
    ],
)
async def test_a_call_that_makes_no_sense_is_refused_and_nothing_is_written(
    cloud: FakeCloud, node: Node, method: str, payload: str, code: int, said: str
) -> None:
    await cloud.push("device", "lamp", a_lamp())
    await until(lambda: cloud.reported("on") == ["false"])
    answer = await ask(node, payload, method=method)
    assert answer["code"] == code
    assert said in answer["reason"]
    writes = node.metrics.registry.get_sample_value
    assert not writes("twinspan_edge_mapper_writes_total", {"driver": "virtual", "outcome": "ok"})


async def test_a_device_of_nobody_and_one_that_is_not_here_are_told_apart(
    cloud: FakeCloud, node: Node
) -> None:
    answer = await ask(node, '{"values": {"on": true}}', device="other")
    assert (answer["code"], answer["reason"]) == (
        404,
        "device default/other does not belong to this node",
    )
    await cloud.push("device", "lamp", a_lamp(protocol="profinet"))
    await until(lambda: node.core.twin.bound())
    answer = await ask(node, '{"values": {"on": true}}')
    assert answer["code"] == 503
    assert "protocol 'profinet' has no driver" in answer["reason"]


async def test_a_device_that_speaks_for_itself_gets_a_wish(cloud: FakeCloud, node: Node) -> None:
    await cloud.push("device", "lamp", a_lamp(protocol="mqtt"))
    await until(lambda: node.core.twin.bound())
    answer = await ask(node, '{"values": {"on": true}}')
    assert answer["properties"] == {"on": {"value": "true", "state": "wanted"}}
    await until(lambda: node.heard("/twin/update/delta"))
    assert node.heard("/twin/update/delta")[-1]["delta"] == {"on": "true"}


async def test_methods_are_listed_and_called_at_metaserver(cloud: FakeCloud, node: Node) -> None:
    await cloud.push("device", "lamp", a_lamp())
    await until(lambda: cloud.reported("on") == ["false"])
    async with client_of(node) as client:
        status, found, origin = await client.ask("GET", METHODS)
        assert (status, origin) == (200, "disk")
        assert [(m["name"], m.get("fault", "")) for m in found["items"]] == [
            ("dim", ""),
            ("age", "property 'hours' is ReadOnly"),
            ("paint", "the Device has no property 'colour'"),
        ]
        assert found["items"][0]["properties"][1] == {
            "name": "brightness",
            "type": "INT",
            "minimum": "0",
            "maximum": "100",
        }
        status, found, _ = await client.ask("POST", f"{METHODS}/dim", json={"on": True})
        assert (status, found["kind"], found["reason"]) == (403, "Status", "Forbidden")
        assert 'cannot create resource "devices/methods"' in found["message"]
    async with client_of(node, **ADMIN) as client:
        status, found, _ = await client.ask("POST", f"{METHODS}/dim", json={"brightness": 30})
        assert (status, found) == (
            200,
            {"method": "dim", "properties": {"brightness": {"value": "30", "state": "written"}}},
        )
        await until(lambda: cloud.reported("brightness")[-1] == "30")
        for path, body, code in (
            (f"{METHODS}/sing", {"on": True}, 404),
            (f"{METHODS}/dim", {"brightness": -1}, 400),
            (f"{METHODS}/dim", [1], 400),
            (METHODS, {"on": True}, 405),
            (f"{METHODS}/dim/on", {"on": True}, 404),
        ):
            status, found, _ = await client.ask("POST", path, json=body)
            assert (status, found["kind"]) == (code, "Status"), path
        status, found, _ = await client.ask("DELETE", f"{METHODS}/dim")
        assert status == 405


async def test_a_wish_by_method_is_accepted_with_202(cloud: FakeCloud, node: Node) -> None:
    await cloud.push("device", "lamp", a_lamp(protocol="mqtt"))
    await until(lambda: node.core.twin.bound())
    async with client_of(node, **ADMIN) as client:
        status, found, _ = await client.ask("POST", f"{METHODS}/dim", json={"on": True})
        assert (status, found["properties"]["on"]["state"]) == (202, "wanted")


# --- devices that are slow or refuse -----------------------------------------------------------------


def moody(gate: asyncio.Event) -> DriverFactory:
    """A virtual lamp whose writes wait for `gate`."""
    make = make_virtual(lambda: 1)

    def build(view: Any, model: Any) -> Any:
        driver = make(view, model)
        write = driver.write

        async def slow(name: str, text: str) -> None:
            await gate.wait()
            await write(name, text)

        driver.write = slow  # type: ignore[method-assign]  # the driver's own write, later
        return driver

    return build


async def test_calls_for_a_slow_device_are_bounded_and_told(
    cloud: FakeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devicemethods, "MAX_CALLS", 3)
    await join_edge(cloud, tmp_path / "edge")
    gate = asyncio.Event()
    async with a_node(tmp_path / "edge", drivers={"virtual": moody(gate)}) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "lamp", a_lamp())
        await until(lambda: cloud.reported("on") == ["false"])
        methods = node.core.devices.methods
        async with asyncio.TaskGroup() as group:
            calls = [
                group.create_task(methods.call(LAMP, "dim", {"brightness": at}, way="http"))
                for at in (1, 2, 3)
            ]
            await asyncio.sleep(0)
            with pytest.raises(QuotaExceeded):
                await methods.call(LAMP, "dim", {"brightness": 4}, way="http")
            gate.set()
        assert all(call.result()["method"] == "dim" for call in calls)
        await until(lambda: cloud.reported("brightness")[-1] == "3")  # in the order of the calls


async def test_a_device_that_refuses_says_what_was_written_before(
    cloud: FakeCloud, node: Node
) -> None:
    lamp = a_lamp()
    lamp["spec"]["properties"].append({"name": "colour", "collectCycle": 100})
    lamp["spec"]["methods"][2]["propertyNames"] = ["on", "colour"]
    model = {"spec": {"properties": [*MODEL["spec"]["properties"], {"name": "colour"}]}}
    await cloud.push("devicemodel", "m1", model, Operation.UPDATE)
    await cloud.push("device", "lamp", lamp)
    await until(lambda: cloud.reported("on") == ["false"])
    answer = await ask(node, '{"values": {"on": true, "colour": "red"}}', method="paint")
    assert answer["code"] == 404
    assert answer["reason"] == (
        "colour: this virtual device has no property colour; written before it: on"
    )
    await until(lambda: cloud.reported("on")[-1] == "true")


async def test_a_value_that_cannot_be_wanted_does_not_pass_for_done(
    cloud: FakeCloud, node: Node
) -> None:
    holder = a_device(protocol="virtual", model="none", text="old")
    holder["spec"]["protocol"]["configData"] = {"kind": "holder"}
    holder["spec"]["methods"] = [{"name": "say", "propertyNames": ["text"]}]
    await cloud.push("device", "lamp", holder)
    await until(lambda: cloud.reported("text") == ["old"])
    answer = await ask(node, '{"values": {"text": "a b?"}}', method="say")
    assert answer["code"] == 400
    assert answer["reason"].startswith("text: written, but 'old' stays wanted: ")


async def test_a_device_that_is_not_connected_says_so(cloud: FakeCloud, node: Node) -> None:
    lamp = a_lamp()
    lamp["spec"]["protocol"]["configData"] = {"kind": "toaster"}
    await cloud.push("device", "lamp", lamp)
    await until(lambda: cloud.states)
    answer = await ask(node, '{"values": {"on": true}}')
    assert (answer["code"], answer["reason"]) == (503, "device default/lamp is not connected")
