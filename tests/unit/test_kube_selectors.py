"""Label and field selectors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.model.json import JsonObject
from gateway.wire.kube.selectors import parse_fields, parse_labels


def labelled(**labels: str) -> JsonObject:
    return {"metadata": {"name": "x", "labels": dict(labels)}}


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a = b", {"a": "b"}, True),
        ("a=", {"a": ""}, True),
        ("a=,b", {"a": "", "b": "1"}, True),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a", {"a": ""}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("! a", {"a": "1"}, False),
        ("a in (x,y)", {"a": "y"}, True),
        ("a in (x, y)", {"a": "z"}, False),
        ("a in (x)", {}, False),
        ("a notin (x,y)", {}, True),
        ("a notin (x,y)", {"a": "x"}, False),
        ("a in (x,y),b!=c,!d", {"a": "x", "b": "d"}, True),
        ("a > 5", {"a": "6"}, True),
        ("a > 5", {"a": "5"}, False),
        ("a < 5", {"a": "word"}, False),
        ("a<5", {"a": "4"}, True),
        ("example.com/role=db", {"example.com/role": "db"}, True),
        ("in=x", {"in": "x"}, True),
    ],
)
def test_a_label_selector_matches(selector: str, labels: dict[str, str], expected: bool) -> None:
    assert parse_labels(selector).matches(labelled(**labels)) is expected


def test_an_object_without_labels_has_none() -> None:
    assert parse_labels("!a").matches({"metadata": {}})
    assert not parse_labels("a").matches({})


@pytest.mark.parametrize(
    "selector",
    [
        "a b",
        "a=b=c",
        "a in x",
        "a in (x",
        "a in (x;y)",
        "=b",
        "a,,b",
        "-a=b",
        "a=b c",
        "a > x",
        "a=-",
        "(",
        "!",
    ],
)
def test_a_broken_label_selector_is_refused(selector: str) -> None:
    with pytest.raises(BadRequest):
        parse_labels(selector)


def test_an_overlong_selector_is_refused() -> None:
    with pytest.raises(BadRequest, match="at most"):
        parse_labels("a" * 20_000)
    with pytest.raises(BadRequest, match="at most"):
        parse_fields("a" * 20_000)


@given(st.text(max_size=60))
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    for parse in (parse_labels, parse_fields):
        try:
            parse(text).matches({"metadata": {"labels": {"a": "1"}}})
        except BadRequest:
            continue


NODES = {"spec.unschedulable": ("spec", "unschedulable")}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("metadata.name=n", True),
        ("metadata.name!=n", False),
        ("metadata.name==n,spec.unschedulable=true", True),
        ("spec.unschedulable=false", False),
        ("metadata.namespace=", True),
    ],
)
def test_a_field_selector_matches(selector: str, expected: bool) -> None:
    item: JsonObject = {"metadata": {"name": "n"}, "spec": {"unschedulable": True}}
    assert parse_fields(selector, NODES).matches(item) is expected


def test_only_known_fields_can_be_selected() -> None:
    with pytest.raises(BadRequest, match=r"field label not supported: spec\.foo"):
        parse_fields("spec.foo=1", NODES)
    with pytest.raises(BadRequest, match="can't understand 'word'"):
        parse_fields("word", NODES)


def test_an_escaped_comma_belongs_to_the_value() -> None:
    assert parse_fields(r"metadata.name=a\,b").matches({"metadata": {"name": "a,b"}})


def test_the_pinned_name_is_known() -> None:
    assert parse_fields("metadata.name=n").name == "n"
    assert parse_fields("metadata.name!=n").name is None


def test_a_field_that_is_absent_reads_as_its_kind_says() -> None:
    known = {"spec.unschedulable": ("spec", "unschedulable", "=false"), "type": ("type",)}
    free: JsonObject = {"spec": {}}
    cordoned: JsonObject = {"spec": {"unschedulable": True}}
    selector = parse_fields("spec.unschedulable=false", known)
    assert [selector.matches(item) for item in (free, cordoned, {})] == [True, False, True]
    assert parse_fields("type=", known).matches(free)
