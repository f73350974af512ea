"""An upload whose device waits for a command: it listens from before it is forwarded until it is answered.

The first command travels in the answer, and is accepted when the device has that answer, as its protocol can
tell; later commands are released. A device that goes releases its command.
Source: Hono, HTTP Adapter and CoAP Adapter user guides, Command & Control.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from gateway.errors import GatewayError, NoConsumer, Undeliverable
from gateway.hono.ingress import IngressService
from gateway.hono.meters import Ttd
from gateway.model.message import DeviceCommand, Upload
from gateway.model.ports import CommandRouting, Done

R = TypeVar("R")


class Answering(Protocol[R]):
    """How one request is answered in its protocol."""

    def command(self, command: DeviceCommand) -> R:
        """Put a command into the answer; raises what the application is told where it does not fit."""

    def nothing(self) -> R:
        """The answer without a command."""

    def refusal(self, error: GatewayError) -> R:
        """The answer to an upload that was not taken."""

    def send(self, answer: R, written: Callable[[bool], None] | None = None) -> None:
        """Send the answer; `written` hears whether the device has it."""


class CommandWait(Generic[R]):
    """One waiting upload: the link of its device for that time.

    Ends in exactly one of: a command in the answer, an answer without one, an error, the peer gone.
    """

    __slots__ = (
        "_answering",
        "_commands",
        "_end",
        "_ingress",
        "_is_over",
        "_started",
        "_taken",
        "_timer",
        "_upload",
    )

    def __init__(
        self,
        ingress: IngressService,
        commands: CommandRouting,
        upload: Upload,
        answering: Answering[R],
    ) -> None:
        self._ingress = ingress
        self._commands = commands
        self._upload = upload
        self._answering = answering
        self._started = time.perf_counter()
        self._taken: tuple[R, Done] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self._end: Callable[[], None] = lambda: None

    def begin(self, tenant: str, device: str, gateway: str | None) -> None:
        """Listen, then forward the upload."""
        self._end = self._commands.subscribe(
            tenant, device, self, adapter=self._upload.adapter, gateway=gateway, announce=False
        )
        self._ingress.submit(self._upload, self._forwarded)

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        """Take the first command that fits; it is accepted once the device has the answer."""
        if self._is_over or self._taken is not None:
            done(NoConsumer())
            return
        try:
            answer = self._answering.command(command)
        except GatewayError as error:
            done(error)
            return
        self._taken = (answer, done)
        if self._timer is not None:
            self._answer()

    def gone(self) -> None:
        """The device has gone before it was answered."""
        if not self._is_over:
            self._over(None, Ttd.NONE)

    def _forwarded(self, error: GatewayError | None) -> None:
        if self._is_over:
            return
        if error is not None:
            self._over(error, Ttd.NONE)
            self._answering.send(self._answering.refusal(error))
            return
        wait = float(self._upload.ttd or 0)
        self._timer = asyncio.get_running_loop().call_later(wait, self._answer)
        if self._taken is not None:
            self._answer()

    def _answer(self) -> None:
        taken, self._taken = self._taken, None
        if taken is None:
            self._over(None, Ttd.EXPIRED)
            self._answering.send(self._answering.nothing())
            return
        self._over(None, Ttd.COMMAND)
        answer, done = taken
        self._answering.send(answer, lambda is_there: done(None if is_there else _gone_away()))

    def _over(self, error: GatewayError | None, ttd: Ttd) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._end()
        self._ingress.record_waited(self._upload, error, self._started, ttd)
        if self._taken is not None:
            _, done = self._taken
            self._taken = None
            done(_gone_away())


def _gone_away() -> Undeliverable:
    return Undeliverable("the device did not wait for the command")
