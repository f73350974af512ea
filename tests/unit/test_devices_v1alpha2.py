"""Devices and models of v1alpha2, read as the views that everybody else uses."""

from __future__ import annotations

import copy
from typing import Any, cast

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.devicepatch import desired_patch, with_types
from cloud.mapping import layout_of
from cloud.validation import NOT_UNIQUE, device_fault, model_fault
from gateway.kube.builtin import definitions
from gateway.kube.crds import kinds_of
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.devices_v1alpha2 import as_v1beta1, is_v1alpha2, model_as_v1beta1
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.values import PropertyType, ValueRule
from gateway.wire.kube import validate
from gateway.wire.kube.resources import ResourceType

MODEL: JsonObject = {
    "metadata": {"name": "boiler", "namespace": "default"},
    "spec": {
        "properties": [
            {
                "name": "temp",
                "description": "of the water",
                "type": {"int": {"accessMode": "ReadWrite", "maximum": 100, "unit": "C"}},
            },
            {"name": "level", "type": {"double": {"accessMode": "ReadOnly", "minimum": 0.5}}},
            {"name": "on", "type": {"boolean": {"accessMode": "ReadWrite", "defaultValue": True}}},
        ]
    },
}
DEVICE: JsonObject = {
    "metadata": {"name": "b1", "namespace": "default", "uid": "u1", "resourceVersion": "7"},
    "spec": {
        "deviceModelRef": {"name": "boiler"},
        "nodeSelector": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {"key": "", "operator": "In", "values": ["edge-1", "edge-2"]}
                    ]
                }
            ]
        },
        "protocol": {
            "modbus": {"slaveID": 1},
            "common": {"commType": "tcp", "tcp": {"ip": "10.0.0.5", "port": 502}},
        },
        "propertyVisitors": [
            {
                "propertyName": "level",
                "collectCycle": 5000,
                "reportCycle": 9000,
                "customizedValues": {"unit": "l", "offset": 9},
                "modbus": {"register": "HoldingRegister", "offset": 3, "limit": 1},
            },
            {"propertyName": "temp", "modbus": {"register": "HoldingRegister", "offset": 2}},
        ],
        "data": {"dataTopic": "a/b", "dataProperties": [{"propertyName": "noise"}]},
    },
    "status": {
        "twins": [
            "odd",
            {
                "propertyName": "temp",
                "desired": {"value": "25", "metadata": {"type": "integer"}},
                "reported": {"value": "20"},
            },
            {"propertyName": "on"},
        ]
    },
}


def test_a_device_of_v1alpha2_is_read_like_one_of_v1beta1() -> None:
    view = DeviceView.read(DEVICE)
    assert (view.node, view.model, view.protocol) == ("edge-1", "boiler", "modbus")
    config = {"slaveID": 1, "commType": "tcp", "ip": "10.0.0.5", "port": 502}
    assert view.protocol_config == config
    assert list(view.properties) == ["level", "temp", "on", "noise"]
    level, temp = view.properties["level"], view.properties["temp"]
    assert (level.collect_cycle, level.report_cycle, level.report_to_cloud) == (5000, 9000, True)
    assert level.visitor_protocol == "modbus"
    registers = {"register": "HoldingRegister", "offset": 3, "limit": 1, "unit": "l"}
    assert level.visitor == registers
    assert (temp.desired, temp.desired_metadata) == ("25", {"type": "integer"})
    assert [p.index for p in view.properties.values()] == [-1, 1, 2, -1]


def test_what_edges_get_is_a_device_of_v1beta1() -> None:
    new = as_v1beta1(DEVICE)
    assert not is_v1alpha2(new)
    assert "status" not in new
    assert as_v1beta1(new) is new
    assert DeviceView.read(new).properties.keys() == DeviceView.read(DEVICE).properties.keys()
    assert new["metadata"] == DEVICE["metadata"]


