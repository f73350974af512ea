"""Cgroups of Pods: made with limits before their sandboxes, brought up to date, removed after them.

A runtime makes what is missing below a Pod's group, and never removes the group itself. Where groups cannot
be made (no right to, nothing mounted) Pods run without limits of their own, and one warning says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge.pods.cgrouptrees import (
    LEVELS,
    LIMITED,
    SYSTEMD,
    Tree,
    Usage,
    properties_of,
    read_number,
    read_usage,
    settings_of,
)
from edge.pods.podresources import (
    BEST_EFFORT,
    BURSTABLE,
    MAX_SHARES,
    MIN_SHARES,
    Limits,
    pod_limits,
    qos_of,
    shares_of_weight,
)
from edge.pods.podspec import Pod
from edge.pods.ports import NotYet

log = logging.getLogger(__name__)

REMOVE_TRIES: Final = 20
REMOVE_SECONDS: Final = 0.05
"""How often, and how far apart, a group whose processes are ending is tried."""
_MANAGER: Final = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)
_COMMAND_SECONDS: Final = 10.0

Run = Callable[[Sequence[str]], None]
"""Runs a command. Errors: OSError; subprocess.SubprocessError."""


class Cgroups:
    """The groups of this node's Pods. Without a tree there are none, and nothing fails."""

    def __init__(self, tree: Tree | None, *, pids: int = 0, run: Run | None = None) -> None:
        self._tree = tree
        self._pids = pids
        self._run = run or _run
        self._lock = asyncio.Lock()
        self._is_usable: bool | None = None

    # --- Pods -------------------------------------------------------------------------------------

    def parent(self, pod: Pod) -> str:
        """Return a Pod's group as the runtime is told it; empty where groups cannot be made."""
        tree = self._usable()
        return "" if tree is None else tree.pod(qos_of(pod), pod.uid)

    async def ensure(self, pod: Pod) -> None:
        """Make a Pod's group with its limits, or bring it up to date; a limit that is refused is told of.

        Errors: NotYet (`ContainerCreating`) where it cannot be made now.
        """
        tree = self._usable()
        if tree is None:
            return
        async with self._lock:
            try:
                await asyncio.to_thread(self._ensure, tree, pod)
            except (OSError, subprocess.SubprocessError) as error:
                group = tree.pod(qos_of(pod), pod.uid)
                text = f"failed to ensure that the pod's cgroup {group} exists: {error}"
                raise NotYet("ContainerCreating", text) from error

    async def remove(self, uid: str, *, kill: bool = True) -> bool:
        """Remove a Pod's group with all below; what runs in it is killed, or keeps it. Again: no error.

        True when nothing is left.
        """
        tree = self._usable()
        if tree is None:
            return True
        async with self._lock:
            return await asyncio.to_thread(self._remove, tree, uid, kill=kill)

    async def usage(self, pod: Pod) -> Usage:
        """Return what a Pod uses as a whole; nothing is told where it has no group."""
        tree = self._usable()
        if tree is None:
            return Usage()
        return await asyncio.to_thread(usage_of, tree, tree.pod(qos_of(pod), pod.uid))

    # --- making -----------------------------------------------------------------------------------

    def _usable(self) -> Tree | None:
        if self._is_usable is None:
            self._is_usable = self._tree is not None and self._try(self._tree)
        return self._tree if self._is_usable else None

    def _try(self, tree: Tree) -> bool:
        try:
            self._make(tree, tree.level("Guaranteed"), None)
        except (OSError, subprocess.SubprocessError) as error:
            log.warning(
                "cgroups cannot be made: Pods run without limits of their own",
                extra={"cause": str(error)},
            )
            return False
        return True

    def _ensure(self, tree: Tree, pod: Pod) -> None:
        qos = qos_of(pod)
        for level in (BURSTABLE, BEST_EFFORT):
            if not _folder(tree, "cpu", tree.level(level)).is_dir():
                self._make(tree, tree.level(level), Limits())
        self._make(tree, tree.pod(qos, pod.uid), pod_limits(pod, self._pids))
        if qos == BURSTABLE:
            self._weigh(tree)

    def _make(self, tree: Tree, group: str, limits: Limits | None) -> None:
        """Errors: OSError; SubprocessError."""
        if tree.driver == SYSTEMD:
            self._make_slice(tree, group, limits)
            return
        for path in _places(tree, group):
            path.mkdir(exist_ok=True, parents=True)
        if tree.version == 2:
            _enable_controllers(tree, group)
        if limits is not None:
            _write_limits(tree, group, limits)

    def _make_slice(self, tree: Tree, group: str, limits: Limits | None) -> None:
        """A slice is systemd's: it is asked to make it or to change it."""
        name, properties = (
            Path(group).name,
            properties_of(tree.version, limits or Limits(cpu_shares=1_024)),
        )
        if _folder(tree, "cpu", group).is_dir():
            self._call("SetUnitProperties", "sba(sv)", name, "true", *properties)
            return
        self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", name, "replace", *properties, "0")

    def _call(self, *words: str) -> None:
        self._run(["busctl", "--system", "call", *_MANAGER, *words])

    def _weigh(self, tree: Tree) -> None:
        """Burstable Pods together weigh what they ask for; read from disk, so a restart changes nothing."""
        level = tree.level(BURSTABLE)
        total = sum(_shares(tree, f"{level}/{name}") for name in _pods_in(tree, level))
        shares = min(max(total, MIN_SHARES), MAX_SHARES)
        with suppress(OSError, subprocess.SubprocessError):
            self._make(tree, level, Limits(cpu_shares=shares))

    # --- removing ---------------------------------------------------------------------------------

    def _remove(self, tree: Tree, uid: str, *, kill: bool) -> bool:
        is_clean = True
        for qos in LEVELS:
            group = tree.pod(qos, uid)
            places = [each for each in _everywhere(tree, group) if each.is_dir()]
            if not places:
                continue
            if not kill and any(map(_processes, places)):
                is_clean = False
                continue
            if tree.driver == SYSTEMD:
                with suppress(OSError, subprocess.SubprocessError):
                    self._call("StopUnit", "ss", Path(group).name, "replace")
            for place in places:
                is_clean = _remove_tree(place) and is_clean
            if qos == BURSTABLE:
                self._weigh(tree)
        return is_clean


