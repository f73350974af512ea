"""Thing Model documents as they were fetched: checked in form, their links made absolute.

Nothing is resolved here: `resolving.py` merges documents into models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urldefrag, urljoin

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, nests_within
from gateway.twin.ditto_errors import ditto_error

AFFORDANCES: Final = ("properties", "actions", "events")
EXTENDS: Final = "tm:extends"
SUBMODEL: Final = "tm:submodel"
REF: Final = "tm:ref"
OPTIONAL: Final = "tm:optional"
MAX_DEPTH: Final = 48
"""Objects and arrays inside each other in one document."""
MAX_LINKS: Final = 200


def invalid(url: str, reason: str) -> GatewayError:
    """400: a document is no Thing Model."""
    return ditto_error("wot:tm.invalid", url=url[:300], reason=reason)


def read_document(url: str, value: Json) -> JsonObject:
    """The document of a URL, its `tm:extends`, `tm:submodel` and `tm:ref` targets absolute.

    Errors: BadRequest `wot:tm.invalid`, naming what is wrong.
    """
    if not isinstance(value, dict):
        raise invalid(url, "it is no JSON object")
    if not nests_within(value, MAX_DEPTH):
        raise invalid(url, f"it nests deeper than {MAX_DEPTH} levels")
    _check_affordances(url, value)
    _check_optional(url, value)
    document = _absolute_refs(url, value)
    assert isinstance(document, dict)  # noqa: S101  objects stay objects
    if "links" in value:
        document["links"] = [*_links(url, value["links"])]
    return document


def links_of(document: Mapping[str, Json], rel: str) -> Iterator[JsonObject]:
    """The links of a checked document with this relation."""
    links = document.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("rel") == rel:
            yield link


def _check_affordances(url: str, value: JsonObject) -> None:
    for kind in AFFORDANCES:
        found = value.get(kind, {})
        if not isinstance(found, dict):
            raise invalid(url, f"'{kind}' is no JSON object")
        for name, affordance in found.items():
            if not isinstance(affordance, dict):
                raise invalid(url, f"'{kind}/{name[:100]}' is no JSON object")


def _check_optional(url: str, value: JsonObject) -> None:
    optional = value.get(OPTIONAL, [])
    is_placeholder = isinstance(optional, str)  # e.g. "{{TM_OPTIONAL}}"
    if is_placeholder:
        return
    if not isinstance(optional, list) or not all(isinstance(one, str) for one in optional):
        raise invalid(url, f"'{OPTIONAL}' is no array of JSON pointers")


def _links(url: str, links: Json) -> Iterator[Json]:
    if not isinstance(links, list) or not all(isinstance(link, dict) for link in links):
        raise invalid(url, "'links' is no array of JSON objects")
    if len(links) > MAX_LINKS:
        raise invalid(url, f"it has more than {MAX_LINKS} links")
    for link in links:
        assert isinstance(link, dict)  # noqa: S101  checked above
        if link.get("rel") in (EXTENDS, SUBMODEL):
            href = link.get("href")
            if not isinstance(href, str) or not href:
                raise invalid(url, f"a link with rel '{link['rel']}' has no 'href'")
            yield {**link, "href": absolute(url, href)}
        else:
            yield link


def absolute(url: str, reference: str) -> str:
    """What a reference in the document of `url` names.

    Errors: BadRequest `wot:tm.invalid` for what is no http(s) URL.
    """
    try:
        found = urljoin(url, reference.strip())
    except ValueError:
        found = ""
    if not found.startswith(("https://", "http://")):
        raise invalid(url, f"'{reference[:300]}' is no http(s) URL")
    return found


def without_fragment(url: str) -> str:
    """The URL that the document is fetched from."""
    return urldefrag(url)[0]


def _absolute_refs(url: str, value: Json) -> Json:
    if isinstance(value, list):
        return [_absolute_refs(url, below) for below in value]
    if not isinstance(value, dict):
        return value
    made = {key: _absolute_refs(url, below) for key, below in value.items()}
    if REF in value:
        ref = value[REF]
        if not isinstance(ref, str) or "#/" not in ref:
            raise ditto_error("wot:tm.ref.invalid", ref=str(ref)[:300])
        made[REF] = absolute(url, ref)
    return made
