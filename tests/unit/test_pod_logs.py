"""Logs of containers: what goes out of a file, judged against a reading line by line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.pods.logfiles import (
    InvalidLogOptions,
    LogOptions,
    LogView,
    fixed_stamp,
    parse_stamp,
    read_options,
    tail_start,
)
from edge.pods.podlogs import LogFile, open_log, read_log
from gateway.errors import BadRequest

T = b"2026-11-23T14:00:0%d.5Z "


def line(second: int, text: bytes, tag: bytes = b"F", stream: bytes = b"stdout") -> bytes:
    return T % second + stream + b" " + tag + b" " + text + b"\n"


def shown(data: bytes, **options: object) -> bytes:
    return LogView(LogOptions(**options)).take(data)  # type: ignore[arg-type]


STAMPS = st.sampled_from(
    [
        b"2026-11-23T14:00:01Z",
        b"2026-11-23T14:00:01.000000001Z",
        b"2026-11-23T16:00:01.1+02:00",
        b"2026-11-23T14:00:02.123456789Z",
        b"2026-11-23T12:59:59.5-01:00",
    ]
)
TEXTS = st.binary(max_size=12).map(lambda data: data.replace(b"\n", b" "))
LINES = st.tuples(
    STAMPS, st.sampled_from([b"stdout", b"stderr"]), st.sampled_from([b"F", b"P", b"P:x"]), TEXTS
).map(lambda parts: b" ".join(parts) + b"\n")
ODD = st.sampled_from([b"\n", b"x\n", b"2026-11-23T14:00:01Z stdout F\n", b"2026 stdout F a\n"])
FILES = st.lists(st.one_of(LINES, LINES, ODD), max_size=12)


def by_hand(lines: list[bytes], options: LogOptions) -> bytes:
    """What the kubelet does with each line, one after the other."""
    out, is_new, count = b"", True, options.tail
    for each in lines:
        if count == 0 and not options.follow:
            break
        parts = each.split(b" ", 3)
        moment = parse_stamp(parts[0])
        if len(parts) < 4 or moment is None or parts[1] not in (b"stdout", b"stderr"):
            continue
        text = parts[3][:-1] if parts[2].split(b":")[0] == b"P" else parts[3]
        if options.since is None or moment >= options.since:
            prefix = fixed_stamp(parts[0]) + b" " if options.timestamps and is_new else b""
            out += prefix + text
        is_new = not text or text.endswith(b"\n")
        count = None if count is None else count - 1
    return out if options.limit is None else out[: options.limit]


@given(
    first=LINES,
    rest=FILES,
    timestamps=st.booleans(),
    since=st.sampled_from([None, 1795442401000000000, 1795442401000000001, 1795442402000000000]),
    limit=st.sampled_from([None, 1, 7, 30]),
    tail=st.sampled_from([None, 1, 3]),
    cut=st.integers(0, 12),
)
def test_blocks_show_what_single_lines_do(
    first: bytes,
    rest: list[bytes],
    timestamps: bool,
    since: int | None,
    limit: int | None,
    tail: int | None,
    cut: int,
) -> None:
    lines = [first, *rest]
    options = LogOptions(timestamps=timestamps, since=since, limit=limit, tail=tail)
    view = LogView(options)
    out = view.take(b"".join(lines[:cut])) + view.take(b"".join(lines[cut:]))
    assert out == by_hand(lines, options)


@given(st.lists(st.binary(max_size=30), max_size=40), st.integers(0, 45))
def test_the_tail_of_a_file_has_that_many_lines(pieces: list[bytes], count: int) -> None:
    data = b"\n".join(pieces)
    start = tail_start(lambda at, size: data[at : at + size], len(data), count)
    assert data[start:].count(b"\n") == min(count, data.count(b"\n"))
    assert start == 0 or data[start - 1 : start] == b"\n"


def test_a_long_tail_is_found_across_blocks() -> None:
    data = b"".join(b"%d\n" % number for number in range(50_000))
    start = tail_start(lambda at, size: data[at : at + size], len(data), 30_000)
    assert data[start:].startswith(b"20000\n")


def test_a_text_in_parts_is_one_line_with_one_time() -> None:
    data = line(1, b"one ", b"P") + line(1, b"two", b"F") + line(2, b"three")
    assert shown(data) == b"one two\nthree\n"
    stamp = b"2026-11-23T14:00:0%d.500000000Z "
    assert shown(data, timestamps=True) == stamp % 1 + b"one two\n" + stamp % 2 + b"three\n"


def test_one_stream_is_told_from_the_other() -> None:
    data = line(1, b"out") + line(1, b"err", stream=b"stderr")
    assert shown(data, stream="Stdout") == b"out\n"
    assert shown(data, stream="Stderr") == b"err\n"


def test_a_file_that_is_no_log_is_said_to_be_none() -> None:
    with pytest.raises(BadRequest, match="unsupported log format"):
        shown(b"plain text\n")


@pytest.mark.parametrize(
    "query",
    [
        {"tailLines": "-1"},
        {"limitBytes": "0"},
        {"sinceSeconds": "0"},
        {"sinceSeconds": "1", "sinceTime": "2026-11-23T14:00:00Z"},
        {"stream": "Both"},
        {"stream": "Stdout", "tailLines": "1"},
    ],
)
def test_options_that_cannot_be_meant_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(InvalidLogOptions):
        read_options(query, 0)


@pytest.mark.parametrize(
    "query", [{"tailLines": "ten"}, {"sinceTime": "yesterday"}, {"limitBytes": "1" * 30}]
)
def test_options_that_cannot_be_read_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match="Unable to decode query"):
        read_options(query, 0)


def test_since_is_the_time_before_now() -> None:
    assert read_options({"sinceSeconds": "5"}, 7_000_000_000).since == 2_000_000_000
    assert read_options({"sinceTime": "1970-01-01T00:00:01.5Z"}, 0).since == 1_500_000_000
    assert read_options({"follow": "true", "timestamps": "false"}, 0).follow
    assert not read_options({"timestamps": "false"}, 0).timestamps


# --- files ------------------------------------------------------------------------------------------


class Container:
    """A container that runs until it is told otherwise."""

    def __init__(self) -> None:
        self.runs = True

    async def is_running(self) -> bool:
        return self.runs


async def read_all(path: Path, container: Container, options: LogOptions) -> bytes:
    log = await open_log(str(path), options)
    pieces = read_log(log, follow=options.follow, is_running=container.is_running)
    return b"".join([piece async for piece in pieces])


async def test_the_last_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"".join(line(n % 10, b"%d" % n) for n in range(1_000)))
    assert await read_all(path, Container(), LogOptions(tail=2)) == b"998\n999\n"
    assert await read_all(path, Container(), LogOptions(tail=0)) == b""


async def test_a_line_without_its_end_is_shown_when_the_log_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(line(1, b"a") + line(2, b"b").rstrip(b"\n"))
    assert await read_all(path, Container(), LogOptions()) == b"a\nb"


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"failed to open log file .*0\.log: no such file"):
        await open_log(str(tmp_path / "0.log"), LogOptions())


class Follower:
    """A log that is followed, and what came of it."""

    def __init__(self, path: Path, container: Container, options: LogOptions) -> None:
        self.seen = b""
        self._news = asyncio.Condition()
        self.task = asyncio.create_task(self._run(path, container, options))

    async def _run(self, path: Path, container: Container, options: LogOptions) -> None:
        log = await open_log(str(path), options)
        async for piece in read_log(log, follow=True, is_running=container.is_running):
            async with self._news:
                self.seen += piece
                self._news.notify_all()

    async def sees(self, wanted: bytes) -> None:
        async with asyncio.timeout(5), self._news:
            await self._news.wait_for(lambda: self.seen == wanted)


async def test_a_log_is_followed_across_rotation_and_truncation_to_the_end(tmp_path: Path) -> None:
    path, container = tmp_path / "0.log", Container()
    path.write_bytes(line(1, b"a") + line(1, b"b"))
    follower = Follower(path, container, LogOptions(follow=True, tail=1))
    await follower.sees(b"b\n")
    with path.open("ab") as old:
        old.write(line(2, b"c"))
        old.flush()
        await follower.sees(b"b\nc\n")
        path.rename(tmp_path / "0.log.20261123-140000")
        old.write(line(3, b"late"))
        old.flush()
        path.write_bytes(line(4, b"new"))
    await follower.sees(b"b\nc\nlate\nnew\n")
    path.write_bytes(b"")
    path.write_bytes(line(5, b"x"))
    await follower.sees(b"b\nc\nlate\nnew\nx\n")
    with path.open("ab") as last:
        last.write(line(6, b"end"))
    container.runs = False
    async with asyncio.timeout(5):
        await follower.task
    assert follower.seen == b"b\nc\nlate\nnew\nx\nend\n"


async def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path, container = tmp_path / "0.log", Container()
    path.write_bytes(line(1, b"a") + line(2, b"bc")[:-2])
    follower = Follower(path, container, LogOptions(follow=True))
    await follower.sees(b"a\n")
    with path.open("ab") as file:
        file.write(b"c\n")
    await follower.sees(b"a\nbc\n")
    container.runs = False
    await follower.task


async def test_who_ceases_to_follow_leaves_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(line(1, b"a"))
    log = await open_log(str(path), LogOptions(follow=True))

    async def follow() -> None:
        async for _ in read_log(log, follow=True, is_running=Container().is_running):
            pass

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert log.next_piece() is None


def test_a_line_longer_than_a_block_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(line(1, b"x" * 600_000) + line(2, b"y"))
    log = LogFile(str(path), LogOptions())
    out = (log.next_piece() or b"") + (log.next_piece() or b"")
    log.close()
    assert out == b"x" * 600_000 + b"\ny\n"
