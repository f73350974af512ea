"""Callers of the embedded Kubernetes API for tests: by token, in another's name, by certificate."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from gateway.runtime.certificates import Pair
from tests.kube_server import KubeServer

MERGE = {"Content-Type": "application/merge-patch+json"}


class Caller:
    """One user's requests; `headers` say who it is."""

    def __init__(self, http: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        self._http = http
        self._headers = headers

    async def ask(
        self, method: str, path: str, expected: int, body: Any = None, **headers: str
    ) -> Any:
        """Send a request; another answer than `expected` fails the test with what was said."""
        kwargs: dict[str, Any] = {} if body is None else {"data": json.dumps(body)}
        more = {"Content-Type": "application/json", **self._headers, **headers}
        async with self._http.request(method, path, headers=more, **kwargs) as response:
            text = await response.text()
            assert response.status == expected, text
            return json.loads(text) if "json" in response.content_type else text

    async def patch(self, path: str, expected: int, body: Any) -> Any:
        return await self.ask("PATCH", path, expected, body, **MERGE)


@asynccontextmanager
async def calling(
    server: KubeServer, *, client: Pair | None = None, folder: Path | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session without credentials, or with a client certificate, kept in `folder`."""
    context = ssl.create_default_context(cafile=str(server.folder / "kube" / "ca.crt"))
    if client is not None and folder is not None:
        (folder / "client.crt").write_bytes(client.certificate)
        (folder / "client.key").write_bytes(client.key)
        context.load_cert_chain(folder / "client.crt", folder / "client.key")
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(server.url, connector=connector) as http:
        yield http


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float = 20.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  it is asked over HTTP
            await asyncio.sleep(0.02)
