"""OPC UA devices: asyncua's own server is the machine."""

from __future__ import annotations

import asyncio
import datetime
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.crypto.permission_rules import SimpleRoleRuleset, User, UserRole
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager

from edge.mappers.driver import DeviceUnreachable, Quality, TellsFaults
from edge.mappers.family import Family, TakesOrders
from edge.mappers.opcua.addresses import server_of
from edge.mappers.opcua.certificates import Certificates
from edge.mappers.opcua.family import make_opcua
from gateway.errors import BadRequest, InvalidSetting, NotFound, Rejected
from tests.family_rig import World, a_family, bound, prop, read_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = SimpleRoleRuleset()  # type: ignore[no-untyped-call]
URI = "urn:acme:pumps"
KINDS = {
    "Temp": ua.VariantType.Double,
    "Speed": ua.VariantType.Int16,
    "On": ua.VariantType.Boolean,
    "Label": ua.VariantType.String,
    "Raw": ua.VariantType.ByteString,
}
FIRST = {"Temp": 21.5, "Speed": 7, "On": True, "Label": "P1", "Raw": b"\1\2"}
WHEN = datetime.datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=datetime.UTC)


class Gate(UserManager):
    """Lets `fitter` with `wrench` in."""

    def get_user(
        self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None
    ) -> User | None:
        if username is None:
            return User(role=UserRole.User)
        is_ours = (username, password) == ("fitter", "wrench")
        return User(role=UserRole.Admin) if is_ours else None


class Machine:
    """A server and its nodes."""

    def __init__(self, server: Server, url: str) -> None:
        self.server = server
        self.url = url
        self.nodes: dict[str, Any] = {}

    async def fill(self) -> None:
        await self.server.register_namespace("urn:acme:other")
        at = ua.Int16(await self.server.register_namespace(URI))
        pump = await self.server.nodes.objects.add_object(
            ua.NodeId(ua.String("Pump"), at), ua.QualifiedName("Pump", at)
        )
        for name, kind in KINDS.items():
            node_id = ua.NodeId(ua.String(f"Pump.{name}"), at)
            node = await pump.add_variable(node_id, ua.QualifiedName(name, at), FIRST[name], kind)
            if name != "Temp":
                await node.set_writable()
            self.nodes[name] = node

    async def say(self, name: str, value: Any, status: int = 0) -> None:
        node = self.nodes[name]
        kind = await node.read_data_type_as_variant_type()
        when: Any = WHEN.replace(tzinfo=None)
        data = ua.DataValue(
            ua.Variant(value, kind),
            ua.StatusCode(ua.UInt32(status)),
            SourceTimestamp=when,
        )
        await self.server.write_attribute_value(node.nodeid, data)


@asynccontextmanager
async def a_machine(port: int = 0, folder: Path | None = None) -> AsyncIterator[Machine]:
    server = Server(user_manager=Gate())
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/pumps")
    policies = [ua.SecurityPolicyType.NoSecurity]
    if folder is not None:
        made = Certificates(folder).own(server_of_nothing())
        await server.load_certificate(str(made.certificate))
        await server.load_private_key(str(made.private_key))
        await server.set_application_uri(made.application_uri)
        policies.append(ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt)
    server.set_security_policy(policies, permission_ruleset=RULES)
    machine = Machine(server, "")
    await machine.fill()
    async with server:
        listening: Any = server.bserver
        port = listening._server.sockets[0].getsockname()[1]
        machine.url = f"opc.tcp://127.0.0.1:{port}/pumps"
        yield machine


def server_of_nothing() -> Any:
    from edge.mappers.configdata import ConfigData

    return server_of(ConfigData("c", {"url": "opc.tcp://127.0.0.1:1/"}), "")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Machine]:
    async with a_machine() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def machine(shared: Machine) -> Machine:
    """The module's server with its first values."""
    for name, value in FIRST.items():
        await shared.say(name, value)
    return shared


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest_asyncio.fixture(loop_scope="module")
async def family(world: World) -> AsyncIterator[Family]:
    async with a_family(make_opcua, world) as running:
        yield running


def node(name: str, kind: str, of: str = "", **more: Any) -> dict[str, Any]:
    return prop(name, kind, nodeID=f"nsu={URI};s=Pump.{of or name}", **more)


def config(machine: Machine, **more: Any) -> dict[str, Any]:
    return {"url": machine.url, "publishingInterval": 50, **more}


