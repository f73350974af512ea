"""Where a Device's properties are, read from its `configData` and its visitors' `configData`.

Device: `{ieee: "00:12:4b:..."}` (or `address`). Visitor: nothing where the property's own name is known,
`{property: temperature}`, or `{cluster: temperature_measurement, attribute: measured_value}` by names or
numbers; each with `endpoint` and `scale` if need be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edge.mappers.configdata import ConfigData
from edge.mappers.driver import Clock
from edge.mappers.zigbee import codecs
from edge.mappers.zigbee.codecs import Codec
from edge.mappers.zigbee.meanings import (
    ATTRIBUTES,
    CLUSTERS,
    MEANINGS,
    Command,
    Meaning,
    Reporting,
    meaning_of,
    name_at,
)
from gateway.errors import Rejected
from gateway.wire.cloudedge.devices import DeviceProperty, DeviceView

__all__ = ["COORDINATOR", "Clock", "Place", "ieee_of", "is_coordinator", "places_of"]

COORDINATOR = "coordinator"
_HEX = re.compile(r"[0-9a-f]{16}")
_ENDPOINTS = (1, 240)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one property is on a device, and how it is read, set and reported.

    Shape:  `endpoint` 0: the first that has the cluster; `attribute_name` where the number is not known
            here; `kind` "": the radio library knows its type; `command` None: the attribute is written;
            `near`: raw values that far from what was wished are that; `scale` as somebody set it.
    """

    cluster: int
    attributes: tuple[int, ...]
    codec: Codec
    endpoint: int = 0
    attribute_name: str = ""
    kind: str = ""
    command: Command | None = None
    reporting: Reporting | None = None
    ratio: tuple[int, int] | None = None
    factor: float = 1.0
    near: int = 0
    scale: float = 1.0
    is_writable: bool = False
    is_known: bool = True
    """Whether it is one of the table's properties, with access rules of their own."""


def is_coordinator(view: DeviceView) -> bool:
    """Say whether a Device is the coordinator itself."""
    return (view.protocol_config or {}).get("kind") == COORDINATOR


def ieee_of(view: DeviceView) -> str:
    """Return a Device's address as lower-case text with colons. Errors: Rejected."""
    text = ConfigData("configData", view.protocol_config or {}).text("ieee", "address")
    plain = re.sub(r"[:\-.\s]", "", text.lower()).removeprefix("0x")
    if not _HEX.fullmatch(plain):
        raise Rejected(
            f"configData.ieee: expected 8 bytes such as 00:12:4b:00:14:b5:d7:f2, got {text[:40]!r}"
        )
    return ":".join(plain[at : at + 2] for at in range(0, 16, 2))


def places_of(view: DeviceView) -> tuple[dict[str, Place], dict[str, str]]:
    """Return the place of each property, and what is wrong with those that have none."""
    places: dict[str, Place] = {}
    faults: dict[str, str] = {}
    for prop in view.properties.values():
        try:
            places[prop.name] = place_of(prop)
        except Rejected as error:
            faults[prop.name] = error.message
    return places, faults


def place_of(prop: DeviceProperty) -> Place:
    """Return where a property is. Errors: Rejected, saying what was expected."""
    config = ConfigData(prop.name, prop.visitor or {})
    endpoint = config.integer("endpoint", default=0, low=0, high=_ENDPOINTS[1])
    scale = config.number("scale", default=0.0) if config.has("scale") else None
    if config.has("cluster"):
        place = _by_cluster(config)
    else:
        name = config.text("property", default=prop.name)
        meaning = meaning_of(name)
        if meaning is None:
            known = ", ".join(MEANINGS)
            raise Rejected(
                f"{prop.name}: no known Zigbee property; name cluster and attribute, or one of {known}"
            )
        place = _from(meaning)
    if scale is not None:
        if not scale:
            raise Rejected(f"{prop.name}.scale: expected a number other than 0")
        place = replace(place, codec=codecs.linear(scale, 9), ratio=None, factor=1.0, scale=scale)
    return replace(place, endpoint=endpoint)


def _by_cluster(config: ConfigData) -> Place:
    cluster = _number(config, "cluster", CLUSTERS)
    if not isinstance(cluster, int):
        raise Rejected(f"{config.where}.cluster: {cluster!r} is not known by name, give its number")
    names = {name: number for (at, name), number in ATTRIBUTES.items() if at == cluster}
    attribute = _number(config, "attribute", names)
    if isinstance(attribute, str):
        return Place(cluster, (), codecs.plain(), attribute_name=attribute, is_known=False)
    known = name_at(cluster, attribute)
    if known is not None:
        return _from(MEANINGS[known])
    return Place(cluster, (attribute,), codecs.plain(), is_known=False)


def _number(config: ConfigData, key: str, names: Mapping[str, int]) -> int | str:
    text = config.text(key, default=None).strip().lower()
    if text in names:
        return names[text]
    if text[:1].isdigit():
        return config.integer(key, low=0, high=0xFFFF)
    return text


def _from(meaning: Meaning) -> Place:
    return Place(
        meaning.cluster,
        meaning.attributes,
        meaning.codec,
        kind=meaning.kind,
        command=meaning.command,
        reporting=meaning.reporting,
        ratio=meaning.ratio,
        factor=meaning.factor,
        near=meaning.near,
        is_writable=meaning.is_writable,
    )
