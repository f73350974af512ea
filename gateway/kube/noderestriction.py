"""What a node may write, judged by contents: its own Node, Lease and Pods' status, mirror Pods, its tokens.

What the Node authorizer cannot see in a request line. Source: Kubernetes "NodeRestriction".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.kube.hooks import Write
from gateway.kube.nodeaccess import LEASES, PREFIX, node_name
from gateway.kube.storage import Storage
from gateway.kube.strategies import table
from gateway.kube.watch import Key
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import quoted
from gateway.wire.kube.podrefs import MIRROR, pod_references
from gateway.wire.kube.requestfiles import read_request
from gateway.wire.kube.status import forbidden, not_found

RESTRICTED = "node-restriction.kubernetes.io"
_OWN_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
    }
)
_OWN_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
_KUBERNETES = ("kubernetes.io", "k8s.io")
_NODE_SIGNERS = frozenset(
    {"kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"}
)


class NodeRestriction:
    """Guard of what nodes write. Raises Forbidden with the text of a real server."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __call__(self, write: Write) -> None:
        """Judge an object as it would be stored. Errors: Forbidden."""
        node = None if write.user is None else node_name(write.user)
        if node is None:
            return
        kind = write.resource.storage_key
        judge = _JUDGES.get(kind)
        if judge is None:
            return
        why = judge(self, node, write) if node else _unknown(write)
        if why:
            raise forbidden(write.resource.plural, write.resource.group, write.name, why)

    # --- one judge for each kind ------------------------------------------------------------------

    def _node(self, node: str, write: Write) -> str:
        if write.name != node:
            return f"node {quoted(node)} is not allowed to modify node {quoted(write.name)}"
        spec, old_spec = table(write.item, "spec"), table(write.old or {}, "spec")
        if write.old is None:
            if spec.get("configSource") is not None:
                return (
                    f"node {quoted(node)} is not allowed to create pods with a non-nil configSource"
                )
            bad = _forbidden_labels(write.item, {})
            head = f"node {quoted(node)} is not allowed to set the following labels"
            return f"{head}: {', '.join(bad)}" if bad else ""
        wanted = spec.get("configSource")
        if wanted is not None and wanted != old_spec.get("configSource"):
            return f"node {quoted(node)} is not allowed to update configSource to a new non-nil configSource"
        if (spec.get("taints") or []) != (old_spec.get("taints") or []):
            return f"node {quoted(node)} is not allowed to modify taints"
        if _owners(write.item) != _owners(write.old):
            return f"node {quoted(node)} is not allowed to modify ownerReferences"
        bad = _forbidden_labels(write.item, write.old)
        return f"is not allowed to modify labels: {', '.join(bad)}" if bad else ""

    def _lease(self, node: str, write: Write) -> str:
        if write.namespace != LEASES:
            return f'can only access leases in the "{LEASES}" system namespace'
        if write.name != node:
            return "can only access node lease with the same name as the requesting node"
        return ""

    def _storage_node(self, node: str, write: Write) -> str:
        if write.name == node:
            return ""
        return "can only access CSINode with the same name as the requesting node"

    def _pod(self, node: str, write: Write) -> str:
        if write.part == "status" and write.old is not None:
            return self._pod_status(node, write.item, write.old)
        if write.part is not None:
            return (
                f"unexpected pod subresource {quoted(write.part)}, only 'status' and 'eviction'"
                " are allowed"
            )
        if write.old is None:
            return self._mirror_pod(node, write.item)
        what = f'unexpected operation "UPDATE", node {quoted(node)}'
        return f"{what} can only create and delete mirror pods"

    def _pod_status(self, node: str, pod: JsonObject, old: JsonObject) -> str:
        if table(old, "spec").get("nodeName") != node:
            what = f"node {quoted(node)} can only update pod status for pods"
            return f"{what} with spec.nodeName set to itself"
        if table(table(pod, "metadata"), "labels") != table(table(old, "metadata"), "labels"):
            return f"node {quoted(node)} cannot update labels through pod status"
        claims = "resourceClaimStatuses"
        if table(pod, "status").get(claims) != table(old, "status").get(claims):
            return f"node {quoted(node)} cannot update resource claim statues"
        return ""

    def _mirror_pod(self, node: str, pod: JsonObject) -> str:
        metadata, who = table(pod, "metadata"), f"node {quoted(node)}"
        if MIRROR not in table(metadata, "annotations"):
            return (
                f"pod does not have {quoted(MIRROR)} annotation, {who} can only create mirror pods"
            )
        if table(pod, "spec").get("nodeName") != node:
            return f"{who} can only create pods with spec.nodeName set to itself"
        owners = _owners(pod)
        if len(owners) > 1:
            return f"{who} can only create pods with a single owner reference set to itself"
        owner = owners[0] if owners else {}
        if (owner.get("apiVersion"), owner.get("kind"), owner.get("name")) != ("v1", "Node", node):
            return f"{who} can only create pods with an owner reference set to itself"
        if owner.get("controller") is not True:
            return f"{who} can only create pods with a controller owner reference set to itself"
        if owner.get("blockOwnerDeletion") is True:
            return f"{who} must not set blockOwnerDeletion on an owner reference"
        stored = self._storage.get(Key("nodes", "", node))
        if stored is None:
            raise not_found("nodes", "", node)
        uid = table(stored.object, "metadata").get("uid")
        if owner.get("uid") != uid:
            return f"node {node} UID mismatch: expected {owner.get('uid')} got {uid}"
        plain: JsonObject = {**pod, "metadata": {"name": metadata.get("name")}}
        named = sorted({plural for plural, _ in pod_references(plain)})
        return f"{who} can not create pods that reference {named[0]}" if named else ""

    def _claim(self, node: str, write: Write) -> str:
        if write.part != "status" or write.old is None:
            return "may only update PVC status"
        if _without_size(write.item) == _without_size(write.old):
            return ""
        what = "is not allowed to update fields other than status.quantity and status.conditions"
        return f"node {quoted(node)} {what}"

    def _request(self, node: str, write: Write) -> str:
        spec = table(write.item, "spec")
        if write.old is not None or spec.get("signerName") not in _NODE_SIGNERS:
            return ""
        try:
            request = read_request(spec.get("request"))
        except ValueError as error:
            return f"unable to parse csr: {error}"
        if request.common_name != PREFIX + node:
            return f"can only create a node CSR with CN={PREFIX}{node}"
        return ""

    # --- what is no write of an object ------------------------------------------------------------

    def check_removal(self, node: str, plural: str, namespace: str, name: str) -> None:
        """Judge a deletion or eviction by a node. Errors: Forbidden; NotFound."""
        if plural == "nodes" and name != node:
            why = f"node {quoted(node)} is not allowed to modify node {quoted(name)}"
            raise forbidden("nodes", "", name, why)
        if plural != "pods":
            return
        stored = self._storage.get(Key("pods", namespace, name))
        if stored is None:
            raise not_found("pods", "", name)
        if table(stored.object, "spec").get("nodeName") != node:
            why = f"node {quoted(node)} can only delete pods with spec.nodeName set to itself"
            raise forbidden("pods", "", name, why)

    def check_token(self, node: str, namespace: str, name: str, body: JsonObject) -> None:
        """Judge a node's request for an account's token. Errors: Forbidden; NotFound."""
        reference = table(table(body, "spec"), "boundObjectRef")
        why = self._token(node, namespace, reference, table(body, "spec"))
        if why:
            raise forbidden("serviceaccounts", "", name, why)

    def _token(self, node: str, namespace: str, reference: JsonObject, spec: JsonObject) -> str:
        pod = str(reference.get("name") or "")
        if reference.get("apiVersion") != "v1" or reference.get("kind") != "Pod" or not pod:
            return "node requested token not bound to a pod"
        if not reference.get("uid"):
            return "node requested token with a pod binding without a uid"
        stored = self._storage.get(Key("pods", namespace, pod))
        if stored is None:
            raise not_found("pods", "", pod)
        if table(stored.object, "metadata").get("uid") != reference.get("uid"):
            return (
                f"the UID in the bound object reference ({reference.get('uid')}) does not match the UID"
                " in record. The object might have been deleted and then recreated"
            )
        if table(stored.object, "spec").get("nodeName") != node:
            return "node requested token bound to a pod scheduled on a different node"
        audiences = spec.get("audiences")
        asked = audiences if isinstance(audiences, list) else []
        if len(asked) > 1:
            return "node may only request 0 or 1 audiences"
        wanted = str(asked[0]) if asked else ""
        if not wanted or wanted in _audiences(stored.object):
            return ""
        return (
            f"audience {quoted(wanted)} not found in pod spec volume, {PREFIX}{node} is not authorized"
            " to request tokens for this audience"
        )


