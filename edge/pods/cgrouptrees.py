"""Cgroups of this machine: which version, where, how Pods' groups are named, what their files say.

All but `find_tree` is pure. Source: Linux cgroup-v1 and cgroup-v2 documentation, systemd.slice(5);
conversions as runc's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge.pods.podresources import BEST_EFFORT, BURSTABLE, GUARANTEED, Limits, weight_of

MOUNTINFO: Final = Path("/proc/self/mountinfo")
CGROUPFS, SYSTEMD = "cgroupfs", "systemd"
LEVELS: Final[Mapping[str, str]] = {
    GUARANTEED: "",
    BURSTABLE: "burstable",
    BEST_EFFORT: "besteffort",
}
"""Class of Pods -> the level above their groups; guaranteed ones stand at the top."""
LIMITED: Final = ("cpu", "cpuacct", "memory", "pids", "hugetlb")
"""Controllers whose groups are made before the runtime makes the others."""
_V2_CONTROLLERS: Final = ("cpu", "cpuset", "memory", "hugetlb", "pids")
_SLICE: Final = ".slice"
_MAX_USEFUL: Final = 1 << 62

ReadFile = Callable[[str, str], "str | None"]
"""Given a controller and a file's name, the file's text; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Cgroups as they are mounted.

    Shape:  `mounts` maps each controller to its folder; with version 2 all of them are in one, "" is always
            there. `top` is the name of the group of all Pods, without slashes.
    """

    version: int
    mounts: Mapping[str, Path]
    driver: str = CGROUPFS
    top: str = "edgepods"

    def folders(self) -> list[Path]:
        """Return every folder that groups may be below, each once."""
        return list(dict.fromkeys(self.mounts.values()))

    def level(self, qos: str) -> str:
        """Return the group of a class of Pods, as a path from the root."""
        return self._path(*(each for each in (self.top, LEVELS[qos]) if each))

    def pod(self, qos: str, uid: str) -> str:
        """Return a Pod's group, as a path from the root: what the runtime is told as parent, too."""
        parts = (self.top, LEVELS[qos], f"pod{uid}")
        return self._path(*(each for each in parts if each))

    def _path(self, *parts: str) -> str:
        if self.driver == CGROUPFS:
            return "/" + "/".join(parts)
        names = [each.replace("-", "_") for each in parts]
        slices = ("-".join(names[: count + 1]) + _SLICE for count in range(len(names)))
        return "/" + "/".join(slices)

    def uid_of(self, name: str) -> str | None:
        """Return the uid of a Pod by the name of its group, None when it is none."""
        if self.driver == SYSTEMD:
            name = name.removesuffix(_SLICE).rpartition("-")[2].replace("_", "-")
        return name.removeprefix("pod") if name.startswith("pod") and len(name) > 3 else None


# --- finding --------------------------------------------------------------------------------------


def find_tree(driver: str, top: str, mountinfo: Path = MOUNTINFO) -> Tree | None:
    """Return this machine's cgroups, None where there are none."""
    try:
        lines = mountinfo.read_text().splitlines()
    except OSError:
        return None
    return read_mounts(lines, driver, top, lambda folder: (folder / "cgroup.controllers").exists())


def read_mounts(
    lines: list[str], driver: str, top: str, is_unified: Callable[[Path], bool]
) -> Tree | None:
    """Read lines of mountinfo: version 1 where controllers are mounted, else version 2."""
    found: dict[str, Path] = {}
    unified: Path | None = None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(" "), [*after.split(" "), "", "", ""][:3]
        folder = Path(fields[4]) if len(fields) > 4 else Path("/")
        if kind == "cgroup2":
            unified = unified or folder
        elif kind == "cgroup":
            names = [each for each in options.split(",") if each not in ("rw", "ro", "xattr")]
            found |= {name: folder for name in names if name not in found}
    if found.get("memory"):
        extra = {} if unified is None else {"unified": unified}
        return Tree(version=1, mounts={**found, **extra}, driver=driver, top=top)
    if unified is not None and is_unified(unified):
        mounts = dict.fromkeys(("", *_V2_CONTROLLERS), unified)
        return Tree(version=2, mounts=mounts, driver=driver, top=top)
    return None


def driver_of(setting: str, containerd_config: str) -> str:
    """Return the driver: what is set, else what containerd's configuration says of runc."""
    if setting != "auto":
        return setting
    try:
        document = tomllib.loads(containerd_config)
    except tomllib.TOMLDecodeError:
        return CGROUPFS
    return SYSTEMD if _says_systemd(document) else CGROUPFS


