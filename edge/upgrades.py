"""What an upgrade of this node does: a copy of settings and store first, then the operator's own command.

The command is an executable that the operator named in the settings. It gets the version, matched by a strict
pattern, as its one argument, no shell and no variables of ours; what it prints goes to `edge/upgrade.log`.
It may restart EdgeCore: the next start finds out how it ended.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import shutil
import signal
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import BadRequest, InvalidSetting, NotBuilt, Rejected, StoreUnavailable

log = logging.getLogger(__name__)

KEPT_BACKUPS = 2
LOOK_SECONDS = 0.2
MAX_VERSION = 64
SETTING = "edge.tasks.upgrade_command"
_VERSION = re.compile(r"v?[0-9]{1,5}\.[0-9]{1,5}[0-9A-Za-z.+-]*")
"""Semantic versions and Python's: nothing that a shell, a path or an option would take for more."""


class UpgradeFailed(Rejected):
    """The operator's command did not do it; says why."""

    code = "edge.upgradefailed"


@functools.cache
def running_version() -> str:
    """Return the version of this process; that on the disk may be another one by now."""
    from importlib.metadata import version  # costs memory and time: only if used

    return version("twinspan")


def check_version(text: object) -> str:
    """Return a version that may be handed to a command. Errors: BadRequest."""
    if not isinstance(text, str) or len(text) > MAX_VERSION or not _VERSION.fullmatch(text):
        raise BadRequest(f"version: expected one as 1.2.3 or v1.2.3-rc.1, got {str(text)[:64]!r}")
    return text


def is_same(one: str, other: str) -> bool:
    return one.removeprefix("v") == other.removeprefix("v")


@dataclass(frozen=True, slots=True)
class Upgrades:
    """Shape: `folder` is `<data-dir>/edge`; `command` an absolute path, or "" where there is none."""

    folder: Path
    command: str

    def __post_init__(self) -> None:
        if self.command and not os.path.isabs(self.command):
            raise InvalidSetting(f"{SETTING}: expected an absolute path, got {self.command!r}")

    def back_up(self, version: str) -> Path:
        """Copy store and settings aside; blocking. Errors: StoreUnavailable without room; OSError."""
        place = self.folder / "backup" / check_version(version)
        source = self.folder / "edge.db"
        size = source.stat().st_size if source.exists() else 0
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        if shutil.disk_usage(place).free < 2 * size:
            raise StoreUnavailable(f"no room for a copy of {size} bytes")
        for name in ("overlay.yaml", "node.json"):
            if (self.folder / name).is_file():
                shutil.copy2(self.folder / name, place / name)
        if size:
            _copy_store(source, place / "edge.db")
        self._forget_old(place)
        return place

    def _forget_old(self, newest: Path) -> None:
        others = [each for each in newest.parent.iterdir() if each != newest]
        others.sort(key=lambda each: each.stat().st_mtime)
        for each in others[: -(KEPT_BACKUPS - 1)]:
            shutil.rmtree(each, ignore_errors=True)

    async def run(self, version: str, seconds: float) -> None:
        """Have a version installed.

        Errors: NotBuilt without a command; UpgradeFailed when it fails, cannot be run, or takes too long.
        """
        wanted = check_version(version)
        if not self.command:
            raise NotBuilt(f"upgrades are done by the package manager here: {SETTING} is not set")
        log.info("upgrade command runs", extra={"version": wanted})
        try:
            pid = self._start(wanted)
        except OSError as error:
            raise UpgradeFailed(f"{SETTING}: {error.strerror}") from error
        mark = self.folder / "upgrade.pid"
        mark.write_text(f"{pid} {_started(pid)}", "ascii")
        await _finish(pid, seconds)
        mark.unlink(missing_ok=True)

    def _start(self, version: str) -> int:
        """Start the command in a session of its own, so that it outlives us.

        Errors: UpgradeFailed for a file that others may write; OSError.
        """
        if os.stat(self.command).st_mode & 0o022:
            raise UpgradeFailed(f"{SETTING}: others may write {self.command}")
        with (self.folder / "upgrade.log").open("ab") as output:
            return os.posix_spawn(
                self.command,
                [self.command, version],
                {"PATH": os.defpath, "LANG": "C.UTF-8"},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE],
            )

    async def settle(self, seconds: float) -> None:
        """Wait for the end of a command that an earlier EdgeCore started. Errors: UpgradeFailed."""
        try:
            number, started = (self.folder / "upgrade.pid").read_text("ascii").split()
            pid = int(number)
        except (OSError, ValueError):
            return
        try:
            async with asyncio.timeout(seconds):
                while _started(pid) == started:  # noqa: ASYNC110  nobody tells of another's child
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise UpgradeFailed(f"the command still runs after {seconds:g} s") from None


def _started(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; "" for none and for one that has ended."""
    try:
        cells = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if cells[0] == "Z" else cells[19]


async def _finish(pid: int, seconds: float) -> None:
    """Wait for the end. Whoever cancels leaves it alone: it may be what stops us."""
    try:
        async with asyncio.timeout(seconds):
            while (code := _code(pid)) is None:  # noqa: ASYNC110  asyncio would end it with us
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, pid, 0)
        raise UpgradeFailed(f"the command took longer than {seconds:g} s") from None
    if code != 0:
        raise UpgradeFailed(f"the command ended with {code}; see edge/upgrade.log at the node")


def _code(pid: int) -> int | None:
    """Return the exit code of a child, None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _copy_store(source: Path, target: Path) -> None:
    """Copy a database that is in use. Errors: StoreUnavailable."""
    draft = target.with_suffix(".new")
    draft.unlink(missing_ok=True)
    uri = f"{source.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as old, closing(sqlite3.connect(draft)) as new:
            old.backup(new)
    except sqlite3.Error as error:
        draft.unlink(missing_ok=True)
        raise StoreUnavailable(f"the store cannot be copied: {error}") from error
    draft.chmod(0o600)
    draft.replace(target)