async def test_nodes_are_heard_with_their_time_and_quality_and_written_by_type(
    family: Family, world: World, machine: Machine
) -> None:
    driver = family.driver(
        *bound(
            "opcua",
            config(machine),
            node("Temp", "FLOAT"),
            node("Speed", "INT"),
            node("On", "BOOLEAN"),
            node("Label", "STRING"),
            node("Raw", "BYTES"),
            prop("byPath", "DOUBLE", browsePath="3:Pump/3:Temp"),
            prop("byIndex", "INT", nodeID="ns=3;s=Pump.Speed"),
        )
    )
    woken = asyncio.Event()
    driver.subscribe(woken.set)
    await driver.connect()
    for name, text in (
        ("Temp", "21.5"), ("Speed", "7"), ("On", "true"), ("Label", "P1"), ("Raw", "AQI="),
        ("byPath", "21.5"), ("byIndex", "7"),
    ):  # fmt: skip
        reading = await read_until(driver, name, lambda _: True)
        assert (reading.text, reading.quality) == (text, Quality.GOOD)
    await machine.say("Temp", 22.25)
    reading = await read_until(driver, "Temp", lambda r: r.text == "22.25")
    assert reading.at == int(WHEN.timestamp() * 1_000)
    await machine.say("Temp", 23.0, ua.status_codes.StatusCodes.UncertainLastUsableValue)
    reading = await read_until(driver, "Temp", lambda r: r.quality is Quality.UNCERTAIN)
    assert (reading.text, reading.why) == ("23", "UncertainLastUsableValue")
    await machine.say("Temp", 0.0, ua.status_codes.StatusCodes.BadSensorFailure)
    reading = await read_until(driver, "Temp", lambda r: r.quality is Quality.BAD)
    assert reading.why == "BadSensorFailure"
    await machine.say("Temp", float("nan"))
    reading = await read_until(driver, "Temp", lambda r: "finite" in r.why)
    assert reading.quality is Quality.BAD
    for name, text in (("Speed", "-8"), ("On", "false"), ("Label", "ä"), ("Raw", "/w==")):
        await driver.write(name, text)
        await read_until(driver, name, lambda r, text=text: r.text == text)  # type: ignore[misc]
    assert await machine.nodes["Speed"].read_value() == -8
    for name, text, said in (
        ("Speed", "40000", "no Int16"),
        ("Temp", "1", "BadUserAccessDenied|BadNotWritable"),
    ):
        with pytest.raises(Rejected, match=said):
            await driver.write(name, text)
    assert woken.is_set()
    assert world.counts["taken"]
    await driver.close()
    assert family.facts() == {}


async def test_a_node_that_is_not_there_fails_nobody_else(family: Family, machine: Machine) -> None:
    driver = family.driver(
        *bound(
            "opcua",
            config(machine),
            node("Speed", "INT"),
            node("Ghost", "INT"),
            prop("elsewhere", "INT", nodeID="nsu=urn:nobody;s=x"),
            prop("lostPath", "INT", browsePath="3:Pump/3:Nothing"),
            prop("wrong", "INT", nodeID="Pump.Speed"),
        )
    )
    await driver.connect()
    assert (await read_until(driver, "Speed", lambda _: True)).text == "7"
    readings = await driver.read(["Ghost", "elsewhere", "lostPath"])
    assert {r.quality for r in readings.values()} == {Quality.BAD}
    assert "BadNodeIdUnknown" in readings["Ghost"].why
    assert "no namespace urn:nobody" in readings["elsewhere"].why
    assert "BadNoMatch" in readings["lostPath"].why
    assert isinstance(driver, TellsFaults)
    assert set(driver.faults()) == {"Ghost", "elsewhere", "lostPath", "wrong"}
    await driver.close()


async def test_devices_share_a_session_and_all_come_back_after_the_server(family: Family) -> None:
    async with a_machine() as machine:
        port = int(machine.url.split(":")[2].split("/")[0])
        drivers = [
            family.driver(*bound("opcua", config(machine), node("Speed", "INT"), name=name))
            for name in ("d1", "d2")
        ]
        for driver in drivers:
            await driver.connect()
            await read_until(driver, "Speed", lambda _: True)
        facts = family.facts()[machine.url]
        assert isinstance(facts, dict)
        assert (facts["open"], facts["devices"]) == (True, 2)
    for driver in drivers:
        await _until_unreachable(driver)
        await driver.close()
    with pytest.raises(DeviceUnreachable):
        await drivers[0].connect()
    await drivers[0].close()
    async with a_machine(port) as machine:
        again = family.driver(*bound("opcua", config(machine), node("Speed", "INT")))
        await again.connect()
        await machine.say("Speed", 9)
        await read_until(again, "Speed", lambda r: r.text == "9")
        await again.close()


async def _until_unreachable(driver: Any) -> None:
    for _ in range(500):
        try:
            await driver.read(["Speed"])
        except DeviceUnreachable:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the driver never noticed")


