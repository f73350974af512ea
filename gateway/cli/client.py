"""Talks HTTP to a running Twinspan: where it listens and who we are come from its data directory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import aiohttp
import click

from gateway.cli.options import data_dir_option
from gateway.config import default_data_dir
from gateway.errors import GatewayError, InvalidSetting
from gateway.model.json import Json, JsonObject
from gateway.runtime import users
from gateway.runtime.listener import ENDPOINTS_FILE
from gateway.wire.ndjson import LineSplitter

ENDPOINTS = ENDPOINTS_FILE
TIMEOUT_SECONDS = 30.0
LINE_SECONDS = 90.0
"""Longest silence of a server that answers line by line."""
MAX_LINE = 16_777_216
"""Bytes of one line that a server answers with."""

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Service:
    """One HTTP server and the user we are to it."""

    base: str
    user: str
    password: str


class ApiError(GatewayError):
    """A server's refusal, in its own words."""


class Unreachable(ConnectionError):
    """Nobody listens where the server should be."""

    def __init__(self, base: str, cause: object) -> None:
        super().__init__(f"{base}: cannot be reached: {cause}; is 'twinspan up' running?")


def service_options(function: F) -> F:
    """Add `--url`, `--user` (name:password) and `--data-dir`."""
    function = click.option(
        "-u",
        "--user",
        metavar="NAME:PASSWORD",
        help="Who to log in as.  [default: from --data-dir]",
    )(function)
    function = click.option("--url", help="Base URL of the server.  [default: from --data-dir]")(
        function
    )
    return data_dir_option(function)


def find(
    endpoint: str, service: str, data_dir: Path | None, url: str | None, user: str | None
) -> Service:
    """Return where a service is and who we are.

    Shape:  `endpoint` as endpoints.json names it; `service` a field of `users.Users`.
    Errors: InvalidSetting when neither options nor the data directory tell.
    """
    folder = data_dir or default_data_dir({**_environ()})
    base = _checked(url) if url else f"http://{address_of(folder, endpoint)}"
    if user is not None:
        name, _, password = user.partition(":")
        return Service(base.rstrip("/"), name, password)
    known: dict[str, str] = getattr(users.read(folder), service)
    name, password = next(iter(known.items()))
    return Service(base.rstrip("/"), name, password)


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSetting(f"--url: expected http://HOST:PORT, got {url!r}")
    return url


def address_of(folder: Path, endpoint: str) -> str:
    """Return `host:port` of a listener of the process on this data directory.

    Errors: InvalidSetting when nothing was started there, or that listener does not run.
    """
    file = folder / ENDPOINTS
    try:
        endpoints = cast(dict[str, str], json.loads(file.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise InvalidSetting(
            f"{file}: no running Twinspan found here ({error}); give --data-dir or --url"
        ) from error
    if endpoint not in endpoints:
        raise InvalidSetting(f"{file}: {endpoint} does not run in that process")
    return endpoints[endpoint]


def _environ() -> Mapping[str, str]:
    import os

    return os.environ


class Api:
    """A client session with one service."""

    def __init__(self, service: Service, session: aiohttp.ClientSession) -> None:
        self._service = service
        self._session = session

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Json | bytes = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> tuple[int, Json]:
        """Send one request; return status and decoded body (None when empty, text when not JSON).

        Errors: ApiError with the server's words for 4xx and 5xx; Unreachable.
        """
        sent = dict(headers or {})
        data: bytes | None = None
        if isinstance(body, bytes):
            data = body
        elif body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            async with self._session.request(
                method, self._service.base + path, data=data, headers=sent, params=query
            ) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(self._service.base, _cause(error)) from error
        value = _decode(text)
        if response.status >= 400:
            raise _refusal(response.status, value)
        return response.status, value

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], accept: str = "text/event-stream"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a stream of Server-Sent Events, or of lines, without a time limit."""
        try:
            async with self._session.get(
                self._service.base + path,
                params=query,
                headers={"Accept": accept},
                timeout=aiohttp.ClientTimeout(total=None),
            ) as response:
                if response.status >= 400:
                    raise _refusal(response.status, _decode(await response.text()))
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(self._service.base, _cause(error)) from error

    async def lines(self, path: str, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Send lines of JSON and yield those of the answer, while both go on.

        Errors: ApiError; Unreachable, also when the answer breaks off.
        """
        splitter = LineSplitter(MAX_LINE)
        try:
            async with self._session.post(
                self._service.base + path,
                data=body,
                headers={"Content-Type": "application/x-ndjson"},
                timeout=aiohttp.ClientTimeout(total=None, sock_read=LINE_SECONDS),
            ) as response:
                if response.status >= 400:
                    raise _refusal(response.status, _decode(await response.text()))
                async for data in response.content.iter_any():
                    for line in splitter.feed(data):
                        yield line.data or b""
                for line in splitter.end():
                    yield line.data or b""
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(self._service.base, _cause(error)) from error


def _cause(error: Exception) -> object:
    """What went wrong in words; a timeout has none of its own."""
    return str(error) or f"no answer in time ({type(error).__name__})"


def _decode(text: str) -> Json:
    if not text:
        return None
    try:
        value: Json = json.loads(text)
    except ValueError:
        return text
    return value


def _refusal(status: int, value: Json) -> ApiError:
    body: JsonObject = value if isinstance(value, dict) else {}
    message = body.get("message") or body.get("error") or value or "no text"
    description = body.get("description")
    return ApiError(
        f"{status}: {message}", status=status, description=str(description) if description else None
    )


def _unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody waited for: a connection that broke was told already by who read from it."""
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


def run(service: Service, work: Callable[[Api], Coroutine[Any, Any, T]]) -> T:
    """Run one command's requests."""

    async def main() -> T:
        asyncio.get_running_loop().set_exception_handler(_unheard)
        async with aiohttp.ClientSession(
            auth=aiohttp.BasicAuth(service.user, service.password),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
        ) as session:
            return await work(Api(service, session))

    return asyncio.run(main())
