"""Values and typed views of device objects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView, with_defaults
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.values import (
    PropertyType,
    Typed,
    ValueRule,
    canonical,
    check_typed,
    equal,
    parse_text,
)

T = PropertyType


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (T.INT, "21", 21),
        (T.INT, "-3", -3),
        (T.INT, "+3", 3),
        (T.FLOAT, "21.50", 21.5),
        (T.DOUBLE, "1e3", 1000.0),
        (T.BOOLEAN, "true", True),
        (T.BOOLEAN, "false", False),
        (T.STRING, " any ", " any "),
        (T.BYTES, "aGk=", "aGk="),
    ],
)
def test_text_becomes_a_typed_value(kind: PropertyType, text: str, value: Typed) -> None:
    parsed = parse_text(kind, text)
    assert equal(parsed, value)
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (T.INT, "21.0"),
        (T.INT, ""),
        (T.INT, "9223372036854775808"),
        (T.INT, "1_000"),
        (T.INT, "٣"),
        (T.FLOAT, "warm"),
        (T.FLOAT, "nan"),
        (T.FLOAT, "1e39"),
        (T.DOUBLE, "inf"),
        (T.DOUBLE, "1_0"),
        (T.BOOLEAN, "True"),
        (T.BOOLEAN, "1"),
        (T.BYTES, "a"),
        (T.STREAM, "x"),
        (T.STRING, "x" * 513),
    ],
)
def test_text_that_is_not_of_the_type_is_refused(kind: PropertyType, text: str) -> None:
    with pytest.raises(BadRequest):
        parse_text(kind, text)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (T.INT, 21, "21"),
        (T.FLOAT, 21.0, "21"),
        (T.DOUBLE, 0.1, "0.1"),
        (T.DOUBLE, 1e22, "1e+22"),
        (T.BOOLEAN, True, "true"),
        (T.STRING, "x", "x"),
    ],
)
def test_typed_values_have_one_canonical_text(kind: PropertyType, value: Typed, text: str) -> None:
    assert canonical(kind, value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_survives_its_text(value: float) -> None:
    assert parse_text(T.DOUBLE, canonical(T.DOUBLE, value)) == value


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_integer_survives_its_text(value: int) -> None:
    assert parse_text(T.INT, canonical(T.INT, value)) == value


@pytest.mark.parametrize(
    ("rule", "value", "why"),
    [
        (ValueRule(T.INT), 1.5, "integer"),
        (ValueRule(T.INT), True, "got boolean"),
        (ValueRule(T.INT), "1", "got string"),
        (ValueRule(T.INT), None, "got null"),
        (ValueRule(T.INT), 2**63, "64-bit"),
        (ValueRule(T.INT, maximum=100.0), 101, "at most 100"),
        (ValueRule(T.INT, minimum=0.0), -1, "at least 0"),
        (ValueRule(T.FLOAT), 1e39, "32-bit"),
        (ValueRule(T.DOUBLE), 10**400, "float"),
        (ValueRule(T.DOUBLE), [1], "got array"),
        (ValueRule(T.BOOLEAN), 1, "boolean"),
        (ValueRule(T.STRING), {}, "got object"),
        (ValueRule(T.STRING), "", "1 to 512"),
        (ValueRule(T.STRING), "x" * 513, "1 to 512"),
        (ValueRule(T.BYTES), "%", "base64"),
        (ValueRule(T.BYTES), 1, "base64"),
        (ValueRule(T.STREAM), "x", "STREAM"),
    ],
)
def test_a_wanted_value_of_the_wrong_type_range_or_length_is_refused(
    rule: ValueRule, value: Json, why: str
) -> None:
    with pytest.raises(BadRequest, match=why):
        check_typed(rule, value)


def test_wanted_values_that_fit_are_taken() -> None:
    assert check_typed(ValueRule(T.INT, minimum=0.0, maximum=9.0), 9) == 9
    assert check_typed(ValueRule(T.DOUBLE), 9) == 9.0
    assert check_typed(ValueRule(T.BOOLEAN), False) is False
    assert check_typed(ValueRule(T.STRING), "x") == "x"
    assert check_typed(ValueRule(T.BYTES), "aGk=") == "aGk="


def test_true_is_not_one_and_twenty_is_twenty_point_nought() -> None:
    assert not equal(True, 1)
    assert equal(20, 20.0)
    assert not equal("20", 20)
    assert equal(None, None)


DEVICE: JsonObject = {
    "metadata": {
        "name": "lamp",
        "namespace": "default",
        "uid": "u1",
        "resourceVersion": "12",
        "generation": 3,
        "labels": {"description": "hall"},
        "annotations": {"twinspan.io/on-delete": "keep", "odd": 5},
    },
    "spec": {
        "nodeName": "edge-1",
        "deviceModelRef": {"name": "m1"},
        "protocol": {"protocolName": "virtual", "configData": {"seed": 1}},
        "properties": [
            "odd",
            {"name": "on", "desired": {"value": "true"}, "reportToCloud": True},
            {
                "name": "level",
                "collectCycle": 1000,
                "reportCycle": True,
                "visitors": {"protocolName": "virtual", "configData": {"register": 1}},
            },
            {"name": "", "desired": {"value": "1"}},
            {"name": "empty", "desired": {"value": ""}},
        ],
    },
}


def test_a_device_is_read_with_the_places_of_its_properties() -> None:
    view = DeviceView.read(DEVICE)
    assert (view.key, view.node, view.model) == (DeviceKey("default", "lamp"), "edge-1", "m1")
    assert (view.meta.uid, view.meta.version, view.meta.generation) == ("u1", "12", 3)
    assert view.meta.annotations == {"twinspan.io/on-delete": "keep"}
    assert [(p.name, p.index, p.desired) for p in view.properties.values()] == [
        ("on", 1, "true"),
        ("level", 2, None),
        ("empty", 4, None),
    ]
    assert view.properties["empty"].has_desired
    assert view.properties["on"].report_to_cloud
    assert (view.properties["level"].collect_cycle, view.properties["level"].report_cycle) == (
        1000,
        0,
    )
    assert view.properties["level"].visitor == {"register": 1}
    assert (view.member.id, view.member.description) == ("default/lamp", "hall")


def test_a_model_is_read_into_rules() -> None:
    properties: list[Json] = [
        {"name": "t", "type": "int", "accessMode": "ReadOnly", "minimum": "0", "maximum": "x"},
        {"name": "u", "type": "NONSENSE", "unit": "C"},
        7,
    ]
    model = ModelView.read({"metadata": {"name": "m1"}, "spec": {"properties": properties}})
    assert model.rules == {
        "t": ValueRule(T.INT, writable=False, minimum=0.0),
        "u": ValueRule(T.STRING, unit="C"),
    }


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["metadata", "spec", "properties", "name", "desired", "value", "type"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["metadata", "spec"]), _json))
def test_no_object_is_too_odd_to_be_read(document: JsonObject) -> None:
    assert DeviceView.read(document).key is not None
    assert ModelView.read(document).rules is not None


def test_methods_and_state_reports_are_read() -> None:
    document: JsonObject = {
        "metadata": {"name": "lamp", "namespace": "default"},
        "spec": {
            "methods": [
                {"name": "dim", "description": "down", "propertyNames": ["level", 3]},
                {"description": "without a name"},
                "nonsense",
            ],
            "stateReport": {"reportToCloud": True, "reportCycle": 5_000},
        },
    }
    view = DeviceView.read(document)
    assert [(m.name, m.description, m.properties) for m in view.methods] == [
        ("dim", "down", ("level",))
    ]
    assert (view.state_report.to_cloud, view.state_report.cycle) == (True, 5_000)
    assert view.document is document
    assert DeviceView.read({}).state_report.cycle == 0


def a_model_with_visitors() -> ModelView:
    return ModelView.read(
        {
            "metadata": {"name": "m1", "namespace": "default"},
            "spec": {
                "protocol": "modbus",
                "protocolConfigData": {"baud": 9_600, "slave": 1},
                "properties": [
                    {
                        "name": "temp",
                        "type": "INT",
                        "accessMode": "ReadOnly",
                        "maximum": "100",
                        "unit": "C",
                        "description": "of the room",
                        "visitors": {
                            "protocolName": "modbus",
                            "configData": {"register": "Holding", "offset": 2},
                        },
                    },
                    {"name": "plain", "type": "STRING"},
                ],
            },
        }
    )


def test_a_model_shows_its_properties_as_written() -> None:
    model = a_model_with_visitors()
    temp = model.properties["temp"]
    assert (temp.type, temp.access, temp.maximum, temp.unit) == ("INT", "ReadOnly", "100", "C")
    assert (temp.description, temp.visitor_protocol) == ("of the room", "modbus")
    assert temp.visitor == {"register": "Holding", "offset": 2}
    assert model.properties["plain"].visitor is None


def test_what_a_device_says_itself_wins_over_its_model() -> None:
    view = DeviceView.read(
        {
            "metadata": {"name": "d1", "namespace": "default"},
            "spec": {
                "protocol": {"configData": {"slave": 7}},
                "properties": [
                    {"name": "temp", "visitors": {"configData": {"offset": 4}}},
                    {"name": "plain"},
                    {"name": "unknown"},
                ],
            },
        }
    )
    merged = with_defaults(view, a_model_with_visitors())
    assert merged.protocol == "modbus"
    assert merged.protocol_config == {"baud": 9_600, "slave": 7}
    assert merged.properties["temp"].visitor == {"register": "Holding", "offset": 4}
    assert merged.properties["temp"].visitor_protocol == "modbus"
    assert merged.properties["plain"] == view.properties["plain"]
    assert merged.properties["unknown"] == view.properties["unknown"]
    assert with_defaults(view, None) is view
