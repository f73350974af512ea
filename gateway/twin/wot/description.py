"""A Thing Description from a Thing Model: what a thing or feature can do, and where on the HTTP API.

Pure. What the caller may not use is left out by `filtering.py` afterwards.
Source: Ditto, WoT integration; W3C WoT Thing Description 1.1, 10.4 (derivation to Thing Descriptions).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from gateway.model.json import Json, JsonObject
from gateway.model.thing import Thing
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.wot.documents import AFFORDANCES, EXTENDS, OPTIONAL, SUBMODEL, invalid
from gateway.twin.wot.forms import (
    DITTO_ERROR,
    ERROR_SCHEMA,
    Forms,
    uri_variables,
)
from gateway.twin.wot.model import ThingModel, feature_of, url_of
from gateway.twin.wot.placeholders import resolved

TD_CONTEXT: Final = "https://www.w3.org/2022/wot/td/v1.1"
TM_TYPE: Final = "tm:ThingModel"
PLACEHOLDERS: Final = "model-placeholders"
_SAFE: Final = ":@!$&'()*+,;=~."
"""Kept as they are in URLs, beside letters, digits, `-` and `_`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptionRules:
    """What an operator decides about descriptions.

    Shape:  `base` such as `https://iot.acme.org`, no slash at the end; `template` members win over the
            model's; `placeholders` are used where a thing has none of that name.
    """

    base: str
    template: Mapping[str, Json] = field(default_factory=dict)
    placeholders: Mapping[str, Json] = field(default_factory=dict)
    created: bool = True
    modified: bool = False
    uri_variables: bool = True


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a description is of: a thing, or one of its features."""

    thing: Thing
    feature_id: str | None = None

    @property
    def identifier(self) -> str:
        below = "" if self.feature_id is None else f"/features/{_in_url(self.feature_id)}"
        return f"urn:{_in_url(self.thing.thing_id)}{below}"

    def thing_url(self, base: str) -> str:
        return f"{base}/api/2/things/{_in_url(self.thing.thing_id)}/"

    def url(self, base: str) -> str:
        """With a slash at the end: the hrefs of forms are relative to it."""
        below = "" if self.feature_id is None else f"features/{_in_url(self.feature_id)}/"
        return self.thing_url(base) + below

    def definition(self) -> Json:
        """What it says its model is.

        Errors: `things:feature.notfound` 404.
        """
        if self.feature_id is None:
            return self.thing.document.get("definition")
        return self._feature().get("definition")

    def placeholders(self) -> Mapping[str, Json]:
        """Its values for the model's placeholders."""
        found: Json = self.thing.document.get("attributes")
        if self.feature_id is not None:
            found = self._feature().get("properties")
        values = found.get(PLACEHOLDERS) if isinstance(found, dict) else None
        return values if isinstance(values, dict) else {}

    def _feature(self) -> JsonObject:
        assert self.feature_id is not None  # noqa: S101  asked for features only
        feature = feature_of(self.thing.document, self.feature_id)
        if feature is None:
            facts = {"id": self.thing.thing_id, "feature": self.feature_id}
            raise ditto_error("things:feature.notfound", facts)
        return feature


def model_url(subject: Subject) -> str:
    """The URL of the model.

    Errors: `wot:definition.invalid` 404 where the definition is none.
    """
    definition = subject.definition()
    url = url_of(definition)
    if url is None:
        named = definition[0] if isinstance(definition, list) and definition else definition
        raise ditto_error("wot:definition.invalid", definition=str(named or "")[:300])
    return url


def describe(subject: Subject, model: ThingModel, rules: DescriptionRules) -> JsonObject:
    """The whole description, as somebody with all permissions sees it.

    Errors: BadRequest `wot:tm.invalid` for a model without the type of one, `wot:tm.placeholder.unresolved`.
    """
    td = {name: value for name, value in model.document.items() if name not in (OPTIONAL, "forms")}
    td["@context"] = _context(model.document.get("@context"))
    td["@type"] = _type(model)
    td.setdefault("title", subject.thing.thing_id)
    td["id"] = subject.identifier
    td["base"] = subject.url(rules.base)
    td["links"] = _links(subject, model, rules.base)
    _add_version(td)
    td.update(rules.template)
    _add_times(td, subject.thing, rules)
    _add_forms(td, subject, model, rules)
    schemas = model.document.get("schemaDefinitions")
    td["schemaDefinitions"] = {
        **(schemas if isinstance(schemas, dict) else {}),
        DITTO_ERROR: ERROR_SCHEMA,
    }
    return resolved(td, {**rules.placeholders, **subject.placeholders()})


def _context(given: Json) -> Json:
    """The model's, with the Thing Description's own in front where it is missing."""
    entries = given if isinstance(given, list) else [] if given is None else [given]
    if TD_CONTEXT in entries:
        return given
    return [TD_CONTEXT, *entries] if entries else TD_CONTEXT


def _type(model: ThingModel) -> Json:
    given = model.document.get("@type")
    types = given if isinstance(given, list) else [given]
    if TM_TYPE not in types:
        raise invalid(model.url, f"its '@type' is not '{TM_TYPE}'")
    made: list[Json] = ["Thing" if one == TM_TYPE else one for one in types]
    return made if isinstance(given, list) else made[0]


def _links(subject: Subject, model: ThingModel, base: str) -> list[Json]:
    made: list[Json] = []
    if subject.feature_id is not None:
        made.append(_link("collection", subject.thing_url(base), "application/td+json"))
    made.append(_link("type", model.url, "application/tm+json"))
    given = model.document.get("links")
    for link in given if isinstance(given, list) else ():
        rel = link.get("rel") if isinstance(link, dict) else None
        if rel == SUBMODEL and isinstance(link, dict):
            href = item_href(str(link["instanceName"]))
            made.append(_link("item", href, "application/td+json"))
        elif rel != EXTENDS:
            made.append(link)
    return made


def item_href(feature_id: str) -> str:
    """Where a feature is, relative to its thing."""
    return f"features/{_in_url(feature_id)}"


def _link(rel: str, href: str, kind: str) -> JsonObject:
    return {"rel": rel, "href": href, "type": kind}


def _add_version(td: JsonObject) -> None:
    version = td.get("version")
    if isinstance(version, dict) and "model" in version:
        td["version"] = {**version, "instance": version["model"]}


def _add_times(td: JsonObject, thing: Thing, rules: DescriptionRules) -> None:
    if rules.created:
        td["created"] = thing.created
    if rules.modified:
        td["modified"] = thing.modified


def _add_forms(
    td: JsonObject, subject: Subject, model: ThingModel, rules: DescriptionRules
) -> None:
    forms = Forms("attributes" if subject.feature_id is None else "properties", rules.uri_variables)
    td["forms"] = forms.root(model.document.get("forms"))
    makers: dict[str, Callable[[str, Mapping[str, Json]], JsonObject]] = {
        "properties": lambda name, one: forms.property(name, one, model.categories.get(name)),
        "actions": forms.action,
        "events": forms.event,
    }
    for kind in AFFORDANCES:
        named = model.document.get(kind)
        if isinstance(named, dict):
            affordances = getattr(model, kind)
            td[kind] = {name: makers[kind](name, one) for name, one in affordances.items()}
    if rules.uri_variables:
        td["uriVariables"] = uri_variables()


def _in_url(text: str) -> str:
    return quote(text, safe=_SAFE)
