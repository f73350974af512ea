"""Volumes of this node's Pods: made before the Pod starts, kept up to date while it runs, removed after it.

A ConfigMap or Secret that changes reaches the volumes that show it within moments, a label or annotation by
the Pod's own change, a token before it ends; besides, all is looked at again by the clock.
Source: Kubernetes, the kubelet's volume manager.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, ParamSpec, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from edge.clock import now_ms
from edge.pods.hostpaths import NodeView, claimed, host_path
from edge.pods.mounts import Mounts
from edge.pods.objects import PodObjects
from edge.pods.podspec import Container, EmptyDir, Pod, Volume, VolumeMount
from edge.pods.ports import MountedVolumes, NotYet, Recorder
from edge.pods.projections import nested_folders
from edge.pods.runtime import Mount
from edge.pods.subpaths import checked, expanded
from edge.pods.tokens import Tokens
from edge.pods.volumecontents import NodeFacts, VolumeContents, digest_of, is_files
from edge.pods.volumefolders import OPEN_MODE, VolumeFolders, check_label, check_uid
from edge.pods.volumerules import (
    MEMORY,
    check_devices,
    check_medium,
    check_recursive,
    check_source,
    container_path,
    fs_group,
    memory_size,
    propagation,
    used_volumes,
)
from edge.ports import EdgeApi
from gateway.errors import BadRequest, GatewayError, NotFound

log = logging.getLogger(__name__)

CREATING, CONFIG_ERROR = "ContainerCreating", "CreateContainerConfigError"
FAILED_MOUNT: Final = "FailedMount"
RESYNC_SECONDS: Final = (60.0, 90.0)
RETRY_SECONDS: Final = 10.0
LINK_UP_SECONDS: Final = 5.0
AT_ONCE: Final = 8
"""Pods whose volumes are looked at together."""

P = ParamSpec("P")
T = TypeVar("T")
Key: TypeAlias = tuple[str, str]
"""Pod uid, volume name."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A volume: `fault` says why it is not up to date; with an empty path it is not there."""

    name: str
    path: str
    read_only: bool = False
    fault: str = ""


