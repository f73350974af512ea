"""The adapter as a Device: `configData: {kind: adapter}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edge.mappers.ble.adapter import AdapterRoom
from edge.mappers.ble.codecs import Value
from edge.mappers.ble.configuration import DeviceConfig
from edge.mappers.ble.values import reading
from edge.mappers.driver import Clock, Reading
from edge.mappers.readings import wanted_value
from gateway.errors import Rejected
from gateway.wire.cloudedge.values import PropertyType, ValueRule

_FLAG = ValueRule(PropertyType.BOOLEAN)


class AdapterDriver:
    """Its properties are in `ADAPTER_PROPERTIES`; `scanning` can be set."""

    def __init__(
        self,
        room: AdapterRoom,
        config: DeviceConfig,
        rules: Mapping[str, ValueRule],
        offered: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._room = room
        self._config = config
        self._rules = rules
        self._offered = offered
        self._clock = clock
        self._changed: list[Callable[[], None]] = []

    async def connect(self) -> None:
        """An adapter that is not there is told as its `state`."""
        await self._room.known()
        self._room.listen(self._tell)

    def _tell(self) -> None:
        for changed in self._changed:
            changed()

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        room, now = self._room, self._clock()
        values: dict[str, Value] = {
            "state": room.now.state.value,
            "scanning": room.is_scanning,
            "seen": len(room.air),
            "discovered": self._offered(),
            "connected": room.connected,
            "address": room.now.address,
            "name": room.now.name,
        }
        return {
            name: reading(self._rules[name], values[name], now)
            for name in names
            if values.get(name, "") != ""
        }

    async def write(self, name: str, text: str) -> None:
        if name != "scanning":
            raise Rejected(f"an adapter's {name} cannot be set")
        rule = self._rules[name]
        wanted = wanted_value(_FLAG if rule.type is not PropertyType.BOOLEAN else rule, text)
        if wanted and not self._room.can_scan:
            raise Rejected("scanning is switched off by the settings: edge.mappers.ble.scan")
        self._room.set_scan(bool(wanted))

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)

    def faults(self) -> Mapping[str, str]:
        """Return the properties that no adapter has."""
        return self._config.faults

    async def close(self) -> None:
        self._changed.clear()
        self._room.unlisten(self._tell)
