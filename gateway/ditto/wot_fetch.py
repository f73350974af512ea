"""Fetches Thing Model documents over HTTP(S), or takes them from a folder.

What a foreign server may cost is bounded: size, time, redirects, connections. See `wot_addresses.py` for
who is asked at all. Answers say nothing of why a fetch failed: that would tell callers about this network;
the reason goes to the log and the metric.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Final, cast
from urllib.parse import unquote

import aiohttp
import msgspec
import yaml
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.config.wot import WotModels
from gateway.ditto.wot_addresses import AddressRules
from gateway.errors import GatewayError, InvalidSetting
from gateway.model.json import Json
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.wot.documents import invalid

log = logging.getLogger(__name__)

ACCEPT: Final = "application/tm+json, application/td+json;q=0.9, application/json;q=0.8"
CONNECTIONS: Final = 16
MAX_URL: Final = 2_048
MAX_INDEX_BYTES: Final = 1_048_576
INDEX: Final = "models.yaml"
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_PLAIN: Final = frozenset(("text/plain", "application/octet-stream", ""))
"""What servers of plain files say of JSON."""


class Refused(Exception):
    """A fetch that failed, with what the log and the metric call it."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class CheckedResolver(AbstractResolver):
    """Resolves names to the addresses that may be asked; those are what the connection goes to."""

    def __init__(self, rules: AddressRules) -> None:
        self._rules = rules

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The allowed addresses of a name.

        Errors: Refused where none of them may be asked; OSError for a name that does not exist.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        allowed = [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
            if self._rules.allow(host, str(address[0]), port)
        ]
        if not allowed:
            raise Refused("refused", "its addresses may not be asked")
        return allowed

    async def close(self) -> None:
        """Nothing is kept."""