class PodVolumes:
    """`edge.pods.ports.Volumes`; module that keeps volumes up to date."""

    name = "edge.pods.volumes"

    def __init__(
        self,
        root: Path,
        api: EdgeApi,
        objects: PodObjects,
        node: NodeFacts,
        recorder: Recorder,
        mounts: Mounts | None = None,
    ) -> None:
        self.tokens = Tokens(api)
        self.folders = VolumeFolders(root, mounts or Mounts())
        self._api = api
        self._objects = objects
        self._contents = VolumeContents(objects, self.tokens, node)
        self._node = node
        self._recorder = recorder
        self._pods: dict[str, Pod] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._due: dict[str, float] = {}
        """When a Pod's volumes are looked at again: uid -> monotonic seconds."""
        self._written: dict[Key, bytes] = {}
        """Digests of what the volumes hold, so that what did not change is not read from disk."""
        self._found: dict[Key, _Made] = {}
        self._faults: dict[Key, str] = {}
        self._wake = asyncio.Event()
        self.kick: Callable[[str], None] = _unheard
        """Told the uid of a Pod that uses an object which changed: what waited for it may go on."""
        objects.on_change(self._objects_changed)

    # --- the port -----------------------------------------------------------------------------

    async def mount(self, pod: Pod) -> MountedVolumes:
        """Make all volumes of a Pod ready; may be called again at any time.

        Errors: NotYet, naming each volume that is not there.
        """
        try:
            check_uid(pod.uid)
        except BadRequest as error:
            raise NotYet(CREATING, error.message) from error
        async with self._lock(pod.uid):
            self._pods[pod.uid] = pod
            self._due.pop(pod.uid, None)
            self._objects.use(pod)
            found = await self._make_all(pod, used_volumes(pod))
            self._schedule(pod.uid, failed=any(each.fault for each in found))
        missing = [each.fault for each in found if not each.path]
        if missing:
            raise NotYet(CREATING, "; ".join(missing))
        return MountedVolumes(
            {each.name: each.path for each in found},
            frozenset(each.name for each in found if each.read_only),
        )

    def mounts(
        self, pod: Pod, container: Container, volumes: MountedVolumes, envs: Mapping[str, str]
    ) -> tuple[Mount, ...]:
        """Return the container's volume mounts. Blocks where there are sub paths.

        Errors: NotYet (`CreateContainerConfigError`).
        """
        try:
            check_devices(container)
            return tuple(
                self._mount_of(pod, container, volumes, envs, number)
                for number in range(len(container.volume_mounts))
            )
        except GatewayError as error:
            raise NotYet(CONFIG_ERROR, error.message) from error

    async def unmount(self, uid: str) -> None:
        """Undo all of a Pod that has ended. Again: no error. Errors: NotYet where a mount is stuck."""
        async with self._lock(uid):
            self._forget(uid)
            try:
                await _in_thread(self.folders.remove, uid)
            except (OSError, BadRequest) as error:
                log.warning("volumes are not removed yet", extra={"pod": uid, "cause": str(error)})
                raise NotYet("FailedUnmount", f"volumes of {uid}: {error}") from error

    def _forget(self, uid: str) -> None:
        self._pods.pop(uid, None)
        self._due.pop(uid, None)
        self._objects.forget(uid)
        self.tokens.forget(uid)
        self._written = _without(uid, self._written)
        self._found = _without(uid, self._found)
        self._faults = _without(uid, self._faults)

    def _lock(self, uid: str) -> asyncio.Lock:
        """Return a Pod's lock: it is there as long as somebody has it or waits for it."""
        return self._locks.setdefault(uid, asyncio.Lock())

    # --- for Core -----------------------------------------------------------------------------

    async def remove_orphans(self, known: Collection[str]) -> list[str]:
        """Remove the folders of Pods that are neither known nor running; returns their uids."""
        removed = []
        for uid in await _in_thread(self.folders.orphans, known):
            async with self._lock(uid):
                if uid not in self._pods and await self._remove_orphan(uid):
                    removed.append(uid)
        return removed

    async def _remove_orphan(self, uid: str) -> bool:
        try:
            await _in_thread(self.folders.remove_orphan, uid)
        except OSError as error:
            log.warning("an orphaned Pod's folder stays", extra={"pod": uid, "cause": str(error)})
            return False
        return True

    # --- making -------------------------------------------------------------------------------

    async def _make_all(self, pod: Pod, volumes: list[Volume]) -> list[_Made]:
        found = await asyncio.gather(*(self._try(pod, volume) for volume in volumes))
        for each in found:
            self._tell(pod, each)
        return found

    def _tell(self, pod: Pod, made: _Made) -> None:
        """Tell of a volume that is not up to date, once; of one that is not there who asked for it tells."""
        key = (pod.uid, made.name)
        if not made.fault:
            self._faults.pop(key, None)
            return
        if made.path and self._faults.get(key) != made.fault:
            self._recorder.event(pod, "Warning", FAILED_MOUNT, made.fault)
        self._faults[key] = made.fault

    async def _try(self, pod: Pod, volume: Volume) -> _Made:
        """Make a volume; one that has files keeps them where newer ones cannot be had."""
        try:
            check_label(volume.name)
            check_source(pod, volume)
            return await self._make(pod, volume)
        except GatewayError as error:
            why = error.message
        except (OSError, OverflowError, ValueError) as error:  # numbers and names of no file system
            why = str(error)
        fault = f'MountVolume.SetUp failed for volume "{volume.name}" : {why}'
        path = await _in_thread(self.folders.shown, pod.uid, volume.name)
        return _Made(volume.name, path if is_files(volume) else "", read_only=True, fault=fault)

    async def _make(self, pod: Pod, volume: Volume) -> _Made:
        if is_files(volume):
            return await self._show(pod, volume)
        if volume.host_path is not None or volume.persistent_volume_claim is not None:
            key = (pod.uid, volume.name)
            if key not in self._found:
                self._found[key] = await self._find(pod, volume)
            return self._found[key]
        return await _in_thread(self._empty, pod, volume)

    def _empty(self, pod: Pod, volume: Volume) -> _Made:
        source = volume.empty_dir or EmptyDir()
        check_medium(source)
        group = fs_group(pod)
        if source.medium != MEMORY:
            path = self.folders.on_disk(pod.uid, volume.name, OPEN_MODE, group)
        else:
            size = memory_size(pod, source, self._node.allocatable().get("memory"))
            path = self.folders.memory_dir(pod.uid, volume.name, size, group)
        return _Made(volume.name, str(path))

    async def _find(self, pod: Pod, volume: Volume) -> _Made:
        """Find a path of this machine, once in the life of a Pod."""
        if volume.host_path is not None:
            return _Made(volume.name, await _in_thread(host_path, volume.host_path))
        claim = volume.persistent_volume_claim
        assert claim is not None  # noqa: S101  for the type
        node = NodeView(self._node.name, self._node.labels())
        found = await claimed(self._api, pod.meta.namespace, claim.claim_name, node)
        group = fs_group(pod)
        if found.is_managed and group is not None:
            await _in_thread(
                self.folders.give,
                pod.uid,
                volume.name,
                Path(found.path),
                group,
                read_only=claim.read_only,
            )
        return _Made(volume.name, found.path, claim.read_only)

    # --- files of objects ---------------------------------------------------------------------

    async def _show(self, pod: Pod, volume: Volume) -> _Made:
        """Make a volume show what its objects hold now."""
        files = await self._contents.files(pod, volume)
        key, digest = (pod.uid, volume.name), digest_of(files)
        path = self.folders.path(pod.uid, volume.name)
        if self._written.get(key) != digest:
            changed = await _in_thread(
                self.folders.write,
                pod.uid,
                volume.name,
                files,
                fs_group(pod),
                is_secret=volume.config_map is None and volume.downward_api is None,
                nested=nested_folders(pod, volume.name),
            )
            if changed and key in self._written:
                log.info("a volume has new files", extra={"pod": pod.key, "volume": volume.name})
            self._written[key] = digest
        return _Made(volume.name, str(path), read_only=True)

    # --- mounts of containers -----------------------------------------------------------------

    def _mount_of(
        self,
        pod: Pod,
        container: Container,
        volumes: MountedVolumes,
        envs: Mapping[str, str],
        number: int,
    ) -> Mount:
        mount = container.volume_mounts[number]
        path = volumes.paths.get(mount.name)
        if path is None:
            raise NotFound(
                f'cannot find volume "{mount.name}" to mount into container "{container.name}"'
            )
        check_recursive(mount)
        part = expanded(mount.sub_path_expr, envs) if mount.sub_path_expr else mount.sub_path
        if part:
            path = self._part(pod, container, mount, path, checked(part), number)
        return Mount(
            container_path=container_path(mount.mount_path),
            host_path=path,
            readonly=mount.read_only or mount.name in volumes.read_only,
            selinux_relabel=Path(path).is_relative_to(self.folders.root),
            propagation=propagation(mount),
        )

    def _part(
        self,
        pod: Pod,
        container: Container,
        mount: VolumeMount,
        path: str,
        part: str,
        number: int,
    ) -> str:
        """What went wrong is not told to who made the Pod: it would tell about this machine's files."""
        place = f"{check_label(mount.name)}/{check_label(container.name)}/{number}"
        try:
            return str(self.folders.subpaths(pod.uid).bind(Path(path), part, place))
        except (GatewayError, OSError) as error:
            log.warning("a sub path is refused", extra={"pod": pod.key, "cause": str(error)})
            raise BadRequest(
                f'failed to prepare subPath for volumeMount "{mount.name}" of container '
                f'"{container.name}"'
            ) from error

    # --- keeping up to date -------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        while True:
            now = time.monotonic()
            due = [uid for uid, at in self._due.items() if at <= now][:AT_ONCE]
            await asyncio.gather(*map(self.refresh, due))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._idle_seconds()):
                    await self._wake.wait()
            self._wake.clear()

    def _idle_seconds(self) -> float | None:
        if not self._due:
            return None
        return max(0.0, min(self._due.values()) - time.monotonic())

    async def refresh(self, uid: str) -> None:
        """Bring the volumes of a Pod that show objects, fields or tokens up to date."""
        async with self._lock(uid):
            self._due.pop(uid, None)
            pod = self._pods.get(uid)
            if pod is None:
                return
            self._objects.look_again(uid)
            volumes = [volume for volume in used_volumes(pod) if is_files(volume)]
            found = await self._make_all(pod, volumes)
            self._schedule(uid, failed=any(each.fault for each in found))

    def pod_changed(self, pod: Pod) -> None:
        """Take a Pod's new labels and annotations; one that is not mounted is left alone."""
        if pod.uid in self._pods:
            self._pods[pod.uid] = pod
            self._objects.use(pod)
            self._hasten({pod.uid}, 0.0)

    def _objects_changed(self, uids: frozenset[str]) -> None:
        self._hasten(uids, 0.0)
        for uid in uids:
            self.kick(uid)

    def link_up(self, *, has_spool: bool) -> None:  # noqa: ARG002  volumes need no spool
        """What could not be had is asked for soon, not by all Pods in the same moment."""
        self._hasten(set(self._pods), LINK_UP_SECONDS)

    def link_down(self) -> None:
        """Volumes stay as they are."""

    def _hasten(self, uids: Collection[str], within: float) -> None:
        now = time.monotonic()
        for uid in uids:
            if uid in self._pods:
                soon = now + random.uniform(0, within)  # noqa: S311  jitter
                self._due[uid] = min(soon, self._due.get(uid, soon))
        self._wake.set()

    def _schedule(self, uid: str, *, failed: bool) -> None:
        """Say when a Pod's volumes are looked at again; what changed meanwhile stays due."""
        pod = self._pods[uid]
        if not any(is_files(volume) for volume in used_volumes(pod)):
            return
        wait = random.uniform(*RESYNC_SECONDS)  # noqa: S311  jitter
        renewal = self.tokens.renewal(uid)
        if renewal is not None:
            wait = min(wait, max(0.0, renewal - now_ms() / 1_000))
        if failed:
            wait = min(max(wait, 1.0), RETRY_SECONDS)
        at = time.monotonic() + wait
        self._due[uid] = min(at, self._due.get(uid, at))
        self._wake.set()


def _without(uid: str, table: dict[Key, T]) -> dict[Key, T]:
    return {key: value for key, value in table.items() if key[0] != uid}


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work; who is cancelled waits for it, so that nobody works on the same folder with it."""
    task = asyncio.create_task(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        with suppress(asyncio.CancelledError):
            task.exception()
        raise


def _unheard(_uid: str) -> None:
    """Nobody waits."""
