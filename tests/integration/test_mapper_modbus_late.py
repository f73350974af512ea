"""Units behind RTU frames that answer too late: what they say never stands for another register."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pymodbus.framer import FramerRTU

from edge.mappers.driver import DeviceUnreachable, Driver
from edge.mappers.modbus.family import make_modbus
from tests.family_rig import World, a_family, bound, prop

LIMIT = 0.1
"""Seconds that a Device says its unit may take."""


async def _answer(
    writer: asyncio.StreamWriter, asked: asyncio.Queue[bytes], seconds: float
) -> None:
    """Answer one request after another; each register holds its own number."""
    while True:
        unit, code, start, count = struct.unpack(">BBHH", await asked.get())
        await asyncio.sleep(seconds)
        values = struct.pack(f">{count}H", *range(start, start + count))
        frame = struct.pack(">BBB", unit, code, len(values)) + values
        writer.write(frame + FramerRTU.compute_CRC(frame).to_bytes(2, "big"))


@asynccontextmanager
async def a_slow_unit(tmp_path: Path, seconds: float) -> AsyncIterator[Driver]:
    answering: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked: asyncio.Queue[bytes] = asyncio.Queue()
        answering.append(asyncio.create_task(_answer(writer, asked, seconds)))
        while len(frame := await reader.read(8)) == 8:
            asked.put_nowait(frame[:6])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    config: dict[str, Any] = {
        "ip": "127.0.0.1",
        "port": server.sockets[0].getsockname()[1],
        "slaveID": 3,
        "communicateMode": "RTUoverTCP",
        "timeout": LIMIT,
    }
    props = [prop(f"p{n}", register="HoldingRegister", offset=n * 50) for n in range(4)]
    async with a_family(make_modbus, World(tmp_path)) as family:
        driver = family.driver(*bound("modbus", config, *props))
        try:
            yield driver
        finally:
            await driver.close()
            for each in answering:
                each.cancel()
            await asyncio.gather(*answering, return_exceptions=True)
            server.close()
            await server.wait_closed()


@pytest.mark.parametrize("late", [1.1, 1.5, 2.4])
async def test_a_late_answer_is_never_taken_for_another_registers(
    tmp_path: Path, late: float
) -> None:
    async with a_slow_unit(tmp_path, late * LIMIT) as driver:
        found: list[tuple[str, str]] = []
        with contextlib.suppress(DeviceUnreachable):
            await driver.connect()
            for name in ("p1", "p2", "p3"):
                found += [(n, each.text) for n, each in (await driver.read([name])).items()]
        assert set(found) <= {("p1", "50"), ("p2", "100"), ("p3", "150")}


async def test_an_answer_to_a_read_that_was_broken_off_is_not_taken_for_the_next(
    tmp_path: Path,
) -> None:
    async with a_slow_unit(tmp_path, 0.5 * LIMIT) as driver:
        await driver.connect()
        broken_off = asyncio.create_task(driver.read(["p0"]))
        await asyncio.sleep(0.2 * LIMIT)
        broken_off.cancel()
        with pytest.raises(asyncio.CancelledError):
            await broken_off
        assert (await driver.read(["p3"]))["p3"].text == "150"
