"""Whether somebody answers at addresses, all asked at once and none waited for long.

TCP: whether a connection is taken. CoAP: an empty confirmable message, which every endpoint answers with a
reset. Source: RFC 7252, 4.3.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

SECONDS: Final = 3.0
MAX_TARGETS: Final = 64
"""Addresses that are asked; more are not."""
SILENT: Final = f"no answer in {SECONDS:g} s"
_PING: Final = b"\x40\x00\x7a\x7a"


@dataclass(frozen=True, slots=True)
class Target:
    """Somebody at an address."""

    host: str
    port: int
    is_coap: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'coap ' if self.is_coap else ''}{host}:{self.port}"


def reached(targets: Iterable[Target]) -> Mapping[Target, str]:
    """Return why each cannot be reached, "" for those that can; it takes `SECONDS` in all.

    A name server may be silent for longer than that, and its calls cannot be ended: hence threads that
    nobody waits for.
    """
    asked = list(dict.fromkeys(targets))[:MAX_TARGETS]
    found: dict[Target, str] = {}
    threads = [threading.Thread(target=_ask, args=(t, found), daemon=True) for t in asked]
    for thread in threads:
        thread.start()
    until = time.monotonic() + SECONDS
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return {target: found.get(target, SILENT) for target in asked}


def _ask(target: Target, found: dict[Target, str]) -> None:
    try:
        (_coap if target.is_coap else _tcp)(target)
    except TimeoutError:
        found[target] = SILENT
    except (OSError, UnicodeError) as error:
        found[target] = getattr(error, "strerror", None) or str(error)
    else:
        found[target] = ""


def _tcp(target: Target) -> None:
    socket.create_connection((target.host, target.port), SECONDS).close()


def _coap(target: Target) -> None:
    """Errors: OSError; TimeoutError."""
    family, kind, proto, _, address = socket.getaddrinfo(
        target.host, target.port, type=socket.SOCK_DGRAM
    )[0]
    with socket.socket(family, kind, proto) as link:
        link.connect(address)
        for last in (False, True):  # one packet may be lost
            link.settimeout(SECONDS / 2)
            link.send(_PING)
            try:
                link.recv(64)
            except TimeoutError:
                if last:
                    raise
            else:
                return