class Fetcher:
    """Gets documents; `close` it at the end."""

    def __init__(
        self, settings: WotModels, rules: AddressRules, metrics: Metrics, tracer: Tracer
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._metrics = metrics
        self._tracer = tracer
        self._folder = Folder.of(settings.local) if settings.local else None
        self._client: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def fetch(self, url: str) -> tuple[Json, int]:
        """The document of a URL (without fragment) and its size in bytes.

        Errors: `wot:tm.notfound` 421, whatever the cause; `wot:tm.invalid` for what is no JSON.
        """
        body = await self._local(url)
        if body is None:
            body = await self._remote(url)
        try:
            return cast(Json, msgspec.json.decode(body)), len(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise invalid(url, "it is no JSON") from error

    async def _local(self, url: str) -> bytes | None:
        if self._folder is None:
            return None
        return await asyncio.to_thread(self._folder.read, url, self._settings.max_bytes)

    async def _remote(self, url: str) -> bytes:
        started = perf_counter()
        with self._tracer.start("wot.fetch", None, "client", {"url.full": url[:300]}) as span:
            outcome, body = await self._outcome(url)
            span.set("outcome", outcome)
            self._metrics.wot_fetches.labels(outcome).inc()
            self._metrics.wot_fetch_seconds.observe(perf_counter() - started)
            if body is None:
                raise not_found(url)
            return body

    async def _outcome(self, url: str) -> tuple[str, bytes | None]:
        """What became of a fetch, and the body where there is one."""
        try:
            async with asyncio.timeout(self._settings.fetch_seconds):
                return "fetched", await self._following(url)
        except (Refused, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            cause = str(error) or type(error).__name__
            log.info("thing model not fetched", extra={"url": url[:300], "cause": cause})
            return error.outcome if isinstance(error, Refused) else "failed", None

    async def _following(self, url: str) -> bytes:
        if self._settings.local_only:
            raise Refused("refused", "only local models are served")
        at = self._checked(url)
        for _ in range(self._settings.max_redirects + 1):
            answer = await self._ask(at)
            if isinstance(answer, bytes):
                return answer
            if at.scheme == "https" and answer.scheme != "https":
                raise Refused("refused", "a redirect leaves https")
            at = self._checked(str(answer))
        raise Refused("failed", "more redirects than are followed")

    def _checked(self, text: str) -> URL:
        """A URL that may be asked, as far as one can tell before its name is resolved."""
        url = URL(text)
        if url.scheme not in ("http", "https") or not url.host or len(text) > MAX_URL:
            raise Refused("refused", "it is no http(s) URL")
        if url.user is not None or url.password is not None:
            raise Refused("refused", "it carries credentials")
        if _is_address(url.host) and not self._rules.allow(url.host, url.host, url.port or 0):
            raise Refused("refused", "its address may not be asked")
        return url

    async def _ask(self, url: URL) -> bytes | URL:
        """The body, or where a redirect leads."""
        async with self._session().get(url, allow_redirects=False) as response:
            if response.status in _REDIRECTS:
                return url.join(URL(response.headers.get(hdrs.LOCATION, "")))
            if response.status != 200:
                raise Refused("failed", f"answered with {response.status}")
            _check_type(response)
            return await self._body(response)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._settings.max_bytes
        if (response.content_length or 0) > limit:
            raise Refused("failed", f"larger than {limit} bytes")
        body = bytearray()
        async for piece in response.content.iter_chunked(65_536):
            body += piece
            if len(body) > limit:
                raise Refused("failed", f"larger than {limit} bytes")
        return bytes(body)

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=CheckedResolver(self._rules),
                    use_dns_cache=False,
                    limit=CONNECTIONS,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={hdrs.ACCEPT: ACCEPT, hdrs.ACCEPT_ENCODING: "identity"},
                auto_decompress=False,
                trust_env=False,
            )
        return self._client


def not_found(url: str) -> GatewayError:
    """421: the model cannot be had."""
    return ditto_error("wot:tm.notfound", url=url[:300])


def _is_address(host: str) -> bool:
    """True for what a socket takes as an address without asking a resolver, in any notation."""
    return ":" in host or host.replace(".", "").isdigit()


def _check_type(response: aiohttp.ClientResponse) -> None:
    kind = response.content_type if hdrs.CONTENT_TYPE in response.headers else ""
    if kind not in _PLAIN and not kind.endswith("json"):
        raise Refused("failed", f"answered with {kind[:100]}")
    if response.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
        raise Refused("failed", "the answer is compressed, which was not asked for")


class Folder:
    """Models in a folder, by URL: what its `models.yaml` maps, else `<host>[:port]/<path>`."""

    def __init__(self, root: Path, index: Mapping[str, str]) -> None:
        self._root = root
        self._index = index

    @classmethod
    def of(cls, path: str) -> Folder:
        """Read the index of a folder.

        Errors: InvalidSetting.
        """
        root = Path(path).expanduser().resolve()
        if not root.is_dir():
            raise InvalidSetting(f"ditto.wot.models.local: {path!r} is no folder")
        index = root / INDEX
        return cls(root, _index_of(index) if index.exists() else {})

    def read(self, url: str, limit: int) -> bytes | None:
        """The bytes of a URL's document, None where the folder has none (or one over the limit)."""
        path = self._path(url)
        if path is None or not path.is_file():
            return None
        with path.open("rb") as file:
            body = file.read(limit + 1)
        return body if len(body) <= limit else None

    def _path(self, url: str) -> Path | None:
        relative = self._index.get(url) or _place(url)
        if relative is None or "\0" in relative:
            return None
        path = self._root.joinpath(relative).resolve()
        return path if path.is_relative_to(self._root) else None


def _place(url: str) -> str | None:
    """`<host>[:port]/<path>` of a URL without a query."""
    try:
        parsed = URL(url)
        port = "" if parsed.is_default_port() else f":{parsed.port}"
        below = unquote(parsed.raw_path).lstrip("/")
    except ValueError:
        return None
    return f"{parsed.host}{port}/{below}" if parsed.host and not parsed.query_string else None


def _index_of(file: Path) -> dict[str, str]:
    try:
        if file.stat().st_size > MAX_INDEX_BYTES:
            raise InvalidSetting(f"{file}: at most {MAX_INDEX_BYTES} bytes")
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSetting(f"{file}: cannot be read: {error}") from error
    is_mapping = isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(value, str) for key, value in content.items()
    )
    if not is_mapping:
        raise InvalidSetting(f"{file}: expected a mapping from URL to file")
    return cast(dict[str, str], content)
