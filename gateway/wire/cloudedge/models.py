"""DeviceModels as typed views: what each property may hold, and what Devices of a model have by default.

Reading is as lenient as for Devices. Source: CRD `devices.kubeedge.io/v1beta1`, DeviceModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import (
    MAX_PROPERTIES,
    DeviceProperty,
    DeviceView,
    ObjectMeta,
    mapping,
    text,
)
from gateway.wire.cloudedge.devices_v1alpha2 import model_as_v1beta1
from gateway.wire.cloudedge.values import PropertyType, ValueRule, parse_text


@dataclass(frozen=True, slots=True)
class ModelProperty:
    """One entry of `spec.properties`, as it stands there.

    Shape:  `minimum` and `maximum` are texts; `visitor` is `visitors.configData`, None without visitors.
    """

    name: str
    description: str = ""
    type: str = ""
    access: str = ""
    minimum: str = ""
    maximum: str = ""
    unit: str = ""
    visitor_protocol: str = ""
    visitor: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    """A DeviceModel: `rules` for values, `properties` as v1beta1 writes them, `document` all of it so."""

    meta: ObjectMeta
    rules: Mapping[str, ValueRule]
    protocol: str = ""
    protocol_config: JsonObject | None = None
    properties: Mapping[str, ModelProperty] = field(default_factory=dict)
    document: JsonObject = field(default_factory=dict)

    @classmethod
    def read(cls, stored: JsonObject) -> ModelView:
        """Read a DeviceModel of either version."""
        document = model_as_v1beta1(stored)
        spec = mapping(document.get("spec"))
        entries = _entries(spec.get("properties"))
        return cls(
            meta=ObjectMeta.read(document),
            rules={name: _rule(entry) for name, entry in entries.items()},
            protocol=text(spec.get("protocol")),
            protocol_config=mapping(spec.get("protocolConfigData")),
            properties={name: _property(name, entry) for name, entry in entries.items()},
            document=document,
        )


def with_defaults(device: DeviceView, model: ModelView | None) -> DeviceView:
    """Return a Device with its model's visitors and protocol configuration below its own.

    Key by key on the first level, as KubeEdge's edge does: what the Device says itself wins.
    """
    if model is None:
        return device
    return replace(
        device,
        protocol=device.protocol or model.protocol,
        protocol_config=_below(device.protocol_config, model.protocol_config),
        properties={
            name: _with_visitor(prop, model.properties.get(name))
            for name, prop in device.properties.items()
        },
    )


def _with_visitor(prop: DeviceProperty, default: ModelProperty | None) -> DeviceProperty:
    if default is None or default.visitor is None:
        return prop
    return replace(
        prop,
        visitor_protocol=prop.visitor_protocol or default.visitor_protocol,
        visitor=_below(prop.visitor, default.visitor),
    )


def _below(own: JsonObject | None, default: JsonObject | None) -> JsonObject:
    return {**(default or {}), **(own or {})}


def _entries(value: Json) -> dict[str, JsonObject]:
    entries = value if isinstance(value, list) else []
    return {
        text(entry.get("name")): entry
        for entry in entries[:MAX_PROPERTIES]
        if isinstance(entry, dict) and text(entry.get("name"))
    }


def _property(name: str, entry: JsonObject) -> ModelProperty:
    visitors = entry.get("visitors")
    return ModelProperty(
        name=name,
        description=text(entry.get("description")),
        type=text(entry.get("type")),
        access=text(entry.get("accessMode")),
        minimum=text(entry.get("minimum")),
        maximum=text(entry.get("maximum")),
        unit=text(entry.get("unit")),
        visitor_protocol=text(mapping(visitors).get("protocolName")),
        visitor=mapping(mapping(visitors).get("configData"))
        if isinstance(visitors, dict)
        else None,
    )


def _rule(entry: JsonObject) -> ValueRule:
    kind = text(entry.get("type")).upper() or PropertyType.STRING
    known = PropertyType(kind) if kind in PropertyType.__members__ else PropertyType.STRING
    return ValueRule(
        type=known,
        writable=entry.get("accessMode") != "ReadOnly",
        minimum=_bound(entry.get("minimum")),
        maximum=_bound(entry.get("maximum")),
        unit=text(entry.get("unit")),
    )


def _bound(value: Json) -> float | None:
    if isinstance(value, str) and value:
        try:
            return float(parse_text(PropertyType.DOUBLE, value))
        except BadRequest:
            return None
    return None
