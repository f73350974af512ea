"""What every adapter that devices reach over HTTP has: doors, connections, who is asking, answers.

An adapter gives a handler for requests; here is what happens before and after it. A failure that the handler
raises is answered as Hono does. Over the limit of connections: the socket is closed at once.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from gateway.errors import GatewayError
from gateway.hono.adapters.http_messages import (
    NOT_FOUND,
    basic_login,
    error_response,
    refusal,
)
from gateway.hono.adapters.http_requests import Request
from gateway.hono.adapters.http_server import (
    Exchange,
    Handler,
    HttpConnection,
    Limits,
    Response,
)
from gateway.model.login import NO_TLS, Login, TlsPeer
from gateway.model.message import Adapter, Principal
from gateway.model.ports import Authenticator
from gateway.runtime.listener import Door, Endpoints, doors_of, listening

log = logging.getLogger(__name__)

NO_ROUTE = Response(404, NOT_FOUND, (("Content-Type", "text/html"),))

Admitted = Callable[[Principal | None], None]


class ServerSettings(Protocol):
    """What is set for every HTTP server of devices; units as in `gateway.config.hono`."""

    @property
    def bind(self) -> str: ...
    @property
    def tls_bind(self) -> str: ...
    @property
    def max_payload(self) -> int: ...
    @property
    def request_timeout(self) -> float: ...
    @property
    def idle_timeout(self) -> float: ...
    @property
    def max_connections(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """How an adapter looks from outside.

    Shape:  `name` and `tls_name` of its endpoints; `name` is also its branch of the settings;
            `exposed_headers` are what a browser may read, empty where browsers are not expected.
    """

    adapter: Adapter
    name: str
    tls_name: str
    exposed_headers: str = ""


class HttpShell:
    """The sockets of one adapter; `handle` works on requests and may raise GatewayError."""

    def __init__(
        self,
        face: Face,
        settings: ServerSettings,
        endpoints: Endpoints,
        authenticator: Authenticator,
        handle: Handler,
        *,
        tls_context: tls.SSLContext | None = None,
    ) -> None:
        self._face = face
        self._settings = settings
        self._endpoints = endpoints
        self._authenticator = authenticator
        self._handler = handle
        self._tls = tls_context
        self._limits = Limits(settings.max_payload, settings.request_timeout, settings.idle_timeout)
        self._connections: set[HttpConnection] = set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; then devices that wait are hung up on and their commands released."""
        face, settings = self._face, self._settings
        plain = Door(face.name, settings.bind, f"{face.name}.bind")
        doors = doors_of(plain, face.tls_name, settings.tls_bind, self._tls)
        async with listening(self._endpoints, self._connection, doors):
            ready()
            try:
                await asyncio.Event().wait()
            finally:
                for connection in tuple(self._connections):
                    connection.close()

    def _connection(self) -> asyncio.Protocol:
        if len(self._connections) >= self._settings.max_connections:
            log.info("connection refused", extra={"adapter": self._face.name, "cause": "too many"})
            return _Refused()
        connection = HttpConnection(self._handle, refusal, self._limits, self._connections.discard)
        self._connections.add(connection)
        return connection

    def _handle(self, exchange: Exchange) -> None:
        self.guarded(exchange, partial(self._handler, exchange))

    def guarded(self, exchange: Exchange, work: Callable[[], None]) -> None:
        """Run a piece of work for a request; what it raises is the answer."""
        try:
            work()
        except GatewayError as error:
            self.answer(exchange, error_response(error))
        except Exception:
            log.exception("request failed", extra={"adapter": self._face.name})
            self.answer(exchange, error_response(GatewayError()))

    def answer(
        self,
        exchange: Exchange,
        response: Response,
        written: Callable[[bool], None] | None = None,
    ) -> None:
        """Send an answer, with the CORS headers where a browser asks."""
        exposed = self._face.exposed_headers
        if exposed and "origin" in exchange.request.headers:
            cors = (
                ("Access-Control-Allow-Origin", "*"),
                ("Access-Control-Expose-Headers", exposed),
            )
            response = replace(response, headers=(*response.headers, *cors))
        exchange.respond(response, written)

    # --- who asks -------------------------------------------------------------------------------------

    def authenticate(
        self,
        exchange: Exchange,
        admitted: Admitted,
        *,
        claimed: tuple[str, str] | None = None,
        is_required: bool = True,
    ) -> None:
        """Call `admitted` with who sent a request, None for one without credentials; wrong ones get 401.

        Shape:  `claimed` is (tenant, auth-id) as the address names them, for tokens that do not. Where
                nobody has to log in (`is_required` False) a certificate alone means nothing.
        """
        authorization = exchange.request.headers.get("authorization", "")
        scheme, _, token = authorization.partition(" ")
        done = partial(self._authenticated, exchange, admitted)
        is_certified = is_required and exchange.peer.certificate is not None
        if scheme.lower() == "bearer" or is_certified:
            login = _login(scheme, token, exchange.peer if is_certified else NO_TLS, claimed)
            self._authenticator.check_login(login, self._face.adapter, done)
        elif scheme.lower() == "basic":
            username, password = exchange.request.noted(_basic_login)
            self._authenticator.check_password(username, password, self._face.adapter, done)
        else:
            admitted(None)

    def _authenticated(
        self, exchange: Exchange, admitted: Admitted, who: Principal | GatewayError
    ) -> None:
        if isinstance(who, GatewayError):
            self.answer(exchange, error_response(who))
        else:
            self.guarded(exchange, partial(admitted, who))


def _basic_login(request: Request) -> tuple[str, bytes]:
    """User name and password; errors as `basic_login` says."""
    return basic_login(request.headers["authorization"].partition(" ")[2].strip())


def _login(scheme: str, token: str, peer: TlsPeer, claimed: tuple[str, str] | None) -> Login:
    """What a request brought to prove who sent it."""
    if scheme.lower() == "bearer":
        return Login(peer=peer, token=token.strip(), claimed=claimed)
    if scheme.lower() == "basic":
        username, password = basic_login(token.strip())
        return Login(peer=peer, username=username, password=password)
    return Login(peer=peer)


class _Refused(asyncio.Protocol):
    """A socket over the limit: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
