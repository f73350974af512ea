"""What the Node of this machine says where it runs Pods: runtime, conditions, amounts, images, events.

Ready is False while the runtime or its network is not ready, in the kubelet's words. What is allocatable is
the capacity less what is reserved, less what hard eviction keeps free.
Source: Kubernetes Node; KubeEdge reference, section 22.1 (reasons of conditions).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.clock import rfc3339
from edge.machine import CONDITIONS
from edge.pods.ports import Recorder
from edge.pods.pressure import MEMORY, NODE_DISK, Threshold
from edge.pods.runtime import Image, Runtime, RuntimeFault
from gateway.errors import InvalidSetting
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import mapping
from gateway.wire.kube.quantity import quantity, thousandths, units

log = logging.getLogger(__name__)

MAX_IMAGES, MAX_NAMES = 50, 5
"""Images that a Node shows, the biggest first, and names of each."""
IMAGE_SECONDS = 60.0
HUGEPAGES = Path("/sys/kernel/mm/hugepages")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NO_RUNTIME = "none://"
FEATURES = ("RestartAllContainersOnContainerExits",)
"""What not every kubelet can do: Pods that ask for it are scheduled to nodes that say they can."""
_KIB = 1_024
_EVENTS: Mapping[str, tuple[str, str]] = {
    "MemoryPressure": ("NodeHasSufficientMemory", "NodeHasInsufficientMemory"),
    "DiskPressure": ("NodeHasNoDiskPressure", "NodeHasDiskPressure"),
    "PIDPressure": ("NodeHasSufficientPID", "NodeHasInsufficientPID"),
    "Ready": ("NodeNotReady", "NodeReady"),
}
"""Condition -> event when it becomes False, and True."""


class Health(Protocol):
    """What is asked of `edge.pods.health.RuntimeHealth`."""

    @property
    def version(self) -> str: ...
    @property
    def problems(self) -> tuple[str, ...]: ...
    def listen(self, listener: Callable[[], None]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """What is kept from Pods. Units: millicores, bytes."""

    millicores: int = 0
    memory: int = 0
    disk: int = 0


def reserve_of(
    tables: Sequence[Mapping[str, str]],
    thresholds: Sequence[Threshold],
    memory: int,
    disk: int,
) -> Reserve:
    """Return what settings and hard eviction keep, of so many bytes. Errors: InvalidSetting."""
    for table in tables:
        for name, text in table.items():
            if name not in ("cpu", "memory", "ephemeral-storage") or quantity(text) is None:
                raise InvalidSetting(
                    "edge.workloads: reserved: expected amounts of cpu, memory, ephemeral-storage, "
                    f"got {name}: {text!r}"
                )
    free = {each.signal: each.amount for each in thresholds if each.is_hard}
    kept_memory = free[MEMORY].of(memory) if MEMORY in free else 0
    kept_disk = free[NODE_DISK].of(disk) if NODE_DISK in free else 0
    return Reserve(
        millicores=sum(thousandths(each.get("cpu")) for each in tables),
        memory=kept_memory + sum(units(each.get("memory")) for each in tables),
        disk=kept_disk + sum(units(each.get("ephemeral-storage")) for each in tables),
    )


def amounts(
    capacity: JsonObject, reserve: Reserve, max_pods: int, pages: Mapping[str, int]
) -> tuple[JsonObject, JsonObject]:
    """Return capacity and allocatable, from a machine's capacity; `pages`: name -> bytes of huge pages."""
    memory, disk = units(capacity.get("memory")), units(capacity.get("ephemeral-storage"))
    cores = thousandths(capacity.get("cpu"))
    huge: JsonObject = {name: _bytes(each) for name, each in sorted(pages.items())}
    whole: JsonObject = {
        "cpu": _cores(cores),
        "ephemeral-storage": f"{disk // _KIB}Ki",
        **huge,
        "memory": f"{memory // _KIB}Ki",
        "pods": str(max_pods),
    }
    left_memory = max(0, memory - reserve.memory - sum(pages.values()))
    left: JsonObject = {
        "cpu": _cores(max(0, cores - reserve.millicores)),
        "ephemeral-storage": str(max(0, disk - reserve.disk)),
        **huge,
        "memory": f"{left_memory // _KIB}Ki",
        "pods": str(max_pods),
    }
    return whole, left


def _cores(millicores: int) -> str:
    whole, rest = divmod(millicores, 1_000)
    return f"{millicores}m" if rest else str(whole)


def _bytes(number: int) -> str:
    return f"{number // _KIB}Ki" if number else "0"


def huge_pages(folder: Path = HUGEPAGES) -> dict[str, int]:
    """Return what the machine has of huge pages, by resource name."""
    found = {}
    for each in folder.glob("hugepages-*kB") if folder.is_dir() else ():
        kib = int(each.name.removeprefix("hugepages-").removesuffix("kB"))
        number = (each / "nr_hugepages").read_text().strip()
        size = f"{kib // _KIB // _KIB}Gi" if kib >= _KIB * _KIB else f"{kib // _KIB}Mi"
        found[f"hugepages-{size}"] = int(number) * kib * _KIB
    return found


