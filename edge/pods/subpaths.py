"""Parts of volumes that containers mount: `subPath`, `subPathExpr`.

A container can change its volumes at any time, so what was checked by name may be something else a moment
later. A part is opened without following links, and what was opened is bound to a place that no container
can reach. Source: Kubernetes, the kubelet's handling of sub paths (CVE-2017-1002101, CVE-2021-25741).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edge.pods.mounts import Mounts
from edge.pods.trees import FOLDER
from gateway.errors import BadRequest, Forbidden

_REFERENCE: Final = re.compile(r"\$(?:(\$)|\(([^)]*)\))")
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def expanded(text: str, envs: Mapping[str, str]) -> str:
    """Return a path with `$(NAME)` filled in; `$$` stands for one dollar. Errors: BadRequest."""

    def put(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        value = envs.get(found[2])
        if value is None:
            raise BadRequest(f"missing value for {found[2]}")
        return value

    return _REFERENCE.sub(put, text)


def checked(path: str) -> str:
    """Return a sub path that may be one. Errors: BadRequest."""
    if path.startswith("/"):
        raise BadRequest(f"error SubPath `{path}` must not be an absolute path")
    if ".." in path.split("/"):
        raise BadRequest(f"unable to provision SubPath `{path}`: must not contain '..'")
    if "\0" in path:
        raise BadRequest("unable to provision SubPath: must not contain a zero byte")
    return path


class SubPaths:
    """Sub paths of one Pod's volumes: bound below `folder`."""

    def __init__(self, folder: Path, mounts: Mounts) -> None:
        self._folder = folder
        self._mounts = mounts

    def bind(self, volume: Path, path: str, place: str) -> Path:
        """Return where a part of a volume is mounted from; it is made as a folder where it is not there.

        Shape:  `place` names the mount within the Pod: `<volume>/<container>/<number>`.
        Errors: Forbidden for what leads out of the volume; OSError.
        """
        if not _is_there(volume, path):
            make_folders(volume, path)
        with opened_within(volume, path) as fd:
            target = self._folder / place
            if self._is_bound(fd, target):
                return target
            self._mounts.clear(target)
            _make_target(fd, target)
            self._mounts.bind(fd, target)
            return target

    def _is_bound(self, fd: int, target: Path) -> bool:
        """True where the very same file is bound already, from an earlier start of the container."""
        wanted = os.fstat(fd)
        try:
            found = target.lstat()
        except FileNotFoundError:
            return False
        is_same = (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
        return is_same and self._mounts.kind(target) is not None


def _is_there(volume: Path, path: str) -> bool:
    return (volume / path).exists()


def _make_target(fd: int, target: Path) -> None:
    """A folder is bound to a folder, everything else to a file."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
    with suppress(FileNotFoundError):
        if target.is_dir() != is_folder:
            target.rmdir() if target.is_dir() else target.unlink()
    if is_folder:
        target.mkdir(mode=0o750, exist_ok=True)
    else:
        target.touch(mode=0o640)


@contextmanager
def opened_within(volume: Path, path: str) -> Iterator[int]:
    """Open what is at a path of a volume, wherever links lead to within it.

    Errors: Forbidden for what leads out of the volume, or changes while it is opened; OSError.
    """
    top, real = Path(os.path.realpath(volume)), Path(os.path.realpath(volume / path))
    if not real.is_relative_to(top):
        raise Forbidden("the sub path leads out of its volume")
    fd = os.open(top, _LOOK)
    try:
        for name in real.relative_to(top).parts:
            found = os.open(name, _LOOK, dir_fd=fd)
            os.close(fd)
            fd = found
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise Forbidden("the sub path became a link while it was opened")
        yield fd
    finally:
        os.close(fd)


def make_folders(volume: Path, path: str) -> None:
    """Make the folders of a sub path that are not there, with the permissions of the volume.

    Errors: Forbidden for what leads out of the volume; OSError.
    """
    mode = stat.S_IMODE(volume.stat().st_mode)
    there, names = _split(volume, path)
    with opened_within(volume, there) as found:
        fd = os.open(".", FOLDER, dir_fd=found)
    try:
        for name in names:
            fd = _made(fd, name, mode)
    finally:
        os.close(fd)


def _split(volume: Path, path: str) -> tuple[str, list[str]]:
    """Return the part of a path that is there, and the names that follow it."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    count = len(names)
    while count and not (volume / "/".join(names[:count])).exists():
        count -= 1
    return "/".join(names[:count]), names[count:]


def _made(parent: int, name: str, mode: int) -> int:
    """Make a folder and open it; the folder above is closed."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, FOLDER, dir_fd=parent)
    os.fchmod(fd, mode)
    os.close(parent)
    return fd
