"""What the client port promises, in process and over HTTPS."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config.kube import Kube, KubeHttps
from gateway.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    MethodNotAllowed,
    NotFound,
    Unprocessable,
)
from gateway.kube.bodies import delete_options
from gateway.kube.client import EventType, KubeClient, PatchType
from gateway.kube.remote import connect
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.status import AlreadyExists
from tests.cloud_rig import eventually
from tests.kube_server import KubeServer, kube_server

DEVICES = ("devices.kubeedge.io/v1beta1", "devices")
STATUSES = ("devices.kubeedge.io/v1beta1", "devicestatuses")
SYNCS = ("reliablesyncs.kubeedge.io/v1alpha1", "objectsyncs")
LEASES = ("coordination.k8s.io/v1", "leases")


def a_device(name: str = "lamp", node: str = "edge-1") -> JsonObject:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": name},
        "spec": {"nodeName": node, "properties": [{"name": "on", "desired": {"value": "false"}}]},
    }


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path) as running:
        yield running


@pytest.fixture(params=["local", "remote"])
async def client(request: pytest.FixtureRequest, server: KubeServer) -> AsyncIterator[KubeClient]:
    if request.param == "local":
        yield server.api.client("tester")
        return
    async with connect(server.kubeconfig, manager="tester") as remote:
        yield remote


def meta(item: JsonObject) -> Any:
    return item["metadata"]


async def test_an_object_is_made_read_changed_and_deleted(client: KubeClient) -> None:
    made = await client.create(*DEVICES, "default", a_device())
    assert meta(made)["generation"] == 1
    assert meta(made)["namespace"] == "default"
    assert await client.get(*DEVICES, "default", "lamp") == made
    wanted = copy.deepcopy(made)
    wanted["spec"]["nodeName"] = "edge-2"  # type: ignore[index,call-overload]  # a device's form
    changed = await client.update(*DEVICES, "default", wanted)
    assert meta(changed)["generation"] == 2
    assert int(meta(changed)["resourceVersion"]) > int(meta(made)["resourceVersion"])
    assert meta(changed)["uid"] == meta(made)["uid"]
    with pytest.raises(Conflict):
        await client.update(*DEVICES, "default", made)
    await client.delete(*DEVICES, "default", "lamp")
    with pytest.raises(NotFound):
        await client.get(*DEVICES, "default", "lamp")


async def test_errors_have_classes(client: KubeClient) -> None:
    await client.create(*DEVICES, "default", a_device())
    with pytest.raises(AlreadyExists):
        await client.create(*DEVICES, "default", a_device())
    with pytest.raises(NotFound, match='namespaces "no" not found'):
        await client.create(*DEVICES, "no", a_device())
    with pytest.raises(NotFound):
        await client.get("x/v1", "y", None, "z")
    with pytest.raises(Unprocessable, match=r"spec\.nodeName"):
        await client.create(*DEVICES, "default", {**a_device("b"), "spec": {"nodeName": 5}})
    with pytest.raises(BadRequest):
        await client.get(*DEVICES, None, "lamp")
    with pytest.raises(MethodNotAllowed):
        await client.update(
            "authentication.k8s.io/v1", "selfsubjectreviews", None, {"metadata": {"name": "me"}}
        )
    with pytest.raises(Conflict, match="UID in the precondition"):
        await client.delete(*DEVICES, "default", "lamp", uid="other")
    with pytest.raises(Conflict):
        await client.delete(*DEVICES, "default", "lamp", resource_version="1")


async def test_patches_of_every_kind(client: KubeClient) -> None:
    made = await client.create(*DEVICES, "default", a_device())
    same = await client.patch(*DEVICES, "default", "lamp", {"spec": {"nodeName": "edge-1"}})
    assert same == made
    operations: list[Any] = [
        {"op": "test", "path": "/spec/properties/0/name", "value": "on"},
        {"op": "replace", "path": "/spec/properties/0/desired", "value": {"value": "true"}},
    ]
    patched = await client.patch(*DEVICES, "default", "lamp", operations, patch_type=PatchType.JSON)
    assert patched["spec"]["properties"][0]["desired"] == {"value": "true"}  # type: ignore[index,call-overload]
    stale: JsonObject = {
        "metadata": {"resourceVersion": meta(made)["resourceVersion"]},
        "spec": {"nodeName": "x"},
    }
    with pytest.raises(Conflict):
        await client.patch(*DEVICES, "default", "lamp", stale)
    node: JsonObject = {"metadata": {"name": "n"}}
    await client.create("v1", "nodes", None, node)
    ready: JsonObject = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    low: JsonObject = {"status": {"conditions": [{"type": "DiskPressure", "status": "True"}]}}
    for patch in (ready, low):
        found = await client.patch(
            "v1", "nodes", None, "n", patch, patch_type=PatchType.STRATEGIC, subresource="status"
        )
    assert len(found["status"]["conditions"]) == 2  # type: ignore[index,call-overload,arg-type]  # a node's form


async def test_patches_at_the_same_time_all_count(client: KubeClient) -> None:
    await client.create("v1", "configmaps", "default", {"metadata": {"name": "c"}, "data": {}})
    await asyncio.gather(
        *(
            client.patch("v1", "configmaps", "default", "c", {"data": {f"k{number}": "v"}})
            for number in range(6)
        )
    )
    found = await client.get("v1", "configmaps", "default", "c")
    assert found["data"] == {f"k{number}": "v" for number in range(6)}


async def test_status_and_spec_have_doors_of_their_own(client: KubeClient) -> None:
    body: JsonObject = {
        "apiVersion": SYNCS[0],
        "kind": "ObjectSync",
        "metadata": {"name": "n.u"},
        "spec": {"objectKind": "Pod"},
        "status": {"objectResourceVersion": "9"},
    }
    made = await client.create(*SYNCS, "default", body)
    assert "status" not in made
    told = await client.patch(
        *SYNCS,
        "default",
        "n.u",
        {"status": {"objectResourceVersion": "5"}, "spec": None},
        subresource="status",
    )
    assert told["status"] == {"objectResourceVersion": "5"}
    assert told["spec"] == {"objectKind": "Pod"}
    assert meta(told)["generation"] == 1
    changed = await client.update(
        *SYNCS, "default", {**told, "spec": {"objectKind": "Node"}, "status": {}}
    )
    assert changed["status"] == {"objectResourceVersion": "5"}
    assert meta(changed)["generation"] == 2
    with pytest.raises(NotFound):
        await client.patch(*DEVICES, "default", "x", {}, subresource="status")


async def test_a_list_can_be_selected_and_paged(client: KubeClient) -> None:
    for number in range(5):
        device = a_device(f"d{number}")
        meta(device)["labels"] = {"even": str(number % 2 == 0).lower()}
        await client.create(*DEVICES, "default", device)
    whole = await client.list(*DEVICES)
    assert len(whole.items) == 5
    even = await client.list(*DEVICES, "default", labels="even=true")
    assert [meta(item)["name"] for item in even.items] == ["d0", "d2", "d4"]
    named = await client.list(*DEVICES, fields="metadata.name=d3")
    assert [meta(item)["name"] for item in named.items] == ["d3"]
    first = await client.list(*DEVICES, limit=3)
    assert first.next_page is not None
    await client.delete(*DEVICES, "default", "d4")
    rest = await client.list(*DEVICES, limit=3, page=first.next_page)
    assert [meta(item)["name"] for item in rest.items] == ["d3", "d4"]
    assert rest.next_page is None
    assert (await client.list(*DEVICES, "kubeedge")).items == []


async def test_a_page_still_shows_what_its_last_finalizer_left_meanwhile(
    client: KubeClient,
) -> None:
    for name in "ab":
        held = a_device(name)
        meta(held)["finalizers"] = ["twinspan.io/hold"]
        await client.create(*DEVICES, "default", held)
    first = await client.list(*DEVICES, limit=1)
    await client.delete(*DEVICES, "default", "b")
    await client.patch(*DEVICES, "default", "b", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        await client.get(*DEVICES, "default", "b")
    rest = await client.list(*DEVICES, limit=1, page=first.next_page)
    assert [meta(item)["finalizers"] for item in rest.items] == [["twinspan.io/hold"]]


def without_managed_fields(item: JsonObject) -> JsonObject:
    """Lists and watches may leave them out."""
    return {**item, "metadata": {k: v for k, v in meta(item).items() if k != "managedFields"}}


async def test_a_watch_tells_what_was_and_what_happens(client: KubeClient) -> None:
    made = await client.create(*DEVICES, "default", a_device())
    watch = client.watch(*DEVICES, "default")
    event = await anext(watch)
    assert event.type is EventType.ADDED
    assert without_managed_fields(event.object) == without_managed_fields(made)
    mark = await anext(watch)
    assert mark.type is EventType.BOOKMARK
    await client.patch(*DEVICES, "default", "lamp", {"spec": {"nodeName": "x"}})
    await client.delete(*DEVICES, "default", "lamp")
    assert [(await anext(watch)).type for _ in range(2)] == [EventType.MODIFIED, EventType.DELETED]
    resumed = client.watch(*DEVICES, resource_version=mark.resource_version)
    assert [(await anext(resumed)).type for _ in range(2)] == [
        EventType.MODIFIED,
        EventType.DELETED,
    ]


async def test_a_watch_from_a_lost_point_is_gone(tmp_path: Path) -> None:
    settings = Kube(https=KubeHttps(bind="127.0.0.1:0"), watch_window=2)
    async with kube_server(tmp_path, settings) as server:
        client = server.api.client("t")
        for name in "abc":
            await client.create(*DEVICES, "default", a_device(name))
        with pytest.raises(Gone):
            await anext(client.watch(*DEVICES, resource_version="1"))
        with pytest.raises(BadRequest):
            await anext(client.watch(*DEVICES, resource_version="x"))


async def test_generated_names_differ(client: KubeClient) -> None:
    body: JsonObject = {"metadata": {"generateName": "c-"}}
    names = {
        meta(await client.create("v1", "configmaps", "default", body))["name"] for _ in range(3)
    }
    assert len(names) == 3
    assert all(name.startswith("c-") and len(name) == 7 for name in names)


async def test_secrets_fold_plain_text_and_keep_their_type(client: KubeClient) -> None:
    body: JsonObject = {"metadata": {"name": "s"}, "stringData": {"a": "hidden"}}
    made = await client.create("v1", "secrets", "default", body)
    assert (made["type"], made["data"]) == ("Opaque", {"a": "aGlkZGVu"})
    assert "stringData" not in made
    with pytest.raises(Unprocessable, match="field is immutable"):
        await client.patch("v1", "secrets", "default", "s", {"type": "other"})
    await client.patch("v1", "secrets", "default", "s", {"immutable": True})
    with pytest.raises(Unprocessable, match="immutable"):
        await client.patch("v1", "secrets", "default", "s", {"data": {"a": "YQ=="}})
    with pytest.raises(BadRequest, match="illegal base64"):
        await client.create(
            "v1", "secrets", "default", {"metadata": {"name": "t"}, "data": {"a": "%"}}
        )


@pytest.mark.parametrize(
    ("plural", "body", "said"),
    [
        (LEASES, {"spec": {"leaseDurationSeconds": 0}}, "must be greater than 0"),
        (LEASES, {"spec": {"leaseTransitions": -1}}, "must be greater than or equal to 0"),
        (("v1", "configmaps"), {"data": {"a/b": ""}}, "a valid config key"),
        (
            ("v1", "events"),
            {"involvedObject": {"namespace": "other"}},
            "does not match event.namespace",
        ),
    ],
)
async def test_built_in_kinds_have_rules_of_their_own(
    client: KubeClient, plural: tuple[str, str], body: JsonObject, said: str
) -> None:
    with pytest.raises(Unprocessable, match=said):
        await client.create(*plural, "default", {"metadata": {"name": "x"}, **body})


async def test_a_namespace_gets_its_account_and_goes_with_all_it_has(client: KubeClient) -> None:
    await client.create("v1", "namespaces", None, {"metadata": {"name": "plant"}})
    watch = client.watch("v1", "configmaps", "plant")
    async with asyncio.timeout(10):
        async for event in watch:
            if event.type is EventType.ADDED:
                break
    held = a_device()
    meta(held)["finalizers"] = ["twinspan.io/hold"]
    await client.create(*DEVICES, "plant", held)
    goes = client.watch(
        "v1", "namespaces", None, fields="metadata.name=plant", resource_version="0"
    )
    await client.delete("v1", "namespaces", None, "plant")
    ends = await client.get("v1", "namespaces", None, "plant")
    assert ends["status"] == {"phase": "Terminating"}
    await client.patch(*DEVICES, "plant", "lamp", {"metadata": {"finalizers": None}})
    async with asyncio.timeout(10):
        async for event in goes:
            if event.type is EventType.DELETED:
                break
    assert (await client.list(*DEVICES, "plant")).items == []


async def test_a_terminating_namespace_takes_nothing_new(client: KubeClient) -> None:
    await client.create("v1", "namespaces", None, {"metadata": {"name": "plant"}})
    held = a_device()
    meta(held)["finalizers"] = ["twinspan.io/hold"]
    await client.create(*DEVICES, "plant", held)
    await client.delete("v1", "namespaces", None, "plant")
    with pytest.raises(Exception, match="because it is being terminated"):
        await client.create(*DEVICES, "plant", a_device("late"))


async def test_dependents_follow_unless_another_owner_lives(client: KubeClient) -> None:
    owners = [await client.create(*DEVICES, "default", a_device(name)) for name in ("a", "b")]
    references: list[Any] = [
        {
            "apiVersion": DEVICES[0],
            "kind": "Device",
            "name": meta(owner)["name"],
            "uid": meta(owner)["uid"],
        }
        for owner in owners
    ]
    for name, of in (("both", references), ("one", references[:1])):
        metadata: JsonObject = {"name": name, "ownerReferences": of}
        body: JsonObject = {
            "apiVersion": STATUSES[0],
            "kind": "DeviceStatus",
            "metadata": metadata,
        }
        await client.create(*STATUSES, "default", body)
    watch = client.watch(
        *STATUSES, "default", resource_version=(await client.list(*STATUSES)).resource_version
    )
    await client.delete(*DEVICES, "default", "a")
    async with asyncio.timeout(10):
        seen = [await anext(watch), await anext(watch)]
    told = {(event.type, meta(event.object)["name"]) for event in seen}
    assert told == {(EventType.DELETED, "one"), (EventType.MODIFIED, "both")}
    both = await client.get(*STATUSES, "default", "both")
    assert meta(both)["ownerReferences"] == references[1:]  # the one that is gone is forgotten
    await client.delete(*DEVICES, "default", "b")
    async with asyncio.timeout(10):
        last = await anext(watch)
    assert (last.type, meta(last.object)["name"]) == (EventType.DELETED, "both")


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    async with kube_server(tmp_path) as server:
        made = await server.api.client("t").create(*DEVICES, "default", a_device())
        newest = server.api.objects.storage.version
        token = server.token
    async with kube_server(tmp_path) as server:
        assert await server.api.client("t").get(*DEVICES, "default", "lamp") == made
        assert server.api.objects.storage.version >= newest
        assert server.token == token


async def test_a_node_keeps_the_status_that_it_registers_with(client: KubeClient) -> None:
    status: JsonObject = {
        "capacity": {"cpu": "4"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    made = await client.create("v1", "nodes", None, {"metadata": {"name": "n"}, "status": status})
    assert made["status"] == status
    assert (await client.get("v1", "nodes", None, "n"))["status"] == status


async def test_a_namespace_with_a_finalizer_of_its_own_waits_for_it(client: KubeClient) -> None:
    metadata: JsonObject = {"name": "held", "finalizers": ["example.com/hold"]}
    await client.create("v1", "namespaces", None, {"metadata": metadata})
    await client.create("v1", "configmaps", "held", {"metadata": {"name": "inside"}})
    await client.delete("v1", "namespaces", None, "held")

    async def is_empty() -> bool:
        return not (await client.list("v1", "configmaps", "held")).items

    async def is_gone() -> bool:
        found = await client.list("v1", "namespaces")
        return all(item["metadata"]["name"] != "held" for item in found.items)  # type: ignore[index, call-overload]

    await eventually(is_empty)
    await asyncio.sleep(0.05)
    left = await client.get("v1", "namespaces", None, "held")
    assert left["metadata"]["deletionTimestamp"]  # type: ignore[index, call-overload]
    await client.patch("v1", "namespaces", None, "held", {"metadata": {"finalizers": None}})
    await eventually(is_gone)


async def test_a_patch_that_is_tried_again_applies_its_own_values_once(client: KubeClient) -> None:
    """Writers that collide make the server apply a JSON patch to a newer state once more."""
    await client.create("v1", "configmaps", "default", {"metadata": {"name": "busy"}})

    async def label(number: int) -> None:
        patch: JsonObject = {"metadata": {"labels": {f"n{number}": "x"}}}
        await client.patch("v1", "configmaps", "default", "busy", patch)

    async def hold() -> None:
        patch: Json = [
            {"op": "add", "path": "/metadata/finalizers", "value": []},
            {"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/a"},
        ]
        await client.patch("v1", "configmaps", "default", "busy", patch, patch_type=PatchType.JSON)

    await asyncio.gather(label(0), label(1), hold(), label(2))
    held = await client.get("v1", "configmaps", "default", "busy")
    assert held["metadata"]["finalizers"] == ["example.com/a"]  # type: ignore[index, call-overload]
    assert len(held["metadata"]["labels"]) == 3  # type: ignore[index, call-overload, arg-type]


async def test_a_deletion_may_name_its_grace(client: KubeClient) -> None:
    await client.create(*DEVICES, "default", a_device())
    await client.delete(*DEVICES, "default", "lamp", grace_seconds=0)
    with pytest.raises(NotFound):
        await client.get(*DEVICES, "default", "lamp")


@pytest.mark.parametrize("seconds", ["1.5", "soon", True, [1]])
def test_a_grace_that_is_no_number_is_refused(seconds: Json) -> None:
    with pytest.raises(BadRequest, match="gracePeriodSeconds"):
        delete_options({"gracePeriodSeconds": seconds}, {})


def test_a_grace_comes_from_the_body_or_the_query() -> None:
    assert delete_options({"gracePeriodSeconds": 5}, {}).grace_seconds == 5
    assert delete_options(None, {"gracePeriodSeconds": "0"}).grace_seconds == 0
    assert delete_options(None, {}).grace_seconds is None
    assert delete_options({"gracePeriodSeconds": -1}, {}).grace_seconds == 1


async def test_plain_paths_are_read(client: KubeClient) -> None:
    assert json.loads(await client.read("/version"))["gitVersion"].endswith("twinspan")
    assert await client.read("/readyz") == b"ok"
    groups = json.loads(await client.read("/apis"))
    assert "devices.kubeedge.io" in {group["name"] for group in groups["groups"]}
    aggregated = await client.read(
        "/apis", accept="application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    )
    assert json.loads(aggregated)["kind"] == "APIGroupDiscoveryList"
    index = json.loads(await client.read("/openapi/v3"))
    path, _, query = index["paths"]["api/v1"]["serverRelativeURL"].partition("?")
    document = json.loads(await client.read(path, dict([query.split("=")])))
    assert document["openapi"].startswith("3.")


@pytest.mark.parametrize("path", ["/nothing", "/apis/none", "/apis/apps/v9"])
async def test_a_path_that_is_not_there_is_not_found(client: KubeClient, path: str) -> None:
    with pytest.raises(NotFound):
        await client.read(path)


@pytest.mark.parametrize(
    "path", ["/api/v1/nodes", "version", "/../version", "/version?x=1", "/a%2fb", ""]
)
async def test_read_is_for_plain_paths_alone(client: KubeClient, path: str) -> None:
    with pytest.raises(BadRequest):
        await client.read(path)


async def test_a_subresource_that_a_kind_does_not_have_cannot_be_made(client: KubeClient) -> None:
    with pytest.raises(NotFound):
        await client.create("v1", "configmaps", "default", {}, name="settings", subresource="token")


async def test_a_client_acts_with_the_rights_of_another_user(client: KubeClient) -> None:
    await client.create("v1", "secrets", "default", {"metadata": {"name": "s"}})
    node = client.acting_as("system:node:edge-1", ["system:nodes"])
    made = await node.create("v1", "nodes", None, {"metadata": {"name": "edge-1"}})
    assert meta(await node.get("v1", "nodes", None, "edge-1"))["uid"] == meta(made)["uid"]
    assert json.loads(await node.read("/version"))["gitVersion"]
    with pytest.raises(Forbidden, match="system:node:edge-1"):
        await node.get("v1", "secrets", "default", "s")
    with pytest.raises(Forbidden):
        await node.create("v1", "nodes", None, {"metadata": {"name": "edge-2"}})
    with pytest.raises(Forbidden):
        await node.delete("v1", "nodes", None, "edge-1")
    with pytest.raises(Forbidden):
        async for _ in node.watch("v1", "secrets", "default"):
            pass
    with pytest.raises(Forbidden):
        await node.list("v1", "secrets")
    nobody = client.acting_as("system:serviceaccount:default:app")
    with pytest.raises(Forbidden):
        await nobody.patch("v1", "nodes", None, "edge-1", {})
    again = nobody.acting_as("system:node:edge-1", ["system:nodes"])
    assert await again.get("v1", "nodes", None, "edge-1")
    assert (await client.list("v1", "secrets")).items
