"""Ports for listeners that must come back under the same address, or that nobody may have."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

KERNELS_OWN = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST, HIGHEST = 20_000, 65_535
"""Below lie the ports that programs have by default."""
_TAKEN = Path(tempfile.gettempdir()) / f"twinspan-test-ports-{os.getuid()}"
_held: IO[bytes] | None = None
_given: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on and that no other test gets, in this process or beside it.

    The kernel does not give it away either, to a connection that goes out while its listener is down: it
    lies outside of the range of such ports.
    """
    choice = [port for port in _ours() if port not in _given]
    first = random.randrange(len(choice))
    for port in choice[first:] + choice[:first]:
        if _hold(port) and _is_free(port):
            _given.add(port)
            return port
    raise AssertionError("no port is free")


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]


def _ours() -> list[int]:
    """Return the ports outside of the kernel's range; all where that leaves too few."""
    low, high = (int(word) for word in KERNELS_OWN.read_text().split())
    outside = [port for port in range(LOWEST, HIGHEST + 1) if not low <= port <= high]
    return outside if len(outside) >= 1_000 else list(range(LOWEST, HIGHEST + 1))


def _hold(port: int) -> bool:
    """Lock the port's byte of a file for the life of this process; False when another process has it."""
    global _held
    if _held is None:
        _held = _TAKEN.open("ab")
    try:
        fcntl.lockf(_held, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    """Return whether both TCP and UDP can be had, on all addresses."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                return False
    return True
