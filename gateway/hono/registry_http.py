"""The management API `/v1` of the device registry, as Hono's registries serve it.

Every answer is JSON, errors are `{"error": text}`; an ETag is the raw version without quotes, `If-Match` is
compared with it literally. Bodies on create are optional, on update required.
Source: Hono device registry API v1.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import msgspec
from aiohttp import web

from gateway.config.hono import Registry as Settings
from gateway.errors import (
    BadRequest,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthenticated,
)
from gateway.hono.registry import Registry
from gateway.hono.search import parse_search
from gateway.hono.stored_commands import StoredCommands
from gateway.hono.stored_commands_http import delete_commands, list_commands
from gateway.hono.traffic import Traffic
from gateway.hono.traffic_http import watch_traffic
from gateway.model.json import Json, nests_within
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.outcome import outcome_of
from gateway.runtime.listener import Door, Endpoints, doors_of, serve_app

log = logging.getLogger(__name__)

JSON = "application/json; charset=utf-8"
REALM = 'Basic realm="Hono"'
SERVER = "hono.registry"
TLS_SERVER = "hono.registrys"
BODY_SECONDS = 10.0
MAX_DEPTH = 64
"""Levels of a document; what is deeper could be stored and not be read again."""
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "etag",
}
_encode = msgspec.json.encode

Handler = Callable[["Call"], Awaitable[web.StreamResponse]]
Users = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request with its path parameters and body read."""

    request: web.Request
    body: bytes
    tenant: str = ""
    device: str = ""
    command: str = ""

    @property
    def if_match(self) -> str | None:
        return self.request.headers.get("If-Match") or None

    def json(self, *, required: bool) -> Json:
        """Return the body; an optional one that is not there is an empty object.

        Errors: BadRequest for a missing body, another content type or broken JSON.
        """
        if not self.body:
            if required:
                raise BadRequest("body: expected JSON, got nothing")
            return {}
        if self.request.content_type != "application/json" or not self._has_type:
            raise BadRequest("Content-Type: expected application/json")
        try:
            found: Json = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadRequest(f"body: expected JSON: {error}") from error
        if not nests_within(found, MAX_DEPTH):
            raise BadRequest(f"body: nested deeper than {MAX_DEPTH} levels")
        return found

    @property
    def _has_type(self) -> bool:
        return "Content-Type" in self.request.headers


class RegistryApi:
    """The handlers, one for each row of the route table."""

    def __init__(
        self, registry: Registry, traffic: Traffic, stored: StoredCommands | None = None
    ) -> None:
        self._registry = registry
        self._traffic = traffic
        self._stored = stored

    # --- tenants --------------------------------------------------------------------------------

    async def create_tenant(self, call: Call) -> web.Response:
        body = call.json(required=False)
        tenant, version = await self._registry.create_tenant(call.tenant or None, body)
        return _created(tenant, f"/v1/tenants/{tenant}", version)

    async def get_tenant(self, call: Call) -> web.Response:
        return _resource(*await self._registry.read_tenant(call.tenant))

    async def update_tenant(self, call: Call) -> web.Response:
        body = call.json(required=True)
        version = await self._registry.update_tenant(call.tenant, body, call.if_match)
        return _changed(version)

    async def delete_tenant(self, call: Call) -> web.Response:
        await self._registry.delete_tenant(call.tenant, call.if_match)
        return _changed()

    async def search_tenants(self, call: Call) -> web.Response:
        search = parse_search(tuple(call.request.query.items()), devices=False)
        return _json(200, await self._registry.search_tenants(search))

    # --- devices --------------------------------------------------------------------------------

    async def create_device(self, call: Call) -> web.Response:
        body = call.json(required=False)
        device, version = await self._registry.create_device(call.tenant, call.device or None, body)
        return _created(device, f"/v1/devices/{call.tenant}/{device}", version)

    async def get_device(self, call: Call) -> web.Response:
        return _resource(*await self._registry.read_device(call.tenant, call.device))

    async def update_device(self, call: Call) -> web.Response:
        body = call.json(required=True)
        version = await self._registry.update_device(call.tenant, call.device, body, call.if_match)
        return _changed(version)

    async def delete_device(self, call: Call) -> web.Response:
        await self._registry.delete_device(call.tenant, call.device, call.if_match)
        return _changed()

    async def delete_devices(self, call: Call) -> web.Response:
        await self._registry.delete_devices(call.tenant)
        return _changed()

    async def search_devices(self, call: Call) -> web.Response:
        search = parse_search(tuple(call.request.query.items()), devices=True)
        return _json(200, await self._registry.search_devices(call.tenant, search))

    # --- credentials ----------------------------------------------------------------------------

    async def get_credentials(self, call: Call) -> web.Response:
        return _resource(*await self._registry.read_credentials(call.tenant, call.device))

    async def update_credentials(self, call: Call) -> web.Response:
        body = call.json(required=True)
        version = await self._registry.update_credentials(
            call.tenant, call.device, body, call.if_match
        )
        return _changed(version)

    # --- traffic --------------------------------------------------------------------------------

    async def watch_traffic(self, call: Call) -> web.StreamResponse:
        await self._registry.read_tenant(call.tenant)
        return await watch_traffic(call.request, self._traffic, call.tenant, CORS)

    # --- commands that wait for their devices ---------------------------------------------------

    async def list_commands(self, call: Call) -> web.Response:
        stored = await self._commands_of(call)
        found = await list_commands(stored, call.tenant, call.device, call.request.query)
        return _json(200, found)

    async def delete_commands(self, call: Call) -> web.Response:
        stored = await self._commands_of(call)
        await delete_commands(stored, call.tenant, call.device, call.command)
        return _changed()

    async def _commands_of(self, call: Call) -> StoredCommands:
        if self._stored is None:
            raise NotFound("no such resource")
        if call.device:
            await self._registry.read_device(call.tenant, call.device)
        else:
            await self._registry.read_tenant(call.tenant)
        return self._stored


