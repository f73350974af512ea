"""The ceiling of what is served over HTTP: bare aiohttp with constant answers.

`GET` and `PUT` below `/api` answer a constant thing and nothing, `POST /telemetry` 202 and nothing; a
WebSocket on `/ws/2` gets a constant frame for each one that it sends; what is sent to `POST /all` goes to
every WebSocket that said `START-SEND-EVENTS`.
Prints its port.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import WSMsgType, web

from gateway.runtime import process

THING = (
    b'{"thingId":"bench:t0000001","policyId":"bench:fleet","attributes":{"maker":"ACME","serial":"s-1","n":517,'
    b'"location":{"lat":12.345678901234,"lon":-98.76543210987}},"features":{"motor":{"properties":{"rpm":1234,'
    b'"load":0.123456789012}},"temperature":{"properties":{"value":45.678901234567,"unit":"celsius"}}}}'
)
ANSWER = (
    '{"topic":"bench/t0000001/things/twin/commands/retrieve","headers":{"correlation-id":"c1",'
    '"response-required":false,"version":2,"content-type":"application/json","etag":"\\"rev:1\\"",'
    f'"entity-revision":1}},"path":"/","value":{THING.decode()},"status":200}}'
)


class Sink:
    """All handlers."""

    def __init__(self) -> None:
        self._sockets: set[web.WebSocketResponse] = set()

    async def get(self, _request: web.Request) -> web.Response:
        """A constant thing."""
        return web.Response(body=THING, content_type="application/json")

    async def put(self, request: web.Request) -> web.Response:
        """Nothing, once the body is read."""
        await request.read()
        return web.Response(status=204)

    async def take(self, request: web.Request) -> web.Response:
        """Accepted, once the body is read."""
        await request.read()
        return web.Response(status=202)

    async def broadcast(self, request: web.Request) -> web.Response:
        """Send the body to every subscriber, one after the other."""
        text = (await request.read()).decode()
        for socket in list(self._sockets):
            await socket.send_str(text)
        return web.Response(status=204)

    async def echo(self, request: web.Request) -> web.WebSocketResponse:
        """A constant frame for each one, or a subscription."""
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT and message.data.startswith("START-SEND-EVENTS"):
                    self._sockets.add(socket)
                    await socket.send_str("START-SEND-EVENTS:ACK")
                else:
                    await socket.send_str(ANSWER)
        finally:
            self._sockets.discard(socket)
        return socket


async def serve() -> None:
    """Serve until standard input closes."""
    sink, app = Sink(), web.Application()
    app.router.add_get("/ws/2", sink.echo)
    app.router.add_post("/all", sink.broadcast)
    app.router.add_post("/telemetry", sink.take)
    app.router.add_get("/api/{rest:.*}", sink.get)
    app.router.add_put("/api/{rest:.*}", sink.put)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    assert runner.server is not None
    server = await asyncio.get_running_loop().create_server(runner.server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    process.run(serve())
