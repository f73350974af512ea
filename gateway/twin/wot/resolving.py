"""From documents to a model: `tm:extends` merged beneath, `tm:ref` merged in.

Pure: what is missing is asked for by raising `NeedsDocuments`; the caller brings the documents and asks
again. Depth, number of documents and size of the result are bounded, so no set of documents can keep a
caller busy. Source: W3C WoT Thing Description 1.1, 10.3 (extension, import, composition).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from gateway.errors import GatewayError
from gateway.model.entity_id import is_key
from gateway.model.json import Json, JsonObject, parse_pointer
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, get
from gateway.twin.wot.documents import (
    EXTENDS,
    OPTIONAL,
    REF,
    SUBMODEL,
    invalid,
    links_of,
    without_fragment,
)
from gateway.twin.wot.model import Affordances, Submodel, ThingModel

DITTO_VOCABULARY: Final = "https://ditto.eclipseprojects.io/wot/ditto-extension#"
MAX_LEVELS: Final = 10
"""Models that extend each other, and refs that lead to refs."""
MAX_DOCUMENTS: Final = 50
"""Documents that one model is made of."""
MAX_VALUES: Final = 50_000
"""JSON values in a resolved model."""


class NeedsDocuments(Exception):
    """These documents have to be fetched first."""

    def __init__(self, urls: Iterable[str]) -> None:
        super().__init__()
        self.urls = frozenset(urls)


@dataclass(slots=True)
class _Work:
    """One resolution: what there is, what was used, what is missing."""

    url: str
    documents: Mapping[str, JsonObject]
    used: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    extended: dict[str, JsonObject | None] = field(default_factory=dict)
    values: int = 0

    def document(self, url: str) -> JsonObject | None:
        bare = without_fragment(url)
        self.used.add(bare)
        if len(self.used) > MAX_DOCUMENTS:
            raise invalid(self.url, f"it is made of more than {MAX_DOCUMENTS} documents")
        found = self.documents.get(bare)
        if found is None:
            self.missing.add(bare)
        return found

    def count(self) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise invalid(self.url, f"it resolves to more than {MAX_VALUES} values")


def resolve(url: str, documents: Mapping[str, JsonObject]) -> ThingModel:
    """The model of a URL.

    Shape:  `documents` by URL without fragment, as `read_document` gives them.
    Errors: NeedsDocuments; BadRequest `wot:tm.invalid` (cycle, depth, size, form), `wot:tm.ref.invalid`.
    """
    work = _Work(url, documents)
    merged = _extended(work, url, ())
    if merged is None or work.missing:
        raise NeedsDocuments(work.missing)
    document = _without_refs(work, merged, ())
    if work.missing:
        raise NeedsDocuments(work.missing)
    assert isinstance(document, dict)  # noqa: S101  objects stay objects
    return _model(url, document, _extends(documents, url))


# --- tm:extends --------------------------------------------------------------------------------


def _extended(work: _Work, url: str, trail: tuple[str, ...]) -> JsonObject | None:
    """A document with what it extends merged beneath; None while some of it is missing."""
    bare = without_fragment(url)
    if bare in trail:
        raise invalid(work.url, f"'{bare}' extends itself")
    if len(trail) > MAX_LEVELS:
        raise invalid(work.url, f"models extend each other over more than {MAX_LEVELS} levels")
    if bare not in work.extended:
        work.extended[bare] = _with_extended(work, bare, (*trail, bare))
    return work.extended[bare]


def _with_extended(work: _Work, bare: str, trail: tuple[str, ...]) -> JsonObject | None:
    merged = document = work.document(bare)
    if document is None or merged is None:
        return None
    for link in links_of(document, EXTENDS):
        below = _extended(work, str(link["href"]), trail)
        if below is not None:
            merged = _merged_model(work, merged, below)
    return merged


def _merged_model(work: _Work, model: JsonObject, below: JsonObject) -> JsonObject:
    """`below` merged beneath: what `model` says wins; links, optional names and contexts add up."""
    merged = cast(JsonObject, merged_beneath(model, below, work.count))
    for member, joined in _JOINED.items():
        if member in model and member in below:
            merged[member] = joined(model[member], below[member])
    if "links" in merged and "links" not in model:
        merged["links"] = _joined_links([], below["links"])
    return merged


def merged_beneath(value: Json, below: Json, count: Callable[[], None]) -> Json:
    """RFC 7396 with `value` as the patch: it wins, null removes what lies beneath, arrays are whole."""
    if not isinstance(value, dict) or not isinstance(below, dict):
        return value
    merged: JsonObject = dict(below)
    for key, mine in value.items():
        count()
        if mine is None and key in below:
            merged.pop(key, None)
        else:
            merged[key] = merged_beneath(mine, below.get(key), count)
    return merged


def _joined_links(mine: Json, below: Json) -> Json:
    inherited = [
        link
        for link in (below if isinstance(below, list) else [])
        if isinstance(link, dict) and link.get("rel") != EXTENDS
    ]
    own = mine if isinstance(mine, list) else []
    kept = [link for link in inherited if not _is_overridden(link, own)]
    return [*kept, *own]


def _is_overridden(link: JsonObject, own: list[Json]) -> bool:
    """A submodel with the same instance name is the model's own one."""
    if link.get("rel") != SUBMODEL:
        return link in own
    return any(
        isinstance(one, dict)
        and one.get("rel") == SUBMODEL
        and one.get("instanceName") == link.get("instanceName")
        for one in own
    )


