"""Uploads over HTTP, and the wait for a command that some of them ask for.

Source: Hono, HTTP Adapter user guide, Command & Control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from gateway.errors import GatewayError
from gateway.hono.adapters.command_waits import CommandWait
from gateway.hono.adapters.http_messages import ACCEPTED, command_response, error_response
from gateway.hono.adapters.http_server import Exchange, Response
from gateway.hono.adapters.http_shell import HttpShell
from gateway.hono.ingress import IngressService
from gateway.hono.registry_view import RegistryView
from gateway.hono.routes import resolve_address
from gateway.model.message import DeviceCommand, Upload
from gateway.model.ports import CommandRouting
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


class _Answering:
    """The port `Answering` of one exchange."""

    __slots__ = ("_answers", "_exchange", "_shell")

    def __init__(self, shell: HttpShell, answers: Answers, exchange: Exchange) -> None:
        self._shell = shell
        self._answers = answers
        self._exchange = exchange

    def command(self, command: DeviceCommand) -> Response:
        """Errors: what the adapter's `check` raises."""
        self._answers.check(command)
        return self._answers.command(command)

    def nothing(self) -> Response:
        return self._answers.accepted

    def refusal(self, error: GatewayError) -> Response:
        return error_response(error)

    def send(self, answer: Response, written: Callable[[bool], None] | None = None) -> None:
        self._shell.answer(self._exchange, answer, written)


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
        upload = msgspec.structs.replace(upload, ttd=effective)
        answering = _Answering(self.shell, self.answers, exchange)
        waiting = CommandWait(self.ingress, self.commands, upload, answering)
        exchange.on_gone = waiting.gone
        waiting.begin(found.tenant_id, device, gateway)
