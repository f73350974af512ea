"""Watches the event loop, how late it runs what is due, and the process around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.observe.metrics import Metrics

PERIOD = 0.5


class LoopMonitor:
    """Module: measures the loop's lag twice a second; hears of pauses and log lines."""

    name = "loop-monitor"

    def __init__(self, metrics: Metrics) -> None:
        self._lag = metrics.loop_lag_seconds
        self._process = metrics.process

    async def run(self, ready: Callable[[], None]) -> None:
        with self._process.watching():
            ready()
            await self._measure()

    async def _measure(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due = now() + PERIOD
            await asyncio.sleep(PERIOD)
            self._lag.observe(max(0.0, now() - due))
