"""`configData` of Bluetooth Devices and of their properties, read and judged.

The keys are in docs/devices-bluetooth.md; `macAddress`, `characteristicUUID`, `dataConverter` and
`dataWrite` are those of KubeEdge's own mapper.
"""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from edge.mappers.ble import beacons, bthome
from edge.mappers.ble.codecs import Codec, named_codec
from edge.mappers.ble.converter import Converter, words_of
from edge.mappers.ble.heard import Heard
from edge.mappers.ble.sig import codec_by_name, codec_of
from edge.mappers.ble.uuids import address_of, number_of, uuid_of
from edge.mappers.configdata import ConfigData
from gateway.errors import Rejected
from gateway.model.json import Json
from gateway.wire.cloudedge.devices import DeviceProperty, DeviceView

MAX_TIMEOUT: Final = 9.0
"""Seconds: a session waits 10 for a connection."""


class Kind(enum.StrEnum):
    """What a Device is."""

    CONNECTED = "connected"
    PASSIVE = "passive"
    ADAPTER = "adapter"


class Notify(enum.StrEnum):
    """Whether a characteristic is listened to."""

    YES = "true"
    NO = "false"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Match:
    """Which device a Device means: by address, or by all the others that are given."""

    address: str = ""
    name: str = ""
    service: str = ""
    manufacturer: int | None = None

    def fits(self, heard: Heard) -> bool:
        if self.address:
            return heard.address == self.address
        return (
            (not self.name or fnmatch.fnmatchcase(heard.name, self.name))
            and (
                not self.service
                or self.service in heard.services
                or self.service in heard.service_data
            )
            and (self.manufacturer is None or self.manufacturer in heard.manufacturer)
        )

    def __str__(self) -> str:
        parts = [self.address, self.name and f"named {self.name!r}"]
        parts.append(self.service and f"with service {self.service}")
        if self.manufacturer is not None:
            parts.append(f"of manufacturer {self.manufacturer:#06x}")
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Gatt:
    """A property that is a characteristic.

    Shape:  `words` are the bytes of texts that may be written (`dataWrite`); `instance` counts
            characteristics of one UUID, by handle.
    """

    characteristic: str
    service: str
    instance: int
    codec: Codec
    notify: Notify
    response: bool | None
    words: Mapping[str, bytes] = field(default_factory=dict)
    fallback: str = ""
    """Why there is no codec of its own."""


class Part(enum.StrEnum):
    """Which part of an advertisement a property is."""

    BTHOME = "bthome"
    IBEACON = "ibeacon"
    EDDYSTONE = "eddystone"
    SERVICE_DATA = "serviceData"
    MANUFACTURER_DATA = "manufacturerData"
    RSSI = "rssi"
    TX_POWER = "txPower"
    NAME = "name"
    ADDRESS = "address"


PLAIN_PARTS: Final = (Part.RSSI, Part.TX_POWER, Part.NAME, Part.ADDRESS)


@dataclass(frozen=True, slots=True)
class Advertised:
    """A property that is part of an advertisement.

    Shape:  `key` is a field's name, a UUID or a manufacturer's number; `length` 0 for all from `offset` on.
    """

    part: Part
    key: str | int = ""
    offset: int = 0
    length: int = 0
    codec: Codec | None = None


Source = Gatt | Advertised

ADAPTER_PROPERTIES: Final = (
    "state",
    "scanning",
    "seen",
    "discovered",
    "connected",
    "address",
    "name",
)


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """A Device's configuration; times in seconds.

    Shape:  `faults` says by property why it has no source.
    """

    kind: Kind
    match: Match
    adapter: str
    pair: bool
    connect_timeout: float
    idle_disconnect: float
    stale_after: float
    key: bytes | None
    sources: Mapping[str, Source]
    faults: Mapping[str, str]

    @property
    def notifies(self) -> bool:
        return not self.idle_disconnect


def read_device(view: DeviceView, adapter: str, stale_after: float) -> DeviceConfig:
    """Read a Device. Errors: Rejected for what no device can be found or served by."""
    config = ConfigData("configData", view.protocol_config or {})
    kind = config.choice({each.value: each for each in Kind}, "kind", default=Kind.CONNECTED)
    idle = _seconds(config, "idleDisconnect", 0.0, 86_400.0)
    sources, faults = _sources(view, kind, is_idle=idle > 0)
    made = DeviceConfig(
        kind,
        _match(config),
        config.text("adapter", default=adapter),
        config.flag("pair"),
        _seconds(config, "connectTimeout", 8.0, MAX_TIMEOUT),
        idle,
        _seconds(config, "staleAfter", stale_after, 30 * 86_400.0),
        _key(config),
        sources,
        faults,
    )
    if kind is not Kind.ADAPTER and made.match == Match():
        raise Rejected(
            "configData: expected macAddress, or name, serviceUuid, manufacturerId to find it by"
        )
    return made


def _match(config: ConfigData) -> Match:
    address = config.text("macAddress", "address", "mac")
    service = config.text("serviceUuid", "serviceUUID")
    has_maker = config.has("manufacturerId", "manufacturerID")
    return Match(
        address_of(address) if address else "",
        config.text("name"),
        uuid_of(service) if service else "",
        config.integer("manufacturerId", "manufacturerID", high=0xFFFF) if has_maker else None,
    )


def _seconds(config: ConfigData, key: str, default: float, most: float) -> float:
    seconds = config.number(key, default=default)
    if not 0 <= seconds <= most:
        raise Rejected(f"{config.where}.{key}: expected 0 to {most:g} seconds, got {seconds:g}")
    return seconds


