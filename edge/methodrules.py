"""Methods of Devices: which there are, and whether a call of one makes sense. Pure.

A method writes its properties. A call gives values for one of them or more: JSON of the model's type, or the
text that DeviceTwin has for it. Source: KubeEdge reference, sections 16.1, 16.3; ADR 10, point 5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.errors import BadRequest, NotFound
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import DeviceMethod, DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.values import (
    PropertyType,
    Typed,
    ValueRule,
    canonical,
    check_typed,
    parse_text,
)

MAX_NAME = 253
_CALLABLE = re.compile(rf"[^/+#\x00-\x1f\x7f]{{1,{MAX_NAME}}}")
"""Names that are one level of a topic, and one part of a path."""
_TEXTS = (PropertyType.STRING, PropertyType.BYTES)


def method_of(view: DeviceView, name: str) -> DeviceMethod:
    """Return a method by its name. Errors: NotFound, naming those that there are."""
    found = next((method for method in view.methods if method.name == name), None)
    if found is None:
        known = ", ".join(method.name for method in view.methods) or "none"
        raise NotFound(f"device {view.key} has no method {name[:MAX_NAME]!r}; it has: {known}")
    return found


def method_fault(method: DeviceMethod, view: DeviceView, model: ModelView | None) -> str:
    """Say why a method can never work; "" where it can."""
    if not _CALLABLE.fullmatch(method.name):
        return f"a method's name has 1 to {MAX_NAME} characters, without / + #"
    if not method.properties:
        return "the method names no property"
    for name in method.properties:
        if name not in view.properties:
            return f"the Device has no property {name!r}"
        fault = _write_fault(name, view, model)
        if fault:
            return fault
    return ""


def _write_fault(name: str, view: DeviceView, model: ModelView | None) -> str:
    if model is None:
        return ""
    rule = model.rules.get(name)
    if rule is None:
        return f"the DeviceModel {view.model!r} has no property {name!r}"
    if not rule.writable:
        return f"property {name!r} is ReadOnly"
    return f"property {name!r} is a STREAM" if rule.type is PropertyType.STREAM else ""


def read_call(
    view: DeviceView, model: ModelView | None, method: DeviceMethod, values: Mapping[str, Json]
) -> dict[str, str]:
    """Judge a call's values; return them as texts, in the method's order.

    Errors: BadRequest for a method that cannot work, a value that is not the method's, or that the model
            does not allow.
    """
    fault = method_fault(method, view, model)
    if fault:
        raise BadRequest(f"method {method.name} cannot be called: {fault}")
    for name in values:
        if name not in method.properties:
            known = ", ".join(method.properties)
            raise BadRequest(f"method {method.name} writes {known}; got {name[:MAX_NAME]!r}")
    if not values:
        raise BadRequest(f"method {method.name}: expected a value for {method.properties[0]!r}")
    rules = {} if model is None else model.rules
    return {
        name: _text(name, rules.get(name, ValueRule()), values[name], is_free=model is None)
        for name in method.properties
        if name in values
    }


def _text(name: str, rule: ValueRule, value: Json, *, is_free: bool) -> str:
    try:
        if is_free and isinstance(value, bool | int | float):
            return canonical(_type_of(value), value)
        if isinstance(value, str) and rule.type not in _TEXTS:
            value = parse_text(rule.type, value)
        return canonical(rule.type, check_typed(rule, value))
    except BadRequest as error:
        raise BadRequest(f"{name}: {error.message}") from error


def _type_of(value: Typed) -> PropertyType:
    if isinstance(value, bool):
        return PropertyType.BOOLEAN
    return PropertyType.INT if isinstance(value, int) else PropertyType.DOUBLE


def methods_document(view: DeviceView, model: ModelView | None) -> JsonObject:
    """Return a Device's methods, each with what it writes, and why it cannot be called where it cannot."""
    return {"items": [_method(method, view, model) for method in view.methods]}


def _method(method: DeviceMethod, view: DeviceView, model: ModelView | None) -> JsonObject:
    fault = method_fault(method, view, model)
    shown: JsonObject = {
        "name": method.name,
        "description": method.description,
        "properties": [_property(name, model) for name in method.properties],
    }
    return shown | ({"fault": fault} if fault else {})


def _property(name: str, model: ModelView | None) -> JsonObject:
    found = None if model is None else model.properties.get(name)
    if found is None:
        return {"name": name}
    facts = {"type": found.type, "minimum": found.minimum, "maximum": found.maximum}
    return {"name": name, **{key: text for key, text in facts.items() if text}}
