"""What becomes of an adapter: bluetoothd there or not, the adapter plugged in, switched on.

Followed on a D-Bus connection of its own, because bleak tells nobody. Source: BlueZ's org.bluez.Adapter.rst;
the D-Bus specification for names' owners.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError, DBusFastError

from edge.mappers.driver import DeviceUnreachable

NAME: Final = "org.bluez"
ADAPTER: Final = "org.bluez.Adapter1"
CALL_SECONDS: Final = 5.0


class State(enum.StrEnum):
    """How an adapter is."""

    UP = "up"
    OFF = "off"
    ABSENT = "absent"
    DENIED = "denied"
    NO_BLUEZ = "no-bluetoothd"
    NO_BUS = "no-dbus"


WHY: Final = {
    State.OFF: "the Bluetooth adapter {} is switched off (bluetoothctl power on; rfkill)",
    State.ABSENT: "there is no Bluetooth adapter {}",
    State.DENIED: "the edge's user may not talk to BlueZ over D-Bus (group bluetooth)",
    State.NO_BLUEZ: "bluetoothd does not run: there is no org.bluez on the system D-Bus",
    State.NO_BUS: "there is no system D-Bus",
}


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as BlueZ tells of it; `owner` is the bluetoothd that does."""

    state: State
    owner: str = ""
    address: str = ""
    name: str = ""


async def watch(adapter: str, changed: Callable[[Adapter], None]) -> None:
    """Say how an adapter is, at once and whenever it changes, until cancelled.

    Errors: DeviceUnreachable when there is no bus, or it ends.
    """
    path = f"/org/bluez/{adapter}"
    bus = MessageBus(bus_type=BusType.SYSTEM)
    news = asyncio.Event()
    try:
        await bus.connect()
        bus.add_message_handler(lambda message: _take(message, path, news))
        for rule in _rules(path):
            await _call(bus, "AddMatch", "s", [rule])
        news.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(_until_lost(bus))
            while True:
                await news.wait()
                news.clear()
                changed(await _ask(bus, path))
    except* (DBusFastError, OSError, EOFError, TimeoutError) as errors:
        raise DeviceUnreachable(f"D-Bus: {_first(errors)}") from errors
    finally:
        bus.disconnect()


def _first(errors: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


def _rules(path: str) -> list[str]:
    manager = f"type='signal',sender='{NAME}',interface='org.freedesktop.DBus.ObjectManager'"
    return [
        f"type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{NAME}'",
        f"{manager},arg0path='{path}'",
        f"type='signal',sender='{NAME}',interface='org.freedesktop.DBus.Properties',path='{path}'",
    ]


def _take(message: Message, path: str, news: asyncio.Event) -> None:
    if message.message_type is not MessageType.SIGNAL:
        return
    if message.member == "NameOwnerChanged" or message.path == path or path in message.body[:1]:
        news.set()


async def _until_lost(bus: MessageBus) -> None:
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
    raise EOFError("the connection has ended")


async def _ask(bus: MessageBus, path: str) -> Adapter:
    owner = await _owner(bus)
    if not owner:
        return Adapter(State.NO_BLUEZ)
    try:
        found = await _call(
            bus, "GetAll", "s", [ADAPTER], owner, path, "org.freedesktop.DBus.Properties"
        )
    except DBusError as error:
        is_denied = error.type.endswith(".AccessDenied")
        return Adapter(State.DENIED if is_denied else State.ABSENT, owner)
    facts = {name: value.value for name, value in found[0].items()}
    state = State.UP if facts.get("Powered") else State.OFF
    if not facts:
        state = State.ABSENT
    return Adapter(state, owner, str(facts.get("Address", "")), str(facts.get("Alias", "")))


async def _owner(bus: MessageBus) -> str:
    try:
        return str((await _call(bus, "GetNameOwner", "s", [NAME]))[0])
    except DBusError:
        return ""


async def _call(
    bus: MessageBus,
    member: str,
    signature: str,
    body: list[Any],
    destination: str = "org.freedesktop.DBus",
    path: str = "/org/freedesktop/DBus",
    interface: str = "org.freedesktop.DBus",
) -> list[Any]:
    """Errors: DBusError for an answer that is an error; TimeoutError."""
    async with asyncio.timeout(CALL_SECONDS):
        answer = await bus.call(
            Message(
                destination=destination,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=body,
            )
        )
    if answer is None or answer.message_type is MessageType.ERROR:
        name = "" if answer is None else str(answer.error_name)
        raise DBusError(name or "org.freedesktop.DBus.Error.Failed", f"{member}: {name}")
    return list(answer.body)
