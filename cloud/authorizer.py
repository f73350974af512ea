"""What a node may read and write of the Kubernetes API.

The API itself judges first: calls are made in the node's name. An API without Kubernetes' Node authorizer
refuses a node also what is brought to it anyway; so what the API refuses is read in our own name where the
node has to do with the object: its Devices and their models, what its Pods name, the cluster's services.
With `debug` a refusal is logged and passes; without `enabled` only what stands for nodes is judged.
Source: KubeEdge reference, section 5.1; Kubernetes' Node authorizer.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from cloud.catalog import Catalog
from cloud.ports import PodsOfNodes
from gateway.config.cloud_services import Authorization
from gateway.errors import Forbidden
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.applications import ApiKey
from gateway.wire.cloudedge.devices import DeviceView, ObjectMeta
from gateway.wire.cloudedge.subjects import DeviceKey

log = logging.getLogger(__name__)

NODES = "system:nodes"
T = TypeVar("T")
Shows = Callable[[JsonObject], bool]
"""Says whether a node may see an object."""
_Judge = Callable[["NodeRights", str, JsonObject], bool]

GUARDED = frozenset(
    {("", "nodes"), ("", "pods"), ("coordination.k8s.io", "leases"), ("", "serviceaccounts")}
)
"""What nodes may write as themselves alone, whatever the settings say."""


def node_user(node: str) -> str:
    """Return a node's name as a user."""
    return f"system:node:{node}"


@dataclass(frozen=True, slots=True)
class View:
    """How a node may read: through which client, and which objects; None: all that the client shows.

    Shape:  `is_pushed` says that what it shows is brought to the node unasked.
    """

    client: KubeClient
    shows: Shows | None = None
    is_pushed: bool = False

    def may_see(self, item: JsonObject) -> bool:
        return self.shows is None or self.shows(item)


class NodeRights:
    """Which objects a node has to do with. Answers from memory."""

    def __init__(self, pods: PodsOfNodes, catalog: Catalog) -> None:
        self._pods = pods
        self._catalog = catalog

    def shows(self, node: str, key: ApiKey) -> Shows | None:
        """Return what a node may see of a resource, None for nothing."""
        judge = _JUDGES.get((key.group, key.resource))
        return None if judge is None else lambda item: judge(self, node, item)

    def _is_bound_device(self, node: str, device: JsonObject) -> bool:
        return DeviceView.read(device).node == node

    def _is_model(self, node: str, model: JsonObject) -> bool:
        meta = ObjectMeta.read(model)
        return any(
            self._catalog.model_key(device) == meta.key for device in self._catalog.devices_of(node)
        )

    def _is_device_status(self, node: str, status: JsonObject) -> bool:
        meta = ObjectMeta.read(status)
        device = self._catalog.device(DeviceKey(meta.namespace, meta.name))
        return device is not None and device.node == node

    def names(self, node: str, kind: str, meta: ObjectMeta) -> bool:
        """True when a Pod of the node names the object."""
        return self._pods.uses(node, (kind, meta.name), meta.namespace)

    def _is_itself(self, node: str, item: JsonObject) -> bool:
        return ObjectMeta.read(item).name == node

    def _is_access(self, node: str, access: JsonObject) -> bool:
        meta = ObjectMeta.read(access)
        return (meta.namespace, meta.name) in self._pods.service_accounts(node)


def _named(kind: str) -> _Judge:
    return lambda rights, node, item: rights.names(node, kind, ObjectMeta.read(item))


def _anyone(_rights: NodeRights, _node: str, _item: JsonObject) -> bool:
    return True


_DEVICES = "devices.kubeedge.io"
_JUDGES: Mapping[tuple[str, str], _Judge] = {
    (_DEVICES, "devices"): NodeRights._is_bound_device,
    (_DEVICES, "devicemodels"): NodeRights._is_model,
    (_DEVICES, "devicestatuses"): NodeRights._is_device_status,
    ("", "configmaps"): _named("configmap"),
    ("", "secrets"): _named("secret"),
    ("", "persistentvolumeclaims"): _named("persistentvolumeclaim"),
    ("policy.kubeedge.io", "serviceaccountaccesses"): NodeRights._is_access,
    ("", "nodes"): NodeRights._is_itself,
    ("", "services"): _anyone,
    ("", "endpoints"): _anyone,
    ("discovery.k8s.io", "endpointslices"): _anyone,
}
_PUSHED = frozenset(
    {
        (_DEVICES, "devices"),
        (_DEVICES, "devicemodels"),
        ("", "configmaps"),
        ("", "secrets"),
        ("policy.kubeedge.io", "serviceaccountaccesses"),
    }
)


class Authorizer:
    """Calls the API for nodes."""

    def __init__(self, settings: Authorization, kube: KubeClient, rights: NodeRights) -> None:
        self._settings = settings
        self._kube = kube
        self._rights = rights

    @property
    def is_enabled(self) -> bool:
        """True where a node may do less than CloudCore."""
        return self._settings.enabled

    async def read(
        self, node: str, key: ApiKey, reading: Callable[[KubeClient], Awaitable[T]]
    ) -> tuple[T, View]:
        """Read for a node; show it only what the view lets it see.

        Errors: Forbidden for what the node has nothing to do with; those of the call.
        """
        if not self._settings.enabled:
            return await reading(self._kube), View(self._kube)
        own = self._acting(node)
        try:
            return await reading(own), View(own)
        except Forbidden as error:
            view = self._granted(node, key, error)
        return await reading(self._kube), view

    def _granted(self, node: str, key: ApiKey, error: Forbidden) -> View:
        """Return what our own rights may show. Errors: the refusal."""
        shows = None if key.raw else self._rights.shows(node, key)
        if shows is None:
            self._pass_or_raise(node, key, error)
            return View(self._kube)
        if self._settings.debug:
            return View(self._kube, partial(self._shows_with_remark, node, key, shows))
        return View(self._kube, shows, is_pushed=(key.group, key.resource) in _PUSHED)

    def _shows_with_remark(self, node: str, key: ApiKey, shows: Shows, item: JsonObject) -> bool:
        """Show everything, and log what a node has nothing to do with."""
        if not shows(item):
            meta = ObjectMeta.read(item)
            _remark(node, key, f"{meta.namespace}/{meta.name} has nothing to do with the node")
        return True

    async def write(
        self, node: str, key: ApiKey, writing: Callable[[KubeClient], Awaitable[T]]
    ) -> T:
        """Write for a node, in its name. Errors: Forbidden; those of the call."""
        is_guarded = (key.group, key.resource) in GUARDED
        if not self._settings.enabled and not is_guarded:
            return await writing(self._kube)
        try:
            return await writing(self._acting(node))
        except Forbidden as error:
            if is_guarded:
                raise
            self._pass_or_raise(node, key, error)
        return await writing(self._kube)

    def _pass_or_raise(self, node: str, key: ApiKey, error: Forbidden) -> None:
        if not self._settings.debug:
            raise error
        _remark(node, key, error.message)

    def _acting(self, node: str) -> KubeClient:
        return self._kube.acting_as(node_user(node), (NODES,))


def _remark(node: str, key: ApiKey, cause: str) -> None:
    facts = {"node": node, "resource": str(key)[:200], "cause": cause}
    log.warning("an edge's request would be refused (cloud.hub.authorization.debug)", extra=facts)
