"""CloudHub's HTTPS listener: what an edge needs before it has a certificate, and to renew one.

TLS asks for a client certificate and does not insist. Answers are KubeEdge's: DER bytes, or one line of text;
a refusal also carries the header `twinspan-refusal`. Source: KubeEdge, HTTPS endpoints of port 10002.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from cloud.certificates import (
    MAX_CSR,
    Issued,
    NodeCertificate,
    check_issuer,
    issue,
    read_node_certificate,
    read_old_certificate,
)
from cloud.identity import Identity, is_node_ready
from cloud.issuing import IssueRate
from cloud.nodebook import NodeBook
from cloud.restrictions import REPLACED
from cloud.taskhttp import TASK_PATH, UPGRADE_PATH, TaskHttp
from cloud.tokens import check_bearer
from gateway.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    GatewayError,
    NotBuilt,
    NotFound,
    Unauthenticated,
)
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints, serve_app
from gateway.wire.cloudedge.devices import ObjectMeta
from gateway.wire.cloudedge.link import Ending
from gateway.wire.cloudedge.names import EDGE_LABEL, HUB, REFUSAL, Refusal, check_node_name

if TYPE_CHECKING:
    from cloud.tasks import NodeTasks
    from gateway.config.cloud import CloudHub as HubSettings

log = logging.getLogger(__name__)

BODY_SECONDS = 10.0
DER = "application/octet-stream"
HUB_ENDPOINT = "cloudhub.wss"
_usages = msgspec.json.Decoder(list[int])


class Sessions(Protocol):
    """What joining asks of the hub."""

    def is_connected(self, node: str) -> bool: ...

    def end(self, node: str, why: Ending) -> None: ...

    def joined(self, node: str) -> None: ...


class JoinServer:
    """Module: the HTTPS listener of port 10002."""

    name = "cloud.https"

    def __init__(
        self,
        settings: HubSettings,
        identity: Identity,
        book: NodeBook,
        kube: KubeClient,
        endpoints: Endpoints,
        metrics: Metrics,
        sessions: Sessions,
        tasks: NodeTasks | None = None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._book = book
        self._kube = kube
        self._endpoints = endpoints
        self._metrics = metrics
        self._sessions = sessions
        self._tasks = tasks
        self._rate = IssueRate()

    async def run(self, ready: Callable[[], None]) -> None:
        async with serve_app(
            self._endpoints,
            "cloudhub.https",
            self._settings.https.bind,
            self.app(),
            ssl=self._identity.tls(ssl.CERT_OPTIONAL),
            setting="cloud.hub.https.bind",
        ):
            ready()
            await asyncio.Event().wait()

    def app(self) -> web.Application:
        """Build the application."""
        app = web.Application(middlewares=[self._answers_errors()], client_max_size=MAX_CSR)
        app.router.add_get("/ca.crt", self._ca)
        app.router.add_get("/edge.crt", self._certificate)
        app.router.add_get("/node/{name}", self._node)
        if self._tasks is not None:
            TaskHttp(self._tasks, self._check_node).add_to(app)
        else:
            app.router.add_post(UPGRADE_PATH, _no_tasks)
            app.router.add_post(TASK_PATH, _no_tasks)
        return app

    def _answers_errors(self) -> Middleware:
        @web.middleware
        async def answers(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                return await handler(request)
            except GatewayError as error:
                why = error.details.get("refusal", "other")
                self._metrics.cloudhub_refused.labels(str(why)).inc()
                return refusal(request, error)
            except web.HTTPRequestEntityTooLarge:
                return web.Response(status=413, text=f"at most {MAX_CSR} bytes")
            except TimeoutError:
                return web.Response(status=408, text="the body did not come in time")

        return answers

    async def _ca(self, _: web.Request) -> web.Response:
        headers = {}
        if HUB_ENDPOINT in self._endpoints:
            headers[HUB] = f":{self._endpoints.port(HUB_ENDPOINT)}"
        return web.Response(body=self._identity.ca.certificate, content_type=DER, headers=headers)

    async def _certificate(self, request: web.Request) -> web.Response:
        node = check_node_name(request.headers.get("NodeName", ""))
        is_new = peer_certificate(request) is None
        replaces = await self._authorise(request, node)
        self._rate.take(node, time.monotonic())
        async with asyncio.timeout(BODY_SECONDS):
            csr = await request.read()
        issued = issue(
            self._identity.ca,
            csr,
            node,
            _read_usages(request.headers.get("ExtKeyUsages", "")),
            datetime.now(UTC),
            self._settings.certificate_days,
        )
        await self._keep(issued, replaces=replaces)
        if is_new:
            self._sessions.joined(node)
        return web.Response(body=issued.der, content_type=DER)

    async def _keep(self, issued: Issued, *, replaces: bool) -> None:
        await self._book.issued(issued)
        if replaces:
            await self._book.revoke(issued.node, time.time(), spare=issued.serial)
            self._sessions.end(issued.node, Ending.REVOKED)
            await self._tell_others(issued)
        self._metrics.edge_certificates.labels("issued").inc()
        log.info("certificate issued", extra={"node": issued.node, "serial": issued.serial})

    async def _tell_others(self, issued: Issued) -> None:
        """Let other CloudCores of the cluster revoke too. Errors: those of the API; the join fails."""
        words: JsonObject = {REPLACED: f"{issued.serial} {int(issued.issued_at)}"}
        with suppress(NotFound):  # no Node: nobody holds anything under this name
            await self._kube.patch(
                "v1", "nodes", None, issued.node, {"metadata": {"annotations": words}}
            )

    async def _authorise(self, request: web.Request, node: str) -> bool:
        """Check certificate or token; True when the new certificate replaces all older ones."""
        peer = peer_certificate(request)
        if peer is not None:
            check_issuer(self._identity.ca, peer, datetime.now(UTC))
            old = read_old_certificate(peer, node)
            if old is None:
                self._check_certificate(peer, node)
            else:
                await self._bind(old)
            return False
        grant = check_bearer(request.headers.get("Authorization", ""), self._identity.ca.key, node)
        if grant.replace:
            return True
        await self._check_away(node)
        return False

    async def _check_away(self, node: str) -> None:
        if self._sessions.is_connected(node) or await is_node_ready(self._kube, node, time.time()):
            raise Conflict(
                f"node {node} exists and is Ready; join with a token made with --replace",
                details={"refusal": Refusal.NODE_EXISTS},
            )

    async def _bind(self, old: Issued) -> None:
        """Take a certificate that names no node for this one's, from now on for no other.

        Only for a Node of the cluster that is away and has no certificate of its own name: whoever holds an
        old certificate could otherwise become any node.
        """
        owner = self._book.owner(old.serial)
        if owner not in (None, old.node):
            raise Forbidden(
                f"the client certificate is of node {owner}, not of {old.node}",
                details={"refusal": Refusal.NODE_MISMATCH},
            )
        self._check_revoked(NodeCertificate(old.node, old.serial, old.issued_at))
        await self._check_away(old.node)
        if owner is None:
            await self._check_is_old(old.node)
            await self._book.issued(old)

    async def _check_is_old(self, node: str) -> None:
        labels: Mapping[str, str] = {}
        with suppress(NotFound):
            labels = ObjectMeta.read(await self._kube.get("v1", "nodes", None, node)).labels
        is_edge = EDGE_LABEL in labels
        if not is_edge or self._book.has_certificate(node):
            what = "has a certificate of its own" if is_edge else "is no edge node of the cluster"
            raise Forbidden(
                f"a certificate that names no node is not taken: {node} {what}; join with a token",
                details={"refusal": Refusal.NO_CERTIFICATE},
            )

    def _check_certificate(self, der: bytes, node: str) -> None:
        certificate = read_node_certificate(der)
        if certificate.node != node:
            raise Forbidden(
                f"the client certificate is of node {certificate.node}, not of {node}",
                details={"refusal": Refusal.NODE_MISMATCH},
            )
        self._check_revoked(certificate)

    def _check_revoked(self, certificate: NodeCertificate) -> None:
        if self._book.is_revoked(certificate):
            raise Forbidden(
                f"the certificate of node {certificate.node} was revoked; join again with a token",
                details={"refusal": Refusal.REVOKED},
            )

    def _check_node(self, request: web.Request, node: str) -> None:
        """Errors: Unauthenticated without a certificate; Forbidden for another one than the node's."""
        peer = peer_certificate(request)
        if peer is None:
            raise Unauthenticated("a client certificate is needed")
        self._check_certificate(peer, node)

    async def _node(self, request: web.Request) -> web.Response:
        name = check_node_name(request.match_info["name"])
        try:
            await self._kube.get("v1", "nodes", None, name)
        except NotFound:
            return web.Response(status=404, text="Node not found")
        return web.Response(text="Node found")


def peer_certificate(request: web.Request) -> bytes | None:
    """Return the client's certificate in DER form, None when it sent none."""
    transport = request.transport
    tls = transport.get_extra_info("ssl_object") if transport else None
    der: bytes | None = tls.getpeercert(binary_form=True) if tls else None
    return der


def _read_usages(header: str) -> list[int]:
    if not header:
        return []
    try:
        return _usages.decode(header)
    except msgspec.DecodeError:
        raise BadRequest("ExtKeyUsages: expected a JSON array of numbers") from None


async def _no_tasks(_: web.Request) -> web.Response:
    raise NotBuilt("cloud.tasks.enabled is false here")


def refusal(request: web.Request, error: GatewayError) -> web.Response:
    """Answer a request that is refused: KubeEdge's status, one line of text, the reason's name."""
    why = error.details.get("refusal")
    log.info(
        "edge refused",
        extra={"peer": request.remote, "status": error.status, "cause": error.message},
    )
    headers = {REFUSAL: str(why)} if why else {}
    if "retry-after" in error.details:
        headers["Retry-After"] = str(error.details["retry-after"])
    return web.Response(status=error.status, text=error.message, headers=headers)
