"""MetaServer: the Kubernetes API at the edge, on loopback; it goes on without a cloud.

Source: KubeEdge reference, section 13.1.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from edge.applications import Applications
from edge.devicemethods import DeviceMethods
from edge.deviceport import TwinPort
from edge.edgeapi import CloudOrDisk
from edge.hub import EdgeHub
from edge.metaanswers import DISK, FROM, respond_error, respond_json
from edge.metaauth import MetaAuth
from edge.metadiscovery import PlainPaths
from edge.metamanager import MetaManager
from edge.metamethods import answer_methods
from edge.metaorders import MAPPERS, Give, answer_order
from edge.metarecords import MetaRecords
from edge.metarequests import Call, Passed, read_request
from edge.metatwins import TwinWrites
from edge.metaverbs import MetaVerbs
from edge.store import EdgeStore
from gateway.config.edge_services import MetaServer as Settings
from gateway.errors import GatewayError, InvalidSetting, Rejected
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints, parse_bind
from gateway.runtime.module import Module
from gateway.runtime.small_service import Request, Response, serve_requests

log = logging.getLogger(__name__)

ENDPOINT = "edge.metaserver"
SETTING = "edge.metaserver.bind"
CONFIRMATION = ("", "taskupgrade", "confirm-upgrade")
"""What KubeEdge's tools post to confirm an upgrade of this node."""
STATUS: JsonObject = {"kind": "Status", "apiVersion": "v1", "metadata": {}}
TLS_FOLDER = "metaserver"
"""Below the edge's folder: `ca.crt`, `server.crt`, `server.key`."""


class Parts(Protocol):
    """What a process has."""

    @property
    def endpoints(self) -> Endpoints: ...
    @property
    def metrics(self) -> Metrics: ...


@dataclass(frozen=True, slots=True)
class Rooms:
    """EdgeCore's rooms that MetaServer works with."""

    node: str
    folder: Path
    store: EdgeStore
    hub: EdgeHub
    meta: MetaManager
    twin: TwinPort
    api: CloudOrDisk
    methods: DeviceMethods
    confirm: Callable[[], str]
    """Lets the upgrade that waits for it go on, and names its job. Errors: NotFound."""
    order: Give
    """Gives an order to a mapper."""


class MetaServer:
    """Module: the listener and the requests on it."""

    name = "edge.metaserver"

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        records: MetaRecords,
        auth: MetaAuth,
        verbs: MetaVerbs,
        paths: PlainPaths,
        certificate: Certificate,
        confirm: Callable[[], str],
        order: Give,
    ) -> None:
        self._settings = settings
        self._endpoints = parts.endpoints
        self._metrics = parts.metrics
        self._records = records
        self._auth = auth
        self._verbs = verbs
        self._paths = paths
        self._certificate = certificate
        self._confirm = confirm
        self._order = order

    async def run(self, ready: Callable[[], None]) -> None:
        await self._records.load()
        async with serve_requests(
            self._endpoints,
            ENDPOINT,
            self._settings.bind,
            self.respond,
            max_body=self._settings.max_body,
            setting=SETTING,
            max_connections=self._settings.max_connections,
            either_tls=self._certificate.context,
        ):
            ready()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._records.window.close()

    async def respond(self, request: Request) -> Response:
        """Answer a request; every failure becomes a `Status`."""
        verb = "other"
        try:
            call = read_request(request)
            verb = call.verb if isinstance(call, Call) else "path"
            response = await self._answer(call, request)
        except GatewayError as error:
            response = respond_error(error)
            outcome = "rejected" if isinstance(error, Rejected) else "failed"
        else:
            outcome = "ok"
        origin = response.headers.get(FROM, "none")
        self._metrics.edge.metaserver_requests.labels(verb, origin, outcome).inc()
        return response

    async def _answer(self, call: Call | Passed, request: Request) -> Response:
        caller = await self._auth.caller(request.headers)
        await self._auth.require(caller, call)
        if isinstance(call, Passed):
            return await self._paths.answer(call.path)
        if call.verb == "create" and (call.group, call.plural, call.name) == CONFIRMATION:
            message = f"job {self._confirm()} goes on"
            return respond_json({**STATUS, "status": "Success", "message": message}, DISK)
        if (call.group, call.plural) == MAPPERS:
            return await answer_order(self._order, call, request)
        return await self._verbs.answer(call, request)


class Certificate:
    """What `twinspan edge kubeconfig` made for clients that want TLS (kubectl sends tokens to no other)."""

    def __init__(self, folder: Path) -> None:
        self._files = (folder / TLS_FOLDER / "server.crt", folder / TLS_FOLDER / "server.key")
        self._made = 0.0
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext | None:
        """Return TLS for the listener, None where there is no certificate."""
        try:
            made = self._files[0].stat().st_mtime
            if made != self._made:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                context.load_cert_chain(*self._files)
                self._context, self._made = context, made
        except OSError as error:
            log.debug("no TLS here", extra={"cause": str(error)})
            return None
        return self._context


@dataclass(frozen=True, slots=True)
class MetaParts:
    """MetaServer's modules, and the rooms that others use, too."""

    modules: list[Module]
    records: MetaRecords
    cloud: Applications


def build_metaserver(settings: Settings, parts: Parts, rooms: Rooms) -> MetaParts | None:
    """Build MetaServer and its way to the cloud; None where it is switched off.

    Errors: InvalidSetting for a bind beyond loopback, or an unknown `auth`.
    """
    if not settings.enabled:
        return None
    _check_loopback(settings.bind)
    records = MetaRecords(rooms.store)
    records.attach(rooms.meta)
    cloud = Applications(rooms.hub)
    rooms.hub.on_link(cloud)
    auth = MetaAuth(settings.auth, rooms.folder, rooms.store, cloud, rooms.node)
    rooms.api.on_token = auth.remember
    twins = TwinWrites(rooms.twin)
    verbs = MetaVerbs(
        rooms.node,
        records,
        cloud,
        twins.write,
        partial(answer_methods, rooms.methods),
        parts.metrics,
        settings.max_watches,
    )
    paths = PlainPaths(cloud, rooms.store, records.kinds, rooms.node)
    certificate = Certificate(rooms.folder)
    server = MetaServer(
        settings,
        parts,
        records,
        auth,
        verbs,
        paths,
        certificate,
        rooms.confirm,
        rooms.order,
    )
    return MetaParts([cloud, server], records, cloud)


def _check_loopback(bind: str) -> None:
    """Errors: InvalidSetting: without TLS nobody else may hear what is said here."""
    host, _ = parse_bind(bind, SETTING)
    try:
        is_inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_inside = host == "localhost"
    if not is_inside:
        raise InvalidSetting(f"{SETTING}: expected a loopback address, got {bind!r}")
