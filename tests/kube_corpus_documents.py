"""What odd requests to a Kubernetes API are made of: media types, paths, documents, a case and its world."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

JSON, YAML, PROTOBUF = (
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
)
MERGE, STRATEGIC, OPERATIONS, APPLY = (
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
)
NS = "/api/v1/namespaces/corpus"
MAPS, PODS = f"{NS}/configmaps", f"{NS}/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/corpus/deployments"
WIDGETS = "/apis/corpus.example.com/v1/namespaces/corpus/widgets"
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One request; `name` says what is wrong with it."""

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def case(
    name: str,
    method: str,
    path: str,
    body: object = None,
    kind: str = JSON,
    **headers: str,
) -> Case:
    data = body if isinstance(body, bytes) else b"" if body is None else _dumped(body)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    if body is not None:
        named = {"Content-Type": kind, **named}
    return Case(name, method, path, data, named)


def _dumped(body: object) -> bytes:
    return (
        body.encode() if isinstance(body, str) else json.dumps(body, separators=(",", ":")).encode()
    )


# --- documents ------------------------------------------------------------------------------------


def a_map(name: str = "new", **more: Any) -> Document:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **more}


def a_pod(name: str = "new", **spec: Any) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "web:1"}], **spec},
    }


def a_deployment(name: str = "web") -> Document:
    labels = {"app": "web"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": a_pod()["spec"]},
        },
    }


def a_widget(name: str = "one") -> Document:
    return {
        "apiVersion": "corpus.example.com/v1",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"size": 1, "replicas": 1},
    }


def a_definition() -> Document:
    whole = {"type": "integer"}
    properties = {
        "spec": {"type": "object", "properties": {"size": whole, "replicas": whole}},
        "status": {"type": "object", "properties": {"replicas": whole}},
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
            },
        },
    }
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.corpus.example.com"},
        "spec": {
            "group": "corpus.example.com",
            "scope": "Namespaced",
            "names": names,
            "versions": [version],
        },
    }


def a_namespace(name: str) -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def world() -> Iterator[tuple[str, str, Document]]:
    """What is made before, in order: method, path, document."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    yield (
        "POST",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        a_definition(),
    )
    for name in ("corpus", "ending"):
        yield "POST", "/api/v1/namespaces", a_namespace(name)
    yield "POST", f"{NS}/serviceaccounts", account
    for name in ("here", "other"):
        yield "POST", MAPS, a_map(name, data={"a": "1"})
    yield "POST", PODS, a_pod("web")
    yield "POST", PODS, a_pod("bound", nodeName="edge-1")
    yield "POST", DEPLOYMENTS, a_deployment()
    yield "POST", WIDGETS, a_widget()
    held = a_map("held")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    yield "POST", "/api/v1/namespaces/ending/configmaps", held
    yield "DELETE", "/api/v1/namespaces/ending", {}


# --- protobuf -------------------------------------------------------------------------------------


def message(number: int, data: bytes) -> bytes:
    """One field of a packed message that holds bytes."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def protobuf(version: str, kind: str, raw: bytes) -> bytes:
    """The envelope that clients put around an object."""
    meta = message(1, version.encode()) + message(2, kind.encode())
    return b"k8s\0" + message(1, meta) + message(2, raw)


PACKED_MAP = message(1, message(1, b"new"))
