"""What a look at this machine finds: one line each, with the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that was looked at. Shape: `state` ok, warn or fail; `mend` "" when all is well."""

    name: str
    state: str
    text: str
    mend: str = ""