def _joined_texts(mine: Json, below: Json) -> Json:
    if not isinstance(mine, list) or not isinstance(below, list):
        return mine
    return [*mine, *(one for one in below if one not in mine)]


def _joined_context(mine: Json, below: Json) -> Json:
    """Vocabularies of both, as texts first and one object of prefixes."""
    texts: list[Json] = []
    prefixes: JsonObject = {}
    for entry in (*_entries(below), *_entries(mine)):
        if isinstance(entry, dict):
            prefixes.update(entry)
    for entry in (*_entries(mine), *_entries(below)):
        if isinstance(entry, str) and entry not in texts:
            texts.append(entry)
    joined = [*texts, prefixes] if prefixes else texts
    return joined[0] if len(joined) == 1 else joined


def _entries(context: Json) -> list[Json]:
    return context if isinstance(context, list) else [context]


_JOINED: Final = {"links": _joined_links, OPTIONAL: _joined_texts, "@context": _joined_context}


def _extends(documents: Mapping[str, JsonObject], url: str) -> tuple[str, ...]:
    """Every URL of the chain of first `tm:extends` links; its documents are there."""
    found: list[str] = []
    document = documents[without_fragment(url)]
    while (link := next(links_of(document, EXTENDS), None)) is not None:
        href = str(link["href"])
        found.append(href)
        document = documents[without_fragment(href)]
    return tuple(found)


# --- tm:ref ------------------------------------------------------------------------------------


def _without_refs(work: _Work, value: Json, trail: tuple[str, ...]) -> Json:
    work.count()
    if isinstance(value, list):
        return [_without_refs(work, below, trail) for below in value]
    if not isinstance(value, dict):
        return value
    if REF in value:
        return _imported(work, value, trail)
    return {key: _without_refs(work, below, trail) for key, below in value.items()}


def _imported(work: _Work, value: JsonObject, trail: tuple[str, ...]) -> Json:
    """What a `tm:ref` names, with the members beside it merged over it."""
    ref = str(value[REF])
    if ref in trail:
        raise invalid(work.url, f"'{ref[:300]}' refers to itself")
    if len(trail) >= MAX_LEVELS:
        raise invalid(work.url, f"refs lead to refs over more than {MAX_LEVELS} levels")
    target = _target(work, ref)
    if target is None:
        return {}
    found = _without_refs(work, target, (*trail, ref))
    own = _without_refs(work, {k: v for k, v in value.items() if k != REF}, trail)
    return merged_beneath(own, found, work.count)


def _target(work: _Work, ref: str) -> JsonObject | None:
    """The object that a ref names; None while its document is missing."""
    document = work.document(ref)
    if document is None:
        return None
    try:
        found = get(document, parse_pointer(ref.partition("#")[2]))
    except GatewayError:
        found = MISSING
    if not isinstance(found, dict):
        raise ditto_error("wot:tm.ref.invalid", ref=ref[:300])
    return found


# --- the value ---------------------------------------------------------------------------------


def _model(url: str, document: JsonObject, extends: tuple[str, ...]) -> ThingModel:
    optional = document.get(OPTIONAL)
    properties = _affordances(document, "properties")
    return ThingModel(
        url=url,
        document=document,
        properties=properties,
        actions=_affordances(document, "actions"),
        events=_affordances(document, "events"),
        optional=frozenset(map(str, optional)) if isinstance(optional, list) else frozenset(),
        categories=_categories(document, properties),
        submodels=tuple(_submodels(url, document)),
        extends=extends,
    )


def _affordances(document: JsonObject, kind: str) -> Affordances:
    return cast(Affordances, document.get(kind, {}))


def _categories(document: JsonObject, properties: Affordances) -> dict[str, str]:
    prefix = _ditto_prefix(document.get("@context"))
    if prefix is None:
        return {}
    term = f"{prefix}:category"
    return {
        name: category
        for name, schema in properties.items()
        if isinstance(category := schema.get(term), str) and is_key(category)
    }


def _ditto_prefix(context: Json) -> str | None:
    """Under which prefix a model speaks Ditto's vocabulary."""
    for entry in _entries(context):
        for prefix, vocabulary in entry.items() if isinstance(entry, dict) else ():
            if vocabulary == DITTO_VOCABULARY:
                return prefix
    return None


def _submodels(url: str, document: JsonObject) -> Iterable[Submodel]:
    seen: set[str] = set()
    for link in links_of(document, SUBMODEL):
        name = link.get("instanceName")
        if not isinstance(name, str) or not is_key(name):
            raise invalid(url, "a 'tm:submodel' link has no usable 'instanceName'")
        if name in seen:
            raise invalid(url, f"two submodels have the instance name '{name[:100]}'")
        seen.add(name)
        yield Submodel(name, str(link["href"]))
