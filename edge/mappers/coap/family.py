"""Devices that are CoAP servers, and what they tell of themselves by order."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edge.mappers.coap.driver import CoapDriver
from edge.mappers.coap.places import Resource, access_of, place_of, resources
from edge.mappers.coap.requests import Client
from edge.mappers.configdata import ConfigData
from edge.mappers.driver import Driver
from edge.mappers.family import Discovered, DiscoveredProperty, Family, Surroundings
from edge.mappers.readings import Latest, rules_of
from edge.mappers.visitors import places_of
from gateway.errors import InvalidSetting, NotFound
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

PROTOCOL = "coap"
WELL_KNOWN = "/.well-known/core"


class CoapFamily:
    """All CoAP devices of this edge."""

    def __init__(self, around: Surroundings, client: Client) -> None:
        self._around = around
        self._client = client

    async def run(self, ready: Callable[[], None]) -> None:
        await self._client.open()
        try:
            ready()
            await asyncio.get_running_loop().create_future()
        finally:
            await self._client.close()

    def driver(self, view: DeviceView, model: ModelView | None) -> Driver:
        access = access_of(ConfigData("configData", view.protocol_config or {}))
        places, faults = places_of(view, lambda name, said: place_of(name, said, access.url))
        latest = Latest(list(places), self._around.count)
        return CoapDriver(
            access,
            places,
            rules_of(view, model),
            faults,
            self._client,
            self._around.clock,
            latest,
        )

    def facts(self) -> JsonObject:
        return {}

    # --- orders -------------------------------------------------------------------------------------

    def orders(self) -> Sequence[str]:
        return ("discover",)

    async def order(self, name: str, arguments: Mapping[str, str]) -> JsonObject:
        """`discover` asks the server at `url` for its resources."""
        if name != "discover":
            raise NotFound(f"coap knows no order {name[:40]!r}, only discover")
        access = access_of(ConfigData("discover", {**arguments}))
        base = "/".join(access.url.split("/")[:3])
        answer = await self._client.ask(replace(access, url=base), "GET", base + WELL_KNOWN)
        found = resources(answer.payload.decode("utf-8", "replace"))
        properties = [_property(each) for each in found]
        names = {each.name: each for each in properties}
        self._around.discovered(
            Discovered(
                PROTOCOL,
                base,
                name=base.removeprefix("coap://"),
                config={"url": base},
                properties=tuple(names.values()),
            )
        )
        return {"address": base, "found": len(names)}


def _property(resource: Resource) -> DiscoveredProperty:
    said = resource.attributes
    visitor: dict[str, object] = {"path": resource.path}
    if "obs" in said:
        visitor["observe"] = True
    name = re.sub(r"[^A-Za-z0-9]+", "_", resource.path).strip("_") or "root"
    return DiscoveredProperty(
        name,
        "STRING",
        description=(said.get("title") or said.get("rt", ""))[:200],
        visitor=visitor,
    )


def make_coap(around: Surroundings) -> Family:
    """Make the family. Errors: InvalidSetting where aiocoap is not installed."""
    try:
        from edge.mappers.coap.client import AiocoapClient
    except ImportError as error:
        raise InvalidSetting("CoAP devices need aiocoap: pip install 'twinspan[coap]'") from error
    return CoapFamily(around, AiocoapClient())
