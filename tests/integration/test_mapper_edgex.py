"""EdgeX Foundry's devices: Debian's mosquitto is the bus, paho a device service, aiohttp core-command."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from edge.mappers.driver import DeviceUnreachable, Quality
from edge.mappers.edgex.events import read_event
from edge.mappers.edgex.family import EdgexFamily, make_edgex
from edge.mappers.family import Family
from gateway.errors import BadRequest, GatewayError, InvalidSetting, NotBuilt, Rejected
from gateway.wire.mqtt.packets import Publish
from tests.family_rig import World, a_family, bound, eventually, prop, read_until
from tests.mqtt_peers import mosquitto, paho_client

ORIGIN = 1_767_323_045_678_000_000
TOPIC = "edgex/events/device/device-virtual/Sensor/Boiler-1/all"


def a_reading(name: str, kind: str, value: Any = None, **more: Any) -> dict[str, Any]:
    said = {} if value is None else {"value": value}
    return {
        "id": "82eb2e26-0f24-48aa-ae4c-de9dac3fb9bc",
        "origin": ORIGIN,
        "deviceName": "Boiler-1",
        "resourceName": name,
        "profileName": "Sensor",
        "valueType": kind,
        **said,
        **more,
    }


def an_event(*readings: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v3",
        "id": "d5471d59-2810-419a-8744-18eb8fa03465",
        "deviceName": "Boiler-1",
        "profileName": "Sensor",
        "sourceName": "all",
        "origin": ORIGIN,
        "readings": list(readings),
        **more,
    }


def an_envelope(payload: Any, kind: str = "application/json") -> bytes:
    return json.dumps(
        {
            "apiVersion": "v3",
            "receivedTopic": "",
            "correlationID": "14a42ea6-c394-41c3-8bcd-a29b9f5e6835",
            "requestID": "",
            "errorCode": 0,
            "contentType": kind,
            "payload": payload,
        }
    ).encode()


def a_request(event: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v3", "requestId": "a-b", "event": event}


def in_base64(document: Any) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


TEMP = a_reading("Temp", "Float64", "2.150000e+01")


@pytest.mark.parametrize(
    "message",
    [
        an_envelope(in_base64(a_request(an_event(TEMP)))),
        an_envelope(in_base64(an_event(TEMP))),
        an_envelope(a_request(an_event(TEMP))),
        an_envelope(json.dumps(a_request(an_event(TEMP)))),
        json.dumps(a_request(an_event(TEMP))).encode(),
        json.dumps(an_event(TEMP)).encode(),
        an_envelope(
            an_event(
                {"valueType": "Float64", "value": "2.150000e+01", "origin": 0}, sourceName="Temp"
            )
        ),
    ],
    ids=["v3", "v2", "v4", "text", "request", "bare", "optimised"],
)
def test_every_form_of_an_event_is_read(message: bytes) -> None:
    event = read_event(message)
    assert (event.device, event.profile) == ("Boiler-1", "Sensor")
    (reading,) = event.readings
    assert (reading.resource, reading.value, reading.origin) == ("Temp", "2.150000e+01", ORIGIN)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"", BadRequest),
        (b"[]", BadRequest),
        (b"\xff", BadRequest),
        (b"[" * 100_000, BadRequest),
        (an_envelope("!!"), BadRequest),
        (an_envelope(7), BadRequest),
        (an_envelope(an_event(deviceName="")), BadRequest),
        (an_envelope(an_event(readings={})), BadRequest),
        (an_envelope(an_event(readings=[{}] * 501)), BadRequest),
        (b"x" * 2_000_000, BadRequest),
        (an_envelope("AAAA", "application/cbor"), NotBuilt),
    ],
    ids=range(11),
)
def test_what_is_no_event_is_refused(message: bytes, kind: type[GatewayError]) -> None:
    with pytest.raises(kind):
        read_event(message)


@asynccontextmanager
async def on_a_bus(folder: Path) -> AsyncIterator[tuple[Family, World, str]]:
    async with mosquitto() as address:
        world = World(folder, {"broker": address})
        async with a_family(make_edgex, world) as family:
            assert isinstance(family, EdgexFamily)
            await eventually(lambda: family.is_up, what="the bus")
            yield family, world, address


async def test_events_become_readings_and_devices_are_offered(tmp_path: Path) -> None:
    async with on_a_bus(tmp_path) as (family, world, address), paho_client(address) as service:
        driver = family.driver(
            *bound(
                "edgex",
                {"deviceName": "Boiler-1", "staleAfter": 60},
                prop("temperature", "DOUBLE", resourceName="Temp"),
                prop("On", "BOOLEAN"),
                prop("Count", "INT"),
                prop("Raw", "BYTES"),
                prop("List", "STRING"),
                prop("Thing", "STRING"),
                prop("Null", "INT"),
                prop("Big", "INT"),
                prop("Odd", "FLOAT"),
            )
        )
        woken: list[int] = []
        driver.subscribe(lambda: woken.append(1))
        await driver.connect()
        event = an_event(
            TEMP,
            a_reading("On", "Bool", "true"),
            a_reading("Count", "Uint16", "65535", units="1/min"),
            a_reading("Raw", "Binary", binaryValue="AQI=", mediaType="application/octet-stream"),
            a_reading("List", "Int8Array", "[1, 2]"),
            a_reading("Thing", "Object", objectValue={"a": 1}),
            a_reading("Null", "Int8", value=None),
            a_reading("Big", "Uint64", str(2**64 - 1)),
            a_reading("Odd", "Float32", "NaN"),
        )
        service.client.publish(TOPIC, b"{garbage")
        service.client.publish(TOPIC, an_envelope(in_base64(a_request(event))))
        reading = await read_until(driver, "temperature", lambda _: True)
        assert (reading.text, reading.quality) == ("21.5", Quality.GOOD)
        assert reading.at == ORIGIN // 1_000_000
        readings = await driver.read(["On", "Count", "Raw", "List", "Thing", "Null", "Big", "Odd"])
        assert [readings[n].text for n in ("On", "Count", "Raw", "List", "Thing")] == [
            "true", "65535", "AQI=", "[1, 2]", '{"a":1}',
        ]  # fmt: skip
        assert {readings[n].quality for n in ("Null", "Big", "Odd")} == {Quality.BAD}
        assert woken
        seen = world.seen["Boiler-1"]
        types = {each.name: each.type for each in seen.properties}
        assert (types["Temp"], types["Count"], types["List"]) == ("DOUBLE", "INT", "STRING")
        assert (seen.config, seen.model) == ({"deviceName": "Boiler-1"}, "Sensor")
        assert family.facts()["malformed"] == 1
        world.now += 61_000
        assert (await driver.read(["On"]))["On"].quality is Quality.UNCERTAIN
        await driver.close()


async def test_thousands_of_events_wake_the_reader_once(tmp_path: Path) -> None:
    async with on_a_bus(tmp_path) as (family, world, address), paho_client(address) as service:
        driver = family.driver(*bound("edgex", {"deviceName": "Boiler-1"}, prop("n", "INT")))
        woken: list[int] = []
        await driver.connect()
        driver.subscribe(lambda: woken.append(1))
        for number in range(3_000):
            event = an_event(a_reading("n", "Int32", str(number)))
            service.client.publish(TOPIC, an_envelope(event))
        await eventually(lambda: family.facts()["events"] == 3_000, what="all events")
        assert len(woken) == 1
        assert (await driver.read(["n"]))["n"].text == "2999"
        assert world.counts == {"taken": 1, "coalesced": 2_999}
        await driver.close()


async def test_a_bus_that_goes_makes_its_devices_unreachable(tmp_path: Path) -> None:
    async with on_a_bus(tmp_path) as (family, _, _address):
        driver = family.driver(*bound("edgex", {"deviceName": "Boiler-1"}, prop("n", "INT")))
        await driver.connect()
        assert await driver.read(["n"]) == {}
        lost = asyncio.Event()
        driver.subscribe(lost.set)
        assert isinstance(family, EdgexFamily)
        client: Any = family._client
        client._link.abort()
        await asyncio.wait_for(lost.wait(), 10)
        with pytest.raises(DeviceUnreachable):
            await driver.read(["n"])
        await driver.close()


async def test_values_are_written_through_core_command(tmp_path: Path) -> None:
    asked: list[tuple[str, str, Any, str]] = []

    async def core_command(request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "")
        asked.append((request.method, request.raw_path, await request.json(), token))
        status = 423 if "Locked" in request.path else 200
        return web.json_response({"apiVersion": "v3", "statusCode": status}, status=status)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", core_command)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "jwt").write_text("abc")
    config = {
        "deviceName": "Boiler 1",
        "commandUrl": f"http://127.0.0.1:{runner.addresses[0][1]}",
        "tokenFile": "jwt",
    }
    async with on_a_bus(tmp_path) as (family, _, _address):
        driver = family.driver(
            *bound(
                "edgex",
                config,
                prop("target", "FLOAT", resourceName="Target", commandName="SetTarget"),
                prop("Locked", "INT"),
            )
        )
        await driver.connect()
        await driver.write("target", "21.5")
        assert asked == [
            ("PUT", "/api/v3/device/name/Boiler%201/SetTarget", {"Target": "21.5"}, "Bearer abc")
        ]
        with pytest.raises(Rejected, match="HTTP 423"):
            await driver.write("Locked", "1")
        with pytest.raises(BadRequest):
            await driver.write("target", "warm")
        await driver.close()
        silent = family.driver(*bound("edgex", {"deviceName": "B"}, prop("n", "INT")))
        with pytest.raises(Rejected, match="no commandUrl"):
            await silent.write("n", "1")
        for wrong in ({}, {"deviceName": "B", "commandUrl": "ftp://x"}):
            with pytest.raises(Rejected):
                family.driver(*bound("edgex", wrong, prop("n", "INT")))
    await runner.cleanup()


async def test_a_bus_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"edge\.mappers\.edgex\.broker is not set"):
        async with a_family(make_edgex, World(tmp_path)):
            pass


def test_made_up_devices_and_resources_are_offered_within_limits(tmp_path: Path) -> None:
    world = World(tmp_path, {"broker": "127.0.0.1:1"})
    family = EdgexFamily(world.around)
    for device in range(250):
        readings = [
            {"resourceName": f"r{n}", "valueType": "Int32", "value": "1", "units": 99 * "u"}
            for n in range(150)
        ]
        event = {"deviceName": f"d{device}", "sourceName": "s", "readings": readings}
        family._heard(Publish(topic="x", payload=msgspec.json.encode(event)), lambda _: None)
    sizes = [len(each.properties) for each in world.seen.values()]
    assert max(sizes) == 100
    assert sum(sizes) == 20_000
    assert world.seen["d0"].properties[0].unit == 32 * "u"
