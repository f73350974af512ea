"""What a new thing or feature holds because its model says so. What a request gives always wins.

Values: `const`, `default`, else the neutral element of the type within its bounds. Optional properties are
left out. Source: Ditto, WoT integration (skeleton generation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, cast

from gateway.model.json import Json, JsonObject
from gateway.twin.documents import MISSING, Maybe
from gateway.twin.wot.model import Models, ThingModel

MAX_ITEMS: Final = 100
"""Neutral elements in one array; a model that wants more gets an array without any."""


def thing_skeleton(model: ThingModel, models: Models, *, optional: bool = False) -> JsonObject:
    """`attributes` and `features` of a thing of this model.

    Shape:  a submodel whose model is not there gives no feature; a part without content is left out;
            `optional` fills in optional properties too.
    """
    skeleton: JsonObject = {}
    if attributes := _values(model, optional):
        skeleton["attributes"] = attributes
    features: JsonObject = {}
    for submodel in model.submodels:
        below = models.get(submodel.href)
        if below is not None:
            features[submodel.instance_name] = feature_skeleton(below, optional=optional)
    if features:
        skeleton["features"] = features
    return skeleton


def feature_skeleton(model: ThingModel, *, optional: bool = False) -> JsonObject:
    """`definition` (the model, and what it extends) and `properties` of a feature of this model."""
    definition: list[Json] = [*dict.fromkeys((model.url, *model.extends))]
    skeleton: JsonObject = {"definition": definition}
    if model.properties:
        skeleton["properties"] = _values(model, optional)
    return skeleton


def with_thing_skeleton(value: JsonObject, skeleton: JsonObject) -> JsonObject:
    """A new thing's JSON with the skeleton beneath."""
    return cast(JsonObject, _beneath(_given(value), skeleton))


def with_feature_skeleton(value: JsonObject, skeleton: JsonObject) -> JsonObject:
    """A new feature's JSON with the skeleton beneath; the definition names the models of both."""
    given = _given(value)
    merged = cast(JsonObject, _beneath(given, skeleton))
    own, modelled = given.get("definition"), skeleton["definition"]
    if isinstance(own, list) and isinstance(modelled, list):
        merged["definition"] = [*modelled, *(one for one in own if one not in modelled)]
    return merged


def _given(value: JsonObject) -> JsonObject:
    """A null member of a thing or feature counts as absent."""
    return {name: below for name, below in value.items() if below is not None}


def _beneath(given: Json, skeleton: Json) -> Json:
    if not isinstance(given, dict) or not isinstance(skeleton, dict):
        return given
    merged = dict(skeleton)
    for key, value in given.items():
        merged[key] = _beneath(value, skeleton[key]) if key in skeleton else value
    return merged


def _values(model: ThingModel, optional: bool) -> JsonObject:
    found: JsonObject = {}
    for name, schema in model.properties.items():
        if not optional and model.is_optional("properties", name):
            continue
        value = initial_value(schema)
        if value is MISSING:
            continue
        category = model.categories.get(name)
        if category is None:
            found[name] = value
        else:
            group = found.setdefault(category, {})
            if isinstance(group, dict):
                group[name] = value
    return found


# --- values ------------------------------------------------------------------------------------


def initial_value(schema: Mapping[str, Json]) -> Maybe:
    """What a property of this data schema holds at first, MISSING where it has no type."""
    for given in ("const", "default"):
        if given in schema:
            return schema[given]
    kind = schema.get("type")
    make = _NEUTRAL.get(kind) if isinstance(kind, str) else None
    return MISSING if make is None else make(schema)


def _boolean(_schema: Mapping[str, Json]) -> Json:
    return False


def _text(_schema: Mapping[str, Json]) -> Json:
    return ""


def _null(_schema: Mapping[str, Json]) -> Json:
    return None


def _integer(schema: Mapping[str, Json]) -> Json:
    return int(_within(schema, 0))


def _number(schema: Mapping[str, Json]) -> Json:
    return float(_within(schema, 0.0))


def _within(schema: Mapping[str, Json], value: float) -> float:
    """Zero, or the bound that is next to it."""
    low, above = _bound(schema, "minimum"), _bound(schema, "exclusiveMinimum")
    high, under = _bound(schema, "maximum"), _bound(schema, "exclusiveMaximum")
    if low is not None and low > value:
        value = low
    if above is not None and above >= value:
        value = above + 1
    if high is not None and high < value:
        value = high
    if under is not None and under <= value:
        value = under - 1
    return value


def _bound(schema: Mapping[str, Json], name: str) -> int | float | None:
    bound = schema.get(name)
    is_number = isinstance(bound, (int, float)) and not isinstance(bound, bool)
    return cast("int | float", bound) if is_number else None


def _object(schema: Mapping[str, Json]) -> Json:
    """The required members."""
    required, properties = schema.get("required"), schema.get("properties")
    if not isinstance(required, list) or not isinstance(properties, dict):
        return {}
    made: JsonObject = {}
    for name, below in properties.items():
        if name in required and isinstance(below, dict):
            value = initial_value(below)
            made[name] = None if value is MISSING else value
    return made


def _array(schema: Mapping[str, Json]) -> Json:
    """As many neutral elements as there must be; one where the model does not say."""
    items = schema.get("items")
    least = _bound(schema, "minItems")
    count = 1 if least is None else int(least)
    if not isinstance(items, dict) or not 0 < count <= MAX_ITEMS:
        return []
    kind = items.get("type")
    make = _PLAIN.get(kind) if isinstance(kind, str) else None
    return [] if make is None else [make(items)] * count


_Make = Callable[[Mapping[str, Json]], Json]

_SCALARS: Final[dict[str, _Make]] = {
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "string": _text,
    "null": _null,
}
_PLAIN: Final[dict[str, _Make]] = {**_SCALARS, "object": lambda _: {}, "array": lambda _: []}
_NEUTRAL: Final[dict[str, _Make]] = {**_SCALARS, "object": _object, "array": _array}
