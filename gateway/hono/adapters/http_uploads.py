"""Uploads over HTTP, and the wait for a command that some of them ask for.

An upload with a time to wait listens for commands from before it is forwarded until it is answered; the
first command travels in that answer, later ones are released. A device that hangs up releases its command.
Source: Hono, HTTP Adapter user guide, Command & Control.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from gateway.errors import GatewayError, NoConsumer, Undeliverable
from gateway.hono.adapters.http_messages import ACCEPTED, command_response, error_response
from gateway.hono.adapters.http_server import Exchange, Response
from gateway.hono.adapters.http_shell import HttpShell
from gateway.hono.ingress import IngressService
from gateway.hono.meters import Ttd
from gateway.hono.registry_view import RegistryView
from gateway.hono.routes import resolve_address
from gateway.model.message import DeviceCommand, Upload
from gateway.model.ports import CommandRouting, Done
from gateway.model.registry import Tenant

MAX_TTD_OF_IDLE = 0.8
"""The part of the idle time-out that a wait for a command may take."""


def any_command(_command: DeviceCommand) -> None:
    """Every command can be taken."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What an adapter says to uploads.

    Shape:  `accepted` without a command; `command` renders one; `check` raises what the application is told
            of a command that the adapter has no way to say.
    """

    accepted: Response = ACCEPTED
    command: Callable[[DeviceCommand], Response] = command_response
    check: Callable[[DeviceCommand], None] = any_command


ANSWERS = Answers()


class _Wait:
    """One upload that waits for a command: the link of its device for that time.

    Ends in exactly one of: a command in the answer, an answer without one, an error, the peer gone.
    """

    __slots__ = (
        "_command",
        "_end",
        "_exchange",
        "_is_over",
        "_started",
        "_timer",
        "_upload",
        "_uploads",
    )

    def __init__(self, uploads: Uploads, exchange: Exchange, upload: Upload) -> None:
        self._uploads = uploads
        self._exchange = exchange
        self._upload = upload
        self._started = time.perf_counter()
        self._command: tuple[DeviceCommand, Done] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        exchange.on_gone = self._gone
        self._end: Callable[[], None] = lambda: None

    def begin(self, tenant: str, device: str, gateway: str | None) -> None:
        """Listen, then forward the upload."""
        uploads = self._uploads
        self._end = uploads.commands.subscribe(
            tenant, device, self, adapter=self._upload.adapter, gateway=gateway, announce=False
        )
        uploads.ingress.submit(self._upload, self._forwarded)

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        """Take the first command; it is accepted once the answer is written.

        Errors: what the adapter's `check` raises.
        """
        if self._is_over or self._command is not None:
            done(NoConsumer())
            return
        self._uploads.answers.check(command)
        self._command = (command, done)
        if self._timer is not None:
            self._answer()

    def _forwarded(self, error: GatewayError | None) -> None:
        if self._is_over:
            return
        if error is not None:
            self._over(error, Ttd.NONE)
            self._uploads.shell.answer(self._exchange, error_response(error))
            return
        wait = float(self._upload.ttd or 0)
        self._timer = asyncio.get_running_loop().call_later(wait, self._answer)
        if self._command is not None:
            self._answer()

    def _answer(self) -> None:
        answers, shell = self._uploads.answers, self._uploads.shell
        taken, self._command = self._command, None
        if taken is None:
            self._over(None, Ttd.EXPIRED)
            shell.answer(self._exchange, answers.accepted)
            return
        self._over(None, Ttd.COMMAND)
        command, done = taken
        shell.answer(
            self._exchange,
            answers.command(command),
            lambda is_written: done(None if is_written else _hung_up()),
        )

    def _gone(self) -> None:
        if not self._is_over:
            self._over(None, Ttd.NONE)

    def _over(self, error: GatewayError | None, ttd: Ttd) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._end()
        self._uploads.ingress.record_waited(self._upload, error, self._started, ttd)
        if self._command is not None:
            _, done = self._command
            self._command = None
            done(_hung_up())


def _hung_up() -> Undeliverable:
    return Undeliverable("the device did not wait for the command")


class Uploads:
    """Forwards the uploads of one adapter and answers them.

    Units:  `idle_timeout` in seconds: an answer must come before a connection counts as idle.
    """

    def __init__(
        self,
        shell: HttpShell,
        registry: RegistryView,
        ingress: IngressService,
        commands: CommandRouting,
        *,
        idle_timeout: float,
        answers: Answers = ANSWERS,
    ) -> None:
        self.shell = shell
        self.ingress = ingress
        self.commands = commands
        self.answers = answers
        self._registry = registry
        self._longest = int(idle_timeout * MAX_TTD_OF_IDLE)

    def submit(self, exchange: Exchange, upload: Upload, ttd: int | None) -> None:
        """Forward an upload; with `ttd` (seconds) its device waits for a command.

        Errors: BadRequest or Forbidden for an address that is none; others are answered.
        """
        if ttd is None:
            self.ingress.submit(upload, partial(self.forwarded, exchange))
            return
        tenant, device, gateway = resolve_address(upload.principal, upload.tenant, upload.device)
        self._registry.find_tenant(
            tenant, lambda found: self._wait(exchange, upload, (device, gateway), ttd, found)
        )

    def forwarded(self, exchange: Exchange, error: GatewayError | None) -> None:
        """Answer what was forwarded."""
        answer = self.answers.accepted if error is None else error_response(error)
        self.shell.answer(exchange, answer)

    def _wait(
        self,
        exchange: Exchange,
        upload: Upload,
        listener: tuple[str, str | None],
        ttd: int,
        found: Tenant | GatewayError,
    ) -> None:
        if isinstance(found, GatewayError):
            self.shell.answer(exchange, error_response(found))
            return
        if exchange.is_over:  # the device hung up while it was looked up: nobody waits
            self.ingress.submit(upload, partial(self.forwarded, exchange))
            return
        effective = min(ttd, found.adapter(upload.adapter).max_ttd, self._longest)
        device, gateway = listener
        waiting = _Wait(self, exchange, msgspec.structs.replace(upload, ttd=effective))
        waiting.begin(found.tenant_id, device, gateway)
