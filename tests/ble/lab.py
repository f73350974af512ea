"""The whole lab: bus, facade, peripherals. Also a program: `python -m tests.ble.lab`.

The program prints the address of its bus, to be given to others as `DBUS_SYSTEM_BUS_ADDRESS`, then obeys
lines on its standard input: `unplug`, `plug`, `kill`, `start`, `power on|off`, `drop NAME`, `vanish NAME`,
`return NAME`, `set NAME UUID HEX` (tells who listens, too), `show NAME UUID`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bumble.link import LocalLink

from tests.ble import peripherals
from tests.ble.bus import private_bus
from tests.ble.facade import Facade
from tests.ble.peripherals import Peripheral


@dataclass(slots=True)
class Lab:
    """What a test works with."""

    address: str
    link: LocalLink
    facade: Facade
    devices: dict[str, Peripheral]

    async def add(self, name: str, device: Peripheral) -> Peripheral:
        """Bring one more device into reach."""
        self.devices[name] = device
        await device.device.power_on()
        await device.advertise()
        return device


ALL = ("thermo", "heart", "lamp", "bthome", "secret", "ibeacon", "eddystone", "maker")


@asynccontextmanager
async def running_lab(folder: Path, wanted: tuple[str, ...] = ALL) -> AsyncIterator[Lab]:
    """Run the lab with some of its devices."""
    async with private_bus(folder) as address:
        link = LocalLink()  # type: ignore[no-untyped-call]
        host = peripherals.new_device(link, "F0:F1:F2:F3:F4:F5", "central")
        facade = Facade(host, address)
        await host.power_on()
        everything = {
            "thermo": peripherals.thermometer(link),
            "heart": peripherals.heart_belt(link),
            "lamp": peripherals.lamp(link),
            **peripherals.advertisers(link),
        }
        lab = Lab(address, link, facade, {})
        for name in wanted:
            await lab.add(name, everything[name])
        await facade.start()
        try:
            yield lab
        finally:
            await facade.kill()
            for device in lab.devices.values():
                await device.vanish()
            await asyncio.sleep(0)  # what Bumble still has to say to itself


# --- the program ----------------------------------------------------------------------------------


async def obey(lab: Lab, line: str) -> str:
    """Do what a line says; returns the answer."""
    verb, *words = line.split()
    facade = lab.facade
    simple: dict[str, Callable[[], Awaitable[None]]] = {
        "unplug": facade.unplug,
        "kill": facade.kill,
        "start": facade.start,
    }
    if verb in simple:
        await simple[verb]()
    elif verb == "plug":
        facade.plug()
    elif verb == "power":
        await facade.power(words[0] == "on")
    else:
        return await _device_order(lab.devices[words[0]], verb, words[1:])
    return "ok"


async def _device_order(device: Peripheral, verb: str, words: list[str]) -> str:
    if verb == "drop":
        await device.drop()
    elif verb == "vanish":
        await device.vanish()
    elif verb == "return":
        await device.advertise()
    elif verb == "set":
        await device.notify(words[0], bytes.fromhex(words[1]))
    elif verb == "show":
        return device.values[words[0]].hex()
    else:
        return f"unknown: {verb}"
    return "ok"


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        async with running_lab(Path(folder)) as lab:
            print(lab.address, flush=True)  # noqa: T201
            while line := (await reader.readline()).decode().strip():
                print(await obey(lab, line), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(_main())
