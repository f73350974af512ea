"""What an edge node may not say: about its Node, about Pods that it makes, about other nodes' events. Pure.

The tenant of a node, and whatever else stands under `twinspan.io/`, is decided in the cloud. A mirror Pod may
name no Secret or other object: naming is what lets a node read them. Source: Kubernetes' NodeRestriction.
"""

from __future__ import annotations

from cloud.references import MIRROR, references
from gateway.errors import Forbidden
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text

CLOUD_DOMAINS = ("twinspan.io", "node-restriction.kubernetes.io")
"""Labels and annotations under these (and below them) are not the edge's."""
CLOUDCORE = "cloudcore"
"""Annotation of a Node: the address of the CloudCore that it is connected to."""
_IDENTITY = ("uid", "resourceVersion")


def own_words(words: Json) -> JsonObject:
    """Return the labels or annotations that an edge may set; removals and directives are left out."""
    return {
        key: value
        for key, value in mapping(words).items()
        if isinstance(value, str) and not _is_of_cloud(key)
    }


def _is_of_cloud(key: str) -> bool:
    if key == CLOUDCORE:
        return True
    domain, slash, _ = key.rpartition("/")
    return key.startswith("$") or (
        bool(slash) and any(domain == d or domain.endswith("." + d) for d in CLOUD_DOMAINS)
    )


def status_patch_of(node: str, patch: JsonObject) -> JsonObject:
    """Return a patch of the status, with what an edge may say beside it. Errors: Forbidden."""
    if not set(patch) <= {"metadata", "status"}:
        raise Forbidden(f"node {node} may patch the status alone")
    meta = mapping(patch.get("metadata"))
    kept: JsonObject = {key: meta[key] for key in _IDENTITY if isinstance(meta.get(key), str)}
    kept |= {key: own for key in ("labels", "annotations") if (own := own_words(meta.get(key)))}
    allowed: JsonObject = {"status": mapping(patch.get("status"))}
    return allowed | ({"metadata": kept} if kept else {})


def check_pod_of(node: str, pod: JsonObject) -> None:
    """Refuse Pods of other nodes. Errors: Forbidden."""
    meta = ObjectMeta.read(pod)
    if text(mapping(pod.get("spec")).get("nodeName")) != node:
        raise Forbidden(f"pod {meta.namespace}/{meta.name} is not of node {node}")


def check_mirror_pod(node: str, pod: JsonObject) -> None:
    """Refuse a new Pod that is no mirror of a static one, or that names other objects. Errors: Forbidden."""
    check_pod_of(node, pod)
    if MIRROR not in ObjectMeta.read(pod).annotations:
        raise Forbidden(f"node {node} may make mirror Pods alone (annotation {MIRROR})")
    named = references(pod)
    if named or mapping(pod.get("spec")).get("serviceAccountName"):
        what = ", ".join(sorted(f"{kind} {name}" for kind, name in named)) or "a ServiceAccount"
        raise Forbidden(f"a mirror Pod may not name {what}")


def event_from(node: str, event: JsonObject) -> JsonObject:
    """Return an event as this node's: its source says so, whatever was sent."""
    return {**event, "source": {**mapping(event.get("source")), "host": node}}


def check_event_of(node: str, event: JsonObject) -> None:
    """Refuse events that somebody else wrote. Errors: Forbidden."""
    if text(mapping(event.get("source")).get("host")) != node:
        meta = ObjectMeta.read(event)
        raise Forbidden(f"event {meta.namespace}/{meta.name} is not of node {node}")
