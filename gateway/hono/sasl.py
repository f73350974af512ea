"""What SASL PLAIN says."""

from __future__ import annotations


def parse_plain(response: bytes) -> tuple[str, bytes]:
    """Read `authzid NUL authcid NUL password`; -> (authcid, password).

    Shape:  ("", b"") for anything that is not PLAIN's form, which no credential matches.
    Source: RFC 4616, section 2.
    """
    parts = response.split(b"\0", 2)
    if len(parts) != 3:
        return "", b""
    try:
        return parts[1].decode(), parts[2]
    except UnicodeDecodeError:
        return "", b""
