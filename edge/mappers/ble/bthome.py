"""BTHome: sensors that put their values into advertisements, version 2 (service data FCD2) and 1.

Shape:  version 2: a byte of information (bit 0: encrypted, 1: an address follows, 2: speaks only when
        something happens, 5 to 7: version), then objects: a number that says what follows, and the value,
        little endian. Version 1 (181C, encrypted 181E): before each object a byte with its length (bits
        0 to 4, the number included) and form (5 to 7). An object that comes twice is `temperature`,
        `temperature_2`.
Source: bthome.io, format and its version 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from edge.mappers.ble.codecs import Scaled, Value, named_codec
from edge.mappers.ble.uuids import sig
from gateway.errors import BadRequest

SERVICE: Final = 0xFCD2
OLD: Final = 0x181C
OLD_SECRET: Final = 0x181E
SERVICES: Final = (SERVICE, OLD, OLD_SECRET)
VERSION: Final = 2
MAX_OBJECTS: Final = 64
_TAG: Final = 4
_COUNTER: Final = 4
_OLD_MORE: Final = b"\x11"
"""What version 1 authenticates beside the objects."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What an object's number says: the name of its value, its unit, how it is written."""

    name: str
    unit: str
    form: Scaled
    is_flag: bool = False

    @property
    def type(self) -> str:
        if self.name in EVENTS:
            return "STRING"
        return "BOOLEAN" if self.is_flag else "INT" if self.form.is_plain else "DOUBLE"


def _u(name: str, unit: str, size: int, down: float = 1) -> Kind:
    return Kind(name, unit, Scaled(size, down=down))


def _s(name: str, unit: str, size: int, down: float = 1, up: float = 1) -> Kind:
    return Kind(name, unit, Scaled(size, signed=True, up=up, down=down))


_FLAGS: Final = {
    0x0F: "generic", 0x10: "power_on", 0x11: "opening", 0x15: "battery_low", 0x16: "battery_charging",
    0x17: "carbon_monoxide", 0x18: "cold", 0x19: "connectivity", 0x1A: "door", 0x1B: "garage_door",
    0x1C: "gas_detected", 0x1D: "heat", 0x1E: "light", 0x1F: "lock", 0x20: "moisture_detected",
    0x21: "motion", 0x22: "moving", 0x23: "occupancy", 0x24: "plug", 0x25: "presence", 0x26: "problem",
    0x27: "running", 0x28: "safety", 0x29: "smoke", 0x2A: "sound", 0x2B: "tamper", 0x2C: "vibration",
    0x2D: "window",
}  # fmt: skip

KINDS: Final[dict[int, Kind]] = {
    0x00: _u("packet_id", "", 1),
    0x01: _u("battery", "%", 1),
    0x02: _s("temperature", "°C", 2, 100),
    0x03: _u("humidity", "%", 2, 100),
    0x04: _u("pressure", "hPa", 3, 100),
    0x05: _u("illuminance", "lx", 3, 100),
    0x06: _u("mass", "kg", 2, 100),
    0x07: _u("mass_lb", "lb", 2, 100),
    0x08: _s("dewpoint", "°C", 2, 100),
    0x09: _u("count", "", 1),
    0x0A: _u("energy", "kWh", 3, 1000),
    0x0B: _u("power", "W", 3, 100),
    0x0C: _u("voltage", "V", 2, 1000),
    0x0D: _u("pm25", "µg/m³", 2),
    0x0E: _u("pm10", "µg/m³", 2),
    0x12: _u("co2", "ppm", 2),
    0x13: _u("tvoc", "µg/m³", 2),
    0x14: _u("moisture", "%", 2, 100),
    0x2E: _u("humidity", "%", 1),
    0x2F: _u("moisture", "%", 1),
    0x3A: _u("button", "", 1),
    0x3C: _u("dimmer", "", 2),
    0x3D: _u("count", "", 2),
    0x3E: _u("count", "", 4),
    0x3F: _s("rotation", "°", 2, 10),
    0x40: _u("distance_mm", "mm", 2),
    0x41: _u("distance", "m", 2, 10),
    0x42: _u("duration", "s", 3, 1000),
    0x43: _u("current", "A", 2, 1000),
    0x44: _u("speed", "m/s", 2, 100),
    0x45: _s("temperature", "°C", 2, 10),
    0x46: _u("uv_index", "", 1, 10),
    0x47: _u("volume", "l", 2, 10),
    0x48: _u("volume_ml", "ml", 2),
    0x49: _u("volume_flow_rate", "m³/h", 2, 1000),
    0x4A: _u("voltage", "V", 2, 10),
    0x4B: _u("gas", "m³", 3, 1000),
    0x4C: _u("gas", "m³", 4, 1000),
    0x4D: _u("energy", "kWh", 4, 1000),
    0x4E: _u("volume", "l", 4, 1000),
    0x4F: _u("water", "l", 4, 1000),
    0x50: _u("timestamp", "s", 4),
    0x51: _u("acceleration", "m/s²", 2, 1000),
    0x52: _u("gyroscope", "°/s", 2, 1000),
    0x55: _u("volume_storage", "l", 4, 1000),
    0x56: _u("conductivity", "µS/cm", 2),
    0x57: _s("temperature", "°C", 1),
    0x58: _s("temperature", "°C", 1, 100, up=35),
    0x59: _s("count", "", 1),
    0x5A: _s("count", "", 2),
    0x5B: _s("count", "", 4),
    0x5C: _s("power", "W", 4, 100),
    0x5D: _s("current", "A", 2, 1000),
    0x5E: _u("direction", "°", 2, 100),
    0x5F: _u("precipitation", "mm", 2, 10),
    0x60: _u("channel", "", 1),
    0x61: _u("rotational_speed", "1/min", 2),
    0x62: _s("speed", "m/s", 4, 1_000_000),
    0x63: _s("acceleration", "m/s²", 4, 1_000_000),
    0x64: _u("light_level", "", 1),
    0xF0: _u("device_type", "", 2),
    0xF1: _u("firmware", "", 4),
    0xF2: _u("firmware", "", 3),
} | {number: Kind(name, "", Scaled(1), is_flag=True) for number, name in _FLAGS.items()}

