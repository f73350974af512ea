"""One command on its way from its application to a device: ends once, at the latest when its time is up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeAlias

from gateway.errors import GatewayError, Undeliverable
from gateway.model.message import Command, CommandMark
from gateway.model.ports import Done
from gateway.model.registry import Tenant
from gateway.observe.tracing import Span

ROUTER = "hono-command-router"
ROUTING_SECONDS = 8.0
"""A command without an outcome after this time is released to the application."""

Account: TypeAlias = "Callable[[Walk, GatewayError | None], None]"


class Walk:
    """What is known of a command under way; `tenant` once it was found.

    Shape:  `is_kept` when it ends on disk and has its outcome later; `mark` where it is sent from there;
            `account` hears the outcome before `done`; `component` is who has it then, for the meters.
    """

    __slots__ = (
        "_account",
        "_done",
        "_timer",
        "command",
        "component",
        "is_kept",
        "mark",
        "span",
        "started",
        "tenant",
    )

    def __init__(
        self,
        command: Command,
        span: Span,
        account: Account,
        done: Done,
        mark: CommandMark | None = None,
    ) -> None:
        self._account = account
        self._done: Done | None = done
        self.command = command
        self.component = ROUTER
        self.mark = mark
        self.is_kept = False
        self.tenant: Tenant | None = None
        self.started = time.perf_counter()
        self.span = span
        self._timer = asyncio.get_running_loop().call_later(
            ROUTING_SECONDS, self.end, Undeliverable("no link took the command in time")
        )

    def hand_over(self) -> None:
        """Somebody else sees to it that this ends."""
        self._timer.cancel()

    def end(self, error: GatewayError | None) -> None:
        """Tell the outcome; what comes later is too late."""
        done, self._done = self._done, None
        if done is None:
            return
        self._timer.cancel()
        self.span.end(error)
        self._account(self, error)
        done(error)

    def kept(self) -> None:
        """The command is on disk: accepted."""
        self.is_kept = True
        self.span.event("kept")
        self.end(None)
