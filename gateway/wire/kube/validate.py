"""Checks an object against its type; prunes what the type does not know; fills in defaults.

`faults` speaks like the Kubernetes API server (422 causes), `type_fault` like its decoder (400: a built-in
kind with a value of the wrong JSON type never becomes an object). Every function leaves its input alone.
"""

from __future__ import annotations

import base64
import binascii
import copy
from collections.abc import Callable, Iterator

import msgspec

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.names import invalid_value, quoted, required
from gateway.wire.kube.quantity import quantity
from gateway.wire.kube.schema import Schema
from gateway.wire.kube.status import Cause

MAX_FAULTS = 100

_JSON_TYPES: dict[str, Callable[[Json], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool))
        or (isinstance(value, float) and value.is_integer())
    ),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
}

_INT_RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# --- faults ------------------------------------------------------------------------------------


_NEW: Json = object()  # type: ignore[assignment]  # equal to nothing: there was no such value before


def faults(schema: Schema, value: Json, path: str = "", *, old: Json = _NEW) -> list[Cause]:
    """Everything that is wrong with a value, at most `MAX_FAULTS`, in the order of the document.

    Shape:  `old` is what was stored before: what an update leaves as it was is not judged again.
    """
    found: list[Cause] = []
    for cause in _walk(schema, value, path, old):
        found.append(cause)
        if len(found) >= MAX_FAULTS:
            break
    return found


def _walk(schema: Schema, value: Json, path: str, old: Json = _NEW) -> Iterator[Cause]:
    if old is not _NEW and old == value and canonical(old) == canonical(value):
        return
    if value is None:
        if not schema.nullable and schema.type:
            yield _wrong_type(path, "null", schema.type)
        return
    if not _has_type(schema, value):
        yield _wrong_type(path, kind_of(value), _type_name(schema))
        return
    yield from _limit_faults(schema, value, path)
    if isinstance(value, dict):
        yield from _object_faults(schema, value, path, old)
    elif isinstance(value, list):
        yield from _list_faults(schema, value, path, old)


def _type_name(schema: Schema) -> str:
    return "integer,string" if schema.int_or_string else schema.type


def _has_type(schema: Schema, value: Json) -> bool:
    if schema.int_or_string:
        return isinstance(value, str) or _JSON_TYPES["number"](value)
    check = _JSON_TYPES.get(schema.type)
    return check is None or check(value)


def kind_of(value: Json) -> str:
    """The JSON type of a value, as messages name it."""
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    names = {dict: "object", list: "array", str: "string", int: "integer", float: "number"}
    return names[type(value)]


def _wrong_type(path: str, came: str, wanted: str) -> Cause:
    text = f'Invalid value: "{came}": {path or "<root>"} in body must be of type {wanted}: "{came}"'
    return Cause("FieldValueTypeInvalid", text, path)


def _object_faults(schema: Schema, value: JsonObject, path: str, old: Json) -> Iterator[Cause]:
    for name in schema.required:
        if name not in value:
            yield required(join(path, name))
    limits = schema.limits
    if limits.max_properties is not None and len(value) > limits.max_properties:
        yield _too_many(path, len(value), limits.max_properties)
    if limits.min_properties is not None and len(value) < limits.min_properties:
        rule = f"should have at least {limits.min_properties} properties"
        yield invalid_value(path, value, f"{path} in body {rule}")
    before = old if isinstance(old, dict) else {}
    for name, item in value.items():
        child = schema.child(name)
        if child is not None:
            yield from _walk(child, item, join(path, name), before.get(name, _NEW))


def _before(schema: Schema, old: Json) -> dict[bytes, Json]:
    """The elements that a list had, where they can be told apart: by their keys."""
    if schema.list_type != "map" or not isinstance(old, list):
        return {}
    return {canonical(_identity(schema, item)): item for item in old}


