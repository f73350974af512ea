"""An upload over CoAP that waits for a command: it listens from before it is forwarded until its answer.

The first command travels in the answer and is accepted when the device has it: with the acknowledgement that
carries the answer, or with the device's own acknowledgement of an answer that was sent apart. Later commands
are released.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from gateway.errors import GatewayError, NoConsumer, Rejected, Undeliverable
from gateway.hono.adapters.coap_exchanges import Exchange, Written
from gateway.hono.adapters.coap_messages import (
    DONE,
    Resource,
    Response,
    command_response,
    error_response,
)
from gateway.hono.ingress import IngressService
from gateway.hono.meters import Ttd
from gateway.model.message import Adapter, DeviceCommand, Upload
from gateway.model.ports import CommandRouting, Done


class Rooms(Protocol):
    """What a wait needs of its adapter."""

    ingress: IngressService
    commands: CommandRouting

    def answer(
        self, exchange: Exchange, response: Response, written: Written | None = None
    ) -> None: ...


class Wait:
    """One waiting upload: the link of its device for that time.

    Ends in exactly one of: a command in the answer, an answer without one, an error, the peer gone.
    """

    __slots__ = (
        "_command",
        "_end",
        "_exchange",
        "_is_over",
        "_resource",
        "_rooms",
        "_started",
        "_timer",
        "_upload",
    )

    def __init__(
        self, rooms: Rooms, exchange: Exchange, upload: Upload, resource: Resource
    ) -> None:
        self._rooms = rooms
        self._exchange = exchange
        self._upload = upload
        self._resource = resource
        self._started = time.perf_counter()
        self._command: tuple[Response, Done] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self._end: Callable[[], None] = lambda: None
        exchange.on_gone = self._gone

    def begin(self, tenant: str, device: str, gateway: str | None) -> None:
        """Listen, then forward the upload."""
        self._end = self._rooms.commands.subscribe(
            tenant, device, self, adapter=Adapter.COAP, gateway=gateway, announce=False
        )
        self._rooms.ingress.submit(self._upload, self._forwarded)

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        """Take the first command that fits."""
        if self._is_over or self._command is not None:
            done(NoConsumer())
            return
        is_authenticated = self._upload.principal is not None
        try:
            response = command_response(command, self._resource, is_authenticated=is_authenticated)
        except Rejected as error:
            done(error)
            return
        self._command = (response, done)
        if self._timer is not None:
            self._answer()

    def _forwarded(self, error: GatewayError | None) -> None:
        if self._is_over:
            return
        if error is not None:
            self._over(error, Ttd.NONE)
            self._rooms.answer(self._exchange, error_response(error))
            return
        wait = float(self._upload.ttd or 0)
        self._timer = asyncio.get_running_loop().call_later(wait, self._answer)
        if self._command is not None:
            self._answer()

    def _answer(self) -> None:
        taken, self._command = self._command, None
        if taken is None:
            self._over(None, Ttd.EXPIRED)
            self._rooms.answer(self._exchange, DONE)
            return
        self._over(None, Ttd.COMMAND)
        response, done = taken
        self._rooms.answer(
            self._exchange,
            response,
            lambda is_written: done(None if is_written else _gone_away()),
        )

    def _gone(self) -> None:
        if not self._is_over:
            self._over(None, Ttd.NONE)

    def _over(self, error: GatewayError | None, ttd: Ttd) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._end()
        self._rooms.ingress.record_waited(self._upload, error, self._started, ttd)
        if self._command is not None:
            _, done = self._command
            self._command = None
            done(_gone_away())


def _gone_away() -> Undeliverable:
    return Undeliverable("the device did not wait for the command")
