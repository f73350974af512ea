"""How Kubernetes names and Devices map to Ditto's names and things. Pure rules, no state.

Where a name or a property cannot be mapped, `NotMappable` says why; the rest of the Device works.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from cloud.agreement import DesiredSource
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json, JsonObject, Pointer
from gateway.wire.cloudedge.devices import DeviceView, mapping
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.values import (
    PropertyType,
    Typed,
    ValueRule,
    check_typed,
    parse_text,
)

FEATURE_ANNOTATION = "twinspan.io/feature"
NAMESPACE_ANNOTATION = "twinspan.io/ditto-namespace"
TENANT_ANNOTATION = "twinspan.io/tenant"
SOURCE_ANNOTATION = "twinspan.io/desired-source"
DELETE_ANNOTATION = "twinspan.io/on-delete"
REPORT_ANNOTATION = "twinspan.io/report-as"

MAX_THING_ID = 256
SINGLE = "value"
"""Key of a property that is a feature of its own: `/features/<p>/properties/value`."""

_DITTO_NAMESPACE = re.compile(r"[a-zA-Z]\w*(?:[.-][a-zA-Z]\w*)*", re.ASCII)
_BAD_HYPHEN = re.compile(r"-(?![a-z])")
_feature_groups = msgspec.json.Decoder(dict[str, list[str]])


class NotMappable(BadRequest):
    """A name or property that Ditto cannot take; becomes a Warning event at the Device."""

    code = "device.notmappable"


def ditto_namespace(namespace: str, annotations: Mapping[str, str]) -> str:
    """Return the Ditto namespace of a Kubernetes namespace.

    Shape:  itself where Ditto's grammar allows it; else a `-` that no letter follows becomes `_`, and a
            leading digit gets the prefix `ns.n`. Kubernetes names have neither `_` nor `.`: it can be undone.
            The annotation `twinspan.io/ditto-namespace` overrides.
    Errors: NotMappable for an annotation that Ditto would refuse.
    """
    chosen = annotations.get(NAMESPACE_ANNOTATION)
    if chosen is not None:
        if not _DITTO_NAMESPACE.fullmatch(chosen):
            raise NotMappable(f"{NAMESPACE_ANNOTATION}: {chosen!r} is not a Ditto namespace")
        return chosen
    escaped = _BAD_HYPHEN.sub("_", namespace)
    return f"ns.n{escaped}" if escaped[:1].isdigit() else escaped


def kubernetes_namespace(namespace: str) -> str:
    """Undo the escaping of `ditto_namespace` (not its annotation)."""
    return namespace.removeprefix("ns.n").replace("_", "-")


def tenant_of(namespace: str, annotations: Mapping[str, str], *, demo: bool) -> str:
    """Return the tenant of a namespace: its annotation, else its own name; in a demo `default` is sampled."""
    chosen = annotations.get(TENANT_ANNOTATION)
    if chosen:
        return chosen
    return "DEFAULT_TENANT" if demo and namespace == "default" else namespace


def thing_id(device: DeviceKey, annotations: Mapping[str, str]) -> str:
    """Return the id of a Device's thing. Errors: NotMappable over 256 characters."""
    text = f"{ditto_namespace(device.namespace, annotations)}:{device.name}"
    if len(text) > MAX_THING_ID:
        raise NotMappable(f"thing id: at most {MAX_THING_ID} characters, got {len(text)}")
    return text


def desired_source(device: DeviceView) -> DesiredSource:
    """Return who may set the Device's desired values."""
    return DesiredSource.read(device.meta.annotations.get(SOURCE_ANNOTATION))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a property stands in a thing."""

    feature: str
    key: str

    @property
    def desired(self) -> Pointer:
        return ("features", self.feature, "desiredProperties", self.key)

    @property
    def reported(self) -> Pointer:
        return ("features", self.feature, "properties", self.key)


@dataclass(frozen=True, slots=True)
class Layout:
    """Places and rules of a Device's properties; `refused` says what could not be mapped, and why."""

    places: Mapping[str, Place]
    rules: Mapping[str, ValueRule]
    refused: tuple[str, ...] = ()

    def place(self, name: str) -> Place:
        """Return a property's place; one that the edge made up gets a feature of its own."""
        return self.places.get(name) or Place(name, SINGLE)

    def rule(self, name: str) -> ValueRule:
        return self.rules.get(name, _TEXT)


_TEXT = ValueRule()


def layout_of(device: DeviceView, model: ModelView | None) -> Layout:
    """Read where a Device's properties stand in its thing."""
    rules = model.rules if model else {}
    names = dict.fromkeys([*rules, *device.properties])
    groups, refused = _groups_of(device)
    places: dict[str, Place] = {}
    for name in names:
        if "/" in name or not name.isprintable():
            refused.append(f"property {name!r}: a name with '/' cannot be a key in a thing")
        elif rules.get(name, _TEXT).type is not PropertyType.STREAM:
            places[name] = Place(groups[name], name) if name in groups else Place(name, SINGLE)
    return Layout(places, rules, tuple(refused))


