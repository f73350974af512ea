"""Rotates the logs of running containers: `0.log` becomes `0.log.<time>`, and later `0.log.<time>.gz`.

The newest rotated file stays plain, so that readers can finish it. What a crash leaves half done (`.tmp`
files, a plain file beside its `.gz`, a log renamed and not reopened) is put right by the next round.
Source: kubelet 1.36 (names of files, order of steps).
"""

from __future__ import annotations

import asyncio
import calendar
import gzip
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.pods.logplaces import open_log_file, seen
from edge.pods.runtime import ContainerState, RuntimeFault, State

log = logging.getLogger(__name__)

MAX_BYTES, MAX_FILES = 10 * 1024 * 1024, 5
PACKED, PART = ".gz", ".tmp"
STAMP = "%Y%m%d-%H%M%S"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class LogRuntime(Protocol):
    """What of the runtime is used here."""

    async def containers(self) -> list[ContainerState]: ...
    async def container(self, container_id: str) -> ContainerState: ...
    async def reopen_log(self, container_id: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Tidied:
    """What becomes of the rotated files of one log before it is rotated itself."""

    removed: tuple[str, ...]
    packed: tuple[str, ...]


def tidy(names: Iterable[str], max_files: int) -> Tidied:
    """Return which of a log's rotated files go, and which are packed, so that `max_files` will be there.

    The log itself and the one it becomes are two of them.
    """
    every = sorted(names)
    known = set(every)
    of_use = [
        n for n in every if not n.endswith(PART) and (n.endswith(PACKED) or n + PACKED not in known)
    ]
    excess = of_use[: max(0, len(of_use) - max(0, max_files - 2))]
    removed = [each for each in every if each not in of_use] + excess
    kept = of_use[len(excess) :]
    return Tidied(tuple(removed), tuple(each for each in kept if not each.endswith(PACKED)))


class LogRotation:
    """Rotates logs that have grown; one at a time, so that packing takes one core at most."""

    def __init__(
        self,
        runtime: LogRuntime,
        *,
        max_bytes: int = MAX_BYTES,
        max_files: int = MAX_FILES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._runtime = runtime
        self._max_bytes = max_bytes
        self._max_files = max(2, max_files)
        self._clock = clock
        self._paths: dict[str, Path] = {}

    async def rotate(self) -> int:
        """Look at all running containers and return how many logs were rotated. Errors: RuntimeFault."""
        running = [c for c in await self._runtime.containers() if c.state is State.RUNNING]
        self._paths = {c.id: self._paths[c.id] for c in running if c.id in self._paths}
        count = 0
        for each in running:
            try:
                count += await self._look(each.id)
            except (OSError, RuntimeFault) as error:
                log.warning(
                    "a container's log cannot be rotated",
                    extra={"container_id": each.id, "cause": str(error)},
                )
        return count

    async def _look(self, container_id: str) -> bool:
        path = await self._path(container_id)
        if path is None:
            return False
        size = await asyncio.to_thread(_size, path)
        if size is None:
            await self._runtime.reopen_log(container_id)
            return False
        if size < self._max_bytes:
            return False
        await asyncio.to_thread(self._make_room, path)
        await self._renew(container_id, path)
        return True

    async def _path(self, container_id: str) -> Path | None:
        """Return where a container logs to; None for one that does not."""
        if container_id not in self._paths:
            found = await self._runtime.container(container_id)
            if not found.log_path:
                return None
            self._paths[container_id] = Path(found.log_path)
        return self._paths[container_id]

    def _make_room(self, path: Path) -> None:
        prefix = f"{path.name}."
        names = [each for each in os.listdir(path.parent) if each.startswith(prefix)]
        tidied = tidy(names, self._max_files)
        for name in tidied.removed:
            (path.parent / name).unlink(missing_ok=True)
        for name in tidied.packed:
            pack(path.parent / name)

    async def _renew(self, container_id: str, path: Path) -> None:
        """Rename the log and have the runtime begin a new one; if it will not, all is as before."""
        rotated = await asyncio.to_thread(_free_name, path, int(self._clock()))
        await asyncio.to_thread(path.rename, rotated)
        try:
            await self._runtime.reopen_log(container_id)
        except RuntimeFault:
            await asyncio.to_thread(_put_back, rotated, path)
            raise


def _free_name(path: Path, now: int) -> Path:
    """Return a name by time that comes after all there are: a clock may have been set back, or be slow.

    Two files of one name, one of them packed, would count as what a crash left.
    """
    prefix = f"{path.name}."
    rotated = (each for each in os.listdir(path.parent) if each.startswith(prefix))
    known = (_second_of(each.removeprefix(prefix)) for each in rotated)
    seconds = max([now, *(each + 1 for each in known if each is not None)])
    return path.with_name(prefix + time.strftime(STAMP, time.gmtime(seconds)))


def _second_of(stamp: str) -> int | None:
    """Return the second of a rotated file, packed or not; None for a name of something else."""
    try:
        return calendar.timegm(time.strptime(stamp.removesuffix(PART).removesuffix(PACKED), STAMP))
    except ValueError:
        return None


def _put_back(rotated: Path, path: Path) -> None:
    """Undo a renaming, unless the runtime began a new log all the same."""
    if not path.exists():
        rotated.rename(path)


def remove_logs(path: str) -> None:
    """Remove a log and what was rotated of it."""
    log_path = Path(path)
    if log_path.parent.is_dir():
        for name in os.listdir(log_path.parent):
            if name == log_path.name or name.startswith(f"{log_path.name}."):
                (log_path.parent / name).unlink(missing_ok=True)


def _size(path: Path) -> int | None:
    found = seen(path)
    return None if found is None else found.st_size


def pack(path: Path) -> None:
    """Replace a file by its gzip; the file goes when the whole of it is on disk."""
    part, packed = path.with_name(path.name + PART), path.with_name(path.name + PACKED)
    part.unlink(missing_ok=True)  # what a crash left; never written through, it may be a link
    with (
        open(open_log_file(path), "rb") as plain,
        open(os.open(part, _NEW, 0o600), "wb") as raw,
    ):
        os.fchmod(raw.fileno(), os.fstat(plain.fileno()).st_mode & 0o777)
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6) as zipped:
            shutil.copyfileobj(plain, zipped, 1 << 18)
        raw.flush()
        os.fsync(raw.fileno())
    part.rename(packed)
    path.unlink()
