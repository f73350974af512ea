"""OPC UA servers: sessions that Devices share, and browsing by order."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence

from edge.mappers.configdata import ConfigData
from edge.mappers.driver import Driver
from edge.mappers.family import Discovered, DiscoveredProperty, Family, Surroundings
from edge.mappers.opcua.addresses import node_of, server_of
from edge.mappers.opcua.driver import OpcUaDriver
from edge.mappers.opcua.links import ClientFactory, Links, Variable
from edge.mappers.readings import Latest, rules_of
from edge.mappers.secretfiles import read_secret
from edge.mappers.visitors import places_of
from gateway.errors import BadRequest, InvalidSetting, NotFound
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

PROTOCOL = "opcua"
MAX_VARIABLES = 200
DEFAULT_SAMPLING = 1_000
SHORTEST_PERIOD = 50
LONGEST_PERIOD = 60_000
_SECURITY = ("securityPolicy", "securityMode", "certificate", "privateKey", "serverCertificate")


class OpcUaFamily:
    """All OPC UA devices of this edge."""

    def __init__(self, around: Surroundings, make: ClientFactory) -> None:
        self._around = around
        self._links = Links(make)

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self._links.close()

    def driver(self, view: DeviceView, model: ModelView | None) -> Driver:
        config = ConfigData("configData", view.protocol_config or {})
        server = server_of(config, read_secret(self._around.folder, config, "passwordFile"))
        nodes, faults = places_of(view, lambda _name, said: node_of(said))
        sampling = {
            prop.name: max(SHORTEST_PERIOD, prop.collect_cycle or DEFAULT_SAMPLING)
            for prop in view.properties.values()
        }
        own_period = min(sampling.values(), default=DEFAULT_SAMPLING)
        return OpcUaDriver(
            server,
            nodes,
            sampling,
            rules_of(view, model),
            faults,
            self._links,
            self._around.clock,
            Latest(list(view.properties), self._around.count),
            period=config.integer(
                "publishingInterval",
                default=min(own_period, LONGEST_PERIOD),
                low=SHORTEST_PERIOD,
                high=LONGEST_PERIOD,
            ),
        )

    def facts(self) -> JsonObject:
        return self._links.facts()

    # --- orders -------------------------------------------------------------------------------------

    def orders(self) -> Sequence[str]:
        return ("browse",)

    async def order(self, name: str, arguments: Mapping[str, str]) -> JsonObject:
        """`browse` looks for variables of a server; keys are those of configData, `nodeID` where to begin."""
        if name != "browse":
            raise NotFound(f"opcua knows no order {name[:40]!r}, only browse")
        config = ConfigData("browse", {**arguments})
        server = server_of(config, read_secret(self._around.folder, config, "passwordFile"))
        start = node_of(config) if config.has("nodeID", "browsePath") else None
        link = self._links.take(server)
        try:
            await link.open()
            found = await link.client.variables(start, MAX_VARIABLES)
            facts = await link.client.identity()
        finally:
            await self._links.give_back(link)
        if not found:
            raise BadRequest(f"{server.url}: no variables found")
        names = property_names(found)
        self._around.discovered(
            Discovered(
                PROTOCOL,
                server.url,
                name=facts.get("product", ""),
                manufacturer=facts.get("manufacturer", ""),
                config={key: arguments[key] for key in _KEPT if key in arguments},
                properties=tuple(
                    DiscoveredProperty(
                        name,
                        variable.type,
                        "ReadWrite" if variable.is_writable else "ReadOnly",
                        description="/".join(variable.path)[:200],
                        visitor={"nodeID": variable.node},
                    )
                    for name, variable in zip(names, found, strict=True)
                ),
                facts=facts,
            )
        )
        return {"found": len(found), "address": server.url}


_KEPT = ("url", "userName", "passwordFile", *_SECURITY)


def property_names(found: Sequence[Variable]) -> list[str]:
    """Return a name for each variable: its own, with those above it where two are the same."""
    taken: set[str] = set()
    names = []
    for variable in found:
        path = [
            re.sub(r"[^A-Za-z0-9_]+", "_", step).strip("_") or "value" for step in variable.path
        ]
        choices = ["_".join(path[at:]) for at in range(len(path) - 1, -1, -1)]
        choices += [f"{choices[-1]}_{number}" for number in range(2, len(found) + 2)]
        name = next(choice for choice in choices if choice not in taken)
        taken.add(name)
        names.append(name)
    return names


def make_opcua(around: Surroundings) -> Family:
    """Make the family. Errors: InvalidSetting where asyncua is not installed."""
    try:
        from edge.mappers.opcua.client import make_client
    except ImportError as error:
        raise InvalidSetting("OPC UA needs asyncua: pip install 'twinspan[opcua]'") from error
    return OpcUaFamily(around, make_client(around.folder))
