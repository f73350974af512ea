"""What an edge node may not say: about its Node, about Pods that it makes, about other nodes' events. Pure.

The tenant of a node, and whatever else stands under `twinspan.io/`, is decided in the cloud. A mirror Pod may
name no Secret or other object: naming is what lets a node read them. Source: Kubernetes' NodeRestriction.
"""

from __future__ import annotations

from collections.abc import Collection

from cloud.references import MIRROR, references
from gateway.errors import Forbidden
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text

CLOUD_DOMAINS = ("twinspan.io", "node-restriction.kubernetes.io")
"""Labels and annotations under these (and below them) are not the edge's."""
CLOUDCORE = "cloudcore"
"""Annotation of a Node: the address of the CloudCore that it is connected to."""
CERTIFICATE = "twinspan.io/certificate"
"""Annotation of a Node: the serial of the certificate with which it registered."""
REPLACED = "twinspan.io/replaced-by"
"""Annotation of a Node: serial and date (Unix seconds) of the certificate that replaced all before it."""
TUNNEL = "twinspan.io/tunnel-cloudcore"
"""Annotation of a Node: the address of the CloudCore that its stream tunnel is at."""
_IDENTITY = ("uid", "resourceVersion")
_WORDS = ("labels", "annotations")


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


def check_words(node: str, patch: Json) -> None:
    """Refuse a patch of a Node, of any kind, that may touch what the cloud says of it. Errors: Forbidden."""
    steps = patch if isinstance(patch, list) else None
    if _touches(patch) if steps is None else any(map(_may_touch, steps)):
        raise Forbidden(f"node {node} may not change what the cloud says of it")


def _touches(patch: Json) -> bool:
    """Judge a patch that is an object; directives of strategic patches go over more than they name."""
    if not isinstance(patch, dict):
        return True
    meta = patch.get("metadata", {})
    words = [meta.get(kind, {}) for kind in _WORDS] if isinstance(meta, dict) else [None]
    tables = [patch, meta, *words]
    return any(
        not isinstance(table, dict) or any(key.startswith("$") for key in table) for table in tables
    ) or any(isinstance(table, dict) and any(map(_is_of_cloud, table)) for table in words)


def _may_touch(step: Json) -> bool:
    """Judge one step of a JSON patch."""
    if not isinstance(step, dict):
        return True
    return any(_leads_to_words(step[name]) for name in ("path", "from") if name in step)


def _leads_to_words(pointer: Json) -> bool:
    if not isinstance(pointer, str):
        return True
    match pointer.split("/")[1:]:
        case [] | ["metadata"]:
            return True
        case ["metadata", kind, *rest] if kind.replace("~1", "/").replace("~0", "~") in _WORDS:
            return not rest or _is_of_cloud(rest[0].replace("~1", "/").replace("~0", "~"))
    return False


def check_same_words(node: str, new: JsonObject, old: JsonObject | None) -> None:
    """Refuse a whole Node that says of itself what the cloud does not. Errors: Forbidden."""
    if _cloud_words(new) != _cloud_words(old or {}):
        raise Forbidden(f"node {node} may not change what the cloud says of it")


def _cloud_words(item: JsonObject) -> list[JsonObject]:
    meta = mapping(item.get("metadata"))
    return [
        {key: value for key, value in mapping(meta.get(kind)).items() if _is_of_cloud(key)}
        for kind in _WORDS
    ]


def status_patch_of(node: str, patch: JsonObject, words: Collection[str] = _WORDS) -> JsonObject:
    """Return a patch of the status, with what an edge may say beside it. Errors: Forbidden.

    Shape:  `words` are labels and annotations; a Pod's labels are not its node's: Services choose by them.
    """
    if not set(patch) <= {"metadata", "status"}:
        raise Forbidden(f"node {node} may patch the status alone")
    meta = mapping(patch.get("metadata"))
    kept: JsonObject = {key: meta[key] for key in _IDENTITY if isinstance(meta.get(key), str)}
    kept |= {key: own for key in words if (own := own_words(meta.get(key)))}
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


def check_event_about(node: str, event: JsonObject, pod: JsonObject | None) -> None:
    """Refuse events about what is not this node's. Errors: Forbidden.

    Shape:  `pod` is the Pod of that name, None where it is gone: its last events may come after its end.
    """
    involved = mapping(event.get("involvedObject"))
    kind, name = text(involved.get("kind")), text(involved.get("name"))
    if kind == "Pod" and pod is not None:
        check_pod_of(node, pod)
    elif kind != "Pod" and (kind, name) != ("Node", node):
        raise Forbidden(f"node {node} may not tell of {kind[:50]} {name[:253]}")
