"""How measured times spread, small enough to be sent each second and added up over processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

STEP = 1.02
"""Neighbouring buckets differ by this factor: a percentile is that exact."""
_LOG_STEP = math.log(STEP)


@dataclass(slots=True)
class Spread:
    """Counts of values by size; `cells` maps a bucket to its count.

    Units:  the caller's; values below 0.001 count as 0.001.
    """

    cells: dict[int, int] = field(default_factory=dict)

    def add(self, value: float) -> None:
        cell = round(math.log(max(value, 0.001)) / _LOG_STEP)
        self.cells[cell] = self.cells.get(cell, 0) + 1

    def merge(self, cells: Mapping[int, int]) -> None:
        """Take in another spread's cells."""
        for cell, count in cells.items():
            self.cells[cell] = self.cells.get(cell, 0) + count

    @property
    def count(self) -> int:
        return sum(self.cells.values())

    def at(self, part: float) -> float | None:
        """Return the value that this part (0 to 1) of all is not above; None without any."""
        left = math.ceil(self.count * part)
        for cell in sorted(self.cells):
            left -= self.cells[cell]
            if left <= 0:
                return math.exp(cell * _LOG_STEP)
        return None

    def clear(self) -> None:
        self.cells.clear()
