"""Odd writes: bodies that are none, objects that are judged, updates and patches."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.kube_corpus_documents import (
    APPLY,
    DEPLOYMENTS,
    JSON,
    MAPS,
    MERGE,
    NS,
    OPERATIONS,
    PACKED_MAP,
    PODS,
    PROTOBUF,
    STRATEGIC,
    WIDGETS,
    YAML,
    Case,
    a_deployment,
    a_map,
    a_namespace,
    a_pod,
    a_widget,
    case,
    protobuf,
)


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
    yield case(
        "protobuf: cut off", "POST", MAPS, protobuf("v1", "ConfigMap", PACKED_MAP)[:-2], PROTOBUF
    )
    yield case(
        "protobuf: another kind", "POST", MAPS, protobuf("v1", "Secret", PACKED_MAP), PROTOBUF
    )
    yield case(
        "protobuf: taken",
        "POST",
        f"{MAPS}?dryRun=All",
        protobuf("v1", "ConfigMap", PACKED_MAP),
        PROTOBUF,
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
