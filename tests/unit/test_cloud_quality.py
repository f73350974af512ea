"""Quality and source time of reported values in a DeviceStatus."""

from __future__ import annotations

import pytest

from cloud.mapping import Layout, Place
from cloud.statuses import is_news, quality_of, twin_entry
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.twins import Twin, TwinValue, ValueMetadata
from gateway.wire.cloudedge.values import PropertyType, ValueRule

LAYOUT = Layout({"t": Place("t", "value")}, {"t": ValueRule(PropertyType.INT)})


def an_entry(quality: str, at: int = 1_000) -> JsonObject:
    said = ValueMetadata(timestamp=at, quality=quality)
    return twin_entry(LAYOUT, "t", Twin(actual=TwinValue(value="1", metadata=said)), None)


def test_an_uncertain_value_is_marked_beside_its_time_and_type() -> None:
    assert an_entry("uncertain")["reported"] == {
        "value": "1",
        "metadata": {"timestamp": "1000", "type": "int", "quality": "uncertain"},
    }


@pytest.mark.parametrize("quality", ["", "good", "bad", "<script>"])
def test_a_value_that_is_good_or_of_an_unknown_quality_has_no_mark(quality: str) -> None:
    assert an_entry(quality)["reported"] == {
        "value": "1",
        "metadata": {"timestamp": "1000", "type": "int"},
    }


def test_the_mark_of_a_desired_value_is_not_taken_over() -> None:
    said = ValueMetadata(timestamp=1, quality="uncertain")
    entry = twin_entry(LAYOUT, "t", Twin(expected=TwinValue(value="1", metadata=said)), None)
    assert entry["observedDesired"] == {"value": "1", "metadata": {"timestamp": "1", "type": "int"}}


def test_another_quality_of_the_same_value_is_worth_a_write() -> None:
    assert is_news(an_entry(""), an_entry("uncertain"))
    assert is_news(an_entry("uncertain"), an_entry(""))
    assert not is_news(an_entry("uncertain"), an_entry("uncertain", 2_000))


def test_what_stands_nowhere_is_good() -> None:
    assert quality_of(None) == quality_of({}) == quality_of(an_entry("")) == "good"
