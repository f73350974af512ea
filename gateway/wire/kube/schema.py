"""Types of objects as data: what fields there are, how lists merge, what values are allowed.

One form serves built-in kinds (from the type catalogue) and custom resources (from their structural schema).
Validation, pruning, defaulting, strategic merge, field ownership and OpenAPI all read it, so a kind is served
by adding data. Source: Kubernetes "Extend the Kubernetes API with CustomResourceDefinitions", structural
schemas; JSON Schema validation, the part that Kubernetes allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.regexes import Pattern

MAX_DEPTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a value; None where there is none."""

    enum: tuple[Json, ...] | None = None
    pattern: Pattern | None = None
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False
    multiple_of: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    min_items: int | None = None
    max_items: int | None = None
    unique_items: bool = False
    min_properties: int | None = None
    max_properties: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schema:
    """The type of one value.

    Shape:  `type` is a JSON type or "" for anything; `properties` are declared fields (a dict that is filled
            once, while the catalogue is read, so that types may contain themselves); `additional` is the type
            of a map's values; `list_type` is `atomic`, `set` or `map`; `list_keys` the keys of a `map` list;
            `merge_key` and `patch_strategy` steer strategic merge; `zeros` are fields of a built-in type that
            are kept although empty; `source` is the JSON it was read from.
    """

    type: str = ""
    format: str = ""
    properties: dict[str, Schema] = field(default_factory=dict)
    additional: Schema | None = None
    items: Schema | None = None
    required: tuple[str, ...] = ()
    nullable: bool = False
    preserve_unknown: bool = False
    int_or_string: bool = False
    embedded: bool = False
    has_default: bool = False
    default: Json = None
    list_type: str = "atomic"
    list_keys: tuple[str, ...] = ()
    map_type: str = "granular"
    merge_key: str = ""
    patch_strategy: frozenset[str] = frozenset()
    zeros: frozenset[str] = frozenset()
    limits: Limits = NO_LIMITS
    any_of: tuple[Schema, ...] = ()
    source: Mapping[str, Json] = field(default_factory=dict)
    memo: dict[str, bool] = field(default_factory=dict)
    """What has been found out about the type once."""

    @property
    def is_open(self) -> bool:
        """True where unknown fields are kept."""
        return self.preserve_unknown or (not self.type and not self.properties)

    def child(self, name: str) -> Schema | None:
        """The type of a field or of a map's value; None when it is unknown."""
        declared = self.properties.get(name)
        return self.additional if declared is None else declared

    @property
    def fills(self) -> bool:
        """True when there is a default somewhere below."""
        known = self.memo.get("fills")
        if known is None:
            self.memo["fills"] = False  # while types that contain themselves are looked through
            below = (*self.properties.values(), self.additional, self.items)
            known = any(child.has_default or child.fills for child in below if child is not None)
            self.memo["fills"] = known
        return known

    def default_of(self, name: str) -> Json:
        """The default of a declared field; None where it has none."""
        declared = self.properties.get(name)
        return declared.default if declared is not None and declared.has_default else None


ANYTHING = Schema(preserve_unknown=True)

_LIMIT_KEYS = {
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_items",
    "maxItems": "max_items",
    "uniqueItems": "unique_items",
    "minProperties": "min_properties",
    "maxProperties": "max_properties",
}


class Catalogue:
    """Named types that may refer to one another; each is read when it is first asked for.

    Shape:  `zeros` names, by type, the fields that are kept although they are empty.
    """

    def __init__(
        self,
        definitions: Mapping[str, JsonObject],
        zeros: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self._definitions = definitions
        self._zeros = zeros
        self._read: dict[str, Schema] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._definitions)

    def source(self, name: str) -> JsonObject:
        return self._definitions[name]

    def get(self, name: str) -> Schema:
        """Return a type by name. Errors: KeyError."""
        known = self._read.get(name)
        if known is None:
            source = self._definitions[name]
            fields: dict[str, Schema] = {}
            zeros = frozenset(self._zeros.get(name, ()))
            known = _with_children(source, fields, None, None, (), zeros)
            self._read[name] = known
            self._fill(source, fields)
        return known

    def _fill(self, source: JsonObject, fields: dict[str, Schema]) -> None:
        for name, item in _table(source.get("properties")).items():
            fields[name] = self._resolve(_object(item))

    def _resolve(self, source: JsonObject) -> Schema:
        reference = source.get("$ref")
        if isinstance(reference, str):
            return _patched(self.get(reference), source)
        fields: dict[str, Schema] = {}
        items = source.get("items")
        additional = source.get("additionalProperties")
        schema = _with_children(
            source,
            fields,
            self._resolve(items) if isinstance(items, dict) else None,
            self._resolve(additional) if isinstance(additional, dict) else None,
            (),
        )
        self._fill(source, fields)
        return schema


