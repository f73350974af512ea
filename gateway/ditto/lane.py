"""A lane: the commands of one thing or policy, decided in order, answered in order, committed in groups.

A command is decided on the newest state in memory, which may not be durable yet; its answer waits until
everything decided before it in this lane is durable. So many writers share one commit, and nobody sees
what might still be lost. When a write fails, all that was decided after it is refused and the state is read
from the store again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from gateway.errors import GatewayError, StoreUnavailable

log = logging.getLogger(__name__)

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)
Done = Callable[[Any], None]
Resume = Callable[["GatewayError | None"], None]

_OPEN: Final = object()


class Wait(Exception):
    """Raised by a step that needs something first: `begin(resume)` starts to fetch it.

    `resume(None)` runs the same command again; `resume(error)` answers it with the error.
    """

    def __init__(self, begin: Callable[[Resume], None]) -> None:
        super().__init__()
        self.begin = begin


class Pending:
    """A command that was decided; its answer is given when it is its turn."""

    __slots__ = ("answer", "done", "is_write", "lane")

    def __init__(self, lane: Lane[Any], done: Done) -> None:
        self.lane = lane
        self.done = done
        self.answer: object = _OPEN
        self.is_write = False

    def settle(self, answer: object) -> None:
        """Tell a write's outcome; an error breaks the lane."""
        self.lane.settle(self, answer)


class Owner(Protocol[C_contra]):
    """Whose state a lane's commands are decided on."""

    def step(self, command: C_contra, pending: Pending, /) -> object | None:
        """Return the answer, or None after starting a write that will call `pending.settle`.

        Errors: GatewayError to refuse; Wait to be called again.
        """

    def forget(self) -> None:
        """Forget the state after a failed write."""


class Lane(Generic[C]):
    """Commands in order.

    There is one for each thing in memory: an idle one holds nothing, and its queues are lists, which are
    short and cost nothing while they are empty.
    """

    __slots__ = ("_blocked", "_broken", "_busy", "_in_flight", "_owner", "_waiting")

    def __init__(self, owner: Owner[C]) -> None:
        self._owner = owner
        self._waiting: list[tuple[C, Done]] = []
        self._in_flight: list[Pending] = []
        self._blocked = False
        self._busy = False
        self._broken: GatewayError | None = None

    @property
    def depth(self) -> int:
        """Commands that wait to be decided."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """True when nothing waits and nothing is under way."""
        return not self._waiting and not self._in_flight

    def push(self, command: C, done: Done) -> None:
        """Add a command; `done` gets its answer or a GatewayError."""
        self._waiting.append((command, done))
        self._drain()

    def _drain(self) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting and not self._blocked:
                self._next()
        finally:
            self._busy = False

    def _next(self) -> None:
        command, done = self._waiting[0]
        pending = Pending(self, done)
        self._in_flight.append(pending)
        try:
            answer = self._owner.step(command, pending)
        except Wait as wait:
            self._in_flight.pop()
            self._blocked = True
            wait.begin(self._resume)
            return
        except GatewayError as error:
            answer = error
        except Exception:  # top of one command: those behind it go on
            log.exception("command failed")
            answer = GatewayError()
        del self._waiting[0]
        if answer is not None:
            pending.answer = answer
        self._flush()

    def _resume(self, error: GatewayError | None) -> None:
        if error is not None and self._waiting:
            _, done = self._waiting.pop(0)
            pending = Pending(self, done)
            pending.answer = error
            self._in_flight.append(pending)
        self._flush()
        if self._broken is not None:
            return
        self._blocked = False
        self._drain()

    def settle(self, pending: Pending, answer: object) -> None:
        """See `Pending.settle`."""
        if isinstance(answer, GatewayError) and self._broken is None:
            self._broken = answer if isinstance(answer, StoreUnavailable) else StoreUnavailable()
            self._blocked = True
        pending.answer = answer
        self._flush()
        self._mend()

    def _mend(self) -> None:
        """Once all that was decided on a lost state is answered, begin again from the store."""
        if self._broken is not None and not self._in_flight:
            self._broken = None
            self._owner.forget()
            self._resume(None)

    def _flush(self) -> None:
        while self._in_flight and self._in_flight[0].answer is not _OPEN:
            pending = self._in_flight.pop(0)
            broken = self._broken
            if broken is not None and not pending.is_write:
                pending.done(broken)  # it was read from a state that never became durable
            else:
                pending.done(pending.answer)
