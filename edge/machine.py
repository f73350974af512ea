"""This machine: its facts, its supplies of memory, disk and processes, and when they run short.

The thresholds are the kubelet's: memory below 100 MiB, disk below a tenth, inodes below a twentieth; for
processes, where the kubelet sets none, below a tenth of what the kernel allows. Allocatable is what is left
of the capacity before that. A pressure lasts at least five minutes.

Source: KubeEdge reference, section 22.1; Kubernetes node-pressure eviction.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.clock import now_ms, rfc3339
from gateway.model.json import Json, JsonObject

KUBELET_VERSION = "v1.32.10-kubeedge-v1.23.1"
"""What a KubeEdge 1.23 edge says; clouds and tools judge features by it."""
MAX_PODS = "110"
MEMORY_RESERVE = 100 * 1024 * 1024
TRANSITION_SECONDS = 300.0
LOOPBACK = "127.0.0.1"
MEMORY, DISK, PIDS = "MemoryPressure", "DiskPressure", "PIDPressure"

CONDITIONS: Mapping[str, tuple[tuple[str, str], tuple[str, str]]] = {
    MEMORY: (
        ("EdgeHasSufficientMemory", "edge has sufficient memory available"),
        ("EdgeHasInsufficientMemory", "edge has insufficient memory available"),
    ),
    DISK: (
        ("EdgeHasNoDiskPressure", "edge has no disk pressure"),
        ("EdgeHasDiskPressure", "edge has disk pressure"),
    ),
    PIDS: (
        ("EdgeHasSufficientPID", "edge has sufficient PID available"),
        ("EdgeHasInsufficientPID", "edge has insufficient PID available"),
    ),
}
"""Condition -> reason and message without, and with, the pressure."""

_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Supplies:
    """What there is and what of it is free; bytes, inodes, processes. A total of 0: not known."""

    memory: int
    memory_free: int
    disk: int
    disk_free: int
    inodes: int
    inodes_free: int
    pids: int
    pids_free: int


def pressures(supplies: Supplies) -> frozenset[str]:
    """Return which supplies run short."""
    checks = (
        (MEMORY, supplies.memory and supplies.memory_free < MEMORY_RESERVE),
        (DISK, supplies.disk_free * 10 < supplies.disk),
        (DISK, supplies.inodes_free * 20 < supplies.inodes),
        (PIDS, supplies.pids_free * 10 < supplies.pids),
    )
    return frozenset(kind for kind, is_short in checks if is_short)


def measure(folder: Path) -> Supplies:
    """Ask the kernel. Errors: OSError when the folder's file system cannot be asked."""
    disk, memory = os.statvfs(folder), _memory()
    pids = min(_number("/proc/sys/kernel/pid_max"), _number("/proc/sys/kernel/threads-max"))
    return Supplies(
        memory=memory.get("MemTotal", 0),
        memory_free=memory.get("MemAvailable", 0),
        disk=disk.f_blocks * disk.f_frsize,
        disk_free=disk.f_bavail * disk.f_frsize,
        inodes=disk.f_files,
        inodes_free=disk.f_favail,
        pids=pids,
        pids_free=max(0, pids - _tasks()),
    )


class PodSide(Protocol):
    """What a Node that runs Pods says beyond its machine."""

    def told(self, status: JsonObject, now: int) -> JsonObject:
        """Return the status to tell, from the machine's, as of `now` (ms)."""

    def has_news(self) -> bool:
        """True when something changed since the last status that ought to be told now."""


