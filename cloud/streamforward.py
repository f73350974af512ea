"""A request for a node's kubelet that another CloudCore can answer: its connection, byte by byte.

Both CloudCores show certificates of the cluster's CA. What the other one answers is passed on as it comes,
head and all, for logs as for shells.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from cloud.peers import FORWARDED
from gateway.errors import Undeliverable
from gateway.runtime.http_heads import write_head
from gateway.runtime.small_service import Request, Takeover, Write

if TYPE_CHECKING:
    from cloud.identity import Identity

CONNECT_SECONDS = 5.0
CHUNK = 65_536
_OWN = frozenset({"content-length", "transfer-encoding", "expect", "authorization", "cookie"})


async def forward(
    request: Request, address: str, port: int, identity: Identity, *, by: str, is_raw: bool
) -> Takeover:
    """Hand a request's connection to the CloudCore at `address`; `is_raw` for what is an upgrade.

    Errors: Undeliverable when it cannot be reached, or is not a CloudCore of this cluster.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(
                address, port, ssl=identity.peer_tls(), limit=CHUNK
            )
    except (OSError, TimeoutError) as error:
        why = str(error) or "no connection in time"
        raise Undeliverable(f"CloudCore {address}:{port}: {why}") from error
    head = _head(request, by, is_raw=is_raw)

    async def carry(from_client: asyncio.StreamReader, write: Write) -> None:
        up = asyncio.get_running_loop().create_task(_up(from_client, writer, is_raw=is_raw))
        try:
            writer.write(head + request.body)
            while data := await reader.read(CHUNK):
                await write(data)
        except (OSError, ssl.SSLError) as error:
            raise ConnectionResetError(str(error)) from error
        finally:
            writer.transport.abort()
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)

    return Takeover(carry)


def _head(request: Request, by: str, *, is_raw: bool) -> bytes:
    headers = [(k.title(), v) for k, v in request.headers.items() if k not in _OWN]
    if not is_raw:
        headers = [(k, v) for k, v in headers if k != "Connection"] + [("Connection", "close")]
    if request.body or request.method == "POST":
        headers.append(("Content-Length", str(len(request.body))))
    headers.append((FORWARDED, by))
    target = f"{request.path}?{request.query}" if request.query else request.path
    return write_head(f"{request.method} {target} HTTP/1.1", headers)


async def _up(
    from_client: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_raw: bool
) -> None:
    """Send the client's bytes on until either ends; beside a plain request there are none for it."""
    with suppress(OSError):
        while is_raw and (data := await from_client.read(CHUNK)):
            writer.write(data)
            await writer.drain()
