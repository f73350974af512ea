"""The virtual devices by name."""

from __future__ import annotations

from collections.abc import Callable

from tests.zigbee import values as t
from tests.zigbee.device import Device
from tests.zigbee.values import Attribute


def _basic(model: str, source: int) -> dict[int, Attribute]:
    return {
        0: Attribute(t.UINT8, 3),
        4: Attribute(t.STRING, "Twinspan Lab"),
        5: Attribute(t.STRING, model),
        7: Attribute(t.ENUM8, source),
        0x4000: Attribute(t.STRING, "1.0.7"),
    }


def lamp(ieee: int) -> Device:
    clusters = {
        0x0000: _basic("LampRGBW", 1),
        0x0006: {0: Attribute(t.BOOL, 0)},
        0x0008: {0: Attribute(t.UINT8, 254)},
        0x0300: {
            0: Attribute(t.UINT8, 0),
            1: Attribute(t.UINT8, 0),
            3: Attribute(t.UINT16, 20_000),
            4: Attribute(t.UINT16, 21_000),
            7: Attribute(t.UINT16, 370),
            8: Attribute(t.ENUM8, 2),
            0x400A: Attribute(t.MAP16, 0x19),
            0x400B: Attribute(t.UINT16, 153),
            0x400C: Attribute(t.UINT16, 500),
        },
    }
    return Device(ieee, 11, 0x010D, clusters)


def thermometer(ieee: int) -> Device:
    clusters = {
        0x0000: _basic("Climate", 3),
        0x0001: {0x20: Attribute(t.UINT8, 29), 0x21: Attribute(t.UINT8, 170)},
        0x0020: {
            0: Attribute(t.UINT32, 14_400, is_writable=True),
            3: Attribute(t.UINT16, 40, is_writable=True),
        },
        0x0402: {0: Attribute(t.INT16, 2_150)},
        0x0405: {0: Attribute(t.UINT16, 4_630)},
        0x0201: {0x12: Attribute(t.INT16, 2_000, is_writable=True)},
    }
    return Device(ieee, 1, 0x0302, clusters, is_sleepy=True)


def plug(ieee: int) -> Device:
    clusters = {
        0x0000: _basic("MeterPlug", 1),
        0x0006: {0: Attribute(t.BOOL, 1)},
        0x0702: {
            0: Attribute(t.UINT48, 12_345),
            0x0301: Attribute(t.UINT24, 1),
            0x0302: Attribute(t.UINT24, 1_000),
            0x0400: Attribute(t.INT24, 40),
        },
        0x0B04: {
            0x0505: Attribute(t.UINT16, 2_301),
            0x0508: Attribute(t.UINT16, 173),
            0x050B: Attribute(t.INT16, 398),
            0x0600: Attribute(t.UINT16, 1),
            0x0601: Attribute(t.UINT16, 10),
            0x0602: Attribute(t.UINT16, 1),
            0x0603: Attribute(t.UINT16, 1_000),
            0x0604: Attribute(t.UINT16, 1),
            0x0605: Attribute(t.UINT16, 10),
        },
    }
    return Device(ieee, 1, 0x0051, clusters)


def contact(ieee: int) -> Device:
    clusters = {
        0x0000: _basic("DoorSense", 3),
        0x0001: {0x21: Attribute(t.UINT8, 200)},
        0x0500: {
            0: Attribute(t.ENUM8, 0),
            1: Attribute(t.ENUM16, 0x0015),
            2: Attribute(t.MAP16, 0),
            0x10: Attribute(t.EUI64, 0, is_writable=True),
            0x11: Attribute(t.UINT8, 0xFF),
        },
    }
    return Device(ieee, 1, 0x0402, clusters, is_sleepy=True)


def motion(ieee: int) -> Device:
    clusters = {
        0x0000: _basic("MotionSense", 3),
        0x0400: {0: Attribute(t.UINT16, 20_001)},
        0x0406: {0: Attribute(t.MAP8, 0)},
        0x0403: {0: Attribute(t.INT16, 1_013)},
    }
    return Device(ieee, 1, 0x0107, clusters)


def climate(ieee: int) -> Device:
    """Heating, a blind and the air of a room."""
    clusters = {
        0x0000: _basic("RoomClimate", 1),
        0x0102: {8: Attribute(t.UINT8, 0)},
        0x0201: {
            0: Attribute(t.INT16, 2_050),
            0x12: Attribute(t.INT16, 2_000, is_writable=True),
            0x1C: Attribute(t.ENUM8, 4, is_writable=True),
        },
        0x0408: {0: Attribute(t.UINT16, 3_150)},
        0x040D: {0: Attribute(t.SINGLE, 0.000_612)},
        0x042A: {0: Attribute(t.SINGLE, 7.25)},
    }
    return Device(ieee, 1, 0x0301, clusters)


KINDS: dict[str, Callable[[int], Device]] = {
    "lamp": lamp,
    "thermometer": thermometer,
    "plug": plug,
    "contact": contact,
    "motion": motion,
    "climate": climate,
}
FIRST_IEEE = 0x00124B0000000001


def make(kind: str, number: int = 0) -> Device:
    """Return a new device; its address follows from kind and number."""
    return KINDS[kind](FIRST_IEEE + (list(KINDS).index(kind) << 16) + number)


def ieee_text(ieee: int) -> str:
    """An address as people write it."""
    return ":".join(f"{byte:02x}" for byte in ieee.to_bytes(8, "big"))
