"""CoAP devices: aiocoap's own server is the device."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiocoap import Context, Message, resource
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import Type

from edge.mappers.coap.family import make_coap
from edge.mappers.coap.places import records, resources
from edge.mappers.driver import DeviceUnreachable, Quality, TellsFaults
from edge.mappers.family import Family, TakesOrders
from gateway.errors import BadRequest, GatewayError, InvalidSetting, NotFound, Rejected
from tests.family_rig import World, a_family, bound, eventually, prop, read_until
from tests.ports import free_port

SENML = (
    b'[{"bn":"urn:dev:1/","bt":1767323045,"n":"temp","u":"Cel","v":21.5},'
    b'{"n":"open","vb":true},{"n":"name","vs":"s1"}]'
)


class Fixed(resource.Resource):  # type: ignore[misc]
    """A resource of one payload."""

    def __init__(self, payload: bytes, form: int | None = None) -> None:
        super().__init__()
        self.payload, self.form = payload, form

    async def render_get(self, _request: Any) -> Message:
        message = Message(payload=self.payload)
        if self.form is not None:
            message.opt.content_format = self.form
        return message


class Knob(resource.ObservableResource):  # type: ignore[misc]
    """A resource that can be observed and set; 13 is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.value = b"1"
        self.asked = 0

    def turn(self, value: bytes) -> None:
        self.value = value
        self.updated_state()

    async def render_get(self, _request: Any) -> Message:
        self.asked += 1
        return Message(payload=self.value)

    async def render_put(self, request: Any) -> Message:
        if request.payload == b"13":
            return Message(code=Code.FORBIDDEN)
        self.turn(request.payload)
        return Message(code=Code.CHANGED)


class Device:
    def __init__(self) -> None:
        self.knob = Knob()
        self.site = resource.Site()
        add = self.site.add_resource
        add([".well-known", "core"], resource.WKCResource(self.site.get_resources_as_linkheader))
        add(["knob"], self.knob)
        add(["text"], Fixed(b" 17 "))
        add(["json"], Fixed(b'{"t": {"v": 21.5}, "json": 3, "nan": "NaN"}', 50))
        add(["senml"], Fixed(SENML, 110))
        add(["octets"], Fixed(b"\1\2", 42))
        add(["cbor"], Fixed(b"\x01", 60))
        add(["long"], Fixed(b"x" * 500))
        add(["huge"], Fixed(b"x" * 70_000))
        add(["broken"], Fixed(b"{", 50))


@asynccontextmanager
async def a_server(device: Device) -> AsyncIterator[str]:
    port = free_port()
    context = await Context.create_server_context(
        device.site, bind=("127.0.0.1", port), transports=["simplesocketserver"]
    )
    try:
        yield f"coap://127.0.0.1:{port}"
    finally:
        await context.shutdown()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def family(world: World) -> AsyncIterator[Family]:
    async with a_family(make_coap, world) as running:
        yield running


async def test_resources_of_every_format_are_read(family: Family) -> None:
    async with a_server(Device()) as url:
        driver = family.driver(
            *bound(
                "coap",
                {"url": url},
                prop("text", "INT", path="/text"),
                prop("inner", "FLOAT", path="/json", jsonPath="$.t.v"),
                prop("json", "INT", path="/json"),
                prop("nan", "FLOAT", path="/json"),
                prop("temp", "FLOAT", path="/senml"),
                prop("open", "BOOLEAN", path="/senml"),
                prop("who", "STRING", path="/senml", senmlName="name"),
                prop("octets", "BYTES", path="/octets"),
                prop("long", "STRING", path="/long"),
                prop("huge", "STRING", path="/huge"),
                prop("cbor", "INT", path="/cbor"),
                prop("broken", "INT", path="/broken"),
                prop("gone", "INT", path="/gone"),
                prop("away", "INT", path="coap://other/x"),
            )
        )
        await driver.connect()
        names = "text inner json nan temp open who octets long huge cbor broken gone".split()  # noqa: SIM905
        readings = await driver.read(names)
        good = {n: r.text for n, r in readings.items() if r.quality is Quality.GOOD}
        assert good.pop("long") == "x" * 500
        assert good == {
            "text": "17",
            "inner": "21.5",
            "json": "3",
            "temp": "21.5",
            "open": "true",
            "who": "s1",
            "octets": "AQI=",
        }
        assert readings["temp"].at == 1_767_323_045_000
        whys = {n: r.why for n, r in readings.items() if r.quality is Quality.BAD}
        for name, said in (
            ("nan", "finite"),
            ("huge", "65536"),
            ("cbor", "CBOR is not built"),
            ("broken", "no JSON"),
            ("gone", "4.04"),
        ):
            assert said in whys.pop(name)
        assert not whys
        assert isinstance(driver, TellsFaults)
        assert set(driver.faults()) == {"away"}
        await driver.close()


