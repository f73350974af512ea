"""Commands that wait on disk for devices that are away: an addition of ours, off unless `ext` asks for it.

A command that is to be kept is delivered at once where its device listens and nothing waits before it.
Else, or when the device does not take it, it goes to disk, and its application is told that it is accepted.
Each device has one line, with one command under way: its commands keep their order. A line moves when a link
subscribes that its commands could go to (the device's own, or a gateway's), and after a while when a device
that listens did not take one. A command leaves the disk when the device has accepted it, so one that was
under way during a crash is sent again, with the same id (`CommandMark`). What the device refuses, or what is
too old, is told to the application by `Failures`.

Full (one device's line, a tenant's bytes, all bytes): refused, as without this option.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol
from uuid import uuid4

from gateway.config.hono import StoredCommands as Settings
from gateway.errors import GatewayError, NoConsumer, NotProcessed, Rejected
from gateway.hono import stored_command_rows as rows
from gateway.hono.kafka_verdicts import verdict_of
from gateway.hono.stored_command_accounts import Accounts, Line, Over
from gateway.hono.stored_command_failures import Failures, Told
from gateway.hono.stored_command_rows import StoredCommand
from gateway.hono.stored_command_terms import Terms, terms_of
from gateway.model.message import Command, CommandMark, CommandResponse
from gateway.model.ports import Done
from gateway.model.registry import Assertion, Change, RegistryChange, Subject
from gateway.observe.metrics import Metrics
from gateway.store.database import Database

log = logging.getLogger(__name__)

MAX_UNDER_WAY = 64
"""Lines that move at the same time; others wait their turn."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds between tries for a device that listens and does not take its command."""
DELETED = (410, "the command was deleted before its device took it")


class Passage(Protocol):
    """A command on its way from its application."""

    command: Command

    def end(self, error: GatewayError | None) -> None:
        """It was delivered, or not."""

    def kept(self) -> None:
        """It is on disk."""


class Router(Protocol):
    """What is needed of the one who knows the links."""

    def is_reachable(self, tenant: str, device: str, done: Callable[[bool], None]) -> None:
        """Tell whether some link would get a command for the device."""

    def attempt(self, command: Command, mark: CommandMark, done: Done) -> None:
        """Deliver a command to the link that applies; it is not kept by this."""

    def conclude(self, command: Command, error: GatewayError | None, seconds: float) -> None:
        """Count what became of a command that was kept."""

    def pass_back(self, response: CommandResponse, done: Done) -> None:
        """Hand a response to who waits for it; NoConsumer when nobody does."""


