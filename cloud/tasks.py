"""Node jobs in the cluster: the CloudCore that leads gives turns and judges, each one serves its own nodes.

All that is known of a job stands in its status, written by compare-and-set, so any CloudCore goes on
after any other. A node gets the same message, with the same id, however often it must be sent: our edges run
it once. Edges of others would run it again, so they get it again only where that does no harm.
Source: KubeEdge reference, section 19.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from cloud.identity import ready_condition
from cloud.references import Reference
from cloud.restrictions import CLOUDCORE
from cloud.sessions import Inbound
from cloud.taskflow import (
    FAILURE,
    FINAL,
    SUCCESSFUL,
    UNKNOWN,
    JobView,
    Progress,
    advance,
    begin,
    take,
    wake_at,
)
from gateway.errors import Conflict, Forbidden, NotFound, Unprocessable
from gateway.kube.informer import Change, Informer
from gateway.model.json import Json, JsonObject
from gateway.runtime.keyworker import KeyWorker
from gateway.wire.cloudedge.devices import ObjectMeta, mapping
from gateway.wire.cloudedge.envelope import Envelope, Stamp
from gateway.wire.cloudedge.link import ObjectMessage
from gateway.wire.cloudedge.tasks import (
    FIRST,
    FLOWS,
    GROUP_VERSION,
    KINDS,
    PREPULL_JOB,
    TaskCommand,
    TaskReported,
    command_task,
)

if TYPE_CHECKING:
    from cloud.hub import CloudHub
    from cloud.ports import Leadership
    from gateway.kube.client import KubeClient
    from gateway.observe.metrics import Metrics
    from gateway.runtime.module import Module

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
TRIES = 5
"""Tries to write a status that others write too, before the job waits its turn again."""
NODES_PER_SECOND = 1_000
"""The status of a large job is written less often: it is written as a whole."""
BATCH = 200
"""Reports that are written at a time."""
_COMMANDS = uuid.UUID("6f0a1c8e-4f0e-4ef1-9a55-3d5b8ac0c5d1")
"""Namespace of the ids of commands."""
_OUTCOMES = {SUCCESSFUL: "successful", FAILURE: "failed", UNKNOWN: "unknown"}

JobKey = tuple[str, str]
"""Kind as on the wire, and name."""


class NodeTasks:
    """Module and listener of the hub. Its informers are modules that stand before it."""

    name = "cloud.tasks"

    def __init__(
        self,
        kube: KubeClient,
        hub: CloudHub,
        nodes: Informer,
        leadership: Leadership,
        metrics: Metrics,
        address: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._hub = hub
        self._nodes = nodes
        self._leadership = leadership
        self._metrics = metrics
        self._address = address
        self._clock = clock
        self._jobs = {
            kind: Informer(
                kube, GROUP_VERSION, f"{kind}s", partial(self._changed, kind), is_needed=False
            )
            for kind in sorted(KINDS)
        }
        self._worker: KeyWorker[JobKey] | None = None
        self._reports: defaultdict[JobKey, dict[tuple[str, str], TaskReported]] = defaultdict(dict)
        """What waits to be written: (node, action) -> the latest report of it."""
        self._turns: dict[tuple[str, str], str] = {}
        """(job's uid, node) -> the turn for which the command was sent, or may have been."""
        self._again: set[tuple[str, str]] = set()
        """(job's uid, node) that may have lost the command or its answers."""
        self._wakes: dict[JobKey, float] = {}
        self._open: dict[JobKey, tuple[str, frozenset[str]]] = {}
        """Jobs that have not ended -> uid, and their nodes that have not."""
        leadership.on_change(lambda _: self._poke_all())
        hub.add_listener(self)
        hub.on(TaskReported, self._on_report, lambda report: (report.kind, report.job))

    @property
    def informers(self) -> list[Informer]:
        """What must run before this module."""
        return list(self._jobs.values())

    # --- module -----------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            self._worker = KeyWorker(group, self._work, pause=0.2, at_once=4)
            self._poke_all()
            ready()
            try:
                while True:
                    await asyncio.sleep(TICK_SECONDS)
                    now = self._clock()
                    for key in [key for key, at in self._wakes.items() if at <= now]:
                        self._poke(key)
            finally:
                self._worker = None

    def _poke(self, key: JobKey) -> None:
        if self._worker is not None:
            self._worker.poke(key)

    def _poke_all(self) -> None:
        for kind, jobs in self._jobs.items():
            for _, name in jobs.objects:
                self._poke((kind, name))

    # --- what is told -------------------------------------------------------------------------------

    def _changed(self, kind: str, change: Change) -> None:
        if change.new is not None and (change.old is None or _uid(change.old) != _uid(change.new)):
            self._note_past(change.new)
        if change.new is None and change.old is not None:
            self._forget(_uid(change.old))
        self._index((kind, change.key[1]), change.new)
        self._poke((kind, change.key[1]))

    def _index(self, key: JobKey, document: JsonObject | None) -> None:
        self._open.pop(key, None)
        progress = Progress() if document is None else Progress.read(document)
        nodes = frozenset(task.name for task in progress.nodes if task.phase not in _OUTCOMES)
        if document is not None and nodes and not progress.is_final:
            self._open[key] = _uid(document), nodes

    def _note_past(self, document: JsonObject) -> None:
        """Note of a job that is new to us which nodes had their turn already: somebody asked them."""
        uid = _uid(document)
        for task in Progress.read(document).nodes:
            if task.is_asked:
                self._turns[uid, task.name] = task.turn
                self._again.add((uid, task.name))

    def _forget(self, uid: str) -> None:
        self._again = {key for key in self._again if key[0] != uid}
        for key in [key for key in self._turns if key[0] == uid]:
            del self._turns[key]

    def node_connected(self, node: str) -> None:
        """Ask again whoever may have lost the command, or the way for its answers."""
        for key, (uid, nodes) in self._open.items():
            if node in nodes:
                self._again.add((uid, node))
                self._poke(key)

    def node_disconnected(self, node: str) -> None:
        """It works on; its time runs."""

    def node_is_new(self, node: str) -> None:
        """It is asked at its connection."""

    def delivered(self, node: str, item: ObjectMessage) -> None:
        """Nothing of ours is acknowledged."""

    async def _on_report(self, inbound: Inbound, report: TaskReported) -> None:
        """Take what a node says over the link. Errors: Forbidden for another node's; see `report`."""
        if report.node != inbound.node:
            raise Forbidden(f"node {inbound.node} may not report for {report.node}")
        self.report(report)

    def report(self, report: TaskReported) -> None:
        """Take in what a node reported of itself; written a moment later.

        Errors: NotFound without such a job that goes on; Unprocessable for an action of another kind.
        """
        key = (report.kind, report.job)
        if ("", report.job) not in self._jobs[report.kind].objects:
            raise NotFound(f"there is no {report.kind} {report.job}")
        if report.action not in FLOWS[report.kind]:
            raise Unprocessable(f"{report.kind} has no action {report.action[:100]!r}")
        self._reports[key][report.node, report.action] = report
        self._poke(key)

    def needs(self, node: str, reference: Reference, namespace: str) -> bool:
        """True when a node pulls images now, for a job that names this Secret for it."""
        kind, name = reference
        if kind != "secret":
            return False
        for document in self._jobs[PREPULL_JOB].objects.values():
            template = mapping(mapping(document.get("spec")).get("imagePrePullTemplate"))
            if template.get("imageSecrets") == f"{namespace}/{name}":
                progress = Progress.read(document)
                task = None if progress.is_final else progress.find(node)
                if task is not None and task.is_asked:
                    return True
        return False

    # --- one job --------------------------------------------------------------------------------------

    async def _work(self, key: JobKey) -> None:
        """Bring a job on, from its newest state. Errors: GatewayError: it is tried again."""
        self._wakes.pop(key, None)
        kind, name = key
        document = self._jobs[kind].objects.get(("", name))
        if document is None:
            self._reports.pop(key, None)
            return
        for _ in range(TRIES - 1):
            try:
                await self._step(key, document)
            except Conflict:
                document = await self._kube.get(GROUP_VERSION, f"{kind}s", None, name)
            else:
                return
        await self._step(key, document)

    async def _step(self, key: JobKey, document: JsonObject) -> None:
        kind, _ = key
        if mapping(document.get("metadata")).get("deletionTimestamp"):
            await self._let_go(key, document)
            return
        progress = Progress.read(document)
        if progress.is_final:
            self._reports.pop(key, None)
            return
        if self._leadership.leads:
            document = await self._hold(key, document)
        waiting = self._reports[key]
        reports = list(islice(waiting.values(), BATCH))
        try:
            job = JobView.read(kind, document)
            new = self._next(job, progress, reports)
        except Unprocessable as error:
            if not self._leadership.leads:
                return
            job, new = None, replace(progress, phase=FAILURE, reason=error.message)
        if new != progress:
            document = await self._write(key, document, new)
            self._count(kind, progress, new)
        for report in reports:
            mark = (report.node, report.action)
            if waiting.get(mark) is report:
                del waiting[mark]
        if waiting:
            self._poke(key)
        if job is not None:
            self._send(key, job, new)
        if new != progress:
            await asyncio.sleep(len(new.nodes) / NODES_PER_SECOND)

    def _next(self, job: JobView, progress: Progress, reports: list[TaskReported]) -> Progress:
        """Return the job's next state. Errors: Unprocessable for a job that cannot begin."""
        now = self._clock()
        if not progress.phase and self._leadership.leads:
            progress = begin(job, {key[1]: node for key, node in self._nodes.objects.items()})
        for report in reports:
            try:
                progress = take(job, progress, report, now)
            except Unprocessable as error:
                facts = {"node": report.node, "job": job.name, "cause": error.message}
                log.warning("report of a node refused", extra=facts)
        if self._leadership.leads:
            progress = advance(job, progress, self._is_reachable, now)
        return progress

    def _is_reachable(self, node: str) -> bool:
        """True when the node is connected here, or to another CloudCore."""
        if self._hub.is_connected(node):
            return True
        found = self._nodes.objects.get(("", node), {})
        address = ObjectMeta.read(found).annotations.get(CLOUDCORE, "")
        return address not in ("", self._address) and ready_condition(found) == "True"

    async def _write(self, key: JobKey, document: JsonObject, progress: Progress) -> JsonObject:
        body: JsonObject = {**document, "status": progress.document()}
        jobs, plural = self._jobs[key[0]], f"{key[0]}s"
        written = await self._kube.update(GROUP_VERSION, plural, None, body, subresource="status")
        jobs.put(written)
        return written

    def _count(self, kind: str, old: Progress, new: Progress) -> None:
        before = {task.name: task.phase for task in old.nodes}
        for task in new.nodes:
            if task.phase != before.get(task.name) and task.phase in _OUTCOMES:
                self._metrics.edge.tasks.labels(kind, _OUTCOMES[task.phase]).inc()
        if new.phase in FINAL:
            log.info("node job ended", extra={"kind": kind, "cause": new.reason or new.phase})

    # --- finalizers -------------------------------------------------------------------------------------

    async def _hold(self, key: JobKey, document: JsonObject) -> JsonObject:
        """Make sure that the job is not gone before we have let it go."""
        names = _finalizers(document)
        if finalizer_of(key[0]) in names:
            return document
        return await self._set_finalizers(key, document, [*names, finalizer_of(key[0])])

    async def _let_go(self, key: JobKey, document: JsonObject) -> None:
        """Let a job go that is deleted: no node is asked any more."""
        self._reports.pop(key, None)
        names = _finalizers(document)
        own = finalizer_of(key[0])
        if own in names and self._leadership.leads:
            await self._set_finalizers(key, document, [name for name in names if name != own])

    async def _set_finalizers(
        self, key: JobKey, document: JsonObject, names: list[Json]
    ) -> JsonObject:
        meta: JsonObject = {
            "finalizers": names,
            "resourceVersion": ObjectMeta.read(document).version,
        }
        patch: JsonObject = {"metadata": meta}
        written = await self._kube.patch(GROUP_VERSION, f"{key[0]}s", None, key[1], patch)
        if not mapping(written.get("metadata")).get("deletionTimestamp"):
            self._jobs[key[0]].put(written)
        return written

    # --- commands ---------------------------------------------------------------------------------------

    def _send(self, key: JobKey, job: JobView, progress: Progress) -> None:
        """Send the command to nodes of ours that should have it."""
        for task in progress.nodes:
            if not task.is_asked or not self._hub.is_connected(task.name):
                continue
            mark = (job.uid, task.name)
            is_new = task.turn and self._turns.get(mark) != task.turn
            if not is_new and not (mark in self._again and self._may_repeat(job, task.name)):
                self._again.discard(mark)
                continue
            if self._hub.push(task.name, _command(job, task.name)):
                self._turns[mark] = task.turn
                self._again.discard(mark)
            else:
                self._wakes[key] = self._clock() + TICK_SECONDS
        at = wake_at(job, progress, self._clock())
        if at is not None and self._leadership.leads:
            self._wakes[key] = min(at, self._wakes.get(key, at))

    def _may_repeat(self, job: JobView, node: str) -> bool:
        return job.kind == PREPULL_JOB or self._hub.is_ours(node)


def _command(job: JobView, node: str) -> Envelope:
    """Build the command for one node; it is told of no other node."""
    stamp = Stamp(str(uuid.uuid5(_COMMANDS, f"{job.uid}/{node}")), time.time_ns() // 1_000_000)
    spec = _for_node(job.spec, node)
    if job.kind == PREPULL_JOB:
        template = _for_node(mapping(job.spec.get("imagePrePullTemplate")), node)
        spec = {**job.spec, "imagePrePullTemplate": template}
    return command_task(stamp, TaskCommand(job.kind, job.name, node, FIRST, spec))


def _for_node(spec: JsonObject, node: str) -> JsonObject:
    kept = {key: value for key, value in spec.items() if key != "labelSelector"}
    return {**kept, "nodeNames": [node]}


def finalizer_of(kind: str) -> str:
    """Return the finalizer of a kind of job."""
    return f"kubeedge.io/{kind}-controller"


def _finalizers(document: JsonObject) -> list[Json]:
    found = mapping(document.get("metadata")).get("finalizers")
    return list(found) if isinstance(found, list) else []


def _uid(document: JsonObject) -> str:
    return ObjectMeta.read(document).uid


def build_tasks(tasks: NodeTasks | None) -> list[Module]:
    """Return the modules of node jobs in starting order, none where they are switched off."""
    return [] if tasks is None else [*tasks.informers, tasks]
