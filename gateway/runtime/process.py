"""The process around the modules: one copy a data directory, signals, file limits, the faster loop."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.errors import Conflict

log = logging.getLogger(__name__)

LOCK = "lock"


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for the length of the block.

    Errors: Conflict when another process holds it; OSError when it cannot be made.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data_dir / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise Conflict(
                f"{data_dir}: another twinspan (pid {holder}) uses this data directory;"
                " stop it or give another --data-dir"
            ) from error
        _name_holder(file.fileno())
        yield


def _name_holder(descriptor: int) -> None:
    """Write who holds the lock, for the next one's words; on a full disk they do without."""
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    except OSError as error:
        log.warning("the lock does not name its holder", extra={"cause": str(error)})


def raise_file_limit() -> None:
    """Allow as many open files as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set `stop` on SIGTERM and SIGINT; a second signal ends the process at once."""
    loop = asyncio.get_running_loop()

    def first(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)  # the default action of the next one ends us

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first, number)


def run(main: Coroutine[Any, Any, None], *, fast: bool = True) -> None:
    """Run `main` to its end, on uvloop where a wheel exists and `fast` asks for it."""
    raise_file_limit()
    factory = None
    if fast:
        try:
            import uvloop

            factory = uvloop.new_event_loop
        except ImportError:  # no wheel for this platform: asyncio's own loop does
            factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
