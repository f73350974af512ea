"""Plain paths of MetaServer: the cloud's answer, else what it answered last, else what this edge knows.

`kubectl` asks for discovery before anything else, so it must be there without a cloud too.
Source: KubeEdge reference, section 13.1, pass-through.
"""

from __future__ import annotations

import logging

import msgspec

from edge.applications import failure_of
from edge.metaanswers import CLOUD, DISK, respond
from edge.metakinds import Kinds
from edge.ports import CloudApi
from edge.store import EdgeStore, MetaObject
from gateway.errors import GatewayError, MalformedPacket, NotFound, Undeliverable
from gateway.model.json import JsonObject
from gateway.runtime.small_service import Response
from gateway.wire.cloudedge.applications import ApiKey, Verb, make_application
from gateway.wire.kube import discovery

log = logging.getLogger(__name__)

KEPT = "passthrough"
"""Type of the rows that hold the cloud's last answers; their keys are paths."""
MAX_KEPT = 1024 * 1024
"""Characters of an answer that is kept."""
HEALTH = ("healthz", "livez", "readyz")
TEXT = "text/plain; charset=utf-8"
_VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.0+twinspan-edge", "platform": "linux"}


class PlainPaths:
    """Discovery, version, health and OpenAPI."""

    def __init__(self, cloud: CloudApi, store: EdgeStore, kinds: Kinds, node: str) -> None:
        self._cloud = cloud
        self._store = store
        self._kinds = kinds
        self._node = node

    async def answer(self, path: str) -> Response:
        """Return what a path shows. Errors: NotFound; what the cloud refused."""
        if path.split("/")[1] in HEALTH:
            return respond(b"ok", DISK, kind=TEXT)  # of this server: it answers
        try:
            body = await self._from_cloud(path)
        except Undeliverable as error:
            log.debug("answered from disk", extra={"cause": error.message})
            return respond(await self._from_disk(path), DISK)
        return respond(body, CLOUD)

    async def _from_cloud(self, path: str) -> bytes:
        asked = make_application(self._node, ApiKey(raw=path), Verb.GET, option={})
        answer = await self._cloud.apply(asked)
        failure = failure_of(answer)
        if failure is not None:
            raise failure
        try:
            body = answer.response_bytes()
            text = body.decode()
        except (MalformedPacket, UnicodeDecodeError) as error:
            raise Undeliverable(f"the cloud's answer cannot be read: {error}") from error
        if len(text) <= MAX_KEPT and await self._is_other(path, text):
            self._store.put_meta(MetaObject(path, KEPT, text), _logged)
        return body

    async def _is_other(self, path: str, text: str) -> bool:
        known = await self._store.meta(path)
        return known is None or known.value != text

    async def _from_disk(self, path: str) -> bytes:
        known = await self._store.meta(path)
        if known is not None and known.type == KEPT:
            return known.value.encode()
        found = self._own(path)
        if found is None:
            raise NotFound("the server could not find the requested resource")
        return msgspec.json.encode(found)

    def _own(self, path: str) -> JsonObject | None:
        registry, parts = self._kinds.registry, path.strip("/").split("/")
        match parts:
            case ["version"]:
                return dict(_VERSION)
            case ["api"]:
                return discovery.api_versions("127.0.0.1")
            case ["apis"]:
                return discovery.api_group_list(registry)
            case ["api", version]:
                return discovery.api_resource_list(registry, version)
            case ["apis", group]:
                return discovery.api_group(registry, group)
            case ["apis", group, version]:
                return discovery.api_resource_list(registry, f"{group}/{version}")
        return None


def _logged(error: GatewayError | None) -> None:
    if error is not None:
        log.warning("an answer of the cloud is not on disk", extra={"cause": error.message})
