"""Devices as typed views (models: `models`), for the controller and for the edge alike.

Reading is lenient where KubeEdge is (absent parts, unknown keys) and never raises for odd content: what
cannot be used is left out. Source: CRDs `devices.kubeedge.io/v1beta1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice

GROUP_VERSION = "devices.kubeedge.io/v1beta1"
DEVICES = "devices"
MODELS = "devicemodels"
STATUSES = "devicestatuses"

MAX_PROPERTIES = 1_000
"""Properties of one Device or model that are looked at."""
MAX_METHODS = 100
"""Methods of one Device that are looked at."""


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
            labels=texts(meta.get("labels")),
            annotations=texts(meta.get("annotations")),
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
class DeviceMethod:
    """A method that devices offer: a write of each of its properties."""

    name: str
    description: str
    properties: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StateReport:
    """How a device's state is told; `cycle` in milliseconds, 0 for on change."""

    to_cloud: bool = False
    cycle: int = 0


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A Device: which node, which model, which properties are wanted how; `document` is all of it."""

    meta: ObjectMeta
    node: str
    model: str
    properties: Mapping[str, DeviceProperty]
    protocol: str = ""
    protocol_config: JsonObject | None = None
    methods: tuple[DeviceMethod, ...] = ()
    state_report: StateReport = StateReport()
    document: JsonObject = field(default_factory=dict)

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
            methods=tuple(_methods(spec.get("methods"))),
            state_report=_state_report(mapping(spec.get("stateReport"))),
            document=document,
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
        desired_metadata=texts(mapping(desired).get("metadata")),
        has_desired="desired" in entry,
        report_to_cloud=entry.get("reportToCloud") is True,
        report_cycle=number(entry.get("reportCycle")),
        collect_cycle=number(entry.get("collectCycle")),
        visitor_protocol=text(visitors.get("protocolName")),
        visitor=mapping(visitors.get("configData")),
        push_method=push if isinstance(push, dict) else None,
    )


def _methods(value: Json) -> list[DeviceMethod]:
    entries = value if isinstance(value, list) else []
    return [
        DeviceMethod(
            text(entry.get("name")),
            text(entry.get("description")),
            _names(entry.get("propertyNames")),
        )
        for entry in entries[:MAX_METHODS]
        if isinstance(entry, dict) and text(entry.get("name"))
    ]


def _names(value: Json) -> tuple[str, ...]:
    entries = value if isinstance(value, list) else []
    return tuple(entry for entry in entries[:MAX_PROPERTIES] if isinstance(entry, str))


def _state_report(value: JsonObject) -> StateReport:
    return StateReport(value.get("reportToCloud") is True, number(value.get("reportCycle")))


def mapping(value: Json) -> JsonObject:
    """Return `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Json) -> str:
    """Return `value` if it is text, else the empty text."""
    return value if isinstance(value, str) else ""


def texts(value: Json) -> dict[str, str]:
    """Return those members of an object that are texts."""
    return {k: v for k, v in mapping(value).items() if isinstance(v, str)}


def number(value: Json) -> int:
    """Return `value` if it is a positive whole number, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
