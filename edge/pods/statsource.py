"""Measures the node, its Pods and their containers when somebody asks, at most once in ten seconds.

CPU and memory are the cgroups', where they are readable, else what the runtime says; writable layers are the
runtime's; logs and emptyDir volumes are counted on disk, once a minute, as that reads folders. Everything
that touches files runs in a thread.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edge.pods import hostfigures, statsforms
from edge.pods.cgroups import usage_of
from edge.pods.cgrouptrees import SYSTEMD, Tree, Usage
from edge.pods.podspec import Container, Pod
from edge.pods.ports import Running
from edge.pods.runtime import ContainerState, ContainerStats, Runtime, RuntimeFault, State
from edge.pods.samples import (
    ContainerSample,
    Cpu,
    FileSystem,
    Interface,
    Memory,
    NodeSample,
    PodSample,
    Sample,
)
from edge.pods.trees import measure
from gateway.model.json import JsonObject
from gateway.wire.kube.quantity import units

KEPT_SECONDS = 10.0
FOLDERS_SECONDS = 60.0
"""How long sizes of folders are kept."""
LEAST_SECONDS = 1.0
"""Between two samples of which a rate is made."""
_ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are: Pods' folders, logs, and what counts as the node's disk."""

    pods: Path
    logs: Path

    def volume(self, uid: str, name: str) -> Path:
        return self.pods / uid / "volumes" / name

    def logs_of(self, pod: Pod) -> Path:
        return self.logs / f"{pod.meta.namespace}_{pod.meta.name}_{pod.uid}"


@dataclass(frozen=True, slots=True)
class _Told:
    """What the runtime says: by container, and where images lie."""

    stats: Mapping[str, ContainerStats]
    images: Path | None
    is_whole: bool


