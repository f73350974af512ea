"""Files of a volume that change all at once: readers see the old ones or the new ones, never some of each.

The folder holds `..<time>.<random>` with the files, the link `..data` to it, and a link `name -> ..data/name`
for each name at the top. A change makes a new timestamped folder and renames a new link over `..data`. Ending
at any step leaves what was there readable; the next write removes what was left over.
Source: Kubernetes, layout of ConfigMap and Secret volumes.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edge.pods.trees import group_mode, opened, remove_entry
from gateway.errors import BadRequest

DATA, NEXT_DATA = "..data", "..data_tmp"
MAX_PATH, MAX_NAME = 4_096, 255
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class File:
    """A file of a volume; `user` owns it where that is not root."""

    data: bytes
    mode: int
    user: int | None = None

    def __repr__(self) -> str:
        """Of a Secret nothing is shown."""
        return f"File({len(self.data)} bytes, {self.mode:o})"


Files = Mapping[str, File]


def clean_path(path: str) -> str:
    """Return a file's path within a volume, without what means nothing. Errors: BadRequest."""
    fault = _fault(path)
    if fault:
        raise BadRequest(f"invalid path: {fault}")
    return os.path.normpath(path)


def _fault(path: str) -> str:
    parts = path.split("/")
    faults = (
        (not path or os.path.normpath(path) == ".", f'must not be empty: "{path}"'),
        (path.startswith("/"), f"must be relative path: {path[:200]}"),
        (len(path.encode()) > MAX_PATH, f"must be less than or equal to {MAX_PATH} characters"),
        ("\0" in path, "must not contain a zero byte"),
        (".." in parts, f"must not contain '..': {path[:200]}"),
        (
            any(len(each.encode()) > MAX_NAME for each in parts),
            f"filenames must be less than or equal to {MAX_NAME} characters",
        ),
        (
            os.path.normpath(path).startswith(".."),
            f"must not start with '..': {path[:200]}",
        ),
    )
    return next((text for is_so, text in faults if is_so), "")


def check_files(files: Files) -> dict[str, File]:
    """Return files by clean path. Errors: BadRequest for a bad path, or a file where others need a folder."""
    found = {clean_path(path): file for path, file in files.items()}
    for path in found:
        head, slash, _ = path.rpartition("/")
        while slash:
            if head in found:
                raise BadRequest(f"invalid path: {head} is a file, and a folder for {path}")
            head, slash, _ = head.rpartition("/")
    return found


def write_files(folder: Path, files: Files, group: int | None = None) -> bool:
    """Make a folder hold these files and no others; True where something had to change.

    Shape:  what else lies in the folder, also under a name that is wanted, stays; `group` may read all.
    Errors: BadRequest for a path; OSError: the old files stay.
    """
    wanted = check_files(files)
    with opened(folder) as fd:
        old = _current(fd)
        _remove_leftovers(fd, old)
        is_new = old is None or not _holds(fd, old, wanted)
        if is_new:
            _publish(fd, wanted, group)
        _show(fd, wanted)
        if is_new and old is not None:
            remove_entry(old, fd)
    return is_new


def read_names(folder: Path) -> set[str]:
    """Return the names at the top of a volume's files, as its readers see them."""
    with opened(folder) as fd:
        return {name for name, _ in _links(fd)}


# --- what is there --------------------------------------------------------------------------------


def _current(folder: int) -> str | None:
    """Return the folder that `..data` names, None where it names none of ours."""
    try:
        name = os.readlink(DATA, dir_fd=folder)
        if not _is_timestamped(name):
            return None
        with opened(name, folder):
            return name
    except OSError:
        return None


def _is_timestamped(name: str) -> bool:
    return name.startswith("..2") and "/" not in name


def _remove_leftovers(folder: int, current: str | None) -> None:
    """Remove what a write that did not end has left."""
    for name in os.listdir(folder):
        is_stray = name == DATA and current is None
        if is_stray or name == NEXT_DATA or (_is_timestamped(name) and name != current):
            remove_entry(name, folder)


