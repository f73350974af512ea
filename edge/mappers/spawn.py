"""How a mapper's process comes to be, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from typing import Final

PROGRAM: Final = (sys.executable, "-P", "-m", "edge.mappers.child")
"""`-P`: modules that lie in the folder where somebody started EdgeCore are not ours."""
ROOT: Final = str(Path(__file__).parents[2])
"""Where our own packages are."""
END_SECONDS = 5.0
ENVIRONMENT: Final = (
    *("PATH", "HOME", "USER", "LANG", "LC_", "TZ", "TMPDIR", "XDG_"),
    *("PYTHON", "VIRTUAL_ENV", "LD_", "COVERAGE_", "FAKETIME"),
    *("DBUS_", "SSL_CERT_"),
)
"""How variables begin that a child gets. Its settings come over its link; passwords and tokens of other parts
of EdgeCore are none of its business: its libraries speak with strangers."""


async def spawn() -> tuple[socket.socket, Process]:
    """Start a process; return our end of its link. Errors: OSError where there can be none now."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *PROGRAM,
                str(theirs.fileno()),
                stdin=DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
            )
    except BaseException:
        ours.close()
        raise
    return ours, process


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if name.startswith(ENVIRONMENT)}
    path = kept.get("PYTHONPATH")
    return kept | {"PYTHONPATH": ROOT if not path else f"{ROOT}{os.pathsep}{path}"}


async def end(process: Process) -> None:
    """End the process: it has lost its link; one that stays is killed."""
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:
        await _kill(process)
    except asyncio.CancelledError:
        await _kill(process)
        raise  # else EdgeCore would wait for ever for a task that goes on


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
