"""Reads a container's log file: its end first, then what comes, across rotations, until the container ends.

A file is read block by block on a thread, one block ahead of who reads at most. Rotated files are not read,
as the kubelet does not; a file that is replaced while it is followed is read to its end first. Source:
Kubernetes CRI log handling.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

from edge.pods.logfiles import LogOptions, LogView, tail_start
from edge.pods.logplaces import open_log_file, seen
from gateway.errors import BadRequest

BLOCK = 65_536
"""Bytes read at once: what is made of them holds up the rest of the process for some milliseconds."""
MAX_LINE = 4_194_304
"""Bytes of a line; of a longer one the rest is left out."""
FIRST_PAUSE, LAST_PAUSE = 0.05, 0.25
"""Seconds between looks at a file that is followed: soon after something came, later when it is quiet."""
STATE_SECONDS = 1.0
"""How often the container is asked for."""
IsRunning = Callable[[], Awaitable[bool]]


class LogFile:
    """A log file that is read; its methods block and belong on a thread.

    Errors: (of making one) BadRequest when the file is not there.
    """

    def __init__(self, path: str, options: LogOptions) -> None:
        self._path = path
        self._follow = options.follow
        self._view = LogView(options)
        self._lock = threading.Lock()
        self._descriptor = _opened(self._path)
        self._at = 0
        if options.tail is not None:
            size = os.fstat(self._descriptor).st_size
            self._at = tail_start(self._read, size, options.tail)

    @property
    def is_done(self) -> bool:
        """Nothing more of this file is wanted."""
        return self._view.is_done

    def close(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def next_piece(self) -> bytes | None:
        """Return what goes out of the next block (may be empty), None at the present end of the file.

        Errors: BadRequest when the file is no log; OSError.
        """
        with self._lock:
            if self._descriptor < 0 or self.is_done:
                return None
            piece = self._block()
            return self._moved() if piece is None and self._follow else piece

    def last_piece(self) -> bytes:
        """Return a last line that was never ended. Errors: as `next_piece`."""
        with self._lock:
            return self._rest() if self._descriptor >= 0 else b""

    def _rest(self) -> bytes:
        rest = self._read(self._at, MAX_LINE)
        self._at += len(rest)
        return b"" if self.is_done else self._view.take(rest)

    def _block(self) -> bytes | None:
        size = BLOCK
        while True:
            data = self._read(self._at, size)
            end = data.rfind(b"\n") + 1
            if end == 0 and len(data) == size and size < MAX_LINE:
                size *= 4
                continue
            if end == 0 and len(data) < size:
                return None
            whole = data[:end] if end else data
            self._at += len(whole)
            return self._view.take(whole)

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def _moved(self) -> bytes | None:
        """Return what is at another place: the file was cut, or another one took its name; else None."""
        mine = os.fstat(self._descriptor)
        if mine.st_size < self._at:
            self._at = 0
            return self._block()
        now = seen(self._path)  # None between renaming and creating
        if now is None or (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino):
            return None
        piece = self._block()  # what came before the new one did
        if piece is not None:
            return piece
        rest = self._rest()
        try:
            fresh = _opened(self._path)
        except BadRequest:  # gone again
            return rest or None
        os.close(self._descriptor)
        self._descriptor, self._at = fresh, 0
        return rest


def _opened(path: str) -> int:
    try:
        return open_log_file(path)
    except OSError as error:
        why = (error.strerror or "").lower()
        raise BadRequest(f'failed to open log file "{path}": open {path}: {why}') from error


async def open_log(path: str, options: LogOptions) -> LogFile:
    """Open a log file. Errors: BadRequest."""
    return await asyncio.to_thread(LogFile, path, options)


async def read_log(log: LogFile, *, follow: bool, is_running: IsRunning) -> AsyncIterator[bytes]:
    """Yield a log, and close its file at the end; while it is followed, until the container has ended.

    Errors: BadRequest when it is no log.
    """
    try:
        pause, asked, runs = FIRST_PAUSE, -STATE_SECONDS, True
        time = asyncio.get_running_loop().time
        while not log.is_done:
            piece = await asyncio.to_thread(log.next_piece)
            if piece is not None:
                pause = FIRST_PAUSE
                if piece:
                    yield piece
                continue
            if not follow or not runs:
                rest = await asyncio.to_thread(log.last_piece)
                if rest:
                    yield rest
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LAST_PAUSE)
            if time() - asked >= STATE_SECONDS:
                runs, asked = await is_running(), time()
    finally:
        log.close()
