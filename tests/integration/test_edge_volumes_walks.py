"""Any walk of making, changing and removing volumes, ended at any step: nothing leaks, nothing else goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.pods import atomicwriter, subpaths, trees
from edge.pods.atomicwriter import File
from edge.pods.mounts import Mounts
from edge.pods.volumefolders import Group, VolumeFolders
from tests.volume_rig import UID

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="mounts of volumes are tested as root alone: run these as root"
)
_CHANGES = (
    "mkdir",
    "symlink",
    "rename",
    "unlink",
    "rmdir",
    "fchmod",
    "fchown",
    "fdopen",
    "chmod",
    "touch",
    "tmpfs",
    "bind",
    "unmount",
)


class _Killed(BaseException):
    """The process ended here."""


class _Life:
    """How many changes are made until the end."""

    def __init__(self, changes: int) -> None:
        self.left = changes

    def mortal(self, real: Any) -> Any:
        """Return what does as `real` does, and ends when it is time."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.left <= 0:
                raise _Killed
            self.left -= 1
            return real(*args, **kwargs)

        return counted


class _MortalOs:
    def __init__(self, life: _Life) -> None:
        self._life = life

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._life.mortal(real) if name in _CHANGES else real


@contextmanager
def ended_after(changes: int) -> Iterator[None]:
    life = _Life(changes)
    with contextmanager(_patched)(life), suppress(_Killed):
        yield


def _patched(life: _Life) -> Iterator[None]:
    patches = [mock.patch.object(each, "os", _MortalOs(life)) for each in _MODULES]
    for owner in (Path, Mounts):
        for name in set(_CHANGES) & set(vars(owner)):
            real = vars(owner)[name]
            patches.append(mock.patch.object(owner, name, life.mortal(real)))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


_MODULES = (atomicwriter, trees, subpaths)
_STEPS = st.tuples(
    st.sampled_from(["config", "secret", "disk", "memory", "part", "remove"]),
    st.integers(0, 60),
    st.sampled_from(["1", "22"]),
)


def _do(folders: VolumeFolders, step: str, text: str) -> None:
    files = {"a": File(text.encode(), 0o644), f"d/{text}": File(b"", 0o600)}
    if step == "config":
        folders.write(UID, "config", files, Group(77), is_secret=False, nested=("inner/x",))
    elif step == "secret":
        folders.write(UID, "secret", files, None, is_secret=True)
    elif step == "disk":
        path = folders.on_disk(UID, "disk", 0o777, Group(77))
        assert path.stat().st_mode & 0o7777 == 0o2777, "it appears as it is to be"
        (path / text).write_text(text)
    elif step == "memory":
        folders.memory_dir(UID, "memory", 1 << 20, None)
    elif step == "part":
        path = folders.on_disk(UID, "disk", 0o777, Group(77))
        folders.subpaths(UID).bind(path, f"sub/{text}", "disk/main/0")
    else:
        folders.remove(UID)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(walk=st.lists(_STEPS, max_size=8))
def test_whatever_step_the_process_ends_at_the_next_one_can_go_on(
    tmp_path_factory: pytest.TempPathFactory, walk: list[tuple[str, int, str]]
) -> None:
    top = tmp_path_factory.mktemp("walk")
    root, outside, mounts = top / "pods", top / "outside", Mounts()
    outside.mkdir()
    (outside / "data").write_text("1")
    try:
        for step, changes, text in walk:
            folders = VolumeFolders(root, mounts)
            assert folders.has_memory
            with ended_after(changes):
                _do(folders, step, text)
            disk = root / UID / "volumes" / "disk"
            if disk.is_dir() and not (disk / "link").is_symlink():
                (disk / "link").symlink_to(outside)
        folders = VolumeFolders(root, mounts)
        for step in ("config", "secret", "disk", "memory", "part"):
            _do(folders, step, "last")
        volumes = root / UID / "volumes"
        for name in ("config", "secret"):
            assert (volumes / name / "a").read_text() == "last"
            assert (volumes / name / "d/last").exists()
        assert mounts.kind(volumes / "secret") == mounts.kind(volumes / "memory") == "tmpfs"
        assert len(mounts.below(root)) == 3
        folders.remove(UID)
        assert mounts.below(root) == []
        assert not (root / UID).exists()
        assert (outside / "data").read_text() == "1"
    finally:
        mounts.clear(root)
