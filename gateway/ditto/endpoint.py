"""What every Ditto route shares: limits, caller, correlation id, span, count, errors in Ditto's form."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias
from urllib.parse import unquote

import msgspec
from aiohttp import hdrs, web
from prometheus_client import Counter

from gateway.config.ditto import Bulk, DittoHttp
from gateway.ditto.auth import PRE_AUTHENTICATED, Authentication, Caller, Presented
from gateway.ditto.console_session import HEADER, session_of
from gateway.ditto.namespace_access import AccessRules
from gateway.ditto.request import (
    URI_TOO_LONG,
    ApiCall,
    check_limits,
    correlation_id_of,
    ditto_headers,
)
from gateway.errors import GatewayError, MethodNotAllowed, NotFound
from gateway.model.json import Json
from gateway.model.thing import HeaderValue
from gateway.model.trace import TraceContext
from gateway.observe.histograms import Tally
from gateway.observe.logs import CORRELATION
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Span, Tracer
from gateway.runtime.http_protocol import Unreadable
from gateway.twin.namespaces import UNLIMITED
from gateway.wire.ditto.headers import error_json

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[ApiCall], Awaitable[web.StreamResponse]]
RawHandler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

SERVER = "ditto"
METHODS = "GET, PUT, POST, PATCH, DELETE, HEAD, OPTIONS"
_METHODS = frozenset(METHODS.split(", "))
MAX_SHOWN_PATH = 300
"""Characters of a request's path in its span."""
API_REALM = 'Basic realm="Ditto"'
DEVOPS_REALM = 'Basic realm="DITTO-DEVOPS"'
STATUS_REALM = 'Basic realm="DITTO-STATUS"'
NO_CALLER = Caller((), "none")
SESSION_PATHS = "/api/2/"
"""Where somebody who is signed in at the console needs no password."""


def json_response(
    value: Json, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        headers=headers,
        content_type="application/json",
    )


def error_response(error: GatewayError) -> web.Response:
    """An error's answer; 304 has no body."""
    headers: dict[str, str] = {"response-required": "false"}
    told = error.details.get("headers")
    for name, value in told.items() if isinstance(told, dict) else ():
        headers[name] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    etag = error.details.get("etag")
    if isinstance(etag, str):
        headers[hdrs.ETAG] = etag
    allow = error.details.get("allow")
    if isinstance(allow, str):
        headers[hdrs.ALLOW] = allow
    if error.status == 503:
        headers[hdrs.RETRY_AFTER] = "2"
    if error.status == 304:
        return web.Response(status=304, headers=headers)
    return json_response({**error_json(error)}, error.status, headers)


def not_allowed(method: str, allowed: Iterable[str]) -> GatewayError:
    """405, with the methods that the path has."""
    names = ", ".join(allowed)
    return MethodNotAllowed(
        f"The HTTP method '{method}' is not allowed here.",
        code="gateway:method.notallowed",
        description=f"Allowed methods: {names}.",
        details={"allow": names},
    )


def unknown_path(path: str) -> GatewayError:
    """404 for a path that the API does not have."""
    return NotFound(
        f"The path '{path[:200]}' does not exist.",
        code="signals.commands:path.unknown",
        description="Check the path; the API is below /api/2.",
    )


@dataclass(frozen=True, slots=True)
class _Meter:
    """The metrics of one group of paths, method and status, looked up once."""

    requests: Counter
    seconds: Tally
    roundtrip: Tally


