"""Answers to reads: one object or a collection, as it is, as a table, or as metadata alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gateway.errors import BadRequest, Gone
from gateway.kube.objects import Objects
from gateway.kube.storage import Snapshot
from gateway.kube.strategies import table
from gateway.kube.watch import Filter, Stored
from gateway.model.json import JsonObject
from gateway.wire.kube import requests, tables
from gateway.wire.kube.requests import INCONSISTENT, PageToken, Wanted, write_token
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import (
    Cause,
    NotAcceptable,
    expired,
    future_version,
    invalid,
    not_allowed,
)

MAX_LIMIT = 100_000


MEDIA = ("application/json", "application/yaml")
_STREAM = "application/json;stream=watch"


def wanted_form(
    accept: str | None, resource: ResourceType, *, is_list: bool = False, watches: bool = False
) -> Wanted:
    """The form of the answer; a watch tells of one object after the other.

    Errors: NotAcceptable when the client takes none that there is.
    """
    if not requests.takes_media(accept):
        known = ", ".join((*MEDIA, _STREAM) if is_list or watches else MEDIA)
        text = f"406: Not Acceptable\n\nAvailable representations: {known}"
        raise NotAcceptable(text, details={"details": {}})
    wanted = requests.negotiate(accept, watches=watches)
    if wanted is None:
        known = _STREAM if watches else ", ".join(MEDIA)
        raise NotAcceptable(f"only the following media types are accepted: {known}")
    _check_shape(wanted, resource, is_list=is_list)
    return wanted


def _check_shape(wanted: Wanted, resource: ResourceType, *, is_list: bool) -> None:
    """Errors: NotAcceptable for one object where many are asked for, or the other way round."""
    if wanted.form != "partial" or is_list == wanted.kind.endswith("List"):
        return
    package = resource.group.partition(".")[0] or "core"
    kind = resource.collection_kind if is_list else resource.kind
    came = "is a list" if is_list else "is not a list"
    raise NotAcceptable(
        f"you requested {wanted.kind}, but the requested object {came} (*{package}.{kind})"
    )


def check_verb(resource: ResourceType, verb: str) -> None:
    """Errors: MethodNotAllowed."""
    if verb not in resource.verbs:
        raise not_allowed()


def check_version(query: Mapping[str, str], current: int) -> int | None:
    """The asked-for version, which may not lie in the future. Errors: TooEarly; BadRequest."""
    version = requests.resource_version(query)
    if version is not None and version > current:
        raise future_version(version, current)
    return version


def options_faults(query: Mapping[str, str], *, watches: bool) -> list[Cause]:
    """What does not go together in the options of a list or watch."""
    match, version = query.get("resourceVersionMatch") or "", query.get("resourceVersion") or ""
    initial = "sendInitialEvents" in query
    known = ("NotOlderThan",) if watches else ("Exact", "NotOlderThan")
    rows = (
        (watches and initial and match != "NotOlderThan",
         "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        (watches and bool(match) and not initial,
         "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
        (not watches and bool(match) and not version,
         "resourceVersionMatch is forbidden unless resourceVersion is provided"),
        (bool(match) and bool(query.get("continue")),
         "resourceVersionMatch is forbidden when continue is provided"),
    )  # fmt: skip
    field = "resourceVersionMatch"
    found = [
        Cause("FieldValueForbidden", f"Forbidden: {why}", field) for wrong, why in rows if wrong
    ]
    if match and match not in known:
        words = ", ".join(f'"{word}"' for word in (known if watches else (*known, "")))
        text = f'Unsupported value: "{match}": supported values: {words}'
        found.append(Cause("FieldValueNotSupported", text, field))
    if not watches and match == "Exact" and version == "0":
        text = 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        found.append(Cause("FieldValueForbidden", text, field))
    if not watches and initial:
        text = "Forbidden: sendInitialEvents is forbidden for list"
        found.append(Cause("FieldValueForbidden", text, "sendInitialEvents"))
    return found


def check_include(query: Mapping[str, str]) -> str:
    """What a table's rows carry of their objects. Errors: BadRequest."""
    include = query.get("includeObject") or "Metadata"
    if include not in ("Metadata", "Object", "None"):
        why = f"Invalid value: \"{include}\": must be 'Metadata', 'Object', 'None', or empty"
        raise BadRequest(f"Unable to convert to Table as requested: includeObject: {why}")
    return include


def check_options(query: Mapping[str, str], *, watches: bool = False) -> None:
    """Refuse options of a list or watch that make no sense. Errors: BadRequest; Unprocessable."""
    for key in ("limit", "timeoutSeconds"):
        requests.integer(query, key)
    faults = options_faults(query, watches=watches)
    if faults:
        raise invalid("ListOptions", "meta.k8s.io", "", faults)


