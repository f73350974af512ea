"""CloudCore's pure rules: names, layouts, agreement, patches, plans, references, certificates, tokens."""

from __future__ import annotations

import copy
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonpatch
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from cloud.agreement import Base, DesiredSource, Settlement, Winner, settle
from cloud.certificates import (
    KeyPair,
    check_issuer,
    issue,
    make_ca,
    make_server,
    read_node_certificate,
    server_fits,
)
from cloud.devicepatch import desired_patch, with_types
from cloud.mapping import (
    Layout,
    NotMappable,
    Place,
    ditto_namespace,
    features_patch,
    kubernetes_namespace,
    layout_of,
    missing_features,
    reported_by_thing,
    tenant_of,
    thing_id,
    wanted_by_device,
    wanted_by_thing,
)
from cloud.references import references
from cloud.reports import read_report
from cloud.statuses import is_news, reported_by_status, twin_entries
from cloud.syncbook import NEVER, Held
from cloud.tokens import JoinGrant, ca_hash, check_bearer, make_token
from cloud.wanted import FIRST, SECOND, WantedObject, plan, source_of_deletion
from gateway.errors import BadRequest, Forbidden, GatewayError, Unauthenticated
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.names import Operation, Source
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin, TwinValue, ValueMetadata
from tests.cloud_samples import a_device, a_model, a_request

DITTO = re.compile(r"[a-zA-Z]\w*(?:[.-][a-zA-Z]\w*)*", re.ASCII)
NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kubernetes", "ditto"),
    [
        ("default", "default"),
        ("plant-a", "plant-a"),
        ("plant-1", "plant_1"),
        ("a--b", "a_-b"),
        ("4711", "ns.n4711"),
        ("1-2", "ns.n1_2"),
    ],
)
def test_a_namespace_becomes_one_that_ditto_takes(kubernetes: str, ditto: str) -> None:
    assert ditto_namespace(kubernetes, {}) == ditto
    assert kubernetes_namespace(ditto) == kubernetes


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True))
def test_every_namespace_is_escaped_so_that_it_can_be_undone(name: str) -> None:
    escaped = ditto_namespace(name, {})
    assert DITTO.fullmatch(escaped)
    assert kubernetes_namespace(escaped) == name


def test_an_annotation_overrides_the_namespace_if_ditto_takes_it() -> None:
    assert ditto_namespace("4711", {"twinspan.io/ditto-namespace": "org.acme"}) == "org.acme"
    with pytest.raises(NotMappable):
        ditto_namespace("4711", {"twinspan.io/ditto-namespace": "9lives"})


def test_a_thing_id_over_256_characters_is_not_mappable() -> None:
    assert thing_id(DeviceKey("default", "x" * 248), {}) == "default:" + "x" * 248
    with pytest.raises(NotMappable, match="256"):
        thing_id(DeviceKey("default", "x" * 249), {})


def test_the_tenant_is_annotated_or_the_namespace_and_sampled_in_a_demo() -> None:
    assert tenant_of("plant", {"twinspan.io/tenant": "acme"}, demo=True) == "acme"
    assert tenant_of("plant", {}, demo=True) == "plant"
    assert tenant_of("default", {}, demo=True) == "DEFAULT_TENANT"
    assert tenant_of("default", {}, demo=False) == "default"


# --- layouts -----------------------------------------------------------------------------------


def a_layout(**desired: str) -> tuple[DeviceView, Layout]:
    view = DeviceView.read(a_device("lamp", "edge-1", annotations=None, **desired))
    return view, layout_of(view, ModelView.read(a_model()))


def test_properties_are_features_of_their_own_unless_they_are_grouped() -> None:
    grouped: JsonObject = {"twinspan.io/feature": '{"climate": ["temp", "level"]}'}
    view = DeviceView.read(a_device(annotations=grouped))
    layout = layout_of(view, ModelView.read(a_model()))
    assert layout.place("on") == Place("on", "value")
    assert layout.place("temp").reported == ("features", "climate", "properties", "temp")
    assert layout.place("level").desired == ("features", "climate", "desiredProperties", "level")
    assert layout.refused == ()