class Rates:
    """CPU in billionths of a core, from one sample of a total to the next."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, int, int | None]] = {}
        """Key -> when, total, rate."""

    def cpu(self, key: str, at: int, total: int | None) -> Cpu:
        """Return the total with its rate."""
        if total is None:
            return Cpu()
        when, before, rate = self._before.get(key, (0, 0, None))
        if when and at - when < LEAST_SECONDS * 1e9 and total >= before:
            return Cpu(total=total, rate=rate)
        rate = int((total - before) * 1e9 / (at - when)) if when and total >= before else None
        self._before[key] = (at, total, rate)
        return Cpu(total=total, rate=rate)

    def keep(self, keys: set[str]) -> None:
        """Forget all but these."""
        self._before = {key: each for key, each in self._before.items() if key in keys}


class PodStats:
    """`edge.pods.stats.NodeStats`, and the samples for eviction.

    Shape:  `group_of` gives a Pod's cgroup as a path from the root of `tree` ("": none); `on_kills` is told
            how often the kernel killed in each container.
    """

    def __init__(
        self,
        node: str,
        runtime: Runtime,
        pods: Callable[[], list[Running]],
        *,
        places: Places,
        tree: Tree | None,
        group_of: Callable[[Pod], str],
        probes: Callable[[], Mapping[tuple[str, ...], int]] = dict,
        on_kills: Callable[[list[tuple[str, int | None]]], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], int] = time.time_ns,
        proc: Path = hostfigures.PROC,
    ) -> None:
        self._node = node
        self._runtime = runtime
        self._pods = pods
        self._places = places
        self._tree = tree
        self._group_of = group_of
        self._probes = probes
        self._on_kills = on_kills
        self._clock = clock
        self._now = now
        self._proc = proc
        self._rates = Rates()
        self._lock = asyncio.Lock()
        self._last: tuple[float, Sample] | None = None
        self._folders: dict[Path, tuple[float, FileSystem]] = {}
        self._images: Path | None = None

    # --- the port ---------------------------------------------------------------------------------

    async def summary(self, *, only_cpu_and_memory: bool = False) -> JsonObject:
        sample = await self.sample()
        return statsforms.summary(self._node, sample, only_cpu_and_memory=only_cpu_and_memory)

    async def resource_metrics(self) -> str:
        return statsforms.resource_metrics(await self.sample())

    async def cadvisor_metrics(self) -> str:
        return statsforms.cadvisor_metrics(await self.sample())

    def probe_metrics(self) -> str:
        return statsforms.probe_metrics(self._probes())

    # --- sampling ---------------------------------------------------------------------------------

    async def node(self) -> NodeSample:
        """Measure the machine alone, now."""
        async with self._lock:
            if self._images is None:
                self._images = (await self._ask()).images
            return await asyncio.to_thread(self._sample_node, self._images)

    async def sample(
        self, max_age: float = KEPT_SECONDS, folders_age: float = FOLDERS_SECONDS
    ) -> Sample:
        """Return a sample that is no older than `max_age` seconds, sizes of folders `folders_age`."""
        async with self._lock:
            if self._last is not None and self._clock() - self._last[0] < max_age:
                return self._last[1]
            told = await self._ask()
            self._images = told.images or self._images
            pods = [each for each in self._pods() if each.status.get("phase") not in _ENDED]
            sample = await asyncio.to_thread(self._sample, told, pods, folders_age)
            self._last = (self._clock(), sample)
            self._on_kills(
                [(each.id, each.oom_kills) for pod in sample.pods for each in pod.containers]
            )
            return sample

    async def _ask(self) -> _Told:
        try:
            stats = await self._runtime.container_stats()
            systems = await self._runtime.image_filesystems()
        except RuntimeFault:
            return _Told({}, None, is_whole=False)
        images = Path(systems[0].mountpoint) if systems else None
        return _Told({each.id: each for each in stats}, images, is_whole=True)

    def _sample(self, told: _Told, pods: list[Running], folders_age: float) -> Sample:
        node = self._sample_node(self._images)
        found = tuple(self._pod(each, told, node, folders_age) for each in pods)
        keys = {"", *(pod.pod.uid for pod in found)}
        self._rates.keep(keys | {each.id for pod in found for each in pod.containers})
        oldest = self._clock() - 2 * max(folders_age, FOLDERS_SECONDS)
        self._folders = {key: each for key, each in self._folders.items() if each[0] > oldest}
        return Sample(node=node, pods=found, is_whole=told.is_whole)

    def _sample_node(self, images: Path | None) -> NodeSample:
        proc, at = self._proc, self._now()
        stat = hostfigures.text(proc / "stat")
        total, memory = hostfigures.memory(hostfigures.text(proc / "meminfo"))
        limits = {
            name: hostfigures.text(proc / "sys/kernel" / name).strip()
            for name in ("pid_max", "threads-max")
        }
        pids_max, pids = hostfigures.pids(hostfigures.text(proc / "loadavg"), limits)
        disk = hostfigures.file_system(self._places.pods)
        own = images is not None and not hostfigures.is_same_disk(images, self._places.pods)
        return NodeSample(
            at=at,
            boot=hostfigures.boot_time(stat),
            cores=os.cpu_count() or 1,
            cpu=self._rates.cpu("", at, hostfigures.cpu_total(stat)),
            memory=memory,
            memory_total=total,
            disk=disk,
            images=hostfigures.file_system(images) if images is not None else disk,
            has_own_image_disk=own,
            interfaces=hostfigures.interfaces(hostfigures.text(proc / "net/dev")),
            pids_max=pids_max,
            pids=pids,
        )

    def _pod(
        self, running: Running, told: _Told, node: NodeSample, folders_age: float
    ) -> PodSample:
        pod, group = running.pod, self._group_of(running.pod)
        states = [each for each in running.observed.containers if each.state is State.RUNNING]
        containers = tuple(
            self._container(pod, each, group, told, node, folders_age) for each in states
        )
        usage = self._usage(group)
        if usage.cpu_nanoseconds is None:
            usage = _summed(containers)
        memory_volumes, disk_volumes = _counted(pod)
        volumes = {
            name: self._folder(self._places.volume(pod.uid, name), folders_age)
            for name in (*memory_volumes, *disk_volumes)
        }
        started = [each.created_at for each in running.observed.sandboxes]
        return PodSample(
            pod=pod,
            started_at=started[0] if started else 0,
            group=group,
            containers=containers,
            cpu=self._rates.cpu(pod.uid, node.at, usage.cpu_nanoseconds),
            memory=_memory(usage, None),
            interfaces=() if pod.spec.host_network else self._interfaces(group),
            volumes=volumes,
            in_memory=frozenset(memory_volumes),
            processes=usage.pids,
        )

    def _container(
        self,
        pod: Pod,
        state: ContainerState,
        pod_group: str,
        told: _Told,
        node: NodeSample,
        folders_age: float,
    ) -> ContainerSample:
        stats, group = told.stats.get(state.id), self._group_in(pod_group, state.id)
        usage, at = self._usage(group), node.at
        if usage.cpu_nanoseconds is None and stats is not None:
            usage, at = _as_usage(stats), stats.at or node.at
        spec = pod.container(state.name)
        logs = self._folder(self._places.logs_of(pod) / state.name, folders_age)
        return ContainerSample(
            name=state.name,
            id=state.id,
            image=state.image,
            started_at=state.started_at,
            group=group,
            cpu=self._rates.cpu(state.id, at, usage.cpu_nanoseconds),
            memory=_memory(usage, spec),
            rootfs=FileSystem() if stats is None else _layer(stats),
            logs=logs,
            processes=usage.pids,
            oom_kills=usage.oom_kills,
        )

    # --- files ------------------------------------------------------------------------------------

    def _usage(self, group: str) -> Usage:
        return usage_of(self._tree, group) if self._tree is not None and group else Usage()

    def _group_in(self, pod_group: str, container_id: str) -> str:
        """Return a container's cgroup, as containerd and CRI-O name it."""
        if self._tree is None or not pod_group:
            return ""
        if self._tree.driver != SYSTEMD:
            return f"{pod_group}/{container_id}"
        names = (f"cri-containerd-{container_id}.scope", f"crio-{container_id}.scope")
        found = (f"{pod_group}/{name}" for name in names)
        root = self._root(self._tree)
        return next((each for each in found if (root / each.lstrip("/")).is_dir()), "")

    @staticmethod
    def _root(tree: Tree) -> Path:
        return tree.mounts.get("memory") or next(iter(tree.mounts.values()))

    def _interfaces(self, group: str) -> tuple[Interface, ...]:
        """Ask a process of the Pod for the interfaces it sees."""
        if self._tree is None or not group:
            return ()
        folder = self._root(self._tree) / group.lstrip("/")
        for each in (folder / "cgroup.procs", *folder.glob("*/cgroup.procs")):
            pid = hostfigures.text(each).partition("\n")[0]
            if pid:
                return hostfigures.interfaces(hostfigures.text(self._proc / pid / "net/dev"))
        return ()

    def _folder(self, path: Path, max_age: float) -> FileSystem:
        known = self._folders.get(path)
        if known is not None and self._clock() - known[0] < max_age:
            return known[1]
        found = FileSystem()
        if path.exists():
            usage, around = measure(path), hostfigures.file_system(path)
            found = replace(around, used=usage.used_bytes, inodes_used=usage.inodes)
        self._folders[path] = (self._clock(), found)
        return found


