"""How often Python looks for cycles among objects that stay, and how much threads keep for themselves."""

from __future__ import annotations

import ctypes
import gc

RARELY = (20_000, 20, 50)
"""Thresholds of the three generations; a walk over everything comes after 20 million new containers."""
ARENAS = 2
_ARENA_MAX = -8
"""glibc's name of the setting, `M_ARENA_MAX`."""


def collect_rarely() -> None:
    """Look for garbage seldom, from the first import on: what a start makes nearly all stays.

    By Python's own thresholds a start with 10,000 Kubernetes objects spent half of its time on walks over
    objects that were there to stay.
    """
    gc.set_threshold(*RARELY)


def settle_memory() -> None:
    """Tell the garbage collector that what start-up made will stay.

    A gateway keeps a large, stable heap: walking it every 700 allocations cost a third of the time of a
    relayed message.
    """
    gc.collect()
    gc.freeze()
    collect_rarely()


def share_arenas() -> None:
    """Let threads that begin from now on share two of the C library's arenas, where it is glibc.

    A library with a dozen threads of its own otherwise has a heap for each: 3 MB of an edge agent.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, ARENAS)
