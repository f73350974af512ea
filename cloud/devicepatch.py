"""JSON Patches that write desired values into a Device. Pure.

Each operation is guarded by `test`s: that it is still the same Device, that the property still stands at its
place, and that nobody has changed its desired value meanwhile (where there was none, that nobody has
changed the Device at all). A failed test means: read again, decide again.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloud.mapping import Layout
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import (
    DeviceProperty,
    DeviceView,
    WishList,
    mapping,
    text,
)
from gateway.wire.cloudedge.values import TWIN_TYPE, Typed, canonical


def desired_entry(layout: Layout, name: str, value: Typed, millis: int) -> JsonObject:
    """Build `desired` of a property; its type is always said."""
    kind = layout.rule(name).type
    return {
        "value": canonical(kind, value),
        "metadata": {"timestamp": str(millis), "type": TWIN_TYPE[kind]},
    }


def desired_patch(
    device: DeviceView, layout: Layout, wanted: Mapping[str, Typed | None], millis: int
) -> list[Json]:
    """Build the patch that makes a Device want `wanted`; None removes what it wants."""
    operations: list[Json] = []
    new: list[Json] = []
    is_blind = False
    for name, value in wanted.items():
        entry = device.properties.get(name)
        if entry is not None and entry.index >= 0:
            operations += _at_place(device.wishes, entry, layout, value, millis)
            is_blind = is_blind or entry.desired is None
        elif value is not None:
            new.append(
                {device.wishes.name: name, "desired": desired_entry(layout, name, value, millis)}
            )
            is_blind = True
    operations += _appended(device, new)
    return [*_tests(device, whole=is_blind), *operations] if operations else []


def _tests(device: DeviceView, *, whole: bool) -> list[Json]:
    """Whose patch it is; JSON Patch cannot test that a value is absent, so `whole` pins the version."""
    pinned = [("uid", device.meta.uid), ("resourceVersion", device.meta.version if whole else "")]
    return [
        {"op": "test", "path": f"/metadata/{key}", "value": value} for key, value in pinned if value
    ]


def with_types(document: JsonObject, layout: Layout) -> JsonObject:
    """Return a Device whose wishes all say their type, as edges need it; the same one when they do.

    Without a type an edge takes a value for text. What is untouched is shared with `document`.
    """
    spec = mapping(document.get("spec"))
    properties = spec.get("properties")
    if not isinstance(properties, list):
        return document
    typed = [_with_type(entry, layout) for entry in properties]
    if all(new is old for new, old in zip(typed, properties, strict=True)):
        return document
    return {**document, "spec": {**spec, "properties": typed}}


def _with_type(entry: Json, layout: Layout) -> Json:
    if not isinstance(entry, dict) or "desired" not in entry:
        return entry
    desired = mapping(entry["desired"])
    metadata = mapping(desired.get("metadata"))
    name = text(entry.get("name"))
    kind = TWIN_TYPE.get(layout.rule(name).type)
    if kind is None or metadata.get("type") or name not in layout.rules:
        return entry
    return {**entry, "desired": {**desired, "metadata": {**metadata, "type": kind}}}


def _at_place(
    wishes: WishList, entry: DeviceProperty, layout: Layout, value: Typed | None, millis: int
) -> list[Json]:
    path = f"{wishes.path}/{entry.index}"
    named: JsonObject = {"op": "test", "path": f"{path}/{wishes.name}", "value": entry.name}
    operations: list[Json] = [named]
    if entry.desired is not None:
        old = {"op": "test", "path": f"{path}/desired/value", "value": entry.desired}
        operations.append(dict(old))
    if value is None:
        remove: JsonObject = {"op": "remove", "path": f"{path}/desired"}
        return [*operations, remove] if entry.has_desired else []
    write: JsonObject = {
        "op": "replace" if entry.has_desired else "add",
        "path": f"{path}/desired",
        "value": desired_entry(layout, entry.name, value, millis),
    }
    return [*operations, write]


def _appended(device: DeviceView, new: list[Json]) -> list[Json]:
    """Properties without a place get one at the end of the list, which may have to be made."""
    wishes = device.wishes
    if not new:
        return []
    if not wishes.has_holder:
        return [{"op": "add", "path": wishes.holder, "value": {wishes.key: new}}]
    if not wishes.has_list:
        return [{"op": "add", "path": wishes.path, "value": new}]
    return [{"op": "add", "path": f"{wishes.path}/-", "value": entry} for entry in new]
