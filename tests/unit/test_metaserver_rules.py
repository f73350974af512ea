"""MetaServer's pure parts: kinds, requests, rights, the window of changes, Device writes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.edgeapi import token_key
from edge.metaanswers import fields_of
from edge.metaauth import check_host
from edge.metakinds import Kinds, guessed_plural, gvr_of, gvr_parts
from edge.metarequests import Call, Passed, read_request
from edge.metarights import may
from edge.metatwins import asks_of
from edge.metawindow import MAX_CHANGES, ChangeWindow
from edge.store import Record
from gateway.errors import BadRequest, Forbidden, Gone, MethodNotAllowed, NotFound
from gateway.runtime.small_service import Request
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import ObjectChanged

PODS = gvr_of("", "v1", "pods")


def change(resource: str, document: Any, version: str = "") -> ObjectChanged:
    subject = Subject.parse(resource)
    return ObjectChanged(subject, Operation.UPDATE, document, version, "edgecontroller")


# --- kinds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "plural"),
    [
        ("Pod", "pods"),
        ("Endpoints", "endpoints"),
        ("EndpointSlice", "endpointslices"),
        ("NetworkPolicy", "networkpolicies"),
        ("Ingress", "ingresses"),
        ("DeviceStatus", "devicestatuses"),
    ],
)
def test_plurals_are_guessed(kind: str, plural: str) -> None:
    assert guessed_plural(kind) == plural


def test_a_records_key_and_resource_have_kubeedges_form() -> None:
    record = Kinds().record_of(
        change("default/pod/p1", {"metadata": {"name": "p1", "namespace": "default"}}, "7")
    )
    assert record is not None
    assert (record.key, record.gvr) == ("/core/v1/pods/default/p1", "/v1, Resource=pods")
    assert (record.namespace, record.name, record.version) == ("default", "p1", 7)
    assert '"kind":"Pod"' in record.value


def test_a_cluster_scoped_object_has_no_namespace() -> None:
    record = Kinds().record_of(change("null/node/edge-1", {"metadata": {"name": "edge-1"}}))
    assert record is not None
    assert (record.key, record.namespace) == ("/core/v1/nodes/null/edge-1", "")


def test_a_kind_is_learnt_from_an_object_and_its_bare_deletion_is_understood() -> None:
    kinds = Kinds()
    document = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
    first = kinds.record_of(change("default/deployment/d", document))
    gone = kinds.record_of(change("default/deployment/d", {"metadata": {"name": "d"}}))
    assert first is not None
    assert gone is not None
    assert first.key == gone.key == "/apps/v1/deployments/default/d"


@pytest.mark.parametrize("resource", ["default/podlist", "default/unknown/x", "default/podpatch/p"])
def test_what_is_no_object_of_the_api_is_no_record(resource: str) -> None:
    assert Kinds().record_of(change(resource, {})) is None


def test_a_resource_survives_its_text() -> None:
    for parts in (("", "v1", "pods"), ("apps", "v1", "deployments")):
        assert gvr_parts(gvr_of(*parts)) == parts


# --- requests --------------------------------------------------------------------------------------


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"]),
    st.lists(
        st.sampled_from(
            ["api", "apis", "v1", "namespaces", "a", "..", "%2e%2e", "%2F", "", "watch"]
        )
        | st.text("abc%/.~\x7fä", max_size=6),
        max_size=8,
    ),
    st.text("watch=1&labelSelector%", max_size=30),
)
def test_any_request_is_read_or_refused(method: str, parts: list[str], query: str) -> None:
    try:
        read = read_request(Request(method, "/" + "/".join(parts), query, {}))
    except (BadRequest, NotFound, MethodNotAllowed):
        return
    if isinstance(read, Passed):
        assert ".." not in read.path.split("/")
        return
    for part in (read.namespace, read.name, read.plural, read.group, read.version):
        assert "/" not in part
        assert part not in (".", "..")


def test_verbs_are_told_apart() -> None:
    def verb(method: str, path: str, query: str = "") -> str:
        read = read_request(Request(method, path, query, {}))
        assert isinstance(read, Call)
        return read.verb

    pods = "/api/v1/namespaces/default/pods"
    assert verb("GET", pods) == "list"
    assert verb("GET", pods, "watch=true") == "watch"
    assert verb("GET", f"{pods}/p") == "get"
    assert verb("POST", pods) == "create"
    assert verb("PUT", f"{pods}/p") == "update"
    assert verb("PATCH", f"{pods}/p") == "patch"
    assert verb("DELETE", f"{pods}/p") == "delete"


def test_any_field_can_be_selected_at_the_edge() -> None:
    selector = fields_of("spec.nodeName=edge-1,metadata.name!=p2")
    assert selector.matches({"spec": {"nodeName": "edge-1"}, "metadata": {"name": "p1"}})
    assert not selector.matches({"spec": {"nodeName": "edge-1"}, "metadata": {"name": "p2"}})
    assert not selector.matches({"metadata": {"name": "p1"}})


# --- rights ----------------------------------------------------------------------------------------


def call(verb: str, plural: str, namespace: str = "default", name: str = "", sub: str = "") -> Call:
    return Call(verb, "", "v1", plural, namespace, name, sub, {})


def access(where: str, *rules: dict[str, Any], namespace: str = "default") -> dict[str, Any]:
    bound: dict[str, Any] = {"rules": list(rules)}
    if where == "accessRoleBinding":
        bound["roleBinding"] = {"metadata": {"namespace": namespace}}
    account = {"metadata": {"name": "app", "namespace": "default"}}
    return {"spec": {"serviceAccount": account, where: [bound]}}


APP = "system:serviceaccount:default:app"
READ = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}


@pytest.mark.parametrize(
    ("rule", "asked", "allowed"),
    [
        (READ, call("list", "pods"), True),
        (READ, call("delete", "pods"), False),
        (READ, call("get", "pods", sub="log"), False),
        (READ, call("get", "configmaps"), False),
        ({**READ, "verbs": ["*"]}, call("delete", "pods"), True),
        ({**READ, "resources": ["*"]}, call("get", "secrets"), True),
        ({**READ, "resources": ["pods/log"]}, call("get", "pods", sub="log"), True),
        ({**READ, "resources": ["*/log"]}, call("get", "pods", sub="log"), True),
        ({**READ, "resources": ["pods/log"]}, call("get", "pods"), False),
        ({**READ, "resourceNames": ["p1"]}, call("get", "pods", name="p1"), True),
        ({**READ, "resourceNames": ["p1"]}, call("get", "pods", name="p2"), False),
        ({**READ, "resourceNames": ["p1"]}, call("list", "pods"), False),
        ({**READ, "apiGroups": ["apps"]}, call("get", "pods"), False),
        ({"nonResourceURLs": ["/api*"], "verbs": ["get"]}, Passed("/apis"), True),
        ({"nonResourceURLs": ["/api"], "verbs": ["get"]}, Passed("/apis"), False),
    ],
)
def test_a_rule_allows_what_it_says(rule: Any, asked: Any, allowed: bool) -> None:
    assert may(APP, asked, [access("accessClusterRoleBinding", rule)]) is allowed


def test_a_role_counts_in_its_namespace_and_for_its_account_alone() -> None:
    objects = [access("accessRoleBinding", READ, namespace="other")]
    assert may(APP, call("get", "pods", "other"), objects)
    assert not may(APP, call("get", "pods"), objects)
    assert not may(APP, call("get", "pods", ""), objects)
    assert not may("system:serviceaccount:other:app", call("get", "pods", "other"), objects)


@given(
    st.recursive(
        st.none() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["spec", "rules", "serviceAccount", "metadata"]), inner
            )
        ),
    )
)
def test_an_odd_access_gives_no_right_and_no_fault(odd: Any) -> None:
    document = odd if isinstance(odd, dict) else {"spec": odd}
    assert may(APP, call("get", "pods"), [document]) is False


# --- the window ------------------------------------------------------------------------------------


def record(name: str, version: int, gvr: str = PODS, value: str = "{}") -> Record:
    return Record(f"/core/v1/pods/default/{name}", gvr, "default", name, version, value)


async def test_a_follower_gets_its_own_kind_in_order() -> None:
    window = ChangeWindow()
    follower = window.follow(PODS)
    window.add(record("a", 5), is_deleted=False)
    window.add(record("x", 6, gvr=gvr_of("", "v1", "nodes")), is_deleted=False)
    window.add(record("a", 7), is_deleted=True)
    found = await follower.next(0.0)
    assert [(a.record.version, a.is_deleted) for a in found or []] == [(5, False), (7, True)]


async def test_versions_out_of_order_are_not_missed() -> None:
    window = ChangeWindow()
    window.add(record("b", 102), is_deleted=False)
    window.mark(PODS, 102, window.place)
    window.add(record("a", 101), is_deleted=False)  # an older version that came later
    found = await window.follow(PODS, 102).next(0.0)
    assert [a.record.name for a in found or []] == ["a"]


def test_what_was_never_told_is_gone() -> None:
    window = ChangeWindow()
    window.add(record("a", 5), is_deleted=False)
    with pytest.raises(Gone):
        window.follow(PODS, 4)


async def test_a_forgotten_moment_is_gone_and_a_late_reader_is_let_go() -> None:
    window = ChangeWindow()
    window.mark(PODS, 1, 0)
    follower = window.follow(PODS)
    for number in range(MAX_CHANGES + 1):
        window.add(record("a", number + 2), is_deleted=False)
    with pytest.raises(Gone):
        window.follow(PODS, 1)
    assert follower.is_closed
    assert await follower.next(0.0) is None
    assert window.followers == 0


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50), st.booleans()), max_size=30),
    st.data(),
)
def test_whoever_goes_on_from_a_version_misses_nothing(changes: Any, data: Any) -> None:
    window = ChangeWindow()
    for name, version, is_deleted in changes:
        window.add(record(name, version), is_deleted=is_deleted)
    if not changes:
        return
    at = data.draw(st.integers(0, len(changes) - 1))
    follower = window.follow(PODS, changes[at][1])
    got = [(a.record.name, a.record.version, a.is_deleted) for a in follower._waiting]
    assert got[len(got) - len(changes[at + 1 :]) :] == changes[at + 1 :]


# --- the rest --------------------------------------------------------------------------------------


def test_a_devices_values_become_wishes_and_reports() -> None:
    asks = asks_of(
        {
            "spec": {"properties": [{"name": "temp", "desired": {"value": "25"}}, "odd", {}]},
            "status": {
                "twins": [
                    {"propertyName": "temp", "reported": {"value": "20"}},
                    {"propertyName": "on", "reported": {"value": "true"}},
                    {"propertyName": "none"},
                ]
            },
        }
    )
    temp, on = asks["temp"], asks["on"]
    assert temp is not None
    assert temp.expected is not None
    assert temp.actual is not None
    assert (temp.expected.value, temp.actual.value) == ("25", "20")
    assert on is not None
    assert on.expected is None
    assert set(asks) == {"temp", "on"}


def test_a_token_is_kept_by_what_was_asked() -> None:
    one: Any = {"spec": {"audiences": ["a"], "expirationSeconds": 600}}
    same: Any = {"spec": {"expirationSeconds": 600, "audiences": ["a"]}, "status": {"token": "x"}}
    other: Any = {"spec": {"expirationSeconds": 600}}
    assert token_key("ns", "app", one) == token_key("ns", "app", same)
    assert token_key("ns", "app", one) != token_key("ns", "app", other)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "127.0.0.1:10550",
        "[::1]:10550",
        "::1",
        "localhost:10550",
        "edge-1",
        "kubernetes.default.svc:443",
        "kubernetes.default.svc.cluster.local",
        "169.254.30.10:10550",
    ],
)
def test_anonymous_clients_may_name_this_machine(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:10550", "127.0.0.1.evil.example", "svc.evil.example."]
)
def test_a_name_that_others_give_is_none_of_ours(host: str) -> None:
    with pytest.raises(Forbidden):
        check_host(host)
