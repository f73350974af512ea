"""A resolved Thing Model: what every rule of the Web of Things builds on.

`gateway/ditto/wot.py` has the models in memory before a command or message is decided, so rules here never
wait. Who judges payloads implements `Judge` in `gateway/twin/wot/validation.py`; `gateway.core` hands it to
`WotHook`, which calls it

- `change`: in the thing's lane, after the pure decision and before anything is stored, with the event that
  would follow (`before`, `after`, `path`, `value`);
- `message`: in the thing's lane, after the policy check and before any listener is told;
- `response`: before who waits for it is answered.

Source: W3C WoT Thing Description 1.1, section 10 (Thing Model).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from gateway.model.json import Json, JsonObject
from gateway.model.thing import (
    Thing,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
)

Affordances: TypeAlias = Mapping[str, Mapping[str, Json]]
"""Name to data schema (properties), or to `input`/`output` (actions), `data` (events)."""


@dataclass(frozen=True, slots=True)
class Submodel:
    """A `tm:submodel` link: the feature that a thing of the model has.

    Shape:  `instance_name` is the feature id, `href` the absolute URL of its model. All are required:
            `tm:optional` names affordances only.
    """

    instance_name: str
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingModel:
    """One Thing Model with `tm:extends` and `tm:ref` merged in; nobody mutates what it holds.

    Shape:  `url` as the definition names it; `document` the whole model, placeholders `{{X}}` still in it,
            `links` still with `tm:extends` and `tm:submodel`; `properties`, `actions`, `events` are the
            document's own, empty where it has none; `optional` are JSON pointers such as `/properties/on`;
            `categories` property name to `ditto:category` (under whatever prefix its `@context` gives that
            vocabulary), names without one are absent; `extends` every URL it extends, the nearest first,
            absolute, through all levels of the first link of each.
    """

    url: str
    document: Mapping[str, Json]
    properties: Affordances = field(default_factory=dict)
    actions: Affordances = field(default_factory=dict)
    events: Affordances = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    categories: Mapping[str, str] = field(default_factory=dict)
    submodels: tuple[Submodel, ...] = ()
    extends: tuple[str, ...] = ()

    def is_optional(self, kind: str, name: str) -> bool:
        """True for an affordance (`properties`, `actions`, `events`) that a thing may be without."""
        return f"/{kind}/{_escaped(name)}" in self.optional

    def submodel(self, feature_id: str) -> Submodel | None:
        """The link of the feature with this id."""
        return next((one for one in self.submodels if one.instance_name == feature_id), None)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


class Models(Protocol):
    """The models that are in memory for one decision.

    Shape:  for a command: the model of the thing's definition (before and after the change), of the
            definitions of the features that the command's path touches (all features at `()` and
            `("features",)`), and the direct submodels of each of them. None for one that could not be had
            (that is allowed by the settings), and for what is no http(s) URL.
    """

    def get(self, url: str) -> ThingModel | None: ...


class Judge(Protocol):
    """Judges payloads against their models. Pure: raises `wot:payload.validation.error`, returns nothing.

    Shape:  called only where the thing, or a feature that is touched, has an http(s) URL as definition
            before or after.
    """

    def wants_change(self, command: ThingCommand, event: ThingEvent) -> bool:
        """False where nothing of a change is judged: then its models need not be there."""
        ...

    def wants_message(self, message: ThingMessage, thing: Thing) -> bool:
        """The same for a message."""
        ...

    def change(self, command: ThingCommand, event: ThingEvent, models: Models) -> None:
        """A change of the twin that is about to be stored."""
        ...

    def message(self, message: ThingMessage, thing: Thing, models: Models) -> None:
        """A message on its way into the inbox or out of the outbox."""
        ...

    def response(
        self, message: ThingMessage, answer: ThingMessageResponse, thing: Thing, models: Models
    ) -> None:
        """The device's answer to an inbox message."""
        ...


def url_of(definition: Json) -> str | None:
    """The http(s) URL that a thing's definition (text) or a feature's (list, its first) names, or None."""
    named = definition[0] if isinstance(definition, list) and definition else definition
    if isinstance(named, str) and named.startswith(("https://", "http://")):
        return named
    return None


def feature_of(document: Mapping[str, Json], feature_id: str) -> JsonObject | None:
    """A feature of a thing's document, None where there is none."""
    features = document.get("features")
    feature = features.get(feature_id) if isinstance(features, dict) else None
    return feature if isinstance(feature, dict) else None
