"""Tables: rows that the server prints for `kubectl get`, with the columns of each kind.

Built-in kinds are printed by `gateway.wire.kube.printing`; every other kind prints by the JSONPath of its
columns. Ages are text; columns of type `date` of custom resources carry the timestamp. Source: Kubernetes
"API concepts", receiving resources as Tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import age_since
from gateway.wire.kube.jsonpath import compile_path
from gateway.wire.kube.parts import part
from gateway.wire.kube.printing import core, networking, policy, storage, workloads
from gateway.wire.kube.printing.cells import NAME, Printed
from gateway.wire.kube.resources import Column, ResourceType

_PRINTED: Mapping[str, Printed] = {
    **core.PRINTED,
    **workloads.PRINTED,
    **networking.PRINTED,
    **storage.PRINTED,
    **policy.PRINTED,
}
DEFAULT_COLUMNS = (NAME, Column("Age", "date", ".metadata.creationTimestamp"))


def columns_of(resource: ResourceType) -> tuple[Column, ...]:
    """The columns that a kind prints; the name comes first for custom resources."""
    own = _PRINTED.get(resource.storage_key)
    if own is not None:
        return own.columns
    return (NAME, *resource.columns) if resource.columns else DEFAULT_COLUMNS


def table(
    resource: ResourceType,
    items: Iterable[JsonObject],
    metadata: JsonObject,
    now: float,
    *,
    version: str = "v1",
    include: str = "Metadata",
    with_columns: bool = True,
) -> JsonObject:
    """Print objects as a `Table`.

    Shape:  `include` is `Metadata`, `Object` or `None`; a watch leaves the columns out after its first event.
    """
    columns = columns_of(resource)
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata,
        "columnDefinitions": [_definition(column) for column in columns] if with_columns else None,
        "rows": [_row(resource, columns, item, now, version, include) for item in items],
    }


def _definition(column: Column) -> JsonObject:
    return {
        "name": column.name,
        "type": column.type,
        "format": column.format,
        "description": column.description or f"{column.name} of the object",
        "priority": column.priority,
    }


def _row(
    resource: ResourceType,
    columns: tuple[Column, ...],
    item: JsonObject,
    now: float,
    version: str,
    include: str,
) -> JsonObject:
    row: JsonObject = {"cells": _cells(resource, columns, item, now)}
    if include == "Object":
        row["object"] = item
    elif include == "Metadata":
        row["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": f"meta.k8s.io/{version}",
            "metadata": item.get("metadata", {}),
        }
    else:
        row["object"] = None
    return row


def _cells(
    resource: ResourceType, columns: tuple[Column, ...], item: JsonObject, now: float
) -> list[Json]:
    printed = _PRINTED.get(resource.storage_key)
    if printed is None:
        return [_cell(column, item, now) for column in columns]
    return printed.cells(item if resource.view is None else resource.view.kept(item), now)


# --- cells by path --------------------------------------------------------------------------------

_compiled = lru_cache(maxsize=1_024)(compile_path)


def _cell(column: Column, item: JsonObject, now: float) -> Json:
    if column.format == "name" and not column.path:
        return part(item, "metadata").get("name")
    found = _compiled(column.path)(item)
    if not found:
        return None
    value = found[0]
    if column.type == "date":
        return age_since(value, now)
    if column.type == "string" and not isinstance(value, str):
        return (
            None if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        )
    return value
