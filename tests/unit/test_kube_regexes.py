"""Patterns of definitions, read as Go reads them and matched in linear time."""

from __future__ import annotations

import pytest

from gateway.wire.kube.regexes import Pattern
from gateway.wire.kube.schema import read_schema
from gateway.wire.kube.validate import faults


@pytest.mark.parametrize(
    ("pattern", "fitting", "other"),
    [
        (r"^[a-z]([-a-z0-9]*[a-z0-9])?$", "a-1", "a-\n"),
        (r"(?i)^abc$", "ABC", "abd"),
        (r"\Aab\z", "ab", "cab"),
        (r"\\Aab", r"x\Aab", "ab"),
        (r"^(?P<year>\d{4})$", "2026", "٢٠٢٦"),
        (r"^[[:alpha:]_]+$", "a_B", "a1"),
        (r"^\pL+$", "éa", "1"),
        (r"^https?:\/\/[\w\-\.]+$", "https://a-b.c", "ftp://a"),
    ],
)
def test_patterns_mean_what_they_mean_elsewhere(pattern: str, fitting: str, other: str) -> None:
    found = Pattern(pattern)
    assert (found.search(fitting), found.search(other)) == (True, False)


@pytest.mark.parametrize("pattern", ["(a", "(?=a)", r"(a)\1", "a{1,1000}{1,1000}{1,1000}"])
def test_what_could_take_forever_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match="error parsing regexp"):
        Pattern(pattern)


def test_a_pattern_with_a_million_ways_to_match_holds_up_nobody() -> None:
    schema = read_schema({"type": "string", "pattern": "^(a+)+$"})
    (fault,) = faults(schema, "a" * 100_000 + "!")
    assert "should match '^(a+)+$'" in fault.message
    assert list(faults(schema, "aaa")) == []


def test_half_a_character_matches_nothing() -> None:
    assert not Pattern(".*").search("\ud800")
