"""Devices of the lab, each on a software controller of its own."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData
from bumble.device import AdvertisingType, Device
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.hci import Address
from bumble.host import Host
from bumble.link import LocalLink
from bumble.transport.common import AsyncPipeSink

READ = Characteristic.Properties.READ
WRITE = Characteristic.Properties.WRITE
BLIND_WRITE = Characteristic.Properties.WRITE_WITHOUT_RESPONSE
NOTIFY = Characteristic.Properties.NOTIFY
_MAY = Characteristic.Permissions.READABLE | Characteristic.Permissions.WRITEABLE

THERMO = "C0:DE:00:00:00:01"
HEART = "C0:DE:00:00:00:02"
LAMP = "C0:DE:00:00:00:03"
BTHOME = "C0:DE:00:00:00:04"
SECRET = "54:48:E6:8F:80:A5"
"""The device of BTHome's own example of encryption; its key is `SECRET_KEY`."""
SECRET_KEY = "231d39c1d7cc1ab1aee224cd096db932"
IBEACON = "C0:DE:00:00:00:06"
EDDYSTONE = "C0:DE:00:00:00:07"
MAKER = "C0:DE:00:00:00:08"

LAMP_SERVICE = "7a1f0001-5b7c-4d6e-9b1a-2f3c4d5e6f70"
LAMP_ON = "7a1f0002-5b7c-4d6e-9b1a-2f3c4d5e6f70"
LAMP_LEVEL = "7a1f0003-5b7c-4d6e-9b1a-2f3c4d5e6f70"
LAMP_SCENE = "7a1f0004-5b7c-4d6e-9b1a-2f3c4d5e6f70"
"""Can be written without response only."""

INTERVAL_MS = 60.0


def new_device(link: LocalLink, address: str, name: str = "") -> Device:
    """Return a device with a controller on the link; not powered yet."""
    controller = Controller(name or address, link=link, public_address=address)
    return Device(
        name=name,
        address=Address(address),
        host=Host(controller, AsyncPipeSink(controller)),
    )


@dataclass(slots=True)
class Peripheral:
    """One device: its values by characteristic, which tests set; what centrals wrote.

    Shape:  `structures` its advertisement as (type, data).
    """

    device: Device
    structures: list[tuple[int, bytes]]
    is_connectable: bool = True
    values: dict[str, bytes] = field(default_factory=dict)
    written: list[tuple[str, bytes]] = field(default_factory=list)
    handles: dict[str, Any] = field(default_factory=dict)

    def add_service(self, uuid: str, characteristics: Sequence[tuple[str, Any, bytes]]) -> None:
        """Add a service; each characteristic with what may be done to it and its first value."""
        made = []
        for each, may, first in characteristics:
            self.values[each] = first
            made.append(self._characteristic(each, may))
        self.device.add_service(Service(UUID(uuid), made))

    def _characteristic(self, uuid: str, may: Any) -> Any:
        def read(_connection: Any) -> bytes:
            return self.values[uuid]

        def write(_connection: Any, value: bytes) -> None:
            self.written.append((uuid, bytes(value)))
            self.values[uuid] = bytes(value)

        made: Any = Characteristic(UUID(uuid), may, _MAY, CharacteristicValue(read, write))
        self.handles[uuid] = made
        return made

    async def notify(self, uuid: str, value: bytes) -> None:
        """Set a value and tell who listens."""
        self.values[uuid] = value
        await self.device.notify_subscribers(self.handles[uuid], value)

    async def advertise(self, structures: list[tuple[int, bytes]] | None = None) -> None:
        """Advertise, from now on with other data where some are given."""
        if structures is not None:
            self.structures = structures
        data = b"".join(bytes([len(d) + 1, kind]) + d for kind, d in self.structures)
        kind = (
            AdvertisingType.UNDIRECTED_CONNECTABLE_SCANNABLE
            if self.is_connectable
            else AdvertisingType.UNDIRECTED
        )
        await self.device.start_advertising(
            advertising_type=kind,
            advertising_data=data,
            scan_response_data=b"",
            auto_restart=True,
            advertising_interval_min=INTERVAL_MS,
            advertising_interval_max=INTERVAL_MS,
        )

    async def drop(self) -> None:
        """End all connections."""
        for connection in list(self.device.connections.values()):
            await connection.disconnect()

    async def vanish(self) -> None:
        """Out of reach: no advertisements, no connections."""
        await self.device.stop_advertising()
        await self.drop()


