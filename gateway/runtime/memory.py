"""How often Python looks for cycles among objects that stay."""

from __future__ import annotations

import gc

RARELY = (20_000, 20, 50)
"""Thresholds of the three generations; a walk over everything comes after 20 million new containers."""


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
