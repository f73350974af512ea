"""The cluster's own API as Pods at an edge should find it: at the edge itself. Pure.

Source: KubeEdge reference, section 13.2.
"""

from __future__ import annotations

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta

API_ADDRESS, API_PORT = "127.0.0.1", 10550
"""Where Pods at an edge reach the Kubernetes API: its MetaServer's usual place."""


def as_seen(kind: str, item: JsonObject) -> JsonObject:
    """Return an object as an edge should see it: all but the API's own EndpointSlice as it is."""
    meta = ObjectMeta.read(item)
    if kind != "EndpointSlice" or (meta.namespace, meta.name) != ("default", "kubernetes"):
        return item
    endpoints: list[Json] = [{"addresses": [API_ADDRESS], "conditions": {"ready": True}}]
    return {**item, "addressType": "IPv4", "endpoints": endpoints, "ports": [_port(item)]}


def _port(item: JsonObject) -> JsonObject:
    ports = item.get("ports")
    first = ports[0] if isinstance(ports, list) and ports else None
    named = first if isinstance(first, dict) else {"name": "https", "protocol": "TCP"}
    return {**named, "port": API_PORT}
