"""Health, status and who-am-I: the small answers around the API."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import hdrs, web

from gateway.ditto.endpoint import json_response, not_allowed
from gateway.ditto.request import ApiCall
from gateway.errors import NotBuilt
from gateway.model.json import Json, JsonObject


class OperationRoutes:
    """The handlers that concern no thing."""

    def __init__(self) -> None:
        self._started = datetime.now(UTC).isoformat().replace("+00:00", "Z")

    async def health(self, call: ApiCall) -> web.StreamResponse:
        """`/health`: this process answers, so it is up."""
        _only_get(call)
        return json_response({"status": "UP"})

    async def status(self, call: ApiCall) -> web.StreamResponse:
        """`/status` and `/overall/status`."""
        _only_get(call)
        return json_response({**_health_tree(), "startTime": self._started})

    async def status_health(self, call: ApiCall) -> web.StreamResponse:
        """`/status/health` and `/overall/status/health`."""
        _only_get(call)
        return json_response(_health_tree())

    async def whoami(self, call: ApiCall) -> web.StreamResponse:
        """`/api/2/whoami`: the caller's authorization subjects."""
        _only_get(call)
        subjects = call.subjects
        return json_response({"defaultSubject": subjects[0], "subjects": [*subjects]})

    async def not_built(self, call: ApiCall) -> web.StreamResponse:
        """Parts of Ditto's API that are not there say so."""
        raise NotBuilt(
            f"'{call.request.path[:200]}' is not built.",
            description="Twinspan's docs/compatibility.md lists what is there.",
        )


def _health_tree() -> JsonObject:
    children: list[Json] = [
        {"label": role, "status": "UP", "details": []}
        for role in ("things", "policies", "gateway", "connectivity", "thing-search")
    ]
    return {"label": "roles", "status": "UP", "children": children}


def _only_get(call: ApiCall) -> None:
    if call.request.method != hdrs.METH_GET:
        raise not_allowed(call.request.method, ("GET",))
