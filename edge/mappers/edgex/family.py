"""Devices of EdgeX Foundry, heard on its MQTT message bus. Needs nothing to be installed."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from edge.mappers.configdata import ConfigData
from edge.mappers.driver import Driver
from edge.mappers.edgex.driver import EdgexDriver, Place
from edge.mappers.edgex.events import MAX_MESSAGE, TYPES, DeviceEvent, read_event
from edge.mappers.family import Discovered, DiscoveredProperty, Family, Surroundings
from edge.mappers.http.exchange import Exchange
from edge.mappers.http.places import Access
from edge.mappers.readings import Latest, rules_of
from edge.mappers.secretfiles import read_secret
from edge.mappers.visitors import places_of
from edge.mqttclient import BrokerAddress, MqttClient
from gateway.errors import BadRequest, GatewayError, InvalidSetting
from gateway.model.json import JsonObject
from gateway.model.ports import Done
from gateway.runtime.listener import parse_bind
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.mqtt.filters import TopicFilter
from gateway.wire.mqtt.packets import Publish

PROTOCOL = "edgex"
SETTING = "edge.mappers.edgex"
MAX_DEVICES = 1_000
MAX_RESOURCES = 100
"""Resources of a device that are offered."""
MAX_OFFERED = 20_000
"""Resources of all devices together: whoever may publish on the bus can make them up."""
MAX_UNITS = 32


class EdgexFamily:
    """All devices that one message bus tells of."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        config = ConfigData(SETTING, around.settings)
        self._broker = config.text("broker")
        self._base = config.text("base_topic", default="edgex")
        self._client = _client(config, self._heard, self._link) if self._broker else None
        self._drivers: dict[str, list[EdgexDriver]] = {}
        self._seen: dict[str, dict[str, DiscoveredProperty]] = {}
        self._offered = 0
        self._events = 0
        self._malformed = 0

    async def run(self, ready: Callable[[], None]) -> None:
        if self._client is None:
            raise InvalidSetting(f"{SETTING}.broker is not set")
        topic = f"{self._base}/events/device/#"
        try:
            TopicFilter.parse(topic)
        except BadRequest as error:
            raise InvalidSetting(f"{SETTING}.base_topic: {error.message}") from error
        self._client.subscribe(topic, 0)
        await self._client.run(ready)

    def driver(self, view: DeviceView, model: ModelView | None) -> Driver:
        config = ConfigData("configData", view.protocol_config or {})
        device = config.text("deviceName", default=None)
        places, faults = places_of(view, _place)
        names = list(view.properties)
        stale = int(config.number("staleAfter", default=0.0) * 1_000)
        return EdgexDriver(
            device,
            places,
            rules_of(view, model),
            faults,
            self,
            _command_url(config),
            Exchange(self._access(config)),
            self._around.clock,
            Latest(names, self._around.count, self._around.clock, stale),
        )

    def _access(self, config: ConfigData) -> Access:
        token = read_secret(self._around.folder, config, "tokenFile")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return Access(
            headers,
            ca_file=config.text("caFile"),
            max_redirects=0,
            allow_local=config.flag("allowLocal"),
        )

    def facts(self) -> JsonObject:
        return {
            "broker": self._broker,
            "connected": self.is_up,
            "devices": len(self._seen),
            "events": self._events,
            "malformed": self._malformed,
        }

    # --- Bus ----------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        return self._client is not None and self._client.is_connected

    def add(self, device: str, driver: EdgexDriver) -> None:
        self._drivers.setdefault(device, []).append(driver)

    def remove(self, device: str, driver: EdgexDriver) -> None:
        drivers = self._drivers.get(device, [])
        if driver in drivers:
            drivers.remove(driver)
        if not drivers:
            self._drivers.pop(device, None)

    def _link(self, is_up: bool) -> None:
        if not is_up:
            for drivers in self._drivers.values():
                for driver in list(drivers):
                    driver.lost()

    def _heard(self, message: Publish, done: Done) -> None:
        done(None)
        try:
            event = read_event(message.payload)
        except GatewayError:
            self._malformed += 1
            self._around.count("malformed", 1)
            return
        self._events += 1
        self._offer(event)
        for driver in self._drivers.get(event.device, ()):
            driver.take(event)

    # --- discovery ------------------------------------------------------------------------------------

    def _offer(self, event: DeviceEvent) -> None:
        """Tell of a device that is new, or has resources not heard before."""
        known = self._seen.get(event.device)
        if known is None:
            if len(self._seen) >= MAX_DEVICES:
                return
            known = self._seen[event.device] = {}
        room = max(0, min(MAX_RESOURCES - len(known), MAX_OFFERED - self._offered))
        fresh = [each for each in event.readings if each.resource not in known][:room]
        self._offered += len(fresh)
        for each in fresh:
            known[each.resource] = DiscoveredProperty(
                each.resource,
                TYPES.get(each.kind, "STRING"),
                unit=each.units[:MAX_UNITS],
                visitor={"resourceName": each.resource},
            )
        if fresh:
            self._around.discovered(
                Discovered(
                    PROTOCOL,
                    event.device,
                    name=event.device,
                    model=event.profile,
                    config={"deviceName": event.device},
                    properties=tuple(known.values()),
                    facts={"profile": event.profile},
                )
            )


def _place(name: str, said: ConfigData) -> Place:
    resource = said.text("resourceName", default=name)
    return Place(resource, said.text("commandName", default=resource))


def _command_url(config: ConfigData) -> str:
    url = config.text("commandUrl")
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
    except ValueError:
        is_good = False
    if url and not is_good:
        raise config.wrong("commandUrl", "http(s)://host:port of core-command", url)
    return url


def _client(
    config: ConfigData, heard: Callable[[Publish, Done], None], link: Callable[[bool], None]
) -> MqttClient:
    host, port = parse_bind(config.text("broker"), f"{SETTING}.broker")
    user, password_file = config.text("user"), config.text("password_file")
    address = BrokerAddress(
        host=host,
        port=port,
        client_id="",
        username=user or None,
        password=_password(password_file) if password_file else None,
        max_packet=2 * MAX_MESSAGE,
    )
    return MqttClient(address, heard, on_link=link, tls_context=_tls(config))


def _password(path: str) -> bytes:
    try:
        return Path(path).read_bytes()[:4_096].strip(b"\r\n")
    except OSError as error:
        raise InvalidSetting(f"{SETTING}.password_file: {error.strerror}: {path}") from error


def _tls(config: ConfigData) -> ssl.SSLContext | None:
    ca, certificate, key = (config.text(name) for name in ("ca_file", "certificate", "key"))
    if not (ca or certificate or config.flag("tls")):
        return None
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSetting(f"{SETTING}.ca_file, certificate or key: {error}") from error
    return context


def make_edgex(around: Surroundings) -> Family:
    """Make the family. Errors: InvalidSetting."""
    return EdgexFamily(around)
