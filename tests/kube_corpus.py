"""Requests that a Kubernetes API must answer with an error, or with care: what is sent, in which world.

The expected answers are in `golden/kube_corpus.json`, by the name of the case; each was read and checked
against Kubernetes 1.36. `world()` says which objects are there before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

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


def _message(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def protobuf(version: str, kind: str, raw: bytes) -> bytes:
    """The envelope that clients put around an object."""
    meta = _message(1, version.encode()) + _message(2, kind.encode())
    return b"k8s\0" + _message(1, meta) + _message(2, raw)


_MAP = _message(1, _message(1, b"new"))


# --- the cases ------------------------------------------------------------------------------------

Q = quote


def bodies() -> Iterator[Case]:
    """What is no object, or none of this kind."""
    yield case("body: not JSON", "POST", MAPS, "{nope")
    yield case("body: empty", "POST", MAPS, b"")
    yield case("body: null", "POST", MAPS, "null")
    yield case("body: a list", "POST", MAPS, [1])
    yield case("body: a number", "POST", MAPS, "12")
    yield case("body: a text", "POST", MAPS, '"x"')
    yield case("body: cut off", "POST", MAPS, '{"apiVersion":"v1","kind":"ConfigMap"')
    yield case("body: something after the object", "POST", MAPS, json.dumps(a_map("two")) + "{}")
    yield case(
        "body: no kind",
        "POST",
        f"{MAPS}?dryRun=All",
        {"apiVersion": "v1", "metadata": {"name": "new"}},
    )
    yield case(
        "body: no version",
        "POST",
        f"{MAPS}?dryRun=All",
        {"kind": "ConfigMap", "metadata": {"name": "x"}},
    )
    yield case(
        "body: neither kind nor version",
        "POST",
        f"{MAPS}?dryRun=All",
        {"metadata": {"name": "new"}},
    )
    yield case("body: another kind", "POST", MAPS, {**a_map(), "kind": "Secret"})
    yield case("body: unknown kind", "POST", MAPS, {**a_map(), "kind": "Nonsense"})
    yield case("body: another version", "POST", MAPS, {**a_map(), "apiVersion": "v2"})
    yield case(
        "body: another group",
        "POST",
        DEPLOYMENTS,
        {**a_deployment("b"), "apiVersion": "extensions/v1beta1"},
    )
    yield case("body: custom resource without kind", "POST", WIDGETS, {"metadata": {"name": "two"}})
    yield case(
        "body: custom resource of another kind",
        "POST",
        WIDGETS,
        {**a_widget("two"), "kind": "Gadget"},
    )
    yield case(
        "body: custom resource of another version",
        "POST",
        WIDGETS,
        {**a_widget("two"), "apiVersion": "corpus.example.com/v2"},
    )
    yield case("body: wrong type, text for a table", "POST", MAPS, a_map(data="x"))
    yield case("body: wrong type, number for a text", "POST", MAPS, a_map(data={"a": 1}))
    yield case(
        "body: wrong type, text for a number",
        "POST",
        DEPLOYMENTS,
        {**a_deployment("b"), "spec": {**a_deployment()["spec"], "replicas": "x"}},
    )
    yield case(
        "body: wrong type in metadata",
        "POST",
        MAPS,
        {**a_map(), "metadata": {"name": "new", "labels": ["a"]}},
    )
    yield case(
        "body: wrong type of a custom resource",
        "POST",
        WIDGETS,
        {**a_widget("two"), "spec": {"size": "big"}},
    )
    yield case(
        "body: wrong type in metadata of a custom resource",
        "POST",
        WIDGETS,
        {**a_widget(), "metadata": {"name": "two", "labels": 3}},
    )
    yield case(
        "body: no base64",
        "POST",
        f"{NS}/secrets",
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "%%%"}},
    )
    yield case(
        "body: not UTF-8",
        "POST",
        f"{MAPS}?dryRun=All",
        b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"},"data":{"a":"\xff"}}',
    )
    yield case(
        "body: NaN",
        "POST",
        WIDGETS,
        '{"apiVersion":"corpus.example.com/v1","kind":"Widget","metadata":{"name":"two"},"spec":{"size":NaN}}',
    )
    yield case("body: too large", "POST", MAPS, a_map(data={"a": "x" * 3_200_000}))
    yield case("body: a map with too much", "POST", MAPS, a_map(data={"a": "x" * 1_100_000}))
    yield case("body: wrong content type", "POST", MAPS, a_map(), "text/plain")
    yield case("body: content type of a patch", "POST", MAPS, a_map(), MERGE)
    yield case("body: broken content type", "POST", MAPS, a_map(), "nonsense")
    yield case("yaml: broken", "POST", MAPS, "a: [", YAML)
    yield case("yaml: a text", "POST", MAPS, "hello", YAML)
    yield case(
        "yaml: unknown field",
        "POST",
        f"{MAPS}?dryRun=All&fieldValidation=Strict",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\nzork: 1\n",
        YAML,
    )
    yield case(
        "yaml: key twice",
        "POST",
        f"{MAPS}?dryRun=All&fieldValidation=Strict",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\ndata: {a: x}\ndata: {a: z}\n",
        YAML,
    )
    yield case("protobuf: no magic", "POST", MAPS, b"nothing", PROTOBUF)
    yield case("protobuf: cut off", "POST", MAPS, protobuf("v1", "ConfigMap", _MAP)[:-2], PROTOBUF)
    yield case("protobuf: another kind", "POST", MAPS, protobuf("v1", "Secret", _MAP), PROTOBUF)
    yield case(
        "protobuf: taken", "POST", f"{MAPS}?dryRun=All", protobuf("v1", "ConfigMap", _MAP), PROTOBUF
    )


def validation() -> Iterator[Case]:
    """Fields that nobody knows, names and other rules of metadata."""
    unknown = {**a_pod(), "zork": 1, "spec": {**a_pod()["spec"], "gork": 1}}
    for level in ("Strict", "Warn", "Ignore"):
        yield case(
            f"fields: unknown, {level}",
            "POST",
            f"{PODS}?dryRun=All&fieldValidation={level}",
            unknown,
        )
    twice = json.dumps(a_map()).removesuffix("}") + ', "data": {"a": "1"}, "data": {"a": "2"}}'
    for level in ("Strict", "Warn"):
        yield case(
            f"fields: twice, {level}", "POST", f"{MAPS}?dryRun=All&fieldValidation={level}", twice
        )
    yield case(
        "fields: unknown in a custom resource, Strict",
        "POST",
        f"{WIDGETS}?dryRun=All&fieldValidation=Strict",
        {**a_widget("two"), "spec": {"size": 1, "gork": 2}},
    )
    yield case(
        "fields: unknown in a merge patch, Strict",
        "PATCH",
        f"{PODS}/web?dryRun=All&fieldValidation=Strict",
        {"spec": {"gork": 2}},
        MERGE,
    )
    yield case(
        "fields: unknown in a strategic patch, Strict",
        "PATCH",
        f"{PODS}/web?dryRun=All&fieldValidation=Strict",
        {"spec": {"gork": 2}},
        STRATEGIC,
    )
    yield case(
        "fields: unknown in an apply, Strict",
        "PATCH",
        f"{MAPS}/here?dryRun=All&fieldManager=m&fieldValidation=Strict",
        {**a_map("here"), "zork": 1},
        APPLY,
    )
    yield case("fields: fieldValidation unknown", "POST", f"{MAPS}?fieldValidation=Loud", a_map())
    yield case("options: dryRun unknown", "POST", f"{MAPS}?dryRun=Some", a_map())
    yield case("options: dryRun unknown of a PUT", "PUT", f"{MAPS}/here?dryRun=Some", a_map("here"))
    yield case("options: dryRun unknown of a patch", "PATCH", f"{MAPS}/here?dryRun=Some", {}, MERGE)
    yield case(
        "options: fieldManager too long", "POST", f"{MAPS}?fieldManager={'m' * 129}", a_map()
    )
    yield case("options: fieldManager not printable", "POST", f"{MAPS}?fieldManager=a%0Ab", a_map())
    yield case("options: force of a merge patch", "PATCH", f"{MAPS}/here?force=true", {}, MERGE)
    yield case("name: none", "POST", MAPS, {"apiVersion": "v1", "kind": "ConfigMap"})
    yield case("name: capital letters", "POST", MAPS, a_map("New"))
    yield case("name: 253 characters", "POST", f"{MAPS}?dryRun=All", a_map("a" * 253))
    yield case("name: 254 characters", "POST", MAPS, a_map("a" * 254))
    yield case("name: a namespace of 64", "POST", "/api/v1/namespaces", a_namespace("a" * 64))
    yield case("name: custom resource", "POST", WIDGETS, a_widget("Two_"))
    yield case(
        "name: generated from a bad beginning",
        "POST",
        MAPS,
        {**a_map(), "metadata": {"generateName": "Bad_"}},
    )
    yield case(
        "metadata: label key",
        "POST",
        MAPS,
        {**a_map(), "metadata": {"name": "new", "labels": {"a b": "c"}}},
    )
    yield case(
        "metadata: label value",
        "POST",
        MAPS,
        {**a_map(), "metadata": {"name": "new", "labels": {"a": "b c"}}},
    )
    yield case(
        "metadata: annotation key",
        "POST",
        MAPS,
        {**a_map(), "metadata": {"name": "new", "annotations": {"a b": "c"}}},
    )
    yield case(
        "metadata: annotations too large",
        "POST",
        MAPS,
        {**a_map(), "metadata": {"name": "new", "annotations": {"a": "x" * 263_000}}},
    )
    yield case(
        "metadata: finalizer",
        "POST",
        MAPS,
        {**a_map(), "metadata": {"name": "new", "finalizers": ["no good"]}},
    )
    yield case(
        "metadata: owner without uid",
        "POST",
        MAPS,
        {
            **a_map(),
            "metadata": {
                "name": "new",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web"}],
            },
        },
    )
    yield case(
        "metadata: two controllers",
        "POST",
        MAPS,
        {
            **a_map(),
            "metadata": {
                "name": "new",
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": n, "uid": n, "controller": True}
                    for n in "ab"
                ],
            },
        },
    )
    yield case(
        "metadata: resourceVersion on create",
        "POST",
        MAPS,
        {**a_map(), "metadata": {"name": "new", "resourceVersion": "1"}},
    )
    yield case("metadata: key of a map", "POST", MAPS, a_map(data={"a b": "c"}))
    yield case(
        "metadata: key in data and binaryData",
        "POST",
        MAPS,
        a_map(data={"a": "c"}, binaryData={"a": "YQ=="}),
    )
    yield case(
        "namespace: another in the body",
        "POST",
        MAPS,
        {**a_map(), "metadata": {"name": "new", "namespace": "default"}},
    )
    yield case("namespace: not there", "POST", "/api/v1/namespaces/nowhere/configmaps", a_map())
    yield case("namespace: ending", "POST", "/api/v1/namespaces/ending/configmaps", a_map())
    yield case("namespace: create without one", "POST", "/api/v1/configmaps", a_map())
    yield case(
        "namespace: of a kind without",
        "POST",
        "/api/v1/nodes",
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "namespace": "x"}},
    )
    yield case("exists: already", "POST", MAPS, a_map("here"))
    yield case("exists: already, generated is not tried", "POST", WIDGETS, a_widget())
    yield case("exists: not", "GET", f"{MAPS}/none")
    yield case("exists: custom resource not", "GET", f"{WIDGETS}/none")
    yield case("delete: not there", "DELETE", f"{MAPS}/none")


def updates() -> Iterator[Case]:
    """Changes of what is there."""
    yield case("put: not there", "PUT", f"{MAPS}/none", a_map("none"))
    yield case("put: pod not there", "PUT", f"{PODS}/none", a_pod("none"))
    yield case("put: another name", "PUT", f"{MAPS}/here", a_map("there"))
    yield case(
        "put: no name", "PUT", f"{MAPS}/here?dryRun=All", {"apiVersion": "v1", "kind": "ConfigMap"}
    )
    yield case(
        "put: another namespace",
        "PUT",
        f"{MAPS}/here",
        {**a_map("here"), "metadata": {"name": "here", "namespace": "x"}},
    )
    yield case(
        "put: stale",
        "PUT",
        f"{MAPS}/here",
        {**a_map("here"), "metadata": {"name": "here", "resourceVersion": "1"}},
    )
    yield case(
        "put: version that is none",
        "PUT",
        f"{MAPS}/here",
        {**a_map("here"), "metadata": {"name": "here", "resourceVersion": "abc"}},
    )
    yield case(
        "put: another uid",
        "PUT",
        f"{MAPS}/here",
        {**a_map("here"), "metadata": {"name": "here", "uid": "no"}},
    )
    yield case("put: custom resource without version", "PUT", f"{WIDGETS}/one", a_widget())
    yield case("put: no object", "PUT", f"{MAPS}/here", "[]")
    yield case("put: collection", "PUT", MAPS, a_map())
    yield case("put: pod changed", "PUT", f"{PODS}/web", a_pod("web", restartPolicy="Never"))
    yield case("patch: not there", "PATCH", f"{MAPS}/none", {}, MERGE)
    yield case("patch: wrong content type", "PATCH", f"{MAPS}/here", {}, JSON)
    yield case("patch: no content type", "PATCH", f"{MAPS}/here", {}, "")
    yield case("patch: strategic of a custom resource", "PATCH", f"{WIDGETS}/one", {}, STRATEGIC)
    yield case("patch: merge, a list", "PATCH", f"{MAPS}/here", [], MERGE)
    yield case("patch: merge, not JSON", "PATCH", f"{MAPS}/here", "{nope", MERGE)
    yield case("patch: merge, empty", "PATCH", f"{MAPS}/here", b"", MERGE)
    yield case("patch: merge, null", "PATCH", f"{MAPS}/here", "null", MERGE)
    yield case("patch: strategic, a list", "PATCH", f"{MAPS}/here", [], STRATEGIC)
    yield case("patch: strategic, not JSON", "PATCH", f"{MAPS}/here", "{nope", STRATEGIC)
    yield case(
        "patch: strategic, wrong type",
        "PATCH",
        f"{PODS}/web",
        {"spec": {"containers": 3}},
        STRATEGIC,
    )
    yield case(
        "patch: strategic, unknown directive",
        "PATCH",
        f"{PODS}/web",
        {"spec": {"$patch": "explode"}},
        STRATEGIC,
    )
    yield case(
        "patch: strategic, element without key",
        "PATCH",
        f"{PODS}/web",
        {"spec": {"containers": [{"image": "x"}]}},
        STRATEGIC,
    )
    yield case("patch: json, an object", "PATCH", f"{MAPS}/here", {}, OPERATIONS)
    yield case("patch: json, not JSON", "PATCH", f"{MAPS}/here", "[nope", OPERATIONS)
    yield case(
        "patch: json, test fails",
        "PATCH",
        f"{MAPS}/here",
        [{"op": "test", "path": "/data/a", "value": "9"}],
        OPERATIONS,
    )
    yield case(
        "patch: json, test of nothing",
        "PATCH",
        f"{MAPS}/here",
        [{"op": "test", "path": "/data/z", "value": "9"}],
        OPERATIONS,
    )
    yield case(
        "patch: json, remove nothing",
        "PATCH",
        f"{MAPS}/here",
        [{"op": "remove", "path": "/data/z"}],
        OPERATIONS,
    )
    yield case(
        "patch: json, replace nothing",
        "PATCH",
        f"{MAPS}/here",
        [{"op": "replace", "path": "/data/z", "value": "1"}],
        OPERATIONS,
    )
    yield case(
        "patch: json, add into nothing",
        "PATCH",
        f"{MAPS}/here",
        [{"op": "add", "path": "/x/y/z", "value": "1"}],
        OPERATIONS,
    )
    yield case(
        "patch: json, unknown operation",
        "PATCH",
        f"{MAPS}/here",
        [{"op": "explode", "path": "/data"}],
        OPERATIONS,
    )
    yield case(
        "patch: json, path without slash",
        "PATCH",
        f"{MAPS}/here",
        [{"op": "add", "path": "data", "value": {}}],
        OPERATIONS,
    )
    yield case(
        "patch: json, too many",
        "PATCH",
        f"{MAPS}/here",
        [{"op": "add", "path": "/data/a", "value": "1"}] * 10_001,
        OPERATIONS,
    )
    yield case(
        "patch: changes the name", "PATCH", f"{MAPS}/here", {"metadata": {"name": "there"}}, MERGE
    )
    yield case(
        "patch: changes the namespace",
        "PATCH",
        f"{MAPS}/here",
        {"metadata": {"namespace": "x"}},
        MERGE,
    )
    yield case("patch: changes the uid", "PATCH", f"{MAPS}/here", {"metadata": {"uid": "x"}}, MERGE)
    yield case("patch: changes the kind", "PATCH", f"{MAPS}/here", {"kind": "Secret"}, MERGE)
    yield case(
        "patch: stale", "PATCH", f"{MAPS}/here", {"metadata": {"resourceVersion": "1"}}, MERGE
    )
    yield case("patch: wrong type", "PATCH", f"{MAPS}/here", {"data": "x"}, MERGE)
    yield case("patch: of a collection", "PATCH", MAPS, {}, MERGE)
    yield case("apply: no manager", "PATCH", f"{MAPS}/here", a_map("here"), APPLY)
    yield case(
        "apply: no kind",
        "PATCH",
        f"{MAPS}/here?fieldManager=m",
        {"metadata": {"name": "here"}},
        APPLY,
    )
    yield case(
        "apply: another kind",
        "PATCH",
        f"{MAPS}/here?fieldManager=m",
        {**a_map("here"), "kind": "Secret"},
        APPLY,
    )
    yield case("apply: another name", "PATCH", f"{MAPS}/here?fieldManager=m", a_map("there"), APPLY)
    yield case(
        "apply: managedFields",
        "PATCH",
        f"{MAPS}/here?fieldManager=m",
        {**a_map("here"), "metadata": {"name": "here", "managedFields": [{"manager": "m"}]}},
        APPLY,
    )
    yield case(
        "apply: conflict",
        "PATCH",
        f"{MAPS}/here?fieldManager=m",
        a_map("here", data={"a": "2"}),
        APPLY,
    )
    yield case("apply: broken yaml", "PATCH", f"{MAPS}/here?fieldManager=m", "a: [", APPLY)
    yield case("apply: a list", "PATCH", f"{MAPS}/here?fieldManager=m", "[]", APPLY)
    yield case(
        "apply: manager too long",
        "PATCH",
        f"{MAPS}/here?fieldManager={'m' * 129}",
        a_map("here"),
        APPLY,
    )
    yield case(
        "apply: stale",
        "PATCH",
        f"{MAPS}/here?fieldManager=m",
        {**a_map("here"), "metadata": {"name": "here", "resourceVersion": "1"}},
        APPLY,
    )


def deletions() -> Iterator[Case]:
    """Ways to delete that make no sense; and what a dry run answers."""
    place = f"{MAPS}/here"
    yield case("delete: unknown policy", "DELETE", f"{place}?propagationPolicy=Explode")
    yield case(
        "delete: unknown policy in the body", "DELETE", place, {"propagationPolicy": "Explode"}
    )
    yield case(
        "delete: policy and orphans",
        "DELETE",
        place,
        {"propagationPolicy": "Orphan", "orphanDependents": True},
    )
    yield case("delete: dryRun unknown", "DELETE", f"{place}?dryRun=Some")
    yield case("delete: dryRun unknown in the body", "DELETE", place, {"dryRun": ["Some"]})
    yield case("delete: grace is no number", "DELETE", f"{place}?gracePeriodSeconds=x")
    yield case("delete: grace is a text", "DELETE", place, {"gracePeriodSeconds": "x"})
    yield case("delete: negative grace", "DELETE", f"{place}?gracePeriodSeconds=-5&dryRun=All")
    yield case("delete: another uid", "DELETE", place, {"preconditions": {"uid": "no"}})
    yield case(
        "delete: another version", "DELETE", place, {"preconditions": {"resourceVersion": "1"}}
    )
    yield case(
        "delete: pod of another uid", "DELETE", f"{PODS}/web", {"preconditions": {"uid": "no"}}
    )
    yield case(
        "delete: widget of another uid",
        "DELETE",
        f"{WIDGETS}/one",
        {"preconditions": {"uid": "no"}},
    )
    yield case(
        "delete: namespace of another uid",
        "DELETE",
        "/api/v1/namespaces/corpus",
        {"preconditions": {"uid": "no"}},
    )
    yield case("delete: not JSON", "DELETE", place, "{nope")
    yield case("delete: a list", "DELETE", place, "[]")
    yield case("delete: another kind", "DELETE", place, {"kind": "Pod", "apiVersion": "v1"})
    yield case("delete: content type", "DELETE", place, {}, "text/plain")
    yield case("delete: tried, a map", "DELETE", f"{place}?dryRun=All")
    yield case("delete: tried, a pod without node", "DELETE", f"{PODS}/web?dryRun=All")
    yield case("delete: tried, a pod with a node", "DELETE", f"{PODS}/bound?dryRun=All")
    yield case("delete: tried in YAML", "DELETE", place, "dryRun: [All]\n", YAML)
    yield case(
        "delete: tried in protobuf",
        "DELETE",
        place,
        protobuf("v1", "DeleteOptions", _message(5, b"All")),
        PROTOBUF,
    )
    yield case(
        "delete: tried, in the foreground",
        "DELETE",
        f"{DEPLOYMENTS}/web?dryRun=All&propagationPolicy=Foreground",
    )
    yield case(
        "delete: tried, orphans left",
        "DELETE",
        f"{DEPLOYMENTS}/web?dryRun=All&orphanDependents=true",
    )
    yield case("delete: a protected namespace", "DELETE", "/api/v1/namespaces/kube-system")
    yield case("delete: all, bad selector", "DELETE", f"{MAPS}?labelSelector=a%20b")
    yield case("delete: all of everywhere", "DELETE", "/api/v1/configmaps")
    yield case("delete: all namespaces", "DELETE", "/api/v1/namespaces")
    yield case(
        "delete: all, tried", "DELETE", f"{MAPS}?dryRun=All&fieldSelector=metadata.name%3Dhere"
    )
    yield case("delete: status", "DELETE", f"{DEPLOYMENTS}/web/status")


def reads() -> Iterator[Case]:
    """Bad questions."""
    for key, value in (
        ("limit", "-1"),
        ("limit", "x"),
        ("timeoutSeconds", "x"),
        ("resourceVersion", "abc"),
        ("resourceVersion", "-1"),
        ("resourceVersion", "99999999999999999"),
        ("resourceVersionMatch", "Exact"),
        ("continue", "nonsense"),
        ("continue", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJ4In0"),
        ("labelSelector", Q("a b")),
        ("labelSelector", Q("a in (")),
        ("labelSelector", Q("a=b=c")),
        ("labelSelector", Q("!!a")),
        ("labelSelector", Q("-a=b")),
        ("labelSelector", Q("a>b")),
        ("fieldSelector", "spec.zork%3D1"),
        ("fieldSelector", "nonsense"),
        ("fieldSelector", "metadata.name>x"),
        ("sendInitialEvents", "true"),
    ):
        yield case(f"list: {key}={value}", "GET", f"{MAPS}?{key}={value}")
    version = "resourceVersion=1"
    yield case("list: match unknown", "GET", f"{MAPS}?{version}&resourceVersionMatch=Sometimes")
    yield case("list: exactly at 0", "GET", f"{MAPS}?resourceVersion=0&resourceVersionMatch=Exact")
    yield case(
        "list: continue with match",
        "GET",
        f"{MAPS}?continue=x&resourceVersionMatch=Exact&{version}",
    )
    yield case("list: continue with version", "GET", f"{MAPS}?continue=x&{version}")
    yield case(
        "list: custom resources by an unknown field",
        "GET",
        f"{WIDGETS}?fieldSelector=spec.size%3D1",
    )
    yield case("get: future version", "GET", f"{MAPS}/here?resourceVersion=99999999999999999")
    yield case("get: version that is none", "GET", f"{MAPS}/here?resourceVersion=abc")
    yield case(
        "watch: match without initial events",
        "GET",
        f"{MAPS}?watch=1&{version}&resourceVersionMatch=NotOlderThan",
    )
    yield case(
        "watch: initial events without match", "GET", f"{MAPS}?watch=1&sendInitialEvents=true"
    )
    yield case(
        "watch: initial events exactly",
        "GET",
        f"{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=Exact",
    )
    yield case("watch: version that is none", "GET", f"{MAPS}?watch=1&resourceVersion=abc")
    yield case("watch: bad selector", "GET", f"{MAPS}?watch=1&labelSelector=a%20b")
    yield case("watch: continue", "GET", f"{MAPS}?watch=1&continue=x&timeoutSeconds=1")
    yield case("accept: text", "GET", MAPS, Accept="text/plain")
    yield case("accept: text of one", "GET", f"{MAPS}/here", Accept="text/html")
    yield case(
        "accept: unknown form", "GET", MAPS, Accept="application/json;as=Picture;v=v1;g=meta.k8s.io"
    )
    yield case(
        "accept: table of an unknown version",
        "GET",
        MAPS,
        Accept="application/json;as=Table;v=v9;g=meta.k8s.io",
    )
    yield case(
        "accept: partial list of one",
        "GET",
        f"{MAPS}/here",
        Accept="application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    )
    yield case(
        "accept: partial of a list",
        "GET",
        MAPS,
        Accept="application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    )
    yield case(
        "accept: unknown includeObject",
        "GET",
        f"{MAPS}?includeObject=Some",
        Accept="application/json;as=Table;v=v1;g=meta.k8s.io",
    )
    yield case(
        "accept: text of a write", "POST", f"{MAPS}?dryRun=All", a_map(), Accept="text/plain"
    )
    yield case("accept: text of a watch", "GET", f"{MAPS}?watch=1", Accept="text/plain")


def places() -> Iterator[Case]:
    """Paths and methods that are not there."""
    yield case("path: unknown", "GET", "/nonsense")
    yield case("path: unknown group", "GET", "/apis/nowhere.example.com/v1/things")
    yield case("path: unknown group index", "GET", "/apis/nowhere.example.com")
    yield case("path: unknown version", "GET", "/apis/apps/v9/deployments")
    yield case("path: unknown version index", "GET", "/apis/apps/v9")
    yield case("path: unknown resource", "GET", "/api/v1/zorks")
    yield case("path: unknown resource in a namespace", "GET", f"{NS}/zorks")
    yield case(
        "path: unknown resource of a group", "GET", "/apis/apps/v1/namespaces/corpus/zorks/x"
    )
    yield case(
        "path: unknown custom resource",
        "GET",
        "/apis/corpus.example.com/v1/namespaces/corpus/zorks",
    )
    yield case("path: unknown subresource", "GET", f"{PODS}/web/zork")
    yield case("path: unknown subresource of a map", "GET", f"{MAPS}/here/status")
    yield case("path: unknown subresource of a custom resource", "GET", f"{WIDGETS}/one/zork")
    yield case("path: namespace of a kind without", "GET", f"{NS}/nodes/x")
    yield case("path: too long", "GET", f"{MAPS}/here/a/b/c")
    yield case("path: api of v2", "GET", "/api/v2")
    yield case("method: POST of an object", "POST", f"{MAPS}/here", a_map("here"))
    yield case("method: PUT of all namespaces", "PUT", "/api/v1/configmaps", a_map())
    yield case("method: OPTIONS", "OPTIONS", MAPS)
    yield case("method: TRACE", "TRACE", MAPS)
    yield case("method: POST of a status", "POST", f"{DEPLOYMENTS}/web/status", a_deployment())
    yield case("method: GET of an eviction", "GET", f"{PODS}/web/eviction")
    yield case(
        "method: GET of a review", "GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    )
    yield case("method: POST of discovery", "POST", "/apis", {})
    yield case("method: POST of the version", "POST", "/version", {})
    yield case("method: HEAD", "HEAD", f"{MAPS}/here")


def callers() -> Iterator[Case]:
    """Who may not, and who is nobody."""
    nobody = {"Impersonate_User": "nobody"}
    yield case("user: reads", "GET", f"{MAPS}/here", **nobody)
    yield case("user: lists", "GET", MAPS, **nobody)
    yield case("user: lists everywhere", "GET", "/api/v1/configmaps", **nobody)
    yield case("user: watches", "GET", f"{MAPS}?watch=1", **nobody)
    yield case("user: creates", "POST", MAPS, a_map(), **nobody)
    yield case("user: deletes all", "DELETE", MAPS, **nobody)
    yield case("user: subresource", "GET", f"{DEPLOYMENTS}/web/scale", **nobody)
    yield case("user: cluster scope", "GET", "/api/v1/nodes/n", **nobody)
    yield case("user: unknown resource", "GET", "/api/v1/zorks", **nobody)
    yield case("user: path", "GET", "/metrics", **nobody)
    yield case("user: discovery is open", "GET", "/api", **nobody)
    yield case("user: namespace itself", "GET", "/api/v1/namespaces/corpus", **nobody)
    yield case("user: custom resource", "DELETE", f"{WIDGETS}/one", **nobody)
    yield case("user: impersonates in turn", "GET", MAPS, Impersonate_Group="x")
    yield case("user: uid alone", "GET", MAPS, Impersonate_Uid="x")
    yield case(
        "user: expired token",
        "GET",
        MAPS,
        Authorization="Bearer eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9.AAAA",
    )
    yield case("user: wrong token", "GET", MAPS, Authorization="Bearer nonsense")
    yield case("user: password", "GET", MAPS, Authorization="Basic YTpi")


def doors() -> Iterator[Case]:
    """Subresources."""
    scale = {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": "web"},
        "spec": {"replicas": 2},
    }
    path = f"{DEPLOYMENTS}/web/scale"
    yield case("scale: negative", "PUT", path, {**scale, "spec": {"replicas": -1}})
    yield case("scale: another name", "PUT", path, {**scale, "metadata": {"name": "other"}})
    yield case("scale: another kind", "PUT", path, a_deployment())
    yield case(
        "scale: stale", "PUT", path, {**scale, "metadata": {"name": "web", "resourceVersion": "1"}}
    )
    yield case(
        "scale: another uid", "PUT", path, {**scale, "metadata": {"name": "web", "uid": "no"}}
    )
    yield case("scale: wrong type", "PATCH", path, {"spec": {"replicas": "x"}}, MERGE)
    yield case("scale: not there", "GET", f"{DEPLOYMENTS}/none/scale")
    yield case("scale: not of this kind", "GET", f"{MAPS}/here/scale")
    yield case(
        "scale: custom resource, negative",
        "PATCH",
        f"{WIDGETS}/one/scale",
        {"spec": {"replicas": -1}},
        MERGE,
    )
    yield case(
        "scale: custom resource, strategic",
        "PATCH",
        f"{WIDGETS}/one/scale",
        {"spec": {"replicas": 2}},
        STRATEGIC,
    )
    yield case("scale: apply without manager", "PATCH", path, scale, APPLY)
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "bound"},
        "target": {"kind": "Node", "name": "n"},
    }
    yield case("binding: bound already", "POST", f"{PODS}/bound/binding", binding)
    yield case("binding: bound already, in the older place", "POST", f"{NS}/bindings", binding)
    yield case("binding: another name", "POST", f"{PODS}/web/binding", binding)
    yield case("binding: no target", "POST", f"{PODS}/bound/binding", {**binding, "target": {}})
    yield case(
        "binding: to something else",
        "POST",
        f"{PODS}/bound/binding",
        {**binding, "target": {"kind": "Pod"}},
    )
    yield case(
        "binding: pod not there",
        "POST",
        f"{PODS}/none/binding",
        {**binding, "metadata": {"name": "none"}},
    )
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"}}
    yield case("eviction: another name", "POST", f"{PODS}/bound/eviction", eviction)
    yield case(
        "eviction: pod not there",
        "POST",
        f"{PODS}/none/eviction",
        {**eviction, "metadata": {"name": "none"}},
    )
    yield case(
        "eviction: older version",
        "POST",
        f"{PODS}/web/eviction?dryRun=All",
        {**eviction, "apiVersion": "policy/v1beta1"},
    )
    yield case(
        "eviction: another uid",
        "POST",
        f"{PODS}/web/eviction",
        {**eviction, "deleteOptions": {"preconditions": {"uid": "no"}}},
    )
    yield case("eviction: tried", "POST", f"{PODS}/web/eviction?dryRun=All", eviction)
    yield case(
        "eviction: unknown policy",
        "POST",
        f"{PODS}/web/eviction",
        {**eviction, "deleteOptions": {"propagationPolicy": "Explode"}},
    )
    yield case(
        "token: too short",
        "POST",
        f"{NS}/serviceaccounts/default/token",
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 1, "audiences": []},
        },
    )
    yield case(
        "token: account not there",
        "POST",
        f"{NS}/serviceaccounts/none/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )
    debug = {"spec": {"ephemeralContainers": [{"name": "debug"}]}}
    yield case(
        "ephemeral: without an image", "PATCH", f"{PODS}/web/ephemeralcontainers", debug, STRATEGIC
    )
    yield case(
        "ephemeral: name taken",
        "PATCH",
        f"{PODS}/web/ephemeralcontainers",
        {"spec": {"ephemeralContainers": [{"name": "c", "image": "x"}]}},
        STRATEGIC,
    )
    yield case(
        "resize: renamed",
        "PATCH",
        f"{PODS}/web/resize",
        {"spec": {"containers": [{"name": "d", "image": "x"}]}},
        MERGE,
    )
    yield case("finalize: GET", "GET", "/api/v1/namespaces/corpus/finalize")
    yield case(
        "finalize: another name", "PUT", "/api/v1/namespaces/corpus/finalize", a_namespace("other")
    )
    yield case("status: of a map", "PUT", f"{MAPS}/here/status", a_map("here"))
    yield case(
        "approval: not there",
        "GET",
        "/apis/certificates.k8s.io/v1/certificatesigningrequests/none/approval",
    )


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def hostile() -> Iterator[Case]:
    """Documents made to hurt."""
    yield case(
        "hostile: deep JSON",
        "POST",
        f"{WIDGETS}?dryRun=All",
        f'{{"apiVersion":"corpus.example.com/v1","kind":"Widget","metadata":{{"name":"two"}},"spec":{deep(9_999)}}}',
    )
    yield case(
        "hostile: deeper JSON",
        "POST",
        WIDGETS,
        f'{{"apiVersion":"corpus.example.com/v1","kind":"Widget","metadata":{{"name":"two"}},"spec":{deep(20_000)}}}',
    )
    yield case("hostile: deep merge patch", "PATCH", f"{MAPS}/here", deep(20_000), MERGE)
    yield case(
        "hostile: number too large",
        "POST",
        DEPLOYMENTS,
        '{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"b"},"spec":{"replicas":99999999999999999999}}',
    )


GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "bodies": bodies,
    "validation": validation,
    "updates": updates,
    "deletions": deletions,
    "reads": reads,
    "places": places,
    "callers": callers,
    "doors": doors,
    "hostile": hostile,
}


def cases() -> Iterator[Case]:
    """All of them."""
    for group in GROUPS.values():
        yield from group()