def image_rows(images: Sequence[Image]) -> list[Json]:
    """Return images as a Node shows them."""
    rows: list[Json] = []
    for image in sorted(images, key=lambda each: (-each.size, each.id))[:MAX_IMAGES]:
        names: list[Json] = [*image.digests, *image.tags]
        rows.append({"names": names[:MAX_NAMES], "sizeBytes": image.size})
    return rows


def aggregated(problems: Sequence[str]) -> str:
    """Return problems as one message: one as it is, more in brackets."""
    return problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"


class NodeInfo:
    """Module, and `edge.machine.PodSide`."""

    name = "edge.pods.node"

    def __init__(
        self,
        node: str,
        runtime: Runtime,
        health: Health,
        recorder: Recorder,
        *,
        folder: Path,
        max_pods: int,
        reserved: Sequence[Mapping[str, str]],
        thresholds: Sequence[Threshold],
        pressures: Callable[[], frozenset[str]],
        kick: Callable[[], None],
        boot_id: Path = BOOT_ID,
    ) -> None:
        """`folder` remembers the last boot; `kick` has the status told now (`NodeAgent.kick`)."""
        reserve_of(reserved, thresholds, 0, 0)
        self._node = node
        self._runtime = runtime
        self._health = health
        self._recorder = recorder
        self._folder = folder
        self._max_pods = max_pods
        self._reserved = reserved
        self._thresholds = thresholds
        self._pressures = pressures
        self._kick = kick
        self._boot_id = boot_id
        self._pages = huge_pages()
        self._images: tuple[Image, ...] = ()
        self._turned: dict[str, tuple[bool, str]] = {}
        """Condition -> what it is, and since when."""
        self._told: object = None
        self.allocatable: JsonObject = {}
        """As it was told last."""
        health.listen(kick)

    # --- the Node's status ------------------------------------------------------------------------

    def told(self, status: JsonObject, now: int) -> JsonObject:
        capacity, info = mapping(status.get("capacity")), mapping(status.get("nodeInfo"))
        disk, memory = units(capacity.get("ephemeral-storage")), units(capacity.get("memory"))
        reserve = reserve_of(self._reserved, self._thresholds, memory, disk)
        whole, left = amounts(capacity, reserve, self._max_pods, self._pages)
        self.allocatable = left
        self._told = self._marks()
        return {
            **status,
            "capacity": whole,
            "allocatable": left,
            "conditions": self._conditions(now),
            "nodeInfo": {**info, "containerRuntimeVersion": self._health.version or NO_RUNTIME},
            "images": image_rows(self._images),
            "declaredFeatures": [*FEATURES],
        }

    def has_news(self) -> bool:
        return self._marks() != self._told

    def _marks(self) -> tuple[object, ...]:
        images = tuple((each.id, each.tags, each.digests) for each in self._images)
        return self._health.version, self._problems(), self._pressures(), images

    def _problems(self) -> tuple[str, ...]:
        if not self._health.version and not self._health.problems:
            return ("container runtime status check may not have completed yet",)
        return self._health.problems

    def _conditions(self, now: int) -> list[Json]:
        found, rows = self._pressures(), list[Json]()
        for kind, texts in CONDITIONS.items():
            is_pressed = kind in found
            reason, message = texts[is_pressed]
            rows.append(self._condition(kind, is_pressed, reason, message, now))
        problems = self._problems()
        ready = "EdgeReady", "edge is posting ready status"
        reason, message = ("KubeletNotReady", aggregated(problems)) if problems else ready
        return [*rows, self._condition("Ready", not problems, reason, message, now)]

    def _condition(self, kind: str, is_true: bool, reason: str, message: str, now: int) -> Json:
        before = self._turned.get(kind)
        if before is None or before[0] is not is_true:
            self._turned[kind] = (is_true, rfc3339(now))
            if before is not None or kind != "Ready":
                event = _EVENTS[kind][is_true]
                text = f"Node {self._node} status is now: {event}"
                self._recorder.node_event("Normal", event, text)
        return {
            "type": kind,
            "status": "True" if is_true else "False",
            "lastHeartbeatTime": rfc3339(now),
            "lastTransitionTime": self._turned[kind][1],
            "reason": reason,
            "message": message,
        }

    # --- what it looks after ----------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        self._recorder.node_event("Normal", "Starting", "Starting kubelet.")
        await asyncio.to_thread(self._note_boot)
        ready()
        while True:
            await self._look_at_images()
            await asyncio.sleep(IMAGE_SECONDS)

    def _note_boot(self) -> None:
        """Tell when the machine was booted since EdgeCore ran last."""
        try:
            boot, known = self._boot_id.read_text().strip(), self._folder / "boot-id"
            before = known.read_text().strip() if known.exists() else ""
            if before != boot:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                known.write_text(boot)
        except OSError as error:
            log.warning("the last boot is not known", extra={"cause": str(error)})
            return
        if before not in ("", boot):
            text = f"Node {self._node} has been rebooted, boot id: {boot}"
            self._recorder.node_event("Warning", "Rebooted", text)

    async def _look_at_images(self) -> None:
        try:
            found = await self._runtime.images()
        except RuntimeFault as error:
            log.debug("the images are not known", extra={"cause": error.message})
            return
        images = tuple(sorted(found, key=lambda each: (-each.size, each.id)))
        if images != self._images:
            self._images = images
            self._kick()
