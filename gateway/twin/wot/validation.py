"""Whether a change of a thing fits its Thing Model.

A part that is written is judged by itself. A merge, a JSON Patch and a whole thing are judged by the state
that they lead to, as Ditto does. A feature is judged by the model of its own definition, else by the submodel
of the thing's model that has its id. Pure: the models are in memory. Source: Ditto 3.9, WoT integration
(validation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.model.json import Json, JsonObject, Pointer
from gateway.model.thing import Action, EventAction, Thing, ThingCommand, ThingEvent
from gateway.twin.resources import Part, part_of
from gateway.twin.wot.model import Models, ThingModel, feature_of, url_of
from gateway.twin.wot.validation_container import Container
from gateway.twin.wot.validation_faults import Fault, refusal
from gateway.twin.wot.validation_rules import Rules
from gateway.twin.wot.validation_schema import Checker, Schemas

PROPERTIES: Final = "properties"
DESIRED: Final = "desiredProperties"
_BY_STATE: Final = frozenset((Action.MERGE, Action.PATCH, Action.MIGRATE))


@dataclass(frozen=True, slots=True)
class Definitions:
    """What a change is about, for rules that depend on it: the texts of both definitions."""

    thing: str | None
    feature: str | None = None


def definitions_of(thing: Thing | None, feature_id: str | None = None) -> Definitions:
    """The definitions of a thing and of one of its features."""
    document: Mapping[str, Json] = thing.document if thing is not None else {}
    named = document.get("definition")
    feature = feature_of(document, feature_id) if feature_id is not None else None
    own = feature.get("definition") if feature is not None else None
    first = own[0] if isinstance(own, list) and own else None
    return Definitions(
        named if isinstance(named, str) else None, first if isinstance(first, str) else None
    )


def definitions_of_change(event: ThingEvent) -> Definitions:
    """The definitions after a change; where it removes one, that which was there."""
    feature_id = event.path[1] if event.path[:1] == ("features",) and event.path[1:] else None
    after = definitions_of(event.after, feature_id)
    before = definitions_of(event.before, feature_id)
    return Definitions(after.thing or before.thing, after.feature or before.feature)


def check_change(
    command: ThingCommand, event: ThingEvent, models: Models, rules: Rules, schemas: Schemas
) -> None:
    """Refuse a change that the rules forbid.

    Errors: 400 `wot:payload.validation.error`, 400 `wot:tm.invalid` for a model with a bad schema.
    """
    if event.after is None:
        return
    case = _Case(event, event.after, models, rules, schemas.checker())
    part = part_of(event.path)
    by_state = command.action in _BY_STATE and part is not Part.POLICY_ID
    judge = _state if by_state else _BY_PART.get(part, _nothing)
    faults = [*judge(case)]
    if faults:
        raise refusal(faults)


@dataclass(frozen=True, slots=True)
class _Case:
    event: ThingEvent
    after: Thing
    models: Models
    rules: Rules
    checker: Checker

    @property
    def path(self) -> Pointer:
        return self.event.path

    @property
    def is_deletion(self) -> bool:
        return self.event.action is EventAction.DELETED

    @property
    def before(self) -> Mapping[str, Json]:
        return self.event.before.document if self.event.before is not None else {}

    @property
    def thing_model(self) -> ThingModel | None:
        """The model of the thing as it is afterwards; while it loses its definition, that before."""
        document = self.after.document
        named = document.get("definition") or self.before.get("definition")
        return self._model(url_of(named))

    @property
    def features(self) -> JsonObject:
        features = self.after.document.get("features")
        return features if isinstance(features, dict) else {}

    def feature_model(self, feature_id: str) -> ThingModel | None:
        """The model of a feature: of its definition, of the one it had, else the thing's submodel."""
        own = feature_of(self.after.document, feature_id) or {}
        was = feature_of(self.before, feature_id) or {}
        named = url_of(own.get("definition")) or url_of(was.get("definition"))
        return self._model(named) if named is not None else self.submodel(feature_id)

    def submodel(self, feature_id: str) -> ThingModel | None:
        model = self.thing_model
        link = model.submodel(feature_id) if model is not None else None
        return self._model(link.href) if link is not None else None

    def _model(self, url: str | None) -> ThingModel | None:
        return self.models.get(url) if url is not None else None

    # --- containers -------------------------------------------------------------------------------

    def attributes(self, model: ThingModel) -> Container:
        return Container(
            model=model,
            checker=self.checker,
            base=("attributes",),
            one="The Thing's attribute",
            many="The Thing's attributes",
            is_closed=self.rules.thing.forbid.non_modeled_attributes,
            is_whole=True,
        )

    def properties(self, model: ThingModel, feature_id: str) -> Container:
        return Container(
            model=model,
            checker=self.checker,
            base=("features", feature_id, PROPERTIES),
            one=f"Feature <{feature_id}>'s property",
            many=f"Feature <{feature_id}>'s properties",
            is_closed=self.rules.feature.forbid.non_modeled_properties,
            is_whole=True,
        )

    def desired(self, model: ThingModel, feature_id: str) -> Container:
        return Container(
            model=model,
            checker=self.checker,
            base=("features", feature_id, DESIRED),
            one=f"Feature <{feature_id}>'s desired property",
            many=f"Feature <{feature_id}>'s desired properties",
            is_closed=self.rules.feature.forbid.non_modeled_desired_properties,
            is_whole=False,
        )