class Machine:
    """This machine as a Node; its supplies are measured whenever its status is asked for.

    Shape:  `folder` lies on the file system that counts; `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        labels: Mapping[str, str] | None = None,
        *,
        measure: Callable[[Path], Supplies] = measure,
        clock: Callable[[], float] = time.monotonic,
        address: Callable[[], str] | None = None,
    ) -> None:
        self.name = name
        self._address = address or own_address
        self._folder = folder
        self._measure = measure
        self._clock = clock
        self._last_seen: dict[str, float] = {}
        self._turned: dict[str, tuple[bool, str]] = {}
        self.labels = dict(labels or {})
        self.pods: PodSide | None = None
        """Set where this machine runs Pods."""
        self.stored: JsonObject = {}
        """The Node as the cloud answered last; empty before it did."""
        self.arch = _ARCH.get(platform.machine(), platform.machine())
        self.started = rfc3339(now_ms())

    def node(self, now: int) -> JsonObject:
        """Return the Node object to register."""
        return {
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {
                "name": self.name,
                "labels": self._labels(),
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            },
            "spec": {},
            "status": self.status(now),
        }

    def _labels(self) -> JsonObject:
        return {
            "kubernetes.io/arch": self.arch,
            "kubernetes.io/os": "linux",
            "kubernetes.io/hostname": self.name,
            "beta.kubernetes.io/arch": self.arch,
            "beta.kubernetes.io/os": "linux",
            "node-role.kubernetes.io/edge": "",
            "node-role.kubernetes.io/agent": "",
            **self.labels,
        }

    def status(self, now: int) -> JsonObject:
        """Return the Node's status as of `now` (ms)."""
        supplies = self._measure(self._folder)
        self._judge(supplies, now)
        status: JsonObject = {
            "capacity": _resources(supplies.memory, supplies.disk),
            "allocatable": _resources(
                max(0, supplies.memory - MEMORY_RESERVE), supplies.disk - supplies.disk // 10
            ),
            "conditions": self._conditions(now),
            "addresses": self._addresses(),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10350}},
            "nodeInfo": self._info(),
        }
        return status if self.pods is None else self.pods.told(status, now)

    def has_news(self, now: int) -> bool:
        """Measure; True when a pressure came or went since the last status."""
        if self.pods is not None:
            return self.pods.has_news()
        before = dict(self._turned)
        self._judge(self._measure(self._folder), now)
        return bool(before) and before != self._turned

    def _judge(self, supplies: Supplies, now: int) -> None:
        """Note which pressures there are; one that ended counts for a while, so that it does not flap."""
        found, clock = pressures(supplies), self._clock()
        self._last_seen.update(dict.fromkeys(found, clock))
        for kind in CONDITIONS:
            seen = self._last_seen.get(kind)
            is_pressed = seen is not None and clock - seen < TRANSITION_SECONDS
            is_pressed = is_pressed or kind in found
            was_pressed, _ = self._turned.get(kind, (None, ""))
            if was_pressed is not is_pressed:
                since = self.started if was_pressed is None else rfc3339(now)
                self._turned[kind] = (is_pressed, since)

    def _conditions(self, now: int) -> list[Json]:
        beat: JsonObject = {"lastHeartbeatTime": rfc3339(now)}
        out: list[Json] = []
        for kind, texts in CONDITIONS.items():
            is_pressed, since = self._turned[kind]
            reason, message = texts[is_pressed]
            status = "True" if is_pressed else "False"
            out.append(
                {
                    "type": kind,
                    "status": status,
                    **beat,
                    "lastTransitionTime": since,
                    "reason": reason,
                    "message": message,
                }
            )
        ready: JsonObject = {
            "type": "Ready",
            "status": "True",
            **beat,
            "lastTransitionTime": self.started,
            "reason": "EdgeReady",
            "message": "edge is posting ready status",
        }
        return [*out, ready]

    def _addresses(self) -> list[Json]:
        return [
            {"type": "InternalIP", "address": self._address()},
            {"type": "Hostname", "address": self.name},
        ]

    def _info(self) -> JsonObject:
        return {
            "machineID": _text("/etc/machine-id"),
            "systemUUID": _text("/etc/machine-id"),
            "bootID": _text("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": platform.release(),
            "osImage": _os_name(),
            "containerRuntimeVersion": "none://",
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": self.arch,
        }


def _resources(memory: int, disk: int) -> JsonObject:
    return {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{memory // 1024}Ki",
        "ephemeral-storage": f"{disk // 1024}Ki",
        "pods": MAX_PODS,
    }


def _memory() -> dict[str, int]:
    """Read /proc/meminfo, in bytes."""
    rows = (line.split() for line in _text("/proc/meminfo").splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3}


def _tasks() -> int:
    """How many processes and threads there are: the fourth number of /proc/loadavg, `running/all`."""
    cells = _text("/proc/loadavg").split()
    return int(cells[3].partition("/")[2] or 0) if len(cells) > 3 else 0


def _number(path: str) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def own_address() -> str:
    """The address that packets to the outside would carry; no packet is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return LOOPBACK
        return str(probe.getsockname()[0])


def address_of(transport: asyncio.BaseTransport | None) -> str:
    """The address by which this machine is on a connection to elsewhere; without one `own_address`.

    A machine without a default route has an address towards its cloud all the same.
    """
    found = None if transport is None else transport.get_extra_info("sockname")
    host = str(found[0]) if found else LOOPBACK
    return own_address() if host in (LOOPBACK, "::1") else host
