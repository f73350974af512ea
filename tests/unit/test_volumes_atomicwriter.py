"""Files of volumes that change all at once, whatever step a write ends at."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.pods import atomicwriter, trees
from edge.pods.atomicwriter import File, clean_path, write_files
from gateway.errors import BadRequest

_CHANGES = ("mkdir", "symlink", "rename", "unlink", "rmdir", "fchmod", "fchown", "fdopen")


class _Killed(BaseException):
    """The process ended here."""


class _FailingOs:
    """`os`, until a number of changes is made."""

    def __init__(self, changes: int) -> None:
        self.left = changes

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in _CHANGES:
            return real

        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.left <= 0:
                raise _Killed
            self.left -= 1
            return real(*args, **kwargs)

        return counted


@contextmanager
def killed_after(changes: int) -> Iterator[_FailingOs]:
    failing = _FailingOs(changes)
    with mock.patch.object(atomicwriter, "os", failing), mock.patch.object(trees, "os", failing):
        yield failing


def files(**contents: str) -> dict[str, File]:
    return {name.replace("__", "/"): File(text.encode(), 0o644) for name, text in contents.items()}


def seen(folder: Path) -> dict[str, bytes]:
    """What a reader finds: all files that can be opened by names that do not start with `..`."""
    found: dict[str, bytes] = {}
    for name in sorted(os.listdir(folder)):
        if name.startswith(".."):
            continue
        top = folder / name
        for path in [top, *top.rglob("*")] if top.is_dir() else [top]:
            with suppress(FileNotFoundError, IsADirectoryError):
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def test_files_are_shown_with_their_modes(tmp_path: Path) -> None:
    wanted = {"a": File(b"1", 0o400), "d/b": File(b"2", 0o644), "d/e/c": File(b"", 0o640)}
    assert write_files(tmp_path, wanted)
    assert seen(tmp_path) == {"a": b"1", "d/b": b"2", "d/e/c": b""}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o400
    assert stat.S_IMODE((tmp_path / "d/e/c").stat().st_mode) == 0o640
    assert os.readlink(tmp_path / "d") == "..data/d"


def test_the_same_files_again_change_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, files(a="1", d__b="2"))
    before = os.readlink(tmp_path / "..data")
    assert not write_files(tmp_path, files(a="1", d__b="2"))
    assert os.readlink(tmp_path / "..data") == before


@pytest.mark.parametrize(
    "new",
    [files(a="2"), files(b="1"), files(a="1", b="1"), files(a__a="1"), {}],
    ids=["content", "name", "more", "folder", "none"],
)
def test_a_change_takes_the_place_of_all(tmp_path: Path, new: dict[str, File]) -> None:
    write_files(tmp_path, files(a="1"))
    assert write_files(tmp_path, new)
    assert seen(tmp_path) == {path: file.data for path, file in new.items()}
    assert len([name for name in os.listdir(tmp_path) if name.startswith("..2")]) == 1


def test_a_reader_keeps_what_it_has_opened(tmp_path: Path) -> None:
    write_files(tmp_path, files(a="old"))
    with (tmp_path / "a").open("rb") as stream:
        write_files(tmp_path, files(a="new"))
        assert stream.read() == b"old"


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "nested").mkdir()
    (tmp_path / "elsewhere").symlink_to("/etc")
    write_files(tmp_path, files(a="1", b="1"))
    write_files(tmp_path, files(a="2"))
    assert (tmp_path / "nested").is_dir()
    assert os.readlink(tmp_path / "elsewhere") == "/etc"
    assert not (tmp_path / "b").is_symlink()


@pytest.mark.parametrize("name", ["..data", "..data_tmp", "..2026_01_01_00_00_00.x", "a"])
def test_a_link_that_a_container_placed_is_never_followed(tmp_path: Path, name: str) -> None:
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    volume.mkdir()
    outside.mkdir()
    (outside / "a").write_text("theirs")
    (volume / name).symlink_to(outside)
    write_files(volume, files(a="1"))
    write_files(volume, files(a="2"))
    assert (volume / "a").read_text() == "2"
    assert os.listdir(outside) == ["a"]
    assert (outside / "a").read_text() == "theirs"


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "volume").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="volume"):
        write_files(tmp_path / "volume", files(a="1"))
    assert os.listdir(tmp_path / "real") == []


def test_what_cannot_be_written_leaves_the_old_files(tmp_path: Path) -> None:
    write_files(tmp_path, files(a="1"))
    with (
        mock.patch.object(os, "fchmod", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match="No space"),
    ):
        write_files(tmp_path, files(a="2"))
    assert seen(tmp_path) == {"a": b"1"}
    assert sorted(os.listdir(tmp_path))[2:] == ["a"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "must not be empty"),
        ("/etc/passwd", "must be relative"),
        ("../x", "must not contain '..'"),
        ("a/../../x", "must not contain '..'"),
        ("..hidden", "must not start with '..'"),
        ("./..data/x", "must not start with '..'"),
        ("a/" + "b" * 256, "255 characters"),
        ("a/" * 2100 + "b", "4096 characters"),
        ("a\0b", "zero byte"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        write_files(tmp_path, {path: File(b"", 0o644)})
    assert os.listdir(tmp_path) == []


def test_a_path_is_cleaned_of_what_means_nothing() -> None:
    assert clean_path("a//b/./c") == "a/b/c"


def test_a_file_where_others_need_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="a is a file, and a folder for a/b"):
        write_files(tmp_path, files(a="1", a__b="2"))


def test_content_is_not_shown_by_a_file() -> None:
    assert "word" not in repr(File(b"word", 0o600))


# --- any walk, ended at any step ------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/f", "x"])
_CONTENTS = st.dictionaries(_NAMES, st.sampled_from([b"", b"1", b"22"]), max_size=5)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(walk=st.lists(st.tuples(_CONTENTS, st.integers(0, 40)), max_size=6), last=_CONTENTS)
def test_whatever_step_a_write_ends_at_readers_find_one_generation(
    tmp_path_factory: pytest.TempPathFactory,
    walk: list[tuple[dict[str, bytes], int]],
    last: dict[str, bytes],
) -> None:
    folder = tmp_path_factory.mktemp("volume")
    shown: dict[str, bytes] = {}
    for contents, changes in walk:
        wanted = {path: File(data, 0o644) for path, data in contents.items()}
        with killed_after(changes), suppress(_Killed):
            write_files(folder, wanted)
        found = seen(folder)
        is_old = all(shown.get(path) == data for path, data in found.items())
        is_new = all(contents.get(path) == data for path, data in found.items())
        assert is_old or is_new
        if (folder / "..data").exists():
            shown = _generation(folder)
            assert shown in (contents, *(each for each, _ in walk))
    write_files(folder, {path: File(data, 0o644) for path, data in last.items()})
    assert seen(folder) == last
    kept = [name for name in os.listdir(folder) if name.startswith("..")]
    assert len(kept) == 2, "a folder and the link to it"


def _generation(folder: Path) -> dict[str, bytes]:
    data = folder / "..data"
    return {
        str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()
    }
