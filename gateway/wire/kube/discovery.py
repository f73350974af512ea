"""Discovery documents: which groups, versions and kinds there are, plain and aggregated."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.resources import Registry, ResourceType, Subresource

AGGREGATED_VERSIONS = ("v2", "v2beta1")


def api_versions(address: str) -> JsonObject:
    """`/api`"""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def groups(registry: Registry) -> dict[str, list[str]]:
    """Named groups and their versions, in order of appearance."""
    found: dict[str, list[str]] = {}
    for item in registry:
        if item.group and item.version not in found.setdefault(item.group, []):
            found[item.group].append(item.version)
    return found


def api_group_list(registry: Registry) -> JsonObject:
    """`/apis`"""
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(name, versions) for name, versions in groups(registry).items()],
    }


def api_group(registry: Registry, name: str) -> JsonObject | None:
    """`/apis/GROUP`; None when there is no such group."""
    versions = groups(registry).get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if versions else None


def _group(name: str, versions: list[str]) -> JsonObject:
    rows: list[Json] = [
        {"groupVersion": f"{name}/{version}", "version": version} for version in versions
    ]
    return {"name": name, "versions": rows, "preferredVersion": rows[0]}


def api_resource_list(registry: Registry, group_version: str) -> JsonObject | None:
    """`/api/v1`, `/apis/GROUP/VERSION`; None when it is not served."""
    rows: list[Json] = []
    for item in registry:
        if item.group_version == group_version:
            rows.append(_plain(item))
            rows += [_plain_sub(item, sub) for sub in item.subresources]
    if not rows:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": rows,
    }


def _plain(item: ResourceType) -> JsonObject:
    row: JsonObject = {
        "name": item.plural,
        "singularName": item.singular,
        "namespaced": item.namespaced,
        "kind": item.kind,
        "verbs": list(item.verbs),
    }
    return row | _optional(item)


def _optional(item: ResourceType) -> JsonObject:
    row: JsonObject = {}
    if item.short_names:
        row["shortNames"] = list(item.short_names)
    if item.categories:
        row["categories"] = list(item.categories)
    return row


def _plain_sub(item: ResourceType, sub: Subresource) -> JsonObject:
    row: JsonObject = {
        "name": f"{item.plural}/{sub.name}",
        "singularName": "",
        "namespaced": item.namespaced,
        "kind": sub.kind,
        "verbs": list(sub.verbs),
    }
    if sub.group:
        row |= {"group": sub.group, "version": sub.version}
    return row


def aggregated(registry: Registry, version: str, *, core: bool) -> JsonObject:
    """`/api` (core) and `/apis` in the form that newer clients ask for."""
    names = [""] if core else list(groups(registry))
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": [_aggregated_group(registry, name) for name in names],
    }


def _aggregated_group(registry: Registry, name: str) -> JsonObject:
    items = [item for item in registry if item.group == name]
    versions = dict.fromkeys(item.version for item in items)
    return {
        "metadata": {"name": name} if name else {},
        "versions": [
            _aggregated_version(version, (item for item in items if item.version == version))
            for version in versions
        ],
    }


def _aggregated_version(version: str, items: Iterable[ResourceType]) -> JsonObject:
    return {
        "version": version,
        "resources": [_aggregated_resource(item) for item in items],
        "freshness": "Current",
    }


def _aggregated_resource(item: ResourceType) -> JsonObject:
    row: JsonObject = {
        "resource": item.plural,
        "responseKind": {"group": item.group, "version": item.version, "kind": item.kind},
        "scope": "Namespaced" if item.namespaced else "Cluster",
        "singularResource": item.singular,
        "verbs": list(item.verbs),
    }
    row |= _optional(item)
    if item.subresources:
        row["subresources"] = [
            {
                "subresource": sub.name,
                "responseKind": {
                    "group": sub.group or item.group,
                    "version": sub.version or item.version,
                    "kind": sub.kind,
                },
                "verbs": list(sub.verbs),
            }
            for sub in item.subresources
        ]
    return row
