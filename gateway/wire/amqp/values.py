"""AMQP 1.0 primitive types as Python values.

Shape:  null None · boolean bool · string str · symbol `Symbol` · binary bytes · long int · double float ·
        list list · map dict · array `Array` · uuid `uuid.UUID` · timestamp `Timestamp` (ms since the epoch)
        · the other numbers a subclass of int or float each, so that a value that came in goes out
        as the type it had · decimals opaque bits · a described value `Described`.
Source: OASIS AMQP 1.0, part 1 (types).

Left out: maps are Python dicts, so keys that Python calls equal (`uint` 1 and `int` 1) fall together, and a
list, map or array cannot be a key.
"""

from __future__ import annotations

from dataclasses import dataclass


class Symbol(str):
    """ASCII text from a closed vocabulary, e.g. a content type or a capability."""

    __slots__ = ()


class Char(str):
    """One Unicode code point."""

    __slots__ = ()


class UByte(int):
    """8 bits, unsigned."""

    __slots__ = ()


class UShort(int):
    """16 bits, unsigned."""

    __slots__ = ()


class UInt(int):
    """32 bits, unsigned."""

    __slots__ = ()


class ULong(int):
    """64 bits, unsigned."""

    __slots__ = ()


class Byte(int):
    """8 bits, signed."""

    __slots__ = ()


class Short(int):
    """16 bits, signed."""

    __slots__ = ()


class Int(int):
    """32 bits, signed; a plain Python int is a `long`."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since 1970-01-01T00:00:00Z."""

    __slots__ = ()


class Float(float):
    """32-bit float; a plain Python float is a `double`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Decimal:
    """A decimal32, decimal64 or decimal128, kept as its 4, 8 or 16 bytes."""

    bits: bytes


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor (a symbol or ulong) that this codec has no class for."""

    descriptor: object
    value: object


@dataclass(frozen=True, slots=True)
class Array:
    """Values of one type.

    Shape:  `code` is the format code of every element; `descriptor` applies to every element or is None.
    """

    code: int
    items: tuple[object, ...]
    descriptor: object = None
