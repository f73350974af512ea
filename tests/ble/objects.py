"""Objects of `org.bluez` as D-Bus sees them; what they do is asked of the facade.

Source: BlueZ's doc/org.bluez.{Adapter,Device,GattService,GattCharacteristic,GattDescriptor}.rst.
Annotations are D-Bus signatures, read at run time: no postponed evaluation here.
"""
# ruff: noqa: N802

from typing import Annotated, Any, Protocol

from dbus_fast import DBusError, PropertyAccess, Variant
from dbus_fast.annotations import DBusBool, DBusInt16, DBusObjectPath, DBusSignature, DBusStr
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property

READ = PropertyAccess.READ
Options = Annotated[dict[str, Variant], DBusSignature("a{sv}")]
Bytes = Annotated[bytes, DBusSignature("ay")]
Texts = Annotated[list[str], DBusSignature("as")]
ByNumber = Annotated[dict[int, Variant], DBusSignature("a{qv}")]
UInt16 = Annotated[int, DBusSignature("q")]


class Owner(Protocol):
    """The facade, as its objects need it."""

    async def set_filter(self, filters: dict[str, Any]) -> None: ...
    async def scan(self, on: bool, *, passive: bool = False) -> None: ...
    async def forget(self, path: str) -> None: ...
    async def connect_device(self, path: str) -> None: ...
    async def disconnect_device(self, path: str) -> None: ...
    async def read(self, path: str) -> bytes: ...
    async def write(self, path: str, value: bytes, *, response: bool) -> None: ...
    async def notify(self, path: str, on: bool) -> None: ...


def failed(text: str, name: str = "Failed") -> DBusError:
    return DBusError(f"org.bluez.Error.{name}", text)


class Adapter(ServiceInterface):
    def __init__(self, owner: Owner, name: str, address: str) -> None:
        super().__init__("org.bluez.Adapter1")
        self._owner = owner
        self._hci = name
        self._address = address
        self.powered = True
        self.discovering = False

    @dbus_method()
    async def SetDiscoveryFilter(self, filters: Options) -> None:
        await self._owner.set_filter({key: each.value for key, each in filters.items()})

    @dbus_method()
    async def StartDiscovery(self) -> None:
        await self._owner.scan(True)

    @dbus_method()
    async def StopDiscovery(self) -> None:
        await self._owner.scan(False)

    @dbus_method()
    async def RemoveDevice(self, device: DBusObjectPath) -> None:
        await self._owner.forget(device)

    @dbus_property(READ)
    def Address(self) -> DBusStr:
        return self._address

    @dbus_property(READ)
    def Name(self) -> DBusStr:
        return self._hci

    @dbus_property(READ)
    def Alias(self) -> DBusStr:
        return self._hci

    @dbus_property(READ)
    def Powered(self) -> DBusBool:
        return self.powered

    @dbus_property(READ)
    def Discovering(self) -> DBusBool:
        return self.discovering

    @dbus_property(READ)
    def Roles(self) -> Texts:
        return ["central", "peripheral"]

    @dbus_property(READ)
    def UUIDs(self) -> Texts:
        return []


class Monitors(ServiceInterface):
    """Passive scanning; the monitor's patterns are not looked at: everything is told."""

    def __init__(self, owner: Owner) -> None:
        super().__init__("org.bluez.AdvertisementMonitorManager1")
        self._owner = owner

    @dbus_method()
    async def RegisterMonitor(self, application: DBusObjectPath) -> None:
        await self._owner.scan(True, passive=True)

    @dbus_method()
    async def UnregisterMonitor(self, application: DBusObjectPath) -> None:
        await self._owner.scan(False)

    @dbus_property(READ)
    def SupportedMonitorTypes(self) -> Texts:
        return ["or_patterns"]


