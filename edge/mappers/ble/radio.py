"""The only file that knows bleak: scanning, connections, characteristics.

bleak keeps one manager of D-Bus objects per event loop. It does not see bluetoothd being replaced, so whoever
watches the bus (`bluez`) says `forget` then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from bleak import BleakClient, BleakScanner
from bleak.args.bluez import BlueZDiscoveryFilters, OrPattern, OrPatternLike
from bleak.assigned_numbers import AdvertisementDataType
from bleak.backends.bluezdbus.manager import get_global_bluez_manager
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakDBusError,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
)
from dbus_fast.errors import DBusFastError

from edge.mappers.ble.heard import (
    MAX_DATA,
    MAX_PARTS,
    Heard,
    clean_name,
    kind_of,
)
from edge.mappers.driver import DeviceUnreachable
from gateway.errors import Rejected

log = logging.getLogger(__name__)

STOP_SECONDS: Final = 5.0
MAX_CHARACTERISTICS: Final = 2_000
"""Characteristics of one device that are looked at."""
_FLAGS = AdvertisementDataType.FLAGS
_PATTERNS: Final[list[OrPatternLike]] = [
    *(OrPattern(0, _FLAGS, bytes([flags])) for flags in (0x02, 0x04, 0x05, 0x06, 0x1A)),
    OrPattern(0, AdvertisementDataType.SERVICE_DATA_UUID16, b"\xd2\xfc"),
    OrPattern(0, AdvertisementDataType.SERVICE_DATA_UUID16, b"\xaa\xfe"),
    OrPattern(0, AdvertisementDataType.SERVICE_DATA_UUID16, b"\x1c\x18"),
    OrPattern(0, AdvertisementDataType.SERVICE_DATA_UUID16, b"\x1e\x18"),
    OrPattern(0, AdvertisementDataType.MANUFACTURER_SPECIFIC_DATA, b"\x4c\x00"),
]
"""BlueZ scans passively only for patterns: nearly all advertisements begin with one of these."""

logging.getLogger("bleak.backends.bluezdbus.version").setLevel(
    logging.ERROR
)  # bluetoothctl is optional


_REFUSALS: Final = frozenset(
    f"org.bluez.Error.{word}"
    for word in ("NotPermitted", "NotSupported", "NotAuthorized", "InvalidArguments")
)


class AttributeRefused(Rejected):
    """The device refuses what is asked of one characteristic; its connection is well."""

    code = "edge.ble.attribute.refused"
    default_message = "the device refuses it"


@contextmanager
def own_errors(what: str, *, of_attribute: bool = False) -> Iterator[None]:
    """Turn what bleak, D-Bus and the system raise into errors of ours.

    What BlueZ refuses of one attribute (to notify, to be read before pairing) is no fault of the connection.
    """
    try:
        yield
    except BleakGATTProtocolError as error:
        raise AttributeRefused(f"{what}: the device says {error}") from error
    except BleakDeviceNotFoundError as error:
        raise DeviceUnreachable(f"{what}: BlueZ does not know the device any more") from error
    except BleakBluetoothNotAvailableError as error:
        raise DeviceUnreachable(f"{what}: {error.args[0]}") from error
    except BleakDBusError as error:
        details = str(error.dbus_error_details or error.dbus_error)
        if of_attribute and error.dbus_error in _REFUSALS:
            hint = ": the device wants to be paired (pair)" if "paired" in details else ""
            raise AttributeRefused(f"{what}: {details[:200]}{hint}") from error
        raise DeviceUnreachable(f"{what}: {details[:200]}") from error
    except TimeoutError as error:
        raise DeviceUnreachable(f"{what}: no answer in time") from error
    except (BleakError, DBusFastError, OSError, EOFError, AssertionError, KeyError) as error:
        cause = str(error)[:200] or type(error).__name__
        raise DeviceUnreachable(f"{what}: {cause}") from error
    except ValueError as error:  # bleak's table of error codes has not all that devices may answer
        raise AttributeRefused(f"{what}: the device answers with an unknown error") from error


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How to scan. `services` are UUIDs, of which a device must advertise one; `min_rssi` -127 for all."""

    adapter: str
    mode: Literal["active", "passive"] = "active"
    services: tuple[str, ...] = ()
    min_rssi: int = -127
    repeats: bool = True


