"""Devices as typed views (models: `models`), for the controller and for the edge alike.

Reading is lenient where KubeEdge is (absent parts, unknown keys) and never raises for odd content: what
cannot be used is left out. Source: CRDs `devices.kubeedge.io/v1beta1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices_v1alpha2 import (
    MAX_PROPERTIES,
    as_v1beta1,
    is_v1alpha2,
    wishes_of,
)
from gateway.wire.cloudedge.lenient import mapping, number, text, texts
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice

__all__ = [
    "DEVICES",
    "GROUP_VERSION",
    "MAX_METHODS",
    "MAX_PROPERTIES",
    "MODELS",
    "STATUSES",
    "DeviceMethod",
    "DeviceProperty",
    "DeviceView",
    "ObjectMeta",
    "StateReport",
    "WishList",
    "mapping",
    "number",
    "text",
    "texts",
]

GROUP_VERSION = "devices.kubeedge.io/v1beta1"
DEVICES = "devices"
MODELS = "devicemodels"
STATUSES = "devicestatuses"

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

    Shape:  `index` its place in the Device's list of wishes (JSON Patch needs it), -1 where it has none;
            `desired` the wanted text, None where the CR wants nothing; cycles in milliseconds, 0 for unset;
            `visitor` is `visitors.configData`.
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
    """How a device's state is told; `cycle` in milliseconds, 0 for on change.

    Shape:  `is_set` tells a Device that says something of it from one that says nothing.
    """

    to_cloud: bool = False
    cycle: int = 0
    is_set: bool = False


@dataclass(frozen=True, slots=True)
class WishList:
    """Where the stored form of a Device keeps what is wanted.

    Shape:  the list `key` below the pointer `holder`, whose entries name their property by `name`;
            `has_holder` and `has_list` say what of it is there.
    """

    holder: str = "/spec"
    key: str = "properties"
    name: str = "name"
    has_holder: bool = True
    has_list: bool = False

    @property
    def path(self) -> str:
        return f"{self.holder}/{self.key}"


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A Device: which node, which model, which properties are wanted how.

    Shape:  `document` is all of it as v1beta1 writes it; `wishes` where the stored form keeps its wishes.
    """

    meta: ObjectMeta
    node: str
    model: str
    properties: Mapping[str, DeviceProperty]
    protocol: str = ""
    protocol_config: JsonObject | None = None
    methods: tuple[DeviceMethod, ...] = ()
    state_report: StateReport = StateReport()
    document: JsonObject = field(default_factory=dict)
    wishes: WishList = WishList()

    @classmethod
    def read(cls, stored: JsonObject) -> DeviceView:
        """Read a Device of either version."""
        document = as_v1beta1(stored)
        spec = mapping(document.get("spec"))
        protocol = mapping(spec.get("protocol"))
        return cls(
            meta=ObjectMeta.read(document),
            node=text(spec.get("nodeName")),
            model=text(mapping(spec.get("deviceModelRef")).get("name")),
            properties=_properties(spec.get("properties"), stored),
            protocol=text(protocol.get("protocolName")),
            protocol_config=mapping(protocol.get("configData")),
            methods=tuple(_methods(spec.get("methods"))),
            state_report=_state_report(spec.get("stateReport")),
            document=document,
            wishes=_wishes(stored),
        )

    @property
    def key(self) -> DeviceKey:
        return self.meta.key

    def is_namesake_of(self, other: DeviceView) -> bool:
        """True for another Device that had the same name."""
        uids = (self.meta.uid, other.meta.uid)
        return self.key == other.key and all(uids) and uids[0] != uids[1]

    @property
    def member(self) -> MemberDevice:
        """The device as `membership` messages name it."""
        return MemberDevice(
            id=str(self.key),
            name=self.meta.name,
            description=self.meta.labels.get("description", ""),
        )


def _wishes(stored: JsonObject) -> WishList:
    if is_v1alpha2(stored):
        status = stored.get("status")
        has_list = isinstance(mapping(status).get("twins"), list)
        return WishList("/status", "twins", "propertyName", isinstance(status, dict), has_list)
    spec = stored.get("spec")
    has_list = isinstance(mapping(spec).get("properties"), list)
    return WishList(has_holder=isinstance(spec, dict), has_list=has_list)


def _properties(value: Json, stored: JsonObject) -> dict[str, DeviceProperty]:
    entries = value if isinstance(value, list) else []
    found = [
        _property(index, entry)
        for index, entry in enumerate(entries[:MAX_PROPERTIES])
        if isinstance(entry, dict) and text(entry.get("name"))
    ]
    if is_v1alpha2(stored):
        places = wishes_of(stored)
        found = [replace(each, index=places.get(each.name, -1)) for each in found]
    return {each.name: each for each in found}


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


def _state_report(value: Json) -> StateReport:
    entry = mapping(value)
    to_cloud, cycle = entry.get("reportToCloud") is True, number(entry.get("reportCycle"))
    return StateReport(to_cloud, cycle, is_set=isinstance(value, dict))
