"""`org.bluez` on a bus, served by a Bumble host: what bluetoothd does, as far as bleak asks for it.

Source: BlueZ's doc/org.bluez.*.rst; order of signals as bluetoothd sends them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bumble.att import ATT_Error
from bumble.core import AdvertisingData, BaseBumbleError
from bumble.device import Device as Host
from bumble.device import Peer
from bumble.hci import Address
from dbus_fast import BusType, Message, RequestNameReply, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface

from tests.ble.objects import (
    Adapter,
    Characteristic,
    Descriptor,
    Device,
    Monitors,
    Service,
    failed,
)

NAME = "org.bluez"
_FLAGS = (
    (0x02, "read"),
    (0x04, "write-without-response"),
    (0x08, "write"),
    (0x10, "notify"),
    (0x20, "indicate"),
)
_SERVICES = (
    AdvertisingData.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
    AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
    AdvertisingData.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
    AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
)
_NAMES = (AdvertisingData.COMPLETE_LOCAL_NAME, AdvertisingData.SHORTENED_LOCAL_NAME)


def long_uuid(raw: bytes) -> str:
    """Return the text of a UUID of 2 or 16 bytes, little endian on air."""
    if len(raw) == 2:
        return f"0000{raw[::-1].hex()}-0000-1000-8000-00805f9b34fb"
    text = raw[::-1].hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


@dataclass(slots=True)
class Known:
    """A device that BlueZ has an object of."""

    device: Device
    address: Address
    peer: Peer | None = None
    exported: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    characteristics: dict[str, Characteristic] = field(default_factory=dict)
    listeners: dict[str, Callable[[bytes], None]] = field(default_factory=dict)


class Facade:
    """One adapter before one Bumble host; `rssi` replaces what the software controller says."""

    def __init__(self, host: Host, bus_address: str, name: str = "hci0") -> None:
        self._host = host
        self._bus_address = bus_address
        self._hci = name
        self.path = f"/org/bluez/{name}"
        self.rssi: dict[str, int] = {}
        self.known: dict[str, Known] = {}
        self.filters: dict[str, Any] = {}
        self.connects: list[str] = []
        self.discoveries = 0
        self._bus: MessageBus | None = None
        self._adapter: Adapter | None = None
        self._connecting = asyncio.Lock()
        host.on("advertisement", self._advertised)

    # --- bluetoothd and adapter come and go -------------------------------------------------------

    async def start(self) -> None:
        """bluetoothd starts and finds its adapter."""
        self._bus = await MessageBus(
            bus_address=self._bus_address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True
        ).connect()
        self.plug()
        assert await self._bus.request_name(NAME) is RequestNameReply.PRIMARY_OWNER

    async def kill(self) -> None:
        """bluetoothd dies without a word."""
        bus, self._bus = self._bus, None
        await self._drop_all()
        self.known.clear()
        if bus is not None:
            bus.disconnect()
            with contextlib.suppress(OSError, EOFError):
                await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    async def settle(self) -> None:
        """Wait until the bus has taken what was said: dbus-fast breaks off when a socket is full."""
        assert self._bus is not None
        daemon = "org.freedesktop.DBus"
        peer = "org.freedesktop.DBus.Peer"
        await self._bus.call(
            Message(destination=daemon, path="/org/freedesktop/DBus", interface=peer, member="Ping")
        )

    def plug(self) -> None:
        """The adapter is there."""
        self._adapter = Adapter(self, self._hci, "00:11:22:33:44:55")
        self._export(self.path, self._adapter)
        self._export(self.path, Monitors(self))

    async def unplug(self) -> None:
        """The adapter is gone, and all devices with it."""
        await self._drop_all()
        for path in list(self.known):
            await self.forget(path)
        if self._bus is not None:
            self._bus.unexport(self.path)
        self._adapter = None

    async def power(self, on: bool) -> None:
        """Switch the adapter off or on, as rfkill does."""
        assert self._adapter is not None
        self._adapter.powered = on
        if not on:
            await self._drop_all()
            await self.scan(False)
        self._adapter.emit_properties_changed({"Powered": on})

    async def _drop_all(self) -> None:
        for known in list(self.known.values()):
            if known.peer is not None:
                await known.peer.connection.disconnect()
        if self._host.is_scanning:
            await self._host.stop_scanning()

    def _export(self, path: str, thing: ServiceInterface) -> None:
        if self._bus is not None:
            self._bus.export(path, thing)

    # --- adapter ----------------------------------------------------------------------------------

    async def set_filter(self, filters: dict[str, Any]) -> None:
        self.filters = filters

    async def scan(self, on: bool, *, passive: bool = False) -> None:
        adapter = self._adapter
        if adapter is None or (on and not adapter.powered):
            raise failed("Resource Not Ready", "NotReady")
        if on == self._host.is_scanning:
            return
        if on:
            self.discoveries += 1
            await self._host.start_scanning(active=not passive, filter_duplicates=False)
        else:
            await self._host.stop_scanning()
            for known in self.known.values():  # bluetoothd forgets strengths between discoveries
                known.device.rssi = -127
        adapter.discovering = on
        adapter.emit_properties_changed({"Discovering": on})

    async def forget(self, path: str) -> None:
        known = self.known.pop(path, None)
        if known is None:
            raise failed("Does Not Exist", "DoesNotExist")
        self._unexport_table(known)
        if self._bus is not None:
            self._bus.unexport(path)

    def _advertised(self, advertisement: Any) -> None:
        if self._bus is None:
            return
        address = str(advertisement.address).split("/", maxsplit=1)[0]
        self.seen(
            address,
            advertisement.data.ad_structures,
            self.rssi.get(address, advertisement.rssi),
            advertisement.address,
        )

    def seen(
        self, address: str, structures: list[tuple[int, bytes]], rssi: int, source: Any = None
    ) -> None:
        """An advertisement was heard."""
        if self._adapter is None or rssi < self.filters.get("RSSI", -128):
            return
        path = f"{self.path}/dev_{address.replace(':', '_')}"
        known = self.known.get(path)
        device = known.device if known else Device(self, self.path, path, address)
        changed = _take(device, structures, rssi, repeats=bool(self.filters.get("DuplicateData")))
        wanted = self.filters.get("UUIDs")
        if wanted and not set(wanted) & set(device.uuids):
            return
        if known is None:
            self.known[path] = Known(device, source or Address(address))
            self._export(path, device)
        elif changed:
            device.emit_properties_changed(changed)

    # --- devices ----------------------------------------------------------------------------------

    async def connect_device(self, path: str) -> None:
        known = self.known[path]
        if known.peer is not None:
            raise failed("Already Connected", "AlreadyConnected")
        if self._connecting.locked():
            raise failed("Operation already in progress", "InProgress")
        async with self._connecting:
            self.connects.append(known.device.address)
            try:
                connection = await self._host.connect(known.address, timeout=3)
            except (TimeoutError, BaseBumbleError) as error:
                raise failed("le-connection-abort-by-remote") from error
            connection.on("disconnection", lambda *_: self._disconnected(known))
            known.peer = Peer(connection)
            known.device.connected = True
            known.device.emit_properties_changed({"Connected": True})
            try:
                await self._resolve(known)
            except BaseBumbleError as error:
                raise failed("Software caused connection abort") from error

    async def _resolve(self, known: Known) -> None:
        peer = known.peer
        assert peer is not None
        mtu = await peer.request_mtu(247)
        for service in await peer.discover_services():
            service_path = f"{known.device.path}/service{service.handle:04x}"
            self._add(known, service_path, Service(known.device.path, _text(service.uuid)))
            for each in await service.discover_characteristics():
                path = f"{service_path}/char{each.handle:04x}"
                flags = [name for bit, name in _FLAGS if each.properties & bit]
                shown = Characteristic(self, service_path, path, _text(each.uuid), flags, mtu)
                known.characteristics[path] = shown
                known.attributes[path] = each
                self._add(known, path, shown)
                for descriptor in await each.discover_descriptors():
                    below = f"{path}/desc{descriptor.handle:04x}"
                    known.attributes[below] = descriptor
                    self._add(known, below, Descriptor(self, path, below, _text(descriptor.type)))
        known.device.resolved = True
        known.device.emit_properties_changed({"ServicesResolved": True})

    def _add(self, known: Known, path: str, thing: ServiceInterface) -> None:
        known.exported.append(path)
        self._export(path, thing)

    async def disconnect_device(self, path: str) -> None:
        known = self.known[path]
        if known.peer is None:
            raise failed("Not Connected", "NotConnected")
        await known.peer.connection.disconnect()

    def _disconnected(self, known: Known) -> None:
        known.peer = None
        known.listeners.clear()
        known.device.connected = known.device.resolved = False
        if self._bus is not None:
            known.device.emit_properties_changed({"ServicesResolved": False, "Connected": False})
        self._unexport_table(known)

    def _unexport_table(self, known: Known) -> None:
        for path in reversed(known.exported):
            if self._bus is not None:
                self._bus.unexport(path)
        known.exported.clear()
        known.attributes.clear()
        known.characteristics.clear()

    # --- GATT -------------------------------------------------------------------------------------

    def _attribute(self, path: str) -> tuple[Known, Any]:
        device = path.rpartition("/service")[0]
        known = self.known.get(device)
        if known is None or path not in known.attributes:
            raise failed("Not connected", "NotConnected")
        return known, known.attributes[path]

    async def read(self, path: str) -> bytes:
        known, attribute = self._attribute(path)
        value: bytes = await _att(attribute.read_value())
        shown = known.characteristics.get(path)
        if shown is not None:  # BlueZ tells what was read as a changed value, too
            shown.value = value
            shown.emit_properties_changed({"Value": value})
        return value

    async def write(self, path: str, value: bytes, *, response: bool) -> None:
        _known, attribute = self._attribute(path)
        await _att(attribute.write_value(value, with_response=response))

    async def notify(self, path: str, on: bool) -> None:
        known, attribute = self._attribute(path)
        shown = known.characteristics[path]

        def told(value: bytes) -> None:
            if self._bus is not None:
                shown.value = bytes(value)
                shown.emit_properties_changed({"Value": shown.value})

        if on:
            known.listeners[path] = told
            await _att(attribute.subscribe(told))
        elif path in known.listeners:
            await _att(attribute.unsubscribe(known.listeners.pop(path)))
        shown.notifying = on
        shown.emit_properties_changed({"Notifying": on})


def _take(
    device: Device, structures: list[tuple[int, bytes]], rssi: int, *, repeats: bool
) -> dict[str, Any]:
    """Put what was heard into a device's object; returns what is to be told."""
    before = (
        device.local_name,
        list(device.uuids),
        dict(device.manufacturer),
        dict(device.service),
    )
    for kind, data in structures:
        if kind in _NAMES:
            device.local_name = data.decode(errors="replace")
        elif kind in _SERVICES:
            size = 2 if "16_BIT" in AdvertisingData.Type(kind).name else 16
            found = [long_uuid(data[at : at + size]) for at in range(0, len(data), size)]
            device.uuids = sorted({*device.uuids, *found})
        elif kind == AdvertisingData.MANUFACTURER_SPECIFIC_DATA:
            company = int.from_bytes(data[:2], "little")
            device.manufacturer = device.manufacturer | {company: Variant("ay", data[2:])}
        elif kind == AdvertisingData.SERVICE_DATA_16_BIT_UUID:
            device.service = device.service | {long_uuid(data[:2]): Variant("ay", data[2:])}
    changed: dict[str, Any] = {}
    after = (device.local_name, device.uuids, device.manufacturer, device.service)
    names = ("Name", "UUIDs", "ManufacturerData", "ServiceData")
    for name, old, new in zip(names, before, after, strict=True):
        always = repeats and name.endswith("Data") and new
        if always or old != new:
            changed[name] = new
    if "Name" in changed:
        changed["Alias"] = device.local_name
    if abs(rssi - device.rssi) >= 8:  # as bluetoothd, which does not tell of less
        device.rssi = rssi
        changed["RSSI"] = rssi
    return changed


def _text(uuid: Any) -> str:
    return long_uuid(uuid.to_bytes())


async def _att(call: Any) -> Any:
    """Make a call to a device; its refusals become BlueZ's errors."""
    try:
        return await asyncio.wait_for(call, 5)
    except ATT_Error as error:
        texts = {0x02: "Read not permitted", 0x03: "Write not permitted"}
        if error.error_code in texts:
            raise failed(texts[error.error_code], "NotPermitted") from error
        raise failed(f"Operation failed with ATT error: 0x{error.error_code:02x}") from error
    except (TimeoutError, BaseBumbleError, asyncio.InvalidStateError) as error:
        raise failed("Not connected", "NotConnected") from error
    except asyncio.CancelledError as error:  # Bumble cancels what waits when a link goes
        raise failed("Not connected", "NotConnected") from error
