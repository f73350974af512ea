"""Odd requests beside writes: deletions, reads, paths, callers, subresources, documents made to hurt."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from tests.kube_corpus_documents import (
    APPLY,
    DEPLOYMENTS,
    MAPS,
    MERGE,
    NS,
    PODS,
    PROTOBUF,
    STRATEGIC,
    WIDGETS,
    YAML,
    Case,
    a_deployment,
    a_map,
    a_namespace,
    case,
    message,
    protobuf,
)

Q = quote


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
        protobuf("v1", "DeleteOptions", message(5, b"All")),
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
