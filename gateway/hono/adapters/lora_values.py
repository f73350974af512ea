"""How values are found in the messages of LoRaWAN network servers, and put into Hono's one form.

A reader takes a whole message and gives one value, None where there is nothing of the right type: what a
server leaves out, or writes in another type, is left out downstream. A text that should be a number and is
none, hex or base64 that is none, a value out of its range: the message is refused.
Source: Hono, LoRaWAN adapter; the meta data that its applications get.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject

Form = Callable[[Json], Json]
"""Turns a value as it was written into the one that is meant, None for another type."""
Reader = Callable[[JsonObject], Json]
Heard = Mapping[str, Reader]
Gateways = Callable[[JsonObject], list[JsonObject]]

MAX_EUI_BYTES = 32
MIN_INT, MAX_INT = -(2**31), 2**31 - 1
_WHOLE = re.compile(r"[+-]?[0-9]{1,10}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})*")
_RATE = re.compile(r"(?:SF)?([0-9]{1,9})BW([0-9]{1,9})")


class MalformedUplink(BadRequest):
    """What a network server sent is not what its kind of messages looks like."""

    code = "lora.payload.invalid"
    default_message = "invalid payload"


# --- where --------------------------------------------------------------------------------------------


def find(message: JsonObject, path: str) -> Json:
    """Return what is at `a.b.c`; None where there is nothing."""
    value: Json = message
    for name in path.split(".") if path else ():
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def at(path: str, form: Form) -> Reader:
    """Read the value at a path in one form."""
    return lambda message: form(find(message, path))


def place(longitude: str, latitude: str, altitude: str = "", form: Form | None = None) -> Reader:
    """Read a location from the paths of its coordinates; None without longitude and latitude."""
    one = form or real

    def read(message: JsonObject) -> Json:
        east, north = one(find(message, longitude)), one(find(message, latitude))
        if east is None or north is None:
            return None
        height = one(find(message, altitude)) if altitude else None
        found: JsonObject = {"longitude": east, "latitude": north}
        return found if height is None else {**found, "altitude": height}

    return read


# --- forms --------------------------------------------------------------------------------------------


def text(value: Json) -> str | None:
    return value if isinstance(value, str) else None


def flag(value: Json) -> bool | None:
    return value if isinstance(value, bool) else None


def real(value: Json) -> float | None:
    """A number, finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError as error:
        raise MalformedUplink from error
    if not math.isfinite(number):
        raise MalformedUplink
    return number


def whole(value: Json) -> int | None:
    """A number without its fraction; it fits 32 bits, or frame counters of 32 bits without a sign."""
    number = real(value)
    if number is None:
        return None
    if not MIN_INT <= number < 2**32:
        raise MalformedUplink
    return int(number)


def whole_text(value: Json) -> int | None:
    """Digits in a text."""
    if not isinstance(value, str):
        return None
    if not _WHOLE.fullmatch(value):
        raise MalformedUplink
    return whole(int(value))


def real_text(value: Json) -> float | None:
    """A decimal number in a text."""
    if not isinstance(value, str):
        return None
    if not _DECIMAL.fullmatch(value):
        raise MalformedUplink
    return real(float(value))


def coordinate_text(value: Json) -> float | None:
    """A decimal number in a text; None also for a text that is none, as servers write unknown places."""
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        return None
    return real(float(value))


def cut(form: Form) -> Form:
    """Another form's number without its fraction."""
    return lambda value: whole(form(value))


def bit_text(value: Json) -> bool | None:
    """`1` in a text is true, any other text false."""
    return value == "1" if isinstance(value, str) else None


def divided(form: Form, by: float) -> Form:
    """Another form's number in a greater unit, e.g. Hz as MHz."""

    def read(value: Json) -> Json:
        number = real(form(value))
        return None if number is None else number / by

    return read


def one_of(names: Mapping[str, float]) -> Form:
    """What a name stands for; None for an unknown one."""
    return lambda value: names.get(value) if isinstance(value, str) else None


def rate(part: int, pattern: re.Pattern[str] = _RATE, *, is_strict: bool = True) -> Form:
    """One part of a data rate such as `SF7BW125`: 1 the spreading factor, 2 the bandwidth in kHz."""

    def read(value: Json) -> Json:
        if not isinstance(value, str):
            return None
        found = pattern.fullmatch(value)
        if found is not None:
            return found[part] if part > 2 else int(found[part])
        if is_strict:
            raise MalformedUplink
        return None

    return read