class StoredCommands:
    """Module: keeps commands while it runs; before and after, commands go as without it.

    Shape:  `clock` gives seconds since the epoch; `tells_kafka` False sends no delivery failure
            notifications to applications on Kafka.
    Units:  `first_pause` in seconds.
    """

    name = "hono.stored_commands"

    def __init__(
        self,
        database: Database,
        settings: Settings,
        metrics: Metrics,
        *,
        tells_kafka: bool = True,
        first_pause: float = FIRST_PAUSE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._settings = settings
        self._first_pause = first_pause
        self._clock = clock
        self._router: Router | None = None
        self._is_open = False
        self._sequence = 0
        self._accounts = Accounts(settings, metrics)
        self._moving = 0
        self._waiting: deque[Line] = deque()
        self._under_way: set[int] = set()
        self._failures = Failures(
            database, self._under_way, self._over, clock=clock, tells_kafka=tells_kafka
        )

    def serve(self, router: Router) -> None:
        """Deliver through `router` from now on."""
        self._router = router
        self._failures.pass_back = router.pass_back

    async def run(self, ready: Callable[[], None]) -> None:
        """Keep commands and tell of those that failed, until cancelled."""
        self._sequence, found = await self._database.write(rows.load)
        for tenant, device, count, size in found:
            line = self._accounts.line(tenant, device)
            line.was_sent = True
            self._accounts.add(line, count, size)
        self._is_open = True
        ready()
        try:
            await self._failures.run()
        finally:
            self._is_open = False
            self._accounts.stop()

    # --- taking a command ------------------------------------------------------------------------------

    def terms(self, found: Assertion, command: Command) -> Terms | None:
        """Return on what terms a command is kept; None where it is not."""
        if not self._is_open or found.tenant.tenant_id != command.tenant:
            return None
        return terms_of(self._settings, found, command.ttl)

    def take(self, passage: Passage, terms: Terms) -> None:
        """Deliver a command now, or keep it."""
        command, now = passage.command, self._clock()
        self._sequence += 1
        stored = StoredCommand(
            sequence=self._sequence,
            command_id=command.origin or str(uuid4()),
            command=command,
            stored=now,
            expires=now + terms.seconds,
            size=0,
        )
        line = self._accounts.line(command.tenant, command.device)
        if line.is_busy or line.count:
            self._keep(line, stored, terms, passage, None)
            return
        line.is_busy = True
        self._send(line, stored, partial(self._tried, line, stored, terms, passage))

    def _send(self, line: Line, stored: StoredCommand, done: Done) -> None:
        mark = CommandMark(stored.command_id, stored.attempts > 0 or line.was_sent)
        router = self._router
        if router is None:
            done(NoConsumer())
        else:
            router.attempt(stored.command, mark, done)

    def _tried(
        self,
        line: Line,
        stored: StoredCommand,
        terms: Terms,
        passage: Passage,
        error: GatewayError | None,
    ) -> None:
        """The first try has its outcome; the line has been held meanwhile."""
        if error is None or _failure(error) is not None or not self._is_open:
            self._let_go(line)
            passage.end(error)
            return
        sent = 0 if isinstance(error, NoConsumer) else 1
        self._keep(line, replace(stored, attempts=sent), terms, passage, error)

    def _keep(
        self,
        line: Line,
        stored: StoredCommand,
        terms: Terms,
        passage: Passage,
        cause: GatewayError | None,
    ) -> None:
        """Write a command; `cause` is why it was not delivered when that was tried."""
        body = rows.encode_body(stored.command)
        stored = replace(stored, size=len(body) + len(stored.command.payload))
        refusal = self._accounts.refusal(line, stored.size, terms)
        if refusal is not None:
            self._accounts.tell(line, "refused")
            if cause is not None:
                self._let_go(line)
            passage.end(cause or refusal)
            return
        self._accounts.add(line, 1, stored.size)
        self._database.submit(
            lambda db: rows.insert(db, stored, body),
            partial(self._kept, line, stored, passage, cause),
            grows=True,
        )

    def _kept(
        self,
        line: Line,
        stored: StoredCommand,
        passage: Passage,
        cause: GatewayError | None,
        result: bool | GatewayError,
    ) -> None:
        if result is not True:  # refused by the store, or on disk already
            self._accounts.add(line, -1, -stored.size)
        if isinstance(result, Rejected):  # its device was deleted meanwhile
            passage.end(Rejected(result.message, status=result.status))
        elif isinstance(result, GatewayError):
            self._accounts.tell(line, "refused")
            passage.end(cause or result)
        else:
            self._accounts.tell(line, "kept")
            self._failures.expect(stored.expires)
            passage.kept()
        if cause is None:
            if line.timer is None:
                self._wake(line)
        elif stored.attempts and line.count and not line.is_woken:
            line.is_busy = False
            self._pause(line)
        else:
            self._let_go(line)

    # --- who comes -------------------------------------------------------------------------------------

    def listens(self, tenant: str, device: str, *, for_its_devices: bool) -> None:
        """A link takes commands for a device now; `for_its_devices` also as a gateway for others."""
        if not self._is_open or not self._accounts.holds(tenant):
            return
        line = self._accounts.find(tenant, device)
        if line is not None:
            self._wake(line)
        if for_its_devices:
            self._database.submit(
                lambda db: rows.behind(db, tenant, device), partial(self._behind, tenant)
            )

    def _behind(self, tenant: str, found: list[str] | GatewayError) -> None:
        if isinstance(found, GatewayError):
            log.warning("commands behind a gateway not found", extra={"cause": found.message})
            return
        for device in found:
            line = self._accounts.find(tenant, device)
            if line is not None:
                self._wake(line)

    # --- a line moves ----------------------------------------------------------------------------------

    def _wake(self, line: Line) -> None:
        """Look whether a line can move; where it moves already, once more at its end."""
        line.stop_timer()
        line.is_woken = line.is_busy
        if line.is_busy or not self._is_open:
            return
        if not line.count:
            self._accounts.drop(line)
            return
        line.is_busy = True
        if self._moving >= MAX_UNDER_WAY:
            self._waiting.append(line)
        else:
            self._start(line)

    def _start(self, line: Line) -> None:
        self._moving += 1
        if line.over is not None:  # could not be noted before
            self._next(line)
        elif self._router is not None:
            self._router.is_reachable(line.tenant, line.device, partial(self._reached, line))

    def _reached(self, line: Line, is_reachable: bool) -> None:
        if is_reachable:
            self._next(line)
        else:
            self._rest(line)

    def _next(self, line: Line) -> None:
        """Note what became of the last command, and read the next one."""
        over, now = line.over, self._clock()

        def work(db: sqlite3.Connection) -> StoredCommand | None:
            if over is not None and over.failure is not None:
                rows.fail(db, over.sequence, over.failure)
            elif over is not None:
                rows.delete(db, (over.sequence,))
            return rows.first(db, line.tenant, line.device, now)

        self._database.submit(work, partial(self._read, line))

    def _read(self, line: Line, found: StoredCommand | GatewayError | None) -> None:
        if isinstance(found, GatewayError):
            log.warning("stored commands not read", extra={"cause": found.message})
            self._rest(line, tries_again=True)
            return
        over, line.over = line.over, None
        if over is not None:
            self._under_way.discard(over.sequence)
            if over.failure is None:
                self._accounts.add(line, -1, -over.size)
            else:
                self._failures.expect(0.0)
        if found is None or not self._is_open:
            self._rest(line)
            return
        self._under_way.add(found.sequence)
        self._send(line, found, partial(self._delivered, line, found, time.perf_counter()))

    def _delivered(
        self, line: Line, stored: StoredCommand, started: float, error: GatewayError | None
    ) -> None:
        """A command that was kept has an outcome."""
        failure = None if error is None else _failure(error)
        if error is None or failure is not None:
            line.was_sent, line.refusals = False, 0
            line.over = Over(stored.sequence, stored.size, failure)
            if error is None:
                self._accounts.tell(line, "delivered")
                self._conclude(stored.command, None, time.perf_counter() - started)
            self._next(line)
            return
        self._under_way.discard(stored.sequence)
        if not isinstance(error, NoConsumer):
            self._database.submit(
                lambda db: rows.note_attempt(db, stored.sequence), lambda _result: None
            )
        self._rest(line, tries_again=True)

    def _rest(self, line: Line, *, tries_again: bool = False) -> None:
        """A line stops moving; another one may."""
        self._moving -= 1
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._start, self._waiting.popleft())
        if tries_again and not line.is_woken:
            line.is_busy = False
            self._pause(line)
        else:
            self._let_go(line)

    def _let_go(self, line: Line) -> None:
        line.is_busy = False
        if line.is_woken or not line.count:
            self._wake(line)

    def _pause(self, line: Line) -> None:
        """Try again after a while, if a link is there then; a new one is not waited for."""
        if self._is_open:
            pause = min(self._first_pause * 2**line.refusals, LONGEST_PAUSE)
            line.refusals = min(line.refusals + 1, 16)
            line.timer = asyncio.get_running_loop().call_later(pause, self._wake, line)

    # --- operators, registry ---------------------------------------------------------------------------

    async def page(
        self, tenant: str, device: str | None, *, after: int, limit: int
    ) -> tuple[int, list[StoredCommand]]:
        """Return how many commands wait, and some of them, from behind sequence `after`.

        Errors: StoreUnavailable.
        """
        now = self._clock()
        return await self._database.read(
            lambda db: rows.page(db, tenant, device, now, after=after, limit=limit)
        )

    async def give_up(self, tenant: str, device: str | None, command_id: str | None = None) -> int:
        """Delete what waits of a tenant, a device, or one command; returns how many those were.

        Their applications are told. A command that a link has now may still be delivered.
        Errors: StoreUnavailable.
        """
        before = self._sequence + 1
        count = await self._database.write(
            lambda db: rows.fail_all(
                db, tenant, device, DELETED, before=before, command_id=command_id
            )
        )
        self._failures.expect(0.0)
        return count

    def changed(self, change: RegistryChange) -> None:
        """Give up the commands of what was deleted from the registry."""
        if (
            change.change is not Change.DELETE
            or change.subject is Subject.CREDENTIALS
            or not self._accounts.holds(change.tenant_id)
        ):
            return
        before = self._sequence + 1

        def noted(result: int | GatewayError) -> None:
            if isinstance(result, GatewayError):
                log.warning("commands of a deleted device stay", extra={"cause": result.message})
            else:
                self._failures.expect(0.0)

        self._database.submit(
            lambda db: rows.fail_all(
                db, change.tenant_id, change.device_id, rows.DEVICE_GONE, before=before
            ),
            noted,
        )

    # --- accounts --------------------------------------------------------------------------------------

    def _over(self, stored: StoredCommand, told: Told, error: GatewayError) -> None:
        """A command that failed has left the disk."""
        command = stored.command
        line = self._accounts.line(command.tenant, command.device)
        self._accounts.add(line, -1, -stored.size)
        self._accounts.tell(line, told.value)
        self._conclude(command, error, 0.0)
        if not line.is_busy and not line.count:
            self._accounts.drop(line)

    def _conclude(self, command: Command, error: GatewayError | None, seconds: float) -> None:
        if self._router is not None:
            self._router.conclude(command, error, seconds)


def _failure(error: GatewayError) -> tuple[int, str] | None:
    """Return status and text of an outcome that is final; None where the same may succeed later."""
    is_final = isinstance(error, Rejected) and error.status != 429
    if isinstance(error, NotProcessed) and error.details.get("undeliverable_here") is True:
        is_final = True
    if not is_final:
        return None
    verdict = verdict_of(error)
    return verdict.status, verdict.text
