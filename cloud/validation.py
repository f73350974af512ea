"""What KubeEdge's admission webhooks refuse, and what is worth a warning. Pure rules over documents.

A rule returns why a write is refused, "" when it is not; the texts are what kubectl shows after the webhook's
name. References that may come later (a Device before its model) are warnings, as KubeEdge lets them pass;
Rules are different there: both ends must exist.

Source: KubeEdge reference, sections 18.1 and 24.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cloud.mapping import layout_of, wanted_by_device
from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import DeviceView, mapping, text, texts
from gateway.wire.cloudedge.devices_v1alpha2 import MAX_PROPERTIES
from gateway.wire.cloudedge.lenient import objects
from gateway.wire.cloudedge.models import ModelProperty, ModelView
from gateway.wire.cloudedge.values import PropertyType, parse_text

MAX_WARNINGS = 10
NOT_UNIQUE = "property names must be unique."
AUTONOMY = ("app-offline.kubeedge.io", "autonomy")
"""Label of Pods that stay where they are when their node cannot be reached."""
UNREACHABLE = "node.kubernetes.io/unreachable"

_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)
MAX_VERSION = 256


# --- devices -------------------------------------------------------------------------------------


def device_fault(device: JsonObject) -> str:
    """Judge a Device of either version."""
    spec = mapping(device.get("spec"))
    lists = (
        _names(spec.get("properties"), "name"),
        _names(spec.get("propertyVisitors"), "propertyName"),
        _names(mapping(device.get("status")).get("twins"), "propertyName"),
    )
    return NOT_UNIQUE if any(_has_twice(names) for names in lists) else ""


def model_fault(model: JsonObject) -> str:
    """Judge a DeviceModel of either version."""
    entries = mapping(model.get("spec")).get("properties")
    if _has_twice(_names(entries, "name")):
        return NOT_UNIQUE
    for entry in objects(entries, MAX_PROPERTIES):
        kinds = entry.get("type")
        if isinstance(kinds, dict) and len(kinds) != 1:
            return f"property {text(entry.get('name'))}: exactly one type must be set"
    return ""


def _names(entries: Json, key: str) -> list[str]:
    found = entries if isinstance(entries, list) else []
    return [text(entry.get(key)) for entry in found if isinstance(entry, dict)]


def _has_twice(names: Sequence[str]) -> bool:
    return len(set(names)) != len(names)


def device_warnings(device: DeviceView, model: ModelView | None) -> tuple[str, ...]:
    """Say what of a Device will not work as it stands."""
    return tuple(_some(_device_warnings(device, model)))


def _device_warnings(device: DeviceView, model: ModelView | None) -> Iterator[str]:
    if device.model and model is None:
        yield f"DeviceModel {device.model} does not exist yet: the Device waits for it"
    if not device.node:
        yield "no node is named: the Device goes nowhere"
    for prop in device.properties.values():
        if model is not None and prop.name not in model.rules:
            yield f"property {prop.name}: not in DeviceModel {device.model}"
        if device.protocol and prop.visitor_protocol not in ("", device.protocol):
            yield (
                f"property {prop.name}: its visitors are of protocol {prop.visitor_protocol},"
                f" the Device is of {device.protocol}"
            )
    if model is not None:
        yield from _method_warnings(device, model)
        for name, why in wanted_by_device(device, layout_of(device, model)).bad.items():
            yield f"property {name}: {why}"


def _method_warnings(device: DeviceView, model: ModelView) -> Iterator[str]:
    known = model.rules.keys() | device.properties.keys()
    for method in device.methods:
        for name in method.properties:
            if name not in known:
                yield f"method {method.name}: there is no property {name}"


def model_warnings(model: ModelView) -> tuple[str, ...]:
    """Say what of a DeviceModel will not work as it stands."""
    found = (_bound_warnings(prop) for prop in model.properties.values())
    return tuple(_some(line for lines in found for line in lines))


def _bound_warnings(prop: ModelProperty) -> Iterator[str]:
    bounds = []
    for word, bound in (("minimum", prop.minimum), ("maximum", prop.maximum)):
        try:
            bounds += [float(parse_text(PropertyType.DOUBLE, bound))] if bound else []
        except BadRequest:
            yield f"property {prop.name}: {word} {bound[:40]!r} is not a number and does not count"
    if len(bounds) == 2 and bounds[0] > bounds[1]:
        yield f"property {prop.name}: its minimum is above its maximum, no value fits"


def _some(lines: Iterable[str]) -> Iterator[str]:
    for count, line in enumerate(lines):
        if count == MAX_WARNINGS:
            yield "and more"
            return
        yield line


# --- rules ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _End:
    """What a Rule must say about an end of this type; `alone` are those that no other Rule may say too."""

    needs: tuple[str, ...]
    alone: tuple[tuple[str, str], ...] = ()


_SOURCES: Mapping[str, _End] = {
    "rest": _End(("path",), (("path", "Path"),)),
    "eventbus": _End(("topic", "node_name"), (("node_name", "Node_name"), ("topic", "topic"))),
    "servicebus": _End(
        ("target_url", "node_name"), (("node_name", "Node_name"), ("target_url", "target_url"))
    ),
}
_TARGETS: Mapping[str, _End] = {
    "rest": _End(("resource",)),
    "eventbus": _End(("topic",)),
    "servicebus": _End(("path",)),
}
_PAIRS = (
    ("rest", "eventbus"),
    ("rest", "servicebus"),
    ("eventbus", "rest"),
    ("servicebus", "rest"),
)


def rule_fault(
    rule: JsonObject, ends: Mapping[str, JsonObject], others: Iterable[JsonObject]
) -> str:
    """Judge a Rule by the RuleEndpoints and the other Rules of its namespace.

    Shape:  `ends` by name; `others` without the Rule itself.
    """
    spec = mapping(rule.get("spec"))
    source, target = text(spec.get("source")), text(spec.get("target"))
    given, wanted = texts(spec.get("sourceResource")), texts(spec.get("targetResource"))
    one, other = _type(ends.get(source)), _type(ends.get(target))
    return (
        _missing_end("source", rule, source, ends)
        or _missing_word(_SOURCES.get(one), one, "sourceResource", given)
        or _taken(_SOURCES.get(one), given, others)
        or _missing_end("target", rule, target, ends)
        or _missing_word(_TARGETS.get(other), other, "targetResource", wanted)
        or _impossible(one, other)
    )


def _type(end: JsonObject | None) -> str:
    return text(mapping((end or {}).get("spec")).get("ruleEndpointType"))


def _missing_end(word: str, rule: JsonObject, name: str, ends: Mapping[str, JsonObject]) -> str:
    if name in ends:
        return ""
    at = f"{text(mapping(rule.get('metadata')).get('namespace'))}/{name}"
    reason = f'ruleendpoints.rules.kubeedge.io "{name}" not found'
    return f"can't get {word} ruleEndpoint {at}. Reason: {reason}"


def _missing_word(end: _End | None, kind: str, part: str, said: Mapping[str, str]) -> str:
    for need in end.needs if end else ():
        if need not in said:
            return f'"{need}" property missed in {part} when ruleEndpoint is "{kind}"'
    return ""


def _taken(end: _End | None, said: Mapping[str, str], others: Iterable[JsonObject]) -> str:
    alone = end.alone if end else ()
    for other in others:
        theirs = texts(mapping(other.get("spec")).get("sourceResource"))
        if alone and all(said.get(key, "") == theirs.get(key, "") for key, _ in alone):
            meta = mapping(other.get("metadata"))
            at = f"{text(meta.get('namespace'))}/{text(meta.get('name'))}"
            shown = ", ".join(f"{label}: {said.get(key, '')}" for key, label in alone)
            return f"source properties exist in Rule {at}. {shown}"
    return ""


def _impossible(source: str, target: str) -> str:
    if (source, target) in _PAIRS:
        return ""
    return (
        f"the rule which is from source ruleEndpoint type {source}"
        f" to target ruleEndpoint type {target} is not validate"
    )


def endpoint_fault(end: JsonObject) -> str:
    """Judge a RuleEndpoint."""
    if _type(end) != "servicebus":
        return ""
    properties = mapping(mapping(end.get("spec")).get("properties"))
    if "service_port" not in properties:
        return '"service_port" property missed in property when ruleEndpoint is "servicebus"'
    port = text(properties.get("service_port"))
    if not (port.isascii() and port.isdigit()):
        return "port should be integer"
    return "" if 0 < int(port[:6]) < 65_536 else "port must be in range 1-65535"


# --- upgrades of nodes -------------------------------------------------------------------------------


def upgrade_fault(job: JsonObject, old: JsonObject | None) -> str:
    """Judge a NodeUpgradeJob: a version, nodes in one of two ways, and never changed."""
    spec = mapping(job.get("spec"))
    if old is not None and spec != mapping(old.get("spec")):
        return "spec fields are not allowed to update once it's created"
    return _version_fault(text(spec.get("version"))) or _nodes_fault(spec)


def _version_fault(version: str) -> str:
    if not version:
        return "version must not be empty"
    if not version.startswith("v"):
        return "version must begin with prefix 'v'"
    if len(version) > MAX_VERSION or not _SEMVER.fullmatch(version[1:]):
        return f"version is not a semver compatible version: {version[:MAX_VERSION]}"
    if version == "v0.0.0":
        return "version must contain at least major.minor.patch components"
    return ""


def _nodes_fault(spec: JsonObject) -> str:
    has_names, has_selector = bool(spec.get("nodeNames")), spec.get("labelSelector") is not None
    if has_names and has_selector:
        return "both NodeNames and LabelSelector are specified"
    if not has_names and not has_selector:
        return "both NodeNames and LabelSelector are NOT specified"
    return ""


# --- Pods that stay ----------------------------------------------------------------------------------


def with_autonomy(pod: JsonObject) -> JsonObject:
    """Return a Pod that is labelled so as one that is never evicted because its node cannot be reached."""
    label, value = AUTONOMY
    if texts(mapping(pod.get("metadata")).get("labels")).get(label) != value:
        return pod
    spec = mapping(pod.get("spec"))
    held = spec.get("tolerations")
    tolerations = held if isinstance(held, list) else []
    kept = [each for each in tolerations if mapping(each).get("key") != UNREACHABLE]
    stays: JsonObject = {"key": UNREACHABLE, "operator": "Exists"}
    if stays in tolerations and len(kept) == len(tolerations) - 1:
        return pod
    return {**pod, "spec": {**spec, "tolerations": [*kept, stays]}}
