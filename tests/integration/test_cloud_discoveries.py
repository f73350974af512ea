"""What nodes see becomes objects; what somebody accepts becomes a Device with its DeviceModel."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloud import discoveries
from cloud.discovered import DISCOVERED, PLURAL
from gateway.errors import NotFound
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta
from gateway.wire.cloudedge.discoveries import (
    Glimpse,
    SeenDevice,
    SeenProperty,
    Sightings,
    tell_sightings,
)
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
from tests.cloud_samples import DEVICES, a_device

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = 1_795_377_600_000
_nodes = itertools.count(1)
TEMP = SeenProperty(
    "temperature",
    "FLOAT",
    unit="°C",
    minimum="-40",
    maximum="80",
    visitor={"object": "temperature"},
)
SWITCH = SeenProperty("on", "BOOLEAN", "ReadWrite", visitor={"object": "switch"})


def a_sensor(address: str = "A4:C1:38:00:00:01", **more: Any) -> SeenDevice:
    said: dict[str, Any] = {
        "name": "Living Room",
        "model": "ATC Thermometer",
        "signal": -61,
        "config": {"address": address},
        "properties": (TEMP, SWITCH),
        "first": NOW,
        "last": NOW,
        **more,
    }
    return SeenDevice("bluetooth", address, **said)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cloud(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CloudCore]:
    """One for all tests: each has a node of its own, and takes its Devices away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discoveries, "SWEEP_SECONDS", 0.05)
        async with a_cloud(tmp_path_factory.mktemp("cloud")) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="module")
async def edge(cloud: CloudCore) -> AsyncIterator[Edge]:
    node = f"edge-{next(_nodes)}"
    async with an_edge(cloud, node, await join(cloud, node)) as connected:
        await connected.register()
        yield connected
    for group_version, plural, namespace in (
        (DISCOVERED, PLURAL, None),
        (DEVICES, "devices", "default"),
        (DEVICES, "devicemodels", "default"),
    ):
        for each in (await cloud.kube.list(group_version, plural)).items:
            with contextlib.suppress(NotFound):
                name = ObjectMeta.read(each).name
                await cloud.kube.delete(group_version, plural, namespace, name)


def seen_by(edge: Edge, address: str = "a4c138000001") -> str:
    """The name of an object."""
    return f"{edge.node}.bluetooth-{address}"


async def tell(edge: Edge, *seen: SeenDevice, **more: Any) -> None:
    await edge.send(tell_sightings(a_stamp(), Sightings(seen=seen, **more)))


async def found(cloud: CloudCore, name: str) -> JsonObject | None:
    try:
        return await cloud.object(DISCOVERED, PLURAL, None, name)
    except NotFound:
        return None


async def status(cloud: CloudCore, name: str) -> dict[str, Any]:
    """The status of an object, once it has one."""

    async def read() -> dict[str, Any]:
        document: Any = await found(cloud, name) or {}
        return document.get("status") or {}

    return await eventually(read)


async def accept(cloud: CloudCore, which: str, /, **wish: str) -> None:
    await status(cloud, which)
    await cloud.kube.patch(DISCOVERED, PLURAL, None, which, {"spec": {"accept": {**wish}}})


async def verdict(cloud: CloudCore, name: str, reason: str = "") -> tuple[str, ...]:
    """The Device that it became, reason and message, once it was judged."""

    async def read() -> tuple[str, ...]:
        said = await status(cloud, name)
        for condition in said.get("conditions", ()):
            if not reason or condition["reason"] == reason:
                return said.get("accepted", ""), condition["reason"], condition["message"]
        return ()

    return await eventually(read)


async def test_what_a_node_sees_is_an_object_that_changes_and_goes(
    cloud: CloudCore, edge: Edge
) -> None:
    await tell(edge, a_sensor())
    said = await status(cloud, seen_by(edge))
    assert (said["node"], said["protocol"]) == (edge.node, "bluetooth")
    assert (said["name"], said["signal"], said["lastSeen"]) == (
        "Living Room",
        -61,
        "2026-11-22T20:00:00Z",
    )
    document: Any = await found(cloud, seen_by(edge))
    (owner,) = document["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Node", edge.node)
    await tell(edge, still={"bluetooth-a4c138000001": Glimpse(NOW + 60_000, -70)})

    async def is_newer() -> bool:
        now = await status(cloud, seen_by(edge))
        return (now["signal"], now["lastSeen"]) == (-70, "2026-11-22T20:01:00Z")

    await eventually(is_newer)
    await tell(edge, gone=("bluetooth-a4c138000001",))

    async def is_gone() -> bool:
        return await found(cloud, seen_by(edge)) is None

    await eventually(is_gone)


