"""Done now and then for Pods of this node: logs rotated, ended containers and unused images removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from edge.pods.imagegc import ContainerCollector, ImageCollector, Policy
from edge.pods.images import JobImages, PodImages, Puller, Secrets
from edge.pods.logrotation import LogRotation
from edge.pods.ports import Recorder
from edge.pods.runtime import Runtime
from gateway.config.edge_workloads import Workloads
from gateway.errors import GatewayError

log = logging.getLogger(__name__)

LOGS_SECONDS, CONTAINERS_SECONDS, IMAGES_SECONDS = 10.0, 60.0, 300.0


class NodeRuntime(Runtime, Protocol):
    """A runtime that also tells which images are in use: `edge.pods.cri.CriRuntime`."""

    async def used_images(self) -> frozenset[str]: ...


class Housekeeping:
    """The loops; a round that fails is told, and the next one comes all the same."""

    def __init__(
        self,
        rotation: LogRotation,
        containers: ContainerCollector,
        images: ImageCollector,
        recorder: Recorder,
    ) -> None:
        self._rotation = rotation
        self._containers = containers
        self._images = images
        self._recorder = recorder
        self._images_failed = False
        self._told: set[str] = set()
        """What has failed in the log already, and has not worked since."""

    @property
    def name(self) -> str:
        return "edge-pods-housekeeping"

    async def run(self, ready: Callable[[], None]) -> None:
        """Work until cancelled."""
        ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(_every(LOGS_SECONDS, self.rotate_logs))
            group.create_task(_every(CONTAINERS_SECONDS, self.collect_containers))
            group.create_task(_every(IMAGES_SECONDS, self.collect_images))

    async def rotate_logs(self) -> None:
        try:
            await self._rotation.rotate()
        except GatewayError as error:
            self._tell("logs are not rotated", error.message)
        else:
            self._told.discard("logs are not rotated")

    def _tell(self, what: str, cause: str) -> None:
        """Warn once of what goes on failing: a runtime may be away for hours."""
        level = logging.DEBUG if what in self._told else logging.WARNING
        self._told.add(what)
        log.log(level, what, extra={"cause": cause})

    async def collect_containers(self) -> None:
        try:
            await self._containers.collect()
        except (GatewayError, OSError) as error:
            self._recorder.node_event("Warning", "ContainerGCFailed", str(error))
            self._tell("ended containers are not removed", str(error))
        else:
            self._told.discard("ended containers are not removed")

    async def collect_images(self) -> None:
        """A first failure is no event: the runtime may still be counting."""
        try:
            await self._images.collect()
        except (GatewayError, OSError) as error:
            if self._images_failed:
                self._recorder.node_event("Warning", "ImageGCFailed", str(error))
            self._images_failed = True
            self._tell("unused images are not removed", str(error))
        else:
            self._images_failed = False
            self._told.discard("unused images are not removed")


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await work()


@dataclass(frozen=True, slots=True)
class ImageRooms:
    """What `edge.pods.build` takes from here."""

    images: PodImages
    jobs: JobImages
    """For pre-pull jobs: `edge.ports.Images`."""
    collector: ImageCollector
    """For eviction, too: `free_all`."""
    housekeeping: Housekeeping


def build_images(
    settings: Workloads,
    runtime: NodeRuntime,
    secrets: Secrets,
    recorder: Recorder,
    pods: Callable[[], frozenset[str] | None],
) -> ImageRooms:
    """Build the rooms of images; `pods`: uids not yet cleared away, None while they are not known."""
    puller = Puller(
        runtime, at_a_time=settings.parallel_pulls, registries=settings.registry_credentials
    )
    policy = Policy(
        high=settings.image_gc_high,
        low=min(settings.image_gc_low, settings.image_gc_high),
        min_age=settings.image_gc_min_age,
        max_age=settings.image_gc_max_age,
    )
    rotation = LogRotation(runtime, max_bytes=settings.log_bytes, max_files=settings.log_files)
    collector = ImageCollector(runtime, recorder, policy)
    housekeeping = Housekeeping(rotation, ContainerCollector(runtime, pods), collector, recorder)
    return ImageRooms(
        PodImages(runtime, puller, secrets, recorder), JobImages(puller), collector, housekeeping
    )
