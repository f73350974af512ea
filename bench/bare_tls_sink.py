"""A bare TLS echo that asks for client certificates: what a connection costs before it is used.

Kinds: `tls` answers bytes with as many; `aiohttp` is a WebSocket that answers each text message with itself.
The loop is the one that `twinspan cloud` runs on. Prints its port.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from typing import cast

from gateway.runtime import process


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


def context(folder: Path) -> ssl.SSLContext:
    """The server's side: `server.pem` and `ca.pem` are in the folder."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(folder / "ca.pem")
    made.load_cert_chain(folder / "server.pem")
    return made


async def serve(kind: str, folder: Path) -> None:
    loop = asyncio.get_running_loop()
    factory = await _websocket() if kind == "aiohttp" else Echo
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=context(folder), backlog=1_024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


async def _websocket() -> type[asyncio.Protocol]:
    from aiohttp import WSMsgType, web

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/{path:.*}", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    return cast("type[asyncio.Protocol]", runner.server)


if __name__ == "__main__":
    process.run(serve(sys.argv[1], Path(sys.argv[2])))
