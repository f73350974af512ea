"""Random documents of several kinds, and patches of them, for `tools.kube_oracle`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GROUP = "walk.example.com"


@dataclass(frozen=True)
class Subject:
    """A kind, and how to make some of it."""

    name: str
    path: str
    api_version: str
    kind: str
    make: Callable[[random.Random], dict[str, Any]]
    patches: tuple[str, ...] = ("json", "merge", "strategic", "apply")
    has_status: bool = False


def some(rng: random.Random, items: list[Any], least: int = 0) -> list[Any]:
    return rng.sample(items, rng.randint(least, len(items)))


def text_map(rng: random.Random, least: int = 0) -> dict[str, str]:
    return {key: rng.choice("xyz") for key in some(rng, ["a", "b", "c"], least)}


def a_configmap(rng: random.Random) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if rng.random() < 0.8:
        out["data"] = text_map(rng)
    if rng.random() < 0.2:
        out["binaryData"] = dict.fromkeys(some(rng, ["q", "r"]), "AAAA")
    return out


def a_container(rng: random.Random, name: str) -> dict[str, Any]:
    out: dict[str, Any] = {"name": name, "image": f"registry/{rng.choice('xy')}:1"}
    if rng.random() < 0.5:
        out["env"] = [
            {"name": key, "value": rng.choice("123")} for key in some(rng, ["A", "B", "C"])
        ]
    if rng.random() < 0.5:
        out["ports"] = [
            {"containerPort": port}
            | ({"name": rng.choice(["n", "m"]) + str(port)} if rng.random() < 0.5 else {})
            | ({"protocol": "TCP"} if rng.random() < 0.5 else {})
            for port in some(rng, [80, 81, 82])
        ]
    if rng.random() < 0.3:
        out["resources"] = {"limits": {"cpu": rng.choice(["1", "500m"])}}
    if rng.random() < 0.3:
        out["command"] = some(rng, ["x", "y"])
    return out


def pod_spec(rng: random.Random, *, full: bool = True) -> dict[str, Any]:
    out: dict[str, Any] = {
        "containers": [a_container(rng, name) for name in some(rng, ["c1", "c2", "c3"], 1)]
    }
    if rng.random() < 0.3:
        out["nodeSelector"] = text_map(rng)
    if rng.random() < 0.3:
        out["tolerations"] = [{"key": key, "operator": "Exists"} for key in some(rng, ["t", "u"])]
    if full and rng.random() < 0.4:
        out["volumes"] = [{"name": name, "emptyDir": {}} for name in some(rng, ["v1", "v2"])]
    return out


def a_deployment(rng: random.Random) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "selector": {"matchLabels": {"app": "w"}},
        "template": {"metadata": {"labels": {"app": "w", **text_map(rng)}}, "spec": pod_spec(rng)},
    }
    if rng.random() < 0.5:
        spec["replicas"] = rng.randint(0, 3)
    if rng.random() < 0.3:
        spec["strategy"] = {"type": rng.choice(["Recreate", "RollingUpdate"])}
    return {"spec": spec}


def a_service(rng: random.Random) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "ports": [
            {"name": f"p{port}", "port": port, "targetPort": rng.choice([80, "web"])}
            | ({"protocol": rng.choice(["TCP", "UDP"])} if rng.random() < 0.5 else {})
            for port in some(rng, [80, 81, 82], 1)
        ],
        "clusterIP": "None",
    }
    if rng.random() < 0.6:
        spec["selector"] = text_map(rng)
    return {"spec": spec}


def an_account(rng: random.Random) -> dict[str, Any]:
    return {
        "secrets": [{"name": name} for name in some(rng, ["s1", "s2", "s3", "s4"])],
        "imagePullSecrets": [{"name": name} for name in some(rng, ["i1", "i2"])],
    }


def directed(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    """A strategic patch with directives of every kind."""
    rows = document.get("secrets", [])
    for row in rows:
        if rng.random() < 0.25:
            row["$patch"] = "delete"
    if rng.random() < 0.15:
        rows.append({"$patch": "replace"})
    if rng.random() < 0.4:
        names = [row["name"] for row in rows if "$patch" not in row]
        more = [name for name in ("s1", "s2", "s3", "s4") if name not in names]
        order = names + some(rng, more) if rng.random() < 0.7 else some(rng, names + more)
        document["$setElementOrder/secrets"] = [{"name": name} for name in order]
    metadata = document["metadata"]
    if rng.random() < 0.2:
        metadata["$deleteFromPrimitiveList/finalizers"] = some(
            rng, ["w.example.com/a", "w.example.com/b"], 1
        )
    if rng.random() < 0.2 and "finalizers" in metadata:
        metadata["$setElementOrder/finalizers"] = metadata["finalizers"]
    if "labels" in metadata and rng.random() < 0.3:
        metadata["labels"]["$patch"] = rng.choice(["replace", "delete"])
    elif "labels" in metadata and rng.random() < 0.3:
        metadata["labels"]["$retainKeys"] = some(rng, ["a", "b", "c"])
    return document


def a_custom(rng: random.Random) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if rng.random() < 0.6:
        spec["rows"] = [
            {"key": key, "value": rng.choice("12")}
            | ({"zone": "z2"} if rng.random() < 0.3 else {})
            | ({"extra": {"deep": rng.randint(0, 2)}} if rng.random() < 0.3 else {})
            for key in some(rng, ["r1", "r2", "r3"])
        ]
    if rng.random() < 0.5:
        spec["tags"] = some(rng, ["t1", "t2", "t3"])
    if rng.random() < 0.4:
        spec["plain"] = some(rng, [1, 2, 3])
    if rng.random() < 0.4:
        spec["whole"] = text_map(rng)
    if rng.random() < 0.5:
        spec["map"] = text_map(rng)
    if rng.random() < 0.4:
        spec["free"] = rng.choice([{"l": [1, {"m": 2}], "n": {}}, {"n": {"o": None}}, {}])
    if rng.random() < 0.3:
        spec["maybe"] = rng.choice([None, "x"])
    if rng.random() < 0.3:
        spec["port"] = rng.choice([80, "web"])
    out: dict[str, Any] = {"spec": spec}
    if rng.random() < 0.4:
        out["status"] = {"seen": rng.randint(0, 3)}
    return out


_CUSTOM_SPEC: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rows": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["key", "zone"],
            "items": {
                "type": "object",
                "required": ["key"],
                "properties": {
                    "key": {"type": "string"},
                    "zone": {"type": "string", "default": "z1"},
                    "value": {"type": "string"},
                    "extra": {"type": "object", "properties": {"deep": {"type": "integer"}}},
                },
            },
        },
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "plain": {"type": "array", "items": {"type": "integer"}},
        "whole": {
            "type": "object",
            "x-kubernetes-map-type": "atomic",
            "additionalProperties": {"type": "string"},
        },
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "maybe": {"type": "string", "nullable": True},
        "port": {"x-kubernetes-int-or-string": True},
        "size": {"type": "integer", "default": 3},
    },
}

DEFINITION: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"walks.{GROUP}"},
    "spec": {
        "group": GROUP,
        "names": {"plural": "walks", "kind": "Walk"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": _CUSTOM_SPEC,
                            "status": {
                                "type": "object",
                                "properties": {"seen": {"type": "integer"}},
                            },
                        },
                    }
                },
            }
        ],
    },
}

SUBJECTS = (
    Subject("configmap", "/api/v1", "v1", "ConfigMap", a_configmap),
    Subject("serviceaccount", "/api/v1", "v1", "ServiceAccount", an_account),
    Subject("deployment", "/apis/apps/v1", "apps/v1", "Deployment", a_deployment, has_status=True),
    Subject("service", "/api/v1", "v1", "Service", a_service, has_status=True),
    Subject(
        "walk",
        f"/apis/{GROUP}/v1",
        f"{GROUP}/v1",
        "Walk",
        a_custom,
        ("json", "merge", "apply"),
        True,
    ),
)
