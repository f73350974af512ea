"""Runs modules of other packages inside EdgeCore: one that fails is started again, and stops nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.clock import now_ms
from edge.devicemethods import DeviceMethods
from edge.deviceport import MQTT, TwinPort
from edge.mappers.localtopics import Heard, LocalTopics
from edge.northbound import Submit
from edge.pluginport import ModuleFactory, PropertyTwin
from edge.twinasks import ask_change
from edge.twinrules import alive, text_of, type_of
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json, JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import Twin, TwinValue
from gateway.wire.cloudedge.uploads import EdgeUpload, address_of
from gateway.wire.mqtt.filters import check_topic

log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_CAP = 1.0, 60.0
LONG_ENOUGH = 60.0
"""Seconds of work after which a failure counts as the first."""
MAX_PAYLOAD = 262_144


@dataclass(frozen=True, slots=True)
class PortRooms:
    """EdgeCore's rooms that plug-ins reach through their port."""

    node: str
    folder: Path
    twin: TwinPort
    methods: DeviceMethods
    topics: LocalTopics
    submit: Submit
    is_linked: Callable[[], bool]


class Port:
    """`EdgePort` for one plug-in."""

    def __init__(self, name: str, rooms: PortRooms) -> None:
        self._name = name
        self._rooms = rooms
        self._heard: set[int] = set()

    @property
    def node(self) -> str:
        return self._rooms.node

    @property
    def folder(self) -> Path:
        folder = self._rooms.folder / self._name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    @property
    def is_linked(self) -> bool:
        return self._rooms.is_linked()

    def listen(self, topic_filter: str, heard: Heard) -> int:
        key = self._rooms.topics.listen(topic_filter, _Guarded(self._name, heard))
        self._heard.add(key)
        return key

    def forget(self, key: int) -> None:
        if key in self._heard:
            self._heard.discard(key)
            self._rooms.topics.forget(key)

    def release(self) -> None:
        """Forget all that the plug-in listens to."""
        for key in list(self._heard):
            self.forget(key)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        check_topic(topic)
        self._rooms.topics.publish(topic, payload, qos=qos, retain=retain)

    def devices(self) -> list[str]:
        return [str(view.key) for view, _ in self._rooms.twin.bound()]

    def twins(self, device: str) -> Mapping[str, PropertyTwin]:
        twins = alive(self._rooms.twin.twins(DeviceKey.parse(device)))
        return {
            name: PropertyTwin(text_of(twin.expected), text_of(twin.actual), type_of(twin))
            for name, twin in twins.items()
            if twin is not None
        }

    async def report(self, device: str, values: Mapping[str, str]) -> None:
        asks = {name: Twin(actual=TwinValue(value=text)) for name, text in values.items()}
        await ask_change(self._rooms.twin, DeviceKey.parse(device), asks, origin=MQTT)

    async def want(self, device: str, values: Mapping[str, str]) -> None:
        asks = {name: Twin(expected=TwinValue(value=text)) for name, text in values.items()}
        await ask_change(self._rooms.twin, DeviceKey.parse(device), asks, origin=MQTT)

    async def call(self, device: str, method: str, values: Mapping[str, Json]) -> JsonObject:
        key = DeviceKey.parse(device)
        return await self._rooms.methods.call(key, method, values, way="plugin")

    async def send(self, kind: str, device: str, payload: bytes, content_type: str = "") -> None:
        topic = f"{kind}//{device}"
        check_topic(topic)
        found, name = address_of(topic)
        if found is None or found != kind or name != device or len(payload) > MAX_PAYLOAD:
            raise BadRequest(
                f"expected telemetry or event of a device, at most {MAX_PAYLOAD} bytes"
            )
        item = EdgeUpload(
            topic=topic,
            payload=payload,
            kind=found,
            device=device,
            content_type=content_type,
            qos=1,
            at=now_ms(),
        )
        future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()

        def done(error: GatewayError | None) -> None:
            if not future.done():
                future.set_result(error)

        self._rooms.submit(item, done)
        error = await future
        if error is not None:
            raise error


@dataclass(frozen=True, slots=True)
class _Guarded:
    """A listener whose failure is not the publisher's."""

    plugin: str
    heard: Heard

    def __call__(self, topic: str, payload: bytes) -> None:
        try:
            self.heard(topic, payload)
        except Exception:  # the top of a plug-in's call
            log.exception("a plug-in failed at a message", extra={"plugin": self.plugin})


class PluginModule:
    """One plug-in as a module of EdgeCore."""

    def __init__(self, plugin: str, factory: ModuleFactory, port: Port) -> None:
        self.name = f"edge.plugin.{plugin}"
        self.plugin = plugin
        self._factory = factory
        self._port = port
        self._fault = ""
        self._is_running = False

    def facts(self) -> JsonObject:
        """Return what `edge status` says of it."""
        return {"name": self.plugin, "running": self._is_running, "last_error": self._fault or None}

    async def run(self, ready: Callable[[], None]) -> None:
        ready()  # EdgeCore goes on without it
        backoff = Backoff(RETRY_FIRST, RETRY_CAP)
        time = asyncio.get_running_loop().time
        while True:
            began = time()
            await self._once()
            if time() - began > LONG_ENOUGH:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _once(self) -> None:
        try:
            module = self._factory(self._port)
            self._is_running = True
            await module.run(_nothing)
            self._fault = "its run ended"
            log.warning("a plug-in has ended", extra={"plugin": self.plugin})
        except Exception as error:  # the top of a plug-in: its failure stops nobody else
            self._fault = f"{type(error).__name__}: {error}"[:300]
            log.exception("a plug-in failed", extra={"plugin": self.plugin})
        finally:
            self._is_running = False
            self._port.release()


def _nothing() -> None:
    """EdgeCore does not wait for plug-ins."""