@asynccontextmanager
async def scanning(options: ScanOptions, heard: Callable[[Heard], None]) -> AsyncIterator[None]:
    """Scan for the length of the block. Errors: DeviceUnreachable."""

    def detected(device: BLEDevice, data: AdvertisementData) -> None:
        heard(_heard(device, data))

    filters = BlueZDiscoveryFilters(DuplicateData=options.repeats)
    if options.min_rssi > -127:
        filters["RSSI"] = options.min_rssi
    with own_errors("scanning"):
        scanner = BleakScanner(
            detected,
            list(options.services) or None,
            options.mode,
            bluez={"adapter": options.adapter, "filters": filters, "or_patterns": _PATTERNS},
        )
        await scanner.start()
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(STOP_SECONDS):
                with own_errors("scanning"):
                    await scanner.stop()
        except (DeviceUnreachable, Rejected, TimeoutError) as error:
            log.debug("a scan did not stop in order", extra={"cause": str(error)})


def _heard(device: BLEDevice, data: AdvertisementData) -> Heard:
    props = data.platform_data[1]
    makers = list(data.manufacturer_data.items())[:MAX_PARTS]
    services = list(data.service_data.items())[:MAX_PARTS]
    return Heard(
        address=device.address.upper(),
        kind=kind_of(device.address, str(props.get("AddressType", "public"))),
        token=device,
        name=clean_name(data.local_name),
        rssi=data.rssi,
        tx_power=data.tx_power,
        services=frozenset(data.service_uuids[:MAX_PARTS]),
        manufacturer={company: value[:MAX_DATA] for company, value in makers},
        service_data={uuid: value[:MAX_DATA] for uuid, value in services},
    )


@dataclass(frozen=True, slots=True)
class Characteristic:
    """One characteristic of a connected device."""

    uuid: str
    service: str
    handle: int
    may_read: bool
    may_write: bool
    may_write_blind: bool
    may_notify: bool
    blind_size: int
    own: BleakGATTCharacteristic


class RadioLink:
    """A connection to one device."""

    def __init__(self, client: BleakClient) -> None:
        self._client = client

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected

    def characteristics(self) -> tuple[list[Characteristic], bool]:
        """Return the device's characteristics by handle, and whether there are more than are looked at.

        Errors: DeviceUnreachable.
        """
        with own_errors("services"):
            found = self._client.services.characteristics
        handles = sorted(found)
        some = handles[:MAX_CHARACTERISTICS]
        return [_characteristic(found[handle]) for handle in some], len(some) < len(handles)

    async def read(self, one: Characteristic) -> bytes:
        """Errors: AttributeRefused; DeviceUnreachable."""
        with own_errors("reading", of_attribute=True):
            return bytes(await self._client.read_gatt_char(one.own))

    async def write(self, one: Characteristic, data: bytes, *, response: bool) -> None:
        """Errors: AttributeRefused; DeviceUnreachable."""
        with own_errors("writing", of_attribute=True):
            await self._client.write_gatt_char(one.own, data, response=response)

    async def listen(self, one: Characteristic, told: Callable[[bytes], None]) -> None:
        """Have `told` called with each notification. Errors: AttributeRefused; DeviceUnreachable."""
        with own_errors("notifications", of_attribute=True):
            await self._client.start_notify(one.own, lambda _own, data: told(bytes(data)))

    async def unlisten(self, one: Characteristic) -> None:
        """Errors: AttributeRefused; DeviceUnreachable."""
        with own_errors("notifications", of_attribute=True):
            await self._client.stop_notify(one.own)

    async def close(self) -> None:
        """End the connection; never raises."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                with own_errors("disconnecting"):
                    await self._client.disconnect()
        except (DeviceUnreachable, Rejected, TimeoutError) as error:
            log.debug("a connection did not end in order", extra={"cause": str(error)})


async def connect(
    token: object, seconds: float, *, pair: bool, lost: Callable[[], None]
) -> RadioLink:
    """Connect to a device that was heard; `lost` is called once when the link ends.

    Errors: DeviceUnreachable.
    """
    if not isinstance(token, BLEDevice):
        raise DeviceUnreachable("connecting: the device was not heard by this radio")
    client = BleakClient(token, lambda _client: lost(), timeout=seconds, pair=pair)
    with own_errors("connecting"):
        await client.connect()
    return RadioLink(client)


def _characteristic(own: BleakGATTCharacteristic) -> Characteristic:
    may: Sequence[str] = own.properties
    return Characteristic(
        own.uuid,
        own.service_uuid,
        own.handle,
        "read" in may,
        "write" in may,
        "write-without-response" in may,
        "notify" in may or "indicate" in may,
        own.max_write_without_response_size,
        own,
    )


async def forget() -> None:
    """Forget what is known of BlueZ: another bluetoothd has taken over, or the bus is a new one.

    bleak has no call for it; losing its own connection to the bus has that effect.
    """
    try:
        with own_errors("starting anew"):
            manager = await get_global_bluez_manager()
    except (DeviceUnreachable, Rejected):
        return
    bus = manager._bus
    if bus is not None:
        bus.disconnect()
        await asyncio.sleep(0)
