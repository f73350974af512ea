"""Which trace a command was sent in, so that a device's answer, which cannot say so, is part of it.

Bounded: of more commands than `MOST` that wait for answers, the oldest are forgotten; their answers begin
traces of
their own, as they do with Hono.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from gateway.model.message import Command, CommandResponse
from gateway.model.trace import TraceContext

MOST: Final = 10_000

_Key = tuple[str, str, str]


class AskedTraces:
    """Commands that wait for an answer, and their traces."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._traces: OrderedDict[_Key, TraceContext] = OrderedDict()

    def note(self, command: Command, trace: TraceContext) -> None:
        """A command goes out."""
        if command.is_one_way or not command.correlation_id:
            return
        self._traces[command.tenant, command.device, command.correlation_id] = trace
        if len(self._traces) > self._most:
            self._traces.popitem(last=False)

    def of(self, response: CommandResponse) -> TraceContext | None:
        """Return the trace of an answer: what the device says, else its command's."""
        key = (response.tenant, response.device, response.correlation_id)
        asked = self._traces.pop(key, None)
        return response.trace or asked
