"""`plots`: the list, and the points of one."""

from __future__ import annotations

import time
from typing import Final

from aiohttp import web

from gateway.console.guard import Call, answer
from gateway.console.plots import BY_ID, NODE_PLOTS, PLOTS
from gateway.console.prometheus import MAX_POINTS, Prometheus
from gateway.console.sampler import STEP_SECONDS, Sampler
from gateway.errors import NotFound
from gateway.model.json import Json

RING_SECONDS: Final = 3_600
OWN_RANGES: Final[list[Json]] = [300, 900, 3_600]
LONG_RANGES: Final[list[Json]] = [21_600, 86_400, 604_800]


class PlotRoutes:
    """The handlers."""

    def __init__(self, sampler: Sampler, prometheus: Prometheus | None) -> None:
        self._sampler = sampler
        self._prometheus = prometheus

    async def list(self, _call: Call) -> web.StreamResponse:
        has_more = self._prometheus is not None
        return answer(
            {
                "items": [plot.told() for plot in PLOTS],
                "nodes": [plot.told() for plot in NODE_PLOTS],
                "ranges": OWN_RANGES + (LONG_RANGES if has_more else []),
                "step": STEP_SECONDS,
                "prometheus": has_more,
            }
        )

    async def show(self, call: Call) -> web.StreamResponse:
        """Errors: NotFound; BadRequest; Undeliverable when Prometheus does not answer."""
        plot = BY_ID.get(call.part("id"))
        if plot is None:
            raise NotFound("There is no such plot.", code="console:plot.notfound")
        of_node = (call.query("node"),) if plot in NODE_PLOTS else ()
        most = 604_800 if self._prometheus is not None and not of_node else RING_SECONDS
        seconds = call.number("range", 900, most, 60)
        end = time.time()
        step: float = STEP_SECONDS
        if self._prometheus is not None and seconds > RING_SECONDS:
            step = max(15, seconds // MAX_POINTS)
            series = await self._prometheus.series(plot, end - seconds, end, int(step))
            source = "prometheus"
        else:
            series = self._sampler.shown(plot, seconds, *of_node)
            source = "process"
        return answer(
            {
                "id": plot.id,
                "range": seconds,
                "step": step,
                "start": round(end - seconds, 1),
                "end": round(end, 1),
                "source": source,
                "series": [*series],
                "truncated": False,
            }
        )
