"""`/api/2/connections` and `/devops/piggyback/connectivity`: managing connections, for operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from gateway.connectivity.errors import invalid
from gateway.connectivity.hub import COMMAND_PREFIX, Connections
from gateway.ditto.auth import DEVOPS
from gateway.ditto.endpoint import Endpoints, json_response, not_allowed, unknown_path
from gateway.ditto.request import JSON_TYPE, ApiCall, parse_json, read_body, require_type
from gateway.ditto.things_http import rest_of, selector
from gateway.errors import NotBuilt
from gateway.model.json import Json, JsonObject

PREFIX = "/api/2/connections"
MAX_BODY = 262_144
TEXT = "text/plain"
RESPONSES = "connectivity.responses:"


def routes(endpoints: Endpoints, connections: Connections) -> list[web.RouteDef]:
    """The table of routes, for the server that mounts them."""
    handlers = ConnectionRoutes(connections)
    table = {
        PREFIX: handlers.collection,
        PREFIX + "/{rest:(?s:.*)}": handlers.below,
        "/devops/piggyback/connectivity": handlers.piggyback,
        "/devops/piggyback/connectivity/{rest:.*}": handlers.piggyback,
        "/devops/piggyback{rest:.*}": handlers.other_piggyback,
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
        location = f"{call.request.url.with_query(None)}/{created['id']}"
        return json_response(created, 201, {hdrs.LOCATION: location})

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
            (shown,) = _selected(call, [self._connections.get(connection_id)])
            return json_response(shown)
        if method == hdrs.METH_DELETE:
            await self._connections.delete(connection_id)
            return web.Response(status=204)
        if method != hdrs.METH_PUT:
            raise not_allowed(method, ("GET", "PUT", "DELETE"))
        if not await self._connections.put(await _body(call), connection_id):
            return web.Response(status=204)
        location = str(call.request.url.with_query(None))
        return json_response(self._connections.get(connection_id), 201, {hdrs.LOCATION: location})

    async def _command(self, call: ApiCall, connection_id: str) -> web.Response:
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        require_type(call.request, (TEXT,))
        body = await read_body(call.request, 1_024)
        await self._connections.command(connection_id, body.decode(errors="replace"))
        return web.Response(status=200)

    # --- piggyback --------------------------------------------------------------------------------

    async def other_piggyback(self, call: ApiCall) -> web.StreamResponse:
        """Piggyback commands for other services."""
        raise NotBuilt(
            f"Piggyback commands at '{call.request.path[:200]}' are not built.",
            description="Those of 'connectivity' are.",
        )

    async def piggyback(self, call: ApiCall) -> web.StreamResponse:
        """Ditto's older way to manage connections: a command inside a request.

        The answer is the command's response with its `status`, which is the HTTP status too.
        """
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        body = await _body(call)
        command = body.get("piggybackCommand") if isinstance(body, dict) else None
        if not isinstance(command, dict):
            raise invalid("'piggybackCommand' is missing.")
        kind = str(command.get("type", "")).removeprefix(COMMAND_PREFIX)
        run = self._piggybacks().get(kind)
        if run is None:
            raise NotBuilt(f"The piggyback command '{kind[:100]}' is not built.")
        answer = await run(command)
        status = answer.setdefault("status", 200)
        assert isinstance(status, int)  # noqa: S101  our own table says so
        return json_response({"type": f"{RESPONSES}{kind}", **answer}, status)

    def _piggybacks(self) -> dict[str, Callable[[JsonObject], Awaitable[JsonObject]]]:
        return {
            "createConnection": self._piggyback_create,
            "modifyConnection": self._piggyback_modify,
            "retrieveConnection": self._piggyback_retrieve,
            "deleteConnection": self._piggyback_delete,
            "testConnection": self._piggyback_test,
            "retrieveAllConnectionIds": self._piggyback_ids,
            "retrieveConnectionStatus": self._piggyback_status,
            "retrieveConnectionMetrics": self._piggyback_metrics,
            "retrieveConnectionLogs": self._piggyback_logs,
            **dict.fromkeys(
                (
                    "openConnection",
                    "closeConnection",
                    "resetConnectionMetrics",
                    "enableConnectionLogs",
                    "resetConnectionLogs",
                ),
                self._piggyback_command,
            ),
        }

    async def _piggyback_create(self, command: JsonObject) -> JsonObject:
        document = _connection_of(command)
        connection_id = str(document["id"]) if document.get("id") else None
        created = await self._connections.create(document, connection_id)
        return {"connection": created, "status": 201}

    async def _piggyback_modify(self, command: JsonObject) -> JsonObject:
        document = _connection_of(command)
        connection_id = str(document.get("id", ""))
        self._connections.get(connection_id)
        await self._connections.put(document, connection_id)
        return {"connectionId": connection_id, "status": 200}

    async def _piggyback_retrieve(self, command: JsonObject) -> JsonObject:
        return {"connection": self._connections.get(_id_of(command))}

    async def _piggyback_delete(self, command: JsonObject) -> JsonObject:
        await self._connections.delete(_id_of(command))
        return {"connectionId": _id_of(command)}

    async def _piggyback_test(self, command: JsonObject) -> JsonObject:
        return {"testResult": self._connections.test(_connection_of(command))}

    async def _piggyback_ids(self, _command: JsonObject) -> JsonObject:
        return {"connectionIds": [one["id"] for one in self._connections.all()]}

    async def _piggyback_status(self, command: JsonObject) -> JsonObject:
        return {**self._connections.status(_id_of(command))}

    async def _piggyback_metrics(self, command: JsonObject) -> JsonObject:
        return {**self._connections.metrics(_id_of(command))}

    async def _piggyback_logs(self, command: JsonObject) -> JsonObject:
        return {**self._connections.logs(_id_of(command))}

    async def _piggyback_command(self, command: JsonObject) -> JsonObject:
        await self._connections.command(_id_of(command), str(command["type"]))
        return {"connectionId": _id_of(command)}


async def _body(call: ApiCall) -> Json:
    require_type(call.request, (JSON_TYPE,))
    return parse_json(await read_body(call.request, MAX_BODY))


def _selected(call: ApiCall, documents: list[JsonObject]) -> list[JsonObject]:
    fields = selector(call)
    return documents if fields is None else [fields.select(one) for one in documents]


def _connection_of(command: JsonObject) -> JsonObject:
    document = command.get("connection")
    if not isinstance(document, dict):
        raise invalid("'piggybackCommand.connection' is missing.")
    return document


def _id_of(command: JsonObject) -> str:
    return str(command.get("connectionId", ""))
