"""What is wrong with a JSON text, as Kubernetes says it; fields that come twice."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.kube.jsontext import fault_of, may_repeat, repeated


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "unexpected end of JSON input"),
        (b'{"a":"b"', "unexpected end of JSON input"),
        (b"{nope", "invalid character 'n' looking for beginning of object key string"),
        (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"{}{}", "invalid character '{' after top-level value"),
        (b"[nope", "invalid character 'o' in literal null (expecting 'u')"),
        (b'"a\\x"', "invalid character 'x' in string escape code"),
        (b"-x", "invalid character 'x' in numeric literal"),
        (b"\x1f", "invalid character '\\x1f' looking for beginning of value"),
        (b"[" * 20_000, "exceeded max depth"),
    ],
)
def test_a_fault_is_named(text: bytes, fault: str) -> None:
    assert fault_of(text) == fault


def test_fields_that_come_twice_are_found_wherever_they_are() -> None:
    text = b'{"a":1,"a":2,"b":{"c":1,"c":2},"l":[{"x":1,"x":2}]}'
    assert repeated(text) == ["b.c", "l[0].x", "a"]
    assert may_repeat(text, json.loads(text))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_a_text_without_repetition_has_none(value: object) -> None:
    assert repeated(json.dumps(value).encode()) == []
