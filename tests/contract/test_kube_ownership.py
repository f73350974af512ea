"""Who owns which field over the verbs of the API, as kube-apiserver 1.36 was seen to say it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import BadRequest, Conflict
from gateway.kube.admission import WriteOptions
from gateway.kube.client import PatchType
from gateway.model.json import Json, JsonObject
from tests.kube_server import KubeServer, kube_server

LAST = "kubectl.kubernetes.io/last-applied-configuration"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path) as running:
        yield running


def configmap(data: JsonObject, **metadata: Json) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", **metadata},
        "data": data,
    }


async def create(
    server: KubeServer, who: str, item: JsonObject, plural: str = "configmaps"
) -> JsonObject:
    objects = server.api.objects
    kind = objects.resource("v1", plural)
    place = "default" if kind.namespaced else None
    return (await objects.create(kind, place, item, WriteOptions(manager=who))).stored.object


async def patch(
    server: KubeServer, who: str, item: JsonObject, how: PatchType, *, force: bool = False
) -> JsonObject:
    objects = server.api.objects
    kind = objects.resource("v1", "configmaps")
    options = WriteOptions(manager=who, force=force)
    return (await objects.patch(kind, "default", "c", item, how, options)).stored.object


async def apply(
    server: KubeServer, who: str, item: JsonObject, *, force: bool = False
) -> JsonObject:
    return await patch(server, who, item, PatchType.APPLY, force=force)


def owners(item: JsonObject) -> dict[str, Json]:
    """Manager and operation to what they own."""
    metadata = item["metadata"]
    assert isinstance(metadata, dict)
    entries = metadata.get("managedFields") or []
    assert isinstance(entries, list)
    return {
        f"{entry['manager']} {entry['operation']}": entry["fieldsV1"]
        for entry in entries
        if isinstance(entry, dict)
    }


async def test_a_conflict_names_each_field_and_whose_it_is(server: KubeServer) -> None:
    await create(server, "eve", configmap({"a": "1"}))
    await apply(server, "ann", configmap({"b": "1"}))
    with pytest.raises(Conflict) as refused:
        await apply(server, "bob", configmap({"a": "2", "b": "2"}))
    assert refused.value.message == (
        'Apply failed with 2 conflicts: conflicts with "ann":\n- .data.b\n'
        'conflicts with "eve" using v1:\n- .data.a'
    )
    taken = await apply(server, "bob", configmap({"a": "2", "b": "2"}), force=True)
    assert owners(taken) == {
        "bob Apply": {"f:data": {"f:a": {}, "f:b": {}}},
        "eve Update": {"f:data": {}},
    }


async def test_what_nobody_was_known_to_own_has_an_entry_before_the_first_apply(
    server: KubeServer,
) -> None:
    await create(server, "eve", configmap({"a": "1"}))
    reset = await patch(server, "eve", {"metadata": {"managedFields": [{}]}}, PatchType.MERGE)
    assert owners(reset) == {}
    changed = await patch(server, "eve", {"data": {"a": "2"}}, PatchType.MERGE)
    assert owners(changed) == {}, "an object that was reset is not followed"
    applied = await apply(server, "ann", configmap({"b": "1"}))
    assert owners(applied) == {
        "ann Apply": {"f:data": {"f:b": {}}},
        "before-first-apply Update": {"f:data": {".": {}, "f:a": {}}},
    }


async def test_kubectl_takes_over_what_it_applied_from_the_client_side(server: KubeServer) -> None:
    last = json.dumps(configmap({"a": "1"}))
    await create(
        server, "kubectl-client-side-apply", configmap({"a": "1"}, annotations={LAST: last})
    )
    taken = await apply(server, "kubectl", configmap({"a": "2"}, namespace="default"))
    assert taken["data"] == {"a": "2"}
    metadata = taken["metadata"]
    assert isinstance(metadata, dict)
    assert isinstance(metadata["annotations"], dict)
    assert json.loads(str(metadata["annotations"][LAST])) == configmap(
        {"a": "2"}, namespace="default"
    )
    with pytest.raises(Conflict):
        await apply(server, "ann", configmap({"a": "3"}))


async def test_an_applied_configuration_does_not_speak_of_ownership(server: KubeServer) -> None:
    with pytest.raises(BadRequest, match=r"metadata\.managedFields must be nil"):
        await apply(server, "ann", configmap({}, managedFields=[]))


async def test_what_the_server_gives_a_new_object_has_no_owner(server: KubeServer) -> None:
    made = await create(server, "ann", {"metadata": {"name": "n"}}, "namespaces")
    assert made["spec"] == {"finalizers": ["kubernetes"]}
    assert owners(made) == {
        "ann Update": {"f:metadata": {"f:labels": {".": {}, "f:kubernetes.io/metadata.name": {}}}}
    }


async def test_a_file_of_everything_empty_is_kept_without_its_empty_parts(
    server: KubeServer,
) -> None:
    made = await create(server, "ann", {**configmap({}, labels={}), "immutable": False})
    assert "data" not in made
    assert made["immutable"] is False, "a pointer keeps its zero"