class Device(ServiceInterface):
    def __init__(self, owner: Owner, adapter: str, path: str, address: str) -> None:
        super().__init__("org.bluez.Device1")
        self._owner = owner
        self._adapter = adapter
        self.path = path
        self.address = address
        self.local_name = ""
        self.rssi = -127
        self.connected = self.resolved = self.paired = False
        self.uuids: list[str] = []
        self.manufacturer: dict[int, Variant] = {}
        self.service: dict[str, Variant] = {}

    @dbus_method()
    async def Connect(self) -> None:
        await self._owner.connect_device(self.path)

    @dbus_method()
    async def Disconnect(self) -> None:
        await self._owner.disconnect_device(self.path)

    @dbus_method()
    async def Pair(self) -> None:
        await self._owner.connect_device(self.path)
        self.paired = True
        self.emit_properties_changed({"Paired": True})

    @dbus_property(READ)
    def Address(self) -> DBusStr:
        return self.address

    @dbus_property(READ)
    def AddressType(self) -> DBusStr:
        return "random"

    @dbus_property(READ)
    def Name(self) -> DBusStr:
        return self.local_name

    @dbus_property(READ)
    def Alias(self) -> DBusStr:
        return self.local_name or self.address.replace(":", "-")

    @dbus_property(READ)
    def Adapter(self) -> DBusObjectPath:
        return self._adapter

    @dbus_property(READ)
    def RSSI(self) -> DBusInt16:
        return self.rssi

    @dbus_property(READ)
    def UUIDs(self) -> Texts:
        return self.uuids

    @dbus_property(READ)
    def ManufacturerData(self) -> ByNumber:
        return self.manufacturer

    @dbus_property(READ)
    def ServiceData(self) -> Options:
        return self.service

    @dbus_property(READ)
    def Connected(self) -> DBusBool:
        return self.connected

    @dbus_property(READ)
    def ServicesResolved(self) -> DBusBool:
        return self.resolved

    @dbus_property(READ)
    def Paired(self) -> DBusBool:
        return self.paired

    @dbus_property(PropertyAccess.READWRITE)
    def Trusted(self) -> DBusBool:
        return True

    @Trusted.setter  # type: ignore[no-redef]
    def Trusted(self, value: DBusBool) -> None:
        """Everyone is trusted here."""


class Service(ServiceInterface):
    def __init__(self, device: str, uuid: str) -> None:
        super().__init__("org.bluez.GattService1")
        self._device = device
        self._uuid = uuid

    @dbus_property(READ)
    def UUID(self) -> DBusStr:
        return self._uuid

    @dbus_property(READ)
    def Primary(self) -> DBusBool:
        return True

    @dbus_property(READ)
    def Device(self) -> DBusObjectPath:
        return self._device


class Characteristic(ServiceInterface):
    def __init__(
        self, owner: Owner, service: str, path: str, uuid: str, flags: list[str], mtu: int
    ) -> None:
        super().__init__("org.bluez.GattCharacteristic1")
        self._owner = owner
        self._service = service
        self.path = path
        self._uuid = uuid
        self._flags = flags
        self._mtu = mtu
        self.value = b""
        self.notifying = False

    @dbus_method()
    async def ReadValue(self, options: Options) -> Bytes:
        return await self._owner.read(self.path)

    @dbus_method()
    async def WriteValue(self, value: Bytes, options: Options) -> None:
        kind = options.get("type")
        await self._owner.write(
            self.path, bytes(value), response=kind is None or kind.value == "request"
        )

    @dbus_method()
    async def StartNotify(self) -> None:
        await self._owner.notify(self.path, True)

    @dbus_method()
    async def StopNotify(self) -> None:
        await self._owner.notify(self.path, False)

    @dbus_property(READ)
    def UUID(self) -> DBusStr:
        return self._uuid

    @dbus_property(READ)
    def Service(self) -> DBusObjectPath:
        return self._service

    @dbus_property(READ)
    def Flags(self) -> Texts:
        return self._flags

    @dbus_property(READ)
    def MTU(self) -> UInt16:
        return self._mtu

    @dbus_property(READ)
    def Value(self) -> Bytes:
        return self.value

    @dbus_property(READ)
    def Notifying(self) -> DBusBool:
        return self.notifying


class Descriptor(ServiceInterface):
    def __init__(self, owner: Owner, characteristic: str, path: str, uuid: str) -> None:
        super().__init__("org.bluez.GattDescriptor1")
        self._owner = owner
        self._characteristic = characteristic
        self._path = path
        self._uuid = uuid

    @dbus_method()
    async def ReadValue(self, options: Options) -> Bytes:
        return await self._owner.read(self._path)

    @dbus_property(READ)
    def UUID(self) -> DBusStr:
        return self._uuid

    @dbus_property(READ)
    def Characteristic(self) -> DBusObjectPath:
        return self._characteristic

    @dbus_property(READ)
    def Value(self) -> Bytes:
        return b""


__all__ = ["Adapter", "Characteristic", "Descriptor", "Device", "Monitors", "Owner", "Service"]