async def test_a_machine_without_ipv6_reads_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Context.create_client_context

    async def without(*, transports: list[str]) -> Any:
        if "udp6" in transports:
            raise OSError(97, "Address family not supported by protocol")
        return await make(transports=transports)

    monkeypatch.setattr(Context, "create_client_context", without)
    async with a_server(Device()) as url, a_family(make_coap, world) as family:
        driver = family.driver(*bound("coap", {"url": url}, prop("text", "INT", path="/text")))
        await driver.connect()
        assert (await driver.read(["text"]))["text"].text == "17"
        await driver.close()


async def test_an_observed_resource_is_heard_and_written(family: Family) -> None:
    device = Device()
    async with a_server(device) as url:
        driver = family.driver(
            *bound("coap", {"url": url}, prop("knob", "INT", path="/knob", observe=True))
        )
        woken: list[int] = []
        driver.subscribe(lambda: woken.append(1))
        await driver.connect()
        await read_until(driver, "knob", lambda r: r.text == "1")
        asked = device.knob.asked
        device.knob.turn(b"5")
        await read_until(driver, "knob", lambda r: r.text == "5")
        await driver.write("knob", "7")
        await read_until(driver, "knob", lambda r: r.text == "7")
        assert device.knob.asked == asked + 2, "one state for each change, and no polls"
        device.knob.turn(b"warm")
        reading = await read_until(driver, "knob", lambda r: r.quality is Quality.BAD)
        assert "integer" in reading.why
        with pytest.raises(Rejected, match=r"4\.03"):
            await driver.write("knob", "13")
        assert len(woken) >= 2
        await driver.close()


async def test_an_observation_is_renewed_and_its_device_gone_is_unreachable(family: Family) -> None:
    device = Device()
    quick = {"ackTimeout": 0.05, "maxRetransmit": 0, "timeout": 0.5, "observeRefresh": 0.1}
    async with a_server(device) as url:
        driver = family.driver(
            *bound("coap", {"url": url, **quick}, prop("knob", "INT", path="/knob", observe=True))
        )
        await driver.connect()
        await eventually(lambda: device.knob.asked >= 4, what="a renewal")
    for _ in range(500):
        try:
            await driver.read(["knob"])
        except DeviceUnreachable:
            break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError("nobody noticed")
    with pytest.raises(DeviceUnreachable):
        await driver.connect()
    await driver.close()


async def test_a_device_that_never_answers_is_unreachable(family: Family) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"coap://127.0.0.1:{silent.getsockname()[1]}"
        config = {"url": url, "ackTimeout": 0.03, "maxRetransmit": 1, "timeout": 0.3}
        driver = family.driver(*bound("coap", config, prop("text", "INT", path="/text")))
        with pytest.raises(DeviceUnreachable):
            await driver.connect()
        await driver.close()