_JUDGES: Mapping[str, Callable[[NodeRestriction, str, Write], str]] = {
    "nodes": NodeRestriction._node,
    "pods": NodeRestriction._pod,
    "persistentvolumeclaims": NodeRestriction._claim,
    "leases.coordination.k8s.io": NodeRestriction._lease,
    "csinodes.storage.k8s.io": NodeRestriction._storage_node,
    "certificatesigningrequests.certificates.k8s.io": NodeRestriction._request,
}

RESTRICTED_KINDS = tuple(_JUDGES)


def _unknown(write: Write) -> str:
    name = write.user.name if write.user else ""
    return f"could not determine node from user {quoted(name)}"


def _owners(item: JsonObject) -> list[JsonObject]:
    found = table(item, "metadata").get("ownerReferences")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _forbidden_labels(item: JsonObject, old: JsonObject) -> list[str]:
    labels = table(table(item, "metadata"), "labels")
    before = table(table(old, "metadata"), "labels")
    touched = {key for key in {*labels, *before} if labels.get(key) != before.get(key)}
    return sorted(key for key in touched if not _may_set(key))


def _may_set(key: str) -> bool:
    domain, slash, _ = key.partition("/")
    if not slash:
        return True
    if _is_below(domain, (RESTRICTED,)):
        return False
    return (
        not _is_below(domain, _KUBERNETES) or key in _OWN_LABELS or _is_below(domain, _OWN_DOMAINS)
    )


def _is_below(domain: str, roots: tuple[str, ...]) -> bool:
    return any(domain == root or domain.endswith("." + root) for root in roots)


_SIZES = ("capacity", "conditions", "allocatedResourceStatuses", "allocatedResources")
_STAMPS = ("resourceVersion", "managedFields")


def _without_size(claim: JsonObject) -> JsonObject:
    status = {key: each for key, each in table(claim, "status").items() if key not in _SIZES}
    meta = {key: each for key, each in table(claim, "metadata").items() if key not in _STAMPS}
    return {**claim, "metadata": meta, "status": status}


def _audiences(pod: JsonObject) -> set[str]:
    """The audiences of tokens that a Pod's volumes ask for."""
    volumes = table(pod, "spec").get("volumes")
    found: set[str] = set()
    for volume in volumes if isinstance(volumes, list) else []:
        sources: Json = (
            table(volume, "projected").get("sources") if isinstance(volume, dict) else None
        )
        for source in sources if isinstance(sources, list) else []:
            if isinstance(source, dict) and "serviceAccountToken" in source:
                found.add(str(table(source, "serviceAccountToken").get("audience") or ""))
    return found