async def test_a_node_takes_nothing_from_another_whose_name_begins_with_its_own(
    cloud: CloudCore, edge: Edge
) -> None:
    async with an_edge(cloud, f"{edge.node}.b", await join(cloud, f"{edge.node}.b")) as other:
        await tell(other, a_sensor())
        await status(cloud, f"{edge.node}.b.bluetooth-a4c138000001")
        await tell(edge, a_sensor(), gone=("b.bluetooth-a4c138000001",))
        await status(cloud, seen_by(edge))
        assert await found(cloud, f"{edge.node}.b.bluetooth-a4c138000001") is not None


async def test_strangers_texts_are_cleaned_again_and_sights_of_no_use_left_out(
    cloud: CloudCore, edge: Edge
) -> None:
    await tell(edge, a_sensor("bad address"), a_sensor(name="\x1b[2J\u202eevil" + "x" * 10_000))
    said = await status(cloud, seen_by(edge))
    assert said["name"].startswith("[2Jevil")
    assert len(said["name"]) == 128
    listed = await cloud.kube.list(DISCOVERED, PLURAL)
    assert len(listed.items) == 1


async def test_a_node_can_fill_its_own_share_and_no_more(
    cloud: CloudCore, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discoveries, "MAX_PER_NODE", 5)
    flood = [a_sensor(f"00:00:00:00:{n // 256:02x}:{n % 256:02x}") for n in range(200)]
    await tell(edge, *flood)
    await status(cloud, seen_by(edge, "000000000004"))
    await tell(edge, a_sensor("00:00:00:00:00:00", name="first"))

    async def is_told() -> bool:
        now = await status(cloud, seen_by(edge, "000000000000"))
        return bool(now["name"] == "first")

    await eventually(is_told)
    assert len((await cloud.kube.list(DISCOVERED, PLURAL)).items) == 5


async def test_an_accepted_device_gets_a_model_and_a_device(cloud: CloudCore, edge: Edge) -> None:
    await tell(edge, a_sensor())
    await accept(cloud, seen_by(edge), name="living", namespace="default")
    assert await verdict(cloud, seen_by(edge)) == (
        "default/living",
        "Accepted",
        "it is Device default/living",
    )
    device = await cloud.object(DEVICES, "devices", "default", "living")
    assert device["spec"] == {
        "deviceModelRef": {"name": "atc-thermometer"},
        "nodeName": edge.node,
        "protocol": {
            "protocolName": "bluetooth",
            "configData": {"address": "A4:C1:38:00:00:01"},
        },
        "properties": [
            {
                "name": "temperature",
                "reportToCloud": True,
                "visitors": {
                    "protocolName": "bluetooth",
                    "configData": {"object": "temperature"},
                },
            },
            {
                "name": "on",
                "reportToCloud": True,
                "visitors": {"protocolName": "bluetooth", "configData": {"object": "switch"}},
            },
        ],
    }
    model = await cloud.object(DEVICES, "devicemodels", "default", "atc-thermometer")
    assert model["spec"]["properties"][0] == {
        "name": "temperature",
        "type": "FLOAT",
        "accessMode": "ReadOnly",
        "unit": "°C",
        "minimum": "-40",
        "maximum": "80",
        "visitors": {"protocolName": "bluetooth", "configData": {"object": "temperature"}},
    }
    assert (await edge.object("default/device/living")).route.operation == "insert"


async def test_two_of_a_kind_share_a_model_and_have_names_of_their_own(
    cloud: CloudCore, edge: Edge
) -> None:
    await tell(edge, a_sensor(), a_sensor("A4:C1:38:00:00:02"))
    await accept(cloud, seen_by(edge))
    await accept(cloud, seen_by(edge, "a4c138000002"))
    one = (await verdict(cloud, seen_by(edge)))[0]
    two = (await verdict(cloud, seen_by(edge, "a4c138000002")))[0]
    assert (one, two) == ("default/living-room-0001", "default/living-room-0002")
    assert len((await cloud.kube.list(DEVICES, "devicemodels")).items) == 1


