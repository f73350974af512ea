"""Placeholder templates: pipelines of functions, several values, what stays unresolved, what is refused."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.wire.ditto.formatting import formatted
from gateway.wire.ditto.placeholders import Expression, Scope, Template, split_outside_quotes

HEADERS = {
    "device_id": "org.acme:pump-1",
    "qos": "1",
    "empty": "",
    "b64": "cHVtcA==",
    "url": "a%20b",
}
GROUPS = [
    '{"name":"west","id":7,"sites":[{"s":"a","on":true},{"s":"b"}],"tags":["x","y"],"none":null}',
    '{"name":"east","id":8}',
]
SCOPE: Scope = {
    "header": HEADERS.get,
    "thing": {"id": "org.acme:pump-1", "name": "pump-1"}.get,
    "topic": {"criterion": "commands"}.get,
    "jwt": {"roles": ["admin", "user"], "groups": GROUPS, "text": ["no json", "[1]"]}.get,
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("command/T/{{ thing:id }}", "command/T/org.acme:pump-1"),
        ("{{header:device_id}}", "org.acme:pump-1"),
        ("{{ header:nope }}", None),
        ("x/{{ header:nope }}", None),
        ("{{ header:nope | fn:default('there') }}", "there"),
        ("{{ header:nope | fn:default(topic:criterion) }}-response", "commands-response"),
        (
            "{{ header:nope | fn:default(topic:action-subject) | fn:default(topic:criterion) }}",
            "commands",
        ),
        ("{{ header:device_id | fn:substring-before(':') }}", "org.acme"),
        ("{{ header:device_id | fn:substring-after(':') }}", "pump-1"),
        ("{{ thing:name | fn:substring-before(':') | fn:default(thing:name) }}", "pump-1"),
        ("{{ header:device_id | fn:upper() }}", "ORG.ACME:PUMP-1"),
        ("{{ header:b64 | fn:base64-decode() }}", "pump"),
        ("{{ thing:name | fn:base64-encode() }}", "cHVtcC0x"),
        ("{{ header:url | fn:url-decode() }}", "a b"),
        ("{{ header:device_id | fn:replace(':','/') }}", "org.acme/pump-1"),
        ("{{ header:device_id | fn:split('.') | fn:join('+') }}", "org+acme:pump-1"),
        ("{{ fn:default('a|b') }}", "a|b"),
        ("{{ fn:default('r') | fn:filter(header:qos,'ne','0') }}", "r"),
        ("{{ fn:default('r') | fn:filter(header:qos,'eq','0') }}", None),
        ("{{ fn:default('r') | fn:filter(header:nope,'ne','false') }}", "r"),
        ("{{ header:qos | fn:filter('eq','1') }}", "1"),
        ("{{ header:qos | fn:filter(header:device_id,'like','org.*|com.*') }}", "1"),
        ("{{ header:qos | fn:filter(header:nope,'exists','false') }}", "1"),
        ("{{ header:qos | fn:filter('eq','2') | fn:default('none') }}", "none"),
        ("{{ header:qos | fn:delete() | fn:default('never') }}", None),
        ("{{ jwt:roles }}", "admin"),
        # fn:filter: of what is piped in, of another value, of absent ones
        ("{{ header:qos | fn:filter('exists','true') }}", "1"),
        ("{{ header:qos | fn:filter('exists','false') }}", None),
        ("{{ header:qos | fn:filter(header:device_id,'exists') }}", "1"),
        ("{{ header:qos | fn:filter(header:nope,'exists') }}", None),
        ("{{ header:qos | fn:filter(header:empty,'exists') }}", None),
        ("{{ header:qos | fn:filter(header:empty,'exists','false') }}", "1"),
        ("{{ header:qos | fn:filter(header:device_id,'exists','TRUE') }}", "1"),
        ("{{ header:qos | fn:filter(header:nope,'eq','') }}", "1"),
        ("{{ header:qos | fn:filter(header:nope,'like','*') }}", "1"),
        ("{{ header:qos | fn:filter(header:nope,'ne','') }}", None),
        ("{{ header:qos | fn:filter(header:device_id,'eq',thing:id) }}", "1"),
        ("{{ header:qos | fn:filter(thing:name,'eq',jwt:roles) }}", None),
        ("{{ header:qos | fn:filter('user','eq',jwt:roles) }}", "1"),
        ("{{ jwt:roles | fn:filter('like','us?r') }}", "user"),
        ("{{ jwt:roles | fn:filter('ne','admin') }}", "user"),
        ("{{ header:qos | fn:filter('nonsense','1') }}", None),
        ("{{ header:qos | fn:filter(header:qos,'nonsense','1') }}", None),
        ("{{ header:nope | fn:filter('eq','') | fn:default('d') }}", "d"),
        # every other function, with and without a value
        ("{{ header:nope | fn:default('') }}", ""),
        ("{{ header:nope | fn:default(header:nothing) }}", None),
        ("{{ header:empty | fn:default('never') }}", ""),
        ("{{ header:device_id | fn:substring-before('/') }}", None),
        ("{{ header:device_id | fn:substring-after('.') }}", "acme:pump-1"),
        ('{{ header:device_id | fn:substring-after(":") }}', "pump-1"),
        ("{{ header:nope | fn:lower() }}", None),
        ("{{ fn:default('  a b ') | fn:trim() | fn:url-encode() }}", "a+b"),
        ("{{ fn:default('a+b%2F') | fn:url-decode() }}", "a b/"),
        ("{{ fn:default('!') | fn:base64-decode() }}", None),
        ("{{ header:device_id | fn:replace('.','') | fn:replace('','x') }}", "orgacme:pump-1"),
        ("{{ header:nope | fn:replace('a','b') }}", None),
        ("{{ fn:default('a,b,,') | fn:split(',') | fn:join('-') }}", "a-b"),
        ("{{ fn:default(',') | fn:split(',') }}", None),
        ("{{ header:nope | fn:split(',') | fn:join('-') | fn:default('d') }}", "d"),
        ("{{ jwt:roles | fn:join(', ') | fn:upper() }}", "ADMIN, USER"),
        ("{{ fn:delete() }}", None),
        ("{{fn:default('x')|fn:upper()}}{{ thing:name }}", "Xpump-1"),
        (r"{{ fn:default('it\'s | on') }}", r"it\'s | on"),
        ("{{ header:a", "{{ header:a"),
        ("a }} b", "a }} b"),
        ("", ""),
    ],
)
def test_a_template_resolves_to_the_first_value_or_nothing(
    template: str, expected: str | None
) -> None:
    assert Template.parse(template).resolve(SCOPE) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("ns:{{ jwt:roles }}", ("ns:admin", "ns:user")),
        (
            "{{ jwt:roles }}-{{ jwt:roles | fn:upper() }}",
            ("admin-ADMIN", "admin-USER", "user-ADMIN", "user-USER"),
        ),
        ("{{ jwt:roles | fn:split('m') }}", ("ad", "in", "user")),
        ("{{ jwt:roles }}{{ jwt:nobody }}", ()),
        ("{{ jwt:groups | fn:format('{id}#{name}') }}", ("7#west", "8#east")),
        ("{{ jwt:groups | fn:format('{name}/{tags}') }}", ("west/x", "west/y", "east/")),
        (
            "{{ jwt:groups | fn:format('{name}:{#sites}{s}={on};{/sites}') }}",
            ("west:a=true;", "west:b=;", "east:"),
        ),
        ("{{ jwt:groups | fn:format('{#tags}<{.}>{/tags}') }}", ("<x>", "<y>", "")),
        ("{{ jwt:groups | fn:format('{none}{missing}|{/no/such}') }}", ("|", "|")),
        (r"{{ jwt:groups | fn:format('\{{name}\}') }}", ("{west}", "{east}")),
        ("{{ jwt:groups | fn:format('{/name}') }}", ("{/name}", "{/name}")),
        ("{{ jwt:groups | fn:format('{#name}[{.}]{/name}') }}", ("[west]", "[east]")),
        ("{{ jwt:text | fn:format('{a}') }}", ("",)),
        ("{{ jwt:nobody | fn:format('{a}') }}", ()),
        (
            "{{ jwt:groups | fn:format('{sites}') | fn:format('{s}') }}",
            ("a", "b"),
        ),
    ],
)
def test_an_array_stands_for_several_texts(template: str, expected: tuple[str, ...]) -> None:
    assert Template.parse(template).resolve_all(SCOPE) == expected


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("fn:filter(header:qos,'ne','0')", True),
        ("fn:filter(header:qos,'eq','0')", False),
        ("fn:delete()", False),
    ],
)
def test_a_condition_holds_when_it_resolves(condition: str, holds: bool) -> None:
    assert bool(Expression.parse(condition).resolve(SCOPE)) is holds


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{{ nonsense }}", "placeholder:unresolved"),
        ("{{ header:a | fn:explode() }}", "placeholder:function.unknown"),
        ("{{ header:a | header:b }}", "placeholder:function.unknown"),
        ("{{ header:a | fn:default() }}", "placeholder:function.signature.invalid"),
        ("{{ header:a | fn:lower('x') }}", "placeholder:function.signature.invalid"),
        ("{{ header:a " + "| fn:lower() " * 11 + "}}", "placeholder:function.too.complex"),
        ("{{ fn:default('a') " + "| fn:lower() " * 11 + "}}", "placeholder:function.too.complex"),
        ("x" * 8_193, "placeholder:function.too.complex"),
        ("{{ }}", "placeholder:unresolved"),
        ("{{ thing: }}", "placeholder:unresolved"),
        ("{{ thing:color }}", "placeholder:unresolved"),
        ("{{ feature:name }}", "placeholder:unresolved"),
        ("{{ planet:id }}", "placeholder:unresolved"),
        ("{{ header:a | fn:default(planet:id) }}", "placeholder:unresolved"),
        ("{{ time:later }}", "placeholder:unresolved"),
        ("{{ time:now-1parsec }}", "placeholder:unresolved"),
        ("{{ time:now[century] }}", "placeholder:unresolved"),
        ("{{ header:a | fn:default }}", "placeholder:function.unknown"),
        ("{{ header:a | }}", "placeholder:function.unknown"),
        ("{{ header:a | fn:filter('eq') }}", "placeholder:function.signature.invalid"),
        ("{{ header:a | fn:filter('a','b','c','d') }}", "placeholder:function.signature.invalid"),
        ("{{ header:a | fn:replace('a') }}", "placeholder:function.signature.invalid"),
        ("{{ header:a | fn:split(header:b) }}", "placeholder:function.signature.invalid"),
        ("{{ header:a | fn:join(header:b) }}", "placeholder:function.signature.invalid"),
        ("{{ header:a | fn:format(header:b) }}", "placeholder:function.signature.invalid"),
        ("{{ header:a | fn:format('{#x}') }}", "placeholder:function.signature.invalid"),
        (
            "{{ header:a | fn:format('" + "{#x}" * 9 + "{/x}" * 9 + "') }}",
            "placeholder:function.signature.invalid",
        ),
    ],
)
def test_a_bad_template_is_refused_when_it_is_stored(template: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Template.parse(template)
    assert caught.value.code == code


def test_a_prefix_that_has_no_meaning_at_its_place_is_refused() -> None:
    with pytest.raises(BadRequest, match="'topic'") as caught:
        Template.parse("{{ header:a | fn:default(topic:full) }}", frozenset(("header",)))
    assert caught.value.code == "placeholder:unresolved"


def test_ten_functions_are_allowed() -> None:
    template = Template.parse("{{ header:qos " + "| fn:lower() " * 10 + "}}")
    assert template.resolve(SCOPE) == "1"


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        *[(p, n) for p in ("thing", "policy", "entity") for n in ("id", "namespace", "name")],
        ("thing-json", "attributes/serial"),
        ("feature", "id"),
        ("connection", "id"),
        ("header", "any-Header.name"),
        *[
            ("topic", n)
            for n in [
                "full",
                "namespace",
                "entityName",
                "entityId",
                "entityType",
                "group",
                "channel",
                "criterion",
                "action",
                "subject",
                "action-subject",
            ]
        ],
        ("resource", "type"),
        ("resource", "path"),
        ("request", "subjectId"),
        ("source", "address"),
        *[("time", n) for n in ("now", "now_epoch_millis", "now-1h", "now+30m", "now[d]")],
        *[("time", f"now-1{unit}[{unit}]") for unit in ("ms", "s", "m", "h", "d", "w", "mo", "y")],
        ("jwt", "extra/roles"),
        ("policy-entry", "label"),
    ],
)
def test_every_prefix_has_its_names(prefix: str, name: str) -> None:
    asked: list[str] = []

    def lookup(wanted: str) -> str:
        asked.append(wanted)
        return "found"

    template = Template.parse(f"{{{{ {prefix}:{name} }}}}")
    assert template.resolve({prefix: lookup}) == "found"
    assert asked == [name]
    assert template.resolve({}) is None


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("{{ header:qos" + " | fn:replace('1','" + "1" * 300 + "')" * 1 + " }}", "1" * 300),
        ("{{ header:qos" + " | fn:replace('1','11111111111111111111')" * 10 + " }}", "1"),
        ("{{ jwt:many }}{{ jwt:many }}{{ jwt:many }}", "1"),
        ("{{ header:qos | fn:split('1') }}", "1" * 65_537),
        ("{{ header:qos | fn:replace('1',',') | fn:split(';') | fn:format('{a}') }}", "1" * 65_537),
        ("{{ jwt:many | fn:join('" + "x" * 2_000 + "') }}", "1"),
        ("{{ header:qos | fn:format('{#a}" + "y" * 1_000 + "{/a}') }}", '{"a":' + "[" + "1," * 99),
        ("{{ header:deep | fn:format('{a}{a}{a}{a}') }}", "1"),
        ("{{ header:qos | fn:filter('like','" + "*1" * 600 + "') }}", "1" * 5_000),
    ],
)
def test_no_template_grows_beyond_its_bounds(template: str, values: str) -> None:
    text = values + "1]}" if values.startswith("{") else values
    scope: Scope = {
        "header": {"qos": text, "deep": '{"a":' + str(list(range(10))) + "}"}.get,
        "jwt": {"many": ["x"] * 100}.get,
    }
    parsed = Template.parse(template)
    with pytest.raises(BadRequest) as caught:
        parsed.resolve_all(scope)
    assert caught.value.code == "placeholder:function.too.complex"


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused_with_a_reason(text: str) -> None:
    with suppress(BadRequest):
        assert isinstance(Template.parse(text).resolve(SCOPE), str | None)


@given(st.text(alphabet="ab'|\" ", max_size=40))
def test_splitting_loses_no_character(text: str) -> None:
    assert "|".join(split_outside_quotes(text, "|")) == text


PIECES = st.sampled_from(
    [
        *("{{", "}}", "{", "}", "|", "'", '"', "(", ")", ",", " ", "\\", ":", "*"),
        *(
            "fn:filter",
            "fn:default",
            "fn:format",
            "fn:replace",
            "fn:split",
            "fn:join",
            "fn:delete()",
        ),
        *("header:qos", "jwt:groups", "jwt:roles", "thing:id", "'eq'", "'exists'", "'{#a}{.}{/a}'"),
    ]
)


@given(st.lists(PIECES, max_size=25).map("".join))
def test_what_looks_like_a_template_parses_or_is_refused(text: str) -> None:
    with suppress(BadRequest):
        template = Template.parse(text)
        texts = template.resolve_all(SCOPE)
        assert template.resolve(SCOPE) == (texts[0] if texts else None)


@given(
    st.lists(st.sampled_from(["{", "}", "{#a}", "{/a}", "{.}", "{a}", "{/a/b}", "\\{", "x"])),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("ab"), below),
        max_leaves=8,
    ),
)
def test_any_format_of_any_value_gives_texts_or_is_refused(parts: list[str], value: object) -> None:
    with suppress(BadRequest, ValueError):
        texts = formatted((json.dumps(value),), "".join(parts))
        assert all(isinstance(text, str) for text in texts)
        assert bool(texts) is isinstance(value, dict)
