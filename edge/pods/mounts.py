"""Mounts of this machine: the table of what is mounted where, tmpfs, bind mounts and their end.

The one file that calls mount(2). Source: mount(2), umount2(2), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND = 2, 4, 8, 4096
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
TMPFS: Final = "tmpfs"
_TABLE: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A row of the mount table; `path` as this process sees it."""

    path: str
    kind: str


def parse_mountinfo(text: str) -> list[MountPoint]:
    """Read the mount table in its order: what is mounted later covers what is mounted before."""
    return [found for line in text.splitlines() if (found := _row(line)) is not None]


def _row(line: str) -> MountPoint | None:
    head, dash, tail = line.partition(" - ")
    cells, kinds = head.split(" "), tail.split(" ")
    if not dash or len(cells) < 6:
        return None
    return MountPoint(_unescaped(cells[4]), kinds[0])


def _unescaped(path: str) -> str:
    """Blanks, tabs, line ends and backslashes are written in octal."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), path)


class Mounts:
    """This machine's mounts.

    Errors: (of all) OSError.
    """

    def table(self) -> list[MountPoint]:
        return parse_mountinfo(_TABLE.read_text("utf-8", errors="surrogateescape"))

    def kind(self, path: Path) -> str | None:
        """Return the file system that is mounted right there, None for none."""
        wanted = str(path)
        return next((row.kind for row in reversed(self.table()) if row.path == wanted), None)

    def below(self, path: Path) -> list[str]:
        """Return what is mounted at a path and below it, the innermost and latest first."""
        return list(_below(self.table(), str(path)))

    def tmpfs(self, path: Path, *, size: int, mode: int, gid: int | None = None) -> None:
        """Mount a file system in memory, out of swap where the kernel can keep it out.

        Units:  `size` in bytes, at most; its folder has `mode` and group `gid` from its first moment.
        """
        options = f"size={size},mode={mode:o}" + (f",gid={gid}" if gid is not None else "")
        flags = MS_NOSUID | MS_NODEV
        try:
            _mount(TMPFS, path, TMPFS, flags, f"{options},noswap")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _mount(TMPFS, path, TMPFS, flags, options)

    def bind(self, fd: int, target: Path) -> None:
        """Show the open file or folder `fd` at `target` too, whatever its name means by now."""
        _mount(f"/proc/self/fd/{fd}", target, "", MS_BIND, "")

    def unmount(self, path: str, *, lazily: bool = False) -> None:
        """Undo the latest mount at a path; what is no mount point (any more) is no error."""
        flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazily else 0)
        if _libc.umount2(os.fsencode(path), flags) and ctypes.get_errno() not in _GONE:
            raise _failed(path)

    def can_mount(self, scratch: Path) -> bool:
        """Try whether this process may mount, on an empty folder of its own."""
        try:
            self.tmpfs(scratch, size=4096, mode=0o700)
        except OSError:
            return False
        self.unmount(str(scratch), lazily=True)
        return True

    def clear(self, path: Path) -> list[str]:
        """Unmount all at a path and below; what is busy goes lazily. Return what is still mounted."""
        for point in self.below(path):
            try:
                self.unmount(point)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                self.unmount(point, lazily=True)
        return self.below(path)


_GONE: Final = (errno.EINVAL, errno.ENOENT)


def _below(table: list[MountPoint], top: str) -> Iterator[str]:
    inside = top.rstrip("/") + "/"
    newest_first = reversed(table)
    found = [row.path for row in newest_first if row.path == top or row.path.startswith(inside)]
    yield from sorted(found, key=lambda path: path.count("/"), reverse=True)


def _mount(source: str, target: Path, kind: str, flags: int, data: str) -> None:
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        data.encode(),
    )
    if done:
        raise _failed(str(target))


def _failed(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