@pytest.mark.parametrize("annotation", ["{", "[]", '{"a": "b"}', '{"a/b": ["on"]}', "[" * 5_000])
def test_a_bad_grouping_is_told_and_left_out(annotation: str) -> None:
    view = DeviceView.read(a_device(annotations={"twinspan.io/feature": annotation}))
    layout = layout_of(view, ModelView.read(a_model()))
    assert "twinspan.io/feature" in layout.refused[0]
    assert layout.place("on") == Place("on", "value")


def test_a_property_with_a_slash_is_told_and_streams_are_left_out() -> None:
    properties: list[Json] = [{"name": "a/b", "type": "INT"}, {"name": "video", "type": "STREAM"}]
    model = ModelView.read(a_model(properties=properties))
    layout = layout_of(DeviceView.read(a_device()), model)
    assert "a/b" in layout.refused[0]
    assert not {"a/b", "video"} & set(layout.places)


def test_what_a_device_wants_is_typed_and_what_it_cannot_have_is_named() -> None:
    view, layout = a_layout(on="true", level="101", temp="5")
    wanted = wanted_by_device(view, layout)
    assert wanted.values == {"on": True}
    assert set(wanted.bad) == {"level", "temp"}
    assert "at most 100" in wanted.bad["level"]
    assert "ReadOnly" in wanted.bad["temp"]


def test_a_patch_puts_values_where_reading_finds_them() -> None:
    _, layout = a_layout()
    patch = features_patch(layout, {"on": True}, {"temp": 21.5})
    document: JsonObject = {"features": patch}
    assert wanted_by_thing(document, layout) == {"on": True}
    assert reported_by_thing(document, layout) == {"temp": 21.5}
    assert missing_features(layout, document) == {"level": {}}


@pytest.mark.parametrize("features", [None, [], {"on": 5}, {"on": {"desiredProperties": None}}])
def test_an_odd_thing_wants_nothing(features: Json) -> None:
    _, layout = a_layout()
    assert wanted_by_thing({"features": features}, layout) == {}


# --- agreement ---------------------------------------------------------------------------------

A, B, C = 1, 2, 3


@pytest.mark.parametrize(
    ("device", "thing", "base", "winner", "value", "is_conflict"),
    [
        (A, A, None, Winner.NOBODY, A, False),
        (A, B, None, Winner.DEVICE, A, False),
        (None, B, None, Winner.THING, B, False),
        (A, B, Base(B), Winner.DEVICE, A, False),
        (A, B, Base(A), Winner.THING, B, False),
        (A, B, Base(C), Winner.DEVICE, A, True),
        (None, B, Base(B), Winner.DEVICE, None, False),
        (A, None, Base(A), Winner.THING, None, False),
        (None, None, Base(A), Winner.NOBODY, None, False),
    ],
)
def test_who_changed_its_mind_wins_and_the_device_when_both_did(
    device: Json, thing: Json, base: Base | None, winner: Winner, value: Json, is_conflict: bool
) -> None:
    assert settle(device, thing, base) == Settlement(winner, value, is_conflict)


def test_values_are_compared_typed() -> None:
    assert settle(20, 20.0, None).winner is Winner.NOBODY
    assert settle(True, 1, None).winner is Winner.DEVICE


def test_the_annotation_names_the_only_source() -> None:
    device, thing = DesiredSource.read("device"), DesiredSource.read("thing")
    assert settle(A, B, Base(A), device) == Settlement(Winner.DEVICE, A)
    assert settle(A, B, Base(B), thing) == Settlement(Winner.THING, B)
    assert settle(A, None, None, thing) == Settlement(Winner.DEVICE, A)
    assert DesiredSource.read("nonsense") is DesiredSource.BOTH
    assert DesiredSource.read(None) is DesiredSource.BOTH


