"""The roles and bindings that a cluster starts with: made when absent, brought up to date at each start.

As Kubernetes does it: what is missing is added, what somebody added stays; the annotation
`rbac.authorization.kubernetes.io/autoupdate: "false"` on an object keeps us away from it. What is already as
it shall be costs no write. Source: Kubernetes "Default roles and role bindings".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from importlib import resources

import msgspec

from gateway.kube.admission import WriteOptions
from gateway.kube.client import PatchType
from gateway.kube.objects import Objects
from gateway.kube.rbac import GROUP
from gateway.kube.strategies import table
from gateway.kube.watch import Key
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.status import AlreadyExists

GROUP_VERSION = f"{GROUP}/v1"
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
BOOTSTRAPPING = {"kubernetes.io/bootstrapping": "rbac-defaults"}
WRITER = WriteOptions(manager="kube-apiserver", validation="Ignore")
_PLURALS = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles",
    "RoleBinding": "rolebindings",
}
_LISTS = ("rules", "subjects")


def policy() -> Iterator[JsonObject]:
    """Yield the objects as they shall be."""
    data = (resources.files("gateway.kube.data") / "policy.json").read_bytes()
    entries: list[JsonObject] = msgspec.json.decode(data)
    for entry in entries:
        metadata: JsonObject = {
            "name": entry["name"],
            "labels": {**BOOTSTRAPPING, **table(entry, "labels")},
            "annotations": {AUTOUPDATE: "true"},
        }
        if "namespace" in entry:
            metadata["namespace"] = entry["namespace"]
        parts = {
            key: value
            for key, value in entry.items()
            if key in ("rules", "subjects", "roleRef", "aggregationRule")
        }
        yield {"apiVersion": GROUP_VERSION, "kind": entry["kind"], "metadata": metadata, **parts}


async def install_policy(objects: Objects) -> int:
    """Make sure of the policy; return how many objects were written.

    Writes go side by side, so that they share commits. Roles of namespaces that are not there are left out.
    """
    writes = [write for wanted in policy() if (write := _write(objects, wanted)) is not None]
    async with asyncio.TaskGroup() as group:
        for write in writes:
            group.create_task(write())
    return len(writes)


def _write(
    objects: Objects, wanted: JsonObject
) -> Callable[[], Coroutine[None, None, None]] | None:
    """Return what brings one object up to date, None where it is."""
    plural = _PLURALS[str(wanted["kind"])]
    metadata = table(wanted, "metadata")
    namespace, name = str(metadata.get("namespace") or ""), str(metadata["name"])
    stored = objects.storage.get(Key(f"{plural}.{GROUP}", namespace, name))
    if stored is None:
        is_there = not namespace or objects.storage.get(Key("namespaces", "", namespace))
        return partial(_create, objects, plural, wanted) if is_there else None
    patch = difference(stored.object, wanted)
    if patch is None:
        return None
    return partial(_patch, objects, plural, (namespace, name), patch)


async def _create(objects: Objects, plural: str, wanted: JsonObject) -> None:
    resource = objects.resource(GROUP_VERSION, plural)
    namespace = str(table(wanted, "metadata").get("namespace") or "")
    try:
        await objects.create(resource, namespace or None, wanted, WRITER)
    except AlreadyExists:
        return  # somebody was first; the next start looks again


async def _patch(objects: Objects, plural: str, place: tuple[str, str], patch: JsonObject) -> None:
    namespace, name = place
    resource = objects.resource(GROUP_VERSION, plural)
    await objects.patch(resource, namespace or None, name, patch, PatchType.MERGE, WRITER)


def difference(held: JsonObject, wanted: JsonObject) -> JsonObject | None:
    """Return the merge patch that adds what is missing; None where nothing is, or nobody wants it.

    A binding to another role is somebody's own: it is left alone.
    """
    annotations = table(table(held, "metadata"), "annotations")
    if annotations.get(AUTOUPDATE) == "false" or held.get("roleRef") != wanted.get("roleRef"):
        return None
    patch: JsonObject = {}
    for part in _LISTS:
        has, needs = _entries(held.get(part)), _entries(wanted.get(part))
        lacking = [each for each in needs if _plain(each) not in map(_plain, has)]
        if lacking and "aggregationRule" not in wanted:
            patch[part] = [*has, *lacking]
    if "aggregationRule" in wanted and held.get("aggregationRule") != wanted["aggregationRule"]:
        patch["aggregationRule"] = wanted["aggregationRule"]
    words: JsonObject = {
        part: missing
        for part in ("labels", "annotations")
        if (missing := _missing(table(table(held, "metadata"), part), wanted, part))
    }
    if words:
        patch["metadata"] = words
    return patch or None


def _missing(held: Mapping[str, Json], wanted: JsonObject, part: str) -> JsonObject:
    needs = table(table(wanted, "metadata"), part)
    return {key: value for key, value in needs.items() if held.get(key) != value}


def _entries(value: Json) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _plain(entry: JsonObject) -> JsonObject:
    """An entry without what is empty: objects leave that out in different ways."""
    return {key: value for key, value in entry.items() if value not in ("", [], None)}