def _list_faults(schema: Schema, value: list[Json], path: str, old: Json) -> Iterator[Cause]:
    limits = schema.limits
    if limits.max_items is not None and len(value) > limits.max_items:
        yield _too_many(path, len(value), limits.max_items)
    if limits.min_items is not None and len(value) < limits.min_items:
        rule = f"should have at least {limits.min_items} items"
        yield invalid_value(path, value, f"{path} in body {rule}")
    if schema.items is not None:
        before = _before(schema, old)
        for at, item in enumerate(value):
            held = before.get(canonical(_identity(schema, item)), _NEW) if before else _NEW
            yield from _walk(schema.items, item, f"{path}[{at}]", held)
    yield from _duplicates(schema, value, path)


def _duplicates(schema: Schema, value: list[Json], path: str) -> Iterator[Cause]:
    if schema.list_type == "atomic" and not schema.limits.unique_items:
        return
    seen: set[str] = set()
    for at, item in enumerate(value):
        identity = _identity(schema, item)
        mark = quoted(identity)
        if mark in seen:
            yield Cause("FieldValueDuplicate", f"Duplicate value: {mark}", f"{path}[{at}]")
        seen.add(mark)


def _identity(schema: Schema, item: Json) -> Json:
    if schema.list_type != "map" or not isinstance(item, dict):
        return item
    return {key: item[key] for key in schema.list_keys if key in item}


def _too_many(path: str, got: int, most: int) -> Cause:
    text = f"Too many: {got}: must have at most {most} item{'' if most == 1 else 's'}"
    return Cause("FieldValueTooMany", text, path)


