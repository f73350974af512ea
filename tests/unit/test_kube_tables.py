"""Tables, ages, paths, names and what a request line means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, Conflict, Forbidden, GatewayError, NotFound, Unprocessable
from gateway.kube.builtin import builtin_registry, definitions
from gateway.kube.crds import kinds_of
from gateway.kube.typedata import catalogue
from gateway.model.json import Json, JsonObject
from gateway.wire.kube import discovery, names, openapi, requests
from gateway.wire.kube.clock import age, parse_rfc3339, rfc3339, rfc3339_micro
from gateway.wire.kube.jsonpath import compile_path
from gateway.wire.kube.requests import PageToken, Target, Wanted
from gateway.wire.kube.status import AlreadyExists, Cause, error_from, invalid, status_of
from gateway.wire.kube.tables import table

NOW = 1_795_377_600.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (202, "3m22s"), (599, "9m59s"),
        (600, "10m"), (10_799, "179m"), (10_800, "3h"), (18_600, "5h10m"), (28_800, "8h"), (172_799, "47h"),
        (172_800, "2d"), (183_600, "2d3h"), (691_200, "8d"), (63_072_000, "2y"), (63_158_400, "2y1d"),
        (252_288_000, "8y"), (400_000_000, "12y"),
    ],
)  # fmt: skip
def test_an_age_is_short(seconds: float, text: str) -> None:
    assert age(seconds) == text


@given(st.floats(-100, 2**34))
def test_every_age_has_a_text(seconds: float) -> None:
    assert age(seconds)


def test_instants_are_written_and_read() -> None:
    assert rfc3339(NOW) == "2026-11-22T20:00:00Z"
    assert rfc3339_micro(NOW + 0.25) == "2026-11-22T20:00:00.250000Z"
    assert parse_rfc3339("2026-11-22T21:00:00+01:00") == NOW
    assert parse_rfc3339("2026-11-22T20:00:00") is None
    assert parse_rfc3339("noon") is None
    assert parse_rfc3339(5) is None


DOCUMENT: JsonObject = {
    "spec": {"a": 1, "items": [{"n": "x", "v": 1}, {"n": "y", "v": 2}], "odd.key": "z"},
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".spec.a", [1]),
        ("$.spec.a", [1]),
        ("{.spec.a}", [1]),
        (".spec.items[1].n", ["y"]),
        (".spec.items[-1].n", ["y"]),
        (".spec.items[9].n", []),
        (".spec.items[*].v", [1, 2]),
        ('.spec.items[?(@.n=="y")].v', [2]),
        (".spec.items[?(@.v==1)].n", ["x"]),
        (".spec['odd.key']", ["z"]),
        (r".spec.odd\.key", ["z"]),
        (".spec.none.deeper", []),
        (".spec.a.deeper", []),
    ],
)
def test_a_path_finds_values(path: str, expected: list[Json]) -> None:
    assert compile_path(path)(DOCUMENT) == expected


@pytest.mark.parametrize("path", ["spec", ".spec[", ".spec[?(@.a>1)]", "." * 2_000, ".a..b"])
def test_a_path_beyond_the_grammar_is_refused(path: str) -> None:
    with pytest.raises(BadRequest):
        compile_path(path)


def rows(plural: str, item: JsonObject) -> list[Json]:
    registry = builtin_registry()
    for definition in definitions():
        for kind in kinds_of(definition):
            registry.add(kind)
    resource = next(kind for kind in registry if kind.plural == plural)
    made = table(resource, [item], {}, NOW)
    columns, found = made["columnDefinitions"], made["rows"]
    assert isinstance(columns, list)
    assert isinstance(found, list)
    (row,) = found
    assert isinstance(row, dict)
    cells = row["cells"]
    assert isinstance(cells, list)
    assert len(cells) == len(columns)
    return cells


SEEN = "2026-11-22T19:59:55Z"
META: JsonObject = {"name": "x", "creationTimestamp": "2026-11-22T19:58:00Z"}


@pytest.mark.parametrize(
    ("plural", "item", "cells"),
    [
        ("namespaces", {"status": {"phase": "Active"}}, ["x", "Active", "2m"]),
        ("configmaps", {"data": {"a": "1"}, "binaryData": {"b": "", "c": ""}}, ["x", 3, "2m"]),
        ("secrets", {"type": "Opaque", "data": {"a": ""}}, ["x", "Opaque", 1, "2m"]),
        ("serviceaccounts", {}, ["x", "2m"]),
        ("leases", {"spec": {"holderIdentity": "n"}}, ["x", "n", "2m"]),
        ("devicemodels", {"spec": {"protocol": "modbus"}}, ["x", "modbus", "2m"]),
        ("devices", {"spec": {"nodeName": "n"}}, ["x", None, "n", None, "2m"]),
        ("devicestatuses", {"status": {"state": "ok", "lastOnlineTime": SEEN}},
         ["x", "ok", "5s", None, "2m"]),
        ("customresourcedefinitions", {}, ["x", "2026-11-22T19:58:00Z"]),
    ],
)  # fmt: skip
def test_a_row_shows_its_object(plural: str, item: JsonObject, cells: list[Json]) -> None:
    assert rows(plural, {"metadata": META, **item}) == cells


def test_a_node_row_tells_state_roles_and_addresses() -> None:
    node: JsonObject = {
        "metadata": {
            **META,
            "labels": {"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/agent": ""},
        },
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1"},
        },
    }
    assert rows("nodes", node) == [
        "x", "NotReady,SchedulingDisabled", "agent,edge", "2m", "v1", "10.0.0.1", "<none>",
        "<unknown>", "<unknown>", "<unknown>",
    ]  # fmt: skip
    assert rows("nodes", {"metadata": META})[1:3] == ["Unknown", "<none>"]


def test_an_event_row_tells_when_and_about_what() -> None:
    event: JsonObject = {
        "metadata": META,
        "lastTimestamp": "2026-11-22T19:59:00Z",
        "type": "Warning",
        "reason": "NotMappable",
        "involvedObject": {"kind": "Device", "name": "d"},
        "source": {"component": "c", "host": "h"},
        "message": "text\n",
        "count": 4,
    }
    assert rows("events", event) == [
        "60s", "Warning", "NotMappable", "device/d", "", "c, h", "text", "<unknown>", 4, "x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/nodes", Target("v1", "nodes")),
        ("/api/v1/nodes/n/status", Target("v1", "nodes", "", "n", "status")),
        ("/api/v1/namespaces", Target("v1", "namespaces")),
        ("/api/v1/namespaces/a", Target("v1", "namespaces", "", "a")),
        ("/api/v1/namespaces/a/status", Target("v1", "namespaces", "", "a", "status")),
        ("/api/v1/namespaces/a/pods", Target("v1", "pods", "a")),
        ("/apis/g/v1/namespaces/a/devices/d", Target("g/v1", "devices", "a", "d")),
        ("/apis/g/v1/devices/", Target("g/v1", "devices")),
        ("/apis/g/v1", None),
        ("/apis/g", None),
        ("/api/v1", None),
        ("/healthz", None),
        ("/api/v1/nodes/n/proxy/a/b", None),
    ],
)
def test_a_path_names_its_target(path: str, target: Target | None) -> None:
    assert requests.parse_target(path) == target


OLD_TABLES = (
    "application/json;as=Table;v=v9;g=meta.k8s.io,"
    "application/json;as=Table;v=v1beta1;g=meta.k8s.io,*/*"
)
TABLES = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, Wanted()),
        ("*/*", Wanted()),
        (TABLES, Wanted("table", "v1")),
        (OLD_TABLES, Wanted("table", "v1beta1")),
        ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Wanted("partial", "v1")),
        ("application/vnd.kubernetes.protobuf,application/json", Wanted()),
        ("application/vnd.kubernetes.protobuf", None),
        ("text/html", None),
        ("application/*", None),
        ("application/json;as=Table;v=v1", None),
        ("application/json;as=Table;g=meta.k8s.io", None),
        ("application/json;stream=watch", None),
        ("application/yaml;q=0.1,application/json;q=0.9", Wanted()),
        ("*/*,application/yaml", Wanted(is_yaml=True)),
    ],
)  # fmt: skip
def test_the_first_form_that_is_had_is_taken(accept: str | None, wanted: Wanted | None) -> None:
    assert requests.negotiate(accept) == wanted


def test_aggregated_discovery_is_given_to_those_who_ask() -> None:
    known = discovery.AGGREGATED_VERSIONS
    asked = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList,application/json"
    assert requests.aggregated_version(asked.format("v2"), known) == "v2"
    assert requests.aggregated_version(asked.format("v9"), known) is None
    assert requests.aggregated_version("application/json", known) is None


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,20}[a-z0-9])?", fullmatch=True)


@given(st.builds(PageToken, st.integers(1, 2**60), NAMES | st.just(""), NAMES))
def test_a_page_token_survives_the_client(token: PageToken) -> None:
    assert requests.read_token(requests.write_token(token)) == token


@given(st.text(max_size=30))
def test_a_foreign_token_is_refused(text: str) -> None:
    try:
        requests.read_token(text)
    except BadRequest:
        return


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "9" * 30, "²"])
def test_a_version_is_a_whole_number(text: str) -> None:
    with pytest.raises(BadRequest, match="invalid syntax"):
        requests.resource_version({"resourceVersion": text})


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (names.subdomain_fault, ["a", "a.b-c", "0"], ["", "A", "a_b", ".a", "a-", "a" * 254]),
        (names.label_fault, ["a", "a-b"], ["a.b", "a" * 64, "-a"]),
        (
            names.qualified_fault,
            ["a", "A.b_c", "x.io/a"],
            ["", "/a", "x.io/", "X/a", "a" * 64, "a/b/c", "-"],
        ),
        (names.label_value_fault, ["", "A.b_c"], ["-a", "a b", "a" * 64]),
        (names.config_key_fault, ["a", ".a", "A_b-c.d"], ["", ".", "..", "..a", "a/b", "a" * 254]),
        (names.path_segment_fault, ["A:b", "ä"], [".", "..", "a/b", "a%"]),
    ],
)
def test_names_follow_their_grammar(check: names.Rule, good: list[str], bad: list[str]) -> None:
    assert [name for name in good if check(name) is not None] == []
    assert [name for name in bad if check(name) is None] == []


def test_metadata_faults_name_their_field() -> None:
    metadata: JsonObject = {
        "name": "A",
        "labels": {"-": "ok", "a": "b c"},
        "annotations": {"x": "y" * 300_000, "-": ""},
        "finalizers": ["a b"],
        "ownerReferences": [{"kind": "K", "name": "n", "apiVersion": "v1"}],
    }
    found = {cause.field for cause in names.metadata_faults(metadata, names.subdomain_fault)}
    assert found == {
        "metadata.name", "metadata.labels", "metadata.annotations", "metadata.finalizers",
        "metadata.ownerReferences.uid",
    }  # fmt: skip
    assert names.metadata_faults({}, names.subdomain_fault)[0].reason == "FieldValueRequired"


def test_a_status_tells_code_reason_and_causes() -> None:
    error = invalid(
        "Device",
        "devices.kubeedge.io",
        "d",
        [Cause("FieldValueRequired", "Required value", "spec.a")],
    )
    status = status_of(error)
    assert (status["code"], status["reason"], status["status"]) == (422, "Invalid", "Failure")
    assert status["message"] == 'Device.devices.kubeedge.io "d" is invalid: spec.a: Required value'
    assert status["details"] == {
        "name": "d", "group": "devices.kubeedge.io", "kind": "Device",
        "causes": [{"reason": "FieldValueRequired", "message": "Required value", "field": "spec.a"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "reason", "cls"),
    [
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (403, "Forbidden", Forbidden),
        (422, "Invalid", Unprocessable),
        (418, "", BadRequest),
        (502, "", GatewayError),
    ],
)
def test_a_foreign_status_becomes_our_error(
    code: int, reason: str, cls: type[GatewayError]
) -> None:
    error = error_from({"reason": reason, "message": "m", "details": {"name": "n"}}, code)
    assert isinstance(error, cls)
    assert error.status == code
    assert status_of(error)["code"] == code


def test_every_served_version_has_a_complete_document() -> None:
    registry = builtin_registry()
    for definition in definitions():
        for kind in kinds_of(definition):
            registry.add(kind)
    for group_version in registry.group_versions():
        document: Any = openapi.document(registry, catalogue(), group_version, "t", "v")
        schemas = document["components"]["schemas"]
        assert references(document) <= {f"#/components/schemas/{name}" for name in schemas}


def references(node: Json) -> set[str]:
    if isinstance(node, list):
        return {name for item in node for name in references(item)}
    if not isinstance(node, dict):
        return set()
    found = {name for item in node.values() for name in references(item)}
    link = node.get("$ref")
    return found | {link} if isinstance(link, str) else found


def test_discovery_in_both_forms_lists_the_same_kinds() -> None:
    registry = builtin_registry()
    plain: Any = discovery.api_resource_list(registry, "v1")
    listed = {row["name"] for row in plain["resources"]}
    assert {"nodes", "nodes/status", "configmaps", "pods"} <= listed
    assert discovery.api_resource_list(registry, "v9") is None
    assert discovery.api_group(registry, "nope") is None
    grouped: Any = discovery.aggregated(registry, "v2", core=True)
    (core,) = grouped["items"]
    shown = {row["resource"] for row in core["versions"][0]["resources"]}
    assert shown == {name for name in listed if "/" not in name}


def test_the_second_openapi_is_an_empty_shell() -> None:
    assert openapi.v2_protobuf("T", "v1") == b"\n\x032.0\x12\x07\n\x01T\x12\x02v1B\x00"
    assert openapi.v2_json("T", "v1")["paths"] == {}
