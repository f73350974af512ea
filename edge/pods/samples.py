"""What was measured of the node, its Pods and their containers at one time. None: not known.

Units: bytes, inodes, nanoseconds of CPU, billionths of a core, Unix nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge.pods.podspec import Pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """`rate`: billionths of a core since the sample before."""

    total: int | None = None
    rate: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    available: int | None = None
    usage: int | None = None
    working_set: int | None = None
    rss: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """`used` is by whom this was measured for; the others are of the whole file system."""

    available: int | None = None
    capacity: int | None = None
    used: int | None = None
    inodes_free: int | None = None
    inodes: int | None = None
    inodes_used: int | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    received: int
    receive_errors: int
    sent: int
    send_errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSample:
    name: str
    id: str
    image: str = ""
    started_at: int = 0
    group: str = ""
    """Its cgroup, a path from the root."""
    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    rootfs: FileSystem = FileSystem()
    logs: FileSystem = FileSystem()
    processes: int | None = None
    oom_kills: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSample:
    """`volumes`: those whose use counts for the Pod (emptyDir on disk or in memory)."""

    pod: Pod
    started_at: int = 0
    group: str = ""
    containers: tuple[ContainerSample, ...] = ()
    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    interfaces: tuple[Interface, ...] = ()
    volumes: Mapping[str, FileSystem] = field(default_factory=dict)
    in_memory: frozenset[str] = frozenset()
    """Volumes that are memory, not disk."""
    processes: int | None = None

    @property
    def disk_used(self) -> int:
        """Bytes of logs, writable layers and volumes on disk."""
        parts = [each.logs.used or 0 for each in self.containers]
        parts += [each.rootfs.used or 0 for each in self.containers]
        parts += [each.used or 0 for name, each in self.volumes.items() if self._is_disk(name)]
        return sum(parts)

    @property
    def inodes_used(self) -> int:
        parts = [each.logs.inodes_used or 0 for each in self.containers]
        parts += [each.rootfs.inodes_used or 0 for each in self.containers]
        parts += [
            each.inodes_used or 0 for name, each in self.volumes.items() if self._is_disk(name)
        ]
        return sum(parts)

    def _is_disk(self, volume: str) -> bool:
        return volume not in self.in_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSample:
    """The machine alone, without its Pods: cheap."""

    at: int
    boot: int = 0
    cores: int = 0
    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    memory_total: int = 0
    disk: FileSystem = FileSystem()
    images: FileSystem = FileSystem()
    has_own_image_disk: bool = False
    interfaces: tuple[Interface, ...] = ()
    pids_max: int = 0
    pids: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    node: NodeSample
    pods: tuple[PodSample, ...] = ()
    is_whole: bool = True
    """False: the runtime did not tell its part."""

    def of(self, uid: str) -> PodSample | None:
        return next((each for each in self.pods if each.pod.uid == uid), None)
