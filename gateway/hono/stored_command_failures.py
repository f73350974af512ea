"""Tells applications of commands that were kept and will not be delivered: expired, refused, deleted.

Who waits for a response gets a delivery failure notification in its place, over Kafka as Hono sends it, over
AMQP in the same form to the reply address; who sent a one-way command hears nothing. A notification that
cannot be sent is tried again for an hour; a crash may repeat one.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import time
from collections.abc import Callable, Collection
from typing import TypeAlias

import msgspec

from gateway.errors import BadRequest, GatewayError, NoConsumer, Rejected, Undeliverable
from gateway.hono import stored_command_rows as rows
from gateway.hono.kafka_records import DELIVERY_FAILURE
from gateway.hono.request_ids import reply_id_of
from gateway.hono.stored_command_rows import StoredCommand
from gateway.model.message import Command, CommandResponse, MessagingType
from gateway.model.ports import Done
from gateway.store.database import Database

log = logging.getLogger(__name__)

EXPIRED = "the command expired before its device took it"
BATCH = 100
LONGEST_SLEEP = 60.0
TRY_AGAIN = 30.0
PATIENCE = 3_600.0
"""Seconds after which an application that cannot be told is not told any more."""
ANSWER_SECONDS = 10.0
BUSY_SECONDS = 0.2
"""Seconds until commands are looked at again that a link has while they are due."""


class Told(enum.StrEnum):
    """Why a command left the disk without being delivered; the values are of a metric's label."""

    EXPIRED = "expired"
    REJECTED = "rejected"
    DELETED = "deleted"


PassBack: TypeAlias = Callable[[CommandResponse, Done], None]
Over: TypeAlias = Callable[[StoredCommand, Told, GatewayError], None]


class Failures:
    """Looks at commands that are due, tells their applications and removes them.

    Shape:  `under_way` are sequences to leave alone; `over` hears of each command that was removed; `clock`
            gives seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        under_way: Collection[int],
        over: Over,
        *,
        clock: Callable[[], float] = time.time,
        tells_kafka: bool = True,
    ) -> None:
        self._database = database
        self._under_way = under_way
        self._over = over
        self._clock = clock
        self._tells_kafka = tells_kafka
        self._news = asyncio.Event()
        self._looks_at = 0.0
        self.pass_back: PassBack = _nobody

    def expect(self, due: float) -> None:
        """Something will be due at that time; what is due before is looked at anyway."""
        if due < self._looks_at:
            self._news.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._news.clear()
            self._looks_at = math.inf
            try:
                pause = await self._look()
            except GatewayError as error:
                log.warning("failed commands stay", extra={"cause": error.message})
                pause = TRY_AGAIN
            self._looks_at = self._clock() + pause
            try:
                async with asyncio.timeout(pause):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _look(self) -> float:
        """Deal with some commands that are due; returns the seconds until there are more."""
        now = self._clock()
        found = await self._database.read(lambda db: rows.due(db, now, BATCH))
        free = [stored for stored in found if stored.sequence not in self._under_way]
        if free:
            await self._settle(free)
            return 0.0
        if found:
            return BUSY_SECONDS
        due = await self._database.read(rows.next_due)
        return LONGEST_SLEEP if due is None else max(0.0, min(due - now, LONGEST_SLEEP))

    async def _settle(self, found: list[StoredCommand]) -> None:
        answers = await asyncio.gather(*(self._tell(stored) for stored in found))
        gone = [stored for stored, is_told in zip(found, answers, strict=True) if is_told]
        later = [s.sequence for s, is_told in zip(found, answers, strict=True) if not is_told]
        until = self._clock() + TRY_AGAIN
        await self._database.write(lambda db: rows.delete(db, (s.sequence for s in gone)))
        if later:
            await self._database.write(lambda db: rows.postpone(db, later, until))
        for stored in gone:
            self._over(stored, *_reason(stored))

    async def _tell(self, stored: StoredCommand) -> bool:
        """Tell an application; True when nothing is left to do."""
        notification = self._notification(stored)
        if notification is None:
            return True
        answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()

        def done(error: GatewayError | None) -> None:
            if not answer.done():
                answer.set_result(error)

        self.pass_back(notification, done)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                error = await answer
        except TimeoutError:
            error = Undeliverable()
        if error is None or isinstance(error, NoConsumer | Rejected):
            return True
        return self._clock() > stored.expires + PATIENCE

    def _notification(self, stored: StoredCommand) -> CommandResponse | None:
        command = stored.command
        is_kafka = command.messaging is MessagingType.KAFKA
        if command.is_one_way or command.correlation_id is None:
            return None
        if is_kafka and not self._tells_kafka:
            return None
        try:
            reply_id = "" if is_kafka else reply_id_of(command)
        except BadRequest:
            return None
        return notification(command, reply_id, _reason(stored)[1], self._clock())


def notification(
    command: Command, reply_id: str, error: GatewayError, at: float
) -> CommandResponse:
    """Return the delivery failure notification of a command; `at` in seconds since the epoch."""
    is_kafka = command.messaging is MessagingType.KAFKA
    return CommandResponse(
        tenant=command.tenant,
        device=command.device,
        reply_id=reply_id,
        correlation_id=command.correlation_id or "",
        status=error.status,
        payload=msgspec.json.encode({"error": error.message}),
        content_type=DELIVERY_FAILURE,
        at=at,
        trace=command.trace,
        properties=command.properties if is_kafka else {},
    )


def _reason(stored: StoredCommand) -> tuple[Told, GatewayError]:
    if stored.failure is None:
        return Told.EXPIRED, Undeliverable(EXPIRED)
    status, text = stored.failure
    told = Told.DELETED if status == 410 else Told.REJECTED
    return told, (Rejected if status < 500 else Undeliverable)(text, status=status)


def _nobody(_response: CommandResponse, done: Done) -> None:
    done(NoConsumer())
