"""Jobs of the cloud on this node, one after another: run, remembered on disk, reported action by action.

The cloud asks for a job's first action; the rest of the flow is ours. A message with an id that was here
before is answered with what was reported then, and nothing is run again. What could not be reported is
reported at the next connection, also after a restart, which goes on with the action that it broke off.
Source: KubeEdge reference, section 19.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

import msgspec
from msgspec import Struct, field

from edge.clock import now_ms, rfc3339, stamp
from edge.hub import Sender
from edge.identity import FOLDER
from edge.overlay import Overlay
from edge.ports import EdgeApi, Images
from edge.store import EdgeStore, MetaObject
from edge.taskactions import Outcome, Task, TaskActions, usage_of
from edge.upgrades import Upgrades
from gateway.errors import GatewayError, NotFound
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.tasks import (
    FLOWS,
    UPGRADE,
    UPGRADE_JOB,
    TaskCommand,
    TaskReported,
    report_task,
)

if TYPE_CHECKING:
    from edge.hub import EdgeHub
    from gateway.config.edge_services import EdgeTasks as Settings
    from gateway.config.tree import Settings as Tree

log = logging.getLogger(__name__)

META_TYPE = "nodetask"
MAX_WAITING = 20
"""Jobs that wait for their turn; more are refused."""
MAX_KEPT = 50
"""Jobs that are remembered."""
MAX_REASON = 500


class _Said(Struct):
    """One report; `is_sent` once the link took it."""

    action: str
    ok: bool
    at: str
    reason: str = ""
    extend: str = ""
    is_sent: bool = False


class _Record(Struct):
    """A job on disk: `action` is the next or running one, "" at the end."""

    id: str
    kind: str
    job: str
    at: int
    action: str
    spec: dict[str, object]
    said: list[_Said] = field(default_factory=list)
    waits: bool = False
    """True until somebody confirms."""
    has_run: bool = False
    """True once the upgrade command was started."""

    @property
    def is_due(self) -> bool:
        return bool(self.action) and not self.waits


_records = msgspec.json.Decoder(_Record)


class ProcessParts(Protocol):
    """What a process has."""

    @property
    def settings(self) -> Tree: ...


class TaskManager:
    """Module, hub handler and listener of the link."""

    name = "edge.tasks"

    def __init__(
        self,
        settings: Settings,
        node: str,
        store: EdgeStore,
        sender: Sender,
        actions: TaskActions,
    ) -> None:
        self._settings = settings
        self._node = node
        self._store = store
        self._sender = sender
        self._actions = actions
        self._records: dict[str, _Record] = {}
        self._wake = asyncio.Event()

    async def run(self, ready: Callable[[], None]) -> None:
        for entry in await self._store.meta_of_type(META_TYPE):
            try:
                record = _records.decode(entry.value)
            except msgspec.DecodeError:
                log.warning("a job on disk cannot be read", extra={"key": entry.key})
            else:
                self._records[record.id] = record
        ready()
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while due := self._next():
                await self._work(due)

    def facts(self) -> list[JsonObject]:
        """Return the jobs that have not ended."""
        return [fact_of(record) for record in self._records.values() if record.action]

    def _next(self) -> _Record | None:
        due = [record for record in self._records.values() if record.is_due]
        return min(due, key=lambda record: record.at, default=None)

    # --- what comes ---------------------------------------------------------------------------------

    def on_command(self, envelope: Envelope, command: TaskCommand) -> None:
        """Take a job, or say why not."""
        if command.node != self._node:
            log.warning("a job of another node came", extra={"node": command.node[:100]})
            return
        known = self._records.get(envelope.msg_id)
        if known is not None:
            self._say_again(known)
            return
        record = _Record(
            envelope.msg_id,
            command.kind,
            command.job,
            now_ms(),
            command.action,
            dict(command.spec),
        )
        why = self._refusal(command)
        if why:
            log.info("job refused", extra={"job": command.job, "cause": why})
            self._say(record, command.action, Outcome(False, why))
            return
        if command.kind == UPGRADE_JOB:
            self._end_waiting()
        self._records[record.id] = record
        self._forget_old()
        self._wake.set()

    def _end_waiting(self) -> None:
        """A later upgrade takes the place of one that nobody confirmed."""
        for record in self._records.values():
            if record.waits:
                record.action, record.waits = "", False

    def _refusal(self, command: TaskCommand) -> str:
        if command.legacy:
            return "jobs of operations.kubeedge.io/v1alpha1 are not run at this node"
        if not self._settings.enabled:
            return "edge.tasks.enabled is false at this node"
        if command.action not in FLOWS[command.kind]:
            return f"{command.kind} has no action {command.action[:100]!r}"
        if sum(record.is_due for record in self._records.values()) >= MAX_WAITING:
            return f"{MAX_WAITING} jobs wait at this node already"
        return ""

    def confirm(self) -> str:
        """Let the upgrade that waits go on; return its job's name. Errors: NotFound without one."""
        record = next((each for each in self._records.values() if each.waits), None)
        if record is None:
            raise NotFound("no upgrade waits for a confirmation")
        record.waits = False
        self._wake.set()
        return record.job

    def link_up(self, *, has_spool: bool) -> None:
        """Say what could not be said; to a cloud of ours, which takes nothing twice, with what was before."""
        for record in sorted(self._records.values(), key=lambda record: record.at):
            unsent = [said for said in record.said if not said.is_sent]
            for said in record.said if has_spool and unsent else unsent:
                self._send(record, said)

    def link_down(self) -> None:
        """What is said now waits."""

    # --- one job --------------------------------------------------------------------------------------

    async def _work(self, record: _Record) -> None:
        """Run a job's actions to its end, or to where it waits."""
        try:
            await self._keep(record)
            while record.is_due:
                action, had_run = record.action, record.has_run
                if action == UPGRADE and not had_run:
                    record.has_run = True
                    await self._keep(record)
                task = Task(record.kind, record.job, cast(JsonObject, record.spec), had_run)
                outcome = await self._do(task, action)
                self._go_on(record, outcome)
                self._say(record, action, outcome)
                await self._keep(record)
        except (
            GatewayError
        ) as error:  # the disk takes nothing: what cannot be remembered is not run
            if record.action:
                self._say(record, record.action, Outcome(False, error.message))
            record.action, record.waits = "", False

    async def _do(self, task: Task, action: str) -> Outcome:
        try:
            return await self._actions.run(task, action)
        except Exception:  # top of a task: one odd job must not end the edge
            log.exception("action of a job broke off", extra={"job": task.job})
            return Outcome(False, "an internal error; see the log at the node")

    def _go_on(self, record: _Record, outcome: Outcome) -> None:
        follows = FLOWS[record.kind][record.action]
        record.waits = outcome.ok and outcome.pauses
        record.action = follows.success if outcome.ok else follows.failure
        if record.waits:
            log.info("an upgrade waits for a confirmation here", extra={"job": record.job})

    async def _keep(self, record: _Record) -> None:
        """Write a job to disk. Errors: StoreUnavailable."""
        value = msgspec.json.encode(record).decode()
        done: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        self._store.put_meta(MetaObject(_key(record), META_TYPE, value), done.set_result)
        error = await done
        if error is not None:
            raise error

    def _forget_old(self) -> None:
        over = len(self._records) - MAX_KEPT
        ended = sorted((r for r in self._records.values() if not r.action), key=lambda r: r.at)
        for record in ended[: max(0, over)]:
            del self._records[record.id]
            self._store.delete_meta(_key(record), "", _ignore)

    # --- reports --------------------------------------------------------------------------------------

    def _say(self, record: _Record, action: str, outcome: Outcome) -> None:
        reason = outcome.reason[:MAX_REASON]
        said = _Said(action, outcome.ok, rfc3339(now_ms()), reason, outcome.extend)
        record.said.append(said)
        self._send(record, said)

    def _say_again(self, record: _Record) -> None:
        for said in record.said:
            self._send(record, said)

    def _send(self, record: _Record, said: _Said) -> None:
        report = TaskReported(
            record.kind,
            record.job,
            self._node,
            said.action,
            said.ok,
            said.at,
            said.reason,
            said.extend,
        )
        try:
            self._sender.send(report_task(stamp(), report))
        except GatewayError as error:
            log.debug("report of a job waits", extra={"cause": error.message})
        else:
            said.is_sent = True


