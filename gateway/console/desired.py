"""What writes a wish into a Device: a JSON Patch, as an operator with kubectl would send it. Pure."""

from __future__ import annotations

from gateway.errors import BadRequest, NotFound, Unprocessable
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import DeviceProperty, DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.values import (
    TWIN_TYPE,
    PropertyType,
    Typed,
    ValueRule,
    canonical,
    check_typed,
    parse_text,
)

_TEXTUAL = (PropertyType.STRING, PropertyType.BYTES)


def wish_patch(
    device: DeviceView, model: ModelView | None, name: str, value: Json, millis: int
) -> list[Json]:
    """Return the patch that makes a Device want `value` (None: nothing any more); [] where it does not.

    Errors: NotFound for a property that neither Device nor model has; Unprocessable for a value that its
            model does not allow.
    """
    entry = device.properties.get(name)
    rule = model.rules.get(name) if model is not None else None
    if entry is None and rule is None:
        raise NotFound(f"The device has no property '{name}'.", code="console:property.notfound")
    if value is None:
        return _removal(device, entry)
    wish = _wish(name, rule or ValueRule(), value, millis)
    wishes = device.wishes
    if entry is not None and entry.index >= 0:
        path = f"{wishes.path}/{entry.index}"
        verb = "replace" if entry.has_desired else "add"
        return [
            *_tests(device, entry),
            {"op": verb, "path": f"{path}/desired", "value": wish},
        ]
    new: JsonObject = {wishes.name: name, "desired": wish}
    pinned: list[Json] = [
        *_tests(device, None),
        {"op": "test", "path": "/metadata/resourceVersion", "value": device.meta.version},
    ]
    if not wishes.has_holder:
        return [*pinned, {"op": "add", "path": wishes.holder, "value": {wishes.key: [new]}}]
    if not wishes.has_list:
        return [*pinned, {"op": "add", "path": wishes.path, "value": [new]}]
    return [*pinned, {"op": "add", "path": f"{wishes.path}/-", "value": new}]


def _removal(device: DeviceView, entry: DeviceProperty | None) -> list[Json]:
    if entry is None or entry.index < 0 or not entry.has_desired:
        return []
    path = f"{device.wishes.path}/{entry.index}/desired"
    return [*_tests(device, entry), {"op": "remove", "path": path}]


def _tests(device: DeviceView, entry: DeviceProperty | None) -> list[Json]:
    """It is the same Device, and the property still stands at its place."""
    tests: list[Json] = [{"op": "test", "path": "/metadata/uid", "value": device.meta.uid}]
    if entry is not None:
        path = f"{device.wishes.path}/{entry.index}/{device.wishes.name}"
        tests.append({"op": "test", "path": path, "value": entry.name})
    return tests


def _wish(name: str, rule: ValueRule, value: Json, millis: int) -> JsonObject:
    if not rule.writable:
        raise _refused(name, "it is read-only")
    if rule.type is PropertyType.STREAM:
        raise _refused(name, "a STREAM property has no value")
    try:
        typed = _typed(rule, value)
    except BadRequest as error:
        raise _refused(name, error.message) from error
    return {
        "value": canonical(rule.type, typed),
        "metadata": {"timestamp": str(millis), "type": TWIN_TYPE[rule.type]},
    }


def _typed(rule: ValueRule, value: Json) -> Typed:
    if isinstance(value, str) and rule.type not in _TEXTUAL:
        return check_typed(rule, parse_text(rule.type, value))
    if rule.type is PropertyType.STRING and isinstance(value, bool | int | float):
        kind = PropertyType.BOOLEAN if isinstance(value, bool) else PropertyType.STRING
        return check_typed(rule, canonical(kind, value))
    return check_typed(rule, value)


def _refused(name: str, why: str) -> Unprocessable:
    return Unprocessable(f"{name}: {why}", code="console:value.refused")
