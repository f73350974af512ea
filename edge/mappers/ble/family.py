"""All Bluetooth Devices of a node, in one process: its adapters, and the drivers over them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from edge.mappers.ble.advertised import AdvertReader
from edge.mappers.ble.configuration import Advertised, DeviceConfig, Kind, read_device
from edge.mappers.ble.discovery import Offers
from edge.mappers.driver import Driver
from edge.mappers.family import Surroundings
from edge.mappers.readings import rules_of
from gateway.errors import InvalidSetting, NotFound, Rejected
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

try:
    from edge.mappers.ble.adapter import AdapterRoom
    from edge.mappers.ble.adapterdevice import AdapterDriver
    from edge.mappers.ble.connected import ConnectedDriver
    from edge.mappers.ble.passive import PassiveDriver
    from edge.mappers.ble.probe import probed
    from edge.mappers.ble.settings import read_options
except ModuleNotFoundError as error:
    raise InvalidSetting(
        f"Bluetooth needs the library {error.name}: pip install 'twinspan[ble]'"
    ) from error

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 2.0
MAX_ADAPTERS: Final = 8


class BleFamily:
    """The family; an adapter is followed from the first Device that names it, the settings' one always."""

    def __init__(self, around: Surroundings) -> None:
        """Errors: InvalidSetting."""
        self._around = around
        self._options = read_options(around.settings)
        own = self._options.own
        self._offers = Offers(
            own.max_offered,
            tuple(own.offer_names),
            own.lost_after,
            around.discovered,
            around.lost,
        )
        self._rooms: dict[str, AdapterRoom] = {}
        self._new: asyncio.Queue[AdapterRoom] = asyncio.Queue()
        self._room(own.adapter)

    async def run(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._offer())
            ready()
            while True:
                room = await self._new.get()
                group.create_task(room.run(), name=f"bluetooth {room.name}")

    def _room(self, name: str) -> AdapterRoom:
        room = self._rooms.get(name)
        if room is None:
            if len(self._rooms) >= MAX_ADAPTERS:
                raise Rejected(f"configData.adapter: at most {MAX_ADAPTERS} adapters are followed")
            if not name.replace("_", "").isalnum():
                raise Rejected(f"configData.adapter: expected a name like hci0, got {name[:40]!r}")
            room = self._rooms[name] = AdapterRoom(name, self._options, self._around.clock)
            self._new.put_nowait(room)
        return room

    async def _offer(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            airs = [room.air for room in self._rooms.values()]
            self._offers.look(self._around.clock(), *airs)

    # --- drivers ----------------------------------------------------------------------------------

    def driver(self, view: DeviceView, model: ModelView | None) -> Driver:
        own = self._options.own
        config = read_device(view, own.adapter, own.stale_after)
        room = self._room(config.adapter)
        rules = rules_of(view, model)
        around = self._around
        if config.kind is Kind.ADAPTER:
            return AdapterDriver(room, config, rules, lambda: len(self._offers), around.clock)
        adverts = AdvertReader(
            _advertised(config), rules, config.key, config.stale_after, around.count
        )
        if config.kind is Kind.PASSIVE:
            lost_after = max(own.lost_after, config.stale_after)
            return PassiveDriver(room, config, adverts, around.clock, lost_after)
        return ConnectedDriver(
            room, config, rules, adverts, around.clock, around.count, own.max_notifications
        )

    # --- for people -------------------------------------------------------------------------------

    def facts(self) -> JsonObject:
        shown: dict[str, Json] = {}
        for name, room in self._rooms.items():
            shown[name] = {
                "state": room.now.state.value,
                "address": room.now.address,
                "scanning": room.is_scanning,
                "seen": len(room.air),
                "connected": room.connected,
                "why": "" if room.is_up and not room.trouble else room.why_not(),
            }
        return {"is_up": any(room.is_up for room in self._rooms.values()), "adapters": shown}

    def orders(self) -> Sequence[str]:
        return ("probe",)

    async def order(self, name: str, arguments: Mapping[str, str]) -> JsonObject:
        """`probe` connects to an `address` and offers the device with the characteristics that it has."""
        if name != "probe":
            raise NotFound(f"Bluetooth has no order {name}; it knows probe")
        adapter = arguments.get("adapter", self._options.own.adapter)
        found = await probed(self._room(adapter), arguments.get("address", ""))
        self._around.discovered(found)
        return {"address": found.address, "properties": [each.name for each in found.properties]}


def _advertised(config: DeviceConfig) -> dict[str, Advertised]:
    return {n: s for n, s in config.sources.items() if isinstance(s, Advertised)}


def make_ble(around: Surroundings) -> BleFamily:
    """Make the family. Errors: InvalidSetting for settings, or a library that is missing."""
    return BleFamily(around)