def _says_systemd(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("SystemdCgroup") is True or any(map(_says_systemd, value.values()))
    return False


# --- limits ---------------------------------------------------------------------------------------


def settings_of(tree: Tree, limits: Limits) -> list[tuple[str, str, str]]:
    """Return what is written for a group's limits: controller, file, text. None is not written."""
    if tree.version == 2:
        return _settings_v2(limits)
    rows = [("cpu", "cpu.shares", str(limits.cpu_shares))]
    if limits.cpu_quota is not None:
        rows += [
            ("cpu", "cpu.cfs_period_us", str(limits.cpu_period)),
            ("cpu", "cpu.cfs_quota_us", str(limits.cpu_quota)),
        ]
    if limits.memory is not None:
        rows += [("memory", "memory.limit_in_bytes", str(limits.memory))]
    rows += _pids(limits)
    for size, amount in limits.huge_pages.items():
        rows.append(("hugetlb", f"hugetlb.{size}.limit_in_bytes", str(amount)))
    return rows


def _settings_v2(limits: Limits) -> list[tuple[str, str, str]]:
    rows = [("cpu", "cpu.weight", str(weight_of(limits.cpu_shares)))]
    if limits.cpu_quota is not None:
        rows.append(("cpu", "cpu.max", f"{limits.cpu_quota} {limits.cpu_period}"))
    if limits.memory is not None:
        rows.append(("memory", "memory.max", str(limits.memory)))
    rows += _pids(limits)
    for size, amount in limits.huge_pages.items():
        rows.append(("hugetlb", f"hugetlb.{size}.max", str(amount)))
    return rows


def _pids(limits: Limits) -> list[tuple[str, str, str]]:
    return [] if limits.pids is None else [("pids", "pids.max", str(limits.pids))]


def properties_of(version: int, limits: Limits) -> list[str]:
    """Return a slice's limits as words of systemd's `busctl`: how many, then name, type and value of each."""
    weight = ("CPUWeight", weight_of(limits.cpu_shares))
    rows = [weight if version == 2 else ("CPUShares", limits.cpu_shares)]
    if limits.cpu_quota is not None:
        rows.append(("CPUQuotaPerSecUSec", limits.cpu_quota * 1_000_000 // limits.cpu_period))
    if limits.memory is not None:
        rows.append(("MemoryMax" if version == 2 else "MemoryLimit", limits.memory))
    if limits.pids is not None:
        rows.append(("TasksMax", limits.pids))
    words = [word for name, value in rows for word in (name, "t", str(value))]
    return [str(len(rows)), *words]


# --- use ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a group uses. Units: nanoseconds, bytes, counts. None: not told."""

    cpu_nanoseconds: int | None = None
    memory_usage: int | None = None
    memory_working_set: int | None = None
    memory_rss: int | None = None
    memory_limit: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    pids: int | None = None
    oom_kills: int | None = None


def read_table(text: str | None) -> dict[str, int]:
    """Read lines `name number`; others are left out."""
    found = {}
    for line in (text or "").splitlines():
        name, _, value = line.partition(" ")
        if value.strip().isdecimal():
            found[name] = int(value)
    return found


def read_number(text: str | None) -> int | None:
    """Read a file of one number; None for `max` and for none."""
    stripped = (text or "").strip()
    number = int(stripped) if stripped.isdecimal() else None
    return None if number is None or number >= _MAX_USEFUL else number


def read_usage(version: int, read: ReadFile) -> Usage:
    """Return what a group uses, by its files."""
    return _usage_v2(read) if version == 2 else _usage_v1(read)


def _usage_v1(read: ReadFile) -> Usage:
    stat = read_table(read("memory", "memory.stat"))
    usage = read_number(read("memory", "memory.usage_in_bytes"))
    return Usage(
        cpu_nanoseconds=read_number(read("cpuacct", "cpuacct.usage")),
        memory_usage=usage,
        memory_working_set=_working_set(usage, stat.get("total_inactive_file", 0)),
        memory_rss=stat.get("total_rss"),
        memory_limit=read_number(read("memory", "memory.limit_in_bytes")),
        page_faults=stat.get("total_pgfault"),
        major_page_faults=stat.get("total_pgmajfault"),
        pids=read_number(read("pids", "pids.current")),
        oom_kills=read_table(read("memory", "memory.oom_control")).get("oom_kill"),
    )


def _usage_v2(read: ReadFile) -> Usage:
    stat = read_table(read("memory", "memory.stat"))
    usage = read_number(read("memory", "memory.current"))
    microseconds = read_table(read("cpu", "cpu.stat")).get("usage_usec")
    return Usage(
        cpu_nanoseconds=None if microseconds is None else microseconds * 1_000,
        memory_usage=usage,
        memory_working_set=_working_set(usage, stat.get("inactive_file", 0)),
        memory_rss=stat.get("anon"),
        memory_limit=read_number(read("memory", "memory.max")),
        page_faults=stat.get("pgfault"),
        major_page_faults=stat.get("pgmajfault"),
        pids=read_number(read("pids", "pids.current")),
        oom_kills=read_table(read("memory", "memory.events")).get("oom_kill"),
    )


def _working_set(usage: int | None, inactive: int) -> int | None:
    return None if usage is None else max(usage - inactive, 0)
