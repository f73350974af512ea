"""Endpoints and EndpointSlices of Services, and slices of Endpoints that people keep.

Source: kube-controller-manager's endpoint, endpointslice and endpointslicemirroring controllers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import cast

from gateway.errors import Conflict, NotFound
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import controller_uid, key_of, metadata_of, uid_of
from gateway.kube.informer import Change, Key
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.endpoints import (
    ENDPOINTS_CONTROLLER,
    ENDPOINTS_MANAGED_BY,
    MANAGED_BY,
    MIRROR_CONTROLLER,
    OVER_CAPACITY,
    SLICE_CONTROLLER,
    ZONE,
    Group,
    SlicePlan,
    endpoints_labels,
    endpoints_of,
    groups_of,
    is_mirrored,
    mirrored_groups,
    mirrored_labels,
    plan,
    serves,
    slice_labels,
)
from gateway.wire.kube.parts import labels_of, part, text
from gateway.wire.kube.podstate import is_deleting
from gateway.wire.kube.services import needs_ip, spec_of
from gateway.wire.kube.templates import owner_reference

ENDPOINTS = "v1", "endpoints"
SLICES = "discovery.k8s.io/v1", "endpointslices"
PAUSE_SECONDS = 0.1
"""Between two looks at one Service: Pods come in crowds."""


class _OfServices(ABC):
    """What the loops over Services share: which Services a change is about."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._services = context.mirrors.of("v1", "services")
        self._pods = context.mirrors.of("v1", "pods")
        self._loop: Loop[Key] = Loop(self._look, pause=PAUSE_SECONDS)
        self._services.on_change(lambda change: self._loop.poke(change.key))
        self._pods.on_change(self._on_pod)

    async def run(self) -> None:
        await self._loop.run()

    @abstractmethod
    async def _look(self, key: Key) -> None:
        """Bring what leads to the Pods of a Service up to date."""

    def _on_pod(self, change: Change) -> None:
        states = [state for state in (change.old, change.new) if state is not None]
        for service in self._services.in_namespace(change.key[0]):
            if any(serves(service, state) for state in states):
                self._loop.poke(key_of(service))

    def _followed(self, key: Key) -> JsonObject | None:
        """Return a Service that leads to Pods; None for one that is gone or is looked after by people."""
        service = self._services.get(*key)
        if service is None or is_deleting(service) or not spec_of(service).get("selector"):
            return None
        return service if needs_ip(spec_of(service)) else None

    def _backends(self, service: JsonObject) -> list[JsonObject]:
        namespace = key_of(service)[0]
        return [pod for pod in self._pods.in_namespace(namespace) if serves(service, pod)]


