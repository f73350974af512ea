"""Tables: rows that the server prints for `kubectl get`, with the columns of each kind.

Built-in kinds have cell functions here, keyed by storage key; every other kind prints by the JSONPath of its
columns. Ages are text; columns of type `date` of custom resources carry the timestamp. Source: Kubernetes
"API concepts", receiving resources as Tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TypeAlias

from gateway.model.json import Json, JsonObject
from gateway.wire.kube import podcells
from gateway.wire.kube.clock import age_since
from gateway.wire.kube.jsonpath import compile_path
from gateway.wire.kube.resources import Column, ResourceType

NONE = "<none>"

Cells: TypeAlias = "Callable[[JsonObject, float], list[Json]]"

AGE = Column("Age")
NAME = Column("Name", format="name")


def wide(name: str) -> Column:
    return Column(name, priority=1)


COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "nodes": (
        NAME,
        Column("Status"),
        Column("Roles"),
        AGE,
        Column("Version"),
        *map(
            wide, ("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime")
        ),
    ),
    "namespaces": (NAME, Column("Status"), AGE),
    "configmaps": (NAME, Column("Data", "integer"), AGE),
    "secrets": (NAME, Column("Type"), Column("Data", "integer"), AGE),
    "serviceaccounts": (NAME, AGE),
    "pods": (
        NAME,
        Column("Ready"),
        Column("Status"),
        Column("Restarts"),
        AGE,
        *map(wide, ("IP", "Node", "Nominated Node", "Readiness Gates")),
    ),
    "events": (
        Column("Last Seen"),
        Column("Type"),
        Column("Reason"),
        Column("Object"),
        wide("Subobject"),
        wide("Source"),
        Column("Message"),
        wide("First Seen"),
        wide("Count"),
        Column("Name", format="name", priority=1),
    ),
    "leases.coordination.k8s.io": (NAME, Column("Holder"), AGE),
    "customresourcedefinitions.apiextensions.k8s.io": (NAME, Column("Created At", "date")),
}

DEFAULT_COLUMNS = (NAME, Column("Age", "date", ".metadata.creationTimestamp"))


def columns_of(resource: ResourceType) -> tuple[Column, ...]:
    """The columns that a kind prints; the name comes first for custom resources."""
    own = COLUMNS.get(resource.storage_key)
    if own is not None:
        return own
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
        "columnDefinitions": [_definition(column) for column in columns] if with_columns else [],
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
    cells = CELLS.get(resource.storage_key)
    row: JsonObject = {
        "cells": cells(item, now) if cells else [_cell(column, item, now) for column in columns]
    }
    if include == "Object":
        row["object"] = item
    elif include == "Metadata":
        row["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": f"meta.k8s.io/{version}",
            "metadata": item.get("metadata", {}),
        }
    return row


# --- cells by path --------------------------------------------------------------------------------

_compiled = lru_cache(maxsize=1_024)(compile_path)


def _cell(column: Column, item: JsonObject, now: float) -> Json:
    if column.format == "name" and not column.path:
        return dig(item, "metadata", "name")
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


def dig(item: Json, *path: str) -> Json:
    """The value at a path; None where there is none."""
    for step in path:
        if not isinstance(item, dict):
            return None
        item = item.get(step)
    return item


def _text(item: Json, *path: str, default: str = NONE) -> str:
    value = dig(item, *path)
    return str(value) if value not in (None, "") else default


def _name(item: JsonObject) -> str:
    return _text(item, "metadata", "name", default="")


def _age(item: JsonObject, now: float) -> str:
    return age_since(dig(item, "metadata", "creationTimestamp"), now)


def _items(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _size(value: Json) -> int:
    return len(value) if isinstance(value, (dict, list)) else 0


# --- cells of built-in kinds ------------------------------------------------------------------------

_ROLE_PREFIX = "node-role.kubernetes.io/"


def _node(item: JsonObject, now: float) -> list[Json]:
    addresses = {
        _text(entry, "type"): _text(entry, "address")
        for entry in _items(dig(item, "status", "addresses"))
    }
    info = dig(item, "status", "nodeInfo")
    return [
        _name(item),
        node_status(item),
        _roles(item),
        _age(item, now),
        _text(info, "kubeletVersion", default=""),
        addresses.get("InternalIP", NONE),
        addresses.get("ExternalIP", NONE),
        _text(info, "osImage", default="<unknown>"),
        _text(info, "kernelVersion", default="<unknown>"),
        _text(info, "containerRuntimeVersion", default="<unknown>"),
    ]


def node_status(item: JsonObject) -> str:
    """`Ready`, `NotReady` or `Unknown`, with `,SchedulingDisabled` for a cordoned node."""
    words = {"True": "Ready", "False": "NotReady", "Unknown": "NotReady"}
    states = [
        words.get(_text(entry, "status"), "NotReady")
        for entry in _items(dig(item, "status", "conditions"))
        if _text(entry, "type") == "Ready"
    ]
    parts = states[:1] or ["Unknown"]
    if dig(item, "spec", "unschedulable") is True:
        parts.append("SchedulingDisabled")
    return ",".join(parts)


def _roles(item: JsonObject) -> str:
    labels = dig(item, "metadata", "labels")
    table_ = labels if isinstance(labels, dict) else {}
    roles = {key.removeprefix(_ROLE_PREFIX) for key in table_ if key.startswith(_ROLE_PREFIX)}
    old = table_.get("kubernetes.io/role")
    if isinstance(old, str) and old:
        roles.add(old)
    return ",".join(sorted(roles - {""})) or NONE


def _namespace(item: JsonObject, now: float) -> list[Json]:
    return [_name(item), _text(item, "status", "phase", default=""), _age(item, now)]


def _configmap(item: JsonObject, now: float) -> list[Json]:
    return [_name(item), _size(item.get("data")) + _size(item.get("binaryData")), _age(item, now)]


def _secret(item: JsonObject, now: float) -> list[Json]:
    return [_name(item), _text(item, "type", default=""), _size(item.get("data")), _age(item, now)]


def _serviceaccount(item: JsonObject, now: float) -> list[Json]:
    return [_name(item), _age(item, now)]


def _lease(item: JsonObject, now: float) -> list[Json]:
    return [_name(item), _text(item, "spec", "holderIdentity", default=""), _age(item, now)]


def _crd(item: JsonObject, _now: float) -> list[Json]:
    return [_name(item), dig(item, "metadata", "creationTimestamp")]


def _event(item: JsonObject, now: float) -> list[Json]:
    involved = item.get("involvedObject")
    subject = f"{_text(involved, 'kind', default='').lower()}/{_text(involved, 'name', default='')}"
    return [
        _interval(item, now, "lastTimestamp"),
        _text(item, "type", default=""),
        _text(item, "reason", default=""),
        subject,
        _text(involved, "fieldPath", default=""),
        _source(item),
        _text(item, "message", default="").strip(),
        _interval(item, now, "firstTimestamp"),
        dig(item, "series", "count") or item.get("count") or 1,
        _name(item),
    ]


def _interval(item: JsonObject, now: float, field: str) -> str:
    series = dig(item, "series", "lastObservedTime") if field == "lastTimestamp" else None
    return age_since(series or item.get(field) or item.get("eventTime"), now)


def _source(item: JsonObject) -> str:
    component = _text(item, "source", "component", default="") or _text(
        item, "reportingComponent", default=""
    )
    host = _text(item, "source", "host", default="") or _text(item, "reportingInstance", default="")
    return f"{component}, {host}" if host else component


def _pod(item: JsonObject, now: float) -> list[Json]:
    return [
        _name(item),
        podcells.ready_count(item),
        podcells.status_word(item),
        podcells.restarts(item),
        _age(item, now),
        *podcells.wide_cells(item),
    ]


CELLS: Mapping[str, Cells] = {
    "pods": _pod,
    "nodes": _node,
    "namespaces": _namespace,
    "configmaps": _configmap,
    "secrets": _secret,
    "serviceaccounts": _serviceaccount,
    "events": _event,
    "leases.coordination.k8s.io": _lease,
    "customresourcedefinitions.apiextensions.k8s.io": _crd,
}
