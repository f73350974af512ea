"""Which kinds MetaServer shows, and how objects of the link become its records.

The link names objects by lower-case kind (`pod`), the API by plural. Kinds that a node gets anyway are known
here; the others are learnt from what the cloud sends and answers, with KubeEdge's guess for the plural.
Source: KubeEdge reference, sections 11.1 and 13.1.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edge.store import Record
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.applications import ApiKey
from gateway.wire.cloudedge.to_edge import ObjectChanged
from gateway.wire.kube.resources import Registry, ResourceType

MAX_LEARNT = 1_000
"""Kinds; beyond it unknown ones are shown under a guessed name and not remembered."""
_VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")


def _kind(
    group_version: str, plural: str, kind: str, *short: str, namespaced: bool = True
) -> ResourceType:
    group, _, version = group_version.rpartition("/")
    return ResourceType(
        group=group,
        version=version,
        plural=plural,
        singular=kind.lower(),
        kind=kind,
        namespaced=namespaced,
        short_names=short,
        verbs=_VERBS,
    )


_DEVICES = "devices.kubeedge.io/v1beta1"

KNOWN = (
    _kind("v1", "pods", "Pod", "po"),
    _kind("v1", "configmaps", "ConfigMap", "cm"),
    _kind("v1", "secrets", "Secret"),
    _kind("v1", "services", "Service", "svc"),
    _kind("v1", "endpoints", "Endpoints", "ep"),
    _kind("v1", "serviceaccounts", "ServiceAccount", "sa"),
    _kind("v1", "persistentvolumeclaims", "PersistentVolumeClaim", "pvc"),
    _kind("v1", "persistentvolumes", "PersistentVolume", "pv", namespaced=False),
    _kind("v1", "nodes", "Node", "no", namespaced=False),
    _kind("v1", "namespaces", "Namespace", "ns", namespaced=False),
    _kind("v1", "events", "Event", "ev"),
    _kind("coordination.k8s.io/v1", "leases", "Lease"),
    _kind("discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
    _kind(_DEVICES, "devices", "Device"),
    _kind(_DEVICES, "devicemodels", "DeviceModel"),
    _kind(_DEVICES, "devicestatuses", "DeviceStatus"),
    _kind("policy.kubeedge.io/v1alpha1", "serviceaccountaccesses", "ServiceAccountAccess"),
    _kind("apps.kubeedge.io/v1alpha1", "nodegroups", "NodeGroup", namespaced=False),
)

PUSHED = frozenset({"pods", "configmaps", "secrets", "devices", "devicemodels"})
"""Plurals of what the cloud brings to a node unasked: none on disk means that there is none."""


def guessed_plural(kind: str) -> str:
    """Return the plural of a kind as KubeEdge guesses it: `EndpointSlice` -> `endpointslices`."""
    word = kind.lower()
    if word.endswith("endpoints"):
        return word
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    return word[:-1] + "ies" if word.endswith("y") else word + "s"


def gvr_of(group: str, version: str, plural: str) -> str:
    """Return Go's text of a resource: `/v1, Resource=pods`."""
    return f"{group}/{version}, Resource={plural}"


def gvr_parts(gvr: str) -> tuple[str, str, str]:
    """Read `gvr_of` back: group, version, plural."""
    group_version, _, plural = gvr.partition(", Resource=")
    group, _, version = group_version.rpartition("/")
    return group, version, plural


def metadata_of(item: Json) -> JsonObject:
    """Return an object's metadata, {} where it has none."""
    metadata = item.get("metadata") if isinstance(item, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def text_of(item: JsonObject, field: str) -> str:
    value = item.get(field)
    return value if isinstance(value, str) else ""


def version_of(item: JsonObject) -> int:
    """Return an object's resourceVersion, 0 where it has no numeric one."""
    text = text_of(metadata_of(item), "resourceVersion")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0


class Kinds:
    """The kinds known so far."""

    def __init__(self) -> None:
        self.registry = Registry(KNOWN)

    def find(self, group: str, version: str, plural: str) -> ResourceType | None:
        return self.registry.find(f"{group}/{version}" if group else version, plural)

    def learn(
        self, group_version: str, kind: str, *, plural: str = "", namespaced: bool = True
    ) -> ResourceType:
        """Return a kind, and remember it where it is new."""
        known = self.registry.of_kind(group_version, kind)
        if known is not None and plural in ("", known.plural):
            return known
        made = _kind(group_version, plural or guessed_plural(kind), kind, namespaced=namespaced)
        if len(tuple(self.registry)) < MAX_LEARNT:
            if known is not None:
                self.registry.remove(group_version, known.plural)
            self.registry.add(made)
        return made

    def learn_records(self, found: Iterable[tuple[str, str]]) -> None:
        """Learn from pairs of gvr and an object's JSON text: what is on disk from earlier runs."""
        for gvr, value in found:
            _, _, plural = gvr_parts(gvr)
            item: JsonObject = msgspec.json.decode(value)
            kind, group_version = text_of(item, "kind"), text_of(item, "apiVersion")
            if kind and group_version:
                is_inside = bool(metadata_of(item).get("namespace"))
                self.learn(group_version, kind, plural=plural, namespaced=is_inside)

    def record_of(self, change: ObjectChanged) -> Record | None:
        """Return what MetaServer shows of a change on the link, None for what is no API object."""
        resource = self._kind_of(change)
        if resource is None or not change.subject.name:
            return None
        metadata = metadata_of(change.object)
        namespace = text_of(metadata, "namespace") or change.subject.namespace or ""
        return self.record(
            resource,
            {
                **change.object,
                "metadata": {
                    "name": change.subject.name,
                    **({"namespace": namespace} if namespace else {}),
                    **({"resourceVersion": change.version} if change.version else {}),
                    **metadata,
                },
            },
        )

    def _kind_of(self, change: ObjectChanged) -> ResourceType | None:
        kind, group_version = text_of(change.object, "kind"), text_of(change.object, "apiVersion")
        token = change.subject.type
        if kind and group_version and kind.lower() == token:
            is_inside = change.subject.namespace is not None
            return self.learn(group_version, kind, namespaced=is_inside)
        return next((item for item in self.registry if item.singular == token), None)

    def record(self, resource: ResourceType, item: JsonObject) -> Record:
        """Return the record of an object; its kind and version are filled in where they are missing."""
        metadata = metadata_of(item)
        name, namespace = text_of(metadata, "name"), text_of(metadata, "namespace")
        full = {"apiVersion": resource.group_version, "kind": resource.kind, **item}
        key = ApiKey(
            resource.group, resource.version, resource.plural, namespace or None, name or None
        )
        gvr = gvr_of(resource.group, resource.version, resource.plural)
        text = msgspec.json.encode(full).decode()
        return Record(str(key), gvr, namespace, name, version_of(item), text)