@pytest.mark.parametrize(
    ("spec", "status", "is_old"),
    [
        ({"deviceModelRef": {"name": "m"}}, {}, False),
        ({"deviceModelRef": {"name": "m"}}, {"twins": []}, True),
        ({"nodeSelector": {}}, {}, True),
        ({"nodeSelector": {}, "nodeName": "e"}, {"twins": []}, False),
        ({"protocol": {"opcua": {"url": "opc.tcp://h"}}}, {}, True),
        ({"protocol": {"protocolName": "opcua"}}, {}, False),
        ({"propertyVisitors": [], "properties": []}, {}, False),
    ],
)
def test_the_version_is_told_by_the_fields(
    spec: JsonObject, status: JsonObject, is_old: bool
) -> None:
    assert is_v1alpha2({"spec": spec, "status": status}) is is_old


@pytest.mark.parametrize(
    ("union", "name", "config"),
    [
        ({"opcua": {"url": "opc.tcp://h"}}, "opcua", {"url": "opc.tcp://h"}),
        ({"bluetooth": {"macAddress": "B"}}, "bluetooth", {"macAddress": "B"}),
        (
            {"customizedProtocol": {"protocolName": "x", "configData": {"a": 1}}},
            "x",
            {"a": 1},
        ),
        (
            {"common": {"com": {"serialPort": "/dev/ttyS0", "baudRate": 9600}}},
            "",
            {"serialPort": "/dev/ttyS0", "baudRate": 9600},
        ),
        ({"opcua": 7, "modbus": None}, "", {}),
    ],
)
def test_a_protocol_of_the_union_becomes_a_name_and_settings(
    union: JsonObject, name: str, config: JsonObject
) -> None:
    view = DeviceView.read({"spec": {"nodeSelector": {}, "protocol": union}})
    assert (view.protocol, view.protocol_config) == (name, config)


@pytest.mark.parametrize(
    "selector",
    [
        {},
        {"nodeSelectorTerms": "odd"},
        {"nodeSelectorTerms": [7, {"matchExpressions": [{"values": []}, {"values": [7]}]}]},
    ],
)
def test_a_selector_without_values_names_no_node(selector: JsonObject) -> None:
    assert DeviceView.read({"spec": {"nodeSelector": selector}}).node == ""


def test_a_selector_by_field_names_the_node_too() -> None:
    terms: Any = [{"matchFields": [{"key": "metadata.name", "values": ["edge-9"]}]}]
    assert (
        DeviceView.read({"spec": {"nodeSelector": {"nodeSelectorTerms": terms}}}).node == "edge-9"
    )


def test_a_model_of_v1alpha2_has_the_same_rules() -> None:
    view = ModelView.read(MODEL)
    assert view.rules == {
        "temp": ValueRule(PropertyType.INT, maximum=100.0, unit="C"),
        "level": ValueRule(PropertyType.DOUBLE, writable=False, minimum=0.5),
        "on": ValueRule(PropertyType.BOOLEAN),
    }
    temp = view.properties["temp"]
    assert (temp.type, temp.access, temp.maximum) == ("INT", "ReadWrite", "100")
    assert model_as_v1beta1(view.document) is view.document


_leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
_keys = st.sampled_from(
    [
        *("nodeSelector", "nodeSelectorTerms", "matchExpressions", "values", "protocol", "common"),
        *("propertyVisitors", "propertyName", "modbus", "customizedProtocol", "configData", "com"),
        *("status", "spec", "twins", "desired", "data", "dataProperties", "properties", "type"),
        *("int", "name", "deviceModelRef", "customizedValues", "metadata"),
    ]
)
_documents = st.dictionaries(
    _keys,
    st.recursive(
        _leaves,
        lambda below: st.lists(below, max_size=3) | st.dictionaries(_keys, below, max_size=4),
        max_leaves=20,
    ),
)


