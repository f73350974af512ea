"""Pods from templates: what a controller makes of `spec.template`, and the short name of a template.

Source: Kubernetes API `PodTemplateSpec`; "Deployment", the label pod-template-hash.
"""

from __future__ import annotations

import json
from copy import deepcopy

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import MAX_SUBDOMAIN
from gateway.wire.kube.parts import part

_SAFE = "bcdfghjklmnpqrstvwxz2456789"
"""Letters that make no words."""
_FNV_BASIS, _FNV_PRIME = 2_166_136_261, 16_777_619


def owner_reference(group_version: str, kind: str, owner: JsonObject) -> JsonObject:
    """Return the reference that says that `owner` manages an object."""
    meta = part(owner, "metadata")
    return {
        "apiVersion": group_version,
        "kind": kind,
        "name": meta.get("name"),
        "uid": meta.get("uid"),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def pod_from(template: JsonObject, owner: JsonObject, reference: JsonObject) -> JsonObject:
    """Return a new Pod of `owner` by this template; the server completes its name."""
    said = part(template, "metadata")
    metadata: JsonObject = {
        key: deepcopy(said[key]) for key in ("labels", "annotations", "finalizers") if said.get(key)
    }
    metadata["generateName"] = name_prefix(str(part(owner, "metadata").get("name") or ""))
    metadata["ownerReferences"] = [reference]
    spec = deepcopy(part(template, "spec"))
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def name_prefix(name: str) -> str:
    """Return what the names of an owner's Pods begin with."""
    return f"{name}-" if len(name) < MAX_SUBDOMAIN else name


def template_hash(template: JsonObject, collisions: int | None = None) -> str:
    """Return a short name of a template, the same for equal ones; `collisions` gives it another one."""
    said = json.dumps(template, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    more = b"" if collisions is None else collisions.to_bytes(8, "little", signed=True)
    return safe_text(str(fnv32a(said.encode() + more)))


def fnv32a(data: bytes) -> int:
    """Return the FNV-1a hash, 32 bits."""
    value = _FNV_BASIS
    for byte in data:
        value = (value ^ byte) * _FNV_PRIME & 0xFFFF_FFFF
    return value


def safe_text(said: str) -> str:
    """Write a text with letters that are allowed in names and make no words."""
    return "".join(_SAFE[ord(letter) % len(_SAFE)] for letter in said)


def without_label(template: JsonObject, label: str) -> JsonObject:
    """Return a template as it is without a label: two that differ in it alone are the same template."""
    metadata = dict(part(template, "metadata"))
    labels: dict[str, Json] = dict(part(metadata, "labels"))
    labels.pop(label, None)
    metadata["labels"] = labels
    if not labels:
        del metadata["labels"]
    return {**template, "metadata": metadata}
