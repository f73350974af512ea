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
        with (self.folder / "upgrade.log").open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    self.command,
                    wanted,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                raise UpgradeFailed(f"{SETTING}: {error.strerror}") from error
        await _finish(process, seconds)


async def _finish(process: asyncio.subprocess.Process, seconds: float) -> None:
    """Wait for the end. Whoever cancels leaves it alone: it may be what stops us."""
    try:
        async with asyncio.timeout(seconds):
            code = await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise UpgradeFailed(f"the command took longer than {seconds:g} s") from None
    if code != 0:
        raise UpgradeFailed(f"the command ended with {code}; see edge/upgrade.log at the node")


def _copy_store(source: Path, target: Path) -> None:
    """Copy a database that is in use."""
    draft = target.with_suffix(".new")
    draft.unlink(missing_ok=True)
    uri = f"{source.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as old, closing(sqlite3.connect(draft)) as new:
        old.backup(new)
    draft.chmod(0o600)
    draft.replace(target)