async def test_another_model_of_that_name_is_left_alone(cloud: CloudCore, edge: Edge) -> None:
    await apply_model(cloud)
    await tell(edge, a_sensor(model="lamp-model"))
    await accept(cloud, seen_by(edge), name="living")
    await verdict(cloud, seen_by(edge))
    device = await cloud.object(DEVICES, "devices", "default", "living")
    name = device["spec"]["deviceModelRef"]["name"]
    assert name.startswith("lamp-model-")
    model = await cloud.object(DEVICES, "devicemodels", "default", name)
    assert [each["name"] for each in model["spec"]["properties"]] == ["temperature", "on"]


async def test_a_device_without_known_properties_needs_a_model_that_somebody_names(
    cloud: CloudCore, edge: Edge
) -> None:
    await apply_model(cloud)
    await tell(edge, a_sensor(properties=()))
    await accept(cloud, seen_by(edge), name="living")
    assert (await verdict(cloud, seen_by(edge)))[:2] == ("", "NothingKnown")
    await accept(cloud, seen_by(edge), name="living", model="lamp-model")
    assert (await verdict(cloud, seen_by(edge), reason="Accepted"))[0] == "default/living"
    device = await cloud.object(DEVICES, "devices", "default", "living")
    assert [each["name"] for each in device["spec"]["properties"]] == ["on", "level", "temp"]


async def test_a_name_that_is_taken_and_a_namespace_that_is_not_there_are_told(
    cloud: CloudCore, edge: Edge
) -> None:
    await apply_model(cloud)
    await apply_device(cloud, a_device())
    await tell(edge, a_sensor())
    await accept(cloud, seen_by(edge), name="lamp")
    assert (await verdict(cloud, seen_by(edge)))[:2] == ("", "NameTaken")
    await accept(cloud, seen_by(edge), name="lamp", namespace="nowhere")
    accepted, _, message = await verdict(cloud, seen_by(edge), reason="Refused")
    assert accepted == ""
    assert "nowhere" in message


async def test_a_device_that_is_there_already_shows_as_accepted(
    cloud: CloudCore, edge: Edge
) -> None:
    device: Any = a_device("known", edge.node)
    device["spec"]["protocol"] = {
        "protocolName": "bluetooth",
        "configData": {"address": "a4:c1:38:00:00:01", "timeout": 5},
    }
    await apply_model(cloud)
    await apply_device(cloud, device)
    await tell(edge, a_sensor())
    assert (await verdict(cloud, seen_by(edge)))[0] == "default/known"


async def test_a_device_that_was_deleted_is_not_made_again_unless_somebody_asks_anew(
    cloud: CloudCore, edge: Edge
) -> None:
    await tell(edge, a_sensor())
    await accept(cloud, seen_by(edge), name="living")
    await verdict(cloud, seen_by(edge))
    await cloud.kube.delete(DEVICES, "devices", "default", "living")
    assert (await verdict(cloud, seen_by(edge), reason="DeviceDeleted"))[0] == ""
    await accept(cloud, seen_by(edge), name="living2")
    assert (await verdict(cloud, seen_by(edge), reason="Accepted"))[0] == "default/living2"


async def test_a_restart_in_the_middle_ends_with_one_device(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as first,
        an_edge(first, "edge-1", await join(first, "edge-1")) as edge,
    ):
        await edge.register()
        await tell(edge, a_sensor())
        await status(first, seen_by(edge))
    async with a_cloud(tmp_path, cloudcore=False) as api:
        await api.kube.patch(
            DISCOVERED, PLURAL, None, seen_by(edge), {"spec": {"accept": {"name": "living"}}}
        )
        device: Any = a_device("living")
        device["metadata"]["annotations"] = {"twinspan.io/discovered": seen_by(edge)}
        device["spec"]["protocol"] = {"protocolName": "bluetooth"}
        await apply_device(api, device)
    async with a_cloud(tmp_path) as second:
        assert (await verdict(second, seen_by(edge)))[0] == "default/living"
        await asyncio.sleep(0)
        assert len((await second.kube.list(DEVICES, "devices")).items) == 1


async def test_what_a_node_saw_goes_with_the_node(cloud: CloudCore) -> None:
    async with an_edge(cloud, "leaving", await join(cloud, "leaving")) as edge:
        await edge.register()
        await tell(edge, a_sensor())
        await status(cloud, seen_by(edge))
    await cloud.kube.delete("v1", "nodes", None, "leaving")

    async def is_gone() -> bool:
        return await found(cloud, seen_by(edge)) is None

    await eventually(is_gone)
