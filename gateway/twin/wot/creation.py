"""Which models a change needs, and what a creation gets from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.model.json import Json, JsonObject, Pointer
from gateway.model.thing import Action, EventAction, Thing, ThingCommand, ThingEvent, ThingMessage
from gateway.twin.wot.model import Models, feature_of, url_of
from gateway.twin.wot.skeleton import (
    feature_skeleton,
    thing_skeleton,
    with_feature_skeleton,
    with_thing_skeleton,
)

_FEATURES: Final[Pointer] = ("features",)
_CREATING: Final = frozenset((Action.CREATE, Action.MODIFY))


@dataclass(frozen=True, slots=True)
class Needed:
    """URLs of models: those that the state after a change has must be had, those before it may be missing."""

    after: frozenset[str]
    before: frozenset[str]

    @property
    def urls(self) -> frozenset[str]:
        return self.after | self.before


NOTHING: Final = Needed(frozenset(), frozenset())


def needed_by(event: ThingEvent) -> Needed:
    """The models that speak about a change; nothing for the deletion of a thing."""
    if event.after is None or not _names_models(event):
        return NOTHING
    after = frozenset(_urls(event.after.document, event.path))
    before = frozenset(_urls(event.before.document, event.path)) if event.before else after
    return Needed(after, before) if after or before else NOTHING


def _names_models(event: ThingEvent) -> bool:
    """False, at once, for the many changes of a single part where no definition is a URL."""
    path = event.path
    if not path or path == _FEATURES:
        return True
    return _is_modelled(event.after, path) or _is_modelled(event.before, path)


def _is_modelled(thing: Thing | None, path: Pointer) -> bool:
    if thing is None:
        return False
    document = thing.document
    if url_of(document.get("definition")) is not None:
        return True
    if path[0] != "features":
        return False
    feature = feature_of(document, path[1])
    return feature is not None and url_of(feature.get("definition")) is not None


def needed_by_message(message: ThingMessage, thing: Thing) -> frozenset[str]:
    """The models that speak about a message."""
    path = () if message.feature_id is None else ("features", message.feature_id, "messages")
    return frozenset(_urls(thing.document, path or ("messages",)))


def _urls(document: Mapping[str, Json], path: Pointer) -> Iterator[str]:
    """Of the thing, and of the features at or above or below the path."""
    url = url_of(document.get("definition"))
    if url is not None:
        yield url
    if path and path[0] != "features":
        return
    for feature in _touched(document, path):
        url = url_of(feature.get("definition"))
        if url is not None:
            yield url


def _touched(document: Mapping[str, Json], path: Pointer) -> Iterator[JsonObject]:
    if len(path) > 1:
        feature = feature_of(document, path[1])
        if feature is not None:
            yield feature
        return
    features = document.get("features")
    for below in features.values() if isinstance(features, dict) else ():
        if isinstance(below, dict):
            yield below


# --- skeletons ---------------------------------------------------------------------------------


def is_creation(command: ThingCommand, event: ThingEvent) -> bool:
    """True for what may get a skeleton: a new thing, a new feature, the first features of a thing."""
    if event.action is not EventAction.CREATED:
        return False
    if not event.path:
        return True
    is_feature = len(event.path) <= 2 and event.path[0] == "features"
    return is_feature and command.action in _CREATING


def with_skeleton(
    command: ThingCommand, event: ThingEvent, models: Models, *, optional: bool
) -> ThingCommand:
    """The command with what its models add; the same one where they add nothing."""
    if not isinstance(event.value, dict):
        return command
    value = (
        _thing(event.value, models, optional)
        if not event.path
        else _features(event.value, models, optional)
        if event.path == _FEATURES
        else _feature(event.value, models, optional)
    )
    if value is event.value:
        return command
    action = command.action if command.action in _CREATING else Action.MODIFY
    return replace(command, action=action, value=value)


def _thing(value: JsonObject, models: Models, optional: bool) -> JsonObject:
    url = url_of(value.get("definition"))
    model = models.get(url) if url is not None else None
    if model is None:
        return value
    return with_thing_skeleton(value, thing_skeleton(model, models, optional=optional))


def _features(value: JsonObject, models: Models, optional: bool) -> JsonObject:
    made: JsonObject = {
        name: _feature(one, models, optional) if isinstance(one, dict) else one
        for name, one in value.items()
    }
    is_same = all(made[name] is one for name, one in value.items())
    return value if is_same else made


def _feature(value: JsonObject, models: Models, optional: bool) -> JsonObject:
    url = url_of(value.get("definition"))
    model = models.get(url) if url is not None else None
    if model is None:
        return value
    return with_feature_skeleton(value, feature_skeleton(model, optional=optional))
