"""DMI's messages to and from JSON objects.

A field that has its default value is not written; an object that is there and empty is. What is read is
complete: texts "", numbers 0, lists and maps empty; a message that did not come is absent. Fields that are
not known, or have another wire type than theirs, are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.errors import BadRequest, MalformedPacket, TooLarge
from gateway.model.json import Json, JsonObject
from gateway.wire.dmi.anyvalues import Numbers, unwrap, wrap
from gateway.wire.dmi.fields import TABLES, Field, Kind
from gateway.wire.dmi.wire import LENGTH, VARINT, fields, piece, signed, tag, varint

MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of one message, as gRPC's own limit."""
MAX_DEPTH = 32
"""How deep messages may be inside each other."""
MAX_ENTRIES = 10_000
"""Entries of one list or map."""


def encode(message: str, value: JsonObject, numbers: Numbers = Numbers.FLOAT) -> bytes:
    """Write a message. Errors: BadRequest for a value that its field cannot hold; TooLarge."""
    data = _encode(message, value, numbers)
    if len(data) > MAX_MESSAGE:
        raise TooLarge(f"{message}: at most {MAX_MESSAGE} bytes, got {len(data)}")
    return data


def decode(message: str, data: bytes) -> JsonObject:
    """Read a message. Errors: MalformedPacket, TooLarge."""
    if len(data) > MAX_MESSAGE:
        raise TooLarge(f"{message}: at most {MAX_MESSAGE} bytes, got {len(data)}")
    return _decode(message, data, 0)


# --- writing ---------------------------------------------------------------------------------------


def _encode(message: str, value: JsonObject, numbers: Numbers) -> bytes:
    table = TABLES[message]
    out: list[bytes] = []
    for name, entry in value.items():
        field = table.by_name.get(name)
        if field is None:
            raise BadRequest(f"{message} has no field {name}")
        entries = entry if field.is_repeated and isinstance(entry, list) else [entry]
        out.extend(_write(field, each, numbers) for each in entries if each is not None)
    return b"".join(out)


def _write(field: Field, value: Json, numbers: Numbers) -> bytes:
    if field.kind in _MAPS:
        return _write_map(field, _object(field, value), numbers)
    if field.kind is Kind.MESSAGE:
        return piece(field.number, _encode(field.message, _object(field, value), numbers))
    if not value and not field.is_repeated:
        return b""
    if field.kind in (Kind.STRING, Kind.BYTES):
        if not isinstance(value, str):
            raise BadRequest(f"{field.name}: expected text")
        return piece(field.number, value.encode())
    return tag(field.number, VARINT) + varint(_whole(field, value))


def _object(field: Field, value: Json) -> JsonObject:
    if not isinstance(value, dict):
        raise BadRequest(f"{field.name}: expected an object")
    return value


_BITS = {Kind.BOOL: 1, Kind.INT32: 31, Kind.INT64: 63}


def _whole(field: Field, value: Json) -> int:
    bits = _BITS[field.kind]
    if not isinstance(value, int) or not -(2**bits) <= value < 2**bits:
        raise BadRequest(f"{field.name}: expected a whole number of {bits + 1} bits")
    return int(value)


def _write_map(field: Field, value: JsonObject, numbers: Numbers) -> bytes:
    entries = []
    for key, entry in value.items():
        data = wrap(entry, numbers) if field.kind is Kind.ANYS else _text_of(field, entry)
        if data is not None:
            entries.append(piece(field.number, piece(1, key.encode()) + piece(2, data)))
    return b"".join(entries)


def _text_of(field: Field, value: Json) -> bytes:
    if not isinstance(value, str):
        raise BadRequest(f"{field.name}: expected texts")
    return value.encode()


# --- reading ---------------------------------------------------------------------------------------


def _decode(message: str, data: bytes, depth: int) -> JsonObject:
    if depth > MAX_DEPTH:
        raise MalformedPacket(f"{message}: more than {MAX_DEPTH} messages inside each other")
    table = TABLES[message]
    out: JsonObject = {f.name: _default(f) for f in table.by_number.values() if not _is_optional(f)}
    for number, wire_type, value in fields(data):
        field = table.by_number.get(number)
        if field is not None and wire_type == _wire_type(field):
            _take(out, field, value, depth)
    return out


def _is_optional(field: Field) -> bool:
    return field.kind is Kind.MESSAGE and not field.is_repeated


def _default(field: Field) -> Json:
    return [] if field.is_repeated else _DEFAULTS[field.kind]()


_DEFAULTS: Mapping[Kind, Callable[[], Json]] = {
    Kind.STRING: str,
    Kind.BYTES: str,
    Kind.BOOL: bool,
    Kind.INT32: int,
    Kind.INT64: int,
    Kind.TEXTS: dict,
    Kind.ANYS: dict,
}
_MAPS = frozenset({Kind.TEXTS, Kind.ANYS})


def _wire_type(field: Field) -> int:
    return VARINT if field.kind in _BITS else LENGTH


def _take(out: JsonObject, field: Field, value: int | bytes, depth: int) -> None:
    if field.kind in _MAPS:
        _take_entry(out, field, _bytes(value))
        return
    found = _read(field, value, depth)
    if field.is_repeated:
        entries = out[field.name]
        if not isinstance(entries, list) or len(entries) >= MAX_ENTRIES:
            raise MalformedPacket(f"{field.name}: more than {MAX_ENTRIES} entries")
        entries.append(found)
    else:
        out[field.name] = found


def _read(field: Field, value: int | bytes, depth: int) -> Json:
    if field.kind is Kind.MESSAGE:
        return _decode(field.message, _bytes(value), depth + 1)
    if isinstance(value, bytes):
        return _decode_text(field.name, value)
    if field.kind is Kind.BOOL:
        return bool(value)
    number = signed(value)
    return number if field.kind is Kind.INT64 else _low_half(number)


def _low_half(number: int) -> int:
    """Return the lower 32 bits with sign, as every reader of an int32 does."""
    low = number & 0xFFFF_FFFF
    return low - 2**32 if low >> 31 else low


def _take_entry(out: JsonObject, field: Field, data: bytes) -> None:
    entries = out[field.name]
    if not isinstance(entries, dict) or len(entries) >= MAX_ENTRIES:
        raise MalformedPacket(f"{field.name}: more than {MAX_ENTRIES} entries")
    key, inner = "", b""
    for number, wire_type, value in fields(data):
        if wire_type == LENGTH and number == 1:
            key = _decode_text(field.name, _bytes(value))
        elif wire_type == LENGTH and number == 2:
            inner = _bytes(value)
    is_text = field.kind is Kind.TEXTS
    entries[key] = _decode_text(field.name, inner) if is_text else unwrap(inner)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise MalformedPacket("protobuf: bytes were expected")
    return value


def _decode_text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise MalformedPacket(f"{name}: the text is not UTF-8") from error
