"""Gives Pods their nodes: what kube-scheduler is elsewhere.

Decides for one Pod after another, by priority and age, over a picture of the cluster that counts what was
placed a moment ago; the writes follow side by side. A Pod for which there is no node waits until something
changes that could help it, then for its back-off. Source: Kubernetes, "Scheduling, Preemption and Eviction".
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from gateway.errors import Conflict, GatewayError, NotFound
from gateway.kube.client import PatchType
from gateway.kube.control.context import Context
from gateway.kube.control.schedulerfacts import SchedulerFacts
from gateway.kube.events import NORMAL, WARNING, EventRecorder
from gateway.kube.informer import Change
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.conditions import condition_of
from gateway.wire.kube.parts import part, text
from gateway.wire.kube.podstate import is_deleting, is_ended
from gateway.wire.kube.scheduling.cluster import Cluster
from gateway.wire.kube.scheduling.filters import Cause
from gateway.wire.kube.scheduling.placing import Placed, Refused, place
from gateway.wire.kube.scheduling.pods import Key, PodInfo, read_pod
from gateway.wire.kube.scheduling.preempting import Way, make_room
from gateway.wire.kube.scheduling.queue import SchedulingQueue

log = logging.getLogger(__name__)

WRITER, COMPONENT = "kube-scheduler", "default-scheduler"
AT_ONCE = 32
"""Writes side by side; deciding waits while there are so many."""
LOOK_SECONDS = 30.0
SCHEDULED, UNSCHEDULABLE, BROKEN = "PodScheduled", "Unschedulable", "SchedulerError"


class Scheduler:
    """Places the Pods that name `default-scheduler`."""

    def __init__(self, context: Context) -> None:
        self._kube = context.as_writer(WRITER)
        self._now = context.now
        self._events = EventRecorder(self._kube, COMPONENT, now=context.now)
        self._facts = SchedulerFacts(context.mirrors, lambda: self._wake(Cause.VOLUME))
        self._cluster = Cluster(self._facts.facts())
        self._queue = SchedulingQueue()
        self._pending: dict[Key, PodInfo] = {}
        self._assumed: dict[Key, str] = {}
        """Pods that were placed here, with their uid, until the API shows it."""
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._looks_at = 0.0
        self._news = asyncio.Event()
        self._pods = context.mirrors.of("v1", "pods")
        context.mirrors.of("v1", "nodes").on_change(self._node_changed)
        self._pods.on_change(self._pod_changed)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._events.run())
            while True:
                await self._slots.acquire()
                key = await self._next()
                work = self._decide(key)
                if work is None:
                    self._slots.release()
                else:
                    group.create_task(self._finish(key, work))
                await asyncio.sleep(0)

    async def _next(self) -> Key:
        """Wait for a Pod that can be tried."""
        loop = asyncio.get_running_loop()
        while True:
            self._news.clear()
            self._wake_forgotten(loop.time())
            key = self._queue.pop(loop.time())
            if key is not None:
                return key
            due = self._queue.next_due(loop.time())
            try:
                async with asyncio.timeout(LOOK_SECONDS if due is None else min(due, LOOK_SECONDS)):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _wake_forgotten(self, now: float) -> None:
        if now >= self._looks_at:
            self._looks_at = now + LOOK_SECONDS
            self._queue.wake_forgotten(now)

    async def _finish(self, key: Key, work: Callable[[], Awaitable[None]]) -> None:
        """Write down one decision; a Pod for which that fails is tried again."""
        try:
            await work()
        except GatewayError as error:
            log.info("a Pod is tried again", extra={"pod": "/".join(key), "cause": error.message})
            self._queue.retry(key, asyncio.get_running_loop().time())
        except Exception:  # top of a task: a bug with one Pod must not end the others
            log.exception("scheduling failed", extra={"pod": "/".join(key)})
            self._queue.retry(key, asyncio.get_running_loop().time())
        finally:
            self._news.set()
            self._slots.release()

    # --- deciding -------------------------------------------------------------------------------------

    def _decide(self, key: Key) -> Callable[[], Awaitable[None]] | None:
        """Decide for one Pod and return what is to be written; what was decided counts from now on."""
        pod = self._pending.get(key)
        stored = self._pods.get(*key)
        if pod is None or stored is None:
            self._queue.drop(key)
            return None
        found = place(pod, self._cluster, random.choice)
        if isinstance(found, Placed):
            self._assumed[key] = pod.uid
            self._cluster.break_promise(key)
            self._cluster.place(replace(pod, node=found.node))
            return partial(self._bind, pod, stored, found.node)
        way = make_room(pod, self._cluster, found)
        if isinstance(way, Way):
            self._cluster.promise(pod, way.node)
            return partial(self._preempt, pod, stored, found, way, self._queue.mark())
        if not way.keeps_promise:
            self._cluster.break_promise(key)
        told = found.message if found.fault or not found.total else f"{found.message} {way.message}"
        nominated = pod.nominated if way.keeps_promise else ""
        return partial(self._refuse, pod, stored, found, told, nominated, self._queue.mark())

    # --- writing --------------------------------------------------------------------------------------

    async def _bind(self, pod: PodInfo, stored: JsonObject, node: str) -> None:
        namespace, name = pod.key
        binding: JsonObject = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._kube.create(
                "v1", "pods", namespace, binding, name=name, subresource="binding"
            )
        except GatewayError as error:
            await self._not_bound(pod, stored, error)
            return
        self._settle(pod)
        self._tell(stored, "Scheduled", f"Successfully assigned {namespace}/{name} to {node}")

    async def _not_bound(self, pod: PodInfo, stored: JsonObject, error: GatewayError) -> None:
        """Find out what became of a Pod; what is not bound gives its place back.

        Errors: those of the API; then it is tried again.
        """
        try:
            is_settled = await self._has_node(pod)
        except GatewayError:
            self._unassume(pod)
            raise
        if is_settled:
            self._settle(pod)
            return  # the watch will show where it is, or that it is gone
        self._unassume(pod)
        message = f"binding rejected: {error.message}"
        self._tell(stored, "FailedScheduling", message, WARNING)
        await self._write_condition(pod, stored, BROKEN, message, pod.nominated)
        raise error

    def _settle(self, pod: PodInfo) -> None:
        """A Pod has its node, or is gone; a namesake that came since goes on waiting."""
        waiting = self._pending.get(pod.key)
        if waiting is None or waiting.uid == pod.uid:
            self._queue.drop(pod.key)

    async def _has_node(self, pod: PodInfo) -> bool:
        """Ask whether a Pod is bound, or is not there any more."""
        try:
            found = await self._kube.get("v1", "pods", *pod.key)
        except NotFound:
            return True
        is_same = text(part(found, "metadata").get("uid")) == pod.uid
        return not is_same or bool(part(found, "spec").get("nodeName"))

    def _unassume(self, pod: PodInfo) -> None:
        if self._assumed.get(pod.key) == pod.uid:
            del self._assumed[pod.key]
            self._cluster.remove(pod.key)
            self._wake(Cause.POD_GONE)

    async def _refuse(
        self,
        pod: PodInfo,
        stored: JsonObject,
        refused: Refused,
        message: str,
        nominated: str,
        mark: Counter[Cause],
    ) -> None:
        self._tell(stored, "FailedScheduling", message, WARNING)
        try:
            await self._write_condition(pod, stored, UNSCHEDULABLE, message, nominated)
        except NotFound:
            return  # its end is on the way
        self._queue.park(pod.key, refused.causes, mark, asyncio.get_running_loop().time())

    async def _preempt(
        self, pod: PodInfo, stored: JsonObject, refused: Refused, way: Way, mark: Counter[Cause]
    ) -> None:
        """Send those away who matter less; the Pod comes again once they are gone."""
        for victim in way.victims:
            await self._send_away(pod, victim, way.node)
        await self._refuse(pod, stored, refused, refused.message, way.node, mark)

    async def _send_away(self, pod: PodInfo, victim: PodInfo, node: str) -> None:
        namespace, name = victim.key
        stored = self._pods.get(namespace, name)
        if stored is None or victim.is_deleting:
            return
        condition: JsonObject = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": f"{COMPONENT}: preempting to accommodate a higher priority pod",
            "lastTransitionTime": rfc3339(self._now()),
        }
        try:
            await self._patch_status(victim, {"conditions": [condition]})
            await self._kube.delete("v1", "pods", namespace, name, uid=victim.uid)
        except (NotFound, Conflict):
            return  # it went by itself
        self._tell(stored, "Preempted", f"Preempted by pod {pod.uid} on node {node}")

    async def _write_condition(
        self, pod: PodInfo, stored: JsonObject, reason: str, message: str, nominated: str
    ) -> None:
        """Say in the Pod's status why it has no node, where it does not say so already."""
        known = condition_of(stored, SCHEDULED) or {}
        condition: JsonObject = {
            "type": SCHEDULED,
            "status": "False",
            "reason": reason,
            "message": message,
        }
        generation = part(stored, "metadata").get("generation")
        if isinstance(generation, int):
            condition["observedGeneration"] = generation
        is_known = all(known.get(key) == value for key, value in condition.items())
        if is_known and pod.nominated == nominated:
            return
        since = known.get("lastTransitionTime") if known.get("status") == "False" else None
        condition["lastTransitionTime"] = since or rfc3339(self._now())
        patch: JsonObject = {"conditions": [condition]}
        if pod.nominated != nominated:
            patch["nominatedNodeName"] = nominated or None
        await self._patch_status(pod, patch)

    async def _patch_status(self, pod: PodInfo, status: JsonObject) -> None:
        namespace, name = pod.key
        body: JsonObject = {"metadata": {"uid": pod.uid}, "status": status}
        strategic = PatchType.STRATEGIC
        await self._kube.patch(
            "v1", "pods", namespace, name, body, patch_type=strategic, subresource="status"
        )

    def _tell(self, pod: JsonObject, reason: str, message: str, type_: str = NORMAL) -> None:
        about: JsonObject = {"apiVersion": "v1", "kind": "Pod", **pod}
        self._events.record(about, reason, message, type_=type_)

    # --- what happens in the cluster --------------------------------------------------------------------

    def _wake(self, causes: Cause) -> None:
        self._queue.wake(causes)
        self._news.set()

    def _node_changed(self, change: Change) -> None:
        if change.new is None:
            self._cluster.drop_node(change.key[1])
            self._wake(Cause.NODE)
        elif self._cluster.set_node(change.new) or change.old is None:
            self._wake(Cause.NODE)

    def _pod_changed(self, change: Change) -> None:
        if (
            change.old is not None
            and change.new is not None
            and _uid(change.old) != _uid(change.new)
        ):
            self._pod_gone(change.key)
        if change.new is None or is_ended(change.new):
            self._pod_gone(change.key)
        elif part(change.new, "spec").get("nodeName"):
            if not (self._is_counted(change.key) and _says_the_same(change.old, change.new)):
                self._pod_placed(read_pod(change.new))
        else:
            self._pod_waits(change.new)

    def _is_counted(self, key: Key) -> bool:
        """True for a Pod that is placed for all the API knows."""
        return key in self._cluster.placed and key not in self._assumed and key not in self._pending

    def _pod_gone(self, key: Key) -> None:
        was_placed = self._cluster.remove(key) is not None
        was_nominated = self._cluster.break_promise(key)
        self._assumed.pop(key, None)
        self._pending.pop(key, None)
        self._queue.drop(key)
        if was_placed or was_nominated:
            self._wake(Cause.POD_GONE)

    def _pod_placed(self, pod: PodInfo) -> None:
        known = self._cluster.placed.get(pod.key)
        self._assumed.pop(pod.key, None)
        if self._pending.pop(pod.key, None) is not None:
            self._cluster.break_promise(pod.key)
            self._queue.drop(pod.key)
            self._wake(Cause.POD_PLACED)
        if known is None or known != pod:
            self._cluster.place(pod)
        if known is not None and (known.is_deleting, known.labels, known.requests) != (
            pod.is_deleting,
            pod.labels,
            pod.requests,
        ):
            self._wake(Cause.POD_GONE | Cause.POD_PLACED)

    def _pod_waits(self, stored: JsonObject) -> None:
        """A Pod without a node: it is ours where it names us and no gate is closed."""
        pod = read_pod(stored)
        spec = part(stored, "spec")
        is_ours = spec.get("schedulerName") in (None, "", COMPONENT)
        if not is_ours or spec.get("schedulingGates") or is_deleting(stored):
            self._pod_gone(pod.key)
            return
        if self._assumed.get(pod.key) == pod.uid:
            self._pending[pod.key] = pod
            return
        known = self._pending.get(pod.key)
        self._pending[pod.key] = pod
        if pod.nominated:
            self._cluster.promise(pod, pod.nominated)
        if known is None or replace(known, nominated="") != replace(pod, nominated=""):
            self._queue.add(pod)
            self._news.set()


def _uid(item: JsonObject) -> str:
    return text(part(item, "metadata").get("uid"))


_READ = ("uid", "labels", "creationTimestamp", "deletionTimestamp", "ownerReferences")
_READ_OF_STATUS = ("startTime", "nominatedNodeName")


def _says_the_same(old: JsonObject | None, new: JsonObject) -> bool:
    """True where nothing changed that is read of a Pod: most changes are of its status."""
    if old is None or part(old, "spec") != part(new, "spec"):
        return False
    before, after = part(old, "metadata"), part(new, "metadata")
    if any(before.get(key) != after.get(key) for key in _READ):
        return False
    was, is_now = part(old, "status"), part(new, "status")
    return all(was.get(key) == is_now.get(key) for key in _READ_OF_STATUS)
