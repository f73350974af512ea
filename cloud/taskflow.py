"""The rules of node jobs: what a job's status becomes, by its spec, what nodes report, and time.

Pure: a job and a status go in, a status comes out. The status in the cluster is all that is remembered, so a
CloudCore that starts goes on where another one ended. Source: KubeEdge reference, section 19.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from gateway.errors import Unprocessable
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, number, text
from gateway.wire.cloudedge.tasks import (
    CONFIRMATION,
    FIRST,
    FLOWS,
    PREPULL_JOB,
    UPGRADE_JOB,
    TaskReported,
)
from gateway.wire.kube.clock import parse_rfc3339, rfc3339
from gateway.wire.kube.selectors import LabelSelector, Requirement

EDGE_LABEL = "node-role.kubernetes.io/edge"
MAX_NODES = 2_000
"""Nodes of one job: its status must fit into one object."""
MAX_REASON = 500
MAX_IMAGES = 100
MAX_IMAGE = 300
DEFAULT_TIMEOUT, DEFAULT_TOLERANCE = 300.0, 0.1

INIT, IN_PROGRESS, COMPLETED, FAILURE = "Init", "InProgress", "Completed", "Failure"
PENDING, SUCCESSFUL, UNKNOWN = "Pending", "Successful", "Unknown"
FINAL = frozenset({COMPLETED, FAILURE})
TRUE, FALSE, UNDER_WAY = "True", "False", "Unknown"
"""Status of an action."""

NOT_CONNECTED = "the node is not connected"
NOT_STARTED = "not started: too many nodes failed"
UNCONFIRMED = "waits for a confirmation at the node"
_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
_NODE_KEYS = frozenset({"nodeName", "phase", "reason", "actionFlow"})
_STATUS_KEYS = frozenset({"phase", "reason", "nodeStatus"})


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as its owner wrote it.

    Units:  `timeout` seconds without a sign of a node; `tolerance` part of the nodes that may fail.
    """

    kind: str
    name: str
    uid: str
    spec: JsonObject
    names: tuple[str, ...]
    selector: LabelSelector | None
    timeout: float
    concurrency: int
    tolerance: float

    @classmethod
    def read(cls, kind: str, document: JsonObject) -> JobView:
        """Read a job. Errors: Unprocessable, naming the field."""
        meta, spec = ObjectMeta.read(document), mapping(document.get("spec"))
        wanted = mapping(spec.get("imagePrePullTemplate")) if kind == PREPULL_JOB else spec
        names, selector = _names(wanted.get("nodeNames")), wanted.get("labelSelector")
        if names and selector:
            raise Unprocessable("spec: nodeNames and labelSelector exclude each other")
        if not names and not selector:
            raise Unprocessable("spec: one of nodeNames and labelSelector is needed")
        return cls(
            kind,
            meta.name,
            meta.uid,
            spec,
            names,
            None if names else read_selector(mapping(selector)),
            float(max(0, number(wanted.get("timeoutSeconds")))) or DEFAULT_TIMEOUT,
            max(1, number(wanted.get("concurrency"))),
            _tolerance(wanted.get("failureTolerate")),
        )


@dataclass(frozen=True, slots=True)
class Done:
    """One action on a node: `status` is `True`, `False`, or `Unknown` while it is under way."""

    action: str
    status: str
    time: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeTask:
    """One node of a job; `more` are members of its status that are only passed on."""

    name: str
    phase: str = PENDING
    reason: str = ""
    flow: tuple[Done, ...] = ()
    more: JsonObject = field(default_factory=dict)

    @property
    def is_waiting(self) -> bool:
        """True when it was this node's turn while it was not connected; it takes nobody's place."""
        return (
            self.phase == IN_PROGRESS
            and len(self.flow) == 1
            and self.flow[0].status == UNDER_WAY
            and self.flow[0].reason == NOT_CONNECTED
        )

    @property
    def is_asked(self) -> bool:
        """True when the node should have the job's command by now."""
        return self.phase == IN_PROGRESS and not self.is_waiting

    @property
    def has_failed(self) -> bool:
        return self.phase in (FAILURE, UNKNOWN)

    @property
    def turn(self) -> str:
        """What tells this turn from an earlier one, "" once the node has said something."""
        return self.flow[0].time if self.flow and self.flow[0].status == UNDER_WAY else ""


@dataclass(frozen=True, slots=True)
class Progress:
    """A job's status."""

    phase: str = ""
    reason: str = ""
    nodes: tuple[NodeTask, ...] = ()
    more: JsonObject = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        return self.phase in FINAL

    @classmethod
    def read(cls, document: JsonObject) -> Progress:
        """Read the status of a job; what cannot be read counts as not there."""
        status = mapping(document.get("status"))
        rows = status.get("nodeStatus")
        return cls(
            text(status.get("phase")),
            text(status.get("reason")),
            tuple(_task(mapping(row)) for row in (rows if isinstance(rows, list) else [])),
            {key: value for key, value in status.items() if key not in _STATUS_KEYS},
        )

    def document(self) -> JsonObject:
        """Return the status to write."""
        nodes: list[Json] = [_task_document(task) for task in self.nodes]
        out: JsonObject = {**self.more, "phase": self.phase, "nodeStatus": nodes}
        return {**out, "reason": self.reason} if self.reason else out

    def find(self, node: str) -> NodeTask | None:
        return next((task for task in self.nodes if task.name == node), None)