def _nothing(_case: _Case) -> Iterator[Fault]:
    return iter(())


# --- the thing ---------------------------------------------------------------------------------


def _state(case: _Case) -> Iterator[Fault]:
    """All of the thing as it is now; without a model of its own, the features that were touched."""
    lost = url_of(case.before.get("definition")) and "definition" not in case.after.document
    if lost and case.rules.thing.forbid.thing_description_deletion:
        yield Fault("The definition of the Thing cannot be deleted.")
    model = case.thing_model
    if model is not None:
        yield from _whole_thing(case, model)
        return
    for feature_id in _touched(case):
        yield from _feature_state(case, feature_id, case.feature_model(feature_id))


def _touched(case: _Case) -> Iterable[str]:
    if case.path[:1] == ("features",) and case.path[1:]:
        return [case.path[1]] if case.path[1] in case.features else []
    return case.features if case.path in ((), ("features",)) else ()


def _whole_thing(case: _Case, model: ThingModel) -> Iterator[Fault]:
    attributes = case.after.document.get("attributes")
    if case.rules.thing.enforce.attributes and isinstance(attributes, dict):
        yield from case.attributes(model).whole(attributes)
    yield from _all_features(case, model)


def _definition(case: _Case) -> Iterator[Fault]:
    if case.is_deletion:
        if case.rules.thing.forbid.thing_description_deletion:
            yield Fault("The definition of the Thing cannot be deleted.")
    elif case.rules.thing.enforce.thing_description_modification:
        model = case.models.get(url_of(case.after.document.get("definition")) or "")
        if model is not None:
            yield from _whole_thing(case, model)


def _attributes(case: _Case) -> Iterator[Fault]:
    model = case.thing_model
    if model is not None and case.rules.thing.enforce.attributes:
        yield from _members(case, case.attributes(model), case.path[1:])


def _members(case: _Case, container: Container, path: Pointer) -> Iterator[Fault]:
    """A write or deletion of a container, or below it."""
    if case.is_deletion:
        yield from container.deleted(path)
        return
    value: Json = case.after.document
    for segment in container.base:
        value = value.get(segment) if isinstance(value, dict) else None
    if path:
        yield from container.written(path, value)
    elif isinstance(value, dict):
        yield from container.whole(value)


# --- features ----------------------------------------------------------------------------------


def _features(case: _Case) -> Iterator[Fault]:
    model = case.thing_model
    if case.is_deletion:
        if model and model.submodels and case.rules.feature.enforce.presence_of_modeled_features:
            yield Fault("The Features cannot be deleted: the Thing's model has submodels.")
    elif model is not None:
        yield from _all_features(case, model)
    else:
        for feature_id in case.features:
            yield from _feature_state(case, feature_id, case.feature_model(feature_id))


def _all_features(case: _Case, model: ThingModel) -> Iterator[Fault]:
    modelled = [one.instance_name for one in model.submodels]
    if case.rules.feature.enforce.presence_of_modeled_features:
        yield from _absent([name for name in modelled if name not in case.features])
    if case.rules.feature.forbid.non_modeled_features:
        yield from _not_modelled([name for name in case.features if name not in modelled])
    for feature_id in case.features:
        below = case.submodel(feature_id) or case.feature_model(feature_id)
        yield from _feature_state(case, feature_id, below)