Row = tuple[re.Pattern[str], Mapping[str, Handler]]


def routes(api: RegistryApi) -> tuple[Row, ...]:
    """Return the route table: path pattern, and the handler of each method."""
    tenant, device = r"/(?P<tenant>[^/]+)", r"/(?P<device>[^/]+)"
    table: tuple[tuple[str, Mapping[str, Handler]], ...] = (
        ("/v1/tenants/?", {"POST": api.create_tenant, "GET": api.search_tenants}),
        (
            f"/v1/tenants{tenant}/?",
            {
                "POST": api.create_tenant,
                "GET": api.get_tenant,
                "PUT": api.update_tenant,
                "DELETE": api.delete_tenant,
            },
        ),
        (
            f"/v1/devices{tenant}/?",
            {
                "POST": api.create_device,
                "GET": api.search_devices,
                "DELETE": api.delete_devices,
            },
        ),
        (
            f"/v1/devices{tenant}{device}/?",
            {
                "POST": api.create_device,
                "GET": api.get_device,
                "PUT": api.update_device,
                "DELETE": api.delete_device,
            },
        ),
        (
            f"/v1/credentials{tenant}{device}/?",
            {"GET": api.get_credentials, "PUT": api.update_credentials},
        ),
        (f"/v1/traffic{tenant}/?", {"GET": api.watch_traffic}),
        (
            f"/v1/commands{tenant}(?:{device})?/?",
            {"GET": api.list_commands, "DELETE": api.delete_commands},
        ),
        (f"/v1/commands{tenant}{device}/(?P<command>[^/]+)/?", {"DELETE": api.delete_commands}),
    )
    return tuple((re.compile(pattern), methods) for pattern, methods in table)


