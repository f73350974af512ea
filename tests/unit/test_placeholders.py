"""Placeholder templates: pipelines of functions, several values, what stays unresolved, what is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.wire.ditto.placeholders import Expression, Scope, Template, split_outside_quotes

HEADERS = {
    "device_id": "org.acme:pump-1",
    "qos": "1",
    "empty": "",
    "b64": "cHVtcA==",
    "url": "a%20b",
}
SCOPE: Scope = {
    "header": HEADERS.get,
    "thing": {"id": "org.acme:pump-1", "name": "pump-1"}.get,
    "topic": {"criterion": "commands"}.get,
    "jwt": {"roles": ["admin", "user"]}.get,
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
    ],
)
def test_a_template_resolves_to_the_first_value_or_nothing(
    template: str, expected: str | None
) -> None:
    assert Template.parse(template).resolve(SCOPE) == expected


def test_an_array_stands_for_several_texts() -> None:
    assert Template.parse("ns:{{ jwt:roles }}").resolve_all(SCOPE) == ("ns:admin", "ns:user")


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


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused_with_a_reason(text: str) -> None:
    with suppress(BadRequest):
        assert isinstance(Template.parse(text).resolve(SCOPE), str | None)


@given(st.text(alphabet="ab'|\" ", max_size=40))
def test_splitting_loses_no_character(text: str) -> None:
    assert "|".join(split_outside_quotes(text, "|")) == text
