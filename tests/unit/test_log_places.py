"""Logs that somebody has put something else in the place of, and folders with very many files."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from pathlib import Path

import pytest

from edge.pods.logfiles import LogOptions
from edge.pods.logplaces import open_log_file
from edge.pods.logrotation import LogRotation, pack
from edge.pods.podlogs import LogFile, open_log, read_log
from edge.pods.podspec import Container, read_pod
from edge.pods.runtime import ContainerState, State
from edge.pods.terminationlog import message_of
from edge.pods.trees import measure, remove_tree
from gateway.errors import BadRequest

LINE = b"2026-01-01T00:00:00.000000000Z stdout F hello\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "logs/shop_web_u1/c/0.log"
    file.parent.mkdir(parents=True)
    file.write_bytes(LINE)
    return file


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secrets/shop_web_u1/c/0.log"
    file.parent.mkdir(parents=True)
    file.write_bytes(LINE.replace(b"hello", b"secret"))
    return file


def _swap(log: Path, target: Path) -> None:
    """Put a link in the place of a log."""
    log.unlink()
    log.symlink_to(target)


def _read(path: Path) -> bytes:
    return LogFile(str(path), LogOptions()).next_piece() or b""


def test_the_folder_of_all_logs_may_be_a_link(log: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(log.parents[2])
    assert _read(tmp_path / "elsewhere/shop_web_u1/c/0.log") == b"hello\n"


def test_a_link_in_the_place_of_a_log_is_not_followed(log: Path, secret: Path) -> None:
    _swap(log, secret)
    with pytest.raises(BadRequest):
        _read(log)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_link_in_the_place_of_its_folder_is_not_followed(
    log: Path, secret: Path, depth: int
) -> None:
    remove_tree(log.parents[depth])
    log.parents[depth].symlink_to(secret.parents[depth])
    with pytest.raises(BadRequest):
        _read(log)


async def test_a_pipe_in_the_place_of_a_log_holds_nobody_up(log: Path) -> None:
    os.unlink(log)
    os.mkfifo(log)
    async with asyncio.timeout(5):
        with pytest.raises(BadRequest):
            await open_log(str(log), LogOptions())


async def test_a_log_that_becomes_a_link_while_it_is_followed_is_not_read_on(
    log: Path, secret: Path
) -> None:
    runs = True

    async def is_running() -> bool:
        nonlocal runs
        before, runs = runs, False
        return before

    file = await open_log(str(log), LogOptions(follow=True))
    _swap(log, secret)
    pieces = [each async for each in read_log(file, follow=True, is_running=is_running)]
    assert b"".join(pieces) == b"hello\n"


def test_last_words_are_not_read_through_a_link(log: Path, secret: Path, tmp_path: Path) -> None:
    _swap(log, secret)
    pod = read_pod({"metadata": {"name": "web", "uid": "u1"}, "spec": {"containers": []}})
    policy = Container(name="c", termination_message_policy="FallbackToLogsOnError")
    state = ContainerState(
        id="x", name="c", attempt=0, sandbox_id="s", state=State.EXITED, created_at=1, exit_code=1,
        log_path=str(log),
    )  # fmt: skip
    assert "secret" not in message_of(pod, policy, state, tmp_path / "none")


def test_packing_writes_through_no_link(log: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    log.with_name("0.log.tmp").symlink_to(target)
    pack(log)
    assert target.read_bytes() == b"precious"
    assert log.with_name("0.log.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_packing_reads_through_no_link(log: Path, secret: Path) -> None:
    _swap(log, secret)
    with pytest.raises(OSError, match="symbolic links"):
        pack(log)
    assert not log.with_name("0.log.gz").exists()


class _Running:
    def __init__(self, path: Path) -> None:
        self.state = ContainerState(
            id="x",
            name="c",
            attempt=0,
            sandbox_id="s",
            state=State.RUNNING,
            created_at=1,
            log_path=str(path),
        )
        self.reopened = 0

    async def containers(self) -> list[ContainerState]:
        return [self.state]

    async def container(self, container_id: str) -> ContainerState:
        return self.state

    async def reopen_log(self, container_id: str) -> None:
        self.reopened += 1


async def test_a_link_is_not_rotated_however_long_what_it_leads_to(log: Path, secret: Path) -> None:
    _swap(log, secret)
    assert await LogRotation(_Running(log), max_bytes=10).rotate() == 0
    assert os.readlink(log) == str(secret)


def test_an_open_log_is_plain(log: Path) -> None:
    descriptor = open_log_file(log)
    try:
        assert os.read(descriptor, 1_000) == LINE
    finally:
        os.close(descriptor)


# --- folders --------------------------------------------------------------------------------------

MANY = 5_000


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    folder = tmp_path / "crowded"
    folder.mkdir()
    for number in range(MANY):
        (folder / f"{number:0100}").touch()
    return folder


def test_a_folder_of_very_many_files_is_measured_one_by_one(crowded: Path) -> None:
    tracemalloc.start()
    try:
        assert measure(crowded).inodes == MANY + 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500_000


def test_a_folder_of_very_many_files_is_removed_some_at_a_time(crowded: Path) -> None:
    (crowded / "below/deeper").mkdir(parents=True)
    (crowded / "below/deeper/file").touch()
    remove_tree(crowded)
    assert not crowded.exists()


def test_a_link_in_the_place_of_a_folder_weighs_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr")
    assert measure(tmp_path / "link").inodes == 0
