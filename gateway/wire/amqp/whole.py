"""The frame that nearly all messages come in: a transfer that is a whole message, in its usual form.

Read at once, past the general way of frames; whatever has another form, or is broken, is left to that.
Source: OASIS AMQP 1.0, part 2, section 2.7.5.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

Whole: TypeAlias = tuple[int, int, bytes, bool, bytes]
"""Handle, delivery id, delivery tag, settled, payload."""

_HEAD: Final = b"\x00\x53\x14\xc0"
_BODY: Final = 8
_FIELDS: Final = 14
"""Where the fields of a transfer begin in its frame, behind head, width and number."""
_SHORTEST: Final = 28
"""Bytes of such a frame without payload, with a tag as our own links have it."""
_UINT0, _SMALL_UINT, _UINT, _BINARY, _TRUE, _FALSE = 0x43, 0x52, 0x70, 0xA0, 0x41, 0x42
_ID = struct.Struct(">BIBB").unpack_from
"""Format code and delivery id, format code and length of the tag."""


def read_whole(data: bytes, at: int, end: int) -> Whole | None:
    """Read the frame from `at` to `end`; None where it is not a whole message in the usual form."""
    if end - at < _SHORTEST or data[at + _BODY : at + 12] != _HEAD:
        return None
    if data[at + 4] != 2 or data[at + 5]:
        return None
    count, body = data[at + 13], at + 13 + data[at + 12]
    if not 5 <= count <= 6 or not at + _SHORTEST <= body <= end:
        return None
    place = at + _FIELDS
    code = data[place]
    if code == _SMALL_UINT:
        handle, place = data[place + 1], place + 2
    elif code == _UINT0:
        handle, place = 0, place + 1
    else:
        return None
    uint, delivery_id, binary, width = _ID(data, place)
    rest = place + 7 + width
    if uint != _UINT or binary != _BINARY or body - rest != count - 3:
        return None
    settled = data[rest + 1]
    if data[rest] != _UINT0 or settled not in (_TRUE, _FALSE):
        return None
    if count == 6 and data[rest + 2] != _FALSE:  # more frames follow
        return None
    return handle, delivery_id, data[place + 7 : rest], settled == _TRUE, data[body:end]
