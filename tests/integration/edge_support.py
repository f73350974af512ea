"""What the tests of the edge share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE = 30.0


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for a condition that other code on this loop makes true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  the condition has no event of its own
            await asyncio.sleep(0.002)
