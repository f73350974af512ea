"""edged: the Pods of this node, one worker each, from MetaManager's disk and from files.

Pods survive the end of this process: nothing is stopped with it, and what runs is known again by its labels.
What runs and belongs to no Pod any more (it was deleted while this process was away) is ended with its own
grace, once all that there is was read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from edge.metamanager import MetaManager
from edge.pods.containerstatuses import Stop
from edge.pods.parts import Parts
from edge.pods.podspec import Container, Handler, Lifecycle, Pod, PodMeta, PodSpec, read_pod
from edge.pods.podworker import PodWorker
from edge.pods.ports import Observed, Running
from edge.pods.runtime import POD_NAME, POD_NAMESPACE, ContainerState
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.to_edge import ObjectChanged
from gateway.wire.kube.parts import part, text

log = logging.getLogger(__name__)

POD = "pod"
FAILED_VALIDATION = "FailedValidation"
PRE_STOP = "io.kubernetes.container.preStopHandler"
"""Annotation of containers."""
DISRUPTING = frozenset({"Evicted", "Preempting", "Terminated"})
"""Reasons for which this node ended a Pod that would have gone on: told in a condition of their own."""

PodListener = Callable[[Pod, bool], None]
"""Told a Pod of the API, and whether it is there (or gone)."""


class Store(Protocol):
    """Where Pods of the cloud are kept: a part of `edge.store.EdgeStore`."""

    def delete_meta(self, key: str, uid: str, done: Callable[[object], None]) -> None: ...


class Edged:
    """Module, taker of Pods, and the `PodView` of the other rooms."""

    name = "edge.pods"

    def __init__(self, meta: MetaManager, store: Store, parts: Parts) -> None:
        self._meta = meta
        self._store = store
        self._parts = parts
        self._workers: dict[str, PodWorker] = {}
        self._orphans: dict[str, PodWorker] = {}
        self._deleted: set[str] = set()
        """Uids whose end was told before all was read."""
        self._static: frozenset[str] = frozenset()
        self._group: asyncio.TaskGroup | None = None
        self._knows_all = False
        self._listeners: list[PodListener] = []
        parts.relist.listen(self._seen)
        meta.on_kind(POD, self)

    # --- from the cloud -----------------------------------------------------------------------

    def listen(self, listener: PodListener) -> None:
        """Tell `listener` of Pods of the API, mirrors of static Pods too."""
        self._listeners.append(listener)

    def object_changed(self, change: ObjectChanged, _trace: TraceContext | None) -> None:
        """Take a Pod as the cloud has it now. Errors: BadRequest for one that cannot be read."""
        if change.operation is not Operation.DELETE:
            self._take(self._read(change))
            return
        key = change.subject.namespace or "", change.subject.name
        uids = [change.uid] if change.uid else [each.pod.uid for each in self._of_key(key)]
        last = _last_of(change)
        for uid in uids:
            self._gone(uid, last)

    def _read(self, change: ObjectChanged) -> Pod:
        """Read a Pod; what is wrong with it is told to who made it. Errors: BadRequest."""
        try:
            return _whole_pod(change.object)
        except BadRequest as error:
            uid = text(part(change.object, "metadata").get("uid"))
            subject = change.subject
            meta = PodMeta(name=subject.name, namespace=subject.namespace or "", uid=uid)
            unread = Pod(meta, PodSpec(), {})
            self._parts.recorder.event(unread, "Warning", FAILED_VALIDATION, error.message)
            raise

    def _take(self, pod: Pod) -> None:
        for listener in self._listeners:
            listener(pod, True)
        if pod.is_mirror:
            return
        for worker in self._of_key(pod.key):
            if worker.pod.uid != pod.uid and not worker.pod.is_static:
                worker.gone()  # the API has one Pod of a name
        self._put(pod)

    def _gone(self, uid: str, last: Pod | None) -> None:
        if last is not None:
            for listener in self._listeners:
                listener(last, False)
        if not self._knows_all:
            self._deleted.add(uid)
        worker = self._workers.get(uid)
        if worker is not None and not worker.pod.is_static:
            worker.gone(last)

    def revoked(self) -> None:
        """The Node was deleted: Pods of the cloud end, and are no longer this node's."""
        for worker in [each for each in self._workers.values() if not each.pod.is_static]:
            namespace, name = worker.pod.key
            if not worker.is_ending:  # each try to link tells of it again
                log.warning("a Pod ends with its Node", extra={"namespace": namespace, "pod": name})
            self._store.delete_meta(f"{namespace}/{POD}/{name}", worker.pod.uid, _unwaited)
            worker.gone()

    # --- from files ---------------------------------------------------------------------------

    def set_static(self, pods: Iterable[Pod]) -> None:
        """Take all Pods that files of this node define; those that were there before and are not end."""
        wanted = {pod.uid: pod for pod in pods}
        for uid in self._static - wanted.keys():
            worker = self._workers.get(uid)
            if worker is not None:
                worker.gone()
        self._static = frozenset(wanted)
        for pod in wanted.values():
            self._put(pod)

    # --- workers ------------------------------------------------------------------------------

    def _put(self, pod: Pod) -> None:
        worker = self._workers.get(pod.uid)
        if worker is not None:
            worker.take(pod)
            return
        worker = PodWorker(
            pod, self._parts, may_start=self._may_start, on_ended=self._wake_namesakes
        )
        if pod.is_deleting:
            worker.take(pod)
        self._workers[pod.uid] = worker
        self._begin(self._workers, worker)

    def _begin(self, where: dict[str, PodWorker], worker: PodWorker) -> None:
        if self._group is not None:
            self._group.create_task(self._live(where, worker), name=f"pod {worker.pod.uid}")

    async def _live(self, where: dict[str, PodWorker], worker: PodWorker) -> None:
        await worker.run()
        where.pop(worker.pod.uid, None)
        self._wake_namesakes(worker.pod)

    def _of_key(self, key: tuple[str, str]) -> list[PodWorker]:
        every = (*self._workers.values(), *self._orphans.values())
        return [each for each in every if each.pod.key == key]

    def _may_start(self, pod: Pod) -> bool:
        """A Pod waits until an earlier one of its name has ended."""
        return all(
            each.is_ended
            for each in self._of_key(pod.key)
            if each.pod.uid != pod.uid and each.is_ending
        )

    def _wake_namesakes(self, pod: Pod) -> None:
        for each in self._of_key(pod.key):
            if each.pod.uid != pod.uid:
                each.wake()

    def _seen(self, uid: str) -> None:
        """The runtime has something new of a Pod."""
        worker = self._workers.get(uid) or self._orphans.get(uid)
        if worker is not None:
            worker.wake()
        elif self._knows_all:
            self._end_orphan(uid)

    def _end_orphan(self, uid: str) -> None:
        observed = self._parts.relist.of(uid)
        if not observed.sandboxes and not observed.containers:
            return
        pod = _remembered(observed)
        namespace, name = pod.key
        log.warning(
            "what belongs to no Pod any more is ended",
            extra={"namespace": namespace, "pod": name, "uid": uid},
        )
        worker = PodWorker(pod, self._parts, on_ended=self._wake_namesakes, is_orphan=True)
        self._orphans[uid] = worker
        self._begin(self._orphans, worker)

    # --- its life -----------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._read_stored()
                self._group = group
                group.create_task(self._parts.relist.run())
                group.create_task(self._parts.health.run())
                for worker in list(self._workers.values()):
                    self._begin(self._workers, worker)
                ready()
                await self._parts.relist.first.wait()
                self._knows_all = True
                for uid in self._parts.relist.uids():
                    if uid not in self._workers:
                        self._end_orphan(uid)
                await self._parts.sweep([*self._workers, *self._orphans])
                await asyncio.Event().wait()
        finally:
            self._group = None
            await self._parts.runtime.close()

    async def _read_stored(self) -> None:
        for item in await self._meta.list(POD):
            try:
                pod = _whole_pod(item)
            except GatewayError as error:
                log.warning("a stored Pod is of no use", extra={"cause": error.message})
                continue
            if pod.uid not in self._workers and pod.uid not in self._deleted:
                self._take(pod)

    @property
    def is_well(self) -> bool:
        return not self._parts.health.problems

    def facts(self) -> dict[str, str | int | bool]:
        """Return what an operator wants to know."""
        return {
            "runtime": self._parts.health.version,
            "pods": len(self._workers),
            "problems": "; ".join(self._parts.health.problems),
        }

    # --- what others see ----------------------------------------------------------------------

    def uids(self) -> frozenset[str] | None:
        """Return whose containers are not to be touched by others; None while not all Pods are known."""
        return frozenset((*self._workers, *self._orphans)) if self._knows_all else None

    def pods(self) -> list[Running]:
        return [self._running(each) for each in self._workers.values()]

    def find(self, namespace: str, name: str, uid: str = "") -> Running | None:
        """Return a Pod by name; of several of that name the one that is not ending."""
        found = [
            each
            for each in self._workers.values()
            if each.pod.key == (namespace, name) and uid in ("", each.pod.uid)
        ]
        found.sort(key=lambda each: each.is_ending)
        return self._running(found[0]) if found else None

    def _running(self, worker: PodWorker) -> Running:
        status: JsonObject = worker.status or self._parts.statuses.known(worker.pod.uid) or {}
        return Running(worker.pod, status, self._parts.relist.of(worker.pod.uid))

    def evict(self, uid: str, reason: str, message: str, grace_seconds: int | None = None) -> None:
        """Stop a Pod for good; `grace_seconds` is at most the Pod's own."""
        worker = self._workers.get(uid)
        if worker is not None:
            why = Stop(reason, message, message if reason in DISRUPTING else "")
            worker.stop(why, grace_seconds)

    def kick(self, uid: str) -> None:
        """Look at a Pod again: a probe's result, or what a volume shows, has changed."""
        worker = self._workers.get(uid)
        if worker is not None:
            worker.retry()


