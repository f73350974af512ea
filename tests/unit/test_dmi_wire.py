"""DMI's messages: against protobuf's own code, and against bytes that no peer should send."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest, GatewayError, MalformedPacket, TooLarge
from gateway.model.json import Json, JsonObject
from gateway.wire.dmi import messages
from gateway.wire.dmi.anyvalues import Numbers
from gateway.wire.dmi.fields import TABLES, Field, Kind
from gateway.wire.dmi.messages import decode, encode
from tests.dmi_peer import every_message, message

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = {
    Kind.STRING: TEXT,
    Kind.BYTES: TEXT,
    Kind.BOOL: st.booleans(),
    Kind.INT32: st.integers(-(2**31), 2**31 - 1),
    Kind.INT64: st.integers(-(2**63), 2**63 - 1),
    Kind.TEXTS: st.dictionaries(TEXT, TEXT, max_size=3),
    Kind.ANYS: st.dictionaries(
        TEXT, TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
    ),
}


def values_of(name: str) -> st.SearchStrategy[JsonObject]:
    return st.fixed_dictionaries({}, optional={f.name: value_of(f) for f in fields_of(name)})


def fields_of(name: str) -> list[Field]:
    return list(TABLES[name].by_number.values())


def value_of(field: Field) -> st.SearchStrategy[Any]:
    one: st.SearchStrategy[Any] = (
        st.deferred(lambda: values_of(field.message))
        if field.kind is Kind.MESSAGE
        else SCALARS[field.kind]
    )
    return st.lists(one, max_size=2) if field.is_repeated else one


def whole(name: str, value: JsonObject) -> JsonObject:
    """What reading returns for a value: with defaults."""
    return decode(name, encode(name, value, Numbers.EXACT))


def test_there_is_a_table_for_each_message_and_no_other() -> None:
    assert sorted(TABLES) == sorted(every_message())


@pytest.mark.parametrize("name", sorted(TABLES))
def test_names_and_numbers_are_those_of_the_definition(name: str) -> None:
    theirs = {f.name: f.number for f in message(name).DESCRIPTOR.fields}
    assert {f.name: f.number for f in fields_of(name)} == theirs


@pytest.mark.parametrize("name", ["RegisterDeviceRequest", "MapperRegisterResponse"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_written_means_the_same_to_protobuf(name: str, data: st.DataObject) -> None:
    value = data.draw(values_of(name))
    theirs = message(name).FromString(encode(name, value, Numbers.EXACT))
    assert decode(name, theirs.SerializeToString(deterministic=True)) == whole(name, value)


@settings(max_examples=60, deadline=None)
@given(values_of("MapperRegisterRequest"))
def test_what_is_read_is_what_was_meant(value: JsonObject) -> None:
    found = whole("MapperRegisterRequest", value)
    assert found["withData"] == value.get("withData", False)
    assert ("mapper" in found) == ("mapper" in value)


@given(st.sampled_from(sorted(TABLES)), st.binary(max_size=60))
def test_garbage_is_refused_or_read(name: str, data: bytes) -> None:
    try:
        found = decode(name, data)
    except MalformedPacket:
        return
    assert isinstance(found, dict)


def a_config(value: Json, numbers: Numbers = Numbers.FLOAT) -> Any:
    data = encode("CustomizedValue", {"data": {"x": value}}, numbers)
    return message("CustomizedValue").FromString(data).data


@pytest.mark.parametrize(
    ("value", "kind", "inner"),
    [
        ("a", "StringValue", b"\x0a\x01a"),
        ("", "StringValue", b""),
        (True, "BoolValue", b"\x08\x01"),
        (False, "BoolValue", b""),
        (16_777_217, "FloatValue", b"\x0d" + struct.pack("<f", 16_777_216.0)),
        (0, "FloatValue", b""),
        (1.5, "FloatValue", b"\x0d" + struct.pack("<f", 1.5)),
        (1e300, "FloatValue", b"\x0d" + struct.pack("<f", float("inf"))),
        ({"a": [1]}, "StringValue", b'\x0a\x09{"a":[1]}'),
    ],
)
def test_a_value_of_free_configuration_is_wrapped_as_kubeedge_does(
    value: Json, kind: str, inner: bytes
) -> None:
    found = a_config(value)["x"]
    assert found.type_url == f"type.googleapis.com/google.protobuf.{kind}"
    assert found.value == inner


@pytest.mark.parametrize(
    ("value", "kind"),
    [(16_777_217, "Int64Value"), (0.1, "DoubleValue"), (2**70, "DoubleValue"), (True, "BoolValue")],
)
def test_exact_numbers_keep_their_type(value: Json, kind: str) -> None:
    assert a_config(value, Numbers.EXACT)["x"].type_url.endswith(f".{kind}")
    whole = encode("CustomizedValue", {"data": {"x": value}}, Numbers.EXACT)
    assert decode("CustomizedValue", whole) == {"data": {"x": value}}


def test_null_is_left_out_of_free_configuration() -> None:
    assert dict(a_config(None)) == {}


def test_a_default_is_not_written_and_an_empty_message_is() -> None:
    value: JsonObject = {"name": "", "desired": {}, "reportCycle": 0, "reportToCloud": False}
    assert encode("DeviceProperty", value) == b"\x12\x00"


def test_an_empty_text_in_a_list_is_written() -> None:
    assert encode("DeviceMethod", {"propertyNames": ["", "a"]}) == b"\x1a\x00\x1a\x01a"


def test_a_negative_number_takes_ten_bytes() -> None:
    data = encode("PushMethodMQTT", {"qos": -1})
    assert data == b"\x18" + b"\xff" * 9 + b"\x01"
    assert decode("PushMethodMQTT", data)["qos"] == -1


def test_unknown_fields_and_other_wire_types_are_skipped() -> None:
    unknown = b"\xf8\x01\x05" + b"\xfd\x01abcd" + b"\xf9\x01abcdefgh" + b"\xfa\x01\x01x"
    other = b"\x08\x01"  # the name as a number
    data = unknown + other + encode("MapperInfo", {"name": "m"})
    assert decode("MapperInfo", data)["name"] == "m"


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x05ab",
        b"\x0b",  # a group
        b"\x00\x00",  # field number 0
        b"\x80" * 11,
        b"\x0a\x01\xff",  # not UTF-8
        b"\x0d\x00",
    ],
)
def test_a_message_that_is_cut_off_or_odd_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedPacket):
        decode("MapperInfo", data)


def test_a_message_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_MESSAGE", 10)
    with pytest.raises(TooLarge):
        decode("MapperInfo", b"x" * 11)
    with pytest.raises(TooLarge):
        encode("MapperInfo", {"name": "x" * 11})


def test_a_list_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_ENTRIES", 2)
    assert decode("DeviceMethod", b"\x1a\x00" * 2)["propertyNames"] == ["", ""]
    with pytest.raises(MalformedPacket):
        decode("DeviceMethod", b"\x1a\x00" * 3)
    with pytest.raises(MalformedPacket):
        decode("TwinProperty", encode("TwinProperty", {"metadata": {"a": "", "b": "", "c": ""}}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MapperInfo", {"nonsense": 1}),
        ("MapperInfo", {"name": 1}),
        ("PushMethodMQTT", {"qos": 2**31}),
        ("PushMethodMQTT", {"qos": "1"}),
        ("Device", {"spec": []}),
        ("TwinProperty", {"metadata": {"a": 1}}),
    ],
)
def test_a_value_that_a_field_cannot_hold_is_refused(name: str, value: JsonObject) -> None:
    with pytest.raises(BadRequest):
        encode(name, value)


def test_an_any_of_an_unknown_type_is_null_and_a_bad_one_malformed() -> None:
    strange = message("CustomizedValue")()
    strange.data["x"].type_url = "type.googleapis.com/other.Thing"
    assert decode("CustomizedValue", strange.SerializeToString()) == {"data": {"x": None}}
    strange.data["x"].type_url = "type.googleapis.com/google.protobuf.StringValue"
    strange.data["x"].value = b"\x0a\x01\xff"
    with pytest.raises(GatewayError):
        decode("CustomizedValue", strange.SerializeToString())
