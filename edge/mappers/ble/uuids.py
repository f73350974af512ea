"""UUIDs of Bluetooth in one form: 128 bits, lower case, with dashes."""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import Rejected

_BASE: Final = "-0000-1000-8000-00805f9b34fb"
_SHORT: Final = re.compile(r"(?:0x)?([0-9a-f]{4}|[0-9a-f]{8})")
_LONG: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ADDRESS: Final = re.compile(r"[0-9A-F]{2}(?::[0-9A-F]{2}){5}")


def uuid_of(text: str) -> str:
    """Read a UUID as people write it: `2A6E`, `0x2a6e`, or all of it. Errors: Rejected."""
    word = text.strip().lower()
    short = _SHORT.fullmatch(word)
    if short is not None:
        return short[1].rjust(8, "0") + _BASE
    if len(word) == 32:
        word = "-".join((word[:8], word[8:12], word[12:16], word[16:20], word[20:]))
    if not _LONG.fullmatch(word):
        raise Rejected(f"expected a UUID like 2A6E, or one of 128 bits, got {text[:50]!r}")
    return word


def sig(number: int) -> str:
    """Return the UUID of one of the Bluetooth SIG's 16-bit numbers."""
    return f"{number:08x}{_BASE}"


def number_of(uuid: str) -> int | None:
    """Return the 16-bit number of a UUID, None where it is nobody's."""
    return int(uuid[4:8], 16) if uuid.endswith(_BASE) and uuid.startswith("0000") else None


def address_of(text: str) -> str:
    """Read a device's address: `c0:de:00:00:00:01`, dashes too. Errors: Rejected."""
    word = text.strip().upper().replace("-", ":").replace("_", ":")
    if not _ADDRESS.fullmatch(word):
        raise Rejected(f"expected an address like C0:DE:00:00:00:01, got {text[:40]!r}")
    return word
