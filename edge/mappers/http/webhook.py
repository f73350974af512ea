"""The listener that devices post to: `POST /<namespace>/<device>` with the Device's token.

Answers: 202 taken; 400 no JSON; 401 wrong or no token; 404 no such Device; 405; 413 too long; 429 too often.
"""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from edge.mappers.configdata import ConfigData
from gateway.errors import (
    BadRequest,
    InvalidSetting,
    MethodNotAllowed,
    NotFound,
    QuotaExceeded,
    Rejected,
    Unauthenticated,
)
from gateway.runtime.listener import Endpoints, parse_bind
from gateway.runtime.small_service import Request, Response, serve_requests

NAME = "edge.mappers.http.webhook"


@dataclass(slots=True)
class Hook:
    """One Device: `take` says whether a body was JSON. A bucket of one second's posts fills up evenly."""

    token: str
    take: Callable[[bytes], bool]
    left: float = -1.0
    filled_at: float = field(default=0.0)

    def may_post(self, now: float, rate: int) -> bool:
        """Take a post from the bucket; False when it is empty."""
        if self.left < 0:
            self.left, self.filled_at = float(rate), now
        self.left = min(float(rate), self.left + (now - self.filled_at) * rate)
        self.filled_at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Webhook:
    """The Devices that post, and the listener, which is off without `bind`."""

    def __init__(self, config: ConfigData) -> None:
        self.bind = config.text("bind")
        self._certificate, self._key = config.text("certificate"), config.text("key")
        self._max_body = config.integer("max_body", default=65_536)
        self._rate = config.integer("max_rate", default=50, low=1)
        self._hooks: dict[str, Hook] = {}
        self.endpoints = Endpoints()

    def add(self, name: str, hook: Hook) -> None:
        """Take posts for a Device. Errors: Rejected while nothing listens, or without a token."""
        if not self.bind:
            raise Rejected(f"{NAME}.bind is not set: nobody can post")
        self._hooks[name] = hook

    def remove(self, name: str) -> None:
        self._hooks.pop(name, None)

    @property
    def hooks(self) -> int:
        return len(self._hooks)

    @property
    def address(self) -> str:
        """Where it listens, "" where it does not."""
        try:
            return self.endpoints.get(NAME)
        except KeyError:
            return ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen for the length of the block. Errors: PortTaken; InvalidSetting."""
        if not self.bind:
            yield
            return
        context = _context(self.bind, self._certificate, self._key)
        async with serve_requests(
            self.endpoints,
            NAME,
            self.bind,
            self._respond,
            max_body=self._max_body,
            setting=f"{NAME}.bind",
            ssl=context,
        ):
            yield

    async def _respond(self, request: Request) -> Response:
        hook = self._hooks.get(request.path.removeprefix("/"))
        if hook is None:
            raise NotFound("no Device posts here")
        if not _is_token(request, hook.token):
            raise Unauthenticated("the token is missing or wrong")
        if request.method != "POST":
            raise MethodNotAllowed("POST only")
        if not hook.may_post(asyncio.get_running_loop().time(), self._rate):
            raise QuotaExceeded(f"more than {self._rate} posts a second")
        if not hook.take(request.body):
            raise BadRequest("expected JSON")
        return Response(202)


def _is_token(request: Request, token: str) -> bool:
    scheme, _, said = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        said = request.headers.get("x-twinspan-token", "")
    return hmac.compare_digest(said.strip().encode(), token.encode())


def _context(bind: str, certificate: str, key: str) -> ssl.SSLContext | None:
    host, _ = parse_bind(bind, f"{NAME}.bind")
    if not certificate:
        try:
            is_local = ip_address(host).is_loopback
        except ValueError:
            is_local = host == "localhost"
        if not is_local:
            raise InvalidSetting(f"{NAME}.bind: {bind} needs {NAME}.certificate and .key")
        return None
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(Path(certificate), Path(key) if key else None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSetting(f"{NAME}.certificate or .key: {error}") from error
    return context
