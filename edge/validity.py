"""From when to when a certificate is valid: the one thing that the agent reads of X.509 while it runs.

A whole library for it would cost a small agent a fifth of its memory. Source: RFC 5280, section 4.1; DER.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.errors import MalformedPacket

_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


@dataclass(frozen=True, slots=True)
class Validity:
    """Times in Unix seconds; `serial` as a number."""

    serial: int
    not_before: float
    not_after: float


def read_validity(pem: str) -> Validity:
    """Read the first certificate of a PEM text. Errors: MalformedPacket."""
    begin = pem.find("-----BEGIN CERTIFICATE-----")
    try:
        end = pem.index("-----END CERTIFICATE-----", begin) + len("-----END CERTIFICATE-----")
        return _read(ssl.PEM_cert_to_DER_cert(pem[begin:end]))
    except (ValueError, IndexError) as error:
        raise MalformedPacket(f"certificate: {error}") from error


def _read(der: bytes) -> Validity:
    at, _ = _enter(der, 0, _SEQUENCE)
    at, _ = _enter(der, at, _SEQUENCE)
    if der[at] == _VERSION:
        at = _skip(der, at)
    start, end = _enter(der, at, _INTEGER)
    serial = int.from_bytes(der[start:end], "big")
    for _ in ("signature", "issuer"):
        end = _skip(der, end, _SEQUENCE)
    start, _ = _enter(der, end, _SEQUENCE)
    after = _skip(der, start)
    return Validity(serial, _time(der, start), _time(der, after))


def _enter(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """Return where the value at `at` starts and ends."""
    if der[at] != tag:
        raise ValueError(f"expected tag {tag:#x} at {at}, got {der[at]:#x}")
    size, start = der[at + 1], at + 2
    if size & 0x80:
        width = size & 0x7F
        size, start = int.from_bytes(der[start : start + width], "big"), start + width
    if start + size > len(der):
        raise ValueError("it is cut off")
    return start, start + size


def _skip(der: bytes, at: int, tag: int | None = None) -> int:
    return _enter(der, at, der[at] if tag is None else tag)[1]


def _time(der: bytes, at: int) -> float:
    start, end = _enter(der, at, der[at])
    text = der[start:end].decode("ascii")
    if der[at] == _UTC_TIME:  # RFC 5280, 4.1.2.5.1: 50 to 99 are of the last century
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif der[at] != _GENERALIZED_TIME:
        raise ValueError(f"not a time at {at}")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
