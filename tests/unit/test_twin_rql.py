"""RQL: grammar, meaning in memory and in a search, time values."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, GatewayError
from gateway.model.glob import glob_matches
from gateway.model.json import Json
from gateway.twin.rql import (
    SEARCH_ROOTS,
    Comparison,
    Logical,
    Node,
    Property,
    TimeValue,
    joined,
    parse,
    properties,
    require_roots,
)
from gateway.twin.rql_predicate import (
    Semantics,
    document_lookup,
    predicate,
    resolved,
)
from tests.search_samples import filter_text, nodes

NOW = datetime(2026, 3, 31, 13, 14, 15, 678901, UTC)

THING: Json = {
    "thingId": "org.acme:pump-1",
    "attributes": {
        "type": "pump",
        "n": 5,
        "f": 5.0,
        "on": True,
        "none": None,
        "empty": "",
        "list": [1, 2, "x"],
        "digits": "10",
        "objects": [{"k": 1}, {"k": 2}],
    },
    "features": {
        "a": {"properties": {"temp": 20}},
        "b": {"properties": {"temp": 30}, "definition": ["x:y:1"]},
    },
    "_modified": "2026-03-31T10:00:00.000000Z",
}
PLACEHOLDERS: dict[str, Json] = {"topic:action": "modified", "resource:path": "/attributes/n"}


def holds(text: str, semantics: Semantics = Semantics.MEMORY) -> bool:
    return predicate(parse(text), semantics)(document_lookup(THING, PLACEHOLDERS), NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('eq(attributes/type,"pump")', True),
        ("eq(attributes/type,'pump')", True),
        ("eq(/attributes/n,5)", True),
        ("eq(attributes/n,5.0)", True),
        ("eq(attributes/f,5)", True),
        ('eq(attributes/n,"5")', False),
        ("eq(attributes/on,true)", True),
        ("eq(attributes/on,1)", False),
        ("eq(attributes/none,null)", True),
        ("eq(attributes/absent,null)", False),
        ("ne(attributes/type,'pump')", False),
        ("ne(attributes/type,'lamp')", True),
        ("gt(attributes/n,4)", True),
        ("gt(attributes/n,5)", False),
        ("ge(attributes/n,5)", True),
        ("lt(attributes/n,-1)", False),
        ("le(attributes/n,5.5)", True),
        ('lt(attributes/digits,"9")', True),
        ("gt(attributes/none,1)", False),
        ("lt(attributes/absent,1)", False),
        ("in(attributes/type,'lamp','pump')", True),
        ("in(attributes/n,1,2)", False),
        ("like(attributes/type,'p*p')", True),
        ("like(attributes/type,'p?mp')", True),
        ("like(attributes/type,'P*')", False),
        ("ilike(attributes/type,'P*')", True),
        ("like(attributes/n,'5')", False),
        ("exists(attributes/none)", True),
        ("exists(attributes/absent)", False),
        ("exists(features/a)", True),
        ("exists(features/*/definition)", True),
        ("exists(features/*/desiredProperties)", False),
        ("empty(attributes/empty)", True),
        ("empty(attributes/absent)", True),
        ("empty(attributes/none)", True),
        ("empty(attributes/type)", False),
        ("eq(attributes/list,2)", True),
        ("eq(attributes/list,3)", False),
        ("eq(attributes/objects/k,2)", True),
        ("gt(features/*/properties/temp,25)", True),
        ("gt(features/*/properties/temp,35)", False),
        ("and(eq(attributes/n,5),eq(attributes/on,true))", True),
        ("and(eq(attributes/n,5), eq(attributes/on,false))", False),
        ("or(eq(attributes/n,6),eq(attributes/on,true))", True),
        ("not(eq(attributes/n,5))", False),
        ("and(eq(attributes/n,5))", True),
        ("eq(topic:action,'modified')", True),
        ("like(resource:path,'/attributes/*')", True),
        ("eq(topic:unknown,'x')", False),
        ("gt(_modified,time:now-1d)", True),
        ("gt(_modified,time:now-1h)", False),
        (r'eq(attributes/type,"p\u0075mp")', True),
        (r'eq(attributes/type,"pu\mp")', True),
    ],
)
def test_a_filter_holds_or_not(text: str, expected: bool) -> None:
    assert holds(text) is expected


def test_an_absent_field_is_different_in_memory_and_not_there_in_a_search() -> None:
    assert holds("ne(attributes/absent,1)", Semantics.MEMORY)
    assert not holds("ne(attributes/absent,1)", Semantics.SEARCH)
    assert holds("ne(attributes/n,1)", Semantics.SEARCH)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eq",
        "eq()",
        "eq(a)",
        "eq(a,)",
        "eq(a,1",
        "eq(a,1))",
        "eq(a,1,2)",
        "eq(a,b)",
        "EQ(a,1)",
        "foo(a,1)",
        "not(eq(a,1),eq(a,2))",
        "and()",
        "like(a,1)",
        'eq(a,"x)',
        "eq(,1)",
        "eq(a,1e5)",
        "exists(a,1)",
        "eq(a,time:now+)",
        "in(a)",
        "and(eq(a,1),)",
    ],
)
def test_what_is_no_rql_is_refused_with_the_position(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(text)
    assert caught.value.code == "rql.expression.invalid"
    assert "expected" in caught.value.message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not(" * 41 + "eq(a,1)" + ")" * 41, "nested"),
        ("not(" * 10_000, "nested"),
        (f"eq(a,'{'x' * 70_000}')", "characters"),
        (f"and({','.join(['exists(a)'] * 1_001)})", "comparisons"),
        (f"in(a,{','.join(['1'] * 10_001)})", "values"),
        (f"or(in(a,{','.join(['1'] * 6_000)}),in(a,{','.join(['2'] * 6_000)}))", "values"),
        (f"like(a,'{'*x' * 2_049}')", "pattern"),
        (f"ilike(a,'{'?' * 4_097}')", "pattern"),
        (f"eq(a,{'9' * 5_000})", "digits"),
        (f"eq(a,-1.{'9' * 5_000})", "digits"),
        ("eq(a,'\ud800')", "UTF-8"),
        ("eq(a,\u0663)", "expected a value"),
    ],
)
def test_filters_that_are_too_large_are_refused(text: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as caught:
        parse(text)
    assert caught.value.code == "rql.expression.invalid"


@pytest.mark.parametrize(
    "text",
    [
        f"in(a,{','.join(['1'] * 10_000)})",
        f"and({','.join(['exists(a)'] * 1_000)})",
        "not(" * 40 + "eq(a,1)" + ")" * 40,
        f"like(a,'{'*y' * 2_048}')",
        f"eq(a,{'9' * 300})",
        f"eq({'a/' * 63}b,1)",
    ],
)
def test_filters_at_the_limits_are_read_and_answered(text: str) -> None:
    assert (
        not predicate(parse(text))(document_lookup({"a": "x" * 100_000}), NOW) or "exists" in text
    )


@pytest.mark.parametrize(
    "pattern",
    [
        "*a" * 2_000 + "*b",
        "*a?" * 1_300 + "*b",
        "*" + "a?" * 2_000 + "b*",
        "*" + "?" * 4_000 + "b",
        "*" + "?a" * 1_000 + "b*c",
        "*" + "a" * 4_000 + "b*",
    ],
)
def test_no_pattern_takes_long(pattern: str) -> None:
    assert not glob_matches(pattern, "a" * 100_000)


def test_a_filter_is_read_into_a_tree() -> None:
    node = parse('and(eq(attributes/a~1b,1),in(thingId,"x","y"))')
    assert node == Logical(
        "and",
        (
            Comparison("eq", Property("attributes/a~1b", ("attributes", "a/b")), (1,)),
            Comparison("in", Property("thingId", ("thingId",)), ("x", "y")),
        ),
    )
    assert [found.text for found in properties(node)] == ["attributes/a~1b", "thingId"]


@pytest.mark.parametrize(
    ("text", "property_text"),
    [
        ("eq(attributes/a(b,1)", "attributes/a(b"),
        ("eq(/attributes/a b,1)", "/attributes/a b"),
        ("eq( attributes/a ,1)", "attributes/a"),
        ("eq(attributes/a'b,1)", "attributes/a'b"),
        ("eq(attributes/a[0]{x},1)", "attributes/a[0]{x}"),
        ("eq(attributes/Ä\U0001f600,1)", "attributes/Ä\U0001f600"),
        ("eq(_metadata/attributes/*/by,1)", "_metadata/attributes/*/by"),
    ],
)
def test_a_property_is_all_up_to_the_comma(text: str, property_text: str) -> None:
    (found,) = properties(parse(text))
    assert found.text == property_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"""eq(a,"say \"hi\"")""", 'say "hi"'),
        (r"""eq(a,'it\'s')""", "it's"),
        (r"""eq(a,"\\")""", "\\"),
        (r"""eq(a,"\n\t\r\b\f\/")""", "\n\t\r\b\f/"),
        (r"""eq(a,"\u00e4\ud83d")""", "ä\ud83d"),
        ("""eq(a,"),(")""", "),("),
        ("eq(a,-0.50)", -0.5),
        ("eq(a,-7)", -7),
        ("eq(a , 7 )", 7),
        ("eq(a,false)", False),
        ("eq(a,null)", None),
    ],
)
def test_a_value_is_read_as_it_was_meant(text: str, value: Json) -> None:
    node = parse(text)
    assert isinstance(node, Comparison)
    assert node.values == (value,)
    assert type(node.values[0]) is type(value)


@given(node=nodes)
def test_a_tree_written_as_text_is_read_as_itself(node: Node) -> None:
    assert parse(filter_text(node)) == node


def test_a_search_knows_its_fields() -> None:
    require_roots(parse("eq(attributes/a,1)"), SEARCH_ROOTS)
    for text in ("eq(color,1)", "eq(topic:action,'x')"):
        with pytest.raises(BadRequest):
            require_roots(parse(text), SEARCH_ROOTS)


def test_several_filters_are_joined() -> None:
    assert joined([]) is None
    assert joined(["eq(a,1)"]) == "eq(a,1)"
    assert joined(["eq(a,1)", "exists(b)"]) == "and(eq(a,1),exists(b))"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("time:now", "2026-03-31T13:14:15.678901Z"),
        ("time:now-1h", "2026-03-31T12:14:15.678901Z"),
        ("time:now+30m", "2026-03-31T13:44:15.678901Z"),
        ("time:now-1mo", "2026-02-28T13:14:15.678901Z"),
        ("time:now+1y", "2027-03-31T13:14:15.678901Z"),
        ("time:now[d]", "2026-03-31T00:00:00Z"),
        ("time:now[w]", "2026-03-30T00:00:00Z"),
        ("time:now[mo]", "2026-03-01T00:00:00Z"),
        ("time:now[ms]", "2026-03-31T13:14:15.678000Z"),
        ("time:now-1d[h]", "2026-03-30T13:00:00Z"),
        ("time:now_epoch_millis[s]", 1_774_962_855_000),
        ("time:now-999999999y", "0001-01-01T00:00:00Z"),
    ],
)
def test_time_values_are_worked_out_when_the_filter_is_asked(text: str, expected: Json) -> None:
    node = parse(f"gt(_modified,{text})")
    assert isinstance(node, Comparison)
    assert isinstance(node.values[0], TimeValue)
    assert resolved(node.values[0], NOW) == expected


@given(st.text("ab*?", max_size=8), st.text("ab*?", max_size=10))
def test_glob_patterns_match_as_a_naive_matcher_does(pattern: str, text: str) -> None:
    def naive(p: str, t: str) -> bool:
        if not p:
            return not t
        if p[0] == "*":
            return naive(p[1:], t) or (bool(t) and naive(p, t[1:]))
        return bool(t) and p[0] in ("?", t[0]) and naive(p[1:], t[1:])

    assert glob_matches(pattern, text) is naive(pattern, text)


@given(st.text("eqandor()/,\"'1.-\\ :timenow[]", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        node = parse(text)
    except GatewayError:
        return
    assert isinstance(predicate(node)(document_lookup(THING), NOW), bool)