_values = st.none() | st.integers(0, 3)


@given(_values, _values, st.none() | st.builds(Base, _values))
def test_after_the_loser_is_written_both_agree(
    device: Json, thing: Json, base: Base | None
) -> None:
    first = settle(device, thing, base)
    if first.winner is Winner.DEVICE:
        thing = first.value
    if first.winner is Winner.THING:
        device = first.value
    again = settle(device, thing, Base(first.value))
    assert again == Settlement(Winner.NOBODY, first.value)


# --- patches to Devices --------------------------------------------------------------------------


def applied(document: JsonObject, patch: Any) -> JsonObject:
    result: JsonObject = jsonpatch.apply_patch(copy.deepcopy(document), patch)
    return result


def test_a_wish_is_written_at_its_place_with_type_and_test() -> None:
    document = a_device(on="false")
    view = DeviceView.read(document)
    layout = layout_of(view, ModelView.read(a_model()))
    patch = desired_patch(view, layout, {"on": True, "level": 5}, 77)
    after = DeviceView.read(applied(document, patch))
    assert after.properties["on"].desired == "true"
    assert after.properties["level"].desired == "5"
    assert after.properties["level"].desired_metadata == {"timestamp": "77", "type": "int"}


def test_a_wish_that_is_gone_is_removed_once() -> None:
    document = a_device(on="false")
    view = DeviceView.read(document)
    layout = layout_of(view, ModelView.read(a_model()))
    after = DeviceView.read(applied(document, desired_patch(view, layout, {"on": None}, 1)))
    assert not after.properties["on"].has_desired
    assert desired_patch(after, layout, {"on": None}, 1) == []


def test_a_patch_fails_when_somebody_was_faster() -> None:
    view = DeviceView.read(a_device(on="false"))
    layout = layout_of(view, ModelView.read(a_model()))
    patch = desired_patch(view, layout, {"on": True}, 1)
    with pytest.raises(jsonpatch.JsonPatchTestFailed):
        applied(a_device(on="true"), patch)


def test_a_patch_fails_for_another_device_of_the_same_name() -> None:
    document = a_device(on="false")
    document["metadata"]["uid"] = "first"  # type: ignore[index, call-overload]
    view = DeviceView.read(document)
    layout = layout_of(view, ModelView.read(a_model()))
    patch = desired_patch(view, layout, {"on": True}, 1)
    applied(document, patch)
    document["metadata"]["uid"] = "second"  # type: ignore[index, call-overload]
    with pytest.raises(jsonpatch.JsonPatchTestFailed):
        applied(document, patch)


def test_a_wish_does_not_overwrite_one_that_came_where_there_was_none() -> None:
    before, after = a_device(), a_device(on="false")
    before["metadata"]["resourceVersion"] = "4"  # type: ignore[index, call-overload]
    after["metadata"]["resourceVersion"] = "5"  # type: ignore[index, call-overload]
    view = DeviceView.read(before)
    layout = layout_of(view, ModelView.read(a_model()))
    patch = desired_patch(view, layout, {"on": True}, 1)
    applied(before, patch)
    with pytest.raises(jsonpatch.JsonPatchTestFailed):
        applied(after, patch)


def test_a_property_that_only_the_model_has_is_added_to_the_device() -> None:
    document = a_device()
    document["metadata"]["resourceVersion"] = "9"  # type: ignore[index, call-overload]
    for properties in ([], document["spec"]["properties"][:1]):  # type: ignore[index, call-overload]
        document["spec"]["properties"] = properties  # type: ignore[index, call-overload]
        view = DeviceView.read(document)
        layout = layout_of(view, ModelView.read(a_model()))
        after = applied(document, desired_patch(view, layout, {"level": 7}, 1))
        assert DeviceView.read(after).properties["level"].desired == "7"


