"""What a kubelet tells, through the API server: `nodes/NAME/proxy/PATH`, for figures and lists."""

from __future__ import annotations

import logging

from aiohttp import web

from gateway.errors import Undeliverable
from gateway.kube.auth import Access
from gateway.kube.kubelets import Kubelets
from gateway.kube.objects import Objects
from gateway.wire.kube.nodeproxy import NodeProxy, check_path, node_named
from gateway.wire.kube.status import not_allowed

log = logging.getLogger(__name__)

READS = ("GET", "HEAD")
VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update"}


def access_to_kubelet(method: str, asked: NodeProxy) -> Access:
    """Return what a request wants: `nodes/proxy`, by the verb of its method."""
    verb = VERBS.get(method, method.lower())
    return Access(verb=verb, resource="nodes", subresource="proxy", name=asked.name)


class NodeProxies:
    """Answers such requests; who asks has the right to."""

    def __init__(self, objects: Objects, kubelets: Kubelets) -> None:
        self._objects = objects
        self._kubelets = kubelets

    async def answer(self, request: web.Request, asked: NodeProxy) -> web.StreamResponse:
        """Hand on a kubelet's answer as it is. Errors: NotFound; Forbidden; BadRequest; Undeliverable."""
        if request.method not in READS:
            raise not_allowed()
        nodes = self._objects.resource("v1", "nodes")
        node = self._objects.get(nodes, "", node_named(asked.name)).object
        path = check_path(asked.path)
        told = await self._kubelets.get(node, path, request.rel_url.raw_query_string)
        response = web.StreamResponse(
            status=told.status, headers={"Content-Type": told.media_type or "text/plain"}
        )
        await response.prepare(request)
        try:
            async for piece in told.body:
                if request.method != "HEAD":
                    await response.write(piece)
        except Undeliverable as error:
            log.info("an answer ended early", extra={"path": path, "cause": error.message})
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response
