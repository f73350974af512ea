"""The switches of validation against Thing Models, and their JSON form.

In JSON the names have dashes, as in `{"thing": {"enforce": {"inbox-messages-input": false}}}`; camel case is
read too. What is not given stays as it is. Source: Ditto, WoT integration (configuration of validation).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast, get_type_hints

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject
from gateway.twin.ditto_errors import ditto_error

R = TypeVar("R")

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingEnforce:
    """What of a thing has to fit its model."""

    thing_description_modification: bool = True
    """A new definition: the whole thing has to fit its model."""
    attributes: bool = True
    """Attributes: required ones are there, each has a value of its schema."""
    inbox_messages_input: bool = True
    """The payload of a message to the inbox, by the `input` of its action."""
    inbox_messages_output: bool = True
    """The answer to such a message, by the `output` of its action."""
    outbox_messages: bool = True
    """The payload of a message from the outbox, by the `data` of its event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingForbid:
    """What a thing with a model may not do."""

    thing_description_deletion: bool = True
    """Lose its definition."""
    non_modeled_attributes: bool = True
    """Have attributes that are no properties of the model; needs `enforce.attributes`."""
    non_modeled_inbox_messages: bool = True
    """Get messages that are no actions of the model; needs `enforce.inbox_messages_input`."""
    non_modeled_outbox_messages: bool = True
    """Send messages that are no events of the model; needs `enforce.outbox_messages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureEnforce:
    """What of features has to fit their models."""

    feature_description_modification: bool = True
    """A new definition: the feature has to fit its model."""
    presence_of_modeled_features: bool = True
    """A thing has every feature that its model has as submodel."""
    properties: bool = True
    """Properties: required ones are there, each has a value of its schema."""
    desired_properties: bool = True
    """Desired properties have values of their schema; none is required."""
    inbox_messages_input: bool = True
    """The payload of a message to the inbox, by the `input` of its action."""
    inbox_messages_output: bool = True
    """The answer to such a message, by the `output` of its action."""
    outbox_messages: bool = True
    """The payload of a message from the outbox, by the `data` of its event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureForbid:
    """What features with a model may not do."""

    feature_description_deletion: bool = True
    """Lose their definition."""
    non_modeled_features: bool = True
    """Be there without being a submodel of the thing's model."""
    non_modeled_properties: bool = True
    """Have properties that the model does not have; needs `enforce.properties`."""
    non_modeled_desired_properties: bool = True
    """Have such desired properties; needs `enforce.desired_properties`."""
    non_modeled_inbox_messages: bool = True
    """Get messages that are no actions of the model; needs `enforce.inbox_messages_input`."""
    non_modeled_outbox_messages: bool = True
    """Send messages that are no events of the model; needs `enforce.outbox_messages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingRules:
    """Validation of things."""

    enforce: ThingEnforce = field(default_factory=ThingEnforce)
    """What has to fit."""
    forbid: ThingForbid = field(default_factory=ThingForbid)
    """What is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRules:
    """Validation of features."""

    enforce: FeatureEnforce = field(default_factory=FeatureEnforce)
    """What has to fit."""
    forbid: FeatureForbid = field(default_factory=FeatureForbid)
    """What is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All switches, as they hold for one command or message."""

    enabled: bool = True
    log_warning_instead_of_failing_api_calls: bool = False
    thing: ThingRules = field(default_factory=ThingRules)
    feature: FeatureRules = field(default_factory=FeatureRules)


DEFAULT_RULES: Final = Rules()


def checked_switches(value: Json) -> JsonObject:
    """Switches as JSON, their names in the form with dashes.

    Errors: BadRequest `wot.validation.config:invalid`, naming the switch.
    """
    return _checked(Rules, value, ())


def with_switches(rules: Rules, switches: Mapping[str, Json]) -> Rules:
    """The rules with these (checked) switches set."""
    return _changed(rules, switches)


def as_json(rules: object) -> JsonObject:
    """All switches."""
    found: JsonObject = {}
    for known in dataclasses.fields(cast(Any, rules)):
        value = getattr(rules, known.name)
        found[_dashed(known.name)] = value if isinstance(value, bool) else as_json(value)
    return found


def merged_switches(under: Mapping[str, Json], over: Mapping[str, Json]) -> JsonObject:
    """Switches of both; where both name one, `over` holds."""
    merged: JsonObject = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[name] = merged_switches(below, value)
        else:
            merged[name] = value
    return merged


def invalid_config(reason: str) -> GatewayError:
    """400: a configuration of validation that cannot be used."""
    return ditto_error("wot.validation.config:invalid", reason=reason)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _field_of(cls: type, name: str) -> str | None:
    """The field that a name in JSON means: with dashes, in camel case, perhaps led by `enforce-`."""
    plain = _CAMEL.sub("-", name).lower().replace("-", "_")
    known = {one.name for one in dataclasses.fields(cast(Any, cls))}
    for candidate in (plain, plain.removeprefix("enforce_"), plain.removeprefix("forbid_")):
        if candidate in known:
            return candidate
    return None


def _checked(cls: type, value: Json, at: tuple[str, ...]) -> JsonObject:
    if not isinstance(value, dict):
        raise invalid_config(f"'{'/'.join(at)}' is a JSON object")
    hints = get_type_hints(cls)
    checked: JsonObject = {}
    for name, below in value.items():
        where = (*at, name[:100])
        known = _field_of(cls, name)
        if known is None:
            raise invalid_config(f"the switch '{'/'.join(where)}' is not known")
        if hints[known] is not bool:
            checked[_dashed(known)] = _checked(hints[known], below, where)
        elif isinstance(below, bool):
            checked[_dashed(known)] = below
        else:
            raise invalid_config(f"'{'/'.join(where)}' is true or false")
    return checked


def _changed(rules: R, switches: Mapping[str, Json]) -> R:
    given: dict[str, object] = {}
    for name, value in switches.items():
        plain = name.replace("-", "_")
        given[plain] = _changed(getattr(rules, plain), value) if isinstance(value, dict) else value
    return cast(R, dataclasses.replace(cast(Any, rules), **given))
