"""Devices and DeviceModels of v1alpha2 in the words of v1beta1.

Both versions are served and nothing converts what is stored (as with KubeEdge), so an object is told by its
fields, not by its `apiVersion`: whoever reads v1beta1 gets an object that was written as v1alpha2 as it is.

What v1alpha2 has and v1beta1 has not stays in the stored object alone: `spec.data` (where mappers publish
by themselves), default values of models, reported values in a Device's status. Everything was reported to
the cloud then, so `reportToCloud` is true.

Source: CRDs `devices.kubeedge.io/v1alpha2`; KubeEdge reference, section 16.5.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.lenient import mapping, objects, text

MAX_PROPERTIES = 1_000
"""Properties of one Device or model that are looked at."""

_LATER = ("nodeName", "properties", "methods", "stateReport")
_OLD = ("nodeSelector", "propertyVisitors", "data")
_PROTOCOLS = ("opcua", "modbus", "bluetooth", "customizedProtocol")
_CYCLES = ("collectCycle", "reportCycle")
_NUMBERS = ("minimum", "maximum")


def is_v1alpha2(device: JsonObject) -> bool:
    """True for a Device in v1alpha2's form: it has fields of v1alpha2 and none that only v1beta1 has."""
    spec = mapping(device.get("spec"))
    protocol = mapping(spec.get("protocol"))
    if any(key in spec for key in _LATER) or "protocolName" in protocol:
        return False
    has_twins = isinstance(mapping(device.get("status")).get("twins"), list)
    is_old = any(key in spec for key in _OLD) or any(key in protocol for key in _PROTOCOLS)
    return is_old or has_twins


def as_v1beta1(device: JsonObject) -> JsonObject:
    """Return a Device in v1beta1's form; the same one when it has it already."""
    if not is_v1alpha2(device):
        return device
    old = mapping(device.get("spec"))
    spec: JsonObject = {
        "deviceModelRef": old.get("deviceModelRef") or {},
        "nodeName": _node_of(mapping(old.get("nodeSelector"))),
        "properties": list(_properties(device)),
    }
    protocol = mapping(old.get("protocol"))
    if protocol:
        spec["protocol"] = _protocol(protocol)
    status = {k: v for k, v in mapping(device.get("status")).items() if k != "twins"}
    rest = {k: v for k, v in device.items() if k not in ("spec", "status")}
    return {**rest, "spec": spec, **({"status": status} if status else {})}


def wishes_of(device: JsonObject) -> dict[str, int]:
    """Return the properties of `status.twins` and their places in it."""
    twins = mapping(device.get("status")).get("twins")
    entries = twins if isinstance(twins, list) else []
    return {
        text(entry.get("propertyName")): index
        for index, entry in enumerate(entries[:MAX_PROPERTIES])
        if isinstance(entry, dict)
    }


def model_as_v1beta1(model: JsonObject) -> JsonObject:
    """Return a DeviceModel in v1beta1's form; the same one when it has it already."""
    spec = mapping(model.get("spec"))
    properties = spec.get("properties")
    if not isinstance(properties, list) or not any(_has_old_type(entry) for entry in properties):
        return model
    flat = [_model_property(e) if _has_old_type(e) else e for e in properties[:MAX_PROPERTIES]]
    return {**model, "spec": {**spec, "properties": flat}}


# --- Devices ------------------------------------------------------------------------------------


def _node_of(selector: JsonObject) -> str:
    """The first value of the selector, as KubeEdge took it."""
    for term in objects(selector.get("nodeSelectorTerms"), MAX_PROPERTIES):
        for key in ("matchExpressions", "matchFields"):
            for requirement in objects(term.get(key), MAX_PROPERTIES):
                values = requirement.get("values")
                if isinstance(values, list) and values and text(values[0]):
                    return text(values[0])
    return ""


def _protocol(union: JsonObject) -> JsonObject:
    """One protocol of a union, and what is common to all, as one flat table."""
    name, own = _member(union)
    common = {**mapping(union.get("common"))}
    ways = {**mapping(common.pop("com", None)), **mapping(common.pop("tcp", None))}
    return {"protocolName": name, "configData": {**common, **ways, **own}}


def _member(union: JsonObject) -> tuple[str, JsonObject]:
    """Return the name and the settings of the one protocol that is set, "" for none."""
    for key in _PROTOCOLS:
        member = union.get(key)
        if not isinstance(member, dict):
            continue
        if key == "customizedProtocol":
            return text(member.get("protocolName")), mapping(member.get("configData"))
        return key, member
    return "", {}


def _properties(device: JsonObject) -> Iterator[JsonObject]:
    spec, status = mapping(device.get("spec")), mapping(device.get("status"))
    visitors = _by_name(spec.get("propertyVisitors"))
    twins = _by_name(status.get("twins"))
    data = _by_name(mapping(spec.get("data")).get("dataProperties"))
    for name in dict.fromkeys([*visitors, *twins, *data]):
        yield _property(name, visitors.get(name, {}), twins.get(name, {}))


def _by_name(entries: Json) -> dict[str, JsonObject]:
    found = objects(entries, MAX_PROPERTIES)
    return {text(e.get("propertyName")): e for e in found if text(e.get("propertyName"))}


def _property(name: str, visitor: JsonObject, twin: JsonObject) -> JsonObject:
    entry: JsonObject = {"name": name, "reportToCloud": True}
    if "desired" in twin:
        entry["desired"] = twin["desired"]
    entry |= {key: visitor[key] for key in _CYCLES if key in visitor}
    protocol, own = _member(visitor)
    if protocol:
        common = mapping(visitor.get("customizedValues"))
        entry["visitors"] = {"protocolName": protocol, "configData": {**common, **own}}
    return entry


# --- models ---------------------------------------------------------------------------------------


def _has_old_type(entry: Json) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("type"), dict)


def _model_property(entry: Json) -> JsonObject:
    old = mapping(entry)
    kind, facts = next(
        ((k, v) for k, v in mapping(old.get("type")).items() if isinstance(v, dict)), ("", {})
    )
    flat: JsonObject = {key: value for key, value in old.items() if key != "type"}
    flat |= {"type": kind.upper(), "accessMode": facts.get("accessMode") or "ReadWrite"}
    flat |= {key: _as_text(facts[key]) for key in _NUMBERS if facts.get(key) is not None}
    if text(facts.get("unit")):
        flat["unit"] = facts["unit"]
    return flat


def _as_text(value: Json) -> str:
    return repr(value) if isinstance(value, float) else str(value)
