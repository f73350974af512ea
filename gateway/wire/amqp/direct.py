"""Fields of composite types read straight from their bytes: what comes with each message, in its usual form.

A reader takes (data, position after the format code) and gives (plain value, position after it). There is
one for each format code that a field's type mostly comes in; everything else, wrong types and broken lengths
among it, is for the general decoder, which also finds the words for what is wrong.
Source: OASIS AMQP 1.0, part 1 (types).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

Reader: TypeAlias = Callable[[bytes, int], tuple[object, int]]
Readers: TypeAlias = Mapping[int, Reader]

NULL: Final = 0x40
LIST0: Final = 0x45
SMALL_ULONG: Final = 0x53
LIST8: Final = 0xC0
_DESCRIBED: Final = bytes((0x00, SMALL_ULONG))
_EMPTY_LIST8: Final = bytes((LIST8, 1, 0))
_HEAD: Final = 6
"""Bytes of a composite before its fields: 0, format code and value of the descriptor, list, size, count."""


def constant(value: object) -> Reader:
    """A value that is its format code."""
    return lambda _data, at: (value, at)


def _fixed(layout: str) -> Reader:
    unpack, size = struct.Struct(layout).unpack_from, struct.calcsize(layout)
    return lambda data, at: (unpack(data, at)[0], at + size)


def _binary(data: bytes, at: int) -> tuple[object, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end], end


def _text(data: bytes, at: int) -> tuple[object, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(), end


def _ascii(data: bytes, at: int) -> tuple[object, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode("ascii"), end


def _byte(data: bytes, at: int) -> tuple[object, int]:
    return data[at], at + 1


BOOLEANS: Final[Readers] = {0x41: constant(True), 0x42: constant(False)}
UBYTES: Final[Readers] = {0x50: _byte}
USHORTS: Final[Readers] = {0x60: _fixed(">H")}
UINTS: Final[Readers] = {0x43: constant(0), 0x52: _byte, 0x70: _fixed(">I")}
TIMESTAMPS: Final[Readers] = {0x83: _fixed(">q")}
BINARIES: Final[Readers] = {0xA0: _binary}
STRINGS: Final[Readers] = {0xA1: _text}
SYMBOLS: Final[Readers] = {0xA3: _ascii}


def fieldless(known: Mapping[int, object]) -> Readers:
    """Readers of described values without fields, by the number of their descriptor."""

    def read(data: bytes, at: int) -> tuple[object, int]:
        value = known[data[at + 1]]
        if data[at] == SMALL_ULONG and data[at + 2] == LIST0:
            return value, at + 3
        if data[at] == SMALL_ULONG and data[at + 2 : at + 5] == _EMPTY_LIST8:
            return value, at + 5
        raise KeyError

    return {0x00: read}


class Plan:
    """How one composite type is read: a table of readers for each field, in the order of the wire.

    Shape:  `places` says where each field's value stands among the arguments of `make`, `blank` what those
            are where nothing is sent; a mandatory field has no reader of null.
    """

    def __init__(
        self,
        make: Callable[..., object],
        readers: tuple[Readers, ...],
        places: tuple[int, ...],
        blank: tuple[object, ...],
        needed: int,
    ) -> None:
        self._make = make
        self._fields = tuple(zip(places, readers, strict=True))
        self._blank = blank
        self._needed = needed

    def read(self, data: bytes, at: int) -> tuple[object, int] | None:
        """Read the list whose descriptor stands at `at`; None where that takes the general decoder."""
        if data[at + 3] != LIST8:
            return None
        end, count = at + 5 + data[at + 4], data[at + 5]
        if not self._needed <= count <= len(self._fields) or end > len(data):
            return None
        values, at = list(self._blank), at + _HEAD
        for place, readers in self._fields[:count]:
            values[place], at = readers[data[at]](data, at + 1)
        return (self._make(*values), end) if at == end else None


Plans: TypeAlias = Mapping[int, Plan]


def read_composite(plans: Plans, data: bytes, at: int = 0) -> tuple[object, int] | None:
    """Read a composite type by its plan; None where there is none, or the value has a rarer form."""
    if data[at : at + 2] != _DESCRIBED:
        return None
    try:
        return plans[data[at + 2]].read(data, at)
    except (KeyError, IndexError, struct.error, UnicodeDecodeError):
        return None