async def test_signed_and_encrypted_with_a_certificate_of_our_own_making(
    family: Family, world: World, tmp_path: Path
) -> None:
    (tmp_path / "machine").mkdir()
    async with a_machine(folder=tmp_path / "machine") as machine:
        secrets = tmp_path / "secrets"
        secrets.mkdir()
        (secrets / "pump").write_text("wrench\n")
        safe = config(
            machine,
            securityPolicy="Basic256Sha256",
            securityMode="SignAndEncrypt",
            userName="fitter",
            passwordFile="pump",
        )
        driver = family.driver(*bound("opcua", safe, node("Speed", "INT")))
        await driver.connect()
        assert (await read_until(driver, "Speed", lambda _: True)).text == "7"
        await driver.write("Speed", "8")
        await read_until(driver, "Speed", lambda r: r.text == "8")
        assert (tmp_path / "client.pem").stat().st_mode & 0o777 == 0o600
        assert len(list((tmp_path / "servers").iterdir())) == 1
        await driver.close()
        (secrets / "pump").write_text("hammer")
        wrong = family.driver(*bound("opcua", safe, node("Speed", "INT")))
        with pytest.raises(Rejected, match=r"BadUserAccessDenied|BadIdentityToken") as refused:
            await wrong.connect()
        assert "hammer" not in str(refused.value)
        await wrong.close()
        known = next((tmp_path / "servers").iterdir())
        known.write_bytes(b"another")
        stranger = family.driver(*bound("opcua", safe, node("Speed", "INT")))
        with pytest.raises(Rejected, match="not the one seen first"):
            await stranger.connect()
        await stranger.close()


async def test_a_server_that_takes_all_and_answers_nothing_is_unreachable(family: Family) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            pass
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    slow = {"url": f"opc.tcp://127.0.0.1:{port}/x", "timeout": 0.1}
    driver = family.driver(*bound("opcua", slow, node("Speed", "INT")))
    for _ in range(2):
        with pytest.raises(DeviceUnreachable):
            await driver.connect()
    await driver.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "url is missing"),
        ({"url": "http://x:1"}, "opc.tcp"),
        ({"url": "opc.tcp://u:p@x:1"}, "keys of their own"),
        ({"url": "opc.tcp://x:1", "securityPolicy": "Basic128"}, "securityPolicy"),
        (
            {"url": "opc.tcp://x:1", "securityPolicy": "Basic256Sha256", "securityMode": "None"},
            "both",
        ),
        ({"url": "opc.tcp://x:1", "userName": "u", "password": "p"}, "needs a securityPolicy"),
        ({"url": "opc.tcp://x:1", "passwordFile": "../../etc/shadow"}, "no path"),
        ({"url": "opc.tcp://x:1", "certificate": "/c.der"}, "belong together"),
    ],
)
async def test_a_device_that_cannot_be_is_refused(
    family: Family, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(Rejected, match=said) as refused:
        family.driver(*bound("opcua", config, node("Speed", "INT")))
    assert "p@x" not in str(refused.value)


async def test_variables_are_offered_after_browsing_by_order(
    family: Family, world: World, machine: Machine
) -> None:
    assert isinstance(family, TakesOrders)
    told = await family.order("browse", {"url": machine.url})
    assert told["found"] == 5
    seen = world.seen[machine.url]
    found = {p.name: (p.type, p.access, p.visitor["nodeID"]) for p in seen.properties}
    assert found["Temp"] == ("DOUBLE", "ReadOnly", f"nsu={URI};s=Pump.Temp")
    assert found["Speed"] == ("INT", "ReadWrite", f"nsu={URI};s=Pump.Speed")
    assert seen.config == {"url": machine.url}
    with pytest.raises(BadRequest, match="no variables"):
        await family.order("browse", {"url": machine.url, "nodeID": f"nsu={URI};s=Pump.Temp"})
    with pytest.raises(NotFound):
        await family.order("dance", {})


async def test_without_the_library_the_fault_says_what_to_install(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "edge.mappers.opcua.client", None)
    with pytest.raises(InvalidSetting, match=r"twinspan\[opcua\]"):
        make_opcua(world.around)


async def test_thousands_of_changes_are_few_readings(
    family: Family, world: World, machine: Machine
) -> None:
    driver = family.driver(*bound("opcua", config(machine), node("Speed", "INT")))
    await driver.connect()
    await read_until(driver, "Speed", lambda _: True)
    before = world.counts["taken"] + world.counts["coalesced"]
    for number in range(2_000):
        await machine.say("Speed", number)
    await read_until(driver, "Speed", lambda r: r.text == "1999")
    assert world.counts["taken"] + world.counts["coalesced"] - before < 1_000
    await driver.close()
