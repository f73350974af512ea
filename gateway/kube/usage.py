"""The group metrics.k8s.io of the embedded API: what nodes and Pods use, for `kubectl top`.

It is served, and shown in discovery, where somebody measures (`KubeApi.measure`). Objects are made when they
are asked for and never stored; labels are those of the Node or Pod. Source: Kubernetes metrics.k8s.io.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.kube.answers import answer
from gateway.kube.objects import Objects
from gateway.kube.storage import Storage
from gateway.kube.watch import Key
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, text
from gateway.wire.kube.requests import Target
from gateway.wire.kube.resources import Registry, ResourceType
from gateway.wire.kube.selectors import parse_fields, parse_labels
from gateway.wire.kube.status import not_allowed, not_found
from gateway.wire.kube.usage import (
    GROUP,
    NODES,
    PODS,
    VERSION,
    NodeUsage,
    each_pod,
    node_metrics,
    pod_metrics,
)

_FIELDS = {"metadata.name": ("metadata", "name")}
_POD_FIELDS = {**_FIELDS, "metadata.namespace": ("metadata", "namespace")}


class Usage(Protocol):
    """Who measures."""

    def usage(self) -> Mapping[str, NodeUsage]:
        """Return what is known now: node -> what it and its Pods use."""


def kinds() -> Iterable[ResourceType]:
    """The kinds of the group."""
    for plural, kind, namespaced in ((NODES, "NodeMetrics", False), (PODS, "PodMetrics", True)):
        yield ResourceType(
            group=GROUP,
            version=VERSION,
            plural=plural,
            singular="",
            kind=kind,
            namespaced=namespaced,
            verbs=("get", "list"),
            counts_generation=False,
            is_virtual=True,
        )


class UsageAnswers:
    """Answers reads of the group."""

    def __init__(self, source: Usage, registry: Registry) -> None:
        self._source = source
        for kind in kinds():
            registry.add(kind)

    def serves(self, resource: ResourceType) -> bool:
        """True for the kinds of this group."""
        return resource.group == GROUP and resource.is_virtual

    async def respond(
        self, request: web.Request, objects: Objects, resource: ResourceType, target: Target
    ) -> web.Response:
        """Answer a request. Errors: as `answer`; MethodNotAllowed."""
        if request.method != "GET":
            raise not_allowed()
        body = self.answer(objects.storage, objects.now(), resource, target, request.query)
        return await answer(request, body)

    def answer(
        self,
        storage: Storage,
        now: float,
        resource: ResourceType,
        target: Target,
        query: Mapping[str, str],
    ) -> bytes:
        """Return the document. Errors: NotFound; BadRequest for a selector; MethodNotAllowed."""
        if target.subresource or query.get("watch") in ("1", "true"):
            raise not_allowed()
        is_pods = resource.plural == PODS
        made = self._pods(storage, now) if is_pods else self._nodes(storage, now)
        found = [each for each in made if _place_of(each, target, is_pods=is_pods)]
        if target.name:
            if not found:
                shown = f"{target.namespace}/{target.name}" if is_pods else target.name
                raise not_found("podmetrics" if is_pods else "nodemetrics", GROUP, shown)
            return msgspec.json.encode(found[0])
        labels = parse_labels(query.get("labelSelector"))
        fields = parse_fields(query.get("fieldSelector"), _POD_FIELDS if is_pods else _FIELDS)
        items: list[Json] = [
            each for each in found if labels.matches(each) and fields.matches(each)
        ]
        return msgspec.json.encode(
            {
                "kind": resource.collection_kind,
                "apiVersion": resource.group_version,
                "metadata": {},
                "items": items,
            }
        )

    def _nodes(self, storage: Storage, now: float) -> Iterable[JsonObject]:
        for name, usage in sorted(self._source.usage().items()):
            stored = storage.get(Key(NODES, "", name))
            if stored is not None and usage.node is not None:
                labels = part(stored.object, "metadata").get("labels")
                yield node_metrics(name, usage.node, labels, now)

    def _pods(self, storage: Storage, now: float) -> Iterable[JsonObject]:
        """A node tells of its own Pods alone."""
        known = (
            (node, *each)
            for node, usage in self._source.usage().items()
            for each in each_pod(usage)
        )
        for node, namespace, name, used in sorted(known, key=lambda each: each[1:3]):
            stored = storage.get(Key(PODS, namespace, name))
            if stored is not None and part(stored.object, "spec").get("nodeName") == node:
                labels = part(stored.object, "metadata").get("labels")
                yield pod_metrics(namespace, name, used, labels, now)


def _place_of(item: JsonObject, target: Target, *, is_pods: bool) -> bool:
    meta = part(item, "metadata")
    in_namespace = not target.namespace or not is_pods or meta.get("namespace") == target.namespace
    return in_namespace and (not target.name or text(meta.get("name")) == target.name)