def test_wishes_go_to_the_edge_with_their_type() -> None:
    document = a_device(on="true", level="5")
    _, layout = a_layout()
    typed = with_types(document, layout)
    view = DeviceView.read(typed)
    assert view.properties["on"].desired_metadata == {"type": "boolean"}
    assert view.properties["level"].desired_metadata == {"type": "int"}
    assert not view.properties["temp"].has_desired
    assert with_types(typed, layout) is typed
    assert DeviceView.read(document).properties["on"].desired_metadata == {}


# --- what nodes should hold ----------------------------------------------------------------------


def held(uid: str, version: str = "1", kind: str = "Device", name: str = "") -> Held:
    return Held(uid, "v", kind, "default", name or uid, version)


def an_entry(item: Held, **rest: Any) -> WantedObject:
    return WantedObject(item, {}, Source.DEVICE_CONTROLLER, **rest)


def steps(wanted: list[Held], has: list[Held]) -> list[tuple[str, str]]:
    ranks = {"DeviceModel": FIRST, "Device": SECOND}
    found = plan({h.uid: an_entry(h, rank=ranks[h.kind]) for h in wanted}, {h.uid: h for h in has})
    return [(step.operation.value, step.item.uid) for step in found]


def test_models_go_before_devices_and_deletions_last_in_reverse() -> None:
    wanted = [held("d1"), held("m1", kind="DeviceModel")]
    gone = [held("m0", kind="DeviceModel"), held("d0")]
    assert steps(wanted, gone) == [
        ("insert", "m1"),
        ("insert", "d1"),
        ("delete", "d0"),
        ("delete", "m0"),
    ]


def test_additions_may_be_updates_and_deletions_are_told_by_kind() -> None:
    secret = an_entry(held("s1", kind="Secret"), additions=Operation.UPDATE)
    assert [s.operation for s in plan({"s1": secret}, {})] == ["update"]
    pod = an_entry(held("p1", kind="Pod"), finish=lambda document: {**document, "a": 1})
    assert [s.operation for s in plan({"p1": pod}, {})] == ["insert"]
    assert pod.content == {"a": 1}
    (gone,) = plan({}, {"p1": pod.held})
    assert gone.wanted is None
    assert source_of_deletion(gone.item) == "edgecontroller"
    assert source_of_deletion(held("d1")) == "devicecontroller"


def test_only_newer_versions_are_sent() -> None:
    assert steps([held("d1", "10")], [held("d1", "9")]) == [("update", "d1")]
    assert steps([held("d1", "9")], [held("d1", "10")]) == []
    assert steps([held("d1", "9")], [held("d1", NEVER)]) == [("insert", "d1")]
    assert steps([held("d1", "b")], [held("d1", "a")]) == [("update", "d1")]


def test_an_object_waits_until_an_old_one_of_its_name_is_gone() -> None:
    assert steps([held("new", name="lamp")], [held("old", name="lamp")]) == [("delete", "old")]


# --- reports -------------------------------------------------------------------------------------


def a_twin(value: str | None, kind: str = "") -> Twin:
    return Twin(
        actual=TwinValue(value, ValueMetadata(5)), metadata={"type": kind} if kind else None
    )


def test_a_report_is_typed_by_the_model_or_by_the_edge() -> None:
    _, layout = a_layout()
    twins = {"level": a_twin("7"), "extra": a_twin("1.5", "float"), "odd": a_twin("x"), "on": None}
    reading = read_report(layout, twins, {})
    assert reading.values == {"level": 7, "extra": 1.5, "odd": "x", "on": None}
    assert reading.faults == {}
    entry = reading.entries["level"]
    assert entry is not None
    assert entry["reported"] == {"value": "7", "metadata": {"timestamp": "5", "type": "int"}}


def test_a_value_that_does_not_parse_is_a_fault_and_the_rest_is_read() -> None:
    _, layout = a_layout()
    reading = read_report(layout, {"level": a_twin("warm"), "on": a_twin("true")}, {})
    assert reading.values == {"on": True}
    assert list(reading.faults) == ["level"]
    assert list(reading.entries) == ["on"]