class RegistryServer:
    """The API as an aiohttp application: routing, authentication, limits, errors, CORS.

    Shape:  `users` are names and passwords; None leaves the API open, for who checks by himself. `prefix`
            stands before the API's paths where another port serves it, for no page but its own.
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        users: Users | None,
        metrics: Metrics,
        tracer: Tracer,
        traffic: Traffic | None = None,
        stored: StoredCommands | None = None,
        *,
        prefix: str = "",
    ) -> None:
        self._prefix = prefix
        self._traffic = traffic or Traffic()
        self._table = routes(RegistryApi(registry, self._traffic, stored))
        self._settings = settings
        self._users = users
        self._metrics = metrics
        self._tracer = tracer

    def application(self) -> web.Application:
        """Return the application; core may mount it or serve it."""
        app = web.Application(client_max_size=self._settings.max_payload + 1)
        app.router.add_route("*", "/{path:.*}", self.answer)
        app.on_shutdown.append(self._end_streams)
        return app

    async def _end_streams(self, _app: web.Application) -> None:
        self._traffic.close()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        started = time.perf_counter()
        parent = TraceContext.parse(
            request.headers.get("traceparent"), request.headers.get("tracestate")
        )
        with self._tracer.start(
            f"{request.method} registry", parent, "server", {"http.method": request.method}
        ) as span:
            response = await self._safely(request)
            span.set("http.status_code", response.status)
        method = request.method if request.method in _METHODS else "other"
        self._metrics.http_requests.labels(SERVER, method, str(response.status)).inc()
        if not response.prepared:  # a stream's length says nothing about answering
            if not self._prefix:
                response.headers.update(CORS)
            seconds = time.perf_counter() - started
            times = self._metrics.http_seconds.labels(SERVER, method)
            times.observe(seconds)
            if span.sink is not None:
                times.mark(seconds, span.context.trace_id)
        return response

    async def _safely(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._dispatch(request)
        except GatewayError as error:
            return error_response(error)
        except web.HTTPException:
            raise
        except Exception:
            log.exception("registry request failed", extra={"method": request.method})
            return error_response(GatewayError())

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        methods, names = self._match(request.path.removeprefix(self._prefix))
        if request.method == "OPTIONS":
            return _preflight(methods)
        self._authenticate(request)
        handler = methods.get(request.method)
        if handler is None:
            raise MethodNotAllowed(
                f"{request.method} is not allowed here, expected one of {', '.join(methods)}",
                details={"allow": ", ".join(methods)},
            )
        found = {name: text for name, text in names.items() if text}
        call = Call(request, await self._body(request), **found)
        return await handler(call)

    def _match(self, path: str) -> tuple[Mapping[str, Handler], dict[str, str]]:
        for pattern, methods in self._table:
            match = pattern.fullmatch(path)
            if match is not None:
                return methods, match.groupdict()
        raise NotFound("no such resource")

    def _authenticate(self, request: web.Request) -> None:
        if self._users is None:
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            name, password = _basic(token)
            expected = self._users.get(name, "")
            is_right = hmac.compare_digest(expected.encode(), password.encode())
            if is_right and name in self._users:
                return
        raise Unauthenticated("credentials are missing or wrong")

    async def _body(self, request: web.Request) -> bytes:
        limit = self._settings.max_payload
        if (request.content_length or 0) > limit:
            raise TooLarge(f"body: at most {limit} bytes")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise TooLarge(f"body: at most {limit} bytes") from error
        except TimeoutError as error:
            raise BadRequest("body: it did not arrive in time", status=408) from error
        if len(body) > limit:
            raise TooLarge(f"body: at most {limit} bytes, got {len(body)}")
        return body


_METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS")


def _basic(token: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(token, validate=True).decode()
    except ValueError:  # no base64, no ASCII, or no UTF-8 in it
        return "", ""
    name, _, password = text.partition(":")
    return name, password


# --- answers ---------------------------------------------------------------------------------------


def _json(status: int, value: object, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=_encode(value), headers={"Content-Type": JSON, **(headers or {})}
    )


def _created(resource: str, location: str, version: str) -> web.Response:
    return _json(201, {"id": resource}, {"Location": location, "ETag": version})


def _resource(value: object, version: str) -> web.Response:
    return _json(200, value, {"ETag": version})


def _changed(version: str | None = None) -> web.Response:
    return web.Response(status=204, headers={"ETag": version} if version else {})


def error_response(error: GatewayError) -> web.Response:
    """Render an error as this API does; of internal ones nothing is shown."""
    status = outcome_of(error).status if error.status == 500 else error.status
    text = GatewayError.default_message if status == 500 else error.message
    headers = {"WWW-Authenticate": REALM} if status == 401 else {}
    if status == 405:
        headers["Allow"] = str(error.details.get("allow", ""))
    return _json(status, {"error": text}, headers)


def _preflight(methods: Mapping[str, Handler]) -> web.Response:
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": ", ".join(methods),
            "Access-Control-Allow-Headers": "content-type, authorization, if-match",
        },
    )


class RegistryHttp:
    """The module that serves the API on `hono.registry`; `tls_context` adds the listener `hono.registrys`."""

    name = SERVER

    def __init__(
        self,
        server: RegistryServer,
        settings: Settings,
        endpoints: Endpoints,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self._server = server
        self._endpoints = endpoints
        plain = Door(SERVER, settings.bind, "hono.registry.bind")
        self._doors = doors_of(plain, TLS_SERVER, settings.tls_bind, tls_context)

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        async with AsyncExitStack() as stack:
            for door in self._doors:
                served = serve_app(
                    self._endpoints,
                    door.name,
                    door.bind,
                    self._server.application(),
                    setting=door.setting,
                    ssl=door.ssl,
                )
                await stack.enter_async_context(served)
            ready()
            await asyncio.Event().wait()
