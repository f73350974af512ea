"""The router's REST entry: `/<node>/<namespace>/<path>` is a publish or a request at the edge, by Rules.

There is no acknowledgement of a publish: `message delivered` means that the node is connected and the
message is on its way. A service's answer is passed on as it is, whatever its status (KubeEdge asks again
after anything but 200). Source: KubeEdge reference, sections 18.2, 18.3 and 18.5.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import hdrs, web

from cloud.deliveries import Deliveries
from cloud.peers import FORWARDED, Peers
from cloud.routeraccess import RouterAccess
from cloud.routerforward import end_to_end, forward, passed_on
from cloud.routes import EVENT_BUS, SERVICE_BUS, RestToBus, RestToService, path_of
from cloud.rules import Rules
from cloud.ruleuploads import RuleUploads
from cloud.servicecalls import ServiceCalls
from cloud.servicerequests import ServiceRequests, refuse_requests
from cloud.sessions import stamp
from gateway.errors import (
    BadRequest,
    CommandTimeout,
    GatewayError,
    InvalidSetting,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthenticated,
    Undeliverable,
)
from gateway.runtime.listener import Endpoints, parse_bind, serve_app
from gateway.wire.cloudedge.envelope import MAX_FRAME, encode
from gateway.wire.cloudedge.names import HTTP_METHODS, Operation
from gateway.wire.cloudedge.routing import ServiceBusAnswer, ServiceBusCall, bus_command
from gateway.wire.mqtt.filters import check_topic

if TYPE_CHECKING:
    from cloud.events import EventRecorder
    from cloud.hub import CloudHub
    from gateway.config.cloud_services import Router as RouterSettings
    from gateway.kube.client import KubeClient
    from gateway.observe.metrics import Metrics
    from gateway.runtime.module import Module

log = logging.getLogger(__name__)

SETTING = "cloud.router.bind"
_LOOPBACK = ("localhost", "::1")
_MIN_LEVELS = 3
_FIRST_FINAL = 200
SAFE = "!$&'()*+,;=:@~"
"""What stands in a path level as it is."""
ENDPOINT = "router.http"


class Router:
    """Module: the REST entry.

    Errors: InvalidSetting when it would be open to other machines for everybody.
    """

    name = "cloud.router"

    def __init__(
        self,
        settings: RouterSettings,
        rules: Rules,
        hub: CloudHub,
        kube: KubeClient,
        deliveries: Deliveries,
        services: ServiceCalls,
        peers: Peers,
        endpoints: Endpoints,
    ) -> None:
        self._settings = settings
        self._peers = peers
        self._rules = rules
        self._hub = hub
        self._kube = kube
        self._deliveries = deliveries
        self._services = services
        self._endpoints = endpoints
        self._access = RouterAccess(settings)
        host = parse_bind(settings.bind, SETTING)[0]
        if self._access.is_open and not (host in _LOOPBACK or host.startswith("127.")):
            raise InvalidSetting(
                f"{SETTING}: {settings.bind} is reachable from other machines; set"
                " cloud.router.users_file or cloud.router.token_file"
            )

    async def run(self, ready: Callable[[], None]) -> None:
        app = web.Application(client_max_size=self._settings.max_body)
        app.router.add_route("*", "/{path:.*}", self._take)
        try:
            async with serve_app(
                self._endpoints, ENDPOINT, self._settings.bind, app, setting=SETTING
            ):
                ready()
                await asyncio.Event().wait()
        finally:
            self._access.close()

    async def _take(self, request: web.Request) -> web.Response:
        try:
            await self._access.check(request.headers.get(hdrs.AUTHORIZATION, ""))
            return await self._route(request)
        except Unauthenticated as error:
            challenge = {"WWW-Authenticate": 'Basic realm="router", Bearer'}
            return web.Response(status=401, text=error.message, headers=challenge)
        except GatewayError as error:
            return web.Response(status=error.status, text=error.message)

    async def _route(self, request: web.Request) -> web.Response:
        levels = path_of(request.path)
        if len(levels) < _MIN_LEVELS:
            raise BadRequest("expected /<node>/<namespace>/<path>")
        node, namespace, path = levels[0], levels[1], levels[2:]
        route = self._rules.find_rest(namespace, path)
        if route is None:
            raise NotFound(f"no rule of namespace {namespace[:100]} for this path")
        await self._check_node(node)
        body = await request.read()
        if not self._hub.is_connected(node) and FORWARDED not in request.headers:
            peer = await self._peers.find(node)
            if peer is not None:
                return await self._forward(request, body, peer, route)
        if isinstance(route, RestToService):
            return await self._call(request, node, route, path, body)
        return self._publish(node, route, path, body)

    async def _forward(
        self, request: web.Request, body: bytes, peer: str, route: RestToBus | RestToService
    ) -> web.Response:
        """Let the CloudCore answer that the node is at; what comes of it is counted there."""
        by, seconds = self._peers.address, self._settings.timeout
        port = self._endpoints.port(ENDPOINT)
        try:
            return await forward(request, body, peer, port, by=by, seconds=seconds)
        except GatewayError as error:
            kind = EVENT_BUS if isinstance(route, RestToBus) else SERVICE_BUS
            self._deliveries.note(route.rule, kind, error.message)
            raise

    async def _check_node(self, node: str) -> None:
        """Errors: NotFound for a node that the cluster does not know."""
        if not self._hub.is_connected(node):
            await self._kube.get("v1", "nodes", None, node)

    def _publish(
        self, node: str, route: RestToBus, path: tuple[str, ...], body: bytes
    ) -> web.Response:
        rest = path[len(route.path) :]
        topic = check_topic("/".join((route.topic.rstrip("/"), *rest)) if rest else route.topic)
        envelope = bus_command(stamp(), Operation.PUBLISH, topic, body)
        if len(body) * 6 > MAX_FRAME and len(encode(envelope)) > MAX_FRAME:
            raise TooLarge(f"a body of {len(body)} bytes does not fit the link to the node")
        if self._hub.push(node, envelope):
            self._deliveries.note(route.rule, EVENT_BUS)
            return web.Response(text="message delivered")
        why = f"node {node} is not connected here, or too much waits for it"
        self._deliveries.note(route.rule, EVENT_BUS, why)
        return web.Response(status=500, text=f"All attempts fail: #1: {why}")

    async def _call(
        self,
        request: web.Request,
        node: str,
        route: RestToService,
        path: tuple[str, ...],
        body: bytes,
    ) -> web.Response:
        if request.method not in HTTP_METHODS:
            raise MethodNotAllowed(f"not a method of services: {request.method[:20]}")
        call = ServiceBusCall(
            msg_id="",
            port=route.port,
            path=_target_of(request, route, path),
            method=request.method,
            headers=self._passed_on(request),
            body=body,
        )
        try:
            answer = await self._services.ask(node, call, self._settings.timeout)
        except GatewayError as error:
            self._deliveries.note(route.rule, SERVICE_BUS, error.message)
            if isinstance(error, Undeliverable) and error.status == Undeliverable.status:
                return web.Response(status=500, text=f"All attempts fail: #1: {error.message}")
            status = 504 if isinstance(error, CommandTimeout) else error.status
            return web.Response(status=status, text=error.message)
        self._deliveries.note(route.rule, SERVICE_BUS)
        return _answer_of(answer)

    def _passed_on(self, request: web.Request) -> dict[str, list[str]]:
        """Return the headers that are for the service; the log-in at the router is not."""
        login = frozenset() if self._access.is_open else frozenset({"authorization"})
        return end_to_end(request, but=login)


def _target_of(request: web.Request, route: RestToService, path: tuple[str, ...]) -> str:
    levels = (*path_of(route.target), *path[len(route.path) :])
    if ".." in levels:
        raise BadRequest("a path with ..")
    query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
    return "/" + "/".join(quote(level, safe=SAFE) for level in levels) + query


def _answer_of(answer: ServiceBusAnswer) -> web.Response:
    if answer.status < _FIRST_FINAL:
        return web.Response(status=502, text="the service gave no final answer")
    return passed_on(answer.status, answer.headers, answer.body)


def build_router(
    settings: RouterSettings,
    kube: KubeClient,
    hub: CloudHub,
    events: EventRecorder,
    metrics: Metrics,
    peers: Peers,
    endpoints: Endpoints,
) -> list[Module]:
    """Build the router's modules in starting order, none where it is off; the hub comes after them."""
    if not settings.enabled:
        refuse_requests(hub)
        return []
    rules = Rules(kube, hub, events, settings.allowed_targets)
    deliveries = Deliveries(kube, rules, metrics)
    uploads = RuleUploads(settings, rules, hub, deliveries)
    requests = ServiceRequests(settings, rules, hub, deliveries)
    router = Router(settings, rules, hub, kube, deliveries, ServiceCalls(hub), peers, endpoints)
    return [*rules.informers, deliveries, uploads, requests, router]
