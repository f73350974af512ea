"""Answers of MetaServer: objects, lists and tables as the Kubernetes API writes them, errors as `Status`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import msgspec

from edge.metakinds import metadata_of
from edge.metarecords import Listing
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import JsonObject
from gateway.runtime.small_service import Response
from gateway.wire.kube import tables
from gateway.wire.kube.requests import Wanted, negotiate
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.selectors import FieldSelector, parse_fields
from gateway.wire.kube.status import NotAcceptable, status_of

FROM = "X-Twinspan-From"
CLOUD, DISK = "cloud", "disk"
"""Where an answer is from."""
JSON = "application/json"
_FIELD = re.compile(r"([A-Za-z0-9_./-]+)\s*!?=")


def wanted_form(accept: str | None) -> Wanted:
    """Return the form that the client wants. Errors: NotAcceptable when it takes no JSON."""
    wanted = negotiate(accept)
    if wanted is None:
        raise NotAcceptable("only the following media types are accepted: application/json")
    return wanted


def fields_of(text: str | None) -> FieldSelector:
    """Read a field selector; any path can be selected. Errors: BadRequest."""
    paths = _FIELD.findall(text or "")
    return parse_fields(text, {path: tuple(path.split(".")) for path in paths})


def respond(body: bytes, origin: str, *, status: int = 200, kind: str = JSON) -> Response:
    headers = {"Content-Type": kind, "Cache-Control": "no-cache, private", FROM: origin}
    return Response(status, headers, body)


def respond_json(document: JsonObject, origin: str, *, status: int = 200) -> Response:
    return respond(msgspec.json.encode(document), origin, status=status)


def respond_error(error: GatewayError) -> Response:
    """Write an error as a `Status`."""
    headers = {"Content-Type": JSON, "Cache-Control": "no-cache, private"}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="metaserver"'
    if error.status == 429:
        headers["Retry-After"] = "1"  # not so where the cloud is away: kubectl would try ten times
    return Response(error.status, headers, msgspec.json.encode(status_of(error)))


def one(
    resource: ResourceType, item: JsonObject, wanted: Wanted, query: Mapping[str, str]
) -> JsonObject:
    """Return one object in the wanted form."""
    if wanted.form == "object":
        return item
    if wanted.form == "partial":
        return partial(item, wanted.version)
    metadata: JsonObject = {"resourceVersion": metadata_of(item).get("resourceVersion", "")}
    return as_table(resource, [item], metadata, wanted, query)


def many(
    resource: ResourceType, found: Listing, wanted: Wanted, query: Mapping[str, str]
) -> JsonObject:
    """Return a list in the wanted form."""
    metadata: JsonObject = {"resourceVersion": str(found.version), **found.rest}
    if wanted.form == "table":
        return as_table(resource, list(found.items), metadata, wanted, query)
    if wanted.form == "partial":
        return {
            "kind": "PartialObjectMetadataList",
            "apiVersion": f"meta.k8s.io/{wanted.version}",
            "metadata": metadata,
            "items": [partial(item, wanted.version) for item in found.items],
        }
    return {
        "kind": resource.collection_kind,
        "apiVersion": resource.group_version,
        "metadata": metadata,
        "items": list(found.items),
    }


def partial(item: JsonObject, version: str) -> JsonObject:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata_of(item),
    }


def as_table(
    resource: ResourceType,
    items: list[JsonObject],
    metadata: JsonObject,
    wanted: Wanted,
    query: Mapping[str, str],
    *,
    with_columns: bool = True,
) -> JsonObject:
    """Return a table of objects. Errors: BadRequest for an unknown `includeObject`."""
    include = query.get("includeObject") or "Metadata"
    if include not in ("Metadata", "Object", "None"):
        raise BadRequest(f"unrecognized includeObject value: {include}")
    return tables.table(
        resource,
        items,
        metadata,
        time.time(),
        version=wanted.version,
        include=include,
        with_columns=with_columns,
    )
