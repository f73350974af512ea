"""Endpoints as an edge should see them: the API's at the edge itself, others' within its group. Pure.

Source: KubeEdge reference, section 13.2.
"""

from __future__ import annotations

from typing import Protocol

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text

API_ADDRESS, API_PORT = "127.0.0.1", 10550
"""Where Pods at an edge reach the Kubernetes API: its MetaServer's usual place."""
TOPOLOGY = "apps.kubeedge.io/service-topology"
"""Annotation of a Service: where its traffic stays."""
RANGE_GROUP = "range-nodegroup"
SERVICE_LABEL = "kubernetes.io/service-name"
"""Label of an EndpointSlice: its Service."""
KINDS = frozenset({"EndpointSlice", "Endpoints"})


class Topology(Protocol):
    """What is asked about Services and nodes."""

    def is_ranged(self, namespace: str, service: str) -> bool:
        """True when a Service's traffic stays within a group of nodes."""

    def are_together(self, node: str, other: str) -> bool:
        """True for one node, for two of one group, and for two without any."""


def as_seen(kind: str, item: JsonObject, node: str, topology: Topology) -> JsonObject:
    """Return an object as an edge should see it; most are as they are."""
    if kind not in KINDS:
        return item
    meta = ObjectMeta.read(item)
    if kind == "EndpointSlice" and (meta.namespace, meta.name) == ("default", "kubernetes"):
        return _own_api(item)
    service = meta.labels.get(SERVICE_LABEL, "") if kind == "EndpointSlice" else meta.name
    if not topology.is_ranged(meta.namespace, service):
        return item
    if kind == "EndpointSlice":
        return {**item, "endpoints": _near(item.get("endpoints"), node, topology)}
    subsets = item.get("subsets")
    return {
        **item,
        "subsets": [
            _near_subset(mapping(subset), node, topology)
            for subset in (subsets if isinstance(subsets, list) else [])
        ],
    }


def _own_api(item: JsonObject) -> JsonObject:
    endpoints: list[Json] = [{"addresses": [API_ADDRESS], "conditions": {"ready": True}}]
    return {**item, "addressType": "IPv4", "endpoints": endpoints, "ports": [_port(item)]}


def _port(item: JsonObject) -> JsonObject:
    ports = item.get("ports")
    first = ports[0] if isinstance(ports, list) and ports else None
    named = first if isinstance(first, dict) else {"name": "https", "protocol": "TCP"}
    return {**named, "port": API_PORT}


def _near(entries: Json, node: str, topology: Topology) -> list[Json]:
    """Keep what runs on a node of the group; of what runs on none nobody can say where it is."""
    return [
        entry
        for entry in (entries if isinstance(entries, list) else [])
        if (other := text(mapping(entry).get("nodeName"))) and topology.are_together(node, other)
    ]


def _near_subset(subset: JsonObject, node: str, topology: Topology) -> JsonObject:
    near: JsonObject = {
        field: _near(subset[field], node, topology)
        for field in ("addresses", "notReadyAddresses")
        if field in subset
    }
    return {**subset, **near}
