"""What is known of Zigbee's clusters: which property is where, how it is written, set and reported.

Source: Zigbee Cluster Library, the clusters' own chapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edge.mappers.zigbee import codecs
from edge.mappers.zigbee.codecs import Codec

BASIC, POWER, ON_OFF, LEVEL, POLL = 0x0000, 0x0001, 0x0006, 0x0008, 0x0020
COLOUR, THERMOSTAT, ZONE, METERING, ELECTRICAL = 0x0300, 0x0201, 0x0500, 0x0702, 0x0B04
ILLUMINANCE, TEMPERATURE, PRESSURE, HUMIDITY, OCCUPANCY = 0x0400, 0x0402, 0x0403, 0x0405, 0x0406
COVER, SOIL, CO2, PM25 = 0x0102, 0x0408, 0x040D, 0x042A

CLUSTERS: Final[Mapping[str, int]] = {
    "basic": BASIC,
    "power": POWER,
    "power_configuration": POWER,
    "on_off": ON_OFF,
    "level": LEVEL,
    "level_control": LEVEL,
    "poll_control": POLL,
    "window_covering": COVER,
    "thermostat": THERMOSTAT,
    "color_control": COLOUR,
    "colour_control": COLOUR,
    "light_color": COLOUR,
    "illuminance_measurement": ILLUMINANCE,
    "illuminance": ILLUMINANCE,
    "temperature_measurement": TEMPERATURE,
    "temperature": TEMPERATURE,
    "pressure_measurement": PRESSURE,
    "pressure": PRESSURE,
    "relative_humidity": HUMIDITY,
    "humidity": HUMIDITY,
    "occupancy_sensing": OCCUPANCY,
    "occupancy": OCCUPANCY,
    "soil_moisture": SOIL,
    "carbon_dioxide_concentration": CO2,
    "pm25": PM25,
    "ias_zone": ZONE,
    "metering": METERING,
    "smartenergy_metering": METERING,
    "electrical_measurement": ELECTRICAL,
}
"""Names of clusters; any other is given by its number."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """When a device is to report: seconds at least and at most between reports, and the least change."""

    low: int
    high: int
    change: float = 0


@dataclass(frozen=True, slots=True)
class Command:
    """A cluster command: its number, and the arguments after those of the codec."""

    number: int
    has_transition: bool = False
    options: tuple[int, ...] = ()
    is_number_the_value: bool = False
    """On/off: the command's number is what the codec gives."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """One property as people know it.

    Shape:  `attributes` are read together; `kind` is their ZCL type; `ratio` the attributes that hold
            multiplier and divisor; `factor` what comes on top of the ratio; `near` how far a raw value
            may be from what was wished and still be that.
    """

    cluster: int
    attributes: tuple[int, ...]
    kind: str
    codec: Codec
    type: str
    unit: str = ""
    minimum: str = ""
    maximum: str = ""
    command: Command | None = None
    reporting: Reporting | None = None
    ratio: tuple[int, int] | None = None
    factor: float = 1.0
    near: int = 0
    description: str = ""
    is_writable: bool = False
    """Whether the attribute itself is written."""

    @property
    def access(self) -> str:
        return "ReadWrite" if self.command is not None or self.is_writable else "ReadOnly"


_OFTEN, _SENSOR, _RARE = 300, 3_600, 21_600
"""Longest silence of what follows a wish, of measurements, of batteries, in seconds."""

MEANINGS: Final[Mapping[str, Meaning]] = {
    "on": Meaning(
        ON_OFF, (0,), "bool", codecs.switch(), "BOOLEAN",
        command=Command(0, is_number_the_value=True), reporting=Reporting(0, _OFTEN),
    ),
    "brightness": Meaning(
        LEVEL, (0,), "uint8", codecs.percent_of_level(), "INT", "%", "0", "100",
        command=Command(4, has_transition=True), reporting=Reporting(1, _OFTEN, 1),
    ),
    "colourTemperature": Meaning(
        COLOUR, (7,), "uint16", codecs.mireds(), "INT", "mired", "1", "65279",
        command=Command(10, has_transition=True), reporting=Reporting(1, _OFTEN, 1),
    ),
    "colourTemperatureKelvin": Meaning(
        COLOUR, (7,), "uint16", codecs.kelvin(), "INT", "K", "16", "1000000",
        command=Command(10, has_transition=True), reporting=Reporting(1, _OFTEN, 1), near=1,
    ),
    "colourXy": Meaning(
        COLOUR, (3, 4), "uint16", codecs.xy(), "STRING",
        command=Command(7, has_transition=True), reporting=Reporting(1, _OFTEN, 10),
        near=64, description="CIE 1931 coordinates: x,y",
    ),
    "colourHs": Meaning(
        COLOUR, (0, 1), "uint8", codecs.hue_saturation(), "STRING",
        command=Command(6, has_transition=True), reporting=Reporting(1, _OFTEN, 1),
        near=1, description="hue in degrees, saturation in percent",
    ),
    "temperature": Meaning(
        TEMPERATURE, (0,), "int16", codecs.linear(0.01, 2), "DOUBLE", "°C", "-273.15", "327.67",
        reporting=Reporting(10, _SENSOR, 10),
    ),
    "humidity": Meaning(
        HUMIDITY, (0,), "uint16", codecs.linear(0.01, 2), "DOUBLE", "%", "0", "100",
        reporting=Reporting(10, _SENSOR, 50),
    ),
    "pressure": Meaning(
        PRESSURE, (0,), "int16", codecs.linear(1, 1), "DOUBLE", "hPa",
        reporting=Reporting(10, _SENSOR, 1),
    ),
    "illuminance": Meaning(
        ILLUMINANCE, (0,), "uint16", codecs.lux(), "DOUBLE", "lx", "0",
        reporting=Reporting(10, _SENSOR, 500),
    ),
    "occupancy": Meaning(
        OCCUPANCY, (0,), "map8", codecs.bit(1), "BOOLEAN", reporting=Reporting(0, _SENSOR)
    ),
    "contact": Meaning(
        ZONE, (2,), "map16", codecs.bit(3, inverted=True), "BOOLEAN",
        description="true while it is closed",
    ),
    "alarm": Meaning(
        ZONE, (2,), "map16", codecs.bit(3), "BOOLEAN", description="one of the zone's two alarms"
    ),
    "tamper": Meaning(ZONE, (2,), "map16", codecs.bit(4), "BOOLEAN"),
    "batteryLow": Meaning(ZONE, (2,), "map16", codecs.bit(8), "BOOLEAN"),
    "battery": Meaning(
        POWER, (0x21,), "uint8", codecs.linear(0.5, 1), "DOUBLE", "%", "0", "100",
        reporting=Reporting(3_600, _RARE, 2),
    ),
    "batteryVoltage": Meaning(
        POWER, (0x20,), "uint8", codecs.linear(0.1, 1), "DOUBLE", "V", "0",
        reporting=Reporting(3_600, _RARE, 1),
    ),
    "power": Meaning(
        ELECTRICAL, (0x050B,), "int16", codecs.plain(), "DOUBLE", "W",
        reporting=Reporting(5, _OFTEN, 10), ratio=(0x0604, 0x0605),
    ),
    "voltage": Meaning(
        ELECTRICAL, (0x0505,), "uint16", codecs.plain(), "DOUBLE", "V", "0",
        reporting=Reporting(10, _OFTEN, 10), ratio=(0x0600, 0x0601),
    ),
    "current": Meaning(
        ELECTRICAL, (0x0508,), "uint16", codecs.plain(), "DOUBLE", "A", "0",
        reporting=Reporting(5, _OFTEN, 50), ratio=(0x0602, 0x0603),
    ),
    "energy": Meaning(
        METERING, (0,), "uint48", codecs.plain(), "DOUBLE", "kWh", "0",
        reporting=Reporting(10, _OFTEN, 1), ratio=(0x0301, 0x0302),
    ),
    "demand": Meaning(
        METERING, (0x0400,), "int24", codecs.plain(), "DOUBLE", "W",
        reporting=Reporting(5, _OFTEN, 1), ratio=(0x0301, 0x0302), factor=1_000.0,
    ),
    "coverPosition": Meaning(
        COVER, (8,), "uint8", codecs.plain(), "INT", "%", "0", "100",
        command=Command(5), reporting=Reporting(1, _OFTEN, 1), description="100 is closed",
    ),
    "localTemperature": Meaning(
        THERMOSTAT, (0,), "int16", codecs.linear(0.01, 2), "DOUBLE", "°C",
        reporting=Reporting(10, _SENSOR, 10),
    ),
    "heatingSetpoint": Meaning(
        THERMOSTAT, (0x12,), "int16", codecs.linear(0.01, 2), "DOUBLE", "°C",
        reporting=Reporting(1, _SENSOR, 1), is_writable=True,
    ),
    "systemMode": Meaning(
        THERMOSTAT, (0x1C,), "enum8", codecs.plain(), "INT",
        reporting=Reporting(1, _SENSOR), is_writable=True,
        description="0 off, 1 automatic, 3 cool, 4 heat",
    ),
    "soilMoisture": Meaning(
        SOIL, (0,), "uint16", codecs.linear(0.01, 2), "DOUBLE", "%", "0", "100",
        reporting=Reporting(10, _SENSOR, 100),
    ),
    "co2": Meaning(
        CO2, (0,), "single", codecs.linear(1e6, 1), "DOUBLE", "ppm", "0",
        reporting=Reporting(10, _SENSOR, 25e-6),
    ),
    "pm25": Meaning(
        PM25, (0,), "single", codecs.linear(1, 2), "DOUBLE", "µg/m³", "0",
        reporting=Reporting(10, _SENSOR, 1.0),
    ),
}  # fmt: skip
"""By the name of the property that a discovered device would have."""

ALIASES: Final[Mapping[str, str]] = {
    "state": "on",
    "onOff": "on",
    "switch": "on",
    "level": "brightness",
    "colorTemperature": "colourTemperature",
    "colourTemp": "colourTemperature",
    "colorTemp": "colourTemperature",
    "colorTemperatureKelvin": "colourTemperatureKelvin",
    "colorXy": "colourXy",
    "colorHs": "colourHs",
    "motion": "occupancy",
    "batteryPercentage": "battery",
}

ATTRIBUTES: Final[Mapping[tuple[int, str], int]] = {
    (cluster, name): number
    for cluster, names in {
        ON_OFF: {"on_off": 0, "start_up_on_off": 0x4003},
        LEVEL: {"current_level": 0},
        COLOUR: {"current_hue": 0, "current_saturation": 1, "current_x": 3, "current_y": 4},
        ILLUMINANCE: {"measured_value": 0},
        TEMPERATURE: {"measured_value": 0},
        PRESSURE: {"measured_value": 0},
        HUMIDITY: {"measured_value": 0},
        OCCUPANCY: {"occupancy": 0},
        ZONE: {"zone_status": 2},
        POWER: {"battery_voltage": 0x20, "battery_percentage_remaining": 0x21},
        METERING: {"current_summ_delivered": 0, "instantaneous_demand": 0x0400},
        ELECTRICAL: {"rms_voltage": 0x0505, "rms_current": 0x0508, "active_power": 0x050B},
    }.items()
    for name, number in names.items()
}
"""Names of attributes that have a meaning here; others are looked up in the radio library's own table."""

FULL_MEANT: Final = frozenset(
    {(ON_OFF, 0x4003), (COLOUR, 0x4010)}
    | {(LEVEL, number) for number in (0x11, 0x12, 0x13, 0x14, 0x4000)}
)
"""Attributes whose highest number is no "none" but a choice: what it was before, as fast as it can."""

_PLACES: Final[Mapping[tuple[int, int], str]] = {
    (meaning.cluster, meaning.attributes[0]): name
    for name, meaning in reversed(list(MEANINGS.items()))
    if len(meaning.attributes) == 1
}


def meaning_of(name: str) -> Meaning | None:
    """Return what is known of a property's name."""
    return MEANINGS.get(ALIASES.get(name, name))


def name_at(cluster: int, attribute: int) -> str | None:
    """Return the property that an attribute is usually read as."""
    return _PLACES.get((cluster, attribute))