# --- the three steps ---------------------------------------------------------------------------


def begin(job: JobView, nodes: Mapping[str, JsonObject]) -> Progress:
    """Return the first status of a job; `nodes` are the cluster's by name.

    Errors: Unprocessable when no node or too many are meant.
    """
    if job.selector is None:
        names = tuple(dict.fromkeys(job.names))
    else:
        names = tuple(sorted(n for n, node in nodes.items() if job.selector.matches(node)))
    if not names:
        raise Unprocessable("spec.labelSelector: no node matches")
    if len(names) > MAX_NODES:
        raise Unprocessable(f"spec: at most {MAX_NODES} nodes in one job, got {len(names)}")
    return Progress(INIT, "", tuple(_first(name, nodes.get(name)) for name in names))


def _first(name: str, node: JsonObject | None) -> NodeTask:
    if node is None:
        return NodeTask(name, FAILURE, "there is no such node")
    if EDGE_LABEL not in ObjectMeta.read(node).labels:
        return NodeTask(name, FAILURE, "the node is not an edge node")
    return NodeTask(name)


def advance(
    job: JobView, progress: Progress, is_reachable: Callable[[str], bool], now: float
) -> Progress:
    """Judge who is too late, give turns to who may begin, and say what has become of the job."""
    if progress.is_final:
        return progress
    tasks = [_judge(job, task, now) for task in progress.nodes]
    fails = _exceeds(tasks, job.tolerance)
    free = job.concurrency - sum(task.is_asked for task in tasks)
    for at, task in enumerate(tasks):
        if free <= 0:
            break
        can_start = task.is_waiting or (task.phase == PENDING and not fails)
        if can_start and is_reachable(task.name):
            tasks[at] = _started(task, now)
            free -= 1
        elif can_start and not task.is_waiting:
            tasks[at] = _started(task, now, NOT_CONNECTED)
    return _summed(replace(progress, nodes=tuple(tasks)), job.tolerance)


def take(job: JobView, progress: Progress, report: TaskReported, now: float) -> Progress:
    """Take in what a node reports; the same report twice changes nothing.

    Errors: Unprocessable for an action or a node that is not of this job.
    """
    if report.action not in FLOWS[job.kind]:
        raise Unprocessable(f"{job.kind} has no action {report.action[:100]!r}")
    task = progress.find(report.node)
    if task is None or task.phase == PENDING:
        raise Unprocessable(f"job {job.name} asked nothing of node {report.node}")
    if progress.is_final or task.phase not in (IN_PROGRESS, UNKNOWN):
        return progress
    new = _reported(job, task, report, now)
    return replace(progress, nodes=tuple(new if t is task else t for t in progress.nodes))


def wake_at(job: JobView, progress: Progress, now: float) -> float | None:
    """Return when the next node will be too late (seconds since 1970), None when none can be."""
    if progress.is_final:
        return None
    ends = [_since(t, now) + job.timeout for t in progress.nodes if t.phase == IN_PROGRESS]
    return min(ends, default=None)


# --- nodes ---------------------------------------------------------------------------------------


def _started(task: NodeTask, now: float, reason: str = "") -> NodeTask:
    flow = (Done(FIRST, UNDER_WAY, rfc3339(now), reason),)
    return replace(task, phase=IN_PROGRESS, reason=reason, flow=flow)


def _since(task: NodeTask, now: float) -> float:
    found = parse_rfc3339(task.flow[-1].time) if task.flow else None
    return now if found is None else found


def _judge(job: JobView, task: NodeTask, now: float) -> NodeTask:
    """End what is too late: Unknown, or Failure when the node itself said that something failed."""
    if task.phase != IN_PROGRESS:
        return task
    if not task.flow or parse_rfc3339(task.flow[-1].time) is None:
        return _started(task, now)
    if now < _since(task, now) + job.timeout:
        return task
    failed = _failed(task.flow)
    if failed:
        return replace(task, phase=FAILURE, reason=failed)
    why = NOT_CONNECTED if task.is_waiting else f"nothing was heard after {task.flow[-1].action}"
    return replace(task, phase=UNKNOWN, reason=f"{why} for {job.timeout:g} s")


def _reported(job: JobView, task: NodeTask, report: TaskReported, now: float) -> NodeTask:
    done = Done(
        report.action,
        TRUE if report.ok else FALSE,
        rfc3339(now),
        report.reason[:MAX_REASON],
    )
    before = {each.action: each for each in task.flow if each.status != UNDER_WAY}
    same = before.get(done.action)
    if same is not None and (same.status, same.reason) == (done.status, done.reason):
        return task
    before[done.action] = done
    order = list(FLOWS[job.kind])
    flow = tuple(before[action] for action in order if action in before)
    phase, reason = _phase(job, flow)
    more = {**task.more, **_extension(job.kind, report.extend)}
    return replace(task, phase=phase, reason=reason, flow=flow, more=more)