class Endpoints:
    """Wraps handlers into aiohttp's.

    Shape:  `api` for authenticated callers, `devops` for operators, `shared` for both, `public` for everyone.
    """

    def __init__(
        self,
        auth: Authentication,
        settings: DittoHttp,
        metrics: Metrics,
        tracer: Tracer,
        access: AccessRules | None = None,
    ) -> None:
        self._auth = auth
        self._access = access or AccessRules()
        self._settings = settings
        self._metrics = metrics
        self._tracer = tracer
        self._meters: dict[tuple[str, str, int], _Meter] = {}

    @property
    def max_body(self) -> int:
        return self._settings.max_body

    @property
    def bulk(self) -> Bulk:
        return self._settings.bulk

    def api(self, handler: Handler) -> RawHandler:
        """For callers with authorization subjects."""

        async def prove(request: web.Request) -> Caller:
            return await self._auth.caller(presented(request))

        return self._wrap(handler, prove, API_REALM)

    def devops(self, handler: Handler, *users: str, realm: str = DEVOPS_REALM) -> RawHandler:
        """For operators."""

        async def prove(request: web.Request) -> Caller:
            await self._auth.operator(presented(request), *users)
            return NO_CALLER

        return self._wrap(handler, prove, realm)

    def shared(self, handler: Handler, *users: str) -> RawHandler:
        """For callers with authorization subjects, and for operators."""

        async def prove(request: web.Request) -> Caller:
            return await self._auth.caller_or_operator(presented(request), *users)

        return self._wrap(handler, prove, API_REALM)

    def public(self, handler: Handler) -> RawHandler:
        """For everyone."""

        async def prove(_request: web.Request) -> Caller:
            return NO_CALLER

        return self._wrap(handler, prove, "")

    def _wrap(
        self, handler: Handler, prove: Callable[[web.Request], Awaitable[Caller]], realm: str
    ) -> RawHandler:
        async def handle(request: web.Request) -> web.StreamResponse:
            started = perf_counter()
            correlation_id = correlation_id_of(request)
            span = None
            if request.method == hdrs.METH_OPTIONS and self._origin(request):
                response: web.StreamResponse = web.Response(status=204)
            else:
                with (span := self._span(request)):
                    span.set(CORRELATION, correlation_id)
                    response = await self._answer(
                        span, request, correlation_id, handler, prove, realm
                    )
            self._count(request, response, perf_counter() - started, span)
            if not response.prepared:
                response.headers["correlation-id"] = correlation_id
                self.allow_origin(request, response)
            return response

        return handle

    async def _answer(
        self,
        span: Span,
        request: web.Request,
        correlation_id: str,
        handler: Handler,
        prove: Callable[[web.Request], Awaitable[Caller]],
        realm: str,
    ) -> web.StreamResponse:
        try:
            check_limits(request)
            headers: dict[str, HeaderValue] = ditto_headers(request, correlation_id)
            caller = self._access.narrowed(await prove(request), headers)
            _check_addressed(request, caller)
            call = ApiCall(request, caller, correlation_id, headers, span.context)
            response = await handler(call)
        except GatewayError as error:
            response = error_response(error)
            if error.status == 401 and realm and HEADER not in request.headers:
                response.headers[hdrs.WWW_AUTHENTICATE] = realm
            span.end(error if error.status >= 500 else None)
        except web.HTTPException as error:
            response = error_response(_of_http(error, request))
        except ConnectionError:
            raise
        except Exception as error:
            log.exception("request failed", extra={"path": request.path[:200]})
            response = error_response(GatewayError())
            span.end(error)
        span.set("http.response.status_code", response.status)
        span.end()
        return response

    def _span(self, request: web.Request) -> Span:
        """Reads come all the time; of those that nobody traces already, some are."""
        parent = TraceContext.parse(
            request.headers.get("traceparent"), request.headers.get("tracestate")
        )
        name = f"ditto {request.method}"
        facts = {"http.request.method": request.method, "url.path": request.path[:MAX_SHOWN_PATH]}
        if request.method == hdrs.METH_GET:
            return self._tracer.start_frequent(name, parent, "server", facts)
        return self._tracer.start(name, parent, "server", facts)

    def _origin(self, request: web.Request) -> str | None:
        origin = request.headers.get(hdrs.ORIGIN)
        allowed = self._settings.cors_origins
        return origin if origin and (origin in allowed or "*" in allowed) else None

    def allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add what a browser wants to see, for origins in the settings."""
        origin = self._origin(request)
        if origin is None:
            return
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = METHODS
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = (
            "etag, location, correlation-id, link"
        )
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        response.headers[hdrs.VARY] = "Origin"
        if asked:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked[:1_024]

    def _count(
        self,
        request: web.Request,
        response: web.StreamResponse,
        seconds: float,
        span: Span | None,
    ) -> None:
        method, status = request.method, response.status
        known = method if method in _METHODS else "other"
        group = group_of(request.path)
        meter = self._meters.get((group, known, status))
        if meter is None:
            meter = self._meters[group, known, status] = _Meter(
                self._metrics.http_requests.labels(SERVER, known, str(status)),
                self._metrics.http_seconds.labels(SERVER, known),
                self._metrics.roundtrip_http_seconds.labels(group, known, str(status)),
            )
        meter.requests.inc()
        meter.seconds.observe(seconds)
        if not response.prepared:  # a stream lasts as long as its reader wants
            meter.roundtrip.observe(seconds)
            if span is not None and span.sink is not None:
                meter.seconds.mark(seconds, span.context.trace_id)
                meter.roundtrip.mark(seconds, span.context.trace_id)


_GROUPS = frozenset(
    (
        *(
            f"/api/2/{name}"
            for name in ("things", "policies", "search", "connections", "whoami", "cloudevents")
        ),
        "/api/2/checkPermissions",
        *("/devops", "/health", "/overall", "/stats", "/status", "/ws/2"),
    )
)


def group_of(path: str) -> str:
    """What a path begins with, of the few beginnings that the API has."""
    parts = path.split("/", 4)
    found = "/".join(parts[:4] if parts[1:2] == ["api"] else parts[:2])
    return found if found in _GROUPS else "/ws/2" if path.startswith("/ws/2") else "other"


def _check_addressed(request: web.Request, caller: Caller) -> None:
    """Refuse what the path addresses in a namespace that the caller may not touch."""
    if caller.access is UNLIMITED:
        return
    for kind, prefix in _ADDRESSING.items():
        if request.path.startswith(prefix):
            entity_id = unquote(request.rel_url.raw_path[len(prefix) :]).partition("/")[0]
            caller.access.check(kind, entity_id)


_ADDRESSING = {"thing": "/api/2/things/", "policy": "/api/2/policies/"}


def presented(request: web.Request) -> Presented:
    """What the request says about its caller."""
    query = request.query
    return Presented(
        request.headers.get(hdrs.AUTHORIZATION),
        request.headers.get(PRE_AUTHENTICATED) or query.get(PRE_AUTHENTICATED),
        query.get("access_token"),
        session_of(request) if request.path.startswith(SESSION_PATHS) else None,
        request.remote or "",
    )


def _of_http(error: web.HTTPException, request: web.Request) -> GatewayError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return not_allowed(error.method, sorted(error.allowed_methods))
    if error.status == 404:
        return unknown_path(request.path)
    return GatewayError(error.reason, code="rejected", status=error.status)


# --- what never comes to a handler of ours -----------------------------------------------------


@web.middleware
async def in_our_form(request: web.Request, handler: RawHandler) -> web.StreamResponse:
    """Say what aiohttp refuses by itself, such as targets that are no path, as all errors are said."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        response = error_response(_of_http(error, request))
    if HEADER in request.headers and not response.prepared:
        _for_the_console(response)
    return response