def unhexed(value: str) -> bytes:
    """Errors: MalformedUplink."""
    if not _HEX.fullmatch(value):
        raise MalformedUplink
    return bytes.fromhex(value)


def unbased(value: str) -> bytes:
    """Read base64, also without its padding.

    Errors: MalformedUplink.
    """
    padded = value if value.endswith("=") else value + "=" * (-len(value) % 4)
    try:
        return base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedUplink from error


def based_as_hex(value: Json) -> str | None:
    """Base64 of bytes, as hex."""
    return unbased(value).hex().upper() if isinstance(value, str) else None


def without_dashes(value: Json) -> str | None:
    return value.replace("-", "") if isinstance(value, str) else None


# --- parts of a message -------------------------------------------------------------------------------


def eui(path: str, decode: Callable[[str], bytes] = unhexed) -> Callable[[JsonObject], str]:
    """Read the device's EUI: hex in upper case, which is its device id."""

    def read(message: JsonObject) -> str:
        value = find(message, path)
        raw = decode(value) if isinstance(value, str) else b""
        if not 0 < len(raw) <= MAX_EUI_BYTES:
            raise MalformedUplink
        return raw.hex().upper()

    return read


def payload(path: str, decode: Callable[[str], bytes]) -> Callable[[JsonObject], bytes]:
    """Read what the device sent."""

    def read(message: JsonObject) -> bytes:
        value = find(message, path)
        if not isinstance(value, str):
            raise MalformedUplink
        return decode(value)

    return read


GATEWAY_MEMBERS = ("snr", "rss", "gateway_id", "channel", "location")
"""SNR in dB, received signal strength in dBm."""


def heard(name: str = "", form: Form | None = None, *, snr: str = "snr", **more: Reader) -> Heard:
    """What most servers tell of a gateway: at `name` its id (as `form` reads it), the signal, and `more`."""
    members = {"rss": at("rssi", whole), "snr": at(snr, real), **more}
    return {"gateway_id": at(name, form or text), **members} if name else members


def each(path: str, members: Mapping[str, Reader], *, only_with: str = "") -> Gateways:
    """Read the gateways that are listed at a path."""

    def read(message: JsonObject) -> list[JsonObject]:
        listed = find(message, path)
        objects = [x for x in listed if isinstance(x, dict)] if isinstance(listed, list) else []
        found = [_read(GATEWAY_MEMBERS, members, one) for one in objects]
        return [one for one in found if not only_with or only_with in one]

    return read


def single(path: str, members: Mapping[str, Reader]) -> Gateways:
    """Read the one gateway whose values are in the object at a path."""

    def read(message: JsonObject) -> list[JsonObject]:
        one = find(message, path)
        return [_read(GATEWAY_MEMBERS, members, one)] if isinstance(one, dict) else []

    return read


MEMBERS = (
    "bandwidth",
    "function_port",
    "frame_count",
    "frequency",
    "coding_rate",
    "adr_enabled",
    "spreading_factor",
    "location",
)
"""Bandwidth in kHz, frequency in MHz."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What a kind of network server tells about a transmission, by the names that applications get."""

    members: Mapping[str, Reader]
    gateways: Gateways = lambda _message: []

    def read(self, message: JsonObject) -> JsonObject:
        """Return the meta data.

        Errors: MalformedUplink.
        """
        found = _read(MEMBERS, self.members, message)
        gateways = self.gateways(message)
        return {**found, "gateways": list[Json](gateways)} if gateways else found


def _read(names: tuple[str, ...], readers: Mapping[str, Reader], message: JsonObject) -> JsonObject:
    found: JsonObject = {}
    for name in names:
        value = readers[name](message) if name in readers else None
        if value is not None:
            _check(name, value)
            found[name] = value
    return found


_RANGES: Mapping[str, tuple[float, float]] = {
    "spreading_factor": (7, 12),
    "frequency": (0, math.inf),
    "rss": (-math.inf, 0),
    "function_port": (MIN_INT, MAX_INT),
}


def _check(name: str, value: Json) -> None:
    if name in _RANGES and isinstance(value, int | float):
        least, most = _RANGES[name]
        if not least <= value <= most:
            raise MalformedUplink
