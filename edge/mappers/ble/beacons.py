"""iBeacon and Eddystone: what beacons say of themselves.

Source: Apple's Proximity Beacon Specification; github.com/google/eddystone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edge.mappers.ble.codecs import Value
from gateway.errors import BadRequest

APPLE: Final = 0x004C
EDDYSTONE: Final = 0xFEAA
_SCHEMES: Final = ("http://www.", "https://www.", "http://", "https://")
_ENDS: Final = (".com", ".org", ".edu", ".net", ".info", ".biz", ".gov")
UNITS: Final = {"voltage": "V", "temperature": "°C", "uptime": "s", "power": "dBm"}
TYPES: Final = {
    "major": "INT",
    "minor": "INT",
    "power": "INT",
    "voltage": "DOUBLE",
    "temperature": "DOUBLE",
    "packets": "INT",
    "uptime": "DOUBLE",
}
IBEACON_FIELDS: Final = ("uuid", "major", "minor", "power")
EDDYSTONE_FIELDS: Final = (
    "namespace", "instance", "url", "eid", "power", "voltage", "temperature", "packets", "uptime"
)  # fmt: skip


def ibeacon(data: bytes) -> Mapping[str, Value]:
    """Read Apple's manufacturer data: uuid, major, minor, power (dBm at 1 m). Errors: BadRequest."""
    if len(data) != 23 or data[:2] != b"\x02\x15":
        raise BadRequest("the manufacturer data is no iBeacon")
    text = data[2:18].hex()
    return {
        "uuid": "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])),
        "major": int.from_bytes(data[18:20], "big"),
        "minor": int.from_bytes(data[20:22], "big"),
        "power": int.from_bytes(data[22:], "big", signed=True),
    }


def eddystone(data: bytes) -> Mapping[str, Value]:
    """Read one frame: UID, URL, TLM or EID; beacons send them by turns. Errors: BadRequest."""
    if len(data) < 2:
        raise BadRequest("an Eddystone frame is too short")
    reader = _FRAMES.get(data[0])
    if reader is None:
        raise BadRequest(f"an Eddystone frame of a kind that nobody knows: {data[0]:#04x}")
    return reader(data)


def _power(data: bytes) -> int:
    return int.from_bytes(data[1:2], "big", signed=True)


def _uid(data: bytes) -> Mapping[str, Value]:
    if len(data) not in (18, 20):
        raise BadRequest(f"Eddystone UID: expected 20 bytes, got {len(data)}")
    return {"namespace": data[2:12].hex(), "instance": data[12:18].hex(), "power": _power(data)}


def _url(data: bytes) -> Mapping[str, Value]:
    if not 3 <= len(data) <= 20 or data[2] >= len(_SCHEMES):
        raise BadRequest("Eddystone URL: expected a scheme and 1 to 17 characters")
    parts = [_SCHEMES[data[2]]]
    for code in data[3:]:
        if code < 14:
            parts.append(_ENDS[code % 7] + ("/" if code < 7 else ""))
        elif 0x20 < code < 0x7F:
            parts.append(chr(code))
        else:
            raise BadRequest("Eddystone URL: a character that is none")
    return {"url": "".join(parts), "power": _power(data)}


def _tlm(data: bytes) -> Mapping[str, Value]:
    if len(data) != 14 or data[1] != 0:
        raise BadRequest("Eddystone TLM: expected version 0 in the clear, 14 bytes")
    found: dict[str, Value] = {
        "packets": int.from_bytes(data[6:10], "big"),
        "uptime": int.from_bytes(data[10:14], "big") / 10,
    }
    if data[2:4] != b"\x00\x00":
        found["voltage"] = int.from_bytes(data[2:4], "big") / 1000
    if data[4:6] != b"\x80\x00":
        found["temperature"] = round(int.from_bytes(data[4:6], "big", signed=True) / 256, 2)
    return found


def _eid(data: bytes) -> Mapping[str, Value]:
    if len(data) != 10:
        raise BadRequest(f"Eddystone EID: expected 10 bytes, got {len(data)}")
    return {"eid": data[2:].hex(), "power": _power(data)}


FRAME_FIELDS: Final = {
    b"\x00": ("namespace", "instance", "power"),
    b"\x10": ("url", "power"),
    b"\x20": ("voltage", "temperature", "packets", "uptime"),
    b"\x30": ("eid", "power"),
}
"""What each kind of Eddystone frame, by its first byte, tells."""
_FRAMES: Final = {0x00: _uid, 0x10: _url, 0x20: _tlm, 0x30: _eid}