def _for_the_console(response: web.StreamResponse) -> None:
    """Who asks is told by a cookie: no cache may keep the answer for others."""
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    if response.status == 408:
        # Browsers send a request again by themselves after a 408: a device would get its command thrice.
        response.set_status(504)


async def expectation(request: web.Request) -> web.StreamResponse | None:
    """Answer an `Expect` header: go on, or 417."""
    expected = request.headers.get(hdrs.EXPECT, "")
    if request.version < (1, 1):
        return None
    if expected.lower() != "100-continue":
        return error_response(
            GatewayError(
                f"The expectation '{expected[:100]}' is not known.",
                code="rejected",
                status=417,
                description="Only '100-continue' is.",
            )
        )
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0
    return None


_UNREADABLE = {
    405: "gateway:method.notallowed",
    414: URI_TOO_LONG,
    431: "headers.too.large",
    500: "internalerror",
}


def unreadable(found: Unreadable) -> web.Response:
    """The answer to bytes that are no request."""
    error = GatewayError(
        found.reason, code=_UNREADABLE.get(found.status, "bad.request"), status=found.status
    )
    response = error_response(error)
    response.headers["correlation-id"] = str(uuid.uuid4())
    if found.status == 405:
        response.headers[hdrs.ALLOW] = METHODS
    return response
