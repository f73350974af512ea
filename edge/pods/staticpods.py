"""Static Pods: files of this node that define Pods, and their mirrors in the API.

A file that goes takes its Pod with it, and so does one that cannot be read any more: what is wrong is told.
The Pods run without cloud; a mirror shows each of them in the API, is made again when somebody deletes it,
and goes when its Pod has ended.
Source: Kubernetes, "Create static Pods"; KubeEdge reference, 22.4; behaviour of kubelet 1.36.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from edge.pods.manifests import MAX_BYTES, hash_of, mirror_of, read_manifest
from edge.pods.podspec import CONFIG_MIRROR, Pod
from edge.pods.ports import PodView, Recorder
from edge.ports import EdgeApi
from gateway.errors import BadRequest, Conflict, GatewayError, NotFound, Undeliverable
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.kube.clock import rfc3339_micro
from gateway.wire.kube.parts import part, text
from gateway.wire.kube.status import AlreadyExists

log = logging.getLogger(__name__)

POD = "pod"
MAX_FILES = 500
LOOK_SECONDS = 2.0
"""Between looks at names and times of files."""
READ_SECONDS = 20.0
"""Between readings of all files, whatever their times say."""
RETRY_FIRST, RETRY_CAP = 1.0, 30.0

Marks = tuple[tuple[str, int, int, int], ...]
"""Name, time, size and inode of each file."""
Key = tuple[str, str]


class Mirrored(Protocol):
    """What is asked of `edge.pods.statuses.Statuses`."""

    mirror_uid: Callable[[str], str | None]

    def mirror_changed(self, uid: str) -> None: ...
    def keep_static(self, uids: frozenset[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds: its Pods, and what is wrong with which file."""

    pods: tuple[Pod, ...] = ()
    faults: tuple[tuple[str, str], ...] = ()


def look(path: Path) -> Marks:
    """Return the marks of the files at a path; nothing where it is not. Errors: OSError."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return ()
    names = [n for n in os.listdir(path) if not n.startswith(".")] if is_folder else []
    files = [path / name for name in sorted(names)[:MAX_FILES]] if is_folder else [path]
    marks = []
    for file in files:
        with suppress(OSError):
            seen = file.stat()
            marks.append((str(file), seen.st_mtime_ns, seen.st_size, seen.st_ino))
    return tuple(marks)


def read_all(marks: Marks, node: str, seen: Callable[[str], str]) -> Found:
    """Read the files; of two Pods of one name the later file's counts."""
    pods: dict[Key, Pod] = {}
    faults: list[tuple[str, str]] = []
    for name, *_ in marks:
        try:
            pod = read_manifest(_contents(Path(name)), node, name, seen(name))
        except FileNotFoundError:
            continue
        except OSError as error:
            faults.append((name, error.strerror or str(error)))
        except BadRequest as error:
            faults.append((name, error.message))
        else:
            if pod.key in pods:
                faults.append((name, "another file has a Pod of this name: this one counts"))
            pods[pod.key] = pod
    return Found(tuple(pods.values()), tuple(faults))


def _contents(path: Path) -> bytes:
    """Errors: OSError; BadRequest for what is no file."""
    if not path.is_file():
        if not path.exists():
            raise FileNotFoundError(path)
        raise BadRequest("not a file: folders in the folder of manifests are not looked into")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


