"""Requests to a remote Ditto: logged in, capped, no more a second than allowed, and patient when told so.

An answer of 429, or of 503 with `Retry-After`, holds up everything that would be asked meanwhile: the remote
has not done what was asked, so it is asked again, a few times. What else cannot be had now is Undeliverable;
who asked tries again. Errors of the remote keep their status, code and texts.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from cloud.remotelogin import Login, base_url, tls
from gateway import errors
from gateway.config.remote_things import RemoteThings
from gateway.errors import GatewayError, Undeliverable
from gateway.model.json import Json
from gateway.observe.edge_metrics import EdgeMetrics
from gateway.runtime.backoff import Backoff

log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 15.0
PING_SECONDS: Final = 15.0
"""Between two pings of ours; half of it without an answer ends the WebSocket."""
MAX_ANSWER: Final = 8_388_608
MAX_FRAME: Final = 4_194_304
CONNECTIONS: Final = 16
TRIES: Final = 4
MAX_PAUSE: Final = 60.0
"""Seconds that a `Retry-After` may hold everything up."""
MAX_WAIT: Final = 20.0
"""Seconds that one request waits for its turn; then it is given back."""
BURST: Final = 0.1
"""Seconds' worth of requests that may go at once."""
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
JSON: Final = "application/json"


class AnswerTooLarge(Undeliverable):
    """Less has to be asked for at once."""

    code = "remote.answer.toolarge"


class CredentialsRefused(Undeliverable):
    """The remote does not take our login: for an operator to mend, nothing is lost meanwhile."""

    code = "remote.unauthorized"


_CLASSES: Final[dict[int, type[GatewayError]]] = {
    400: errors.BadRequest,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    412: errors.PreconditionFailed,
    413: errors.TooLarge,
    422: errors.Unprocessable,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Json:
        """Read the body. Errors: Undeliverable for what is no JSON."""
        try:
            found: Json = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Undeliverable("the remote Ditto answered something that is no JSON") from error
        return found


class Turns:
    """Gives each request its moment: at most `rate` a second, none before `pause` is over.

    Units:  seconds of the monotonic clock.
    """

    def __init__(self, rate: float) -> None:
        self._each = 1.0 / rate
        self._next = 0.0
        self._pause_ends = 0.0

    def take(self, now: float) -> float:
        """Return how long to wait. Errors: Undeliverable where that is too long."""
        at = max(self._next, now - BURST, self._pause_ends - BURST)
        wait = max(0.0, at - now, self._pause_ends - now)
        if wait > MAX_WAIT:
            raise Undeliverable("the remote Ditto is asked for more than it may be")
        self._next = at + self._each
        return wait

    def pause(self, now: float, seconds: float) -> None:
        """Let nothing go for a while."""
        self._pause_ends = max(self._pause_ends, now + min(seconds, MAX_PAUSE))


class RemoteHttp:
    """One client session; usable inside `opened()`."""

    def __init__(self, settings: RemoteThings, metrics: EdgeMetrics) -> None:
        self.url = base_url(settings)
        self.login = Login(settings)
        self._tls: ssl.SSLContext = tls(settings)
        self._metrics = metrics
        self._turns = Turns(settings.max_rate)
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep connections for the length of the block."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, connect=CONNECT_SECONDS)
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._tls)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            self._session = session
            try:
                yield
            finally:
                self._session = None

    @asynccontextmanager
    async def websocket(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open `/ws/2`. Errors: Undeliverable, CredentialsRefused."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                socket = await self._open().ws_connect(
                    f"{self.url}/ws/2",
                    headers={"Authorization": self.login.header},
                    heartbeat=PING_SECONDS,
                    max_msg_size=MAX_FRAME,
                )
        except aiohttp.WSServerHandshakeError as error:
            raise _refused(
                error.status, f"the WebSocket was refused with {error.status}"
            ) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _away(error) from error
        async with socket:
            yield socket

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
        body: bytes | None = None,
        content_type: str = JSON,
    ) -> Answer:
        """Ask for `path` (percent-encoded, below the address) and return a good answer.

        Errors: what the remote says, by its status; Undeliverable, CredentialsRefused.
        """
        url = URL(self.url + path + _query(query), encoded=True)
        sent = {**headers}
        if body is not None:
            sent["Content-Type"] = content_type
        backoff = Backoff(0.5, 8.0)
        for _ in range(TRIES):
            await asyncio.sleep(self._turns.take(time.monotonic()))
            answer = await self._once(method, url, sent, body)
            pause = _pause_of(answer, backoff)
            if pause is None:
                break
            self._turns.pause(time.monotonic(), pause)
        if answer.status >= 300:
            raise error_of(answer)
        return answer

    async def _once(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        started = time.perf_counter()
        try:
            async with self._open().request(
                method,
                url,
                headers={**headers, "Authorization": self.login.header},
                data=body,
                allow_redirects=False,
            ) as response:
                answer = Answer(response.status, response.headers, await _read(response))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._count(method, "away")
            raise _away(error) from error
        self._metrics.remote_seconds.observe(time.perf_counter() - started)
        self._count(method, _OUTCOMES.get(answer.status // 100, "failed"), answer.status)
        return answer

    def _count(self, method: str, outcome: str, status: int = 0) -> None:
        outcome = "throttled" if status == 429 else outcome
        self._metrics.remote_requests.labels(method, outcome).inc()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise Undeliverable("the remote Ditto is not asked any more")
        return self._session


_OUTCOMES: Final = {2: "done", 4: "refused", 5: "failed"}


def segment(text: str) -> str:
    """Return one segment of a path, percent-encoded."""
    return quote(text, safe=":")


def _query(query: Mapping[str, str]) -> str:
    if not query:
        return ""
    return "?" + "&".join(f"{name}={quote(value, safe=',/:')}" for name, value in query.items())


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read a body. Errors: AnswerTooLarge."""
    found = bytearray()
    async for chunk in response.content.iter_any():
        found += chunk
        if len(found) > MAX_ANSWER:
            raise AnswerTooLarge(f"the remote Ditto answered more than {MAX_ANSWER} bytes")
    return bytes(found)


def _pause_of(answer: Answer, backoff: Backoff) -> float | None:
    """Return for how long the remote wants to be left alone, None where it does not say so."""
    after = answer.headers.get("Retry-After", "")
    if answer.status != 429 and not (answer.status == 503 and after):
        return None
    return float(after) if after.isdigit() and len(after) < 6 else backoff.next()


def error_of(answer: Answer) -> GatewayError:
    """Return the error that an answer stands for.

    A 404 or 403 without Ditto's form comes from something else on the way: it says nothing of things.
    """
    facts = _facts(answer)
    code, message = facts.get("error"), facts.get("message")
    kind = _CLASSES.get(answer.status)
    if kind is None or not isinstance(code, str):
        return _refused(
            answer.status, f"the remote Ditto answered {answer.status}: {message or '-'}"
        )
    description = facts.get("description")
    return kind(
        str(message)[:1_000],
        description=description[:1_000] if isinstance(description, str) else None,
        code=code[:200],
    )


def _facts(answer: Answer) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _refused(status: int, text: str) -> GatewayError:
    if status == 401:
        return CredentialsRefused(f"{text[:500]}; check the credentials below ditto.remote")
    return Undeliverable(text[:500])


def _away(error: BaseException) -> Undeliverable:
    return Undeliverable(f"the remote Ditto cannot be reached: {error or type(error).__name__}")