def _counted(pod: Pod) -> tuple[list[str], list[str]]:
    """Return the Pod's emptyDir volumes: in memory, on disk."""
    found = [each for each in pod.spec.volumes if each.empty_dir is not None]
    memory = [each.name for each in found if each.empty_dir and each.empty_dir.medium == "Memory"]
    return memory, [each.name for each in found if each.name not in memory]


def _memory(usage: Usage, spec: Container | None) -> Memory:
    limit = usage.memory_limit
    if limit is None and spec is not None:
        limit = units(spec.resources.limits.get("memory")) or None
    working = usage.memory_working_set
    available = None if limit is None or working is None else max(0, limit - working)
    return Memory(
        available=available,
        usage=usage.memory_usage,
        working_set=working,
        rss=usage.memory_rss,
        page_faults=usage.page_faults,
        major_page_faults=usage.major_page_faults,
        limit=limit,
    )


def _as_usage(stats: ContainerStats) -> Usage:
    return Usage(
        cpu_nanoseconds=stats.cpu_nanoseconds,
        memory_usage=stats.memory_usage,
        memory_working_set=stats.memory_working_set,
        memory_rss=stats.memory_rss,
        page_faults=stats.memory_page_faults,
        major_page_faults=stats.memory_major_page_faults,
    )


def _layer(stats: ContainerStats) -> FileSystem:
    return FileSystem(used=stats.rootfs_bytes, inodes_used=stats.rootfs_inodes)


def _summed(containers: tuple[ContainerSample, ...]) -> Usage:
    """Return what a Pod without a cgroup uses: the sum of its containers."""
    return Usage(
        cpu_nanoseconds=_sum([each.cpu.total for each in containers]),
        memory_usage=_sum([each.memory.usage for each in containers]),
        memory_working_set=_sum([each.memory.working_set for each in containers]),
        memory_rss=_sum([each.memory.rss for each in containers]),
    )


def _sum(numbers: list[int | None]) -> int | None:
    known = [each for each in numbers if each is not None]
    return sum(known) if known else None
