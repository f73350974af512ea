"""The Ditto HTTP server: the table of routes, and the module that serves it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable

from aiohttp import web

from gateway.config.ditto import DittoHttp
from gateway.ditto.auth import DEVOPS, STATUS, Authentication
from gateway.ditto.bulk import Rooms
from gateway.ditto.bulk_http import BulkRoutes
from gateway.ditto.cloudevents_http import CloudEventRoutes
from gateway.ditto.devops_http import DevopsRoutes
from gateway.ditto.endpoint import (
    STATUS_REALM,
    Endpoints,
    Handler,
    RawHandler,
    expectation,
    in_our_form,
    unknown_path,
    unreadable,
)
from gateway.ditto.explain_http import PATH as EXPLAIN
from gateway.ditto.explain_http import ExplainRoutes
from gateway.ditto.operations_http import OperationRoutes
from gateway.ditto.permissions_http import PermissionRoutes
from gateway.ditto.policies_http import PolicyRoutes
from gateway.ditto.request import ApiCall
from gateway.ditto.search_http import SearchRoutes
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.sse import EventStreams
from gateway.ditto.things_http import ThingRoutes
from gateway.ditto.websocket import WebSockets
from gateway.ditto.wot_http import Descriptions
from gateway.errors import NotFound
from gateway.model.json import Json
from gateway.runtime.listener import Endpoints as Bound
from gateway.runtime.listener import serve_app

MAX_HEADER_BYTES = 16_384
_VERSIONED = re.compile(r"/(?:api|ws)/(\d{1,9})(?:/|$)")
ANY = "*"


def routes(
    endpoints: Endpoints,
    things: ThingsService,
    policies: PoliciesService,
    streams: EventStreams,
    sockets: WebSockets,
    descriptions: Descriptions | None = None,
    settings: Json = None,
) -> list[web.RouteDef]:
    """The table of routes, for the server that mounts them.

    Shape:  every path takes every method, so that errors are Ditto's; what `/api` does not have is 404. A
            slash at the end of a path that is not a pointer says nothing.
            `settings` is what operators are shown of them, as plain data.
    """
    message = sockets.messages
    thing = ThingRoutes(
        things, sockets.asking, endpoints.max_body, streams.answer, message.post, descriptions
    )
    policy = PolicyRoutes(policies, endpoints.max_body)
    search = SearchRoutes(things, endpoints.max_body, streams.finite)
    permission = PermissionRoutes(things, policies, endpoints.max_body)
    operation, devops = OperationRoutes(things, policies), DevopsRoutes(settings)
    cloud_event = CloudEventRoutes(sockets.asking, policies, endpoints.max_body)
    api, public = endpoints.api, endpoints.public

    def overall(handler: Handler) -> RawHandler:
        return endpoints.devops(handler, DEVOPS, STATUS, realm=STATUS_REALM)

    table = {
        "/api/2/things": api(thing.collection),
        EXPLAIN: endpoints.shared(ExplainRoutes(things, policies).explain, DEVOPS),
        "/api/2/things/{rest:(?s:.*)}": api(thing.below),
        "/api/2/policies": api(policy.collection),
        "/api/2/policies/{rest:(?s:.*)}": api(policy.below),
        "/api/2/search/things": api(search.search),
        "/api/2/search/things/count": api(search.count),
        "/api/2/whoami": api(operation.whoami),
        "/api/2/checkPermissions": api(permission.check),
        "/api/2/cloudevents": api(cloud_event.post),
        "/api/2/bulk": api(BulkRoutes(endpoints, Rooms(things, policies, sockets.metrics)).post),
        "/ws/2": api(sockets.serve),
        "/health": public(operation.health),
        "/status": public(operation.status),
        "/status/health": public(operation.status_health),
        "/status/cluster": public(operation.status_cluster),
        "/stats/things": public(operation.total),
        "/stats/search": public(operation.total),
        "/stats/things/details": endpoints.devops(operation.details, DEVOPS),
        "/.well-known/wot": _directory(endpoints, descriptions, operation),
        "/devops/logging{rest:(?:/.*)?}": endpoints.devops(devops.logging, DEVOPS),
        "/devops/config{rest:(?:/.*)?}": endpoints.devops(devops.config, DEVOPS),
        "/overall/status": overall(operation.status),
        "/overall/status/health": overall(operation.status_health),
        "/overall/status/cluster": overall(operation.status_cluster),
    }
    ended = {f"{path}/": handler for path, handler in table.items() if "{" not in path}
    return [web.route(ANY, path, handler) for path, handler in {**ended, **table}.items()]


def _directory(
    endpoints: Endpoints, descriptions: Descriptions | None, operation: OperationRoutes
) -> RawHandler:
    if descriptions is None:
        return endpoints.public(operation.not_built)
    guard = endpoints.public if descriptions.is_public else endpoints.api
    return guard(descriptions.directory)


def fallback(endpoints: Endpoints) -> list[web.RouteDef]:
    """The last routes: every other path of the API is an error in Ditto's form; mount them at the end."""
    return [web.route(ANY, "/{rest:(?s:.*)}", endpoints.public(_unknown))]


async def _unknown(call: ApiCall) -> web.StreamResponse:
    version = _VERSIONED.match(call.request.path)
    if version is not None and version[1] != "2":
        raise NotFound(
            f"The API version '{version[1]}' is not supported.",
            code="api.version.notsupported",
            description="Supported versions: 2.",
        )
    raise unknown_path(call.request.path)


class DittoServer:
    """Module: serves the port with the routes it is given."""

    name = "ditto.http"

    def __init__(
        self,
        settings: DittoHttp,
        bound: Bound,
        table: Iterable[web.RouteDef],
        auth: Authentication,
        sockets: WebSockets,
        streams: EventStreams,
    ) -> None:
        self._settings = settings
        self._bound = bound
        self._table = list(table)
        self._auth = auth
        self._sockets = sockets
        self._streams = streams

    async def run(self, ready: Callable[[], None]) -> None:
        app = web.Application(client_max_size=self._settings.max_body, middlewares=[in_our_form])
        for route in self._table:
            app.router.add_route(
                route.method, route.path, route.handler, expect_handler=expectation
            )
        app.on_shutdown.append(self._end_streams)
        try:
            async with serve_app(
                self._bound,
                self.name,
                self._settings.bind,
                app,
                setting="ditto.http.bind",
                max_header_bytes=MAX_HEADER_BYTES,
                answer=unreadable,
            ):
                ready()
                await asyncio.Event().wait()
        finally:
            await self._auth.close()

    async def _end_streams(self, _app: web.Application) -> None:
        """Long-lived answers would keep the port from closing."""
        await self._sockets.close()
        self._streams.close()
