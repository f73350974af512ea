"""Whether the schema of a custom resource is structural: types everywhere, nothing that cannot be served.

Source: Kubernetes "CustomResourceDefinitions", structural schemas; the texts are kube-apiserver's.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import invalid_value, quoted, required
from gateway.wire.kube.parts import part
from gateway.wire.kube.regexes import Pattern
from gateway.wire.kube.schema import MAX_DEPTH, read_schema
from gateway.wire.kube.status import Cause
from gateway.wire.kube.validate import faults

TYPES = ("array", "boolean", "integer", "number", "object", "string")
LIST_TYPES = ("atomic", "set", "map")
_LOGICAL = ("allOf", "anyOf", "oneOf")
_STRUCTURE = ("type", "description", "title", "default", "nullable", "additionalProperties")
OPEN, EMBEDDED = "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"
EITHER, LIST_TYPE = "x-kubernetes-int-or-string", "x-kubernetes-list-type"
KEYS, RULES = "x-kubernetes-list-map-keys", "x-kubernetes-validations"


def structural_faults(schema: JsonObject, path: str) -> list[Cause]:
    """Everything that keeps a schema from being served."""
    if schema.get("type") != "object":
        if schema.get("type"):
            return [invalid_value(f"{path}.type", schema.get("type"), "must be object at the root")]
        return [required(f"{path}.type", "must not be empty at the root")]
    found = list(_walk(schema, path, 0))
    metadata = part(part(schema, "properties"), "metadata")
    if set(part(metadata, "properties")) - {"name", "generateName"}:
        text = (
            "Forbidden: must not specify anything other than name and generateName,"
            " but metadata is implicitly specified"
        )
        found.append(Cause("FieldValueForbidden", text, f"{path}.properties[metadata]"))
    return found


def has_rules(schema: Json) -> bool:
    """True when rules in CEL are somewhere in it."""
    if isinstance(schema, dict):
        return RULES in schema or any(has_rules(item) for item in schema.values())
    return isinstance(schema, list) and any(has_rules(item) for item in schema)


def _walk(schema: JsonObject, path: str, depth: int) -> Iterator[Cause]:
    if depth > MAX_DEPTH:
        yield invalid_value(path, "", f"schema: at most {MAX_DEPTH} levels deep")
        return
    yield from _own_faults(schema, path)
    for name, child in part(schema, "properties").items():
        if isinstance(child, dict):
            here = f"{path}.properties[{name}]"
            yield from _type_faults(child, here)
            yield from _walk(child, here, depth + 1)
    items = schema.get("items")
    if isinstance(items, dict):
        yield from _type_faults(items, f"{path}.items", "specified array items")
        yield from _walk(items, f"{path}.items", depth + 1)
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        yield from _type_faults(more, f"{path}.additionalProperties")
        yield from _walk(more, f"{path}.additionalProperties", depth + 1)


def _type_faults(
    schema: JsonObject, path: str, what: str = "specified object fields"
) -> Iterator[Cause]:
    kind = schema.get("type")
    if not kind and schema.get(EITHER) is not True and schema.get(OPEN) is not True:
        if "$ref" not in schema:
            yield required(f"{path}.type", f"must not be empty for {what}")
    elif kind and kind not in TYPES:
        yield _unsupported(f"{path}.type", kind, TYPES)


def _unsupported(path: str, value: Json, known: tuple[str, ...]) -> Cause:
    allowed = ", ".join(f'"{word}"' for word in known)
    text = f"Unsupported value: {quoted(value)}: supported values: {allowed}"
    return Cause("FieldValueNotSupported", text, path)


def _forbidden(path: str, text: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {text}", path)


def _own_faults(schema: JsonObject, path: str) -> Iterator[Cause]:
    if "$ref" in schema:
        yield _forbidden(f"{path}.$ref", "$ref is not supported")
    if schema.get("uniqueItems") is True:
        why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield _forbidden(f"{path}.uniqueItems", why)
    more = schema.get("additionalProperties")
    if more is False:
        yield _forbidden(
            f"{path}.additionalProperties", "additionalProperties cannot be set to false"
        )
    elif more is not None and part(schema, "properties"):
        why = "additionalProperties and properties are mutual exclusive"
        yield _forbidden(f"{path}.additionalProperties", why)
    if schema.get("type") == "array" and not isinstance(schema.get("items"), dict):
        yield required(f"{path}.items", "must be specified")
    yield from _extension_faults(schema, path)
    yield from _logical_faults(schema, path)
    yield from _pattern_faults(schema, path)
    if "default" in schema:
        yield from _default_faults(schema, path)


def _extension_faults(schema: JsonObject, path: str) -> Iterator[Cause]:
    if schema.get(OPEN) is False:
        yield invalid_value(f"{path}.{OPEN}", False, "must be true or undefined")
    if schema.get(EMBEDDED) is True and schema.get(OPEN) is not True and "properties" not in schema:
        why = f"must not be empty if {EMBEDDED} is true without {OPEN}"
        yield required(f"{path}.properties", why)
    kind = schema.get(LIST_TYPE)
    if kind is not None and kind not in LIST_TYPES:
        yield _unsupported(f"{path}.{LIST_TYPE}", kind, LIST_TYPES)
    if kind == "map":
        yield from _key_faults(schema, path)


def _key_faults(schema: JsonObject, path: str) -> Iterator[Cause]:
    keys = schema.get(KEYS)
    if not isinstance(keys, list) or not keys:
        yield required(f"{path}.{KEYS}", f"must not be empty if {LIST_TYPE} is map")
        return
    items = part(schema, "items")
    needed = items.get("required")
    for key in keys:
        held = part(items, "properties").get(str(key))
        here = f"{path}.items.properties[{key}]"
        if not isinstance(held, dict):
            continue
        if "default" not in held and not (isinstance(needed, list) and key in needed):
            why = f"this property is in {KEYS}, so it must have a default or be a required property"
            yield required(f"{here}.default", why)


def _logical_faults(schema: JsonObject, path: str) -> Iterator[Cause]:
    """What is said about a value in alternatives must not describe its structure."""
    for word in _LOGICAL:
        options = schema.get(word)
        for at, option in enumerate(options if isinstance(options, list) else []):
            if isinstance(option, dict) and schema.get(EITHER) is not True:
                for name in _STRUCTURE:
                    if option.get(name):
                        yield _forbidden(
                            f"{path}.{word}[{at}].{name}", "must be empty to be structural"
                        )


def _pattern_faults(schema: JsonObject, path: str) -> Iterator[Cause]:
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        try:
            Pattern(pattern)
        except ValueError as error:
            why = f"must be a valid regular expression, but isn't: {error}"
            yield invalid_value(f"{path}.pattern", pattern, why)


def _default_faults(schema: JsonObject, path: str) -> Iterator[Cause]:
    if list(_pattern_faults(schema, path)):
        return
    for cause in faults(read_schema(schema), schema["default"]):
        text = cause.message.replace("<root> in body", " in body")
        yield Cause(cause.reason, text, f"{path}.default")