class EndpointsController(_OfServices):
    """Keeps the Endpoints of Services with a selector."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._endpoints = context.mirrors.of(*ENDPOINTS)
        self._endpoints.on_change(lambda change: self._loop.poke(change.key))

    async def _look(self, key: Key) -> None:
        service, known = self._followed(key), self._endpoints.get(*key)
        if service is None:
            await self._let_go(key, known)
            return
        subsets, is_cut = endpoints_of(service, self._backends(service))
        labels = endpoints_labels(service)
        body: JsonObject = {"metadata": {"name": key[1], "labels": labels}}
        body["subsets"] = cast("list[Json]", subsets)
        if is_cut:
            cast("JsonObject", body["metadata"])["annotations"] = {OVER_CAPACITY: "truncated"}
        if known is None:
            self._endpoints.put(await self._context.kube.create(*ENDPOINTS, key[0], body))
        elif (known.get("subsets") or []) != subsets or labels_of(known) != labels:
            gone: JsonObject = dict.fromkeys(labels_of(known).keys() - labels.keys())
            patch: JsonObject = {**body, "metadata": _pinned(known, {**labels, **gone})}
            self._endpoints.put(await self._context.kube.patch(*ENDPOINTS, *key, patch))

    async def _let_go(self, key: Key, known: JsonObject | None) -> None:
        """Endpoints that were ours go with their Service; those of a Service without selector stay."""
        if known is None or self._services.get(*key) is not None:
            return
        if labels_of(known).get(ENDPOINTS_MANAGED_BY) == ENDPOINTS_CONTROLLER:
            try:
                await self._context.kube.delete(*ENDPOINTS, *key, uid=uid_of(known))
            except NotFound:
                return


class _Slices:
    """Writes the slices of one owner."""

    def __init__(self, context: Context, group_version: str, kind: str, manager: str) -> None:
        self._kube = context.kube
        self._owner_type = group_version, kind
        self._manager = manager
        self.mirror = context.mirrors.of(*SLICES)
        self._owned = self.mirror.index("controller", controller_uid)

    def of(self, owner: JsonObject) -> list[JsonObject]:
        """Return the slices of an owner that are not on their way out."""
        return [
            each
            for each in self._owned.get(uid_of(owner))
            if not self.mirror.is_doomed(each) and self._is_ours(each)
        ]

    def _is_ours(self, slice_: JsonObject) -> bool:
        return labels_of(slice_).get(MANAGED_BY) == self._manager

    async def settle(self, owner: JsonObject, groups: Sequence[Group], labels: JsonObject) -> None:
        """Bring slices to what they are to hold; what has gone meanwhile is for the next look."""
        namespace = key_of(owner)[0]
        wanted = plan(groups, self.of(owner))
        for old, endpoints, ports in wanted.change:
            if _differs(old, endpoints, ports, labels):
                await self._change(old, endpoints, ports, labels)
        for family, endpoints, ports in wanted.make:
            body = self._new(owner, family, endpoints, ports, labels)
            self.mirror.put(await self._kube.create(*SLICES, namespace, body))
        await self._delete(wanted)

    async def _change(
        self,
        old: JsonObject,
        endpoints: list[JsonObject],
        ports: Sequence[JsonObject],
        labels: JsonObject,
    ) -> None:
        gone: JsonObject = dict.fromkeys(labels_of(old).keys() - labels.keys())
        patch: JsonObject = {
            "metadata": _pinned(old, {**labels, **gone}),
            "endpoints": cast("list[Json]", endpoints),
            "ports": [*ports],
        }
        self.mirror.put(await self._kube.patch(*SLICES, *key_of(old), patch))

    def _new(
        self,
        owner: JsonObject,
        family: str,
        endpoints: list[JsonObject],
        ports: Sequence[JsonObject],
        labels: JsonObject,
    ) -> JsonObject:
        return {
            "metadata": {
                "generateName": f"{key_of(owner)[1]}-",
                "labels": labels,
                "ownerReferences": [owner_reference(*self._owner_type, owner)],
            },
            "addressType": family,
            "endpoints": cast("list[Json]", endpoints),
            "ports": [*ports],
        }

    async def _delete(self, wanted: SlicePlan) -> None:
        for each in wanted.delete:
            try:
                await self._kube.delete(*SLICES, *key_of(each), uid=uid_of(each))
            except (NotFound, Conflict):
                continue
            self.mirror.doom(each)

    async def drop(self, slices: Iterable[JsonObject]) -> None:
        """Delete slices whose owner leads nowhere any more."""
        await self._delete(SlicePlan((), (), tuple(slices)))


class EndpointSlices(_OfServices):
    """Keeps the EndpointSlices of Services with a selector."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._nodes = context.mirrors.of("v1", "nodes")
        self._slices = _Slices(context, "v1", "Service", SLICE_CONTROLLER)
        self._slices.mirror.on_change(self._on_slice)

    def _on_slice(self, change: Change) -> None:
        for state in (change.old, change.new):
            owner = None if state is None else _named_owner(state, "Service")
            if owner:
                self._loop.poke((change.key[0], owner))

    async def _look(self, key: Key) -> None:
        service = self._followed(key)
        if service is None:
            known = self._services.get(*key)
            if known is not None:  # with a Service that is gone the garbage collector takes them
                await self._slices.drop(self._slices.of(known))
            return
        pods = self._backends(service)
        nodes = {text(part(pod, "spec").get("nodeName")) for pod in pods}
        zones = {node: self._zone(node) for node in nodes}
        await self._slices.settle(service, groups_of(service, pods, zones), slice_labels(service))

    def _zone(self, node: str) -> str:
        found = self._nodes.get(None, node)
        return "" if found is None else str(labels_of(found).get(ZONE) or "")


class MirroredSlices:
    """Keeps EndpointSlices of Endpoints that people write for a Service without a selector."""

    def __init__(self, context: Context) -> None:
        self._services = context.mirrors.of("v1", "services")
        self._endpoints = context.mirrors.of(*ENDPOINTS)
        self._slices = _Slices(context, "v1", "Endpoints", MIRROR_CONTROLLER)
        self._loop: Loop[Key] = Loop(self._look, pause=PAUSE_SECONDS)
        for mirror in (self._services, self._endpoints):
            mirror.on_change(lambda change: self._loop.poke(change.key))
        self._slices.mirror.on_change(self._on_slice)

    def _on_slice(self, change: Change) -> None:
        for state in (change.old, change.new):
            owner = None if state is None else _named_owner(state, "Endpoints")
            if owner:
                self._loop.poke((change.key[0], owner))

    async def run(self) -> None:
        await self._loop.run()

    async def _look(self, key: Key) -> None:
        endpoints, service = self._endpoints.get(*key), self._services.get(*key)
        if endpoints is None:
            return  # its slices go with it
        is_led = service is not None and not spec_of(service).get("selector")
        if not is_led or is_deleting(endpoints) or not is_mirrored(endpoints):
            await self._slices.drop(self._slices.of(endpoints))
            return
        groups = mirrored_groups(endpoints)
        await self._slices.settle(endpoints, groups, mirrored_labels(endpoints))


def _named_owner(item: JsonObject, kind: str) -> str:
    for owner in cast("list[Json]", metadata_of(item).get("ownerReferences") or []):
        if isinstance(owner, dict) and owner.get("kind") == kind:
            return str(owner.get("name") or "")
    return ""


def _pinned(item: JsonObject, labels: JsonObject) -> JsonObject:
    """Metadata of a patch that holds for the state that was looked at only."""
    return {"labels": labels, "resourceVersion": metadata_of(item).get("resourceVersion")}


def _differs(
    old: JsonObject, endpoints: list[JsonObject], ports: Sequence[JsonObject], labels: JsonObject
) -> bool:
    return (
        (old.get("endpoints") or []) != endpoints
        or (old.get("ports") or []) != [*ports]
        or labels_of(old) != labels
    )