def _patched(schema: Schema, source: JsonObject) -> Schema:
    """A referenced type with what the reference says about merging and defaults."""
    strategy = _strategies(source)
    default = source.get("default")
    if not strategy and default is None:
        return schema
    return replace(
        schema, patch_strategy=strategy, default=default, has_default=default is not None
    )


def read_schema(source: JsonObject, *, depth: int = 0) -> Schema:
    """Read a structural schema of a custom resource.

    Errors: BadRequest for a schema that is too deep or has a bad pattern.
    """
    if depth > MAX_DEPTH:
        raise BadRequest(f"schema: at most {MAX_DEPTH} levels deep")
    items, additional = source.get("items"), source.get("additionalProperties")
    fields = {
        name: read_schema(_object(item), depth=depth + 1)
        for name, item in _table(source.get("properties")).items()
    }
    options = source.get("anyOf")
    return _with_children(
        source,
        fields,
        read_schema(items, depth=depth + 1) if isinstance(items, dict) else None,
        _additional(additional, depth),
        tuple(
            read_schema(_object(option), depth=depth + 1)
            for option in (options if isinstance(options, list) else [])
        ),
    )


def _additional(source: Json, depth: int) -> Schema | None:
    if isinstance(source, dict):
        return read_schema(source, depth=depth + 1)
    return ANYTHING if source is True else None


def _with_children(
    source: JsonObject,
    fields: dict[str, Schema],
    items: Schema | None,
    additional: Schema | None,
    any_of: tuple[Schema, ...],
    zeros: frozenset[str] = frozenset(),
) -> Schema:
    one_of = source.get("oneOf")
    return Schema(
        type=_text(source.get("type")),
        format=_text(source.get("format")),
        properties=fields,
        items=items,
        additional=additional,
        any_of=any_of,
        required=tuple(_texts(source.get("required"))),
        nullable=source.get("nullable") is True,
        preserve_unknown=_is_open(source),
        int_or_string=source.get("x-kubernetes-int-or-string") is True or isinstance(one_of, list),
        embedded=source.get("x-kubernetes-embedded-resource") is True,
        has_default="default" in source,
        default=source.get("default"),
        list_type=_text(source.get("x-kubernetes-list-type")) or "atomic",
        list_keys=tuple(_texts(source.get("x-kubernetes-list-map-keys"))),
        map_type=_text(source.get("x-kubernetes-map-type")) or "granular",
        merge_key=_text(source.get("x-kubernetes-patch-merge-key")),
        patch_strategy=_strategies(source),
        zeros=zeros,
        limits=_limits(source),
        source=source,
    )


def _is_open(source: JsonObject) -> bool:
    """Free-form objects have neither fields nor a value type; scalars are never free-form."""
    if source.get("x-kubernetes-preserve-unknown-fields") is True:
        return True
    return source.get("type", "object") == "object" and not (
        source.keys()
        & {"properties", "additionalProperties", "oneOf", "x-kubernetes-int-or-string"}
    )


def _strategies(source: JsonObject) -> frozenset[str]:
    text = source.get("x-kubernetes-patch-strategy")
    return frozenset(text.split(",")) if isinstance(text, str) else frozenset()


def _limits(source: JsonObject) -> Limits:
    found: dict[str, object] = {
        ours: source[theirs]
        for theirs, ours in _LIMIT_KEYS.items()
        if source.get(theirs) is not None
    }
    enum, pattern = source.get("enum"), source.get("pattern")
    if isinstance(enum, list):
        found["enum"] = tuple(enum)
    if isinstance(pattern, str):
        found["pattern"] = _compiled(pattern)
    return Limits(**found) if found else NO_LIMITS  # type: ignore[arg-type]  # keys and types are the table's


def _compiled(pattern: str) -> Pattern:
    try:
        return Pattern(pattern)
    except ValueError as error:
        raise BadRequest(f"schema: pattern {pattern!r} cannot be read: {error}") from error


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Json) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _table(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _object(value: Json) -> JsonObject:
    if not isinstance(value, dict):
        raise BadRequest("schema: expected an object for each field")
    return value
