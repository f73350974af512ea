"""Answers to reads: one object or a collection, as it is, as a table, or as metadata alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gateway.errors import BadRequest, MethodNotAllowed
from gateway.kube.objects import Objects
from gateway.kube.strategies import table
from gateway.kube.watch import Stored
from gateway.model.json import JsonObject
from gateway.wire.kube import requests, tables
from gateway.wire.kube.requests import PageToken, Wanted
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import NotAcceptable, future_version

MAX_LIMIT = 100_000


def wanted_form(accept: str | None) -> Wanted:
    """The form of the answer. Errors: NotAcceptable when the client takes no JSON."""
    wanted = requests.negotiate(accept)
    if wanted is None:
        raise NotAcceptable("only the following media types are accepted: application/json")
    return wanted


def check_verb(resource: ResourceType, verb: str) -> None:
    if verb not in resource.verbs:
        raise method_not_allowed(resource)


def method_not_allowed(resource: ResourceType) -> MethodNotAllowed:
    return MethodNotAllowed(
        "the server does not allow this method on the requested resource",
        details={"kind": resource.plural, "group": resource.group},
    )


def check_version(query: Mapping[str, str], current: int) -> int | None:
    """The asked-for version, which may not lie in the future. Errors: TooEarly; BadRequest."""
    version = requests.resource_version(query)
    if version is not None and version > current:
        raise future_version(version, current)
    return version


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
    include = query.get("includeObject") or "Metadata"
    if include not in ("Metadata", "Object", "None"):
        raise BadRequest(f"unrecognized includeObject value: {include}")
    return tables.table(
        resource,
        (item.object for item in items),
        metadata,
        now,
        version=wanted.version,
        include=include,
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
    selected = objects.filter(
        resource, namespace, query.get("labelSelector"), query.get("fieldSelector")
    )
    limit = min(requests.number(query, "limit") or 0, MAX_LIMIT)
    version, after = _place(objects, query)
    page = objects.page(resource, selected, limit=limit, after=after, version=version)
    metadata: JsonObject = {"resourceVersion": str(page.version)}
    if page.last is not None:
        token = PageToken(page.version, page.last.namespace, page.last.name)
        metadata["continue"] = requests.write_token(token)
        if not selected.selects:
            metadata["remainingItemCount"] = page.rest
    if wanted.form == "table":
        document = as_table(resource, page.items, metadata, wanted, query, objects.now())
        return msgspec.json.encode(document)
    if wanted.form == "partial":
        return _partials(page.items, metadata, wanted)
    return joined(resource, page.items, metadata)


def _place(objects: Objects, query: Mapping[str, str]) -> tuple[int | None, tuple[str, str] | None]:
    """The version to list at (None is the newest) and the item to go on after."""
    version = check_version(query, objects.storage.version)
    match = query.get("resourceVersionMatch")
    text = query.get("continue")
    if text:
        if version:
            raise BadRequest("specifying resource version is not allowed when using continue")
        token = requests.read_token(text)
        return token.version, (token.namespace, token.name)
    if match is not None and version is None:
        raise BadRequest("resourceVersionMatch is forbidden unless resourceVersion is provided")
    if match not in (None, "Exact", "NotOlderThan"):
        raise BadRequest(f'resourceVersionMatch: Unsupported value: "{match}"')
    return (version if match == "Exact" and version else None), None


def _partials(items: Iterable[Stored], metadata: JsonObject, wanted: Wanted) -> bytes:
    return msgspec.json.encode(
        {
            "kind": "PartialObjectMetadataList",
            "apiVersion": f"meta.k8s.io/{wanted.version}",
            "metadata": metadata,
            "items": [partial(item.object, wanted.version) for item in items],
        }
    )
