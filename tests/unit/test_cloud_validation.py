"""What KubeEdge's admission webhooks refuse, as pure rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from cloud.validation import (
    NOT_UNIQUE,
    device_fault,
    device_warnings,
    endpoint_fault,
    model_fault,
    model_warnings,
    rule_fault,
    upgrade_fault,
    with_autonomy,
)
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

# --- devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        {"spec": {"properties": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}},
        {"spec": {"propertyVisitors": [{"propertyName": "a"}, {"propertyName": "a"}]}},
        {"status": {"twins": [{"propertyName": "a"}, {"propertyName": "a"}]}},
    ],
)
def test_a_property_that_a_device_names_twice_is_refused(document: JsonObject) -> None:
    assert device_fault(document) == NOT_UNIQUE


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"spec": {"properties": "odd"}},
        {"spec": {"properties": [{"name": "a"}, 7, {"name": "b"}]}},
        {
            "spec": {"propertyVisitors": [{"propertyName": "a"}]},
            "status": {"twins": [{"propertyName": "a"}]},
        },
    ],
)
def test_a_device_that_names_each_property_once_passes(document: JsonObject) -> None:
    assert device_fault(document) == ""


def a_model(*properties: JsonObject) -> JsonObject:
    return {"metadata": {"name": "m1"}, "spec": {"properties": list(properties)}}


@pytest.mark.parametrize(
    ("properties", "fault"),
    [
        (({"name": "a", "type": "INT"}, {"name": "b"}), ""),
        (({"name": "a", "type": "INT"}, {"name": "a", "type": "STRING"}), NOT_UNIQUE),
        (({"name": "a", "type": {"int": {}}},), ""),
        (({"name": "a", "type": {}},), "property a: exactly one type must be set"),
        (
            ({"name": "a", "type": {"int": {}, "string": {}}},),
            "property a: exactly one type must be set",
        ),
    ],
)
def test_a_model_names_each_property_once_and_gives_it_one_type(
    properties: tuple[JsonObject, ...], fault: str
) -> None:
    assert model_fault(a_model(*properties)) == fault


def a_device(**spec: Json) -> DeviceView:
    base: JsonObject = {"nodeName": "edge-1", "deviceModelRef": {"name": "m1"}}
    return DeviceView.read({"metadata": {"name": "d1"}, "spec": {**base, **spec}})


def warned(model: ModelView | None = None, **spec: Json) -> str:
    return "\n".join(device_warnings(a_device(**spec), model))


def test_what_of_a_device_will_not_work_is_warned_of() -> None:
    model = ModelView.read(
        a_model(
            {"name": "temp", "type": "INT", "accessMode": "ReadWrite", "maximum": "100"},
            {"name": "level", "type": "INT", "accessMode": "ReadOnly"},
        )
    )
    assert warned(model, properties=[{"name": "temp", "desired": {"value": "25"}}]) == ""
    assert warned(None) == "DeviceModel m1 does not exist yet: the Device waits for it"
    assert "no node is named" in warned(model, nodeName="")
    assert warned(model, properties=[{"name": "x"}]) == "property x: not in DeviceModel m1"
    assert "at most 100" in warned(
        model, properties=[{"name": "temp", "desired": {"value": "101"}}]
    )
    assert "ReadOnly" in warned(model, properties=[{"name": "level", "desired": {"value": "1"}}])
    assert warned(
        model,
        protocol={"protocolName": "modbus"},
        properties=[{"name": "temp", "visitors": {"protocolName": "opcua"}}],
    ) == ("property temp: its visitors are of protocol opcua, the Device is of modbus")
    assert (
        warned(model, methods=[{"name": "set", "propertyNames": ["temp", "y"]}])
        == "method set: there is no property y"
    )


def test_warnings_have_an_end() -> None:
    many: list[Json] = [{"name": f"p{n}"} for n in range(100)]
    lines = device_warnings(a_device(properties=many), ModelView.read(a_model()))
    assert (len(lines), lines[-1]) == (11, "and more")


def test_bounds_of_a_model_that_fit_nothing_are_warned_of() -> None:
    low: JsonObject = {"name": "a", "type": "INT", "minimum": "9", "maximum": "1"}
    odd: JsonObject = {"name": "b", "type": "INT", "minimum": "few"}
    fine: JsonObject = {"name": "c", "type": "INT", "minimum": "-1", "maximum": "1.5"}
    assert model_warnings(ModelView.read(a_model(low, odd, fine))) == (
        "property a: its minimum is above its maximum, no value fits",
        "property b: minimum 'few' is not a number and does not count",
    )


# --- rules ------------------------------------------------------------------------------------------

ENDS: Mapping[str, JsonObject] = {
    kind: {"spec": {"ruleEndpointType": kind}} for kind in ("rest", "eventbus", "servicebus")
}
SAID: Mapping[str, Json] = {
    "rest": {"path": "/a"},
    "eventbus": {"topic": "t", "node_name": "n"},
    "servicebus": {"target_url": "http://x", "node_name": "n"},
}
WANTED: Mapping[str, Json] = {
    "rest": {"resource": "http://x"},
    "eventbus": {"topic": "t"},
    "servicebus": {"path": "/p"},
}


def a_rule(source: str, target: str, name: str = "r", **spec: Json) -> JsonObject:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "source": source,
            "target": target,
            "sourceResource": SAID.get(source, {}),
            "targetResource": WANTED.get(target, {}),
            **spec,
        },
    }


@pytest.mark.parametrize("source", ENDS)
@pytest.mark.parametrize("target", ENDS)
def test_the_pairs_of_ends_are_those_of_kubeedge(source: str, target: str) -> None:
    fault = rule_fault(a_rule(source, target), ENDS, [])
    assert (fault == "") is ((source == "rest") != (target == "rest"))
    if fault:
        assert fault == (
            f"the rule which is from source ruleEndpoint type {source}"
            f" to target ruleEndpoint type {target} is not validate"
        )


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (
            a_rule("gone", "eventbus"),
            "can't get source ruleEndpoint default/gone."
            ' Reason: ruleendpoints.rules.kubeedge.io "gone" not found',
        ),
        (
            a_rule("rest", "gone"),
            "can't get target ruleEndpoint default/gone."
            ' Reason: ruleendpoints.rules.kubeedge.io "gone" not found',
        ),
        (
            a_rule("rest", "eventbus", sourceResource={}),
            '"path" property missed in sourceResource when ruleEndpoint is "rest"',
        ),
        (
            a_rule("eventbus", "rest", sourceResource={"topic": "t"}),
            '"node_name" property missed in sourceResource when ruleEndpoint is "eventbus"',
        ),
        (
            a_rule("servicebus", "rest", sourceResource={"node_name": "n"}),
            '"target_url" property missed in sourceResource when ruleEndpoint is "servicebus"',
        ),
        (
            a_rule("eventbus", "rest", targetResource={}),
            '"resource" property missed in targetResource when ruleEndpoint is "rest"',
        ),
        (
            a_rule("rest", "servicebus", targetResource={}),
            '"path" property missed in targetResource when ruleEndpoint is "servicebus"',
        ),
    ],
)
def test_a_rule_that_lacks_something_is_refused(rule: JsonObject, fault: str) -> None:
    assert rule_fault(rule, ENDS, []) == fault


def test_what_one_rule_takes_no_other_takes() -> None:
    rest, bus = a_rule("rest", "eventbus", "one"), a_rule("eventbus", "rest", "two")
    taken = rule_fault(a_rule("rest", "servicebus"), ENDS, [bus, rest])
    assert taken == "source properties exist in Rule default/one. Path: /a"
    taken = rule_fault(a_rule("eventbus", "rest"), ENDS, [rest, bus])
    assert taken == "source properties exist in Rule default/two. Node_name: n, topic: t"
    other = a_rule("eventbus", "rest", sourceResource={"topic": "t", "node_name": "elsewhere"})
    assert rule_fault(other, ENDS, [rest, bus]) == ""


@pytest.mark.parametrize(
    ("properties", "fault"),
    [
        (
            {},
            '"service_port" property missed in property when ruleEndpoint is "servicebus"',
        ),
        ({"service_port": "http"}, "port should be integer"),
        ({"service_port": "0"}, "port must be in range 1-65535"),
        ({"service_port": "65536"}, "port must be in range 1-65535"),
        ({"service_port": "9" * 5_000}, "port must be in range 1-65535"),
        ({"service_port": "8080"}, ""),
    ],
)
def test_a_service_has_a_port(properties: JsonObject, fault: str) -> None:
    spec: JsonObject = {"ruleEndpointType": "servicebus", "properties": properties}
    assert endpoint_fault({"spec": spec}) == fault
    assert endpoint_fault({"spec": {**spec, "ruleEndpointType": "rest"}}) == ""


# --- upgrades --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"version": "v1.23.1", "nodeNames": ["n"]}, ""),
        ({"version": "v1.23.1-beta.0+5", "labelSelector": {}}, ""),
        ({}, "version must not be empty"),
        ({"version": "1.2.3"}, "version must begin with prefix 'v'"),
        ({"version": "v1.2"}, "version is not a semver compatible version: v1.2"),
        ({"version": "v1.2.3; rm"}, "version is not a semver compatible version: v1.2.3; rm"),
        ({"version": "v0.0.0"}, "version must contain at least major.minor.patch components"),
        ({"version": "v1.2.3"}, "both NodeNames and LabelSelector are NOT specified"),
        (
            {"version": "v1.2.3", "nodeNames": ["n"], "labelSelector": {}},
            "both NodeNames and LabelSelector are specified",
        ),
    ],
)
def test_an_upgrade_names_a_version_and_nodes_in_one_way(spec: JsonObject, fault: str) -> None:
    assert upgrade_fault({"spec": spec}, None) == fault


def test_an_upgrade_never_changes() -> None:
    old: JsonObject = {"spec": {"version": "v1.2.3", "nodeNames": ["n"]}}
    new: JsonObject = {"spec": {"version": "v1.2.4", "nodeNames": ["n"]}}
    assert upgrade_fault(old, old) == ""
    assert upgrade_fault(new, old) == "spec fields are not allowed to update once it's created"


# --- Pods that stay ----------------------------------------------------------------------------------


def a_pod(tolerations: Json = None, **labels: str) -> JsonObject:
    return {
        "metadata": {"labels": cast("JsonObject", labels)},
        "spec": {"containers": [], "tolerations": tolerations},
    }


STAYS: JsonObject = {"key": "node.kubernetes.io/unreachable", "operator": "Exists"}


def test_a_pod_with_the_label_is_never_evicted_for_an_unreachable_node() -> None:
    short: JsonObject = {**STAYS, "effect": "NoExecute", "tolerationSeconds": 300}
    other: JsonObject = {"key": "node.kubernetes.io/not-ready", "operator": "Exists"}
    label = {"app-offline.kubeedge.io": "autonomy"}
    for before, after in (
        (None, [STAYS]),
        ([short, other], [other, STAYS]),
        ([short, short], [STAYS]),
    ):
        pod = with_autonomy(a_pod(cast("Json", before), **label))
        assert cast("Any", pod)["spec"] == {"containers": [], "tolerations": after}
        assert with_autonomy(pod) is pod
    late = a_pod(cast("Json", [STAYS, other]), **label)
    assert with_autonomy(late) is late  # what others added later does not move it


def test_a_pod_without_the_label_is_left_alone() -> None:
    for labels in ({}, {"app-offline.kubeedge.io": "other"}):
        pod = a_pod(**labels)
        assert with_autonomy(pod) is pod
