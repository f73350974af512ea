"""Zigbee's values, places, proposals, settings and waiting wishes: the pure parts of the mapper."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.mappers.driver import Quality
from edge.mappers.zigbee import codecs, database
from edge.mappers.zigbee.bound import Bound, Wish
from edge.mappers.zigbee.meanings import ALIASES, MEANINGS, meaning_of, name_at
from edge.mappers.zigbee.places import Place, ieee_of, is_coordinator, place_of, places_of
from edge.mappers.zigbee.plan import Plan
from edge.mappers.zigbee.proposal import propose
from edge.mappers.zigbee.reporting import Told
from edge.mappers.zigbee.seen import Seen
from edge.mappers.zigbee.waiting import MAX_PROPERTIES, Waiting
from gateway.errors import BadRequest, InvalidSetting, QuotaExceeded, Rejected
from gateway.wire.cloudedge.devices import DeviceProperty, DeviceView
from gateway.wire.cloudedge.values import PropertyType, ValueRule

IEEE = "00:12:4b:00:14:b5:d7:f2"


@pytest.mark.parametrize(
    ("name", "raws", "value"),
    [
        ("on", [1], True),
        ("brightness", [0], 0),
        ("brightness", [1], 1),
        ("brightness", [127], 50),
        ("brightness", [254], 100),
        ("colourTemperature", [370], 370),
        ("colourTemperatureKelvin", [370], 2703),
        ("colourTemperatureKelvin", [0], None),
        ("colourXy", [0x8000, 0x4000], "0.5000,0.2500"),
        ("colourHs", [127, 254], "180,100"),
        ("temperature", [-512], -5.12),
        ("humidity", [4_630], 46.3),
        ("illuminance", [0], 0.0),
        ("illuminance", [20_001], 100.0),
        ("occupancy", [3], True),
        ("contact", [0b101], False),
        ("contact", [0b10], False),
        ("alarm", [0b10], True),
        ("alarm", [0b1], True),
        ("alarm", [0b1100], False),
        ("tamper", [0b100], True),
        ("batteryLow", [0b100], False),
        ("battery", [171], 85.5),
    ],
)
def test_a_raw_value_is_read_as_people_know_it(name: str, raws: list[Any], value: Any) -> None:
    assert MEANINGS[name].codec.decode(raws) == value


@pytest.mark.parametrize(
    ("kind", "raw", "is_none"),
    [
        ("int16", -0x8000, True),
        ("int16", 0x8000, True),
        ("int16", -0x7FFF, False),
        ("uint8", 0xFF, True),
        ("uint16", 0xFFFF, True),
        ("uint48", 0xFFFFFFFFFFFF, True),
        ("uint48", 0xFFFFFFFF, False),
        ("int24", -0x800000, True),
        ("enum8", 0xFF, True),
        ("map8", 0xFF, False),
        ("single", float("nan"), True),
        ("single", float("inf"), True),
        ("string", "x", False),
        ("bool", 0xFF, True),
    ],
)
def test_each_type_has_its_sign_for_no_value(kind: str, raw: Any, is_none: bool) -> None:
    assert codecs.no_value(kind, raw) is is_none


@given(st.integers(0, 100))
def test_brightness_survives_the_way_there_and_back(percent: int) -> None:
    codec = codecs.percent_of_level()
    assert codec.encode is not None
    assert codec.decode(codec.encode(percent)) == percent


@given(st.floats(0, 0.99), st.floats(0, 0.99))
def test_colours_survive_the_way_there_and_back(x: float, y: float) -> None:
    codec = codecs.xy()
    assert codec.encode is not None
    back = [float(each) for each in str(codec.decode(codec.encode(f"{x},{y}"))).split(",")]
    assert back == pytest.approx([x, y], abs=1e-4)


@pytest.mark.parametrize("text", ["", "1", "a,b", "1,2,3", "0.5,1.5", "nan,0.1", "-1,0"])
def test_a_colour_that_is_none_is_refused(text: str) -> None:
    encode = codecs.xy().encode
    assert encode is not None
    with pytest.raises(BadRequest):
        encode(text)


def test_aliases_and_places_lead_to_meanings() -> None:
    assert all(target in MEANINGS for target in ALIASES.values())
    assert meaning_of("level") is MEANINGS["brightness"]
    assert meaning_of("nonsense") is None
    assert name_at(0x0402, 0) == "temperature"
    assert name_at(0x0500, 2) == "contact"
    assert name_at(0x0300, 7) == "colourTemperature"


def _prop(name: str, **visitor: Any) -> DeviceProperty:
    return DeviceProperty(name=name, index=0, visitor=visitor)


def test_a_visitor_names_a_property_or_cluster_and_attribute() -> None:
    by_name = place_of(_prop("t", cluster="temperature_measurement", attribute="measured_value"))
    by_number = place_of(_prop("t", cluster="0x0402", attribute=0, endpoint=3))
    assert (by_name.cluster, by_name.attributes, by_name.kind) == (0x0402, (0,), "int16")
    assert by_name.codec.decode([2_150]) == 21.5
    assert by_number.endpoint == 3
    assert place_of(_prop("x", property="humidity")).cluster == 0x0405
    raw = place_of(_prop("t", cluster=0x0402, attribute=0, scale=1))
    assert raw.codec.decode([2_150]) == 2_150
    own = place_of(_prop("t", cluster="0xfc11", attribute="0x12"))
    assert (own.cluster, own.attributes, own.is_known) == (0xFC11, (0x12,), False)
    named = place_of(_prop("t", cluster="thermostat", attribute="occupied_heating_setpoint"))
    assert named.attribute_name == "occupied_heating_setpoint"


@pytest.mark.parametrize(
    "visitor",
    [
        {"property": "warmth"},
        {"cluster": "no_such", "attribute": 0},
        {"cluster": 0x0402},
        {"cluster": "0x10000", "attribute": 0},
        {"property": "on", "endpoint": 300},
        {"property": "temperature", "scale": 0},
        {"property": "temperature", "scale": "much"},
        {"cluster": ["x"], "attribute": 0},
    ],
    ids=["name", "cluster", "attribute", "number", "endpoint", "zero", "scale", "list"],
)
def test_a_visitor_that_cannot_be_says_what_was_expected(visitor: dict[str, Any]) -> None:
    with pytest.raises(Rejected, match="temp"):
        place_of(_prop("temp", **visitor))


def _view(**config: Any) -> DeviceView:
    return DeviceView.read(
        {
            "metadata": {"name": "d"},
            "spec": {
                "protocol": {"protocolName": "zigbee", "configData": config},
                "properties": [{"name": "on"}, {"name": "odd"}],
            },
        }
    )


@pytest.mark.parametrize(
    "config",
    [
        {"ieee": IEEE},
        {"address": IEEE.upper()},
        {"ieee": "0x00124B0014B5D7F2"},
        {"ieee": "00-12-4b-00-14-b5-d7-f2"},
    ],
    ids=["ieee", "address", "hex", "dashes"],
)
def test_an_address_is_read_in_all_its_forms(config: dict[str, Any]) -> None:
    assert ieee_of(_view(**config)) == IEEE


@pytest.mark.parametrize("text", ["", "00:12", "zz:12:4b:00:14:b5:d7:f2", "1" * 400])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="ieee"):
        ieee_of(_view(ieee=text))


def test_a_property_without_a_place_is_a_fault_of_its_own() -> None:
    places, faults = places_of(_view(ieee=IEEE))
    assert list(places) == ["on"]
    assert list(faults) == ["odd"]
    assert is_coordinator(_view(kind="coordinator"))
    assert not is_coordinator(_view(ieee=IEEE))


def _bound(name: str, rule: ValueRule, place: Place | None = None) -> Bound:
    place = place or place_of(_prop(name))
    return Bound(name, place, rule, 1, place.attributes or (0,), place.kind)


def test_readings_are_of_the_models_type_or_bad() -> None:
    whole = _bound("temperature", ValueRule(PropertyType.INT, minimum=-20, maximum=50))
    spot = whole.spots[0]
    assert whole.reading({}) is None
    assert whole.reading({spot: (2_160, 7)}) is not None
    found = {raw: whole.reading({spot: (raw, 7)}) for raw in (2_160, 9_000, -0x8000, "warm")}
    good, hot, none, text = found.values()
    assert good is not None
    assert hot is not None
    assert (good.text, good.quality, good.at) == ("22", Quality.GOOD, 7)
    assert (hot.text, hot.quality) == ("90", Quality.GOOD)  # bounds are the session's to judge
    for reading, word in ((none, "no value"), (text, "number")):
        assert reading is not None
        assert reading.quality is Quality.BAD
        assert word in reading.why


def test_a_divisor_of_nothing_divides_by_one() -> None:
    power = _bound("power", ValueRule(PropertyType.DOUBLE))
    spot, (multiplier, divisor) = power.spots[0], power.ratio_spots
    reading = power.reading({spot: (398, 1), multiplier: (2, 1), divisor: (0, 1)})
    assert reading is not None
    assert reading.text == "796"


def test_a_wish_becomes_a_command_or_an_attribute() -> None:
    assert _bound("on", ValueRule(PropertyType.BOOLEAN)).wish("true") == Wish(command=1)
    brightness = _bound("brightness", ValueRule(PropertyType.INT)).wish("50")
    assert brightness == Wish(command=4, arguments=(127,), has_transition=True)
    own = place_of(_prop("setpoint", cluster=0x0201, attribute=0x12, scale=0.01))
    wish = _bound("setpoint", ValueRule(PropertyType.DOUBLE), own).wish("21.5")
    assert (wish.command, wish.attribute, wish.value) == (None, 0x12, 2_150)
    with pytest.raises(Rejected, match="read"):
        _bound("temperature", ValueRule(PropertyType.DOUBLE)).wish("20")
    with pytest.raises(Rejected):
        _bound("colourTemperatureKelvin", ValueRule(PropertyType.INT)).wish("0")


@pytest.mark.parametrize(
    ("text", "command"), [("true", 1), ("false", 0), ("on", 1), ("OFF", 0), ("1", 1), ("0", 0)]
)
def test_a_device_without_a_model_is_switched_as_its_words_say(text: str, command: int) -> None:
    assert _bound("on", ValueRule()).wish(text) == Wish(command=command)


def test_a_device_without_a_model_is_set_by_numbers_that_are_text() -> None:
    assert _bound("brightness", ValueRule()).wish("50").arguments == (127,)
    own = place_of(_prop("setpoint", cluster=0x0201, attribute=0x12, scale=0.01))
    assert _bound("setpoint", ValueRule(), replace(own, kind="int16")).wish("21.5").value == 2_150
    text = replace(own, kind="string", scale=1.0)
    assert _bound("label", ValueRule(), text).wish("21.5").value == "21.5"
    for name, wrong in (("on", "perhaps"), ("brightness", "much"), ("brightness", "nan")):
        with pytest.raises(Rejected, match="expected"):
            _bound(name, ValueRule()).wish(wrong)
    with pytest.raises(Rejected):
        _bound("setpoint", ValueRule(PropertyType.DOUBLE), own).wish("1e308")


def test_the_highest_number_of_a_setting_is_a_choice() -> None:
    for cluster, attribute in ((0x0006, 0x4003), (0x0008, 0x11), (0x0300, 0x4010)):
        place = place_of(_prop("p", cluster=cluster, attribute=attribute))
        bound = _bound("p", ValueRule(PropertyType.INT), replace(place, kind="enum8"))
        found = bound.reading({bound.spots[0]: (0xFF, 1)})
        assert found is not None
        assert (found.text, found.quality) == ("255", Quality.GOOD)


def test_a_device_of_very_many_clusters_is_offered_with_some() -> None:
    endpoints = dict.fromkeys(range(1, 241), (6, 8, 1026, 2820))
    found = propose(Seen(IEEE, 1, endpoints=endpoints, is_ready=True))
    assert len(found.properties) == 100
    assert found.facts["more"] == "not all of its properties are offered"


def test_a_second_endpoint_gets_names_of_its_own() -> None:
    found = propose(
        Seen(IEEE, 1, "Acmé <b>", "Dual", endpoints={1: (0, 6), 2: (6,)}, is_ready=True)
    )
    assert [each.name for each in found.properties] == ["on", "on2"]
    assert found.properties[1].visitor == {"property": "on", "endpoint": 2}
    assert found.model == "acm-b-dual"
    nameless = propose(Seen(IEEE, 1))
    assert (nameless.properties, nameless.model) == ((), "device")


def test_zones_and_colours_are_offered_as_what_they_are() -> None:
    motion = propose(Seen(IEEE, 1, endpoints={1: (0x0500,)}, zone_type=0x000D))
    assert motion.properties[0].name == "occupancy"
    assert motion.properties[0].visitor == {"property": "alarm"}
    lamp = propose(Seen(IEEE, 1, endpoints={1: (0x0300,)}, colour_capabilities=0x10))
    assert [each.name for each in lamp.properties] == ["colourTemperature"]


def test_the_latest_wish_waits_for_its_time_and_no_more_than_some() -> None:
    waiting = Waiting()
    waiting.put("a", "1", 100)
    waiting.put("b", "1", 100)
    waiting.put("a", "2", 200)
    assert waiting.first() == ("b", "1")
    waiting.put("b", "1", 900)
    assert waiting.expired(100) == ["b"]
    waiting.drop("a", "1")
    assert waiting.holds("a", "2")
    for number in range(MAX_PROPERTIES - 1):
        waiting.put(f"p{number}", "1", 300)
    with pytest.raises(QuotaExceeded):
        waiting.put("one more", "1", 300)
    waiting.put("a", "3", 300)
    assert len(waiting) == MAX_PROPERTIES


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({}, "device"),
        ({"device": "/dev/x", "radio": "xbee"}, "radio"),
        ({"device": "/dev/x", "channel": 5}, "channel"),
        ({"device": "/dev/x", "channel": 27}, "channel"),
        ({"device": "/dev/x", "foreign": "destroy"}, "foreign"),
        ({"device": "/dev/x", "flow_control": "soft"}, "flow_control"),
        ({"device": "/dev/x", "key_file": "/no/such"}, "key_file"),
        ({"device": "/dev/x", "extended_pan_id": "11:22"}, "extended_pan_id"),
        ({"device": "/dev/x", "poll": 0}, "poll"),
        ({"device": "/dev/x", "transition": -1}, "transition"),
    ],
    ids=[
        "device",
        "radio",
        "low",
        "high",
        "foreign",
        "flow",
        "key",
        "extended",
        "poll",
        "transition",
    ],
)
def test_a_setting_that_cannot_be_is_named(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidSetting, match=word):
        Plan.read(settings)


def test_a_key_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F\n")
    assert Plan.read({"device": "x", "key_file": str(path)}).key.startswith("000102")
    path.write_text("secret")
    with pytest.raises(InvalidSetting) as refusal:
        Plan.read({"device": "x", "key_file": str(path)})
    assert "secret" not in refusal.value.message


def test_what_devices_were_told_outlives_a_restart_and_damage(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.note(IEEE, "1/6", {0})
    again = Told(tmp_path)
    again.load()
    assert again.get(IEEE, "1/6") == {0}
    again.forget(IEEE)
    assert again.get(IEEE, "1/6") is None
    for damage in ("[]", "{", '{"a": 1}', '{"a": {"1/6": "x"}}'):
        (tmp_path / "reporting.json").write_text(damage)
        broken = Told(tmp_path)
        broken.load()
        assert broken.get("a", "1/6") is None


def test_a_database_is_judged_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / database.NAME
    assert database.find_damage(path) == ""
    path.write_bytes(b"nonsense" * 1_000)
    assert database.find_damage(path)
    aside = database.set_aside(path, "x", 5)
    assert not path.exists()
    assert aside.read_bytes().startswith(b"nonsense")


def test_a_database_that_somebody_holds_is_not_taken_for_damaged(tmp_path: Path) -> None:
    path = tmp_path / database.NAME
    with closing(sqlite3.connect(path)) as holder:
        holder.execute("create table t (x)")
        holder.execute("begin exclusive")
        assert database.find_damage(path) == ""
