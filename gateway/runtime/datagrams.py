"""UDP sockets: where they are bound, and one clear line when a port is taken."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from gateway.runtime.listener import Endpoints, PortTaken, parse_bind

RECEIVE_BUFFER = 1_048_576
"""Bytes that the kernel is asked to keep for bursts; it gives what it allows."""

P = TypeVar("P", bound=asyncio.DatagramProtocol)


@asynccontextmanager
async def receiving(
    endpoints: Endpoints, name: str, bind: str, factory: Callable[[], P], *, setting: str
) -> AsyncIterator[P]:
    """Take datagrams with a protocol for the length of the block, and note the address under `name`.

    Errors: PortTaken; InvalidSetting for a bad `bind`.
    """
    host, port = parse_bind(bind, setting)
    loop = asyncio.get_running_loop()
    protocol = factory()  # here, for what it raises: asyncio would leave its socket open
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: protocol, local_addr=(host, port)
        )
    except OSError as error:
        raise _taken(error, name, host, port, setting) from error
    try:
        bound = transport.get_extra_info("socket")
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        endpoints.add(name, host, bound.getsockname()[1])
        yield protocol
    finally:
        transport.abort()


def _taken(error: OSError, name: str, host: str, port: int, setting: str) -> OSError:
    if error.errno != errno.EADDRINUSE:
        return OSError(error.errno, f"{name}: cannot listen on {host}:{port}: {error.strerror}")
    return PortTaken(
        errno.EADDRINUSE,
        f"{name}: UDP port {port} on {host} is taken; choose another with --set {setting}={host}:0",
    )
