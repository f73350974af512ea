"""Device, DeviceModel and DeviceStatus objects as typed views, for the controller and for the edge alike.

Reading is lenient where KubeEdge is (absent parts, unknown keys) and never raises for odd content: what
cannot be used is left out. Source: CRDs `devices.kubeedge.io/v1beta1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice
from gateway.wire.cloudedge.values import PropertyType, ValueRule, parse_text

GROUP_VERSION = "devices.kubeedge.io/v1beta1"
DEVICES = "devices"
MODELS = "devicemodels"
STATUSES = "devicestatuses"

MAX_PROPERTIES = 1_000
"""Properties of one Device or model that are looked at."""


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """The part of `metadata` that rooms ask for; absent parts are empty."""

    namespace: str
    name: str
    uid: str
    version: str
    generation: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    is_deleting: bool

    @classmethod
    def read(cls, document: JsonObject) -> ObjectMeta:
        meta = mapping(document.get("metadata"))
        generation = meta.get("generation")
        return cls(
            namespace=text(meta.get("namespace")),
            name=text(meta.get("name")),
            uid=text(meta.get("uid")),
            version=text(meta.get("resourceVersion")),
            generation=generation if isinstance(generation, int) else 0,
            labels=_texts(meta.get("labels")),
            annotations=_texts(meta.get("annotations")),
            is_deleting=bool(meta.get("deletionTimestamp")),
        )

    @property
    def key(self) -> DeviceKey:
        return DeviceKey(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class DeviceProperty:
    """One entry of `spec.properties`.

    Shape:  `index` its place in the list (JSON Patch needs it); `desired` the wanted text, None where the CR
            wants nothing; cycles in milliseconds, 0 for unset; `visitor` is `visitors.configData`.
    """

    name: str
    index: int
    desired: str | None = None
    desired_metadata: Mapping[str, str] | None = None
    has_desired: bool = False
    report_to_cloud: bool = False
    report_cycle: int = 0
    collect_cycle: int = 0
    visitor_protocol: str = ""
    visitor: JsonObject | None = None
    push_method: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A Device: which node, which model, which properties are wanted how."""

    meta: ObjectMeta
    node: str
    model: str
    properties: Mapping[str, DeviceProperty]
    protocol: str = ""
    protocol_config: JsonObject | None = None

    @classmethod
    def read(cls, document: JsonObject) -> DeviceView:
        spec = mapping(document.get("spec"))
        protocol = mapping(spec.get("protocol"))
        return cls(
            meta=ObjectMeta.read(document),
            node=text(spec.get("nodeName")),
            model=text(mapping(spec.get("deviceModelRef")).get("name")),
            properties={p.name: p for p in _properties(spec.get("properties"))},
            protocol=text(protocol.get("protocolName")),
            protocol_config=mapping(protocol.get("configData")),
        )

    @property
    def key(self) -> DeviceKey:
        return self.meta.key

    @property
    def member(self) -> MemberDevice:
        """The device as `membership` messages name it."""
        return MemberDevice(
            id=str(self.key),
            name=self.meta.name,
            description=self.meta.labels.get("description", ""),
        )


@dataclass(frozen=True, slots=True)
class ModelView:
    """A DeviceModel: what each property may hold."""

    meta: ObjectMeta
    rules: Mapping[str, ValueRule]
    protocol: str = ""
    protocol_config: JsonObject | None = None

    @classmethod
    def read(cls, document: JsonObject) -> ModelView:
        spec = mapping(document.get("spec"))
        return cls(
            meta=ObjectMeta.read(document),
            rules=dict(_rules(spec.get("properties"))),
            protocol=text(spec.get("protocol")),
            protocol_config=mapping(spec.get("protocolConfigData")),
        )


def _properties(value: Json) -> list[DeviceProperty]:
    entries = value if isinstance(value, list) else []
    return [
        _property(index, entry)
        for index, entry in enumerate(entries[:MAX_PROPERTIES])
        if isinstance(entry, dict) and text(entry.get("name"))
    ]


def _property(index: int, entry: JsonObject) -> DeviceProperty:
    desired = entry.get("desired")
    visitors = mapping(entry.get("visitors"))
    push = entry.get("pushMethod")
    return DeviceProperty(
        name=text(entry.get("name")),
        index=index,
        desired=text(mapping(desired).get("value")) or None,
        desired_metadata=_texts(mapping(desired).get("metadata")),
        has_desired="desired" in entry,
        report_to_cloud=entry.get("reportToCloud") is True,
        report_cycle=_number(entry.get("reportCycle")),
        collect_cycle=_number(entry.get("collectCycle")),
        visitor_protocol=text(visitors.get("protocolName")),
        visitor=mapping(visitors.get("configData")),
        push_method=push if isinstance(push, dict) else None,
    )


def _rules(value: Json) -> list[tuple[str, ValueRule]]:
    entries = value if isinstance(value, list) else []
    return [
        (text(entry.get("name")), _rule(entry))
        for entry in entries[:MAX_PROPERTIES]
        if isinstance(entry, dict) and text(entry.get("name"))
    ]


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


def mapping(value: Json) -> JsonObject:
    """Return `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Json) -> str:
    """Return `value` if it is text, else the empty text."""
    return value if isinstance(value, str) else ""


def _texts(value: Json) -> dict[str, str]:
    return {k: v for k, v in mapping(value).items() if isinstance(v, str)}


def _number(value: Json) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
