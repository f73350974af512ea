"""What `kubectl get` prints of nodes, namespaces, pods, events and what pods read."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.model.json import Json, JsonObject
from gateway.wire.kube import podcells
from gateway.wire.kube.clock import age_since
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.printing.cells import (
    NONE,
    UNKNOWN,
    Printed,
    age,
    columns,
    name_of,
    word,
)
from gateway.wire.kube.resources import Column

_ROLE_PREFIX = "node-role.kubernetes.io/"


def _node(item: JsonObject, now: float) -> list[Json]:
    addresses: dict[Json, Json] = {}
    for entry in rows(part(item, "status").get("addresses")):
        addresses.setdefault(text(entry.get("type")), entry.get("address"))
    info = part(item, "status", "nodeInfo")
    return [
        name_of(item),
        node_status(item),
        _roles(item),
        age(item, now),
        text(info.get("kubeletVersion")),
        word(addresses.get("InternalIP")),
        word(addresses.get("ExternalIP")),
        word(info.get("osImage"), UNKNOWN),
        word(info.get("kernelVersion"), UNKNOWN),
        word(info.get("containerRuntimeVersion"), UNKNOWN),
    ]


def node_status(item: JsonObject) -> str:
    """`Ready`, `NotReady` or `Unknown`, with `,SchedulingDisabled` for a cordoned node."""
    states = [
        "Ready" if entry.get("status") == "True" else "NotReady"
        for entry in rows(part(item, "status").get("conditions"))
        if entry.get("type") == "Ready"
    ]
    parts = states[:1] or ["Unknown"]
    if part(item, "spec").get("unschedulable") is True:
        parts.append("SchedulingDisabled")
    return ",".join(parts)


def _roles(item: JsonObject) -> str:
    labels = part(item, "metadata", "labels")
    roles = {key.removeprefix(_ROLE_PREFIX) for key in labels if key.startswith(_ROLE_PREFIX)}
    roles.add(text(labels.get("kubernetes.io/role")))
    return ",".join(sorted(roles - {""})) or NONE


def _namespace(item: JsonObject, now: float) -> list[Json]:
    return [name_of(item), text(part(item, "status").get("phase")), age(item, now)]


def _configmap(item: JsonObject, now: float) -> list[Json]:
    size = len(part(item, "data")) + len(part(item, "binaryData"))
    return [name_of(item), size, age(item, now)]


def _secret(item: JsonObject, now: float) -> list[Json]:
    return [name_of(item), text(item.get("type")), len(part(item, "data")), age(item, now)]


def _serviceaccount(item: JsonObject, now: float) -> list[Json]:
    return [name_of(item), age(item, now)]


def _pod(item: JsonObject, now: float) -> list[Json]:
    return [
        name_of(item),
        podcells.ready_count(item),
        podcells.status_word(item),
        podcells.restarts(item, now),
        age(item, now),
        *podcells.wide_cells(item),
    ]


def _event(item: JsonObject, now: float) -> list[Json]:
    involved, series = part(item, "involvedObject"), part(item, "series")
    kind, name = text(involved.get("kind")).lower(), text(involved.get("name"))
    first = item.get("firstTimestamp") or item.get("eventTime")
    last = series.get("lastObservedTime") or item.get("lastTimestamp") or first
    return [
        age_since(last, now),
        text(item.get("type")),
        text(item.get("reason")),
        f"{kind}/{name}" if name else kind,
        text(involved.get("fieldPath")),
        _source(item),
        text(item.get("message")).strip(),
        age_since(first, now),
        series.get("count") or item.get("count") or 1,
        name_of(item),
    ]


def _source(item: JsonObject) -> str:
    source = part(item, "source")
    component = text(source.get("component")) or text(item.get("reportingComponent"))
    host = text(source.get("host")) or text(item.get("reportingInstance"))
    return f"{component}, {host}" if host else component


_NODE = (
    "Status",
    "Roles",
    "Age",
    "Version",
    "Internal-IP*",
    "External-IP*",
    "OS-Image*",
    "Kernel-Version*",
    "Container-Runtime*",
)
_POD = ("Ready", "Status", "Restarts", "Age", "IP*", "Node*", "Nominated Node*", "Readiness Gates*")
_EVENT = (
    "Last Seen",
    "Type",
    "Reason",
    "Object",
    "Subobject*",
    "Source*",
    "Message",
    "First Seen*",
    "Count*",
)
_EVENT_NAME = Column("Name", format="name", priority=1)

PRINTED: Mapping[str, Printed] = {
    "nodes": Printed(columns(*_NODE), _node),
    "namespaces": Printed(columns("Status", "Age"), _namespace),
    "configmaps": Printed(columns("Data", "Age"), _configmap),
    "secrets": Printed(columns("Type", "Data", "Age"), _secret),
    "serviceaccounts": Printed(columns("Age"), _serviceaccount),
    "pods": Printed(columns(*_POD), _pod),
    "events": Printed((*columns(*_EVENT)[1:], _EVENT_NAME), _event),
}
