"""The port to a kind of hardware: what all devices of one protocol share, in a process of their own.

A `Family` owns what there is once per machine or network: a Bluetooth adapter, a Zigbee coordinator, a pool
of Modbus connections. It makes the driver of each Device and says what else it sees. It runs in a child
process that EdgeCore starts with the first Device of the protocol (`edge.mappers.process`), so its libraries
may be heavy, and a crash of it costs no more than its own devices a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from edge.mappers.driver import Clock, Driver
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView


class DiscoveredProperty(msgspec.Struct, frozen=True, omit_defaults=True):
    """A property that a discovered device would have, as the DeviceModel would declare it.

    Shape:  `type` INT, FLOAT, DOUBLE, BOOLEAN, STRING, BYTES; `access` ReadOnly or ReadWrite; `minimum`,
            `maximum` texts; `visitor` the `configData` with which the driver finds it.
    """

    name: str
    type: str
    access: str = "ReadOnly"
    unit: str = ""
    minimum: str = ""
    maximum: str = ""
    description: str = ""
    visitor: dict[str, Any] = {}


class Discovered(msgspec.Struct, frozen=True, omit_defaults=True):
    """A device that a mapper sees and that may be nobody's Device yet.

    Shape:  `address` tells it from all others of the protocol and never changes (MAC, IEEE, unit id at
            host); `config` is the Device's `protocol.configData`; `model` a name for devices of its kind;
            `signal` in dBm, 0 for unknown; `facts` short texts for people (vendor, firmware, battery).
    """

    protocol: str
    address: str
    name: str = ""
    model: str = ""
    manufacturer: str = ""
    signal: int = 0
    config: dict[str, Any] = {}
    properties: tuple[DiscoveredProperty, ...] = ()
    facts: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a family is given.

    Shape:  `settings` is `edge.mappers.<family>` as plain JSON; `folder` is the family's own on disk
            (0700); `discovered` takes what is seen, again whenever it changes, `lost` an address that is gone
            for good; `count` adds to a counter of `MapperMetrics` by name (closed label values only).
    """

    settings: JsonObject
    folder: Path
    clock: Clock
    discovered: Callable[[Discovered], None]
    lost: Callable[[str], None]
    count: Callable[[str, int], None] = field(default=lambda _name, _by: None)


class Family(Protocol):
    """All devices of one protocol."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Work until cancelled: own the radio, scan, find lost hardware again.

        Lost hardware is not the end: it is tried again with back-off inside, meanwhile drivers raise
        DeviceUnreachable. Errors: InvalidSetting for what somebody must change.
        """

    def driver(self, view: DeviceView, model: ModelView | None) -> Driver:
        """Make the driver of a Device, whose defaults from the model are filled in already.

        Errors: Rejected for a configuration that cannot work.
        """

    def facts(self) -> JsonObject:
        """Say how the hardware is, for `twinspan edge status`: state, address, firmware; short values."""


@runtime_checkable
class TakesOrders(Protocol):
    """A family that can be told to do something that is no property of a Device; families need not."""

    async def order(self, name: str, arguments: Mapping[str, str]) -> JsonObject:
        """Do it, e.g. `permit-join` with `seconds`. Errors: NotFound for an unknown name; Rejected."""

    def orders(self) -> Sequence[str]:
        """Return the names that it knows."""


FamilyFactory = Callable[[Surroundings], Family]
"""Makes a family; imports its library when called, not before."""

FAMILIES: Mapping[str, str] = {
    "bluetooth": "edge.mappers.ble.family:make_ble",
    "ble": "edge.mappers.ble.family:make_ble",
    "zigbee": "edge.mappers.zigbee.family:make_zigbee",
    "modbus": "edge.mappers.modbus.family:make_modbus",
    "opcua": "edge.mappers.opcua.family:make_opcua",
    "coap": "edge.mappers.coap.family:make_coap",
    "http": "edge.mappers.http.family:make_http",
    "edgex": "edge.mappers.edgex.family:make_edgex",
}
"""Protocol name of a Device -> who makes its family. Names with one maker share one process."""
