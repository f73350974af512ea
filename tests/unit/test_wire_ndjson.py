"""Lines of newline-delimited JSON, however the bytes come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.ndjson import Line, LineSplitter

LINES = st.lists(st.binary(max_size=12).filter(lambda one: b"\n" not in one), max_size=8)


def split(data: bytes, limit: int, *cuts: int) -> list[Line]:
    splitter = LineSplitter(limit)
    found: list[Line] = []
    at = 0
    for cut in (*sorted(cuts), len(data)):
        found += splitter.feed(data[at:cut])
        at = max(at, cut)
    return found + splitter.end()


@given(LINES, st.lists(st.integers(0, 100), max_size=5), st.booleans())
def test_lines_do_not_depend_on_how_bytes_arrive(
    lines: list[bytes], cuts: list[int], has_end: bool
) -> None:
    data = b"\n".join(lines) + (b"\n" if has_end else b"")
    expected = [
        Line(number, text if len(line) <= 8 else None)
        for number, line in enumerate(data.split(b"\n"), 1)
        if (text := line.strip(b" \t\r")) or len(line) > 8
    ]
    assert split(data, 8, *cuts) == expected


def test_blank_lines_count_and_are_left_out() -> None:
    assert split(b"a\n\n  \r\nb", 10) == [Line(1, b"a"), Line(4, b"b")]


def test_of_a_line_that_is_too_long_nothing_is_kept() -> None:
    splitter = LineSplitter(4)
    for _ in range(1_000):
        assert splitter.feed(b"x" * 1_000) == []
        assert len(splitter._rest) == 0
    assert splitter.feed(b"\nok\n") == [Line(1, None), Line(2, b"ok")]
    assert splitter.end() == []
