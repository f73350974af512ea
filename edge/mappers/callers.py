"""One run of a mapper's process, as those who wait for its answers see it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edge.mappers.driver import DeviceUnreachable
from edge.mappers.link import Cancel, Done, LinkBroken, ToChild, send

ENDED = "the mapper's process has ended; it is started again"


@dataclass(slots=True, eq=False)
class Link:
    """One run of a process, as its callers see it."""

    writer: asyncio.StreamWriter
    calls: dict[int, asyncio.Future[Done]] = field(default_factory=dict)
    changed: dict[int, Callable[[], None]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    is_open: bool = True

    def say(self, frame: ToChild) -> None:
        if not self.is_open:
            raise DeviceUnreachable(ENDED)
        try:
            send(self.writer, frame)
        except LinkBroken as error:
            raise DeviceUnreachable(f"the mapper's process: {error}") from error

    async def ask(self, make: Callable[[int], ToChild]) -> Done:
        """Send a call and wait for its answer. Errors: of the call; DeviceUnreachable."""
        number = next(self.numbers)
        answer: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self.calls[number] = answer
        try:
            self.say(make(number))
            return await answer
        except asyncio.CancelledError:
            with contextlib.suppress(DeviceUnreachable):
                self.say(Cancel(number))
            raise
        finally:
            self.calls.pop(number, None)

    def end(self) -> None:
        """Nothing comes over this link any more: who waits, and who would, is told."""
        self.is_open = False
        for answer in self.calls.values():
            if not answer.done():  # each its own: who raises an error writes into it
                answer.set_exception(DeviceUnreachable(ENDED))
        for changed in list(self.changed.values()):
            changed()