class StaticPods:
    """Module and listener of the link; `take` gets all static Pods whenever they change.

    Hand `pod_seen` to `Edged.listen`: mirrors come from there. `view` is set once the Pods' owner is there.
    """

    name = "edge.pods.static"

    def __init__(
        self,
        node: str,
        path: Path,
        api: EdgeApi,
        recorder: Recorder,
        statuses: Mirrored,
        *,
        take: Callable[[Sequence[Pod]], None],
        node_uid: Callable[[], str] = lambda: "",
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._node = node
        self._path = path
        self._api = api
        self._recorder = recorder
        self._statuses = statuses
        self._take = take
        self._node_uid = node_uid
        self._look_seconds = look_seconds
        self._pods: dict[Key, Pod] = {}
        self._mirrors: dict[Key, Pod] = {}
        self._seen: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._marks: Marks | None = None
        self._wake = asyncio.Event()
        self._is_up = False
        self.view: PodView | None = None
        statuses.mirror_uid = self.mirror_uid

    def mirror_uid(self, uid: str) -> str | None:
        """Return the uid of a static Pod's mirror in the API, None while there is none of it."""
        for mirror in self._mirrors.values():
            if _hash_of_mirror(mirror) == uid and not mirror.is_deleting:
                return mirror.uid
        return None

    def pods(self) -> list[Pod]:
        return list(self._pods.values())

    def pod_seen(self, pod: Pod, is_there: bool) -> None:
        """Take a Pod of the API, or its end."""
        known = self._mirrors.get(pod.key)
        if not is_there:
            if known is not None and known.uid == pod.uid:
                del self._mirrors[pod.key]
                self._wake.set()
        elif pod.is_mirror:
            self._mirrors[pod.key] = pod
            if known is None or known.uid != pod.uid:
                self._statuses.mirror_changed(_hash_of_mirror(pod))
            self._wake.set()
        elif known is not None:
            del self._mirrors[pod.key]
            self._wake.set()

    def link_up(self, *, has_spool: bool) -> None:  # noqa: ARG002  mirrors need no spool
        """Mirrors are made now."""
        self._is_up = True
        self._wake.set()

    def link_down(self) -> None:
        self._is_up = False

    async def run(self, ready: Callable[[], None]) -> None:
        await self._read()
        ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._reflect())

    # --- files --------------------------------------------------------------------------------

    async def _watch(self) -> None:
        time_ = asyncio.get_running_loop().time
        next_reading = time_() + READ_SECONDS
        while True:
            await asyncio.sleep(self._look_seconds)
            is_due = time_() >= next_reading
            if is_due:
                next_reading = time_() + READ_SECONDS
            await self._read(is_due=is_due)

    async def _read(self, *, is_due: bool = False) -> None:
        """Look at the files, and read them where they changed; a folder that fails changes nothing."""
        try:
            marks = await asyncio.to_thread(look, self._path)
            if marks == self._marks and not is_due:
                return
            found = await asyncio.to_thread(read_all, marks, self._node, self._first_seen)
        except OSError as error:
            self._tell({str(self._path): error.strerror or str(error)})
            return
        is_first, self._marks = self._marks is None, marks
        self._seen = {name: self._seen[name] for name, *_ in marks if name in self._seen}
        self._tell(dict(found.faults))
        pods = {pod.key: pod for pod in found.pods}
        if is_first or _uids_of(pods) != _uids_of(self._pods):
            self._put(pods)

    def _put(self, pods: dict[Key, Pod]) -> None:
        self._pods = pods
        self._take(list(pods.values()))
        self._statuses.keep_static(frozenset(self._uids()))
        self._wake.set()

    def _uids(self) -> set[str]:
        """Return the Pods whose statuses count: those of files, and those that are ending."""
        ending = [] if self.view is None else self.view.pods()
        return {
            *(pod.uid for pod in self._pods.values()),
            *(each.pod.uid for each in ending if each.pod.is_static),
        }

    def _first_seen(self, name: str) -> str:
        return self._seen.setdefault(name, rfc3339_micro(time.time()))

    def _tell(self, faults: dict[str, str]) -> None:
        """Tell what is wrong with files, each fault once."""
        for name, why in faults.items():
            if self._told.get(name) != why:
                log.warning("a manifest is of no use", extra={"file": name, "cause": why[:1_000]})
                self._recorder.node_event("Warning", "InvalidStaticPod", f"{name}: {why}")
        self._told = faults

    # --- mirrors ------------------------------------------------------------------------------

    async def _reflect(self) -> None:
        backoff = Backoff(RETRY_FIRST, RETRY_CAP)
        while True:
            while not self._is_up:
                await self._woken(None)
            if await self._bring_all():
                backoff.reset()
                await self._woken(None)
            else:
                await self._woken(backoff.next())

    async def _woken(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _bring_all(self) -> bool:
        """Bring the API's mirrors in line; False where something is left to do."""
        is_done = True
        for key in sorted({*self._pods, *self._mirrors}):
            try:
                is_done = await self._bring(key) and is_done
            except Undeliverable as error:
                log.debug("a mirror waits", extra={"pod": "/".join(key), "cause": error.message})
                is_done = False
            except GatewayError as error:
                facts = {"pod": "/".join(key), "cause": error.message}
                log.warning("a mirror was not taken", extra=facts)
                is_done = False
        return is_done

    async def _bring(self, key: Key) -> bool:
        pod, mirror = self._pods.get(key), self._mirrors.get(key)
        if mirror is not None and not _shows(mirror, pod):
            if pod is None and self._still_runs(mirror):
                return False
            await self._delete(key, mirror)
            mirror = self._mirrors.get(key)
        return pod is None or mirror is not None or await self._insert(pod)

    def _still_runs(self, mirror: Pod) -> bool:
        if self.view is None:
            return False
        return self.view.find(*mirror.key, _hash_of_mirror(mirror)) is not None

    async def _delete(self, key: Key, mirror: Pod) -> None:
        """Errors: those of the API; one that is gone, or another's by now, is none."""
        options: JsonObject = {"gracePeriodSeconds": 0, "preconditions": {"uid": mirror.uid}}
        with suppress(NotFound, Conflict):
            await self._api.delete(Subject(key[0], POD, key[1]), options)
        if self._mirrors.get(key) is mirror:
            del self._mirrors[key]

    async def _insert(self, pod: Pod) -> bool:
        namespace, name = pod.key
        body = mirror_of(pod, self._node, self._node_uid())
        try:
            made = await self._api.insert(Subject(namespace, POD, name), body)
        except AlreadyExists:
            log.info("a mirror's name is taken", extra={"pod": f"{namespace}/{name}"})
            return pod.key in self._mirrors
        if pod.key not in self._mirrors:
            uid = text(part(made, "metadata").get("uid"))
            self._mirrors[pod.key] = _as_mirror(pod, body, uid)
            self._statuses.mirror_changed(pod.uid)
        return True


def _uids_of(pods: dict[Key, Pod]) -> dict[Key, str]:
    return {key: pod.uid for key, pod in pods.items()}


def _as_mirror(pod: Pod, body: JsonObject, uid: str) -> Pod:
    meta = msgspec.structs.replace(
        pod.meta, uid=uid, annotations={**pod.meta.annotations, CONFIG_MIRROR: hash_of(pod)}
    )
    return Pod(meta, pod.spec, body)


def _hash_of_mirror(mirror: Pod) -> str:
    return mirror.meta.annotations.get(CONFIG_MIRROR, "")


def _shows(mirror: Pod, pod: Pod | None) -> bool:
    """True for the mirror of a static Pod as its file is now."""
    return pod is not None and not mirror.is_deleting and _hash_of_mirror(mirror) == hash_of(pod)
