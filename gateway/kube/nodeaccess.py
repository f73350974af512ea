"""What a node may read and write: its own Node and Lease, and what the Pods bound to it name.

The index of Pods follows each change; it is read when a node first asks. What is written is judged a second
time, by its contents, in `gateway.kube.noderestriction`.
Source: Kubernetes "Using Node Authorization" (with field selectors, as since 1.32).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.kube.auth import NODES, Access, User
from gateway.kube.authorizer import ALLOWED, NO_OPINION, Decision, Held
from gateway.kube.client import EventType
from gateway.kube.storage import Storage
from gateway.kube.strategies import table
from gateway.kube.watch import Change, Key, Stored
from gateway.wire.kube.podrefs import Reference, node_of, pod_references
from gateway.wire.kube.rules import Rule

PREFIX = "system:node:"
LEASES = "kube-node-lease"
READ = ("get", "list", "watch")
OWN_VERBS = ("get", "create", "update", "patch", "delete")

RULES = (
    Rule(("create",), ("authentication.k8s.io",), ("tokenreviews",)),
    Rule(("create",), ("authorization.k8s.io",), ("subjectaccessreviews", "localsubjectaccessreviews")),
    Rule(READ, ("",), ("services",)),
    Rule(("create", "update", "patch"), ("", "events.k8s.io"), ("events",)),
    Rule(("get",), ("",), ("endpoints",)),
    Rule(("create", *READ), ("certificates.k8s.io",), ("certificatesigningrequests",)),
    Rule(READ, ("storage.k8s.io",), ("csidrivers",)),
    Rule(READ, ("node.k8s.io",), ("runtimeclasses",)),
)  # fmt: skip
"""What is the same for every node."""


def node_name(user: User) -> str | None:
    """Return the node that a user is, by group and name; None for who is none, "" for one without name."""
    if NODES not in user.groups or not user.name.startswith(PREFIX):
        return None
    return user.name.removeprefix(PREFIX)


@dataclass(frozen=True, slots=True)
class _Bound:
    node: str
    references: frozenset[Reference]


class PodIndex:
    """Which node has to do with what, by the Pods that are bound to it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._is_read = False
        self._pods: dict[Key, _Bound] = {}
        self._users: dict[Key, Counter[str]] = {}
        storage.listen(self._on_change)

    def uses(self, node: str, plural: str, namespace: str, name: str) -> bool:
        """True when a Pod of the node names the object, or is it."""
        self._read()
        if plural == "pods":
            bound = self._pods.get(Key("pods", namespace, name))
            return bound is not None and bound.node == node
        return self._users.get(Key(plural, namespace, name), _NOBODY)[node] > 0

    def _read(self) -> None:
        if not self._is_read:
            self._is_read = True
            for stored in self._storage.all("pods"):
                self._put(stored)

    def _on_change(self, change: Change) -> None:
        if not self._is_read or change.after.key.kind != "pods":
            return
        if change.type is EventType.DELETED:
            self._drop(change.after.key)
        else:
            self._put(change.after)

    def _put(self, stored: Stored) -> None:
        pod = stored.object
        node = node_of(pod)
        bound = _Bound(node, pod_references(pod)) if node else None
        if self._pods.get(stored.key) == bound:
            return
        self._drop(stored.key)
        if bound is None:
            return
        self._pods[stored.key] = bound
        for plural, name in bound.references:
            self._users.setdefault(Key(plural, stored.key.namespace, name), Counter())[node] += 1

    def _drop(self, key: Key) -> None:
        bound = self._pods.pop(key, None)
        for plural, name in bound.references if bound else ():
            place = Key(plural, key.namespace, name)
            users = self._users[place]
            users[bound.node if bound else ""] -= 1
            if not +users:
                del self._users[place]


_NOBODY: Counter[str] = Counter()
_Judge = Callable[["NodeAccess", str, Access], Decision]


