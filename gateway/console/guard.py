"""What all paths of the console share: who may ask, how much, and how answers and errors look."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
from aiohttp import hdrs, web

from gateway.console.sessions import Session, Sessions
from gateway.ditto.console_session import check_page, cookie_of
from gateway.ditto.endpoint import error_response
from gateway.ditto.request import check_limits
from gateway.errors import (
    BadRequest,
    Forbidden,
    GatewayError,
    MethodNotAllowed,
    NotBuilt,
    TooLarge,
    Unauthenticated,
)
from gateway.errors import NotFound as NotThere
from gateway.model.json import Json, JsonObject, nests_within

log = logging.getLogger(__name__)

PREFIX: Final = "/console/api"
MAX_BODY: Final = 65_536
MAX_DEPTH: Final = 32
BODY_SECONDS: Final = 10.0
MAX_NAME: Final = 253

HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
}
"""What every answer of the console carries."""
NO_STORE: Final = "no-store"


@dataclass(frozen=True, slots=True)
class Call:
    """One request of somebody who is signed in."""

    request: web.Request
    session: Session

    def query(self, name: str, default: str = "") -> str:
        return self.request.query.get(name, default)

    def part(self, name: str) -> str:
        """A part of the path that names something. Errors: BadRequest."""
        found = self.request.match_info[name]
        if not found or len(found) > MAX_NAME or not found.isprintable() or "/" in found:
            raise BadRequest(f"{name}: expected a name of 1 to {MAX_NAME} characters")
        return found

    def number(self, name: str, default: int, most: int, least: int = 0) -> int:
        """A whole number of the query. Errors: BadRequest."""
        text = self.query(name)
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 9) or not (
            least <= int(text) <= most
        ):
            raise BadRequest(f"{name}: expected a number from {least} to {most}")
        return int(text)

    def flag(self, name: str) -> bool:
        return self.query(name) in ("true", "1")

    async def body(self) -> JsonObject:
        """The JSON object that was sent. Errors: BadRequest, TooLarge."""
        return await json_body(self.request)


Handler: TypeAlias = Callable[[Call], Awaitable[web.StreamResponse]]
RawHandler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def json_body(request: web.Request) -> JsonObject:
    """Read a JSON object. Errors: BadRequest, TooLarge."""
    if (request.content_length or 0) > MAX_BODY:
        raise TooLarge(f"The body has more than {MAX_BODY} bytes.")
    if request.content_type != "application/json":
        raise BadRequest("Content-Type: expected application/json")
    raw = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                raw += chunk
                if len(raw) > MAX_BODY:
                    raise TooLarge(f"The body has more than {MAX_BODY} bytes.")
    except TimeoutError as error:
        raise BadRequest("The body did not arrive in time.", status=408) from error
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest("body: expected JSON") from error
    if not isinstance(found, dict) or not nests_within(found, MAX_DEPTH):
        raise BadRequest("body: expected a JSON object that is not nested too deep")
    return found


def answer(value: Json, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )


def nothing(status: int = 204) -> web.Response:
    """An answer without a body."""
    return web.Response(status=status)


def missing(part: str, why: str) -> NotBuilt:
    """501 for a part that this process has not."""
    return NotBuilt(
        f"{part}: {why}",
        code="console:part.missing",
        description="The overview's `parts` say what this process has.",
    )


class Guard:
    """Wraps handlers: `anyone`, `user` for who is signed in, `operator`."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def anyone(self, handler: RawHandler) -> RawHandler:
        """For the page, whoever sits before it."""
        return _safely(handler)

    def user(self, handler: Handler) -> RawHandler:
        """For who is signed in."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return await handler(Call(request, self._session(request)))

        return _safely(handle)

    def operator(self, handler: Handler) -> RawHandler:
        """For operators."""

        async def handle(request: web.Request) -> web.StreamResponse:
            session = self._session(request)
            if session.operator is None:
                raise Forbidden(
                    "This is for operators.",
                    code="console:operator.needed",
                    description="Sign in as an operator (devops), beside the user of things.",
                )
            return await handler(Call(request, session))

        return _safely(handle)

    def _session(self, request: web.Request) -> Session:
        found = self._sessions.find(cookie_of(request))
        if found is None:
            raise Unauthenticated(
                "Nobody is signed in.",
                code="console:session.missing",
                description="Sign in; sessions end after a while.",
            )
        return found


def _safely(handler: RawHandler) -> RawHandler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            check_limits(request)
            check_page(request)
            response = await handler(request)
        except GatewayError as error:
            response = error_response(error)
        except web.HTTPException as error:
            told = GatewayError(error.reason, code="rejected", status=error.status)
            response = error_response(told)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("request of the console failed", extra={"path": request.path[:200]})
            response = error_response(GatewayError())
        if not response.prepared:
            response.headers.update(HEADERS)
            response.headers[hdrs.CACHE_CONTROL] = NO_STORE
        return response

    return handle


def table(paths: Mapping[str, Mapping[str, RawHandler]]) -> list[web.RouteDef]:
    """Routes below the prefix: path -> method -> handler; other methods are 405, other paths 404."""
    found = [web.route("*", f"{PREFIX}/{path}", _by_method(ways)) for path, ways in paths.items()]
    return [*found, web.route("*", f"{PREFIX}{{rest:(?s:.*)}}", _safely(_unknown))]


def _by_method(ways: Mapping[str, RawHandler]) -> RawHandler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        names = ", ".join(ways)
        raise MethodNotAllowed(
            f"The method '{request.method}' is not allowed here.",
            description=f"Allowed methods: {names}.",
            details={"allow": names},
        )

    refused = _safely(refuse)

    async def handle(request: web.Request) -> web.StreamResponse:
        return await ways.get(request.method, ways.get(hdrs.METH_ANY, refused))(request)

    return handle


async def _unknown(request: web.Request) -> web.StreamResponse:
    raise NotThere(f"The console has no path '{request.path[:200]}'.", code="console:path.unknown")
