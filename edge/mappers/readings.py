"""What devices say, as readings of the model's type: never an exception, never a value of another type.

What does not fit is a bad reading that says why: not a number, infinite, too long, no text.
"""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from edge.mappers.driver import Clock, Quality, Reading
from gateway.errors import BadRequest
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.values import (
    MAX_TEXT,
    PropertyType,
    ValueRule,
    canonical,
    check_typed,
    parse_text,
)

OWN_RULE: Final = ValueRule()
_SECONDS_END: Final = 1e11
"""Numbers below are seconds since the epoch (up to the year 5138), above ms and finer."""
MAX_RAW: Final = 65_536
"""Characters or bytes of one value that are looked at."""


def rules_of(view: DeviceView, model: ModelView | None) -> dict[str, ValueRule]:
    """Return the rule of each property of a Device; without a model they are texts."""
    rules: Mapping[str, ValueRule] = {} if model is None else model.rules
    return {name: rules.get(name, OWN_RULE) for name in view.properties}


def bad(why: str, at: int) -> Reading:
    """Return a reading that has no value."""
    return Reading("", Quality.BAD, at, why)


def reading_of(
    rule: ValueRule, value: object, at: int, quality: Quality = Quality.GOOD, why: str = ""
) -> Reading:
    """Return a device's value as the model's type says it; bad, with the reason, where it is none."""
    try:
        text = text_of(rule.type, value)
    except BadRequest as error:
        return bad(error.message, at)
    return Reading(text, quality, at, why)


def text_of(kind: PropertyType, value: object) -> str:
    """Return a device's value in canonical text. Errors: BadRequest, saying what was expected."""
    if isinstance(value, str | bytes | list | dict) and len(value) > MAX_RAW:
        raise BadRequest(f"a value of at most {MAX_RAW} characters is taken, got {len(value)}")
    text = _WRITERS[kind](value)
    if len(text) > MAX_TEXT:
        raise BadRequest(f"a twin's value has at most {MAX_TEXT} characters, got {len(text)}")
    return text


def wanted_value(rule: ValueRule, text: str) -> bool | int | float | str:
    """Read what somebody wants written, within the model's bounds. Errors: BadRequest."""
    typed = parse_text(rule.type, text)
    return check_typed(rule, typed) if text else typed


