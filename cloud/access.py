"""ServiceAccountAccesses: what the accounts of edge Pods may do, brought to the nodes of those Pods.

The CloudCore that leads writes them from the cluster's RBAC; every CloudCore brings them to its nodes. A
MetaServer judges by them, also without a cloud. Where the cluster does not serve the kind, or keeps RBAC from
us, nodes keep what they have. Source: KubeEdge's policy controller.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cloud.accessrules import RBAC, access_spec
from cloud.nodepods import Need, NodePods
from cloud.syncbook import Held, SyncBook
from cloud.wanted import FIRST, WantedObject
from gateway.errors import GatewayError, NotFound
from gateway.kube.client import KubeClient
from gateway.kube.informer import Change, Informer, Key
from gateway.model.json import Json, JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import ObjectMeta, mapping
from gateway.wire.cloudedge.names import Source
from gateway.wire.kube.status import AlreadyExists

if TYPE_CHECKING:
    from cloud.delivery import Delivery
    from cloud.ports import Leadership

log = logging.getLogger(__name__)

POLICY = "policy.kubeedge.io/v1alpha1"
ACCESSES, KIND = "serviceaccountaccesses", "ServiceAccountAccess"
ACCOUNT = "serviceaccounttoken"
"""Type of the need of a Pod for its account."""
_RBAC_PLURALS = ("roles", "clusterroles", "rolebindings", "clusterrolebindings")
_ROLES = {"Role": "roles", "ClusterRole": "clusterroles"}


class Access:
    """Module: writes ServiceAccountAccesses; and what nodes should hold of them (`WantedObjects`)."""

    name = "cloud.access"

    def __init__(
        self,
        kube: KubeClient,
        pods: NodePods,
        book: SyncBook,
        delivery: Delivery,
        leadership: Leadership,
    ) -> None:
        self._kube = kube
        self._pods = pods
        self._book = book
        self._delivery = delivery
        self._leadership = leadership
        self._dirty: dict[Key, None] = {}
        self._nodes_of: dict[str, frozenset[Key]] = {}
        self._unread = 0
        self._is_known = False
        self._wake = asyncio.Event()
        self._rights = {plural: self._informer(RBAC, plural) for plural in _RBAC_PLURALS}
        self._accounts = Informer(
            kube, "v1", "serviceaccounts", self._account_changed, trim=_trimmed
        )
        self._accesses = Informer(kube, POLICY, ACCESSES, self._access_changed, is_needed=False)
        pods.on_need(self._need_changed)
        pods.on_change(self._node_changed)
        leadership.on_change(lambda _: self._mark_all())
        delivery.add(self)

    def _informer(self, group_version: str, plural: str) -> Informer:
        return Informer(
            self._kube, group_version, plural, lambda _: self._mark_all(), trim=_trimmed
        )

    # --- what nodes should hold ---------------------------------------------------------------

    def wanted(self, node: str) -> Iterator[WantedObject]:
        if not self._is_known:
            for held in self._book.held(node).values():
                if held.kind == KIND:
                    yield WantedObject(held, {}, Source.POLICY_CONTROLLER, is_known=False)
            return
        for need in self._pods.needs(node):
            item = self._accesses.objects.get((need.namespace, need.name))
            if need.type == ACCOUNT and item is not None:
                yield _wanted(item)

    def _access_changed(self, change: Change) -> None:
        self._mark(change.key)
        self._delivery.changed(self._users(change.key))

    def _users(self, key: Key) -> list[str]:
        return self._pods.users(Need(ACCOUNT, *key))

    # --- what is to be looked at ----------------------------------------------------------------

    def _account_changed(self, change: Change) -> None:
        self._mark(change.key)

    def _need_changed(self, need: Need) -> None:
        if need.type == ACCOUNT:
            self._mark((need.namespace, need.name))

    def _node_changed(self, node: str) -> None:
        before = self._nodes_of.pop(node, frozenset())
        after = self._pods.service_accounts(node)
        if after:
            self._nodes_of[node] = after
        for key in before ^ after:
            self._mark(key)

    def _mark(self, key: Key) -> None:
        self._dirty[key] = None
        self._wake.set()

    def _mark_all(self) -> None:
        """Look at all accounts that are needed, and at all that were."""
        for keys in self._nodes_of.values():
            self._dirty.update(dict.fromkeys(keys))
        self._dirty.update(dict.fromkeys(self._accesses.objects))
        self._wake.set()

    # --- module ---------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        """Work once RBAC and the accesses are known; starting waits for neither."""
        informers = [*self._rights.values(), self._accounts, self._accesses]
        self._unread = len(informers)
        async with asyncio.TaskGroup() as group:
            for informer in informers:
                group.create_task(informer.run(_once(self._read)))
            ready()
            backoff = Backoff(0.5, 30.0)
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._unread or not self._leadership.leads or await self._write_all():
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.next())
                    self._wake.set()

    def _read(self) -> None:
        self._unread -= 1
        if not self._unread:
            self._is_known = True
            self._mark_all()
            self._delivery.changed(self._nodes_of)

    async def _write_all(self) -> bool:
        while self._dirty:
            key = next(iter(self._dirty))
            del self._dirty[key]
            try:
                await self._write(key)
            except GatewayError as error:
                self._dirty[key] = None
                facts = {"account": f"{key[0]}/{key[1]}", "cause": error.message}
                log.info("rights of an account not written", extra=facts)
                return False
        return True

    async def _write(self, key: Key) -> None:
        namespace, name = key
        account, users = self._accounts.objects.get(key), sorted(self._users(key))
        if account is None or not users:
            await self._delete(key)
            return
        spec = access_spec(
            account,
            self._rights["rolebindings"].objects.values(),
            self._rights["clusterrolebindings"].objects.values(),
            self._find_role,
        )
        stored = self._accesses.objects.get(key)
        if stored is None:
            stored = await self._create(namespace, name, spec)
        elif stored.get("spec") != spec:
            changed: JsonObject = {**stored, "spec": spec}
            stored = await self._kube.update(POLICY, ACCESSES, namespace, changed)
        nodes: list[Json] = [*users]
        if mapping(stored.get("status")).get("nodeList") != nodes:
            patch: JsonObject = {"status": {"nodeList": nodes}}
            await self._kube.patch(POLICY, ACCESSES, namespace, name, patch, subresource="status")

    async def _create(self, namespace: str, name: str, spec: JsonObject) -> JsonObject:
        meta: JsonObject = {"name": name, "namespace": namespace}
        body: JsonObject = {"apiVersion": POLICY, "kind": KIND, "metadata": meta, "spec": spec}
        try:
            return await self._kube.create(POLICY, ACCESSES, namespace, body)
        except AlreadyExists:  # the mirror is behind, and brings it
            return await self._kube.get(POLICY, ACCESSES, namespace, name)

    async def _delete(self, key: Key) -> None:
        if key not in self._accesses.objects:
            return
        try:
            await self._kube.delete(POLICY, ACCESSES, *key)
        except NotFound:
            return

    def _find_role(self, kind: str, namespace: str, name: str) -> JsonObject | None:
        plural = _ROLES.get(kind)
        place = namespace if kind == "Role" else ""
        return None if plural is None else self._rights[plural].objects.get((place, name))


_KEPT = ("rules", "roleRef", "subjects")


def _trimmed(item: JsonObject) -> JsonObject:
    """Keep of an account, role or binding what rights are made of."""
    meta = mapping(item.get("metadata"))
    kept: JsonObject = {
        key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in meta
    }
    return {"metadata": kept, **{key: item[key] for key in _KEPT if key in item}}


def _once(tell: Callable[[], None]) -> Callable[[], None]:
    """Return what tells the first time alone: a watch is ready anew after each list."""
    told: list[bool] = []

    def telling() -> None:
        if not told:
            told.append(True)
            tell()

    return telling


def _wanted(item: JsonObject) -> WantedObject:
    meta = ObjectMeta.read(item)
    held = Held(meta.uid, POLICY, KIND, meta.namespace, meta.name, meta.version)
    return WantedObject(held, item, Source.POLICY_CONTROLLER, rank=FIRST, finish=_named)


def _named(item: JsonObject) -> JsonObject:
    return {"apiVersion": POLICY, "kind": KIND, **item}