_TEXT, _RAW = 0x53, 0x54
_PRESSES: Final = {
    0: "none",
    1: "press",
    2: "double_press",
    3: "triple_press",
    4: "long_press",
    5: "long_double_press",
    6: "long_triple_press",
    0x80: "hold_press",
}
_TURNS: Final = {0: "none", 1: "left", 2: "right"}
EVENTS: Final = frozenset({"button", "dimmer"})


def objects(data: bytes) -> Iterator[tuple[str, Kind | None, Value]]:
    """Return the values of an advertisement in the clear: name, kind, value.

    An object that nobody knows ends it: its length is not known. Errors: BadRequest.
    """
    seen: dict[str, int] = {}
    at, left = 0, MAX_OBJECTS
    while at < len(data) and left:
        number, at, left = data[at], at + 1, left - 1
        if number in (_TEXT, _RAW):
            part = data[at + 1 : at + 1 + (data[at] if at < len(data) else 0)]
            if at >= len(data) or len(part) < data[at]:
                raise BadRequest("an object ends before its length")
            at += 1 + len(part)
            if number == _TEXT:
                yield _numbered("text", seen), None, part.decode(errors="replace")
            else:
                yield _numbered("raw", seen), None, part
            continue
        kind = KINDS.get(number)
        if kind is None:
            return
        part = data[at : at + kind.form.size]
        at += kind.form.size
        yield _numbered(kind.name, seen), kind, _value(kind, part)


_UNSIGNED, _SIGNED, _REAL, _STRING = range(4)


def old_objects(data: bytes) -> Iterator[tuple[str, Kind | None, Value]]:
    """Return the values of version 1; what nobody knows is left out: each says its length.

    Errors: BadRequest.
    """
    seen: dict[str, int] = {}
    at = 0
    while at < len(data):
        size, form = data[at] & 0x1F, data[at] >> 5
        part = data[at + 1 : at + 1 + size]
        if not size or len(part) < size:
            raise BadRequest("an object ends before its length")
        at += 1 + size
        kind = KINDS.get(part[0])
        if form == _STRING:
            yield _numbered("text", seen), None, part[1:].decode(errors="replace")
        elif kind is not None and form <= _REAL:
            yield _numbered(kind.name, seen), kind, _old_value(kind, form, part[1:])


def _old_value(kind: Kind, form: int, part: bytes) -> Value:
    if form == _REAL:
        bits = len(part) * 8
        if bits not in (16, 32, 64):
            raise BadRequest(f"expected a number of 2, 4 or 8 bytes, got {len(part)}")
        value = named_codec(f"float{bits}", kind.form.up / kind.form.down).decode(part)
    else:
        sized = replace(kind.form, size=len(part), signed=form == _SIGNED)
        value = _value(replace(kind, form=sized), part)
    return bool(value) if kind.is_flag else value


