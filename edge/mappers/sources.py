"""When a device's value is from: the device's own time where it can be true, else this node's."""

from __future__ import annotations

from edge.mappers.driver import Reading

MAX_AHEAD_MS = 60_000
"""A device's clock may be this far ahead of the node's."""
EARLIEST_MS = 1_577_836_800_000
"""2020-01-01: clocks that were never set count from 1970, 1980 or 2000."""


def source_time(reading: Reading, now: int) -> tuple[int, str]:
    """Return when the value is from, Unix ms, and what is wrong with the device's clock, "" for nothing.

    A value from the future, or from before 2020, gets the node's time: the value may be right, its clock is
    not. Old values within reason keep their time: a device that kept them while it was away says when.
    """
    if not reading.at:
        return now, ""
    if reading.at > now + MAX_AHEAD_MS:
        return (
            now,
            f"the device's clock is {_much(reading.at - now)} ahead; this node's time is used",
        )
    if reading.at < EARLIEST_MS:
        return now, "the device's clock is not set; this node's time is used"
    return reading.at, ""


def _much(millis: int) -> str:
    """Return a time coarsely: a fault's text must not change with every reading."""
    sizes = ((86_400_000, "days"), (3_600_000, "hours"))
    return next((word for size, word in sizes if millis >= size), "minutes")
