"""Pods in files of this node: from a text to a Pod that is complete and judged. Pure.

Such a Pod names nothing of the API: it has to run without. Its uid comes from what the file says, so a
changed file is another Pod. Source: Kubernetes, "Create static Pods"; behaviour of kubelet 1.36.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec
import yaml

from edge.pods.podspec import CONFIG_HASH, CONFIG_MIRROR, CONFIG_SOURCE, FILE, Pod, read_pod
from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject, nests_within
from gateway.wire.kube.names import metadata_faults, subdomain_fault
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.podrefs import pod_references
from gateway.wire.kube.pods import pod_faults, prepare_pod
from gateway.wire.kube.validate import canonical

CONFIG_SEEN = "kubernetes.io/config.seen"
MAX_BYTES = 1_048_576
MAX_DEPTH = 64
UID_DIGITS = 32
_LASTING: JsonObject = {"operator": "Exists", "effect": "NoExecute"}
_VOLUMES = {
    "configMap": "configmaps (via configmap volumes)",
    "secret": "secrets (via secret volumes)",
    "csi": "csidrivers (via CSI volumes)",
    "glusterfs": "endpoints (via glusterFS volumes)",
    "persistentVolumeClaim": "persistentvolumeclaims",
    "ephemeral": "persistentvolumeclaims (via ephemeral volumes)",
    "azureFile": "secrets (via azureFile volumes)",
}
_PROJECTED = {
    "configMap": "configmaps (via projected volumes)",
    "secret": "secrets (via projected volumes)",
    "serviceAccountToken": "serviceaccounts (via projected volumes)",
    "clusterTrustBundle": "clustertrustbundles",
    "podCertificate": "podcertificates",
}


class _Loader(yaml.SafeLoader):
    """Without aliases: a small text must not become a large object."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not taken")
        return super().compose_node(parent, index)


def read_manifest(data: bytes, node: str, source: str, seen: str) -> Pod:
    """Read a file's Pod, JSON or YAML, as this node runs it.

    Shape:  the name gets the node's behind it; `source` is the file's path, `seen` when it was read first.
    Errors: BadRequest, naming what is wrong.
    """
    item = _document(data)
    if item.get("kind") != "Pod" or item.get("apiVersion") != "v1":
        raise BadRequest(f"expected a Pod of v1, got {_kind(item)}")
    meta = part(item, "metadata")
    if not text(meta.get("name")):
        raise BadRequest("invalid pod: name is needed for the pod")
    foreign = next(_references(item), "")
    if foreign:
        raise BadRequest(f"static pods may not reference {foreign}")
    return _judged(_complete(item, node, source, seen))


def _document(data: bytes) -> JsonObject:
    if len(data) > MAX_BYTES:
        raise BadRequest(f"a manifest of more than {MAX_BYTES} bytes")
    try:
        found = [each for each in yaml.load_all(data, _Loader) if each is not None]
        plain = [msgspec.json.decode(msgspec.json.encode(each)) for each in found]
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError) as error:
        raise BadRequest(f"couldn't parse as pod: {str(error)[:500]}") from error
    if len(plain) != 1 or not isinstance(plain[0], dict):
        raise BadRequest("couldn't parse as pod: expected one object")
    item: JsonObject = plain[0]
    if not nests_within(item, MAX_DEPTH):
        raise BadRequest(f"couldn't parse as pod: deeper than {MAX_DEPTH} levels")
    return item


def _kind(item: JsonObject) -> str:
    return f"{text(item.get('kind'))[:50] or 'nothing'} of {text(item.get('apiVersion'))[:50] or 'nothing'}"


def _complete(item: JsonObject, node: str, source: str, seen: str) -> JsonObject:
    meta, spec = part(item, "metadata"), part(item, "spec")
    uid = text(meta.get("uid")) or _uid(item, node, source)
    annotations: JsonObject = {
        **part(meta, "annotations"),
        CONFIG_HASH: uid,
        CONFIG_SOURCE: FILE,
        CONFIG_SEEN: seen,
    }
    annotations.pop(CONFIG_MIRROR, None)
    tolerations: list[Json] = [each for each in rows(spec.get("tolerations")) if each != _LASTING]
    whole: JsonObject = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **meta,
            "name": f"{text(meta.get('name'))}-{node.lower()}",
            "namespace": text(meta.get("namespace")) or "default",
            "uid": uid,
            "annotations": {**annotations, CONFIG_MIRROR: uid},
        },
        "spec": {**spec, "nodeName": node, "tolerations": [*tolerations, dict(_LASTING)]},
    }
    try:
        prepare_pod(whole, None)  # as a mirror: it has no account
    except (TypeError, AttributeError, ValueError) as error:
        raise BadRequest(f"invalid pod: {error}") from error
    whole["metadata"] = {**part(whole, "metadata"), "annotations": annotations}
    whole["status"] = {**part(whole, "status"), "phase": "Pending"}
    return whole


def _uid(item: JsonObject, node: str, source: str) -> str:
    told = b"\0".join((canonical(item), f"host:{node}".encode(), f"file:{source}".encode()))
    return hashlib.sha256(told).hexdigest()[:UID_DIGITS]


def _judged(item: JsonObject) -> Pod:
    found = [*metadata_faults(part(item, "metadata"), subdomain_fault), *pod_faults(item, None)]
    if found:
        told = ", ".join(f"{cause.field}: {cause.message}" for cause in found[:5])
        raise BadRequest(f"invalid pod: [{told}]")
    return read_pod(item)


def _references(item: JsonObject) -> Iterator[str]:
    """Yield what of the API a Pod names, in the words of the kubelet."""
    spec = part(item, "spec")
    if spec.get("serviceAccountName") or spec.get("serviceAccount"):
        yield "serviceaccounts"
    volumeless: JsonObject = {k: v for k, v in spec.items() if k != "volumes"}
    for kind, _ in sorted(pod_references({"spec": volumeless}), reverse=True):
        yield kind
    if spec.get("resourceClaims"):
        yield "resourceclaims"
    for volume in rows(spec.get("volumes")):
        yield from (told for key, told in _VOLUMES.items() if volume.get(key) is not None)
        for source in rows(part(volume, "projected").get("sources")):
            yield from (told for key, told in _PROJECTED.items() if source.get(key) is not None)


def mirror_of(pod: Pod, node: str, node_uid: str) -> JsonObject:
    """Return a static Pod's picture for the API; it goes with its Node where that is known."""
    meta = {k: v for k, v in part(pod.raw, "metadata").items() if k != "uid"}
    annotations: JsonObject = {**part(meta, "annotations"), CONFIG_MIRROR: hash_of(pod)}
    owners: list[Json] = []
    if node_uid:
        owners.append(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "name": node,
                "uid": node_uid,
                "controller": True,
            }
        )
    metadata: JsonObject = {**meta, "annotations": annotations}
    metadata |= {"ownerReferences": owners} if owners else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": part(pod.raw, "spec"),
    }


def hash_of(pod: Pod) -> str:
    """Return the hash of the file that a static Pod is from."""
    return pod.meta.annotations.get(CONFIG_HASH, "")
