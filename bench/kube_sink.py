"""A bare aiohttp server for `bench.kube_api`: takes what is posted, answers given bytes, fires lines."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import msgspec
from aiohttp import web

from gateway.kube.certs import ensure_identity

BATCH = 50
LINE = b'{"type":"MODIFIED","object":' + b'{"x":"' + b"y" * 590 + b'"}}\n'


class Sink:
    """Answers without doing anything, which is the most that such a server can do."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._watchers: list[web.StreamResponse] = []

    async def post(self, request: web.Request) -> web.Response:
        """Read a document and write it back."""
        item = msgspec.json.decode(await request.read())
        return web.json_response(body=msgspec.json.encode(item), status=201)

    async def get(self, _request: web.Request) -> web.Response:
        """The given bytes."""
        return web.Response(body=self._answer, content_type="application/json")

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """A stream that lines are fired into."""
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        self._watchers.append(response)
        await asyncio.Event().wait()
        return response

    async def fire(self, request: web.Request) -> web.Response:
        """Write lines to every stream, some at a time."""
        for _ in range(int(request.query["lines"]) // BATCH):
            for response in self._watchers:
                await response.write(LINE * BATCH)
        return web.Response()


async def serve(folder: Path, answer: bytes) -> None:
    """Serve until killed; the port goes to standard output."""
    sink = Sink(answer)
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/post", sink.post)
    app.router.add_get("/get", sink.get)
    app.router.add_get("/watch", sink.watch)
    app.router.add_post("/fire", sink.fire)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ensure_identity(folder).server_context())
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("answer", type=Path)
    given = parser.parse_args()
    asyncio.run(serve(given.folder, given.answer.read_bytes()))
