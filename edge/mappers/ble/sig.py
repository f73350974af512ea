"""Characteristics of the Bluetooth SIG that are decoded by their UUID alone.

Source: GATT Specification Supplement; Assigned Numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge.mappers.ble.codecs import PLAIN, Codec, Scaled, Value, medical_float
from edge.mappers.ble.measurements import RECORDS
from gateway.errors import BadRequest, Rejected


@dataclass(frozen=True, slots=True)
class Standard:
    """One characteristic: the name that its property would have, its unit, its codec.

    Shape:  `fields` are codecs of its parts, by name, where it has several; the codec itself is the first.
    """

    name: str
    codec: Codec
    unit: str = ""
    fields: tuple[tuple[str, Codec], ...] = ()


def codec_of(number: int, field: str = "") -> Codec:
    """Return the codec of a characteristic, or of a part of it. Errors: Rejected."""
    standard = CHARACTERISTICS.get(number)
    if standard is None:
        raise Rejected(f"no decoder for {number:04X}: say which with `decoder`")
    if not field:
        return standard.codec
    parts = dict(standard.fields)
    if field not in parts:
        known = ", ".join(parts) or "no fields"
        raise Rejected(f"{standard.name}: expected one of {known}, got {field[:40]!r}")
    return parts[field]


def codec_by_name(name: str, field: str = "") -> Codec | None:
    """Return the codec of a standard characteristic by its name: `heartRate`, `heart-rate`."""
    number = _BY_NAME.get(name.replace("-", "").replace("_", "").lower())
    return None if number is None else codec_of(number, field)


# --- heart rate -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeartRate:
    """Heart Rate Measurement. `contact` None where the belt cannot tell; `energy` in kJ; `rr` in ms."""

    rate: int
    contact: bool | None
    energy: int | None
    rr: tuple[float, ...]

    @classmethod
    def read(cls, data: bytes) -> HeartRate:
        """Read the characteristic's bytes. Errors: BadRequest."""
        if len(data) < 2:
            raise BadRequest(f"expected at least 2 bytes, got {len(data)}")
        flags, at = data[0], 1
        width = 2 if flags & 1 else 1
        rate, at = _take(data, at, width), at + width
        energy = None
        if flags & 8:
            energy, at = _take(data, at, 2), at + 2
        beats = []
        if flags & 16:
            while at < len(data):
                beats.append(round(_take(data, at, 2) * 1000 / 1024, 1))
                at += 2
        if at != len(data):
            raise BadRequest(f"{len(data) - at} bytes more than the flags say")
        return cls(rate, bool(flags & 2) if flags & 4 else None, energy, tuple(beats))


def _take(data: bytes, at: int, width: int) -> int:
    part = data[at : at + width]
    if len(part) < width:
        raise BadRequest(f"expected {width} bytes at {at}, got {len(part)}")
    return int.from_bytes(part, "little")


def _heart(pick: Callable[[HeartRate], Value | None]) -> Callable[[bytes], Value]:
    def decode(data: bytes) -> Value:
        value = pick(HeartRate.read(data))
        if value is None:
            raise BadRequest("the measurement does not have it")
        return value

    return decode


_HEART: Final = (
    ("rate", Codec(_heart(lambda heart: heart.rate), None, "INT")),
    ("contact", Codec(_heart(lambda heart: heart.contact), None, "BOOLEAN")),
    ("energy", Codec(_heart(lambda heart: heart.energy), None, "INT")),
    ("rr", Codec(_heart(lambda heart: heart.rr[-1] if heart.rr else None), None, "DOUBLE")),
)


def _body_temperature(data: bytes) -> Value:
    """Temperature Measurement of the Health Thermometer, in °C."""
    if len(data) < 5:
        raise BadRequest(f"expected at least 5 bytes, got {len(data)}")
    value = medical_float(data[1:5])
    return round((value - 32) * 5 / 9, 2) if data[0] & 1 else value