def _whole_pod(item: JsonObject) -> Pod:
    """Read a Pod that can be run: its names become folders. Errors: BadRequest."""
    pod = read_pod(item)
    for name, value in (("uid", pod.uid), ("namespace", pod.key[0]), ("name", pod.key[1])):
        if not value:
            raise BadRequest(f"Pod: metadata.{name}: there is none")
    return pod


def _last_of(change: ObjectChanged) -> Pod | None:
    """Return a Pod as it was last; one that cannot be read ends all the same."""
    try:
        return read_pod(change.object) if change.object else None
    except BadRequest:
        return None


def _remembered(observed: Observed) -> Pod:
    """Return what is still known of a Pod: its name, its containers and their hooks."""
    holder = observed.sandboxes[0] if observed.sandboxes else observed.containers[0]
    labels = holder.labels
    containers = {each.name: _with_hook(each) for each in reversed(observed.containers)}
    meta = PodMeta(
        name=labels.get(POD_NAME, ""),
        namespace=labels.get(POD_NAMESPACE, ""),
        uid=observed.uid,
    )
    return Pod(meta, PodSpec(containers=[*containers.values()]), {})


def _with_hook(state: ContainerState) -> Container:
    """Return a container with the hook before its end, which its annotations know."""
    try:
        hook = msgspec.json.decode(state.annotations.get(PRE_STOP, ""), type=Handler)
    except msgspec.DecodeError:
        return Container(name=state.name)
    return Container(name=state.name, lifecycle=Lifecycle(pre_stop=hook))


def _unwaited(_result: object) -> None:
    """Nobody waits for this write."""