def _whole(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        if not math.isfinite(value) or not value.is_integer():
            raise BadRequest(f"expected a whole number, got {value}")
        value = int(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise BadRequest("expected a 64-bit integer with a sign")
        return str(value)
    return str(parse_text(PropertyType.INT, _words(value, "a whole number").strip()))


def _digits(value: int) -> str:
    if value.bit_length() > 64:
        raise BadRequest("expected an integer of at most 64 bits")
    return str(value)


def _real(kind: PropertyType) -> Callable[[object], str]:
    def write(value: object) -> str:
        if isinstance(value, bool):
            raise BadRequest("expected a number, got true or false")
        if isinstance(value, int | float):
            try:
                number = float(value)
            except OverflowError:
                raise BadRequest("expected a number that a double can hold") from None
            if not math.isfinite(number):
                raise BadRequest(f"expected a finite number, got {number}")
        else:
            number = float(parse_text(kind, _words(value, "a number").strip()))
        parse_text(kind, repr(number))  # the range of FLOAT
        return canonical(kind, number)

    return write


def _flag(value: object) -> str:
    if isinstance(value, bool):
        return canonical(PropertyType.BOOLEAN, value)
    if isinstance(value, int | float) and value in (0, 1):
        return canonical(PropertyType.BOOLEAN, bool(value))
    word = _words(value, "true or false").strip().lower()
    if word in ("true", "false"):
        return word
    if word in _SWITCH:
        return _SWITCH[word]
    raise BadRequest(f"expected true or false, got {word[:40]!r}")


_SWITCH = {"1": "true", "0": "false", "on": "true", "off": "false"}


def _string(value: object) -> str:
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, str):
        return _encodable(value)
    if isinstance(value, bool):
        return canonical(PropertyType.BOOLEAN, value)
    if isinstance(value, int):
        return _digits(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadRequest(f"expected a finite number, got {value}")
        return canonical(PropertyType.DOUBLE, value)
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, list | tuple | dict):
        try:
            return _encodable(msgspec.json.encode(value).decode())
        except (TypeError, ValueError, RecursionError, msgspec.EncodeError):
            raise BadRequest("expected a value that JSON can hold") from None
    raise BadRequest(f"expected a text, got {_name(value)}")


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest("expected text that UTF-8 can hold") from None
    return text


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest("expected UTF-8 text") from None


def _octets(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(parse_text(PropertyType.BYTES, _short(_words(value, "base64"))))


def _short(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise BadRequest(f"a twin's value has at most {MAX_TEXT} characters, got {len(text)}")
    return text


def _words(value: object, expected: str) -> str:
    if isinstance(value, bytes):
        return _decoded(value)
    if not isinstance(value, str):
        raise BadRequest(f"expected {expected}, got {_name(value)}")
    return value


def _name(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _no_stream(_value: object) -> str:
    raise BadRequest("a STREAM property has no value")


_WRITERS: dict[PropertyType, Callable[[object], str]] = {
    PropertyType.INT: _whole,
    PropertyType.FLOAT: _real(PropertyType.FLOAT),
    PropertyType.DOUBLE: _real(PropertyType.DOUBLE),
    PropertyType.STRING: _string,
    PropertyType.BOOLEAN: _flag,
    PropertyType.BYTES: _octets,
    PropertyType.STREAM: _no_stream,
}


def source_time(value: object, default: int) -> int:
    """Return a time that a device says, in ms since the epoch: ISO 8601, or a number of s, ms, us or ns."""
    if isinstance(value, str):
        try:
            time = datetime.datetime.fromisoformat(value[:40])
        except ValueError:
            return default
        time = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
        return max(0, int(time.timestamp() * 1_000))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e20:
        return default
    number = float(value)
    if number < _SECONDS_END:
        return int(number * 1_000)
    while number >= _SECONDS_END * 1_000:
        number /= 1_000
    return int(number)


class Latest:
    """The newest reading of each property of a device that speaks unasked.

    Bounds: one reading per property; what comes before it was read replaces it and is counted as coalesced.
    Shape:  `clock` and `stale_after`, both in ms: a reading that nothing followed for so long is uncertain.
    """

    def __init__(
        self,
        names: Sequence[str],
        count: Callable[[str, int], None],
        clock: Clock | None = None,
        stale_after: int = 0,
    ) -> None:
        self._known = frozenset(names)
        self._readings: dict[str, Reading] = {}
        self._heard: dict[str, int] = {}
        self._unread: set[str] = set()
        self._changed: list[Callable[[], None]] = []
        self._count = count
        self._clock = clock
        self._stale_after = stale_after

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` with the first news after each read."""
        self._changed.append(changed)

    def take(self, name: str, reading: Reading) -> None:
        """Keep a reading; a property that the Device has not is left out."""
        if name not in self._known:
            return
        is_first = not self._unread
        self._count(_outcome(reading, is_unread=name in self._unread), 1)
        self._unread.add(name)
        self._heard[name] = 0 if self._clock is None else self._clock()
        self._readings[name] = reading
        if is_first:
            for changed in self._changed:
                changed()

    def read(self, names: Sequence[str]) -> dict[str, Reading]:
        """Return what is held; properties never heard of are left out."""
        self._unread.clear()
        now = 0 if self._clock is None else self._clock()
        return {
            name: self._judged(name, self._readings[name], now)
            for name in names
            if name in self._readings
        }

    def _judged(self, name: str, held: Reading, now: int) -> Reading:
        silence = now - self._heard[name]
        if not self._stale_after or silence < self._stale_after or held.quality is Quality.BAD:
            return held
        why = f"nothing heard for {silence // 1_000} s"
        return Reading(held.text, Quality.UNCERTAIN, held.at, why)

    def close(self) -> None:
        self._changed.clear()


def _outcome(reading: Reading, *, is_unread: bool) -> str:
    if reading.quality is Quality.BAD:
        return "malformed"
    return "coalesced" if is_unread else "taken"
