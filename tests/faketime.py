"""A clock of a process that jumps when a test says so, by Debian's libfaketime; its timers go on evenly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

_LIBRARY = "faketime/libfaketimeMT.so.1"


def _library() -> Path:
    found = sorted(Path("/usr/lib").glob(f"*/{_LIBRARY}"))
    if not found:
        pytest.skip("NOT RUN: libfaketime is not installed; scripts/debian-packages.sh installs it")
    return found[0]


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of what is started with `prefix`."""

    file: Path

    def jump(self, offset: str) -> None:
        """Set the clock to this offset from the true one: `+1h`, `-1h`, `+0`."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{offset}\n")
        fresh.replace(self.file)

    @property
    def prefix(self) -> tuple[str, ...]:
        """What starts a program with this clock."""
        return (
            "env",
            f"LD_PRELOAD={_library()}",
            f"FAKETIME_TIMESTAMP_FILE={self.file}",
            "FAKETIME_CACHE_DURATION=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "DONT_FAKE_MONOTONIC=1",
        )


def a_clock(file: Path) -> Clock:
    """A clock that goes right."""
    clock = Clock(file)
    clock.jump("+0")
    return clock