# --- tables ---------------------------------------------------------------------------------------

_MEDICAL: Final = PLAIN["sfloat"]
_TEXT: Final = PLAIN["utf8"]


def _s(size: int, down: float = 1, **more: object) -> Codec:
    return Scaled(size, signed=True, down=down, **more).codec()  # type: ignore[arg-type]


def _u(size: int, down: float = 1, **more: object) -> Codec:
    return Scaled(size, down=down, **more).codec()  # type: ignore[arg-type]


def _record(name: str, unit: str = "") -> Standard:
    fields = RECORDS[name].fields()
    return Standard(name, fields[0][1], unit, fields)


_NO16, _NO24 = (0xFFFF,), (0xFFFFFF,)

CHARACTERISTICS: Final[dict[int, Standard]] = {
    0x2A00: Standard("deviceName", _TEXT),
    0x2A06: Standard("alertLevel", _u(1, high=2, low=0)),
    0x2A07: Standard("txPower", _s(1), "dBm"),
    0x2A19: Standard("battery", _u(1, low=0, high=100), "%"),
    0x2A1C: Standard("bodyTemperature", Codec(_body_temperature, None, "DOUBLE"), "°C"),
    0x2A18: _record("glucose", "mmol/l"),
    0x2A1F: Standard("temperatureCelsius", _s(2, 10), "°C"),
    0x2A24: Standard("modelNumber", _TEXT),
    0x2A25: Standard("serialNumber", _TEXT),
    0x2A26: Standard("firmware", _TEXT),
    0x2A27: Standard("hardware", _TEXT),
    0x2A28: Standard("software", _TEXT),
    0x2A29: Standard("manufacturer", _TEXT),
    0x2A2C: Standard("magneticDeclination", _u(2, 100), "°"),
    0x2A35: _record("bloodPressure", "mmHg"),
    0x2A37: Standard("heartRate", _HEART[0][1], "1/min", _HEART),
    0x2A38: Standard("sensorLocation", _u(1)),
    0x2A53: _record("running", "m/s"),
    0x2A5B: _record("cycling"),
    0x2A5D: Standard("cyclingSensorLocation", _u(1)),
    0x2A5E: Standard(
        "spotOximeter", RECORDS["oximeter"].fields()[0][1], "%", RECORDS["oximeter"].fields()
    ),
    0x2A5F: _record("oximeter", "%"),
    0x2A63: _record("cyclingPower", "W"),
    0x2A6C: Standard("elevation", _s(3, 100), "m"),
    0x2A6D: Standard("pressure", _u(4, 10), "Pa"),
    0x2A6E: Standard("temperature", _s(2, 100, unknown=(-0x8000,)), "°C"),
    0x2A6F: Standard("humidity", _u(2, 100, unknown=(0xFFFF,)), "%"),
    0x2A70: Standard("windSpeed", _u(2, 100), "m/s"),
    0x2A71: Standard("windDirection", _u(2, 100), "°"),
    0x2A72: Standard("apparentWindSpeed", _u(2, 100), "m/s"),
    0x2A73: Standard("apparentWindDirection", _u(2, 100), "°"),
    0x2A74: Standard("gustFactor", _u(1, 10)),
    0x2A75: Standard("pollen", _u(3), "1/m³"),
    0x2A76: Standard("uvIndex", _u(1)),
    0x2A77: Standard("irradiance", _u(2, 10), "W/m²"),
    0x2A78: Standard("rainfall", _u(2), "mm"),
    0x2A79: Standard("windChill", _s(1), "°C"),
    0x2A7A: Standard("heatIndex", _s(1), "°C"),
    0x2A7B: Standard("dewPoint", _s(1), "°C"),
    0x2A8E: Standard("height", _u(2, 100), "m"),
    0x2A98: Standard("bodyWeight", _u(2, 200), "kg"),
    0x2A9D: _record("weight", "kg"),
    0x2AA3: Standard("pressureTrend", _u(1, low=1, high=9, unknown=(0,))),
    0x2AE2: Standard("boolean", PLAIN["bool"]),
    0x2AE9: Standard("colourTemperature", _u(2, unknown=_NO16), "K"),
    0x2AEA: Standard("count16", _u(2, unknown=_NO16)),
    0x2AEB: Standard("count24", _u(3, unknown=_NO24)),
    0x2AEE: Standard("current", _u(2, 100, unknown=_NO16), "A"),
    0x2AF2: Standard("energy", _u(3, unknown=_NO24), "kWh"),
    0x2AF9: Standard("genericLevel", _u(2)),
    0x2AFB: Standard("illuminance", _u(3, 100, unknown=_NO24), "lx"),
    0x2AFF: Standard("luminousFlux", _u(2, unknown=_NO16), "lm"),
    0x2B01: Standard("luminousIntensity", _u(2, unknown=_NO16), "cd"),
    0x2B02: Standard("massFlow", _u(2, unknown=_NO16), "g/s"),
    0x2B04: Standard("percentage", _u(1, 2, unknown=(0xFF,)), "%"),
    0x2B05: Standard("power", _u(3, 10, unknown=(0xFFFFFE, 0xFFFFFF)), "W"),
    0x2B0D: Standard("temperature8", _s(1, 2, unknown=(0x7F,)), "°C"),
    0x2B18: Standard("voltage", _u(2, 64, unknown=_NO16), "V"),
    0x2B1B: Standard("volumeFlow", _u(2, 1_000, unknown=_NO16), "l/s"),
    0x2B8C: Standard("co2", _u(2, unknown=_NO16), "ppm"),
    0x2BCF: Standard("ammonia", _MEDICAL, "kg/m³"),
    0x2BD0: Standard("carbonMonoxide", _MEDICAL, "kg/m³"),
    0x2BD1: Standard("methane", _MEDICAL, "ppb"),
    0x2BD2: Standard("nitrogenDioxide", _MEDICAL, "kg/m³"),
    0x2BD3: Standard("nonMethaneVoc", _MEDICAL, "kg/m³"),
    0x2BD4: Standard("ozone", _MEDICAL, "kg/m³"),
    0x2BD5: Standard("pm1", _MEDICAL, "kg/m³"),
    0x2BD6: Standard("pm25", _MEDICAL, "kg/m³"),
    0x2BD7: Standard("pm10", _MEDICAL, "kg/m³"),
    0x2BD8: Standard("sulfurDioxide", _MEDICAL, "kg/m³"),
    0x2BE0: Standard("highVoltage", _u(3, 64, unknown=_NO24), "V"),
    0x2BE4: Standard("noise", _u(1, unknown=(0xFF,)), "dB"),
    0x2BE7: Standard("voc", _u(2, unknown=_NO16), "ppb"),
}
_BY_NAME: Final = {each.name.lower(): number for number, each in CHARACTERISTICS.items()}

SERVICES: Final[dict[int, tuple[str, tuple[int, ...]]]] = {
    0x1809: ("health-thermometer", (0x2A1C,)),
    0x180A: ("device-information", (0x2A29, 0x2A24, 0x2A26)),
    0x180D: ("heart-rate", (0x2A37,)),
    0x180F: ("battery", (0x2A19,)),
    0x1810: ("blood-pressure", (0x2A35,)),
    0x1814: ("running", (0x2A53,)),
    0x1816: ("cycling", (0x2A5B,)),
    0x1818: ("cycling-power", (0x2A63,)),
    0x181D: ("weight-scale", (0x2A9D,)),
    0x1822: ("pulse-oximeter", (0x2A5F,)),
    0x181A: ("environmental-sensing", (0x2A6E, 0x2A6F, 0x2A6D)),
}
"""Services whose advertisement lets one guess at characteristics; most have them, not all."""
