"""Services, slices and Pods for tests of the edge's network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.model.json import JsonObject

NODE = "edge-1"


def a_service(
    name: str = "web",
    namespace: str = "shop",
    *,
    ip: str = "10.96.0.20",
    ports: Sequence[JsonObject] = ({"name": "http", "port": 80, "targetPort": 8080},),
    selector: dict[str, str] | None = None,
    **spec: Any,
) -> JsonObject:
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"u-{namespace}-{name}"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": ["IPv4"],
            "ports": [{"protocol": "TCP", **port} for port in ports],
            **({"selector": dict(selector)} if selector else {}),
            **spec,
        },
    }


def a_slice(
    *endpoints: JsonObject,
    service: str = "web",
    namespace: str = "shop",
    ports: Sequence[JsonObject] = ({"name": "http", "port": 8080},),
    number: int = 1,
) -> JsonObject:
    return {
        "metadata": {
            "name": f"{service}-{number}",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"protocol": "TCP", **port} for port in ports],
    }


def an_endpoint(ip: str, *, ready: bool = True, node: str = NODE, **more: Any) -> JsonObject:
    return {
        "addresses": [ip],
        "conditions": {"ready": ready, "serving": ready, "terminating": False},
        "nodeName": node,
        **more,
    }


def a_pod(
    name: str = "web-0",
    *,
    ip: str = "10.88.0.5",
    ready: bool = True,
    namespace: str = "shop",
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> JsonObject:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"u-{name}",
            "labels": {**(labels or {"app": "web"})},
        },
        "spec": {
            "nodeName": NODE,
            "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}],
            **spec,
        },
        "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }
