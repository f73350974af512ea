"""Folders that a container may write in, walked without ever following a link or leaving the mount.

A container can put a link, or a mount of its own, anywhere in its volumes: all is opened relative to the
folder above, without following links, and a folder of another mount is never entered.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_DEPTH: Final = 200
"""Folders within folders that are open at a time."""
AT_A_TIME: Final = 1_000
"""Entries of a folder that are removed before it is read on."""
READ_GROUP, WRITE_GROUP, ENTER_GROUP = 0o440, 0o660, 0o110


@contextmanager
def opened(name: str | Path, parent: int | None = None) -> Iterator[int]:
    """Open a folder that is no link. Errors: OSError (ELOOP or ENOTDIR for a link)."""
    fd = os.open(name, FOLDER, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def mount_id(fd: int) -> str:
    """Return which mount an open folder is of: bind mounts of one file system differ."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), "")


def _names(folder: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what lies in a folder; never all at once: a container may have made millions of files."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                yield entry.name, entry.stat(follow_symlinks=False)


# --- removing -------------------------------------------------------------------------------------


def remove_tree(path: Path) -> None:
    """Remove a folder with all in it, or one file or link; what is not there is no error.

    Errors: OSError; EBUSY where something else is mounted there or below: nothing of that is touched.
    """
    with suppress(FileNotFoundError), opened(path.parent) as parent:
        remove_entry(path.name, parent)


def remove_entry(name: str, parent: int) -> None:
    """Remove an entry of an open folder. Errors: as `remove_tree`."""
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=parent)
            return
        with opened(name, parent) as fd:
            _check_mount(fd, mount_id(parent))
            while os.listdir(fd):
                _empty(fd, mount_id(fd), 0, fd)
        os.rmdir(name, dir_fd=parent)


def _empty(folder: int, mount: str, depth: int, top: int) -> None:
    """Empty a folder; what lies too deep is moved to the top, and is removed in a later turn."""
    while some := list(islice(_names(folder), AT_A_TIME)):
        _remove_some(some, folder, mount, depth, top)


def _remove_some(
    some: list[tuple[str, os.stat_result]], folder: int, mount: str, depth: int, top: int
) -> None:
    for name, status in some:
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(name, dir_fd=folder)
            elif depth >= MAX_DEPTH:
                os.rename(name, f".deep-{os.urandom(8).hex()}", src_dir_fd=folder, dst_dir_fd=top)
            else:
                with opened(name, folder) as fd:
                    _check_mount(fd, mount)
                    _empty(fd, mount, depth + 1, top)
                os.rmdir(name, dir_fd=folder)


def _check_mount(fd: int, wanted: str) -> None:
    if mount_id(fd) != wanted:
        path = os.readlink(f"/proc/self/fd/{fd}")
        raise OSError(errno.EBUSY, "something else is mounted there", path)


# --- ownership by fsGroup -------------------------------------------------------------------------


def give_to_group(path: Path, gid: int, *, read_only: bool, only_on_mismatch: bool) -> None:
    """Let a group in: all below belongs to it, readable (and writable), new files inherit it.

    Shape:  `only_on_mismatch` looks at the folder itself first, and leaves all as it is where that fits.
    Errors: OSError, also where folders lie too deep.
    """
    with opened(path) as fd:
        if only_on_mismatch and _fits(os.fstat(fd), gid, read_only=read_only):
            return
        _give(fd, gid, read_only, 0, mount_id(fd))


def _fits(status: os.stat_result, gid: int, *, read_only: bool) -> bool:
    wanted = (READ_GROUP if read_only else WRITE_GROUP) | ENTER_GROUP
    has_all = status.st_mode & wanted == wanted and status.st_mode & stat.S_ISGID
    return status.st_gid == gid and bool(has_all)


def _give(folder: int, gid: int, read_only: bool, depth: int, mount: str) -> None:
    """The folder itself comes last: one that fits says that all below was done."""
    if depth > MAX_DEPTH:
        raise OSError(errno.ELOOP, f"more than {MAX_DEPTH} folders within folders")
    for name, status in _names(folder):
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(status.st_mode):
                with opened(name, folder) as fd:
                    if mount_id(fd) == mount:
                        _give(fd, gid, read_only, depth + 1, mount)
            else:
                _give_file(name, folder, status, gid, read_only)
    os.fchown(folder, -1, gid)
    os.fchmod(
        folder, stat.S_IMODE(os.fstat(folder).st_mode) | group_mode(read_only, is_folder=True)
    )


def _give_file(name: str, folder: int, status: os.stat_result, gid: int, read_only: bool) -> None:
    """A link's own group is changed; a file's mode through a descriptor that cannot be a link."""
    os.chown(name, -1, gid, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        return
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.fchmod(fd, mode | group_mode(read_only, is_folder=False))
    finally:
        os.close(fd)


def group_mode(read_only: bool, *, is_folder: bool) -> int:
    """Return the permission bits that the group gets."""
    bits = READ_GROUP if read_only else WRITE_GROUP
    return bits | ENTER_GROUP | stat.S_ISGID if is_folder else bits


# --- measuring ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Usage:
    """What a folder takes. Units: bytes on disk; files, folders and links."""

    used_bytes: int = 0
    inodes: int = 0
    _linked: set[tuple[int, int]] = field(default_factory=set)

    def add(self, status: os.stat_result) -> None:
        """Count a file once, however many names it has."""
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            key = (status.st_dev, status.st_ino)
            if key in self._linked:
                return
            self._linked.add(key)
        self.used_bytes += status.st_blocks * 512
        self.inodes += 1


def measure(path: Path) -> Usage:
    """Return what a folder takes; what goes meanwhile, or is mounted below, is not counted."""
    usage = Usage()
    with suppress(OSError), opened(path) as fd:
        usage.add(os.fstat(fd))
        _measure(fd, mount_id(fd), usage, 0)
    return usage


def _measure(folder: int, mount: str, usage: Usage, depth: int) -> None:
    for name, status in _names(folder):
        usage.add(status)
        if stat.S_ISDIR(status.st_mode) and depth < MAX_DEPTH:
            with suppress(OSError), opened(name, folder) as fd:
                if mount_id(fd) == mount:
                    _measure(fd, mount, usage, depth + 1)
