"""Ditto's older way to manage connections: a command inside a request of an operator."""

from __future__ import annotations

from collections.abc import Callable

from gateway.connectivity.errors import invalid
from gateway.connectivity.hub import COMMAND_PREFIX, Connections
from gateway.ditto.piggyback import Piggyback, Run
from gateway.model.json import JsonObject

_ORDERS = (
    "openConnection",
    "closeConnection",
    "resetConnectionMetrics",
    "enableConnectionLogs",
    "resetConnectionLogs",
)


class ConnectionPiggybacks:
    """Commands on connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def table(self) -> dict[str, Run]:
        """Type to what runs it."""
        shown = {
            "retrieveConnectionStatus": self._connections.status,
            "retrieveConnectionMetrics": self._connections.metrics,
            "retrieveConnectionLogs": self._connections.logs,
        }
        runs: dict[str, Run] = {
            "createConnection": self._create,
            "modifyConnection": self._modify,
            "retrieveConnection": self._retrieve,
            "retrieveConnections": self._several,
            "deleteConnection": self._delete,
            "testConnection": self._test,
            "retrieveAllConnectionIds": self._ids,
            **{name: _showing(show) for name, show in shown.items()},
            **dict.fromkeys(_ORDERS, self._order),
        }
        return {f"{COMMAND_PREFIX}{name}": run for name, run in runs.items()}

    async def _create(self, asked: Piggyback) -> JsonObject:
        document = _connection_of(asked)
        connection_id = str(document["id"]) if document.get("id") else None
        created = await self._connections.create(document, connection_id)
        return {"connection": created, "status": 201}

    async def _modify(self, asked: Piggyback) -> JsonObject:
        document = _connection_of(asked)
        connection_id = str(document.get("id", ""))
        self._connections.get(connection_id)
        await self._connections.put(document, connection_id)
        return {"connectionId": connection_id}

    async def _retrieve(self, asked: Piggyback) -> JsonObject:
        return {"connection": self._connections.get(asked.text("connectionId"))}

    async def _several(self, asked: Piggyback) -> JsonObject:
        wanted = asked.command.get("connectionIds")
        ids = wanted if isinstance(wanted, list) else []
        return {"connections": [one for one in self._connections.all() if one["id"] in ids]}

    async def _delete(self, asked: Piggyback) -> JsonObject:
        await self._connections.delete(asked.text("connectionId"))
        return {"connectionId": asked.text("connectionId")}

    async def _test(self, asked: Piggyback) -> JsonObject:
        return {"testResult": self._connections.test(_connection_of(asked))}

    async def _ids(self, _asked: Piggyback) -> JsonObject:
        return {"connectionIds": [one["id"] for one in self._connections.all()]}

    async def _order(self, asked: Piggyback) -> JsonObject:
        await self._connections.command(asked.text("connectionId"), asked.type)
        return {"connectionId": asked.text("connectionId")}


def _showing(show: Callable[[str], JsonObject]) -> Run:
    async def run(asked: Piggyback) -> JsonObject:
        return show(asked.text("connectionId"))

    return run


def _connection_of(asked: Piggyback) -> JsonObject:
    document = asked.command.get("connection")
    if not isinstance(document, dict):
        raise invalid("'piggybackCommand.connection' is missing.")
    return document