def _holds(folder: int, current: str, wanted: Files) -> bool:
    """True when the folder holds these files and no others."""
    with opened(current, folder) as fd:
        found: set[str] = set()
        if not all(_is_same(fd, path, wanted) for path in _paths(fd, "", found)):
            return False
        return found == set(wanted)


def _paths(folder: int, prefix: str, found: set[str]) -> Iterator[str]:
    """Yield paths of all files, and note them."""
    for name in os.listdir(folder):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            with opened(name, folder) as fd:
                yield from _paths(fd, f"{prefix}{name}/", found)
        else:
            found.add(prefix + name)
            yield prefix + name


def _is_same(folder: int, path: str, wanted: Files) -> bool:
    file = wanted.get(path)
    if file is None:
        return False
    try:
        fd = os.open(path, _READ, dir_fd=folder)
    except OSError:
        return False
    with os.fdopen(fd, "rb") as stream:
        status = os.fstat(fd)
        is_plain = stat.S_ISREG(status.st_mode) and status.st_size == len(file.data)
        return is_plain and stream.read(len(file.data) + 1) == file.data


# --- writing --------------------------------------------------------------------------------------


def _publish(folder: int, wanted: Files, group: int | None) -> None:
    name = f"{datetime.now(UTC):..%Y_%m_%d_%H_%M_%S}.{secrets.token_hex(5)}"
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
        with opened(name, folder) as fd:
            for path, file in sorted(wanted.items()):
                _write(fd, path, file, group)
            _settle_folder(fd, group)
        os.symlink(name, NEXT_DATA, dir_fd=folder)
        os.rename(NEXT_DATA, DATA, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            remove_entry(NEXT_DATA, folder)
            remove_entry(name, folder)
        raise


def _write(folder: int, path: str, file: File, group: int | None) -> None:
    head, slash, rest = path.partition("/")
    if slash:
        with suppress(FileExistsError):
            os.mkdir(head, 0o700, dir_fd=folder)
        with opened(head, folder) as fd:
            _write(fd, rest, file, group)
            _settle_folder(fd, group)
        return
    with os.fdopen(os.open(path, _NEW_FILE, 0o600, dir_fd=folder), "wb") as stream:
        stream.write(file.data)
        stream.flush()
        if group is not None or file.user is not None:
            os.fchown(stream.fileno(), _or_same(file.user), _or_same(group))
        bits = 0 if group is None else group_mode(read_only=True, is_folder=False)
        os.fchmod(stream.fileno(), file.mode | bits)


def _settle_folder(fd: int, group: int | None) -> None:
    bits = 0
    if group is not None:
        os.fchown(fd, -1, group)
        bits = group_mode(read_only=True, is_folder=True)
    os.fchmod(fd, 0o755 | bits)


def _or_same(owner: int | None) -> int:
    return -1 if owner is None else owner


# --- what readers see -----------------------------------------------------------------------------


def _show(folder: int, wanted: Files) -> None:
    """Make the links at the top those of the files that are wanted."""
    names = {path.partition("/")[0] for path in wanted}
    for name, target in _links(folder):
        if name not in names:
            if target.startswith(f"{DATA}/"):
                os.unlink(name, dir_fd=folder)
        elif target != f"{DATA}/{name}":
            _link(folder, name)
    for name in names:
        if not _exists(folder, name):
            _link(folder, name)


def _links(folder: int) -> list[tuple[str, str]]:
    """Return the links at the top and where they lead, but for `..data`."""
    found = []
    for name in os.listdir(folder):
        if name not in (DATA, NEXT_DATA) and not _is_timestamped(name):
            with suppress(OSError):
                found.append((name, os.readlink(name, dir_fd=folder)))
    return found


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _link(folder: int, name: str) -> None:
    """Make a link, in the place of one that leads elsewhere."""
    with suppress(FileNotFoundError):
        os.unlink(NEXT_DATA, dir_fd=folder)
    os.symlink(f"{DATA}/{name}", NEXT_DATA, dir_fd=folder)
    os.rename(NEXT_DATA, name, src_dir_fd=folder, dst_dir_fd=folder)
