"""Listening on a Unix socket that only this user can reach."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.errors import InvalidSetting
from gateway.runtime.listener import BACKLOG, PortTaken

MAX_PATH = 107
"""Bytes that the system takes for the path of a socket."""
PROBE_SECONDS = 0.5


@asynccontextmanager
async def listening_at(
    path: str, factory: Callable[[], asyncio.Protocol], *, setting: str
) -> AsyncIterator[None]:
    """Listen at `path` (mode 0600) for the length of the block; a socket that a crash left is replaced.

    Errors: InvalidSetting for a path that cannot be one; PortTaken when another process listens there.
    """
    server_socket = _bound(path, setting)
    try:
        server = await asyncio.get_running_loop().create_unix_server(
            factory, sock=server_socket, backlog=BACKLOG
        )
    except BaseException:
        server_socket.close()
        raise
    try:
        yield
    finally:
        server.close()
        _remove(path)


def _bound(path: str, setting: str) -> socket.socket:
    if len(os.fsencode(path)) > MAX_PATH:
        raise InvalidSetting(f"{setting}: expected at most {MAX_PATH} bytes, got {path!r}")
    _make_room(path, setting)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        bound.bind(path)
    except OSError as error:
        bound.close()
        raise InvalidSetting(f"{setting}: cannot listen at {path}: {error.strerror}") from error
    finally:
        os.umask(mask)
    bound.setblocking(False)
    return bound


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _make_room(path: str, setting: str) -> None:
    """Remove a socket that nobody listens at."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidSetting(f"{setting}: {path} is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except OSError:
            _remove(path)
            return
    raise PortTaken(errno.EADDRINUSE, f"{setting}: another process listens at {path}")
