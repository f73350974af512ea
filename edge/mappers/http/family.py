"""Devices that are HTTP servers, or that post to a webhook here. Needs nothing to be installed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable

from edge.mappers.configdata import ConfigData
from edge.mappers.driver import Driver
from edge.mappers.family import Family, Surroundings
from edge.mappers.http.driver import HeardDriver, PolledDriver
from edge.mappers.http.exchange import Exchange
from edge.mappers.http.places import Place, access_of, header_lines, place_of
from edge.mappers.http.webhook import Webhook
from edge.mappers.readings import Latest, rules_of
from edge.mappers.secretfiles import read_secret
from gateway.errors import Rejected
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

PROTOCOL = "http"
MODES = {"poll": False, "webhook": True}
LEAST_TOKEN = 16


class HttpFamily:
    """All HTTP devices of this edge."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self.webhook = Webhook(ConfigData("edge.mappers.http", around.settings).below("webhook"))

    async def run(self, ready: Callable[[], None]) -> None:
        async with self.webhook.listening():
            ready()
            await asyncio.get_running_loop().create_future()

    def driver(self, view: DeviceView, model: ModelView | None) -> Driver:
        config = ConfigData("configData", view.protocol_config or {})
        rules = rules_of(view, model)
        places: dict[str, Place] = {}
        faults: dict[str, str] = {}
        is_heard = config.choice(MODES, "mode", default=False)
        for prop in view.properties.values():
            try:
                place = place_of(prop.name, ConfigData(prop.name, prop.visitor or {}), config)
            except Rejected as error:
                faults[prop.name] = error.message
                continue
            if place.request is None and not is_heard:
                faults[prop.name] = f"{prop.name}.url is missing"
            else:
                places[prop.name] = place
        exchange = Exchange(access_of(config, self._secrets(config, is_heard=is_heard)))
        clock = self._around.clock
        if not is_heard:
            return PolledDriver(places, rules, faults, exchange, clock)
        token = read_secret(self._around.folder, config, "tokenFile") or config.text("token")
        if len(token) < LEAST_TOKEN:
            raise Rejected(f"configData.tokenFile: a token of at least {LEAST_TOKEN} characters")
        stale = int(config.number("staleAfter", default=0.0) * 1_000)
        latest = Latest(list(places), self._around.count, clock, stale)
        return HeardDriver(
            view, token, places, rules, faults, exchange, clock, latest, self.webhook
        )

    def _secrets(self, config: ConfigData, *, is_heard: bool) -> dict[str, str]:
        """Return headers with passwords in them; a webhook's token is not for the device's own server."""
        folder = self._around.folder
        headers = header_lines(read_secret(folder, config, "headersFile"))
        token = "" if is_heard else read_secret(folder, config, "tokenFile")
        if token:
            headers["authorization"] = f"Bearer {token}"
        user = config.text("userName")
        if user:
            password = read_secret(folder, config, "passwordFile")
            encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
            headers["authorization"] = f"Basic {encoded}"
        return headers

    def facts(self) -> JsonObject:
        return {"webhook": self.webhook.address or "off", "posting": self.webhook.hooks}


def make_http(around: Surroundings) -> Family:
    """Make the family."""
    return HttpFamily(around)