def _groups_of(device: DeviceView) -> tuple[dict[str, str], list[str]]:
    annotation = device.meta.annotations.get(FEATURE_ANNOTATION)
    if not annotation:
        return {}, []
    try:
        groups = _feature_groups.decode(annotation)
    except (msgspec.DecodeError, RecursionError) as error:
        return {}, [f"{FEATURE_ANNOTATION}: expected a JSON object of lists: {error}"]
    bad = [feature for feature in groups if not feature or "/" in feature]
    refused = [f"{FEATURE_ANNOTATION}: {feature!r} cannot be a feature id" for feature in bad]
    return {p: f for f, names in groups.items() if f not in bad for p in names}, refused


# --- values ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one side wants: typed values, and what in it is not usable, with the fault."""

    values: Mapping[str, Typed]
    bad: Mapping[str, str]

    def or_else(self, agreed: Mapping[str, Json]) -> dict[str, Json]:
        """Return the wanted values; a bad one counts as no change of what was agreed."""
        return {**{name: agreed[name] for name in self.bad if name in agreed}, **self.values}


def wanted_by_device(device: DeviceView, layout: Layout) -> Wanted:
    """Read the desired values of a CR; bad ones (type, range, ReadOnly) are named with their fault."""
    values: dict[str, Typed] = {}
    bad: dict[str, str] = {}
    for name in layout.places:
        entry = device.properties.get(name)
        if entry is None or entry.desired is None:
            continue
        rule = layout.rule(name)
        try:
            _check_writable(rule)
            values[name] = check_typed(rule, parse_text(rule.type, entry.desired))
        except GatewayError as error:
            bad[name] = error.message
    return Wanted(values, bad)


def wanted_by_thing(document: JsonObject, layout: Layout) -> dict[str, Json]:
    """Return the desired values of a thing, as they stand there."""
    return _at(document, {name: place.desired for name, place in layout.places.items()})


def usable_by_thing(document: JsonObject, layout: Layout) -> Wanted:
    """Read the desired values of a thing as far as its Device can take them."""
    values: dict[str, Typed] = {}
    bad: dict[str, str] = {}
    for name, value in wanted_by_thing(document, layout).items():
        try:
            values[name] = check_wanted(layout.rule(name), value)
        except BadRequest as error:
            bad[name] = error.message
    return Wanted(values, bad)


def reported_by_thing(document: JsonObject, layout: Layout) -> dict[str, Json]:
    """Return the reported values of a thing, as they stand there."""
    return _at(document, {name: place.reported for name, place in layout.places.items()})


def _at(document: JsonObject, pointers: Mapping[str, Pointer]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name, (_, feature, part, key) in ((n, p) for n, p in pointers.items() if len(p) == 4):
        holder = mapping(mapping(mapping(document.get("features")).get(feature)).get(part))
        if key in holder:
            found[name] = holder[key]
    return found


def check_wanted(rule: ValueRule, value: Json) -> Typed:
    """Judge what somebody writes to a desired property of a thing.

    Errors: BadRequest for a ReadOnly property, the wrong type, range or length.
    """
    _check_writable(rule)
    return check_typed(rule, value)


def _check_writable(rule: ValueRule) -> None:
    if not rule.writable:
        raise BadRequest("the property is ReadOnly")


# --- documents -----------------------------------------------------------------------------------


def features_patch(
    layout: Layout, desired: Mapping[str, Json], reported: Mapping[str, Json]
) -> JsonObject:
    """Build a merge patch for `/features`; None removes a value."""
    features: JsonObject = {}
    for name, value in desired.items():
        _set(features, layout.place(name).desired[1:], value)
    for name, value in reported.items():
        _set(features, layout.place(name).reported[1:], value)
    return features


def missing_features(layout: Layout, document: JsonObject) -> JsonObject:
    """Build the features that a thing lacks, empty: only what exists can be written part by part."""
    present = mapping(document.get("features"))
    return {p.feature: {} for p in layout.places.values() if p.feature not in present}


def _set(document: JsonObject, path: Iterable[str], value: Json) -> None:
    *parents, last = path
    for key in parents:
        below = document.setdefault(key, {})
        document = below if isinstance(below, dict) else {}
    document[last] = value


def kubeedge_attributes(device: DeviceView, state: Mapping[str, str]) -> JsonObject:
    """Build `/attributes/kubeedge`: where the Device lives and how it is."""
    facts: JsonObject = {"node": device.node, "model": device.model, "protocol": device.protocol}
    facts.update(state)
    return {name: value for name, value in facts.items() if value}