class NodeAccess:
    """Judge of requests that nodes make; has no opinion on others."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.pods = PodIndex(storage)

    def decide(self, user: User, access: Access) -> Decision:
        node = node_name(user)
        if node is None:
            return NO_OPINION
        if not node:
            return Decision(False, f'unknown node for user "{user.name}"')
        judge = _JUDGES.get((access.group, access.resource))
        if judge is not None:
            return judge(self, node, access)
        fits = any(
            rule.allows(access.verb, access.group, access.resource, access.subresource, access.name)
            for rule in RULES
        )
        return ALLOWED if fits and access.resource else NO_OPINION

    def held(self, user: User, namespace: str) -> Held:  # noqa: ARG002  not said as rules
        if node_name(user) is None:
            return Held()
        fault = "node authorizer does not support user rule resolution"
        return Held(faults=(fault,), incomplete=True)

    # --- one judge for each kind ------------------------------------------------------------------

    def _related(self, node: str, access: Access) -> Decision:
        if not access.name:
            return Decision(False, "No Object name found")
        if self.pods.uses(node, access.resource, access.namespace, access.name):
            return ALLOWED
        return _no_relationship(node)

    def _readable(self, node: str, access: Access) -> Decision:
        if access.verb not in READ:
            return Decision(False, "can only read resources of this type")
        if access.subresource:
            return Decision(False, "cannot read subresource")
        if not access.namespace:
            return Decision(False, "can only read namespaced object of this type")
        return self._related(node, access)

    def _claim(self, node: str, access: Access) -> Decision:
        if access.subresource == "status":
            if access.verb not in ("update", "patch"):
                return Decision(False, "can only get/update/patch this type")
            return self._related(node, access)
        return _get_alone(access) or self._related(node, access)

    def _volume(self, node: str, access: Access) -> Decision:
        refused = _get_alone(access)
        if refused:
            return refused
        if not access.name:
            return Decision(False, "No Object name found")
        volume = self._storage.get(Key("persistentvolumes", "", access.name))
        claim = table(table(volume.object, "spec"), "claimRef") if volume else {}
        namespace, name = str(claim.get("namespace") or ""), str(claim.get("name") or "")
        is_used = self.pods.uses(node, "persistentvolumeclaims", namespace, name)
        return ALLOWED if is_used else _no_relationship(node)

    def _attachment(self, node: str, access: Access) -> Decision:
        refused = _get_alone(access)
        if refused:
            return refused
        found = self._storage.get(Key("volumeattachments.storage.k8s.io", "", access.name))
        is_own = found is not None and table(found.object, "spec").get("nodeName") == node
        return ALLOWED if is_own else _no_relationship(node)

    def _account(self, node: str, access: Access) -> Decision:
        if access.verb == "get" and not access.subresource:
            return self._readable(node, access)
        if access.verb != "create" or not access.name:
            return Decision(False, "can only create tokens for individual service accounts")
        if access.subresource != "token":
            return Decision(False, "can only create token subresource of serviceaccount")
        return self._related(node, access)

    def _lease(self, node: str, access: Access) -> Decision:
        if access.verb not in OWN_VERBS:
            why = "can only get, create, update, patch, or delete a node lease"
            return Decision(False, why)
        if access.namespace != LEASES:
            return Decision(False, f'can only access leases in the "{LEASES}" system namespace')
        if access.verb != "create" and access.name != node:
            why = "can only access node lease with the same name as the requesting node"
            return Decision(False, why)
        return ALLOWED

    def _storage_node(self, node: str, access: Access) -> Decision:
        if access.verb not in OWN_VERBS:
            return Decision(False, "can only get, create, update, patch, or delete a CSINode")
        if access.subresource:
            return Decision(False, "cannot authorize CSINode subresources")
        if access.verb != "create" and access.name != node:
            return Decision(
                False, "can only access CSINode with the same name as the requesting node"
            )
        return ALLOWED

    def _node(self, node: str, access: Access) -> Decision:
        if access.subresource == "status":
            return ALLOWED if access.verb in ("update", "patch") else NO_OPINION
        if access.subresource:
            return NO_OPINION
        if access.verb in ("create", "update", "patch"):
            return ALLOWED
        if access.verb not in READ:
            return NO_OPINION
        if access.name == node:
            return ALLOWED
        what = f"'{access.name}'" if access.name else "all nodes"
        return Decision(False, f"node '{node}' cannot read {what}, only its own Node object")

    def _pod(self, node: str, access: Access) -> Decision:
        if access.subresource:
            verbs = _POD_PARTS.get(access.subresource, ())
            return ALLOWED if access.verb in verbs else NO_OPINION
        if access.verb in ("create", "delete"):
            return ALLOWED
        if access.verb not in READ:
            return NO_OPINION
        if access.verb != "get" and ("spec.nodeName", node) in access.fields:
            return ALLOWED
        if access.verb == "get" or access.name:
            return self._related(node, access)
        return Decision(False, "can only list/watch pods with spec.nodeName field selector")


_POD_PARTS: Mapping[str, tuple[str, ...]] = {"status": ("update", "patch"), "eviction": ("create",)}


def _get_alone(access: Access) -> Decision | None:
    if access.verb != "get":
        return Decision(False, "can only get individual resources of this type")
    return Decision(False, "cannot get subresource") if access.subresource else None


def _no_relationship(node: str) -> Decision:
    return Decision(False, f"no relationship found between node '{node}' and this object")


_JUDGES: Mapping[tuple[str, str], _Judge] = {
    ("", "secrets"): NodeAccess._readable,
    ("", "configmaps"): NodeAccess._readable,
    ("", "persistentvolumeclaims"): NodeAccess._claim,
    ("", "persistentvolumes"): NodeAccess._volume,
    ("storage.k8s.io", "volumeattachments"): NodeAccess._attachment,
    ("", "serviceaccounts"): NodeAccess._account,
    ("coordination.k8s.io", "leases"): NodeAccess._lease,
    ("storage.k8s.io", "csinodes"): NodeAccess._storage_node,
    ("", "nodes"): NodeAccess._node,
    ("", "pods"): NodeAccess._pod,
}