def named(name: str, *services: int) -> list[tuple[int, bytes]]:
    """Return an advertisement with flags, services and a name."""
    parts = [(AdvertisingData.FLAGS, b"\x06")]
    if services:
        kind = AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS
        parts.append((kind, b"".join(each.to_bytes(2, "little") for each in services)))
    return [*parts, (AdvertisingData.COMPLETE_LOCAL_NAME, name.encode())]


def service_data(uuid: int, data: bytes) -> tuple[int, bytes]:
    return AdvertisingData.SERVICE_DATA_16_BIT_UUID, uuid.to_bytes(2, "little") + data


def manufacturer_data(company: int, data: bytes) -> tuple[int, bytes]:
    return AdvertisingData.MANUFACTURER_SPECIFIC_DATA, company.to_bytes(2, "little") + data


def thermometer(link: LocalLink) -> Peripheral:
    """Environmental sensing, battery and device information."""
    device = new_device(link, THERMO, "Thermo 1")
    made = Peripheral(device, named("Thermo 1", 0x181A, 0x180F))
    made.add_service(
        "181A",
        [
            ("2A6E", READ | NOTIFY, struct.pack("<h", 2137)),
            ("2A6F", READ, struct.pack("<H", 4550)),
            ("2A6D", READ, struct.pack("<I", 1013250)),
        ],
    )
    made.add_service("180F", [("2A19", READ | NOTIFY, b"\x5f")])
    made.add_service(
        "180A", [("2A29", READ, b"Acme"), ("2A24", READ, b"T-1"), ("2A26", READ, b"1.2.3")]
    )
    return made


def heart_belt(link: LocalLink) -> Peripheral:
    made = Peripheral(new_device(link, HEART, "Belt"), named("Belt", 0x180D))
    made.add_service("180D", [("2A37", NOTIFY, b"\x06\x48"), ("2A38", READ, b"\x01")])
    return made


def lamp(link: LocalLink) -> Peripheral:
    made = Peripheral(new_device(link, LAMP, "Lamp"), named("Lamp"))
    made.add_service(
        LAMP_SERVICE,
        [
            (LAMP_ON, READ | WRITE | NOTIFY, b"\x00"),
            (LAMP_LEVEL, READ | WRITE, b"\x64"),
            (LAMP_SCENE, BLIND_WRITE, b"\x00"),
        ],
    )
    return made


def advertiser(
    link: LocalLink, address: str, name: str, structures: list[tuple[int, bytes]]
) -> Peripheral:
    device = new_device(link, address, name)
    flags = (AdvertisingData.FLAGS, b"\x06")
    return Peripheral(device, [flags, *structures], is_connectable=False)


BTHOME_DATA = bytes.fromhex("400007015d02ca0903bf132101")
"""Packet 7: battery 93 %, 25.06 °C, 50.55 %, motion."""
SECRET_DATA = bytes.fromhex("41a47266c95f730011223378237214")
IBEACON_DATA = bytes.fromhex("0215f7826da64fa24e988024bc5b71e0893e01020304c5")
EDDYSTONE_UID = bytes.fromhex("00e700112233445566778899aabbccddeeff0000")
EDDYSTONE_URL = b"\x10\xe7\x02example\x00iot"
EDDYSTONE_TLM = bytes.fromhex("20000bb8158000000064000003e8")


def advertisers(link: LocalLink) -> dict[str, Peripheral]:
    """Devices that only advertise."""
    return {
        "bthome": advertiser(link, BTHOME, "bthome", [service_data(0xFCD2, BTHOME_DATA)]),
        "secret": advertiser(link, SECRET, "secret", [service_data(0xFCD2, SECRET_DATA)]),
        "ibeacon": advertiser(link, IBEACON, "", [manufacturer_data(0x004C, IBEACON_DATA)]),
        "eddystone": advertiser(link, EDDYSTONE, "", [service_data(0xFEAA, EDDYSTONE_UID)]),
        "maker": advertiser(
            link, MAKER, "", [manufacturer_data(0x0A5C, struct.pack("<hBf", -125, 7, 1.5))]
        ),
    }
