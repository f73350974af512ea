"""Shows the tree of settings: effective values, and a JSON Schema with every field's docstring."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from gateway.config.switch import Switch
from gateway.config.tree import Settings
from gateway.model.json import Json, JsonObject

_TYPES: dict[object, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    Switch: "string",
    Path: "string",
}


def plain(settings: Any) -> Json:
    """Return a settings object as plain data, ready for YAML or JSON."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {f.name: plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    if isinstance(settings, tuple | list):
        return [plain(item) for item in settings]
    if isinstance(settings, dict):
        return {str(k): plain(v) for k, v in settings.items()}
    return str(settings) if isinstance(settings, Path | Switch) else cast(Json, settings)


def json_schema() -> JsonObject:
    """Return a JSON Schema (2020-12) of the settings file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Twinspan settings",
        **_object(Settings, plain(Settings())),
    }


def _object(cls: type[Any], defaults: Json) -> JsonObject:
    hints = typing.get_type_hints(cls)
    docs = _field_docs(cls)
    known = defaults if isinstance(defaults, dict) else {}
    properties: JsonObject = {}
    for field in dataclasses.fields(cls):
        entry = _entry(hints[field.name], known.get(field.name))
        if field.name in docs:
            entry["description"] = docs[field.name]
        properties[field.name] = entry
    return {
        "type": "object",
        "description": (cls.__doc__ or "").strip().splitlines()[0],
        "additionalProperties": False,
        "properties": properties,
    }


def _entry(hint: Any, default: Json) -> JsonObject:
    if hint is Any:
        return {}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _object(hint, default)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _entry(next(a for a in args if a is not type(None)), default)
    if origin is tuple:
        return {"type": "array", "items": _entry(args[0], None), "default": default}
    if origin is dict:
        return {"type": "object", "additionalProperties": _entry(args[1], None), "default": default}
    entry: JsonObject = {"type": _TYPES[hint]}
    if default is not None:
        entry["default"] = default
    return entry


def _field_docs(cls: type[Any]) -> dict[str, str]:
    """Read the docstrings that stand below fields; they exist in the source only."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = cast(ast.ClassDef, tree.body[0]).body
    docs = {}
    for field, below in pairwise(body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                docs[name] = " ".join(text.split())
            case _:
                pass
    return docs
