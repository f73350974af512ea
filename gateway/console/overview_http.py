"""`overview`: what this process is, how it does, and how much of everything there is."""

from __future__ import annotations

import platform
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from gateway.config.tree import Settings
from gateway.console.guard import Call, answer
from gateway.kube.typedata import KUBERNETES_VERSION
from gateway.model.json import JsonObject
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Readiness

MATCHED = {"ditto": "3.9", "hono": "2.7", "kubeedge": "1.23"}
"""The versions that this one matches."""


class Overview:
    """`parts` say what there is; `counts` what there is of it, those for operators apart."""

    def __init__(
        self,
        settings: Settings,
        readiness: Readiness,
        endpoints: Endpoints,
        parts: Callable[[], Mapping[str, bool]],
        counts: Callable[[], Awaitable[Mapping[str, int]]],
    ) -> None:
        self._settings = settings
        self._readiness = readiness
        self._endpoints = endpoints
        self._parts = parts
        self._counts = counts
        self._started = time.time()
        self._since = time.monotonic()

    async def show(self, call: Call) -> web.StreamResponse:
        states = self._readiness.states
        found: JsonObject = {
            "version": _own_version(),
            "started": round(self._started, 3),
            "uptime": round(time.monotonic() - self._since, 3),
            "healthy": all(states.values()),
            "demo": self._settings.demo,
            "parts": dict(self._parts()),
        }
        if call.session.operator is not None:
            found |= self._for_operators(states)
            found["counts"] = dict(await self._counts())
        return answer(found)

    def _for_operators(self, states: Mapping[str, bool]) -> JsonObject:
        settings = self._settings
        kube = {"kubernetes": KUBERNETES_VERSION, "python": platform.python_version()}
        return {
            "mode": {
                "hono": settings.hono.mode,
                "ditto": settings.ditto.mode,
                "kube": settings.kube.mode,
            },
            "modules": [
                {"name": name, "up": up, "facts": dict(self._readiness.facts(name))}
                for name, up in states.items()
            ],
            "endpoints": dict(self._endpoints.as_dict()),
            "versions": {**MATCHED, **kube},
        }


def _own_version() -> str:
    try:
        return version("twinspan")
    except PackageNotFoundError:
        return "unknown"