def partial(item: JsonObject, version: str) -> JsonObject:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": item.get("metadata", {}),
    }


def one(
    resource: ResourceType, stored: Stored, wanted: Wanted, query: Mapping[str, str], now: float
) -> bytes:
    """One object in the wanted form."""
    if wanted.form == "object":
        return stored.body
    if wanted.form == "partial":
        return msgspec.json.encode(partial(stored.object, wanted.version))
    version = table(stored.object, "metadata").get("resourceVersion")
    metadata: JsonObject = {"resourceVersion": version}
    return msgspec.json.encode(as_table(resource, [stored], metadata, wanted, query, now))


def as_table(
    resource: ResourceType,
    items: Iterable[Stored],
    metadata: JsonObject,
    wanted: Wanted,
    query: Mapping[str, str],
    now: float,
    *,
    with_columns: bool = True,
) -> JsonObject:
    """A table of objects. Errors: BadRequest for an unknown `includeObject`."""
    return tables.table(
        resource,
        (item.object for item in items),
        metadata,
        now,
        version=wanted.version,
        include=check_include(query),
        with_columns=with_columns,
    )


def joined(resource: ResourceType, items: Iterable[Stored], metadata: JsonObject) -> bytes:
    """A list, made of the objects' stored bytes."""
    head = msgspec.json.encode(
        {
            "kind": resource.collection_kind,
            "apiVersion": resource.group_version,
            "metadata": metadata,
        }
    )
    return head[:-1] + b',"items":[' + b",".join(item.body for item in items) + b"]}"


def collection(
    objects: Objects,
    resource: ResourceType,
    namespace: str | None,
    wanted: Wanted,
    query: Mapping[str, str],
) -> bytes:
    """A collection, or one page of it.

    Errors: BadRequest; Gone for a page or version that is no longer kept; TooEarly.
    """
    check_options(query)
    selected = objects.filter(
        resource, namespace, query.get("labelSelector"), query.get("fieldSelector")
    )
    limit = min(requests.number(query, "limit") or 0, MAX_LIMIT)
    version, after = _place(objects, query, namespace)
    page = _page(objects, resource, selected, limit, version, after)
    metadata: JsonObject = {"resourceVersion": str(page.version)}
    if page.last is not None:
        token = PageToken(page.version, page.last.namespace, page.last.name)
        metadata["continue"] = write_token(token)
        if not selected.selects:
            metadata["remainingItemCount"] = page.rest
    if wanted.form == "table":
        document = as_table(resource, page.items, metadata, wanted, query, objects.now())
        return msgspec.json.encode(document)
    if wanted.form == "partial":
        return _partials(page.items, metadata, wanted)
    return joined(resource, page.items, metadata)


def _page(
    objects: Objects,
    resource: ResourceType,
    selected: Filter,
    limit: int,
    version: int | None,
    after: tuple[str, str] | None,
) -> Snapshot:
    """Errors: Gone, with a token to go on all the same, for a page of a forgotten version."""
    try:
        return objects.page(resource, selected, limit=limit, after=after, version=version)
    except Gone as error:
        if after is None:
            raise expired("The resourceVersion for the provided list is too old.") from error
        raise expired(_TOO_OLD, write_token(PageToken(INCONSISTENT, *after))) from error


_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new"
    " list without the continue parameter, or use the continue token in this response to retrieve the"
    " remainder of the results. Continuing with the provided token results in an inconsistent list -"
    " objects that were created, modified, or deleted between the time the first chunk was returned and"
    " now may show up in the list."
)


def _place(
    objects: Objects, query: Mapping[str, str], namespace: str | None
) -> tuple[int | None, tuple[str, str] | None]:
    """The version to list at (None is the newest) and the item to go on after.

    Errors: BadRequest; TooEarly.
    """
    text = query.get("continue")
    if text:
        token = requests.read_token(text)
        if requests.resource_version(query):
            raise BadRequest("specifying resource version is not allowed when using continue")
        version = None if token.version == INCONSISTENT else token.version
        return version, (token.namespace or namespace or "", token.name)
    try:
        asked = check_version(query, objects.storage.version)
    except BadRequest as error:
        raise BadRequest(f"invalid resource version: {error}") from error
    return (asked if query.get("resourceVersionMatch") == "Exact" and asked else None), None


def _partials(items: Iterable[Stored], metadata: JsonObject, wanted: Wanted) -> bytes:
    return msgspec.json.encode(
        {
            "kind": "PartialObjectMetadataList",
            "apiVersion": f"meta.k8s.io/{wanted.version}",
            "metadata": metadata,
            "items": [partial(item.object, wanted.version) for item in items],
        }
    )