class Endless(asyncio.DatagramProtocol):
    """A server whose answers come in blocks without end; `after` how many plain ones."""

    def __init__(self, after: int) -> None:
        self.plain = after
        self.asked = 0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        asked = Message.decode(data)
        self.asked += 1
        block = asked.opt.block2.block_number if asked.opt.block2 is not None else 0
        if not block and self.plain:
            self.plain -= 1
            self._say(asked, source, Message(code=Code.CONTENT, payload=b"5"))
            return
        answer = Message(code=Code.CONTENT, payload=1_024 * b"x")
        answer.opt.block2 = (block, True, 6)
        self._say(asked, source, answer)

    def _say(self, asked: Any, source: tuple[str, int], answer: Any) -> None:
        answer.mtype, answer.mid, answer.token = Type.ACK, asked.mid, asked.token
        self._transport.sendto(answer.encode(), source)


async def test_an_answer_without_end_is_given_up(family: Family) -> None:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: Endless(after=1), ("127.0.0.1", 0)
    )
    url = f"coap://127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    driver = family.driver(*bound("coap", {"url": url}, prop("v", "STRING", path="/v")))
    await driver.connect()
    reading = (await driver.read(["v"]))["v"]
    assert (reading.quality, reading.text) == (Quality.BAD, "")
    assert "at most 65536 bytes" in reading.why
    assert server.asked < 70
    await driver.close()
    transport.close()


async def test_resources_are_offered_by_order(family: Family, world: World) -> None:
    assert isinstance(family, TakesOrders)
    async with a_server(Device()) as url:
        told = await family.order("discover", {"url": url})
        seen = world.seen[url]
        visitors = {each.name: each.visitor for each in seen.properties}
        assert visitors["knob"] == {"path": "/knob", "observe": True}
        assert visitors["text"] == {"path": "/text"}
        assert told == {"address": url, "found": len(visitors)}
    with pytest.raises(NotFound):
        await family.order("dance", {})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "url is missing"),
        ({"url": "http://x/"}, "coap://"),
        ({"url": "coaps://x/"}, "coaps is not built"),
        ({"url": "coap://u@x/"}, "coap://"),
        ({"url": "coap://x/", "ackTimeout": 60}, "ackTimeout"),
    ],
)
async def test_a_device_that_cannot_be_is_refused(
    family: Family, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(GatewayError, match=said):
        family.driver(*bound("coap", config, prop("text")))


def test_links_that_are_odd_are_left_out() -> None:
    found = resources('</a>;rt="x,y";obs,</b/c>;ct=50,<http://x>,</.well-known/core>;ct=40,</d')
    assert [(each.path, each.attributes) for each in found] == [
        ("/a", {"rt": "x,y", "obs": ""}),
        ("/b/c", {"ct": "50"}),
    ]
    assert resources("<" * 60_000) == []


def test_a_senml_pack_is_resolved_and_an_odd_one_refused() -> None:
    pack = records([{"bn": "a/", "bv": 20, "n": "t", "v": 1.5}, {"n": "u", "t": 5, "vs": "x"}, {}])
    assert [(r.name, r.value, r.at) for r in pack] == [("a/t", 21.5, 0), ("a/u", "x", 0)]
    odds: list[Any] = [{}, [1], [{}] * 1_001]
    for odd in odds:
        with pytest.raises(BadRequest):
            records(odd)


def test_without_the_library_the_fault_says_what_to_install(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "edge.mappers.coap.client", None)
    with pytest.raises(InvalidSetting, match=r"twinspan\[coap\]"):
        make_coap(world.around)


def test_a_library_whose_answers_cannot_be_limited_is_not_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    aiocoap: Any = pytest.importorskip("aiocoap")
    make_coap(world.around)
    made = aiocoap.Message._append_response_block
    make_coap(world.around)
    assert aiocoap.Message._append_response_block is made  # one limit is enough
    monkeypatch.delattr(aiocoap.Message, "_append_response_block")
    with pytest.raises(InvalidSetting, match="any length"):
        make_coap(world.around)