# --- ground ---------------------------------------------------------------------------------------


def _folder(tree: Tree, controller: str, group: str) -> Path:
    return tree.mounts.get(controller, Path("/nonexistent")) / group.lstrip("/")


def _places(tree: Tree, group: str) -> list[Path]:
    """Where a group is made: by the controllers that limit."""
    folders = [tree.mounts[name] for name in LIMITED if name in tree.mounts]
    return [each / group.lstrip("/") for each in dict.fromkeys(folders)]


def _everywhere(tree: Tree, group: str) -> list[Path]:
    """Where a group may be by now: the runtime made it by the other controllers, too."""
    return [each / group.lstrip("/") for each in tree.folders()]


def _enable_controllers(tree: Tree, group: str) -> None:
    """Controllers reach a group when each one above hands them down, its own children's as well."""
    root = tree.mounts[""]
    above = [root]
    for name in group.strip("/").split("/"):
        above.append(above[-1] / name)
    for folder in above:
        present = (folder / "cgroup.controllers").read_text().split()
        handed = (folder / "cgroup.subtree_control").read_text().split()
        missing = [each for each in ("cpu", "cpuset", "memory", "hugetlb", "pids")
                   if each in present and each not in handed]  # fmt: skip
        if missing:
            text = " ".join(f"+{each}" for each in missing)
            (folder / "cgroup.subtree_control").write_text(text)


def _write_limits(tree: Tree, group: str, limits: Limits) -> None:
    """A controller that is not there limits nothing; what the kernel refuses is told and does not stop."""
    for controller, name, text in settings_of(tree, limits):
        path = _folder(tree, controller, group) / name
        if not path.exists():
            continue
        try:
            path.write_text(text)
        except OSError as error:
            log.warning(
                "a limit of a Pod was refused",
                extra={"file": str(path), "value": text, "cause": str(error)},
            )


def _pods_in(tree: Tree, level: str) -> list[str]:
    folder = _folder(tree, "cpu", level)
    names = [each.name for each in folder.iterdir()] if folder.is_dir() else []
    return [name for name in names if tree.uid_of(name) is not None]


def _shares(tree: Tree, group: str) -> int:
    folder = _folder(tree, "cpu", group)
    if tree.version == 2:
        weight = read_number(_text(folder / "cpu.weight"))
        return shares_of_weight(weight) if weight else 0
    return read_number(_text(folder / "cpu.shares")) or 0


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def usage_of(tree: Tree, group: str) -> Usage:
    """Return what a group uses, by its path from the root."""
    return read_usage(
        tree.version, lambda controller, name: _text(_folder(tree, controller, group) / name)
    )


def _remove_tree(place: Path) -> bool:
    """Remove a group and those below it; processes that stay are killed. False when it stays."""
    for tried in range(REMOVE_TRIES):
        for folder in _deepest_first(place):
            with suppress(OSError):
                folder.rmdir()
        if not place.exists():
            return True
        for pid in _processes(place):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001 if tried == 0 else REMOVE_SECONDS)
    log.warning("a cgroup could not be removed", extra={"folder": str(place)})
    return False


def _deepest_first(place: Path) -> Iterator[Path]:
    with suppress(OSError):
        for each in place.iterdir():
            if each.is_dir():
                yield from _deepest_first(each)
    yield place


def _processes(place: Path) -> list[int]:
    texts = (_text(each / "cgroup.procs") for each in _deepest_first(place))
    return [int(pid) for text in texts if text for pid in text.split() if int(pid) > 0]


def _run(words: Sequence[str]) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=_COMMAND_SECONDS)  # noqa: S603
