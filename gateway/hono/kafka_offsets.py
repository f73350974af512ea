"""Which offset of a partition may be committed: that after the last record before which all have an outcome.

Records end in any order; a crash may bring those again that had not all ended (at least once). A partition
that was taken away is forgotten: what ends later commits nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Partition: TypeAlias = tuple[str, int]


@dataclass(slots=True, eq=False)
class Ticket:
    """One record that was read."""

    partition: Partition
    offset: int
    is_done: bool = False


class Offsets:
    """The records of each partition in the order of reading, from the oldest without an outcome on."""

    def __init__(self) -> None:
        self._lines: dict[Partition, deque[Ticket]] = {}

    def begin(self, partition: Partition, offset: int) -> Ticket:
        """Note a record; the caller ends it once."""
        ticket = Ticket(partition, offset)
        self._lines.setdefault(partition, deque()).append(ticket)
        return ticket

    def end(self, ticket: Ticket) -> int | None:
        """Note an outcome; returns the offset to commit, None where there is no new one."""
        ticket.is_done = True
        line = self._lines.get(ticket.partition)
        committable = None
        while line and line[0].is_done:
            committable = line.popleft().offset + 1
        return committable

    def under_way(self, partitions: Iterable[Partition]) -> int:
        """Return how many records of these partitions have no outcome."""
        return sum(len(self._lines.get(partition, ())) for partition in partitions)

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Let go of partitions that are not ours any more."""
        for partition in partitions:
            self._lines.pop(partition, None)
