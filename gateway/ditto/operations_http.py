"""Health, status, statistics and who-am-I: the small answers around the API."""

from __future__ import annotations

from aiohttp import hdrs, web

from gateway.ditto.endpoint import json_response, not_allowed
from gateway.ditto.fresh import Fresh
from gateway.ditto.health import DOWN, UP, Health, cluster
from gateway.ditto.request import ApiCall
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.errors import NotBuilt
from gateway.model.json import JsonObject


class OperationRoutes:
    """The handlers that concern no single thing."""

    def __init__(self, things: ThingsService, policies: PoliciesService) -> None:
        self._things = things
        self._policies = policies
        self._health = Health(policies.store)
        self._total = Fresh(policies.store.total)

    async def health(self, call: ApiCall) -> web.StreamResponse:
        """`/health`: 503 when the store does not answer."""
        only_get(call)
        if await self._health.is_up():
            return json_response({"status": UP})
        return json_response({"status": DOWN}, 503)

    async def status(self, call: ApiCall) -> web.StreamResponse:
        """`/status` and `/overall/status`."""
        only_get(call)
        return json_response({**await self._health.tree(), **self._health.facts()})

    async def status_health(self, call: ApiCall) -> web.StreamResponse:
        """`/status/health` and `/overall/status/health`."""
        only_get(call)
        tree = await self._health.tree()
        return json_response(tree, 200 if tree["status"] == UP else 503)

    async def status_cluster(self, call: ApiCall) -> web.StreamResponse:
        """`/status/cluster` and `/overall/status/cluster`."""
        only_get(call)
        return json_response(cluster())

    async def total(self, call: ApiCall) -> web.StreamResponse:
        """`/stats/things` and `/stats/search`: all of them are in the search index."""
        only_get(call)
        return json_response({"allThingsCount": await self._total.get()})

    async def details(self, call: ApiCall) -> web.StreamResponse:
        """`/stats/things/details`: what is in memory, by kind and namespace."""
        only_get(call)
        kinds, namespaces = _wanted(call, "entity"), _wanted(call, "namespace")
        hot = {
            "thing": self._things.memory.namespaces(),
            "policy": self._policies.memory.namespaces(),
        }
        shown: JsonObject = {}
        for kind, counted in hot.items():
            if not kinds or kind in kinds:
                below: JsonObject = {
                    name: count
                    for name, count in sorted(counted.items())
                    if not namespaces or name in namespaces
                }
                shown[kind] = below
        return json_response(shown)

    async def whoami(self, call: ApiCall) -> web.StreamResponse:
        """`/api/2/whoami`: the caller's authorization subjects."""
        only_get(call)
        subjects = call.subjects
        return json_response({"defaultSubject": subjects[0], "subjects": [*subjects]})

    async def not_built(self, call: ApiCall) -> web.StreamResponse:
        """Parts of Ditto's API that are not there say so."""
        raise NotBuilt(
            f"'{call.request.path[:200]}' is not built.",
            description="Twinspan's docs/compatibility.md lists what is there.",
        )


def _wanted(call: ApiCall, name: str) -> frozenset[str]:
    return frozenset(one for one in (call.query(name) or "").split(",") if one)


def only_get(call: ApiCall) -> None:
    """Refuse other methods.

    Errors: MethodNotAllowed.
    """
    if call.request.method != hdrs.METH_GET:
        raise not_allowed(call.request.method, ("GET",))
