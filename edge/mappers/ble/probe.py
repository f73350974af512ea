"""A look into a device: connected once, its characteristics become the properties that are offered."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from edge.mappers.ble.adapter import AdapterRoom
from edge.mappers.ble.configuration import Match
from edge.mappers.ble.heard import Sighting
from edge.mappers.ble.propose import MAX_PROPERTIES, characteristic_property, proposed
from edge.mappers.ble.radio import Characteristic
from edge.mappers.ble.sig import CHARACTERISTICS
from edge.mappers.ble.uuids import address_of, number_of
from edge.mappers.driver import DeviceUnreachable
from edge.mappers.family import Discovered, DiscoveredProperty

PROBE_SECONDS: Final = 20.0
_GENERIC: Final = frozenset({0x1800, 0x1801})
"""Generic Access and Generic Attribute: about the connection, not about the device."""


async def probed(room: AdapterRoom, address: str) -> Discovered:
    """Connect and look. Errors: Rejected for no address; DeviceUnreachable."""
    match = Match(address=address_of(address))
    sighting = await room.wait_for(match, PROBE_SECONDS)
    known = await _characteristics(room, sighting)
    guess = proposed(sighting.heard)
    properties = [made for one in known if (made := _property(one)) is not None]
    unique = tuple({each.name: each for each in properties}.values())[:MAX_PROPERTIES]
    names = re.sub(r"[^a-z0-9]+", "-", (sighting.heard.name or "device").lower()).strip("-")
    return _looked_into(guess, unique, f"bluetooth-{names or 'device'}"[:60].strip("-"))


async def _characteristics(room: AdapterRoom, sighting: Sighting) -> list[Characteristic]:
    """Look; through the connection of the device's Device, where there is one: ours would end that."""
    link = room.link_to(sighting.heard.address)
    if link is not None:
        return link.characteristics()[0]
    lease = await room.connect(sighting, PROBE_SECONDS, pair=False, ended=lambda: None)
    try:
        if lease.link is None:
            raise DeviceUnreachable("the link was lost")
        return lease.link.characteristics()[0]
    finally:
        await room.release(lease)


def _looked_into(
    guess: Discovered, properties: tuple[DiscoveredProperty, ...], model: str
) -> Discovered:
    return msgspec.structs.replace(
        guess,
        model=model,
        config={key: value for key, value in guess.config.items() if key != "kind"},
        properties=properties + guess.properties[-1:],
        facts={**guess.facts, "probed": "true"},
    )


def _property(one: Characteristic) -> DiscoveredProperty | None:
    if number_of(one.service) in _GENERIC:
        return None
    can_write = one.may_write or one.may_write_blind
    access = "ReadWrite" if can_write else "ReadOnly"
    number = number_of(one.uuid)
    if number in CHARACTERISTICS and number is not None:
        return characteristic_property(number, access)
    if not one.may_read and not one.may_notify and not can_write:
        return None
    visitor = {"characteristicUUID": one.uuid, "serviceUUID": one.service, "decoder": "hex"}
    name = f"c{one.uuid[4:8] if number is not None else one.uuid[:8]}"
    return DiscoveredProperty(name, "STRING", access, visitor=visitor)
