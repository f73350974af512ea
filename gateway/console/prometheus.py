"""Plots of more than an hour, from a Prometheus that scrapes this process. Only the closed list is asked."""

from __future__ import annotations

import asyncio
import math
from typing import Final

import aiohttp
import msgspec

from gateway.console.plots import Plot
from gateway.console.series import MAX_SERIES
from gateway.errors import Undeliverable
from gateway.model.json import Json, JsonObject

TIMEOUT_SECONDS: Final = 10.0
MAX_ANSWER: Final = 8_388_608
MAX_POINTS: Final = 720
MAX_AT_ONCE: Final = 4


class Prometheus:
    """One server. Shape: `url` without a path of its API, e.g. `http://prometheus:9090`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/api/v1/query_range"
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)

    async def series(self, plot: Plot, start: float, end: float, step: int) -> list[JsonObject]:
        """Return the points of a plot. Errors: Undeliverable when the server does not tell them."""
        query = {
            "query": plot.expression(max(60, 4 * step)),
            "start": f"{start:.0f}",
            "end": f"{end:.0f}",
            "step": str(step),
        }
        async with self._turns:
            found = await self._ask(query)
        result = _part(_part(found, "data"), "result")
        rows = result if isinstance(result, list) else []
        return [_series(plot, row) for row in rows[:MAX_SERIES] if isinstance(row, dict)]

    async def _ask(self, query: dict[str, str]) -> Json:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
                session.get(self._url, params=query, allow_redirects=False) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise _failed("its answer is too long")
                if response.status != 200:
                    raise _failed(f"status {response.status}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise _failed(str(error) or "no answer") from error
        try:
            found: Json = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _failed("its answer is no JSON") from error
        return found


def _part(value: Json, name: str) -> Json:
    return value.get(name) if isinstance(value, dict) else None


def _series(plot: Plot, row: JsonObject) -> JsonObject:
    labels, values = row.get("metric"), row.get("values")
    known = labels if isinstance(labels, dict) else {}
    points = values if isinstance(values, list) else []
    return {
        "labels": {name: str(known.get(name, "")) for name in plot.by},
        "points": [
            [each[0], _number(each[1])]
            for each in points[: 2 * MAX_POINTS]
            if isinstance(each, list) and len(each) == 2
        ],
    }


def _number(text: Json) -> float | None:
    try:
        found = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _failed(why: str) -> Undeliverable:
    return Undeliverable(
        f"console.prometheus: {why[:300]}",
        code="console:prometheus.unavailable",
        description="Ranges of up to an hour do not need it.",
    )
