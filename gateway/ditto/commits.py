"""From a decision to its durable answer: append, count, publish, settle."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter

from gateway.ditto.creation import Creation
from gateway.ditto.lane import Pending
from gateway.ditto.policies import PoliciesService
from gateway.ditto.spool import Spools
from gateway.ditto.thing_cache import ThingEntry
from gateway.errors import GatewayError
from gateway.model.policy import PolicyEvent
from gateway.model.thing import Action, EventAction, ThingCommand, ThingEvent, ThingResult
from gateway.observe.histograms import Tally
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Span, Tracer
from gateway.store.things import Commit, Committed, ThingStore, ThingWrite
from gateway.twin.documents import MISSING
from gateway.twin.patch import as_json, of_event
from gateway.twin.things import Decision

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """A decided change: `creation` where it makes the thing; `started` from `time.perf_counter`."""

    command: ThingCommand
    decision: Decision
    event: ThingEvent
    creation: Creation | None
    started: float


@dataclass(slots=True)
class _Write:
    """A change on its way to the store."""

    change: Change
    event: ThingEvent
    policy: PolicyEvent | None
    result: ThingResult
    pending: Pending
    span: Span | None


@dataclass(frozen=True, slots=True)
class _Meter:
    """The metrics of one kind of command, looked up once."""

    stored: Counter
    failed: Counter
    refused: Counter
    seconds: Tally

    @classmethod
    def of(cls, metrics: Metrics, action: Action) -> _Meter:
        commands, seconds = metrics.thing_commands, metrics.thing_command_seconds
        return cls(
            commands.labels(action.value, "ok"),
            commands.labels(action.value, "failed"),
            commands.labels(action.value, "refused"),
            seconds.labels(action.value),
        )


class Committer:
    """Writes changes; calls `publish` for each one that became durable, in the order of the store."""

    def __init__(
        self,
        store: ThingStore,
        policies: PoliciesService,
        spools: Spools,
        metrics: Metrics,
        tracer: Tracer,
        publish: Callable[[ThingEvent], None],
    ) -> None:
        self._store = store
        self._policies = policies
        self._spools = spools
        self._tracer = tracer
        self._publish = publish
        self._meters = {action: _Meter.of(metrics, action) for action in Action}

    def append(self, entry: ThingEntry, change: Change, pending: Pending) -> None:
        """Make the change the newest state in memory and send it to the store; settles `pending` later."""
        span = self._span(change.command)
        event = change.event
        if span is not None:
            object.__setattr__(event, "trace", span.context)  # nobody has seen it yet
        entry.thing, entry.revision = event.after, event.revision
        entry.modified = event.timestamp
        pending.is_write = True
        made = change.creation.policy if change.creation else None
        policy = made.event if made else None
        if policy is not None:
            self._policies.begin(policy)
        spool = change.command.spool
        if spool is not None:
            self._spools.begin(spool, entry.thing_id)
        commit = Commit(
            thing=ThingWrite(event, change.decision.document),
            policy=self._policies.write_of(policy) if policy else None,
            spool=spool,
        )
        write = _Write(change, event, policy, _result(change, event), pending, span)
        self._store.append(commit, lambda answer: self._stored(write, answer))

    def refused(self, action: Action) -> None:
        """Count a command that the rules or the policy did not let pass."""
        self._meters[action].refused.inc()

    def _stored(self, write: _Write, answer: Committed | GatewayError) -> None:
        error = answer if isinstance(answer, GatewayError) else None
        if write.policy is not None:
            self._policies.finish(write.policy, error)
        if write.change.command.spool is not None:
            self._spools.finish(write.change.command.spool, error)
        self._count(write, error)
        if isinstance(answer, Committed):
            object.__setattr__(write.event, "sequence", answer.sequence)  # nobody has seen it yet
            if log.isEnabledFor(logging.DEBUG):
                _log_change(write.event)
            self._publish(write.event)
        write.pending.settle(error or write.result)

    def _count(self, write: _Write, error: GatewayError | None) -> None:
        meter = self._meters[write.change.command.action]
        (meter.stored if error is None else meter.failed).inc()
        seconds = time.perf_counter() - write.change.started
        meter.seconds.observe(seconds)
        if write.span is not None:
            write.span.end(error)
            if write.span.sink is not None:
                meter.seconds.mark(seconds, write.span.context.trace_id)

    def _span(self, command: ThingCommand) -> Span | None:
        if command.trace is None:
            return None
        attributes = {"thing": command.thing_id, "action": command.action.value}
        return self._tracer.start("things.change", command.trace, attributes=attributes)


def _result(change: Change, event: ThingEvent) -> ThingResult:
    decision = change.decision
    return ThingResult(
        status=decision.status,
        value=None if decision.value is MISSING else decision.value,
        has_value=decision.value is not MISSING,
        etag=decision.etag,
        revision=event.revision,
    )


def _log_change(event: ThingEvent) -> None:
    log.debug(
        "thing changed",
        extra={
            "thing": event.thing_id,
            "revision": event.revision,
            "patch": as_json(of_event(event)) if event.action is not EventAction.DELETED else [],
        },
    )
