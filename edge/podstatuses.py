"""A Pod as this node knows it: what the cloud told, with the newest status that the node has of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, text

KEPT = "podstatus"
"""Type of the rows in which the newest status of each Pod is kept on disk."""
MIRROR = "kubernetes.io/config.mirror"


def own_uid(pod: JsonObject) -> str:
    """Return the uid that the node knows a Pod by; of a static Pod the API has a mirror with another one."""
    meta = part(pod, "metadata")
    return text(part(meta, "annotations").get(MIRROR)) or text(meta.get("uid"))


def with_newest(pod: JsonObject, kept: Mapping[str, JsonObject]) -> JsonObject:
    """Return the Pod with its newest status. Shape: `kept`: uid -> row of type `KEPT`."""
    row = kept.get(own_uid(pod))
    return {**pod, "status": part(row, "status")} if row else pod