def _numbered(name: str, seen: dict[str, int]) -> str:
    seen[name] = seen.get(name, 0) + 1
    return name if seen[name] == 1 else f"{name}_{seen[name]}"


def _value(kind: Kind, part: bytes) -> Value:
    if kind.name == "button" and part:
        return _PRESSES.get(part[0], f"event_{part[0]}")
    if kind.name == "dimmer" and len(part) == 2:
        turn = _TURNS.get(part[0], f"event_{part[0]}")
        return turn if turn == "none" else f"{turn} {part[1]}"
    value = kind.form.decode(part)
    return bool(value) if kind.is_flag else value


@dataclass(frozen=True, slots=True)
class Packet:
    """Service data as it came: in the clear, or to be opened with the device's key.

    Shape:  `address` where the packet says its own; `head` what of it goes into the nonce; `is_calm` for a
            device that speaks only when something happens.
    """

    is_encrypted: bool
    body: bytes
    service: int = SERVICE
    head: bytes = b""
    address: bytes = b""
    is_calm: bool = False

    @classmethod
    def read(cls, data: bytes, service: int = SERVICE) -> Packet:
        """Errors: BadRequest."""
        made = cls._new(data) if service == SERVICE else cls(service == OLD_SECRET, data, service)
        if made.is_encrypted and len(made.body) < _COUNTER + _TAG:
            raise BadRequest("an encrypted packet is too short")
        return made

    @classmethod
    def _new(cls, data: bytes) -> Packet:
        if not data:
            raise BadRequest("expected a byte of information")
        version = data[0] >> 5
        if version != VERSION:
            raise BadRequest(f"expected BTHome version 2, got {version}")
        start = 7 if data[0] & 2 else 1
        if len(data) < start:
            raise BadRequest("a packet ends in its address")
        return cls(
            bool(data[0] & 1),
            data[start:],
            SERVICE,
            data[:1],
            data[1:start][::-1],
            bool(data[0] & 4),
        )

    @property
    def counter(self) -> int:
        """Of an encrypted packet."""
        return int.from_bytes(self.body[-8:-4], "little")

    def values(self, address: str, key: bytes | None) -> Iterator[tuple[str, Kind | None, Value]]:
        """Return name, kind and value of each object. Errors: BadRequest."""
        opened = self.opened(address, key)
        return objects(opened) if self.service == SERVICE else old_objects(opened)

    def opened(self, address: str, key: bytes | None) -> bytes:
        """Return the objects. Errors: BadRequest without the right key."""
        if not self.is_encrypted:
            if key is not None:
                raise BadRequest("the device has a bindKey, but this packet is not encrypted")
            return self.body
        if key is None:
            raise BadRequest("the device encrypts: it needs its bindKey")
        mac = self.address or bytes.fromhex(address.replace(":", ""))
        data = self.body
        nonce = mac + self.service.to_bytes(2, "little") + self.head + data[-8:-4]
        more = None if self.service == SERVICE else _OLD_MORE
        try:
            return AESCCM(key, tag_length=_TAG).decrypt(nonce, data[:-8] + data[-4:], more)
        except InvalidTag:
            raise BadRequest("the bindKey is not this device's") from None


def values(data: bytes, address: str = "", key: bytes | None = None) -> Mapping[str, Value]:
    """Return the values of service data by name. Errors: BadRequest."""
    return {name: value for name, _kind, value in Packet.read(data).values(address, key)}


def packet_in(service_data: Mapping[str, bytes]) -> Packet | None:
    """Return the packet of an advertisement, None where it has none. Errors: BadRequest."""
    for service, uuid in _UUIDS.items():
        data = service_data.get(uuid)
        if data is not None and (service == SERVICE or _is_old(service, data)):
            return Packet.read(data, service)
    return None


_UUIDS: Final = {service: sig(service) for service in SERVICES}


def _is_old(service: int, data: bytes) -> bool:
    """181C and 181E are services of others, too (user data, bond management): not all of it is BTHome."""
    return service == OLD_SECRET or _adds_up(data)


def _adds_up(data: bytes) -> bool:
    at = 0
    while at < len(data):
        if not data[at] & 0x1F:
            return False
        at += 1 + (data[at] & 0x1F)
    return at == len(data) and at > 0
