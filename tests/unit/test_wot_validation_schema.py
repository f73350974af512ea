"""Values against data schemas, and what hostile schemas may cost."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.json import Json
from gateway.twin.wot.validation_schema import Schemas, assertions, matcher, texts_of

LAMP = "https://models.acme.org/lamp-1.0.0.tm.jsonld"


class BadModel(Exception):
    pass


def texts(schema: dict[str, Any], value: Json, *, whole: bool = True) -> list[str]:
    try:
        return texts_of(
            Schemas().checker().findings(("u", "/properties/p"), schema, value, whole=whole)
        )
    except GatewayError as error:
        if error.code != "wot:tm.invalid":
            raise
        raise BadModel(error.message) from error


VALUES: list[tuple[dict[str, Any], Json, bool]] = [
    ({"type": "integer"}, 1, True),
    ({"type": "integer"}, 1.0, True),
    ({"type": "integer"}, 1.5, False),
    ({"type": "integer"}, True, False),
    ({"type": "integer"}, 10**30, True),
    ({"type": "number", "multipleOf": 0.1}, 0.3, True),
    ({"type": "number", "multipleOf": 0.5}, 0.3, False),
    ({"type": "number", "exclusiveMinimum": 0}, 0, False),
    ({"enum": ["a", "b"]}, "c", False),
    ({"const": {"a": 1}}, {"a": 1}, True),
    ({"const": "S-{{X}}"}, "S-9", True),
    ({"enum": ["a", "{{B}}"]}, "c", True),
    ({"pattern": "^\\{\\{a\\}\\}$"}, "b", False),
    ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, 5, True),
    ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, 5.5, False),
    ({"type": "string", "minLength": 2, "maxLength": 3}, "a", False),
    ({"type": "string", "minLength": 2, "maxLength": 3}, "äöü", True),
    ({"type": "string", "pattern": "^[a-f]+$"}, "abx", False),
    ({"type": "string", "format": "date-time"}, "2026-01-01T00:00:00Z", True),
    ({"type": "string", "format": "date-time"}, "yesterday", False),
    ({"type": "string", "format": "unheard-of"}, "x", True),
    ({"type": "array", "items": {"type": "string"}, "maxItems": 1}, ["a", "b"], False),
    ({"type": "array", "uniqueItems": True}, [1, 1], False),
    ({"type": "array", "items": [{"type": "string"}, {"type": "integer"}]}, ["a", "b"], False),
    ({"type": "null"}, None, True),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, {"x": "y"}, False),
    ({"type": "object", "properties": {"a": {"type": "object", "required": ["b"]}}}, {"a": {}}, False),
    ({"type": "integer", "maximum": "{{MAX}}"}, 10**9, True),
    ({"type": "integer", "unit": "om2:metre", "@type": ["x"], "readOnly": True}, 1, True),
    ({"$ref": "http://127.0.0.1:1/never"}, 1, True),
    ({}, {"anything": [None]}, True),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value", "fits"), VALUES)
def test_values_against_data_schemas(schema: dict[str, Any], value: Json, fits: bool) -> None:
    assert (texts(schema, value) == []) is fits


def test_findings_are_told_by_place() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "minLength": 3, "pattern": "^x"}},
        "required": ["b"],
    }
    told = texts(schema, {"a": "y"})
    assert sorted(text.partition(":")[0] for text in told) == ["", "/a"]
    of_a = next(text for text in told if text.startswith("/a"))
    assert "minLength=" in of_a
    assert "pattern=" in of_a


def test_findings_do_not_repeat_the_value() -> None:
    assert "secret" not in "".join(texts({"type": "integer"}, "secret"))
    assert "secret" not in "".join(texts({"enum": [1]}, {"k": "secret"}))


HOSTILE: list[tuple[dict[str, Any], Json]] = [
    ({"items": {"not": {"anyOf": [{"const": n} for n in range(3_000)]}}}, ["x"] * 3_000),
    ({"items": {"anyOf": [{"const": n} for n in range(1_000)]}}, ["x"] * 900),
    ({"items": {"pattern": "(a{30}){30}"}}, ["a" * 40_000] * 4),
    ({"items": {"allOf": [{"pattern": f"(?=.*{n}).*x"} for n in range(150)]}}, ["a" * 1_000] * 9),
    ({"patternProperties": {f"a{n}.*b": {} for n in range(200)}}, {f"a{n}" * 9: 1 for n in range(900)}),
    ({"allOf": [{"pattern": f"(a{{99}}){{{n}}}"} for n in range(1, 90)]}, "x"),
    ({"items": {"format": "regex"}}, ["(a{99}){99}"] * 4_000),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value"), HOSTILE)
def test_hostile_schemas_and_values_are_given_up_in_bounded_effort(
    schema: dict[str, Any], value: Json
) -> None:
    checker = Schemas().checker()

    def often() -> None:
        for at in range(40):
            assert len(checker.findings(("u", f"p{at}"), schema, value)) <= 20

    with pytest.raises(GatewayError) as given_up:
        often()
    assert given_up.value.code == "wot:validation.error"


def test_of_a_large_value_only_the_first_fault_is_told() -> None:
    schema: dict[str, Any] = {"items": {"type": "integer"}}
    findings = Schemas().checker().findings(("u", "p"), schema, ["x"] * 5_000)
    assert [finding.keyword for finding in findings] == ["type"]


def test_there_is_a_bound_to_findings() -> None:
    findings = (
        Schemas().checker().findings(("u", "p"), {"items": {"type": "integer"}}, ["x"] * 1_000)
    )
    assert len(findings) == 20


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(?=(a+)+$)(a|aa)+\\1b$", "(x+x+)+y"])
def test_no_pattern_costs_more_than_a_bound(pattern: str) -> None:
    schemas = Schemas()
    for _ in range(20):  # each of these would take longer than the age of the universe
        assert schemas.checker().findings(
            ("u", "p"), {"pattern": pattern}, "a" * 5_000 + "x" * 5_000 + "!"
        )


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, {"pattern": "("}, {"required": True}, {"minimum": "low"}, {"oneOf": []}],
)
def test_what_is_no_schema_is_a_fault_of_the_model(schema: dict[str, Any]) -> None:
    with pytest.raises(BadModel, match="/properties/p"):
        texts(schema, 1)


def test_schemas_are_compiled_once_and_kept_within_a_bound() -> None:
    schemas = Schemas(size=3)
    kept: dict[str, Any] = {"type": "integer"}
    for at in range(10):
        schemas.checker().findings(("u", f"/p{at}"), {"type": "integer"}, 1)
        schemas.checker().findings(("u", "/kept"), kept, 1)
    assert len(schemas) == 3
    assert schemas.checker().findings(("u", "/kept"), {"type": "string"}, 1), (
        "a model that was fetched anew"
    )


def test_required_members_are_left_out_down_to_each_member_only() -> None:
    inner: dict[str, Any] = {"type": "object", "required": ["b"]}
    schema: dict[str, Any] = {
        "required": ["a"],
        "properties": {"a": inner},
        "items": inner,
        "oneOf": [inner],
    }
    assert assertions(schema, whole=False) == {
        "properties": {"a": {"type": "object"}},
        "items": {"type": "object"},
        "oneOf": [inner],
    }


def test_text_that_is_no_unicode_does_not_fit() -> None:
    assert texts({"pattern": "x"}, "\ud800")


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=3), _json, max_size=3), _json)
def test_no_schema_and_no_value_break_the_judge(schema: dict[str, Any], value: Json) -> None:
    keywords = {"type": "string", "properties": schema, "items": value, "enum": [value]}
    for one in (schema, keywords, {"const": value, "not": schema}):
        with suppress(BadModel):
            texts(one, value)


@settings(deadline=None)
@given(_json)
def test_every_value_fits_itself(value: Json) -> None:
    assert texts({"const": value}, value) == []
    assert texts({"enum": [value]}, value) == []


def test_patterns_of_operators_match_whole_texts() -> None:
    lamps = matcher("https://models\\.acme\\.org/lamp-1\\..*")
    assert lamps(LAMP)
    assert not lamps(f"x{LAMP}")
    assert not matcher("user:a|user:b")("user:abc")
    assert not matcher(".*")("\udc80")
    for bad in ("(", "x" * 2_000):
        with pytest.raises(ValueError, match=r"pattern|expression"):
            matcher(bad)
