"""Modbus, OPC UA, HTTP and CoAP devices: calls a second through the mapper, its memory, and the bare library.

The machines of `tests.machines` work in one process, the mapper's family or the library alone in another. A
call is one poll of the machine's state (Modbus, HTTP, CoAP), or a write (OPC UA, where values come unasked).
Run: `python -m bench.industrial [--calls 1000] [--rounds 3] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.edge_footprint import _resident_mb

PROTOCOLS = ("modbus", "opcua", "http", "coap")
SIDES = ("mapper", "bare")
SIDE_SECONDS = 120.0

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Side:
    """One side's figures: calls a second by the clock and of its CPU time, megabytes resident at the end."""

    calls: float
    calls_per_cpu: float
    megabytes: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Medians over the rounds of one protocol."""

    protocol: str
    mapper: Side
    bare: Side

    @property
    def ratio(self) -> float:
        """Of calls in a second of CPU time: other work on the machine does not change it."""
        return self.mapper.calls_per_cpu / self.bare.calls_per_cpu


async def measure(calls: int, rounds: int) -> list[Comparison]:
    """Measure all protocols, both sides in turns."""
    found: dict[tuple[str, str], list[Side]] = {}
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as folder:
        machines = await _start("-m", "tests.machines", folder)
        assert machines.stdout is not None
        try:
            ports = json.loads(await machines.stdout.readline())
            for protocol in PROTOCOLS:
                for turn in range(rounds * len(SIDES)):
                    side = SIDES[turn % len(SIDES)]
                    words = (protocol, side, str(ports[protocol]), folder, str(calls))
                    figures = await _side_figures(*words)
                    found.setdefault((protocol, side), []).append(figures)
        finally:
            machines.terminate()
            await machines.wait()
    return [
        Comparison(name, _median(found[name, "mapper"]), _median(found[name, "bare"]))
        for name in PROTOCOLS
    ]


async def _start(*words: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, *words, stdin=pipe, stdout=pipe)


async def _side_figures(*words: str) -> Side:
    process = await _start("-m", "bench.industrial", "--side", *words)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SIDE_SECONDS):
            return Side(**json.loads(await process.stdout.readline()))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _median(sides: list[Side]) -> Side:
    columns = zip(*((s.calls, s.calls_per_cpu, s.megabytes) for s in sides), strict=True)
    return Side(*(round(statistics.median(column), 1) for column in columns))


# --- the other process ------------------------------------------------------------------------------


async def _side(protocol: str, side: str, port: int, folder: Path, calls: int) -> None:
    async with AsyncExitStack() as up:
        call = await (_MAPPERS if side == "mapper" else _BARE)[protocol](up, port, folder)
        await call()
        started, worked = time.perf_counter(), time.process_time()
        for _ in range(calls):
            await call()
        seconds = time.perf_counter() - started
        own = calls / (time.process_time() - worked)
        figures = Side(calls / seconds, own, _resident_mb(os.getpid()))
        print(json.dumps(asdict(figures)), flush=True)


async def _family(
    up: AsyncExitStack, make: Any, folder: Path, protocol: str, config: Any, *props: Any
) -> Any:
    from tests.family_rig import World, a_family, bound

    family = await up.enter_async_context(a_family(make, World(folder)))
    driver = family.driver(*bound(protocol, config, *props))
    await driver.connect()
    up.push_async_callback(driver.close)
    return driver


async def _modbus(up: AsyncExitStack, port: int, folder: Path) -> Call:
    from edge.mappers.modbus.family import make_modbus
    from tests.family_rig import prop

    names = [f"r{at}" for at in range(10)]
    props = [prop(name, "INT", register="holding", offset=at) for at, name in enumerate(names)]
    config = {"ip": "127.0.0.1", "port": port}
    driver = await _family(up, make_modbus, folder, "modbus", config, *props)
    return lambda: driver.read(names)


async def _bare_modbus(up: AsyncExitStack, port: int, _folder: Path) -> Call:
    from pymodbus.client import AsyncModbusTcpClient

    client = AsyncModbusTcpClient("127.0.0.1", port=port)
    await client.connect()
    up.callback(client.close)
    return lambda: client.read_holding_registers(0, count=10)


def _pump(port: int, folder: Path) -> dict[str, Any]:
    from tests.machines import PASSWORD

    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "pump").write_text(PASSWORD)
    return {
        "url": f"opc.tcp://127.0.0.1:{port}/plant",
        "securityPolicy": "Basic256Sha256",
        "userName": "edge",
        "passwordFile": "pump",
    }


async def _opcua(up: AsyncExitStack, port: int, folder: Path) -> Call:
    from edge.mappers.opcua.family import make_opcua
    from tests.family_rig import prop

    speed = prop("speed", "INT", nodeID="nsu=urn:acme:pumps;s=Pump.Speed")
    config = await asyncio.to_thread(_pump, port, folder)
    driver = await _family(up, make_opcua, folder, "opcua", config, speed)
    return lambda: driver.write("speed", "7")


async def _bare_opcua(up: AsyncExitStack, port: int, folder: Path) -> Call:
    from asyncua import ua
    from asyncua.client.client import Client
    from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

    from tests.machines import PASSWORD

    client = Client(f"opc.tcp://127.0.0.1:{port}/plant")
    client.set_user("edge")
    client.set_password(PASSWORD)
    own = (str(folder / "client.der"), str(folder / "client.pem"))
    await client.set_security(SecurityPolicyBasic256Sha256, *own)
    await up.enter_async_context(client)
    at = await client.get_namespace_index("urn:acme:pumps")
    node = client.get_node(f"ns={at};s=Pump.Speed")
    value = ua.DataValue(ua.Variant(7, ua.VariantType.Int16))
    return lambda: node.write_value(value)


async def _http(up: AsyncExitStack, port: int, folder: Path) -> Call:
    from edge.mappers.http.family import make_http
    from tests.family_rig import prop

    power = prop("power", "FLOAT", jsonPath="$.meters[0].power")
    config = {"url": f"http://127.0.0.1:{port}/status"}
    driver = await _family(up, make_http, folder, "http", config, power)
    return lambda: driver.read(["power"])


async def _bare_http(up: AsyncExitStack, port: int, _folder: Path) -> Call:
    from aiohttp import ClientSession, TCPConnector

    session = await up.enter_async_context(ClientSession(connector=TCPConnector(force_close=True)))

    async def call() -> object:
        async with session.get(f"http://127.0.0.1:{port}/status") as answer:
            return await answer.json()

    return call


async def _coap(up: AsyncExitStack, port: int, folder: Path) -> Call:
    from edge.mappers.coap.family import make_coap
    from tests.family_rig import prop

    position = prop("position", "INT", path="/state", jsonPath="$.position")
    config = {"url": f"coap://127.0.0.1:{port}"}
    driver = await _family(up, make_coap, folder, "coap", config, position)
    return lambda: driver.read(["position"])


async def _bare_coap(up: AsyncExitStack, port: int, _folder: Path) -> Call:
    import aiocoap

    context = await aiocoap.Context.create_client_context(transports=["udp6"])
    up.push_async_callback(context.shutdown)

    async def call() -> object:
        message = aiocoap.Message(code=aiocoap.GET, uri=f"coap://127.0.0.1:{port}/state")
        return await context.request(message).response

    return call


_MAPPERS = {"modbus": _modbus, "opcua": _opcua, "http": _http, "coap": _coap}
_BARE = {"modbus": _bare_modbus, "opcua": _bare_opcua, "http": _bare_http, "coap": _bare_coap}


def _table(found: list[Comparison]) -> str:
    lines = ["protocol  side      calls/s  per CPU s      MB"]
    for each in found:
        for name, side in (("mapper", each.mapper), ("bare", each.bare)):
            figures = f"{side.calls:>10.0f}{side.calls_per_cpu:>11.0f}{side.megabytes:>8.0f}"
            lines.append(f"{each.protocol:<10}{name:<7}{figures}")
        lines.append(f"{'':<10}ratio{each.ratio:>23.2f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        protocol, side, port, folder, calls = options.side
        asyncio.run(_side(protocol, side, int(port), Path(folder), int(calls)))
        return
    found = asyncio.run(measure(options.calls, options.rounds))
    if options.json:
        print(json.dumps([asdict(each) | {"ratio": round(each.ratio, 3)} for each in found]))
    else:
        print(_table(found))


if __name__ == "__main__":
    main()