def fact_of(record: _Record) -> JsonObject:
    """Return what `edge status` says of a job."""
    return {
        "kind": record.kind,
        "job": record.job,
        "action": record.action,
        "waits_for_confirmation": record.waits,
    }


def facts_of(values: Iterable[str]) -> list[JsonObject]:
    """Return the same of jobs as they are stored; what cannot be read is left out."""
    found = []
    for value in values:
        with suppress(msgspec.DecodeError):
            record = _records.decode(value)
            if record.action:
                found.append(fact_of(record))
    return found


def _key(record: _Record) -> str:
    return f"{META_TYPE}/{record.id}"


def _ignore(_result: bool | GatewayError) -> None:
    """It is tried again with the next one."""


def build_tasks(
    process: ProcessParts,
    node: str,
    store: EdgeStore,
    hub: EdgeHub,
    api: EdgeApi,
    images: Images | None = None,
) -> TaskManager:
    """Build the room of jobs; without `images` there is no container runtime.

    Errors: InvalidSetting for an upgrade command that is no absolute path.
    """
    settings, data_dir = process.settings.edge.tasks, process.settings.data_dir
    folder = data_dir / FOLDER
    actions = TaskActions(
        Overlay(data_dir),
        Upgrades(folder, settings.upgrade_command),
        api,
        usage_of(folder),
        images,
    )
    tasks = TaskManager(settings, node, store, hub, actions)
    hub.on(TaskCommand, tasks.on_command)
    hub.on_link(tasks)
    return tasks