def _limit_faults(schema: Schema, value: Json, path: str) -> Iterator[Cause]:
    limits = schema.limits
    if limits.enum is not None and not any(_same(value, item) for item in limits.enum):
        allowed = ", ".join(quoted(item) for item in limits.enum)
        text = f"Unsupported value: {quoted(value)}: supported values: {allowed}"
        yield Cause("FieldValueNotSupported", text, path)
    if isinstance(value, str):
        yield from _text_faults(schema, value, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number_faults(schema, value, path)
    if schema.any_of and not any(
        next(_walk(option, value, path), None) is None for option in schema.any_of
    ):
        yield invalid_value(
            path, value, f"{path} in body must validate at least one schema (anyOf)"
        )


def _same(left: Json, right: Json) -> bool:
    return left == right and isinstance(left, bool) is isinstance(right, bool)


def _text_faults(schema: Schema, value: str, path: str) -> Iterator[Cause]:
    limits = schema.limits
    if limits.max_length is not None and len(value) > limits.max_length:
        text = f"Too long: may not be more than {limits.max_length} bytes"
        yield Cause("FieldValueTooLong", text, path)
    if limits.min_length is not None and len(value) < limits.min_length:
        rule = f"should be at least {limits.min_length} chars long"
        yield invalid_value(path, value, f"{path} in body {rule}")
    if limits.pattern is not None and not limits.pattern.search(value):
        yield invalid_value(path, value, f"{path} in body should match '{limits.pattern.pattern}'")
    check = _FORMATS.get(schema.format)
    if check is not None and not check(value):
        yield invalid_value(
            path, value, f"{path} in body must be of type {schema.format}: {quoted(value)}"
        )


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


_FORMATS: dict[str, Callable[[str], bool]] = {
    "date-time": lambda text: parse_rfc3339(text) is not None,
    "byte": _is_base64,
    "quantity": lambda text: quantity(text) is not None,
}


def _number_faults(schema: Schema, value: float, path: str) -> Iterator[Cause]:
    for rule in _number_rules(schema, value):
        yield invalid_value(path, value, f"{path} in body {rule}")


def _number_rules(schema: Schema, value: float) -> Iterator[str]:
    limits, least, most = schema.limits, schema.limits.minimum, schema.limits.maximum
    if least is not None and (value < least or (limits.exclusive_minimum and value == least)):
        yield f"should be greater than {'' if limits.exclusive_minimum else 'or equal to '}{least:g}"
    if most is not None and (value > most or (limits.exclusive_maximum and value == most)):
        yield f"should be less than {'' if limits.exclusive_maximum else 'or equal to '}{most:g}"
    if limits.multiple_of and value % limits.multiple_of:
        yield f"should be a multiple of {limits.multiple_of:g}"
    low, high = _INT_RANGES.get(schema.format, (None, None))
    if low is not None and high is not None and not low <= value <= high:
        yield f"must be of type {schema.format}: {value!r}"


# --- the decoder's view -------------------------------------------------------------------------


def type_fault(schema: Schema, value: Json, path: str = "") -> str | None:
    """The first value of the wrong JSON type, in the words of the decoder; None when all fit.

    Null is absence here: the caller prunes it.
    """
    if value is None:
        return None
    if not _is_decodable(schema, value):
        came, wanted = _came(schema, value), _go_type(schema)
        return f"json: cannot unmarshal {came} into Go struct field {path} of type {wanted}"
    if isinstance(value, dict):
        return _first(
            type_fault(child, item, join(path, name))
            for name, item in value.items()
            if (child := schema.child(name)) is not None
        )
    if isinstance(value, list) and schema.items is not None:
        items = schema.items
        return _first(type_fault(items, item, path) for item in value)
    if isinstance(value, str) and schema.format in _FORMATS and not _FORMATS[schema.format](value):
        return _FORMAT_FAULTS[schema.format].format(path=path, value=value)
    return None


def _is_decodable(schema: Schema, value: Json) -> bool:
    """True for a value of the right JSON type; a whole number has to have room in its bits, too."""
    if not _has_type(schema, value):
        return False
    if schema.type != "integer" or not isinstance(value, (int, float)):
        return True
    low, high = _INT_RANGES.get(schema.format, _INT_RANGES["int64"])
    return low <= value <= high


def _came(schema: Schema, value: Json) -> str:
    kind = _GO_KIND[kind_of(value)]
    return f"{kind} {value}" if kind == "number" and schema.type == "integer" else kind


_FORMAT_FAULTS = {
    "date-time": 'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}" in {path}',
    "byte": "illegal base64 data in {path}",
    "quantity": (
        "quantities must match the regular expression"
        " '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    ),
}

_GO_KIND = {
    "object": "object",
    "array": "array",
    "string": "string",
    "boolean": "bool",
    "integer": "number",
    "number": "number",
    "null": "null",
}


def _go_type(schema: Schema) -> str:
    plain = {"boolean": "bool", "integer": schema.format or "int64", "number": "float64"}
    if schema.type == "array":
        return f"[]{_go_type(schema.items)}" if schema.items is not None else "[]interface {}"
    if schema.type == "object" and schema.additional is not None:
        return f"map[string]{_go_type(schema.additional)}"
    return plain.get(schema.type, schema.type or "interface {}")


def _first(found: Iterator[str | None]) -> str | None:
    return next((item for item in found if item), None)


# --- all at once ----------------------------------------------------------------------------------


class _Misfit(Exception):
    """Something is not as the type says; what, is found out by others."""


def taken(schema: Schema, value: JsonObject) -> JsonObject | None:
    """What a sound document of a built-in kind becomes: as `pruned` and `without_empty` leave it.

    None for a document with a fault or an unknown field; the slow functions then say which.
    """
    try:
        return _take_object(schema, value)
    except _Misfit:
        return None


def _take(schema: Schema, value: Json) -> Json:
    if isinstance(value, dict):
        return _take_object(schema, value)
    if isinstance(value, list):
        if schema.type not in ("array", "") or schema.int_or_string:
            raise _Misfit
        items = schema.items
        return value if items is None else [_take(items, item) for item in value]
    if isinstance(value, str) and schema.type == "string" and not schema.format:
        return value
    if value is not None and not _fits(schema, value):
        raise _Misfit
    return value


def _fits(schema: Schema, value: Json) -> bool:
    if not _is_decodable(schema, value):
        return False
    check = _FORMATS.get(schema.format)
    return check is None or not isinstance(value, str) or check(value)


def _take_object(schema: Schema, value: JsonObject) -> JsonObject:
    if schema.type not in ("object", "") or schema.int_or_string:
        raise _Misfit
    out: JsonObject = {}
    declared, zeros, additional = schema.properties, schema.zeros, schema.additional
    for name, item in value.items():
        child = declared.get(name)
        if child is None:
            if additional is not None:
                if item is not None:
                    out[name] = _take(additional, item)
            elif schema.is_open or (schema.embedded and name in _EMBEDDED_FIELDS):
                out[name] = item
            else:
                raise _Misfit
        elif item is not None:
            kept = _take(child, item)
            if item or name in zeros or not _is_empty(child, item):
                out[name] = kept
    return out


# --- pruning and defaults ------------------------------------------------------------------------


def pruned(schema: Schema, value: Json, path: str = "") -> tuple[Json, list[str]]:
    """Return the value without unknown fields, and the paths of those."""
    dropped: list[str] = []
    return _prune(schema, value, path, dropped), dropped


def _prune(schema: Schema, value: Json, path: str, dropped: list[str]) -> Json:
    if isinstance(value, dict):
        return _prune_object(schema, value, path, dropped)
    if isinstance(value, list) and schema.items is not None:
        items = schema.items
        return [_prune(items, item, f"{path}[{at}]", dropped) for at, item in enumerate(value)]
    return value


_EMBEDDED_FIELDS = ("apiVersion", "kind", "metadata")


def _prune_object(schema: Schema, value: JsonObject, path: str, dropped: list[str]) -> JsonObject:
    kept: JsonObject = {}
    for name, item in value.items():
        child = schema.child(name)
        if child is not None:
            kept[name] = _prune(child, item, join(path, name), dropped)
        elif schema.is_open or (schema.embedded and name in _EMBEDDED_FIELDS):
            kept[name] = item
        else:
            dropped.append(join(path, name))
    return kept


def without_empty(schema: Schema, value: Json) -> Json:
    """Return the value as a built-in type keeps it: without nulls, and without what is as good as absent."""
    if isinstance(value, list):
        items = schema.items
        return [without_empty(items, item) for item in value] if items is not None else value
    if not isinstance(value, dict):
        return value
    out: JsonObject = {}
    declared, zeros = schema.properties, schema.zeros
    for name, item in value.items():
        child = schema.child(name)
        if child is None:
            out[name] = item
        elif item is None or (
            not item and name in declared and name not in zeros and _is_empty(child, item)
        ):
            continue
        else:
            out[name] = without_empty(child, item)
    return out


def _is_empty(schema: Schema, value: Json) -> bool:
    """True for what a field does not show when it need not be there; parts of their own stay."""
    return not isinstance(value, dict) or schema.additional is not None


def defaulted(schema: Schema, value: Json) -> Json:
    """Return the value with the defaults of absent fields; null counts as absent where it is not allowed."""
    if not schema.fills:
        return value
    if isinstance(value, list):
        items = schema.items
        return [defaulted(items, item) for item in value] if items is not None else value
    if not isinstance(value, dict):
        return value
    out: JsonObject = {}
    for name, item in value.items():
        child = schema.child(name)
        if child is None:
            out[name] = item
        elif item is None and not child.nullable and child.has_default:
            continue
        else:
            out[name] = defaulted(child, item)
    for name, child in schema.properties.items():
        if child.has_default and name not in out:
            out[name] = defaulted(child, copy.deepcopy(child.default))
    return out


def are_same(left: JsonObject, right: JsonObject) -> bool:
    """True for equal documents; most that differ are told apart without being written."""
    return left == right and canonical(left) == canonical(right)


def canonical(value: Json) -> bytes:
    """Bytes that are equal exactly when two documents are."""
    return msgspec.json.encode(value, order="deterministic")
