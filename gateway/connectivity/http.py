"""`/api/2/connections`: managing connections, for operators."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import hdrs, web

from gateway.connectivity.hub import Connections
from gateway.connectivity.piggyback import ConnectionPiggybacks
from gateway.ditto.auth import DEVOPS
from gateway.ditto.endpoint import Endpoints, json_response, not_allowed, unknown_path
from gateway.ditto.piggyback import Piggybacks
from gateway.ditto.request import JSON_TYPE, ApiCall, parse_json, read_body, require_type
from gateway.ditto.things_http import rest_of, selector
from gateway.model.json import Json, JsonObject
from gateway.twin.conditions import check_tags

PREFIX = "/api/2/connections"
MAX_BODY = 262_144
TEXT = "text/plain"


def routes(
    endpoints: Endpoints, connections: Connections, piggybacks: Piggybacks | None = None
) -> list[web.RouteDef]:
    """The table of routes, for the server that mounts them.

    Shape:  `piggybacks` are the commands of other rooms; those of connections are added to them.
    """
    handlers = ConnectionRoutes(connections)
    piggybacks = piggybacks or Piggybacks()
    piggybacks.add(ConnectionPiggybacks(connections).table())
    table = {
        PREFIX: handlers.collection,
        PREFIX + "/{rest:(?s:.*)}": handlers.below,
        "/devops/piggyback": piggybacks.post,
        "/devops/piggyback/{rest:.*}": piggybacks.post,
    }
    return [web.route("*", path, endpoints.devops(h, DEVOPS)) for path, h in table.items()]


class ConnectionRoutes:
    """The handlers of connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    # --- /connections -----------------------------------------------------------------------------

    async def collection(self, call: ApiCall) -> web.StreamResponse:
        """`/api/2/connections`."""
        method = call.request.method
        if method == hdrs.METH_POST:
            return await self._create(call)
        if method != hdrs.METH_GET:
            raise not_allowed(method, ("GET", "POST"))
        found = self._connections.all()
        if call.query("ids-only") == "true":
            return json_response([one["id"] for one in found])
        return json_response([*_selected(call, found)])

    async def _create(self, call: ApiCall) -> web.Response:
        document = await _body(call)
        if call.query("dry-run") == "true":
            return web.Response(text=self._connections.test(document))
        created = await self._connections.create(document)
        connection_id = str(created["id"])
        headers: dict[str, str] = {
            hdrs.LOCATION: f"{call.url}/{connection_id}",
            hdrs.ETAG: self._connections.tag(connection_id),
        }
        return json_response(created, 201, headers)

    async def below(self, call: ApiCall) -> web.StreamResponse:
        """`/api/2/connections/{id}` and what is below it."""
        connection_id, _, part = rest_of(call.request, f"{PREFIX}/").partition("/")
        if not part:
            return await self._one(call, connection_id)
        if part == "command":
            return await self._command(call, connection_id)
        shown: dict[str, Callable[[str], JsonObject]] = {
            "status": self._connections.status,
            "metrics": self._connections.metrics,
            "logs": self._connections.logs,
        }
        show = shown.get(part)
        if show is None:
            raise unknown_path(part)
        if call.request.method != hdrs.METH_GET:
            raise not_allowed(call.request.method, ("GET",))
        return json_response(show(connection_id))

    async def _one(self, call: ApiCall, connection_id: str) -> web.Response:
        method = call.request.method
        if method == hdrs.METH_GET:
            return self._shown(call, connection_id)
        if method not in (hdrs.METH_PUT, hdrs.METH_DELETE):
            raise not_allowed(method, ("GET", "PUT", "DELETE"))
        document = await _body(call) if method == hdrs.METH_PUT else None

        def check() -> None:
            known = self._connections.has(connection_id)
            tag = self._connections.tag(connection_id) if known else None
            check_tags(call.headers, tag, service="connectivity", is_read=False)

        if method == hdrs.METH_DELETE:
            await self._connections.delete(connection_id, check)
            return web.Response(status=204)
        is_new = await self._connections.put(document, connection_id, check)
        headers: dict[str, str] = {hdrs.ETAG: self._connections.tag(connection_id)}
        if not is_new:
            return web.Response(status=204, headers=headers)
        headers[hdrs.LOCATION] = str(call.url)
        return json_response(self._connections.get(connection_id), 201, headers)

    def _shown(self, call: ApiCall, connection_id: str) -> web.Response:
        (shown,) = _selected(call, [self._connections.get(connection_id)])
        tag = self._connections.tag(connection_id)
        check_tags(call.headers, tag, service="connectivity", is_read=True)
        return json_response(shown, headers={hdrs.ETAG: tag})

    async def _command(self, call: ApiCall, connection_id: str) -> web.Response:
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        require_type(call.request, (TEXT,))
        body = await read_body(call.request, 1_024)
        await self._connections.command(connection_id, body.decode(errors="replace"))
        return web.Response(status=200)


async def _body(call: ApiCall) -> Json:
    require_type(call.request, (JSON_TYPE,))
    return parse_json(await read_body(call.request, MAX_BODY))


def _selected(call: ApiCall, documents: list[JsonObject]) -> list[JsonObject]:
    fields = selector(call)
    return documents if fields is None else [fields.select(one) for one in documents]
