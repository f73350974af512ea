"""One property of a connected device: when it is read, reported and written, and what it said last. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge.mappers.driver import Quality, Reading
from gateway.wire.cloudedge.twins import TwinValue, ValueMetadata
from gateway.wire.cloudedge.values import PropertyType, ValueRule

DEFAULT_COLLECT_MS: Final = 1_000
SHORTEST_MS: Final = 100
REWRITE_SECONDS = 30.0
"""Pause before a wanted value is written again that the device took but shows otherwise."""
NO_VALUE: Final = "the device gives no value that can be used"
_SLACK: Final = {PropertyType.INT: 0.0, PropertyType.DOUBLE: 0.0, PropertyType.FLOAT: 1e-6}
"""Types with bounds, and which part of a bound a value may lie beyond it: 0.1 in 32 bits is above 0.1."""


@dataclass(slots=True)
class PropertyState:
    """Schedule and last report of one property; times are of the loop's clock, in seconds."""

    collect: float
    report: float
    next_collect: float = 0.0
    next_report: float = 0.0
    text: str | None = None
    quality: Quality = Quality.GOOD
    at: int = 0
    """When the value is from, Unix ms."""
    reported: tuple[str, Quality] | None = None
    misfit: str | None = None
    """A reported value that the twin refused."""
    has_fault: bool = True
    """May have a fault; true at first: an earlier connection may have left one."""
    refused: str | None = None
    """A wanted value that the device refused: not tried again until another one is wanted."""
    written: str | None = None
    """The latest wanted value that the device took, and when to write it again."""
    next_write: float = 0.0
    is_kept: bool = False
    """The driver has it still, for a device that sleeps."""
    waits: bool = True
    """A wanted value may wait for a sleeping device, and its fault say so; true at first, as above."""

    def may_write(self, text: str, now: float) -> bool:
        """Say whether a wanted value is to be written now.

        What the device took is repeated where it shows another value, or keeps it for later; a property that
        cannot be read shows nothing, so its value is written once for each connection.
        """
        if text == self.refused:
            return False
        is_doubtful = self.is_kept or self.text is not None
        return text != self.written or (is_doubtful and now >= self.next_write)

    @property
    def value(self) -> TwinValue:
        """The reported value; a good one needs no mark."""
        mark = "" if self.quality is Quality.GOOD else self.quality.value
        return TwinValue(value=self.text, metadata=ValueMetadata(timestamp=self.at, quality=mark))

    def is_due(self, now: float) -> bool:
        """Say whether it is to be reported: each report cycle, or on change where there is none."""
        if self.text is None:
            return False
        return (
            self.next_report <= now if self.report else (self.text, self.quality) != self.reported
        )

    def took(self, text: str, now: float, *, is_later: bool = False) -> None:
        """The device took a value, or keeps it for later: it is read and reported at once."""
        self.next_collect = self.next_report = 0.0
        self.refused, self.is_kept = None, is_later
        self.written, self.next_write = text, now + REWRITE_SECONDS


def judged(rule: ValueRule | None, reading: Reading) -> tuple[Quality, str]:
    """Return how far a reading can be trusted by the model, and what is wrong with it."""
    if reading.quality is Quality.BAD:
        return Quality.BAD, reading.why or NO_VALUE
    fault = beyond(rule, reading.text)
    return Quality.UNCERTAIN if fault else reading.quality, fault


def beyond(rule: ValueRule | None, text: str) -> str:
    """Say which of the model's bounds a reported value lies beyond, "" for none; the same words each time."""
    if rule is None or (rule.minimum is None and rule.maximum is None) or rule.type not in _SLACK:
        return ""
    try:
        number = float(text)
    except ValueError:
        return ""  # the twin refuses it and says why
    slack = _SLACK[rule.type]
    if rule.minimum is not None and number < rule.minimum - slack * abs(rule.minimum):
        return f"a value below the model's minimum of {rule.minimum:g}"
    if rule.maximum is not None and number > rule.maximum + slack * abs(rule.maximum):
        return f"a value above the model's maximum of {rule.maximum:g}"
    return ""
