"""Reads Kubernetes protobuf request bodies into JSON documents; nothing is ever written in that form.

A body is `k8s\\0`, then a message: field 1 = {1: apiVersion, 2: kind}, field 2 = the object's bytes. Which
field number is which JSON field comes as a table (`MessageTable`). Values that are zero and no pointer are
dropped, as Go's JSON encoder drops them. Source: Kubernetes "API concepts", protobuf encoding; protobuf's
wire format.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

from gateway.errors import BadRequest, UnsupportedMediaType
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339

MAGIC = b"k8s\x00"
MAX_DEPTH = 64

FieldRow: TypeAlias = "Sequence[str | int]"
MessageTable: TypeAlias = "Mapping[str, Mapping[str, FieldRow]]"
"""`<group/version>.<Kind>` -> field number as text -> (JSON name, type, 1 if pointer).

Type codes: `s` text, `i` integer, `b` bool, `d` double, `y` bytes, `*T` repeated, `%T` map from text to T,
`L:T` a wrapper whose field 1 repeats T, a special name, else a message of the table. A message under the
empty JSON name is part of its parent.
"""

_Value: TypeAlias = "int | bytes"


def decode(body: bytes, table: MessageTable) -> JsonObject:
    """Read a whole body into an object with apiVersion and kind.

    Errors: BadRequest for bytes that are no such message; UnsupportedMediaType for a kind without a table.
    """
    if not body.startswith(MAGIC):
        raise BadRequest("protobuf body: expected the prefix 'k8s\\0'")
    outer = dict(_fields(body[len(MAGIC) :]))
    type_meta = dict(_fields(_bytes(outer.get(1, b""))))
    api_version, kind = _text(type_meta.get(1, b"")), _text(type_meta.get(2, b""))
    name = message_name(api_version, kind)
    if name not in table:
        raise UnsupportedMediaType(
            f"protobuf body of {api_version} {kind}: send it as application/json"
        )
    reader = _Reader(table)
    item = reader.message(name, _bytes(outer.get(2, b"")), 0)
    return {"apiVersion": api_version, "kind": kind, **item}


def message_name(api_version: str, kind: str) -> str:
    """`v1` and Node -> `core/v1.Node`; DeleteOptions and the like live in `meta/v1`."""
    if kind in _META_KINDS:
        return f"meta/v1.{kind}"
    return f"{api_version if '/' in api_version else f'core/{api_version}'}.{kind}"


_META_KINDS = ("DeleteOptions", "Status")


def _fields(data: bytes) -> list[tuple[int, _Value]]:
    """Split a message into (number, value); fixed-width values come as bytes."""
    found: list[tuple[int, _Value]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value: _Value
            value, at = _varint(data, at)
        elif wire == 2:
            length, at = _varint(data, at)
            value, at = _slice(data, at, length)
        elif wire in (1, 5):
            value, at = _slice(data, at, 8 if wire == 1 else 4)
        else:
            raise BadRequest(f"protobuf body: wire type {wire} at byte {at}")
        found.append((number, value))
    return found


def _slice(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if length > len(data) - at:
        raise BadRequest(
            f"protobuf body: {length} bytes announced at byte {at}, {len(data) - at} left"
        )
    return data[at : at + length], at + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & (2**64 - 1), at
        shift += 7
    raise BadRequest(f"protobuf body: broken number at byte {at}")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _bytes(value: _Value) -> bytes:
    if not isinstance(value, bytes):
        raise BadRequest("protobuf body: expected a length-delimited field")
    return value


def _int(value: _Value) -> int:
    if not isinstance(value, int):
        raise BadRequest("protobuf body: expected a number")
    return _signed(value)


def _text(value: _Value) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError as error:
        raise BadRequest("protobuf body: text is not UTF-8") from error


class _Reader:
    """Reads messages with one table."""

    def __init__(self, table: MessageTable) -> None:
        self._table = table

    def message(self, name: str, data: bytes, depth: int) -> JsonObject:
        if depth > MAX_DEPTH:
            raise BadRequest(f"protobuf body: more than {MAX_DEPTH} levels")
        rows = self._table[name]
        out: JsonObject = {}
        for number, value in _fields(data):
            row = rows.get(str(number))
            if row is not None:
                self._put(out, row, value, depth)
        return out

    def _put(self, out: JsonObject, row: FieldRow, value: _Value, depth: int) -> None:
        name, code, is_pointer = str(row[0]), str(row[1]), len(row) > 2
        if code.startswith("*"):
            items = cast("list[Json]", out.setdefault(name, []))
            items.append(self._value(code[1:], value, depth))
        elif code.startswith("%"):
            entries = cast("JsonObject", out.setdefault(name, {}))
            self._entry(entries, code[1:], _bytes(value), depth)
        else:
            read = self._value(code, value, depth)
            if not name and isinstance(read, dict):
                out.update(read)
            elif is_pointer or read not in ("", 0, False, None, {}):
                out[name] = read

    def _entry(self, entries: JsonObject, code: str, data: bytes, depth: int) -> None:
        pair = dict(_fields(data))
        empty: _Value = 0 if code in ("i", "b") else b""
        entries[_text(pair.get(1, b""))] = self._value(code, pair.get(2, empty), depth)

    def _value(self, code: str, value: _Value, depth: int) -> Json:
        if code in _SCALARS:
            return _SCALARS[code](value)
        if code in _SPECIALS:
            return _SPECIALS[code](dict(_fields(_bytes(value))))
        if code.startswith("L:"):
            parts = [item for number, item in _fields(_bytes(value)) if number == 1]
            return [self._value(code[2:], item, depth + 1) for item in parts]
        if code not in self._table:
            raise BadRequest(f"protobuf body: no table for {code}")
        return self.message(code, _bytes(value), depth + 1)


def _double(value: _Value) -> float:
    raw = _bytes(value)
    if len(raw) != 8:
        raise BadRequest("protobuf body: expected eight bytes of a double")
    return cast("float", struct.unpack("<d", raw)[0])


_SCALARS: dict[str, Callable[[_Value], Json]] = {
    "s": _text,
    "i": _int,
    "b": lambda value: _int(value) != 0,
    "d": _double,
    "y": lambda value: base64.b64encode(_bytes(value)).decode(),
}


_Parts: TypeAlias = "Mapping[int, _Value]"


def _time(parts: _Parts) -> Json:
    seconds = _int(parts.get(1, 0))
    nanos = _int(parts.get(2, 0))
    if not parts or not -62_135_596_800 < seconds < 253_402_300_800:
        return None
    return rfc3339(seconds) if not nanos else rfc3339(seconds)[:-1] + f".{nanos // 1_000:06d}Z"


def _micro_time(parts: _Parts) -> Json:
    text = _time(parts)
    if isinstance(text, str) and "." not in text:
        return text[:-1] + ".000000Z"
    return text


def _raw_json(parts: _Parts) -> Json:
    raw = _bytes(parts.get(1, b""))
    try:
        return cast("Json", json.loads(raw)) if raw else None
    except ValueError as error:
        raise BadRequest("protobuf body: embedded JSON cannot be read") from error


def _int_or_string(parts: _Parts) -> Json:
    return _text(parts.get(3, b"")) if _int(parts.get(1, 0)) == 1 else _int(parts.get(2, 0))


_SPECIALS: dict[str, Callable[[_Parts], Json]] = {
    "Quantity": lambda parts: _text(parts.get(1, b"")),
    "IntOrString": _int_or_string,
    "Time": _time,
    "MicroTime": _micro_time,
    "meta/v1.Time": _time,
    "meta/v1.MicroTime": _micro_time,
    "Duration": lambda parts: _int(parts.get(1, 0)),
    "RawExtension": _raw_json,
    "FieldsV1": _raw_json,
}