def _phase(job: JobView, flow: tuple[Done, ...]) -> tuple[str, str]:
    """Return phase and reason by the furthest action."""
    last, failed = flow[-1], _failed(flow)
    follows = FLOWS[job.kind][last.action]
    if follows.success if last.status == TRUE else follows.failure:
        waits = last.action == CONFIRMATION and job.spec.get("requireConfirmation") is True
        return IN_PROGRESS, failed or (UNCONFIRMED if waits else "")
    return (FAILURE, failed) if failed else (SUCCESSFUL, "")


def _failed(flow: Iterable[Done]) -> str:
    """Return what failed first, "" when nothing did."""
    faults = (f"{d.action}: {d.reason or 'failed'}" for d in flow if d.status == FALSE)
    return next(faults, "")


def _extension(kind: str, extend: str) -> JsonObject:
    """Return what a report brings beside its outcome; what cannot be read is left out."""
    if kind == UPGRADE_JOB and extend.count(",") == 1:
        old, _, new = extend[:MAX_IMAGE].partition(",")
        return {"historicVersion": old, "currentVersion": new}
    if kind == PREPULL_JOB and extend:
        try:
            rows = msgspec.json.decode(extend)
        except (msgspec.DecodeError, RecursionError):
            return {}
        return {"imageStatus": _images(rows)}
    return {}


def _images(rows: Json) -> list[Json]:
    found = [mapping(row) for row in (rows if isinstance(rows, list) else [])[:MAX_IMAGES]]
    return [
        {
            key: text(row.get(key))[:MAX_IMAGE]
            for key in ("image", "status", "reason")
            if row.get(key)
        }
        for row in found
    ]


# --- the job ---------------------------------------------------------------------------------------


def _exceeds(tasks: Iterable[NodeTask], tolerance: float) -> bool:
    counted = [task.has_failed for task in tasks]
    return any(counted) and sum(counted) / len(counted) > tolerance


def _summed(progress: Progress, tolerance: float) -> Progress:
    tasks = progress.nodes
    if any(task.phase == IN_PROGRESS for task in tasks):
        return replace(progress, phase=IN_PROGRESS, reason="")
    if not _exceeds(tasks, tolerance):
        pending = any(task.phase == PENDING for task in tasks)
        return replace(progress, phase=IN_PROGRESS if pending else COMPLETED, reason="")
    failed = sum(task.has_failed for task in tasks)
    why = f"{failed} of {len(tasks)} nodes failed, more than failureTolerate {tolerance:g}"
    left = tuple(replace(t, reason=NOT_STARTED) if t.phase == PENDING else t for t in tasks)
    return replace(progress, phase=FAILURE, reason=why, nodes=left)


# --- reading -----------------------------------------------------------------------------------


def read_selector(document: JsonObject) -> LabelSelector:
    """Read a LabelSelector. Errors: Unprocessable."""
    labels = mapping(document.get("matchLabels"))
    terms = [Requirement(key, "in", frozenset({text(value)})) for key, value in labels.items()]
    rows = document.get("matchExpressions")
    for row in rows if isinstance(rows, list) else []:
        term = mapping(row)
        operator = _OPERATORS.get(text(term.get("operator")))
        if operator is None:
            raise Unprocessable("labelSelector: operator: expected In, NotIn, Exists, DoesNotExist")
        values = frozenset(_names(term.get("values")))
        if bool(values) is not (operator in ("in", "notin")):
            raise Unprocessable("labelSelector: values go with In and NotIn, and only with them")
        terms.append(Requirement(text(term.get("key")), operator, values))
    return LabelSelector(tuple(terms))


def _names(value: Json) -> tuple[str, ...]:
    return tuple(text(item) for item in value) if isinstance(value, list) else ()


def _tolerance(value: Json) -> float:
    if value in (None, ""):
        return DEFAULT_TOLERANCE
    try:
        found = float(text(value))
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise Unprocessable(f"failureTolerate: expected a number of 0 to 1, got {value!r:.50}")
    return found


def _task(row: JsonObject) -> NodeTask:
    rows = row.get("actionFlow")
    steps = [mapping(step) for step in (rows if isinstance(rows, list) else [])]
    return NodeTask(
        text(row.get("nodeName")),
        text(row.get("phase")) or PENDING,
        text(row.get("reason")),
        tuple(
            Done(*(text(step.get(key)) for key in ("action", "status", "time", "reason")))
            for step in steps
        ),
        {key: value for key, value in row.items() if key not in _NODE_KEYS},
    )


def _task_document(task: NodeTask) -> JsonObject:
    out: JsonObject = {**task.more, "nodeName": task.name, "phase": task.phase}
    if task.reason:
        out["reason"] = task.reason
    if task.flow:
        out["actionFlow"] = [_done_document(done) for done in task.flow]
    return out


def _done_document(done: Done) -> JsonObject:
    out: JsonObject = {"action": done.action, "status": done.status, "time": done.time}
    return {**out, "reason": done.reason} if done.reason else out