def _key(config: ConfigData) -> bytes | None:
    text = config.text("bindKey", "bindkey")
    if not text:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 16:
        raise Rejected("configData.bindKey: expected 32 hexadecimal digits")
    return key


def _sources(
    view: DeviceView, kind: Kind, *, is_idle: bool
) -> tuple[dict[str, Source], dict[str, str]]:
    sources: dict[str, Source] = {}
    faults: dict[str, str] = {}
    for name, prop in view.properties.items():
        if kind is Kind.ADAPTER:
            if name not in ADAPTER_PROPERTIES:
                faults[name] = f"an adapter has {', '.join(ADAPTER_PROPERTIES)}"
            continue
        try:
            sources[name] = _judged(read_source(prop, kind), is_idle=is_idle)
        except Rejected as error:
            faults[name] = error.message
    return sources, faults


def _judged(source: Source, *, is_idle: bool) -> Source:
    """Errors: Rejected for what a device that is connected to only now and then cannot do."""
    if is_idle and isinstance(source, Gatt) and source.notify is Notify.YES:
        raise Rejected("visitor.notify: a device with idleDisconnect is read; it cannot notify")
    return source


def read_source(prop: DeviceProperty, kind: Kind = Kind.CONNECTED) -> Source:
    """Read where a property's value is. Errors: Rejected."""
    config = ConfigData("visitor", prop.visitor or {})
    if config.values.get("advertisement") is not None:
        return _advertised(config.values["advertisement"])
    if not config.has("characteristicUUID", "characteristicUuid", "characteristic"):
        raise Rejected("visitor: expected characteristicUUID or advertisement")
    if kind is Kind.PASSIVE:
        raise Rejected(
            "visitor: a passive Device is never connected to; it has advertisements only"
        )
    return _gatt(config)


def _gatt(config: ConfigData) -> Gatt:
    uuid = uuid_of(config.text("characteristicUUID", "characteristicUuid", "characteristic"))
    service = config.text("serviceUUID", "serviceUuid")
    response = config.choice(_RESPONSES, "write", default=_ANY)
    codec, fallback = _codec(config, uuid)
    return Gatt(
        uuid,
        uuid_of(service) if service else "",
        config.integer("instance", default=0, high=1_000),
        codec,
        config.choice({each.value: each for each in Notify}, "notify", default=Notify.AUTO),
        None if response == _ANY else response == "with",
        words_of(config),
        fallback,
    )


_ANY: Final = "any"
_RESPONSES: Final = {
    "with-response": "with",
    "withresponse": "with",
    "without-response": "without",
    "without": "without",
    "withoutresponse": "without",
    _ANY: _ANY,
}


def _codec(config: ConfigData, uuid: str) -> tuple[Codec, str]:
    """Return how a characteristic's bytes are read: told, KubeEdge's, the standard one, or as they are."""
    if config.has("dataConverter"):
        return Converter.read(config.below("dataConverter")).codec(), ""
    if config.has("decoder", "dataType"):
        return _told(config), ""
    number = number_of(uuid)
    try:
        if number is not None:
            return codec_of(number, config.text("field")), ""
    except Rejected:
        if config.has("field"):
            raise
    return named_codec("bytes"), "no decoder is known for this characteristic: its bytes are told"


def _told(config: ConfigData) -> Codec:
    word = config.text("decoder", "dataType")
    standard = codec_by_name(word, config.text("field"))
    if standard is not None:
        return standard
    scale = config.number("scale", default=1.0)
    if scale == 0:
        raise Rejected(f"{config.where}.scale: expected a number that is not 0")
    return named_codec(word, scale, config.number("offset", default=0.0))


def _advertised(value: Json) -> Advertised:
    if isinstance(value, str):
        value = {value: True}
    if not isinstance(value, dict):
        raise Rejected("visitor.advertisement: expected an object, or a word like rssi")
    config = ConfigData("visitor.advertisement", value)
    kinds = [part for part in Part if config.has(part.value)]
    if len(kinds) != 1:
        raise Rejected(f"visitor.advertisement: expected one of {', '.join(Part)}")
    return _READERS[kinds[0]](config, kinds[0])


def _plain(_config: ConfigData, part: Part) -> Advertised:
    return Advertised(part)


def _named(config: ConfigData, part: Part) -> Advertised:
    word = config.text(part.value)
    known = {Part.IBEACON: beacons.IBEACON_FIELDS, Part.EDDYSTONE: beacons.EDDYSTONE_FIELDS}
    fields = known.get(part) or (*{kind.name for kind in bthome.KINDS.values()}, "text", "raw")
    base, _, number = word.rpartition("_")
    if word not in fields and not (base in fields and number.isdecimal()):
        raise Rejected(f"{config.where}.{part}: expected one of {', '.join(sorted(fields))}")
    return Advertised(part, word)


def _slice(config: ConfigData, part: Part) -> Advertised:
    key: str | int = (
        uuid_of(config.text(part.value))
        if part is Part.SERVICE_DATA
        else config.integer(part.value, "id", high=0xFFFF)
    )
    codec = _told(config) if config.has("decoder", "dataType") else named_codec("bytes")
    return Advertised(
        part,
        key,
        config.integer("start", "startIndex", default=0, high=255),
        config.integer("length", default=0, high=255),
        codec,
    )


_READERS: Final = {
    Part.BTHOME: _named,
    Part.IBEACON: _named,
    Part.EDDYSTONE: _named,
    Part.SERVICE_DATA: _slice,
    Part.MANUFACTURER_DATA: _slice,
    **dict.fromkeys(PLAIN_PARTS, _plain),
}
