"""Devices that speak MQTT in a form of their own, on the edge's broker: a topic and a path per property.

A property's `visitors: {protocolName: mqtt, configData: {...}}` says where its value is:

| Key | Meaning |
|---|---|
| `topic` | where the device reports; a filter may have wildcards |
| `path` | path of the value in a JSON payload (`$.state.temp`); without it the payload is the value |
| `commandTopic` | where the device hears what is wanted |
| `commandPath` | path of a wanted value in a JSON payload (names only); without it its text is sent |
| `qos`, `retain` | of what is sent: 0 to 2 (default 1), false |

`topic` and `commandTopic` in the Device's `protocol.configData` hold for all its properties. A Device without
any topic speaks for itself on the `$hw` topics and is nobody's here. That a device without a connection is
there cannot be known: it is online while its topics are heard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from edge.mappers.driver import Driver, NotServed, Quality, Reading
from edge.mappers.localtopics import LocalTopics
from gateway.errors import BadRequest, GatewayError, Rejected
from gateway.model.json import Json, JsonObject
from gateway.model.jsonpath import Absent, Path, find, parse_path
from gateway.wire.cloudedge.devices import DeviceProperty, DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.values import PropertyType, ValueRule, canonical, parse_text
from gateway.wire.mqtt.filters import TopicFilter, check_topic

PROTOCOL = "mqtt"
OWN_RULE: Final = ValueRule()
QOS = (0, 1, 2)
SHARED = ("topic", "commandTopic")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one property is; an empty topic means there is none."""

    topic: str
    path: Path | None
    command_topic: str
    command_path: Path | None
    qos: int
    is_retained: bool


class MqttDriver:
    """One device: the latest value of each property, as the device said it."""

    def __init__(
        self,
        places: Mapping[str, Place],
        rules: Mapping[str, ValueRule],
        topics: LocalTopics,
        clock: Callable[[], int],
    ) -> None:
        self._places = places
        self._rules = rules
        self._topics = topics
        self._clock = clock
        self._latest: dict[str, Reading] = {}
        self._listening: list[int] = []
        self._changed: list[Callable[[], None]] = []

    async def connect(self) -> None:
        by_topic: dict[str, list[str]] = {}
        for name, place in self._places.items():
            if place.topic:
                by_topic.setdefault(place.topic, []).append(name)
        for topic, names in by_topic.items():
            heard = _Heard(self, tuple(names))
            self._listening.append(self._topics.listen(topic, heard))

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        return {name: self._latest[name] for name in names if name in self._latest}

    async def write(self, name: str, text: str) -> None:
        place = self._places.get(name)
        if place is None or not place.command_topic:
            raise Rejected(f"{name} has no commandTopic")
        rule = self._rules.get(name, OWN_RULE)
        payload = (
            text.encode()
            if place.command_path is None
            else msgspec.json.encode(_nested(place.command_path, parse_text(rule.type, text)))
        )
        self._topics.publish(place.command_topic, payload, qos=place.qos, retain=place.is_retained)

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)

    async def close(self) -> None:
        self._changed.clear()
        while self._listening:
            self._topics.forget(self._listening.pop())

    def take(self, names: Sequence[str], payload: bytes) -> None:
        """The device has said something; a property that is not in it keeps its value."""
        document = _Payload(payload)
        for name in names:
            place = self._places[name]
            text = document.text(place.path, self._rules.get(name, OWN_RULE).type)
            if text is not None:
                self._latest[name] = self._reading(name, text)
        for changed in self._changed:
            changed()

    def _reading(self, name: str, text: str) -> Reading:
        try:
            parse_text(self._rules.get(name, OWN_RULE).type, text)
        except BadRequest as error:
            return Reading("", Quality.BAD, self._clock(), error.message)
        return Reading(text, Quality.GOOD, self._clock())


@dataclass(frozen=True, slots=True)
class _Heard:
    driver: MqttDriver
    names: tuple[str, ...]

    def __call__(self, _topic: str, payload: bytes) -> None:
        self.driver.take(self.names, payload)


class _Payload:
    """One message: JSON is read once, and only when a property asks for it."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._json: Json | Absent | None = None
        self._is_read = False

    def text(self, path: Path | None, kind: PropertyType) -> str | None:
        """Return a value as canonical text, None when the message does not have it."""
        if path is None:
            try:
                return self._payload.decode().strip() or None
            except UnicodeDecodeError:
                return None
        if not self._is_read:
            self._is_read, self._json = True, _decoded(self._payload)
        found = self._json if isinstance(self._json, Absent) else find(self._json, path)
        return None if found is None or isinstance(found, Absent) else _text(kind, found)


def _decoded(payload: bytes) -> Json | Absent:
    try:
        value: Json = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Absent()
    return value


def _text(kind: PropertyType, value: Json) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return canonical(PropertyType.BOOLEAN, value)
    if isinstance(value, float) and value.is_integer() and kind is PropertyType.INT:
        return str(int(value))
    if isinstance(value, int | float):
        is_whole = isinstance(value, int) and kind is not PropertyType.STRING
        return str(value) if is_whole else canonical(PropertyType.DOUBLE, value)
    return msgspec.json.encode(value).decode()


def _nested(path: Path, value: Json) -> Json:
    document = value
    for step in reversed(path):
        document = dict[str, Json]({str(step): document})
    return document


def make_mqtt(
    topics: LocalTopics, clock: Callable[[], int]
) -> Callable[[DeviceView, ModelView | None], Driver]:
    """Return the factory of MQTT drivers on the edge's own topics."""

    def make(view: DeviceView, model: ModelView | None) -> Driver:
        config = view.protocol_config or {}
        places = {
            prop.name: _place(prop, config)
            for prop in view.properties.values()
            if prop.visitor or config
        }
        if not any(place.topic or place.command_topic for place in places.values()):
            raise NotServed
        return MqttDriver(places, {} if model is None else model.rules, topics, clock)

    return make


def _place(prop: DeviceProperty, config: JsonObject) -> Place:
    shared: JsonObject = {key: config[key] for key in SHARED if key in config}
    said: JsonObject = {**shared, **(prop.visitor or {})}
    try:
        topic, command = _text_of(said, "topic"), _text_of(said, "commandTopic")
        if topic:
            TopicFilter.parse(topic)
        if command:
            check_topic(command)
        if topic.startswith("$") or command.startswith("$"):
            raise BadRequest("topics that begin with $ belong to the edge")
        qos = said.get("qos", 1)
        if qos not in QOS or isinstance(qos, bool):
            raise BadRequest(f"qos: expected 0, 1 or 2, got {qos!r}")
        return Place(
            topic,
            _path_of(said, "path"),
            command,
            _command_path(said),
            int(qos),
            said.get("retain") is True,
        )
    except GatewayError as error:
        raise Rejected(f"{prop.name}: {error.message}") from error


def _text_of(said: JsonObject, key: str) -> str:
    value = said.get(key, "")
    if not isinstance(value, str):
        raise BadRequest(f"{key}: expected text")
    return value


def _path_of(said: JsonObject, key: str) -> Path | None:
    text = _text_of(said, key)
    return parse_path(text) if text else None


def _command_path(said: JsonObject) -> Path | None:
    path = _path_of(said, "commandPath")
    if path is not None and not all(isinstance(step, str) for step in path):
        raise BadRequest("commandPath: a path of names only")
    return path
