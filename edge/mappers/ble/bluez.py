"""What becomes of an adapter: bluetoothd there or not, the adapter plugged in, switched on.

Followed on a D-Bus connection of its own, because bleak tells nobody. Source: BlueZ's org.bluez.Adapter.rst;
the D-Bus specification for names' owners.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError, DBusFastError

from edge.mappers.ble.heard import MAX_DATA, MAX_PARTS, Heard, clean_name, kind_of
from edge.mappers.driver import DeviceUnreachable

NAME: Final = "org.bluez"
ADAPTER: Final = "org.bluez.Adapter1"
DEVICE: Final = "org.bluez.Device1"
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
    """An adapter as BlueZ tells of it.

    Shape:  `owner` is the bluetoothd that does; `downs` counts how often the adapter was off or gone since
            the watch began: two changes may be heard of at once.
    """

    state: State
    owner: str = ""
    address: str = ""
    name: str = ""
    downs: int = 0


async def watch(adapter: str, changed: Callable[[Adapter], None]) -> None:
    """Say how an adapter is, at once and whenever it changes, until cancelled.

    Errors: DeviceUnreachable when there is no bus, or it ends.
    """
    path = f"/org/bluez/{adapter}"
    bus = MessageBus(bus_type=BusType.SYSTEM)
    heard = _Heard(path)
    try:
        await bus.connect()
        bus.add_message_handler(heard.take)
        for rule in _rules(path):
            await _call(bus, "AddMatch", "s", [rule])
        heard.news.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(_until_lost(bus))
            while True:
                await heard.news.wait()
                heard.news.clear()
                downs = heard.downs
                changed(replace(await _ask(bus, path), downs=downs))
    except* (DBusFastError, OSError, EOFError, TimeoutError) as errors:
        raise DeviceUnreachable(f"D-Bus: {_first(errors)}") from errors
    finally:
        bus.disconnect()
        with contextlib.suppress(DBusFastError, OSError, EOFError, TimeoutError):
            async with asyncio.timeout(1.0):  # what ended it is known, or nobody's business
                await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


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


class _Heard:
    """The signals about one adapter."""

    def __init__(self, path: str) -> None:
        self.news = asyncio.Event()
        self.downs = 0
        self._path = path

    def take(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        member, body = message.member, message.body
        if member == "NameOwnerChanged":
            self._note(was_down=bool(body[1]))
        elif member == "PropertiesChanged" and message.path == self._path:
            powered = body[1].get("Powered")
            self._note(was_down=powered is not None and not powered.value)
        elif self._path in body[:1]:
            self._note(was_down=member == "InterfacesRemoved")

    def _note(self, *, was_down: bool) -> None:
        self.downs += was_down
        self.news.set()


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


async def free(adapter: str, wanted: Callable[[Heard], bool]) -> list[str]:
    """End those of the adapter's connections that are wanted; return the addresses of their devices.

    BlueZ keeps a connection when the process that asked for it was killed, and a device that is connected
    does not advertise: it would never be heard again. Errors: DeviceUnreachable.
    """
    freed = []
    bus = MessageBus(bus_type=BusType.SYSTEM)
    try:
        await bus.connect()
        for path, facts in await _connected(bus, f"/org/bluez/{adapter}/"):
            heard = _as_heard(facts)
            if wanted(heard):
                await _call(bus, "Disconnect", "", [], NAME, path, DEVICE)
                freed.append(heard.address)
    except (DBusFastError, OSError, EOFError, TimeoutError) as error:
        raise DeviceUnreachable(f"D-Bus: {error}") from error
    finally:
        bus.disconnect()
    return freed


async def _connected(bus: MessageBus, below: str) -> list[tuple[str, dict[str, Any]]]:
    manager = "org.freedesktop.DBus.ObjectManager"
    (objects,) = await _call(bus, "GetManagedObjects", "", [], NAME, "/", manager)
    known = {
        path: {name: value.value for name, value in interfaces[DEVICE].items()}
        for path, interfaces in objects.items()
        if path.startswith(below) and DEVICE in interfaces
    }
    return [(path, facts) for path, facts in known.items() if facts.get("Connected")]


def _as_heard(facts: dict[str, Any]) -> Heard:
    address = str(facts.get("Address", "")).upper()
    makers = list(facts.get("ManufacturerData", {}).items())[:MAX_PARTS]
    return Heard(
        address=address,
        kind=kind_of(address, str(facts.get("AddressType", "public"))),
        token=None,
        name=clean_name(facts.get("Name")),
        services=frozenset(facts.get("UUIDs", [])[:MAX_PARTS]),
        manufacturer={company: bytes(value.value)[:MAX_DATA] for company, value in makers},
    )


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
