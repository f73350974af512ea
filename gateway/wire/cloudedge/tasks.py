"""Actions of node jobs (upgrade, image pre-pull, configuration), and what nodes report about them.

v1alpha2 names the job in the resource, `operations.kubeedge.io/v1alpha2/<kind>/<job>/node/<node>`; the older
form is `task/<job>/node/<node>` with a NodeTaskRequest, answered over HTTPS. Neither is acknowledged.
Source: KubeEdge task manager and node job controllers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from gateway.errors import MalformedPacket
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.envelope import Envelope, Route, Stamp, make, object_of, struct_of
from gateway.wire.cloudedge.names import Group, Operation, Source

GROUP_VERSION = "operations.kubeedge.io/v1alpha2"
UPGRADE_JOB, PREPULL_JOB, CONFIG_JOB = "nodeupgradejob", "imageprepulljob", "configupdatejob"
KINDS = frozenset({UPGRADE_JOB, PREPULL_JOB, CONFIG_JOB})
CHECK, PULL, BACK_UP, UPDATE, UPGRADE = "Check", "Pull", "BackUp", "Update", "Upgrade"
ROLL_BACK, CONFIRMATION = "RollBack", "WaitingConfirmation"
FIRST = CHECK
"""What a cloud asks for; the node goes on from there by itself, and reports each action."""


@dataclass(frozen=True, slots=True)
class Next:
    """What follows an action: after success, after failure; "" ends the job on the node."""

    success: str = ""
    failure: str = ""


FLOWS: Mapping[str, Mapping[str, Next]] = MappingProxyType(
    {
        UPGRADE_JOB: {
            CHECK: Next(CONFIRMATION),
            CONFIRMATION: Next(BACK_UP),
            BACK_UP: Next(UPGRADE, ROLL_BACK),
            UPGRADE: Next("", ROLL_BACK),
            ROLL_BACK: Next(),
        },
        PREPULL_JOB: {CHECK: Next(PULL), PULL: Next()},
        CONFIG_JOB: {
            CHECK: Next(BACK_UP),
            BACK_UP: Next(UPDATE, ROLL_BACK),
            UPDATE: Next("", ROLL_BACK),
            ROLL_BACK: Next(),
        },
    }
)
"""Kind of job -> its actions, in order. Source: KubeEdge reference, section 19.2."""

_LEGACY = "task"
_LEGACY_KINDS = {
    Operation.UPGRADE: UPGRADE_JOB,
    Operation.ROLLBACK: UPGRADE_JOB,
    Operation.BACKUP: UPGRADE_JOB,
    Operation.PREPULL: PREPULL_JOB,
}
MAX_PART = 256
MAX_TEXT = 65_536


@dataclass(frozen=True, slots=True)
class TaskCommand:
    """One action of a job on one node.

    Shape:  `kind` as in the resource (`imageprepulljob`); `action` as in the job's flow (`Check`, `Pull`,
            ...); `spec` the job's spec, or NodeTaskRequest where `legacy`.
    """

    kind: str
    job: str
    node: str
    action: str
    spec: JsonObject
    legacy: bool = False
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class TaskReported:
    """How an action ended; `at` RFC 3339, `extend` JSON text (image status, versions) or ""."""

    kind: str
    job: str
    node: str
    action: str
    ok: bool
    at: str
    reason: str = ""
    extend: str = ""
    trace: TraceContext | None = None


class _Report(Struct, frozen=True, rename={"ok": "succ", "at": "finishTime"}):
    action: Annotated[str, Meta(min_length=1, max_length=MAX_PART)]
    ok: bool = False
    at: Annotated[str, Meta(max_length=MAX_PART)] = ""
    reason: Annotated[str, Meta(max_length=MAX_TEXT)] = ""
    extend: Annotated[str, Meta(max_length=MAX_TEXT)] = ""


_REPORT = msgspec.json.Decoder(_Report)


def command_task(stamp: Stamp, command: TaskCommand) -> Envelope:
    """Build an action (cloud)."""
    route = Route(
        source=Source.TASK_MANAGER,
        group=Group.TASK_MANAGER,
        operation=command.action,
        resource=_resource(command),
    )
    return make(stamp, route, command.spec, trace=command.trace)


def report_task(stamp: Stamp, report: TaskReported) -> Envelope:
    """Build the report about an action of a v1alpha2 job (edge)."""
    route = Route(
        source=Source.EDGE_HUB,
        group=Group.HUB,
        operation=Operation.NODE_ACTION,
        resource=f"{GROUP_VERSION}/{report.kind}/{report.job}/node/{report.node}",
    )
    content = _Report(report.action, report.ok, report.at, report.reason, report.extend)
    return make(stamp, route, content, trace=report.trace)


def read_task_command(envelope: Envelope) -> TaskCommand:
    """Read an action (edge). Errors: MalformedPacket."""
    route = envelope.route
    if not route.operation:
        raise MalformedPacket("operation: expected the action of a node job")
    kind, job, node = _parse(route.resource, route.operation)
    return TaskCommand(
        kind,
        job,
        node,
        route.operation,
        object_of(envelope.content),
        route.resource.startswith(f"{_LEGACY}/"),
        envelope.trace,
    )


def read_task_report(envelope: Envelope) -> TaskReported:
    """Read a node's report (cloud). Errors: MalformedPacket, also for what names no job."""
    kind, job, node = _parse(envelope.route.resource, envelope.route.operation)
    body = struct_of(envelope.content, _REPORT)
    return TaskReported(
        kind, job, node, body.action, body.ok, body.at, body.reason, body.extend, envelope.trace
    )


def _resource(command: TaskCommand) -> str:
    if command.legacy:
        return f"{_LEGACY}/{command.job}/node/{command.node}"
    return f"{GROUP_VERSION}/{command.kind}/{command.job}/node/{command.node}"


def _parse(resource: str, operation: str) -> tuple[str, str, str]:
    """Return kind, job and node of a resource of either form."""
    match resource.split("/"):
        case ["operations.kubeedge.io", "v1alpha2", kind, job, "node", node] if kind in KINDS:
            pass
        case ["task", job, "node", node] if operation in _LEGACY_KINDS:
            kind = _LEGACY_KINDS[Operation(operation)]
        case _:
            raise MalformedPacket(f"resource: expected that of a node job, got {resource[:200]!r}")
    if not (job and node) or max(len(job), len(node)) > MAX_PART:
        raise MalformedPacket(f"resource: expected job and node, got {resource[:200]!r}")
    return kind, job, node
