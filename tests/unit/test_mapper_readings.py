"""Whatever a device says is a reading of the model's type or a bad one; configData says what is wrong."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.mappers.configdata import ConfigData
from edge.mappers.driver import Quality, Reading
from edge.mappers.readings import Latest, bad, reading_of, source_time
from gateway.errors import Rejected
from gateway.wire.cloudedge.values import MAX_TEXT, PropertyType, ValueRule, parse_text

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(kind=st.sampled_from(list(PropertyType)), value=anything)
def test_a_reading_is_of_the_models_type_or_bad(kind: PropertyType, value: object) -> None:
    reading = reading_of(ValueRule(kind), value, 7)
    assert reading.at == 7
    if reading.quality is Quality.GOOD:
        parse_text(kind, reading.text)
    else:
        assert (reading.quality, reading.text) == (Quality.BAD, "")
        assert reading.why


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("INT", 3.0, "3"),
        ("INT", True, "1"),
        ("INT", " 42 ", "42"),
        ("FLOAT", 20, "20"),
        ("FLOAT", "2.15e+01", "21.5"),
        ("BOOLEAN", 1, "true"),
        ("BOOLEAN", "OFF", "false"),
        ("STRING", 21.5, "21.5"),
        ("STRING", {"a": [1]}, '{"a":[1]}'),
        ("STRING", datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "2026-01-02T00:00:00+00:00"),
        ("BYTES", b"\x01\x02", "AQI="),
    ],
)
def test_values_are_written_canonically(kind: str, value: object, text: str) -> None:
    assert reading_of(ValueRule(PropertyType(kind)), value, 0).text == text


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("INT", 2**63),
        ("INT", 1.5),
        ("INT", float("nan")),
        ("FLOAT", True),
        ("FLOAT", "inf"),
        ("FLOAT", 1e39),
        ("DOUBLE", 10**400),
        ("BOOLEAN", 2),
        ("STRING", "x" * (MAX_TEXT + 1)),
        ("STRING", b"\xff"),
        ("STRING", "\ud800"),
        ("STRING", object()),
        ("BYTES", b"x" * 70_000),
        ("STREAM", "x"),
    ],
    ids=range(14),
)
def test_what_is_no_value_is_bad(kind: str, value: object) -> None:
    assert reading_of(ValueRule(PropertyType(kind)), value, 0).quality is Quality.BAD


@pytest.mark.parametrize(
    ("said", "at"),
    [
        ("2026-01-02T03:04:05Z", 1_767_323_045_000),
        ("2026-01-02T03:04:05", 1_767_323_045_000),
        (1_767_323_045, 1_767_323_045_000),
        (1_767_323_045_678, 1_767_323_045_678),
        (1_767_323_045_678_000_000, 1_767_323_045_678),
        ("yesterday", 1),
        (True, 1),
        (-5, 1),
        (float("nan"), 1),
        (None, 1),
    ],
    ids=range(10),
)
def test_a_sources_time_is_read_in_any_unit(said: object, at: int) -> None:
    assert source_time(said, 1) == at


def test_the_newest_reading_counts_and_wakes_once() -> None:
    counts: dict[str, int] = {}

    def count(name: str, by: int) -> None:
        counts[name] = counts.get(name, 0) + by

    woken: list[int] = []
    now = 1_000
    latest = Latest(["a", "b"], count, lambda: now, stale_after=5_000)
    latest.subscribe(lambda: woken.append(1))
    for number in range(10_000):
        latest.take("a", Reading(str(number), Quality.GOOD, now))
    latest.take("b", bad("odd", now))
    latest.take("stranger", Reading("1", Quality.GOOD, now))
    assert woken == [1]
    assert counts == {"taken": 1, "coalesced": 9_999, "malformed": 1}
    read = latest.read(["a", "b", "stranger"])
    assert (set(read), read["a"].text) == ({"a", "b"}, "9999")
    now = 7_000
    assert latest.read(["a"])["a"].why == "nothing heard for 6 s"
    latest.take("a", Reading("1", Quality.GOOD, now))
    assert woken == [1, 1]


def test_configdata_takes_numbers_as_text_and_names_what_is_wrong() -> None:
    config = ConfigData(
        "c",
        {"n": "0x10", "f": "1.5", "on": "True", "who": 7, "o": {"k": "v"}, "bad": [1], "x": "nan"},
    )
    assert config.integer("missing", "n") == 16
    assert config.number("f") == 1.5
    assert config.flag("on") is True
    assert config.text("who") == "7"
    assert config.below("o").text("k") == "v"
    assert config.texts("o") == {"k": "v"}
    asks: list[tuple[Any, str]] = [
        (lambda: config.integer("f"), "c.f"),
        (lambda: config.integer("bad"), "c.bad"),
        (lambda: config.number("x"), "c.x"),
        (lambda: config.flag("who"), "c.who"),
        (lambda: config.text("o"), "c.o"),
        (lambda: config.text("none", default=None), "c.none is missing"),
        (lambda: config.choice({"a": 1}, "who"), "one of a"),
        (lambda: config.below("bad"), "c.bad"),
    ]
    for ask, said in asks:
        with pytest.raises(Rejected, match=said):
            ask()
