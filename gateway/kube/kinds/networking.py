"""The kinds of `networking.k8s.io` and `discovery.k8s.io`."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.kube.kinds.rows import row
from gateway.wire.kube.resources import ResourceType

NETWORKING, DISCOVERY = "networking.k8s.io/v1", "discovery.k8s.io/v1"


def kinds() -> Iterator[ResourceType]:
    """Rows in the order of discovery."""
    yield row(NETWORKING, "ingressclasses", "IngressClass", namespaced=False, generation=True)
    yield row(NETWORKING, "ingresses", "Ingress", short=("ing",), status=True, generation=True)
    yield row(NETWORKING, "networkpolicies", "NetworkPolicy", short=("netpol",), generation=True)
    yield row(DISCOVERY, "endpointslices", "EndpointSlice", generation=True)