def test_the_same_value_is_news_after_a_minute() -> None:
    def entry(value: str, millis: int) -> JsonObject:
        return {"reported": {"value": value, "metadata": {"timestamp": str(millis)}}}

    assert is_news(None, entry("1", 0))
    assert is_news(entry("1", 0), entry("2", 1))
    assert not is_news(entry("1", 0), entry("1", 59_999))
    assert is_news(entry("1", 0), entry("1", 60_000))


def test_a_device_status_is_read_back_typed() -> None:
    _, layout = a_layout()
    twins: list[Json] = [
        {"propertyName": "level", "reported": {"value": "7"}},
        {"propertyName": "on", "reported": {"value": "perhaps"}},
        {"propertyName": ""},
        5,
    ]
    status: JsonObject = {"status": {"twins": twins}}
    assert reported_by_status(status, layout) == {"level": 7}
    assert list(twin_entries(status)) == ["level", "on"]
    assert reported_by_status(None, layout) == {}


def test_a_pod_names_what_its_node_may_read() -> None:
    pod: JsonObject = {
        "spec": {
            "serviceAccountName": "robot",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"configMap": {"name": "settings"}},
                {"secret": {"secretName": "keys"}},
                {"persistentVolumeClaim": {"claimName": "disk"}},
                {"projected": {"sources": [{"configMap": {"name": "ca"}}]}},
            ],
            "containers": [
                {
                    "envFrom": [{"configMapRef": {"name": "env"}}],
                    "env": [{"valueFrom": {"secretKeyRef": {"name": "word"}}}, {"name": "plain"}],
                }
            ],
        }
    }
    assert references(pod) == {
        ("serviceaccounttoken", "robot"),
        ("secret", "pull"),
        ("configmap", "settings"),
        ("secret", "keys"),
        ("persistentvolumeclaim", "disk"),
        ("configmap", "ca"),
        ("configmap", "env"),
        ("secret", "word"),
    }
    assert references({"spec": 5}) == {("serviceaccounttoken", "default")}


# --- certificates and tokens -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def ca() -> KeyPair:
    return make_ca(NOW)


def test_the_ca_is_kubeedges(ca: KeyPair) -> None:
    certificate = x509.load_der_x509_certificate(ca.certificate)
    assert certificate.subject.rfc4514_string() == "CN=KubeEdge"
    assert certificate.serial_number == 1_024
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert usage.digital_signature
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_server_certificate_names_its_hosts_and_is_renewed_for_others(ca: KeyPair) -> None:
    server = make_server(ca, ["localhost", "127.0.0.1", "::1"], NOW)
    assert server_fits(ca, server, ["localhost", "127.0.0.1"], NOW)
    assert not server_fits(ca, server, ["edge.example.org"], NOW)
    assert not server_fits(ca, server, ["localhost"], NOW + timedelta(days=36_401))
    assert not server_fits(make_ca(NOW), server, ["localhost"], NOW)
    assert "EC PRIVATE KEY" in server.key_pem.decode()


def test_an_edge_certificate_carries_the_request_s_subject(ca: KeyPair) -> None:
    _, csr = a_request("edge-1")
    issued = issue(ca, csr, "edge-1", [], NOW, 365)
    certificate = x509.load_der_x509_certificate(issued.der)
    assert "CN=system:node:edge-1" in certificate.subject.rfc4514_string()
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [usage.dotted_string for usage in usages] == ["1.3.6.1.5.5.7.3.2"]
    seen = read_node_certificate(issued.der)
    assert (seen.node, seen.serial) == ("edge-1", issued.serial)
    assert seen.issued_at == issued.issued_at
    assert issued.expires_at == (NOW + timedelta(days=365)).timestamp()
    check_issuer(ca, issued.der, NOW)


