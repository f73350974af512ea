"""Modbus devices: pymodbus's own servers are the devices, over TCP and over a serial line of two ptys."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymodbus import FramerType, ModbusDeviceIdentification
from pymodbus.constants import ExcCodes
from pymodbus.exceptions import NoSuchIdException
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from edge.mappers.driver import DeviceUnreachable, Quality
from edge.mappers.family import Family, TakesOrders
from edge.mappers.modbus.family import make_modbus
from gateway.errors import InvalidSetting, NotFound, Rejected
from tests.family_rig import World, a_family, bound, eventually, prop

MAKER = ModbusDeviceIdentification(  # type: ignore[no-untyped-call]
    info_name={"VendorName": "Acme", "ProductName": "Meter", "MajorMinorRevision": "1.0"}
)
Asked = list[tuple[int, int, int]]
"""Function code, address and count of each request that a device got."""


def a_unit(unit: int, asked: Asked | None = None, action: Any = None) -> SimDevice:
    """Coils and discrete inputs 0 to 31, holding registers 0 to 99 and 200 to 299, inputs 0 to 9."""

    async def note(code: int, _start: int, address: int, count: int, *_: Any) -> ExcCodes | None:
        if asked is not None:
            asked.append((code, address, count))
        return None

    return SimDevice(
        unit,
        (
            [SimData(0, values=[False] * 32, datatype=DataType.BITS)],
            [SimData(0, values=[True] * 32, datatype=DataType.BITS)],
            [
                SimData(0, values=list(range(100)), datatype=DataType.REGISTERS),
                SimData(200, values=[unit] * 100, datatype=DataType.REGISTERS),
            ],
            [
                SimData(
                    0,
                    values=[0x41AC, 0, 0x7FC0, 0, 7, 8, 9, 10, 11, 12],
                    datatype=DataType.REGISTERS,
                )
            ],
        ),
        action=action or note,
    )


class Bus(dict[int, Any]):
    """The units of a server: it is silent for the others, as a line is."""

    def __missing__(self, unit: int) -> Any:
        raise NoSuchIdException(str(unit))


def on_a_bus(server: ModbusTcpServer | ModbusSerialServer) -> None:
    core: Any = server.context
    core.devices = Bus(core.devices)


@asynccontextmanager
async def a_server(
    *units: SimDevice, port: int = 0, framer: FramerType = FramerType.SOCKET
) -> AsyncIterator[int]:
    server = ModbusTcpServer(
        list(units),
        identity=MAKER,
        address=("127.0.0.1", port),
        framer=framer,
        ignore_missing_devices=True,
    )
    on_a_bus(server)
    await server.serve_forever(background=True)
    try:
        listening: Any = server.transport
        yield listening.sockets[0].getsockname()[1]
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, {"timeout": 0.3})


@pytest.fixture
async def family(world: World) -> AsyncIterator[Family]:
    async with a_family(make_modbus, world) as running:
        yield running


def tcp(port: int, unit: int = 1, **more: Any) -> dict[str, Any]:
    return {"communicateMode": "TCP", "ip": "127.0.0.1", "port": port, "slaveID": unit, **more}


def holding(name: str, offset: int, kind: str = "INT", **more: Any) -> dict[str, Any]:
    return prop(name, kind, register="HoldingRegister", offset=offset, **more)


async def test_a_device_is_read_in_few_requests_and_written(family: Family) -> None:
    asked: Asked = []
    async with a_server(a_unit(1, asked)) as port:
        driver = family.driver(
            *bound(
                "modbus",
                tcp(port),
                holding("a", 3),
                holding("b", 9),
                holding("far", 50),
                holding("flag", 12, "BOOLEAN", bit=2),
                prop("t", "FLOAT", register="InputRegister", offset=0),
                prop("odd", "FLOAT", register="InputRegister", offset=2),
                prop("lamp", "BOOLEAN", register="CoilRegister", offset=4),
                prop("door", "BOOLEAN", register="DiscreteInputRegister", offset=4),
            )
        )
        await driver.connect()
        asked.clear()
        names = ["a", "b", "far", "flag", "t", "odd", "lamp", "door"]
        readings = await driver.read(names)
        texts = {name: reading.text for name, reading in readings.items()}
        assert texts == {
            "a": "3", "b": "9", "far": "50", "flag": "true", "t": "21.5", "odd": "",
            "lamp": "false", "door": "true",
        }  # fmt: skip
        assert readings["odd"].quality is Quality.BAD
        assert "finite" in readings["odd"].why
        assert len(asked) == 5
        for name, text in (("a", "-7"), ("flag", "false"), ("lamp", "true")):
            await driver.write(name, text)
        readings = await driver.read(["a", "flag", "lamp"])
        assert [readings[n].text for n in ("a", "flag", "lamp")] == ["-7", "false", "true"]
        with pytest.raises(Rejected, match="discrete input 4 cannot be written"):
            await driver.write("door", "true")
        await driver.close()


async def test_an_address_that_is_not_there_spoils_its_own_property_alone(family: Family) -> None:
    async with a_server(a_unit(1)) as port:
        driver = family.driver(
            *bound("modbus", tcp(port), holding("a", 99), holding("hole", 101), holding("x", 5))
        )
        await driver.connect()
        for _ in range(2):
            readings = await driver.read(["a", "hole", "x"])
            assert (readings["a"].text, readings["x"].text) == ("99", "5")
            assert readings["hole"].quality is Quality.BAD
            assert readings["hole"].why == (
                "holding register 101 of unit 1: illegal data address (code 2)"
            )
        with pytest.raises(Rejected, match="holding register 101 of unit 1: illegal data address"):
            await driver.write("hole", "1")
        await driver.close()


async def test_a_silent_unit_does_not_stall_its_neighbours(family: Family, world: World) -> None:
    """Unit 9 is on the line, and nobody answers for it."""
    async with a_server(a_unit(1)) as port:
        alive = family.driver(*bound("modbus", tcp(port), holding("a", 3)))
        dead = family.driver(*bound("modbus", tcp(port, 9), holding("a", 3), name="d9"))
        await alive.connect()
        with pytest.raises(DeviceUnreachable, match=r"unit 9 .*no answer in 0\.3 s"):
            await dead.connect()
        line = family.facts()[f"127.0.0.1:{port}"]
        assert isinstance(line, dict)
        assert line["silent"] == "9"
        failures = line["failures"]
        for _ in range(20):
            with pytest.raises(DeviceUnreachable):
                await dead.connect()
            assert (await alive.read(["a"]))["a"].text == "3"
        line = family.facts()[f"127.0.0.1:{port}"]
        assert isinstance(line, dict)
        assert line["failures"] == failures, "the silent unit was left alone"
        assert line["devices"] == 2
        await alive.close()
        await dead.close()
        assert family.facts() == {}


async def test_a_server_that_went_is_unreachable_and_comes_back(family: Family) -> None:
    async with a_server(a_unit(1)) as port:
        driver = family.driver(*bound("modbus", tcp(port), holding("a", 3)))
        await driver.connect()
    with pytest.raises(DeviceUnreachable):
        await driver.read(["a"])
    async with a_server(a_unit(1), port=port):
        await _reads_again(driver)
    await driver.close()


async def _reads_again(driver: Any) -> None:
    for _ in range(200):
        try:
            assert (await driver.read(["a"]))["a"].text == "3"
            return
        except DeviceUnreachable:
            await asyncio.sleep(0.05)
    raise AssertionError("it never came back")


async def test_a_server_that_takes_all_and_answers_nothing_is_left(family: Family) -> None:
    """Half open: the connection stands, answers never come; it is made anew after a few silences."""
    connected = 0

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        while await reader.read(1_000):
            pass
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    drivers = [
        family.driver(*bound("modbus", tcp(port, unit, timeout=0.02), holding("a", 3)))
        for unit in range(1, 7)
    ]
    for driver in drivers:
        with pytest.raises(DeviceUnreachable):
            await driver.connect()
    await eventually(lambda: connected == 2)
    for driver in drivers:
        await driver.close()
    server.close()
    await server.wait_closed()


async def test_garbage_instead_of_answers_is_a_fault_of_the_device(family: Family) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20)
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    driver = family.driver(*bound("modbus", tcp(port, timeout=0.05), holding("a", 3)))
    with pytest.raises(DeviceUnreachable):
        await driver.connect()
    await driver.close()
    server.close()
    await server.wait_closed()


async def test_a_bit_is_changed_also_where_the_device_has_no_mask_write(family: Family) -> None:
    async def old_device(code: int, *_: Any) -> ExcCodes | None:
        return ExcCodes.ILLEGAL_FUNCTION if code == 22 else None

    async with a_server(a_unit(1, action=old_device)) as port:
        driver = family.driver(
            *bound("modbus", tcp(port), holding("all", 12), holding("flag", 12, "BOOLEAN", bit=0))
        )
        await driver.connect()
        await driver.write("flag", "true")
        assert (await driver.read(["all"]))["all"].text == "13"
        await driver.close()


async def test_a_busy_device_says_so_and_a_gateway_without_its_device_is_unreachable(
    family: Family,
) -> None:
    codes = {5: ExcCodes.DEVICE_BUSY, 6: ExcCodes.GATEWAY_NO_RESPONSE}

    async def moody(_code: int, _start: int, address: int, *_: Any) -> ExcCodes | None:
        return codes.get(address)

    async with a_server(a_unit(1, action=moody)) as port:
        busy = family.driver(*bound("modbus", tcp(port), holding("a", 5)))
        await busy.connect()
        reading = (await busy.read(["a"]))["a"]
        assert (reading.quality, "busy" in reading.why) == (Quality.BAD, True)
        gone = family.driver(*bound("modbus", tcp(port), holding("a", 6)))
        with pytest.raises(DeviceUnreachable, match="gateway target did not answer"):
            await gone.connect()
        await busy.close()
        await gone.close()


async def test_properties_that_cannot_be_are_faults_and_the_others_work(family: Family) -> None:
    async with a_server(a_unit(1)) as port:
        driver = family.driver(
            *bound("modbus", tcp(port), holding("a", 3), prop("b", register="Nothing", offset=1))
        )
        await driver.connect()
        assert set(driver.faults()) == {"b"}  # type: ignore[attr-defined]
        assert set(await driver.read(["a", "b"])) == {"a"}
        with pytest.raises(Rejected, match="expected one of"):
            await driver.write("b", "1")
        await driver.close()


async def test_a_line_is_scanned_by_order(family: Family, world: World) -> None:
    assert isinstance(family, TakesOrders)
    async with a_server(a_unit(2), a_unit(5)) as port:
        told = await family.order(
            "scan", {"ip": "127.0.0.1", "port": str(port), "units": "1-6", "timeout": "0.1"}
        )
        assert told == {"asked": 6, "found": [f"127.0.0.1:{port}/2", f"127.0.0.1:{port}/5"]}
        seen = world.seen[f"127.0.0.1:{port}/5"]
        assert seen.config == {
            "communicateMode": "TCP",
            "ip": "127.0.0.1",
            "port": port,
            "slaveID": 5,
        }
        assert (seen.manufacturer, seen.facts["vendor"]) == ("Acme", "Acme")
    with pytest.raises(NotFound):
        await family.order("dance", {})


async def test_rtu_frames_travel_over_tcp(family: Family) -> None:
    async with a_server(a_unit(3), framer=FramerType.RTU) as port:
        config = {**tcp(port, 3), "communicateMode": "RTUoverTCP"}
        driver = family.driver(*bound("modbus", config, holding("a", 200)))
        await driver.connect()
        await driver.write("a", "77")
        assert (await driver.read(["a"]))["a"].text == "77"
        await driver.close()


# --- a serial line ------------------------------------------------------------------------------------


@contextmanager
def a_cable() -> Iterator[tuple[str, str]]:
    """Two ptys whose masters are joined, as a null modem would: the names of both ends."""
    loop = asyncio.get_running_loop()
    ends = [pty.openpty(), pty.openpty()]
    for master, slave in ends:
        tty.setraw(slave)
        os.set_blocking(master, False)

    def carry(source: int, sink: int) -> None:
        os.write(sink, os.read(source, 4_096))

    left, right = ends[0][0], ends[1][0]
    loop.add_reader(left, carry, left, right)
    loop.add_reader(right, carry, right, left)
    try:
        yield os.ttyname(ends[0][1]), os.ttyname(ends[1][1])
    finally:
        loop.remove_reader(left)
        loop.remove_reader(right)
        for master, slave in ends:
            os.close(slave)
            os.close(master)


@asynccontextmanager
async def a_serial_server(path: str, *units: SimDevice) -> AsyncIterator[None]:
    server = ModbusSerialServer(
        list(units), port=path, framer=FramerType.RTU, baudrate=19_200, ignore_missing_devices=True
    )
    on_a_bus(server)
    await server.serve_forever(background=True)
    try:
        yield
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]


def serial(path: str, unit: int, **more: Any) -> dict[str, Any]:
    return {
        "communicateMode": "RTU",
        "serialPort": path,
        "baudRate": "19200",
        "parity": "none",
        "slaveID": unit,
        **more,
    }


async def test_units_of_a_serial_line_take_turns_and_a_dead_one_does_not_eat_it(
    family: Family,
) -> None:
    with a_cable() as (ours, theirs):
        async with a_serial_server(theirs, a_unit(1), a_unit(2)):
            drivers = [
                family.driver(
                    *bound("modbus", serial(ours, unit), holding("a", 200), name=f"d{unit}")
                )
                for unit in (1, 2)
            ]
            dead = family.driver(*bound("modbus", serial(ours, 3), holding("a", 200), name="d3"))
            for driver in drivers:
                await driver.connect()
            with pytest.raises(DeviceUnreachable, match="unit 3"):
                await dead.connect()
            for _ in range(5):
                found = await asyncio.gather(*(driver.read(["a"]) for driver in drivers))
                assert [each["a"].text for each in found] == ["1", "2"]
                with pytest.raises(DeviceUnreachable):
                    await dead.connect()
            await drivers[1].write("a", "42")
            assert (await drivers[1].read(["a"]))["a"].text == "42"
            assert (await drivers[0].read(["a"]))["a"].text == "1"
            facts = family.facts()[ours]
            assert isinstance(facts, dict)
            assert facts["failures"] == 1
            with pytest.raises(Rejected, match="in use with other settings"):
                await family.driver(
                    *bound("modbus", serial(ours, 4, baudRate=9_600), holding("a", 1))
                ).connect()
            for driver in (*drivers, dead):
                await driver.close()


async def test_a_serial_port_that_is_not_there_is_unreachable(family: Family) -> None:
    driver = family.driver(*bound("modbus", serial("/dev/ttyNobody", 1), holding("a", 1)))
    with pytest.raises(DeviceUnreachable, match="ttyNobody"):
        await driver.connect()
    await driver.close()


def test_without_the_library_the_fault_says_what_to_install(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "edge.mappers.modbus.client", None)
    with pytest.raises(InvalidSetting, match=r"twinspan\[modbus\]"):
        make_modbus(world.around)