def _absent(names: list[str]) -> Iterator[Fault]:
    if names:
        yield Fault(
            f"Features that the Thing's model has are missing: [{', '.join(names)}]",
            tuple((("features", name), ("The model has this Feature.",)) for name in names),
        )


def _not_modelled(names: list[str]) -> Iterator[Fault]:
    if names:
        yield Fault(
            f"The Thing's model does not have these Features: [{', '.join(names[:20])}]",
            tuple((("features", name), ("The model does not define it.",)) for name in names),
        )


def _feature(case: _Case) -> Iterator[Fault]:
    feature_id, model = case.path[1], case.thing_model
    link = model.submodel(feature_id) if model is not None else None
    if case.is_deletion:
        if link is not None and case.rules.feature.enforce.presence_of_modeled_features:
            yield Fault(f"Feature <{feature_id}> cannot be deleted: the Thing's model has it.")
        return
    if model is not None and link is None and case.rules.feature.forbid.non_modeled_features:
        yield from _not_modelled([feature_id])
    yield from _feature_state(case, feature_id, case.feature_model(feature_id))


def _feature_state(case: _Case, feature_id: str, model: ThingModel | None) -> Iterator[Fault]:
    feature = feature_of(case.after.document, feature_id) or {}
    was = feature_of(case.before, feature_id) or {}
    lost = url_of(was.get("definition")) and "definition" not in feature
    if lost and case.rules.feature.forbid.feature_description_deletion:
        yield _definition_stays(feature_id)
    if model is not None:
        yield from _feature_values(case, feature_id, feature, model)


def _feature_values(
    case: _Case, feature_id: str, feature: JsonObject, model: ThingModel
) -> Iterator[Fault]:
    enforce = case.rules.feature.enforce
    properties, desired = feature.get(PROPERTIES), feature.get(DESIRED)
    if enforce.properties:
        held = properties if isinstance(properties, dict) else {}
        yield from case.properties(model, feature_id).whole(held)
    if enforce.desired_properties and isinstance(desired, dict):
        yield from case.desired(model, feature_id).whole(desired)


def _feature_definition(case: _Case) -> Iterator[Fault]:
    feature_id = case.path[1]
    if case.is_deletion:
        was = feature_of(case.before, feature_id) or {}
        is_model = url_of(was.get("definition")) is not None
        if is_model and case.rules.feature.forbid.feature_description_deletion:
            yield _definition_stays(feature_id)
    elif case.rules.feature.enforce.feature_description_modification:
        feature = feature_of(case.after.document, feature_id) or {}
        model = case.models.get(url_of(feature.get("definition")) or "")
        if model is not None:
            yield from _feature_values(case, feature_id, feature, model)


def _definition_stays(feature_id: str) -> Fault:
    return Fault(f"The definition of Feature <{feature_id}> cannot be deleted.")


def _properties(case: _Case) -> Iterator[Fault]:
    model = case.feature_model(case.path[1])
    if model is not None and case.rules.feature.enforce.properties:
        yield from _members(case, case.properties(model, case.path[1]), case.path[3:])


def _desired(case: _Case) -> Iterator[Fault]:
    model = case.feature_model(case.path[1])
    if model is not None and case.rules.feature.enforce.desired_properties:
        yield from _members(case, case.desired(model, case.path[1]), case.path[3:])


_BY_PART: Final[dict[Part, Callable[[_Case], Iterator[Fault]]]] = {
    Part.THING: _state,
    Part.DEFINITION: _definition,
    Part.ATTRIBUTES: _attributes,
    Part.ATTRIBUTE: _attributes,
    Part.FEATURES: _features,
    Part.FEATURE: _feature,
    Part.FEATURE_DEFINITION: _feature_definition,
    Part.FEATURE_PROPERTIES: _properties,
    Part.FEATURE_PROPERTY: _properties,
    Part.FEATURE_DESIRED_PROPERTIES: _desired,
    Part.FEATURE_DESIRED_PROPERTY: _desired,
}