@given(_documents)
def test_odd_documents_are_read_as_far_as_they_can_be(document: Any) -> None:
    new = as_v1beta1(document)
    assert as_v1beta1(new) is new
    assert DeviceView.read(document).properties.keys() == DeviceView.read(new).properties.keys()
    model = model_as_v1beta1(document)
    assert ModelView.read(document).rules == ModelView.read(model).rules
    assert device_fault(document) in ("", NOT_UNIQUE)
    model_fault(document)


# --- writing wishes --------------------------------------------------------------------------------


def patched(document: JsonObject, wanted: dict[str, Any]) -> JsonObject:
    view = DeviceView.read(document)
    patch: Any = desired_patch(view, layout_of(view, ModelView.read(MODEL)), wanted, 5)
    return cast("JsonObject", jsonpatch.apply_patch(copy.deepcopy(document), patch))


def test_wishes_are_written_where_v1alpha2_keeps_them() -> None:
    after = patched(DEVICE, {"temp": 30, "on": True, "noise": "x"})
    assert after["spec"] == DEVICE["spec"]
    assert cast("Any", after["status"])["twins"][1:] == [
        {
            "propertyName": "temp",
            "desired": {"value": "30", "metadata": {"timestamp": "5", "type": "int"}},
            "reported": {"value": "20"},
        },
        {
            "propertyName": "on",
            "desired": {"value": "true", "metadata": {"timestamp": "5", "type": "boolean"}},
        },
        {
            "propertyName": "noise",
            "desired": {"value": "x", "metadata": {"timestamp": "5", "type": "string"}},
        },
    ]
    assert DeviceView.read(after).properties["on"].desired == "true"


@pytest.mark.parametrize("status", [None, {}, {"twins": []}])
def test_the_list_of_wishes_is_made_where_it_is_missing(status: JsonObject | None) -> None:
    document = {k: v for k, v in DEVICE.items() if k != "status"}
    if status is not None:
        document["status"] = status
    after = patched(document, {"temp": 30})
    assert is_v1alpha2(after)
    assert DeviceView.read(after).properties["temp"].desired == "30"


def test_a_wish_of_v1alpha2_is_removed_and_a_second_removal_is_nothing() -> None:
    after = patched(DEVICE, {"temp": None, "noise": None})
    assert DeviceView.read(after).properties["temp"].desired is None
    assert patched(after, {"temp": None}) == after


def test_wishes_of_v1alpha2_without_a_type_get_one() -> None:
    document = patched(DEVICE, {"on": True})
    cast("Any", document)["status"]["twins"][2]["desired"].pop("metadata")
    layout = layout_of(DeviceView.read(document), ModelView.read(MODEL))
    view = DeviceView.read(with_types(as_v1beta1(document), layout))
    assert view.properties["on"].desired_metadata == {"type": "boolean"}


# --- both versions are served ------------------------------------------------------------------------


def kinds(plural: str) -> dict[str, ResourceType]:
    return {
        kind.version: kind
        for definition in definitions()
        for kind in kinds_of(definition)
        if kind.plural == plural and kind.group == "devices.kubeedge.io"
    }


@pytest.mark.parametrize("version", ["v1alpha2", "v1beta1"])
def test_a_write_through_either_version_loses_nothing_of_a_device(version: str) -> None:
    schema = kinds("devices")[version].schema
    for document in (DEVICE, as_v1beta1(DEVICE)):
        kept, dropped = validate.pruned(schema, document)
        assert (kept, dropped) == (document, [])


def test_a_model_written_through_the_other_version_is_refused_whole() -> None:
    versions = kinds("devicemodels")
    for version, document in (("v1beta1", MODEL), ("v1alpha2", model_as_v1beta1(MODEL))):
        assert validate.faults(versions[version].schema, document)
    for version, document in (("v1alpha2", MODEL), ("v1beta1", model_as_v1beta1(MODEL))):
        assert validate.pruned(versions[version].schema, document) == (document, [])
        assert not validate.faults(versions[version].schema, document)
