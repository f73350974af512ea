"""Commands that applications write to `hono.command.{tenant}`: read, routed in order, refusals told.

Each device has one command under way, so that its commands arrive in their order; a command that has waited
longer than routing may take is released. An offset is committed once the command has its outcome: after a
crash commands may be routed again (at least once), as Hono's command router does.
Source: Hono, Command & Control API for Kafka; command router's consumer as seen from outside.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from uuid import NAMESPACE_URL, uuid5

import msgspec

from gateway.config.hono import Kafka
from gateway.errors import BadRequest, GatewayError, Undeliverable
from gateway.hono.commands import ROUTER, ROUTING_SECONDS
from gateway.hono.kafka_consumer import RecordReader
from gateway.hono.kafka_messaging import KafkaTenants
from gateway.hono.kafka_offsets import Ticket
from gateway.hono.kafka_properties import Property
from gateway.hono.kafka_records import (
    COMMAND_TOPICS,
    MALFORMED,
    CommandRecord,
    command_topic,
    read_command,
)
from gateway.hono.kafka_verdicts import Verdict, notification_of, verdict_of
from gateway.hono.meters import UNKNOWN, CommandMeter, Direction
from gateway.model.message import Command
from gateway.model.ports import CommandRouting, ResponseSink
from gateway.observe.metrics import Metrics

if TYPE_CHECKING:
    from confluent_kafka import Message

log = logging.getLogger(__name__)

Device: TypeAlias = tuple[str, str]


class _Waiting(msgspec.Struct, eq=False):
    """A command in its device's line."""

    command: Command
    record: CommandRecord
    ticket: Ticket
    deadline: float
    is_routed: bool = False


class _Line(msgspec.Struct, eq=False):
    """One device's commands, the one under way first."""

    commands: deque[_Waiting]
    is_draining: bool = False


class KafkaCommands:
    """Module: reads commands while it runs.

    Shape:  `clock` gives seconds since the epoch.
    """

    name = "kafka.commands"

    def __init__(
        self,
        settings: Kafka,
        properties: Mapping[str, Property],
        routing: CommandRouting,
        responses: ResponseSink,
        tenants: KafkaTenants,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._routing = routing
        self._responses = responses
        self._tenants = tenants
        self._notifies = settings.delivery_failures
        self._counter = metrics.elsewhere.kafka_commands
        self._meter = CommandMeter(metrics)
        self._clock = clock
        self._lines: dict[Device, _Line] = {}
        self._expected: set[str] = set()
        self._reader = RecordReader(
            properties, COMMAND_TOPICS, self.take, max_under_way=settings.max_commands
        )
        metrics.elsewhere.kafka_queue.watch("commands", lambda: self._reader.under_way)

    async def run(self, ready: Callable[[], None]) -> None:
        await self._reader.run(ready)

    def expect(self, tenant: str) -> None:
        """Somebody of this tenant waits for commands: its topic is to be read soon."""
        if tenant in self._expected:
            return

        def found(carries: bool) -> None:
            if carries and tenant not in self._expected:
                self._expected.add(tenant)
                self._reader.want(command_topic(tenant))

        carries = self._tenants.carries(tenant)
        if carries is None:
            self._tenants.find(tenant, found)
        else:
            found(carries)

    # --- a record --------------------------------------------------------------------------------------

    def take(self, message: Message, ticket: Ticket) -> None:
        """Route the command of a record, or say why not; the ticket ends with its outcome."""
        topic = message.topic() or ""
        try:
            record = read_command(topic, message.key(), message.value(), _headers(message))
        except BadRequest as error:
            log.debug("command record dropped", extra={"topic": topic, "cause": error.message})
            self._end(ticket, "malformed")
            return
        left = None if record.expires is None else record.expires - self._clock()
        if left is not None and left < 0:
            self._end(ticket, "expired")
        elif record.command is None:
            self._refuse_malformed(record, ticket)
        else:
            deadline = asyncio.get_running_loop().time() + ROUTING_SECONDS
            command = replace(record.command, ttl=left, origin=_origin(message))
            self._put(_Waiting(command, record, ticket, deadline))

    def _refuse_malformed(self, record: CommandRecord, ticket: Ticket) -> None:
        error = BadRequest(MALFORMED)
        direction = Direction.REQUEST if record.response_required else Direction.ONE_WAY
        tenant = UNKNOWN if self._tenants.carries(record.tenant) is None else record.tenant
        self._meter.record(tenant, direction, error, ROUTER, 0.0, record.size)
        self._conclude(record, ticket, verdict_of(error))

    # --- lines -----------------------------------------------------------------------------------------

    def _put(self, waiting: _Waiting) -> None:
        device = (waiting.command.tenant, waiting.command.device)
        line = self._lines.get(device)
        if line is None:
            line = self._lines[device] = _Line(deque())
        line.commands.append(waiting)
        if len(line.commands) == 1:
            self._drain(device, line)

    def _drain(self, device: Device, line: _Line) -> None:
        """Route what is first in line, again while outcomes come at once."""
        line.is_draining = True
        try:
            while line.commands and not line.commands[0].is_routed:
                self._route(device, line, line.commands[0])
        finally:
            line.is_draining = False
        if not line.commands:
            del self._lines[device]

    def _route(self, device: Device, line: _Line, waiting: _Waiting) -> None:
        waiting.is_routed = True
        done = partial(self._routed, device, line, waiting)
        if asyncio.get_running_loop().time() > waiting.deadline:
            done(Undeliverable("no link took the command in time"))
        else:
            try:
                self._routing.route(waiting.command, done)
            except Exception:  # top of a callback: the line must go on
                log.exception("a command was not routed")
                if line.commands and line.commands[0] is waiting:
                    done(GatewayError())

    def _routed(
        self, device: Device, line: _Line, waiting: _Waiting, error: GatewayError | None
    ) -> None:
        line.commands.popleft()
        self._conclude(waiting.record, waiting.ticket, verdict_of(error))
        if not line.is_draining:
            self._drain(device, line)

    # --- outcomes --------------------------------------------------------------------------------------

    def _conclude(self, record: CommandRecord, ticket: Ticket, verdict: Verdict) -> None:
        correlation_id = record.correlation_id
        if (
            not verdict.status
            or not record.response_required
            or correlation_id is None
            or not self._notifies
        ):
            self._end(ticket, verdict.name)
            return

        def told(error: GatewayError | None) -> None:
            if error is not None:
                log.warning(
                    "delivery failure notification not sent",
                    extra={"tenant": record.tenant, "device": record.device},
                )
            self._end(ticket, verdict.name)

        now = self._clock()
        self._responses.take(notification_of(record, correlation_id, verdict, now), told)

    def _end(self, ticket: Ticket, outcome: str) -> None:
        self._counter.labels(outcome).inc()
        self._reader.end(ticket)


def _origin(message: Message) -> str:
    """Return what names a record, the same when it is read again: also after a topic was made anew."""
    _, written = message.timestamp()
    place = f"{message.topic()}/{message.partition()}/{message.offset()}/{written}"
    return str(uuid5(NAMESPACE_URL, place))


def _headers(message: Message) -> list[tuple[str, object]]:
    """Return a record's headers; the library gives a list of pairs for records that were read."""
    headers = message.headers()
    if headers is None:
        return []
    return list(headers.items()) if isinstance(headers, dict) else list(headers)
