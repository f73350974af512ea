"""Whether Bluetooth can be used here: system D-Bus, bluetoothd, the adapter, and the right to it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from edge.mappers.ble.bluez import WHY, Adapter, State, watch
from edge.mappers.driver import DeviceUnreachable
from edge.verdicts import FAIL, OK, Verdict

SECONDS: Final = 5.0
MENDS: Final = {
    State.OFF: "rfkill unblock bluetooth && bluetoothctl power on",
    State.ABSENT: "plug it in, or say another: --set edge.mappers.ble.adapter=hci1; bluetoothctl list",
    State.DENIED: "usermod -aG bluetooth USER (the user of the edge), and start the edge again",
    State.NO_BLUEZ: "apt-get install bluez && systemctl enable --now bluetooth",
    State.NO_BUS: "apt-get install dbus && systemctl start dbus; in a container mount"
    " /run/dbus/system_bus_socket",
}


def adapter_verdict(name: str, adapter: str) -> Verdict:
    """Judge an adapter, as BlueZ tells of it."""
    return asyncio.run(judged(name, adapter))


async def judged(name: str, adapter: str) -> Verdict:
    """Judge an adapter within `SECONDS`."""
    try:
        async with asyncio.timeout(SECONDS):
            found = await _look(adapter)
    except DeviceUnreachable as error:
        return Verdict(name, FAIL, f"{WHY[State.NO_BUS]}: {error.message}", MENDS[State.NO_BUS])
    except TimeoutError:
        return Verdict(name, FAIL, "the system D-Bus does not answer", MENDS[State.NO_BUS])
    if found.state is State.UP:
        return Verdict(name, OK, f"{adapter} {found.address} is on")
    return Verdict(name, FAIL, WHY[found.state].format(adapter), MENDS[found.state])


async def _look(adapter: str) -> Adapter:
    """Return how an adapter is. Errors: DeviceUnreachable without a bus."""
    found: asyncio.Future[Adapter] = asyncio.get_running_loop().create_future()

    def take(seen: Adapter) -> None:
        if not found.done():
            found.set_result(seen)

    watching = asyncio.create_task(watch(adapter, take))
    try:
        awaited: set[asyncio.Future[Any]] = {watching, found}
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            await watching  # it says why
        return await found
    finally:
        watching.cancel()
        await asyncio.wait({watching})