@pytest.mark.parametrize(
    ("csr", "node", "usages", "why"),
    [
        (b"", "edge-1", [], "not a certificate request"),
        (b"\x30" * 70_000, "edge-1", [], "at most"),
        (a_request("edge-2")[1], "edge-1", [], "CN=system:node:edge-1"),
        (a_request("edge-1", organisation="acme")[1], "edge-1", [], "O=system:nodes"),
        (a_request("edge-1", common="KubeEdge")[1], "edge-1", [], "CN="),
        (a_request("edge-1")[1], "edge-1", [3], "expected 1 or 2"),
        (a_request("edge-1")[1][:-4] + b"oops", "edge-1", [], "certificate request"),
        (a_request("Edge")[1], "Edge", [], "node name"),
    ],
)
def test_a_request_that_is_not_this_nodes_is_refused(
    ca: KeyPair, csr: bytes, node: str, usages: list[int], why: str
) -> None:
    with pytest.raises(BadRequest, match=re.escape(why)):
        issue(ca, csr, node, usages, NOW, 365)


def test_a_certificate_of_another_ca_or_time_is_refused(ca: KeyPair) -> None:
    _, csr = a_request("edge-1")
    issued = issue(ca, csr, "edge-1", [1, 2], NOW, 1)
    with pytest.raises(Forbidden, match="not of this CA"):
        check_issuer(make_ca(NOW), issued.der, NOW)
    with pytest.raises(Forbidden, match="not valid now"):
        check_issuer(ca, issued.der, NOW + timedelta(days=2))
    with pytest.raises(Forbidden, match="not a node's"):
        read_node_certificate(ca.certificate)


def test_a_token_has_four_parts_and_the_ca_s_hash_first(ca: KeyPair) -> None:
    token = make_token(ca.certificate, ca.key, expires=4_102_444_800)
    first, *rest = token.split(".")
    assert (first, len(rest)) == (ca_hash(ca.certificate), 3)
    assert check_bearer("Bearer " + ".".join(rest), ca.key, "edge-1") == JoinGrant()


def test_a_token_may_be_bound_to_a_node_and_allow_to_replace_it(ca: KeyPair) -> None:
    token = make_token(
        ca.certificate, ca.key, expires=4_102_444_800, node="edge-1", replace=True
    ).partition(".")[2]
    assert check_bearer(f"Bearer {token}", ca.key, "edge-1") == JoinGrant("edge-1", True)
    with pytest.raises(Forbidden, match="for node edge-1"):
        check_bearer(f"Bearer {token}", ca.key, "edge-2")


def test_tokens_that_are_absent_foreign_expired_or_unsigned_are_refused(ca: KeyPair) -> None:
    def bearer(pair: KeyPair, expires: int) -> str:
        return "Bearer " + make_token(ca.certificate, pair.key, expires=expires).partition(".")[2]

    unsigned = "Bearer eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDB9."
    for header, refusal in (
        ("", "bad-token"),
        ("Basic x", "bad-token"),
        ("Bearer " + "x" * 5_000, "bad-token"),
        (bearer(make_ca(NOW), 4_102_444_800), "bad-token"),
        (unsigned, "bad-token"),
        (bearer(ca, 1), "token-expired"),
    ):
        with pytest.raises(Unauthenticated) as caught:
            check_bearer(header, ca.key, "edge-1")
        assert caught.value.details["refusal"] == refusal


def test_a_token_for_an_impossible_node_is_not_made(ca: KeyPair) -> None:
    with pytest.raises(GatewayError, match="node name"):
        make_token(ca.certificate, ca.key, expires=1, node="x" * 53)


def test_what_nobody_has_looked_at_yet_stays_as_it_is() -> None:
    unknown = an_entry(held("c1", "0", kind="ConfigMap"), is_known=False)
    assert plan({"c1": unknown}, {"c1": held("c1", "4", kind="ConfigMap")}) == []
    assert plan({"c1": unknown}, {}) == []
