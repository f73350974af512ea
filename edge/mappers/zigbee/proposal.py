"""What is offered of a device that has joined: its properties by the clusters that it has."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from edge.mappers.family import Discovered, DiscoveredProperty
from edge.mappers.zigbee import meanings
from edge.mappers.zigbee.meanings import MEANINGS
from edge.mappers.zigbee.seen import Seen

PROTOCOL = "zigbee"

BY_CLUSTER: Mapping[int, Sequence[str]] = {
    meanings.ON_OFF: ("on",),
    meanings.LEVEL: ("brightness",),
    meanings.TEMPERATURE: ("temperature",),
    meanings.HUMIDITY: ("humidity",),
    meanings.PRESSURE: ("pressure",),
    meanings.ILLUMINANCE: ("illuminance",),
    meanings.OCCUPANCY: ("occupancy",),
    meanings.POWER: ("battery",),
    meanings.ELECTRICAL: ("power", "voltage", "current"),
    meanings.METERING: ("energy",),
    meanings.COVER: ("coverPosition",),
    meanings.THERMOSTAT: ("localTemperature", "heatingSetpoint", "systemMode"),
    meanings.SOIL: ("soilMoisture",),
    meanings.CO2: ("co2",),
    meanings.PM25: ("pm25",),
}
CONTACT = 0x0015
MOTION = 0x000D
COLOUR_HS, COLOUR_XY, COLOUR_TEMPERATURE = 0x01, 0x08, 0x10
MAX_TEXT = 64
MAX_PROPERTIES = 100
"""Properties that are offered of one device; it may say that it has 240 endpoints of 120 clusters."""


def propose(seen: Seen) -> Discovered:
    """Return a device as it is offered."""
    label = seen.model or "device"
    some = tuple(itertools.islice(_properties(seen), MAX_PROPERTIES + 1))
    return Discovered(
        protocol=PROTOCOL,
        address=seen.ieee,
        name=f"{label} {seen.ieee[-8:].replace(':', '')}",
        model=_name(f"{seen.manufacturer} {label}"),
        manufacturer=seen.manufacturer,
        signal=seen.rssi,
        config={"ieee": seen.ieee},
        properties=some[:MAX_PROPERTIES],
        facts=_facts(seen, are_more=len(some) > MAX_PROPERTIES),
    )


def _properties(seen: Seen) -> Iterator[DiscoveredProperty]:
    taken: set[str] = set()
    for endpoint, clusters in sorted(seen.endpoints.items()):
        for cluster in clusters:
            for name in _names(seen, cluster, clusters):
                is_second = name in taken
                taken.add(name)
                yield _property(name, cluster, endpoint, is_second=is_second)


def _names(seen: Seen, cluster: int, clusters: Sequence[int]) -> Sequence[str]:
    if cluster == meanings.COLOUR:
        return _colours(seen.colour_capabilities)
    if cluster == meanings.ZONE:
        kind = {CONTACT: "contact", MOTION: "occupancy"}.get(seen.zone_type, "alarm")
        return (kind, "tamper")
    if cluster == meanings.METERING and meanings.ELECTRICAL not in clusters:
        return ("energy", "demand")
    if cluster == meanings.POWER and not seen.is_battery:
        return ()
    return BY_CLUSTER.get(cluster, ())


def _colours(capabilities: int) -> tuple[str, ...]:
    found = (
        (COLOUR_TEMPERATURE, "colourTemperature"),
        (COLOUR_XY, "colourXy"),
        (COLOUR_HS, "colourHs"),
    )
    return tuple(name for bit, name in found if capabilities & bit)


def _property(name: str, cluster: int, endpoint: int, *, is_second: bool) -> DiscoveredProperty:
    meaning = MEANINGS[name]
    visitor: dict[str, object] = {"property": name}
    if name == "occupancy" and cluster == meanings.ZONE:
        visitor = {"property": "alarm"}
    if is_second:
        visitor["endpoint"] = endpoint
    return DiscoveredProperty(
        name=f"{name}{endpoint}" if is_second else name,
        type=meaning.type,
        access=meaning.access,
        unit=meaning.unit,
        minimum=meaning.minimum,
        maximum=meaning.maximum,
        description=meaning.description,
        visitor=visitor,
    )


def _facts(seen: Seen, *, are_more: bool) -> dict[str, str]:
    more = {"more": "not all of its properties are offered"} if are_more else {}
    return {
        **more,
        "power": "battery" if seen.is_battery else "mains",
        "role": "end device" if seen.is_sleepy else "router or always listening",
        "nwk": f"0x{seen.nwk:04x}",
    }


def _name(text: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_TEXT].strip("-")
    return plain or "zigbee-device"
