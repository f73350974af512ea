"""The garbage collector, namespaces and what they are furnished with, on the running server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.errors import Forbidden, NotFound
from gateway.kube.client import KubeClient
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.conditions import find
from gateway.wire.kube.parts import part, rows, text
from tests.kube_server import kube_server
from tests.workload_rig import eventually

MAPS = "v1", "configmaps"
NAMESPACES = "v1", "namespaces"
DEFINITIONS = "apiextensions.k8s.io/v1", "customresourcedefinitions"
NS = "default"
HELD: list[Json] = ["example.org/held"]


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[KubeClient]:
    async with kube_server(tmp_path) as server:
        yield server.api.client("tests")


def owned_by(owner: JsonObject, kind: str = "ConfigMap", **more: Json) -> JsonObject:
    meta = part(owner, "metadata")
    version = text(owner.get("apiVersion")) or "v1"
    return {"apiVersion": version, "kind": kind, "name": meta["name"], "uid": meta["uid"], **more}


async def make(
    kube: KubeClient, name: str, *owners: JsonObject, namespace: str = NS, **meta: Json
) -> JsonObject:
    metadata: JsonObject = {"name": name, **meta}
    if owners:
        metadata["ownerReferences"] = list[Json](owners)
    return await kube.create(*MAPS, namespace, {"metadata": metadata})


def gone(
    kube: KubeClient, name: str, place: tuple[str, str] = MAPS, namespace: str | None = NS
) -> Callable[[], Awaitable[bool]]:
    async def is_gone() -> bool:
        try:
            await kube.get(*place, namespace, name)
        except NotFound:
            return True
        return False

    return is_gone


async def until(probe: Callable[[], Awaitable[bool]]) -> None:
    await eventually(probe, lambda found: found)


async def free(kube: KubeClient, name: str) -> None:
    await kube.patch(*MAPS, NS, name, {"metadata": {"finalizers": None}})


async def metadata(kube: KubeClient, name: str) -> JsonObject:
    return part(await kube.get(*MAPS, NS, name), "metadata")


# --- owners -----------------------------------------------------------------------------------------


async def test_dependents_follow_their_owner_and_theirs_follow_them(kube: KubeClient) -> None:
    owner = await make(kube, "owner")
    child = await make(kube, "child", owned_by(owner))
    await make(kube, "grandchild", owned_by(child))
    await make(kube, "stranger")
    await kube.delete(*MAPS, NS, "owner")
    await until(gone(kube, "child"))
    await until(gone(kube, "grandchild"))
    assert await metadata(kube, "stranger")


async def test_one_of_two_owners_is_enough_and_the_other_is_forgotten(kube: KubeClient) -> None:
    one, two = await make(kube, "one"), await make(kube, "two")
    await make(kube, "child", owned_by(one), owned_by(two))
    await kube.delete(*MAPS, NS, "one")

    async def owners() -> Json:
        return (await metadata(kube, "child")).get("ownerReferences")

    await eventually(owners, lambda found: found == [owned_by(two)])
    await kube.delete(*MAPS, NS, "two")
    await until(gone(kube, "child"))


async def test_in_the_foreground_the_owner_goes_after_those_that_block_it(kube: KubeClient) -> None:
    owner = await make(kube, "owner")
    await make(kube, "blocks", owned_by(owner, blockOwnerDeletion=True), finalizers=HELD)
    await make(kube, "lingers", owned_by(owner), finalizers=HELD)
    await kube.delete(*MAPS, NS, "owner", propagation="Foreground")
    for name in ("blocks", "lingers"):

        async def is_going(name: str = name) -> bool:
            return "deletionTimestamp" in await metadata(kube, name)

        await until(is_going)
    assert (await metadata(kube, "owner"))["finalizers"] == ["foregroundDeletion"]
    await free(kube, "blocks")
    await until(gone(kube, "owner"))
    assert await metadata(kube, "lingers")


async def test_in_the_foreground_a_whole_family_goes_from_its_leaves(kube: KubeClient) -> None:
    owner = await make(kube, "owner")
    child = await make(kube, "child", owned_by(owner, blockOwnerDeletion=True))
    await make(kube, "leaf", owned_by(child, blockOwnerDeletion=True), finalizers=HELD)
    await kube.delete(*MAPS, NS, "owner", propagation="Foreground")

    async def waits() -> Json:
        return (await metadata(kube, "child")).get("finalizers")

    await eventually(waits, lambda found: found == ["foregroundDeletion"])
    await free(kube, "leaf")
    await until(gone(kube, "owner"))
    await until(gone(kube, "child"))


async def test_two_that_own_each_other_do_not_wait_for_ever(kube: KubeClient) -> None:
    one = await make(kube, "one")
    two = await make(kube, "two", owned_by(one, blockOwnerDeletion=True))
    circle: JsonObject = {"metadata": {"ownerReferences": [owned_by(two, blockOwnerDeletion=True)]}}
    await kube.patch(*MAPS, NS, "one", circle)
    await kube.delete(*MAPS, NS, "one", propagation="Foreground")
    await until(gone(kube, "one"))
    await until(gone(kube, "two"))


async def test_orphans_stay_and_name_no_owner(kube: KubeClient) -> None:
    owner = await make(kube, "owner")
    for number in range(5):
        await make(kube, f"child-{number}", owned_by(owner))
    await kube.delete(*MAPS, NS, "owner", propagation="Orphan")
    await until(gone(kube, "owner"))
    for number in range(5):
        assert "ownerReferences" not in await metadata(kube, f"child-{number}")


async def test_an_owner_that_never_was_or_lives_elsewhere_is_none(kube: KubeClient) -> None:
    absent: JsonObject = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "no-such"}
    await make(kube, "lost", absent)
    await until(gone(kube, "lost"))
    other = await make(kube, "other", namespace="kube-public")
    await make(kube, "abroad", owned_by(other))
    await until(gone(kube, "abroad"))
    uid = part(other, "metadata")["uid"]
    why = (
        f"ownerRef [v1/ConfigMap, namespace: default, name: other, uid: {uid}]"
        ' does not exist in namespace "default"'
    )

    async def told() -> list[tuple[Json, Json]]:
        found = await kube.list("v1", "events", NS)
        return [(item["reason"], item["message"]) for item in found.items]

    await eventually(told, lambda found: ("OwnerRefInvalidNamespace", why) in found)


async def test_a_namesake_of_the_owner_is_not_the_owner(kube: KubeClient) -> None:
    owner = await make(kube, "owner")
    await make(kube, "child", owned_by(owner), finalizers=HELD)
    await kube.delete(*MAPS, NS, "owner")
    await make(kube, "owner")

    async def is_going() -> bool:
        return "deletionTimestamp" in await metadata(kube, "child")

    await until(is_going)


async def test_what_lost_its_owner_while_nobody_looked_goes_at_the_next_start(
    tmp_path: Path,
) -> None:
    async with kube_server(tmp_path, controllers=None) as server:
        kube = server.api.client("tests")
        owner, keeper = await make(kube, "owner"), await make(kube, "keeper")
        await make(kube, "child", owned_by(owner))
        await make(kube, "kept", owned_by(keeper))
        abroad = await make(kube, "abroad", owned_by(keeper), namespace="kube-public")
        await make(kube, "deceived", owned_by(abroad))
        await kube.delete(*MAPS, NS, "owner")
    async with kube_server(tmp_path) as server:
        kube = server.api.client("tests")
        await until(gone(kube, "child"))
        await until(gone(kube, "abroad", MAPS, "kube-public"))
        await until(gone(kube, "deceived"))
        assert await metadata(kube, "kept")


def a_definition() -> JsonObject:
    schema: JsonObject = {"openAPIV3Schema": {"type": "object"}}
    versions: list[Json] = [{"name": "v1", "served": True, "storage": True, "schema": schema}]
    return {
        "apiVersion": DEFINITIONS[0],
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "lamps.example.org"},
        "spec": {
            "group": "example.org",
            "scope": "Namespaced",
            "names": {"plural": "lamps", "kind": "Lamp"},
            "versions": versions,
        },
    }


async def test_custom_resources_own_and_are_owned(kube: KubeClient) -> None:
    lamps = "example.org/v1", "lamps"
    await kube.create(*DEFINITIONS, None, a_definition())
    lamp = await kube.create(
        *lamps, NS, {"apiVersion": lamps[0], "kind": "Lamp", "metadata": {"name": "lamp"}}
    )
    await make(kube, "wiring", owned_by(lamp, "Lamp"))
    shade: JsonObject = {"name": "shade", "ownerReferences": [owned_by(lamp, "Lamp")]}
    await kube.create(*lamps, NS, {"apiVersion": lamps[0], "kind": "Lamp", "metadata": shade})
    await kube.delete(*lamps, NS, "lamp")
    await until(gone(kube, "wiring"))
    await until(gone(kube, "shade", lamps))


async def test_a_definition_takes_its_objects_along(kube: KubeClient) -> None:
    lamps = "example.org/v1", "lamps"
    await kube.create(*DEFINITIONS, None, a_definition())
    body: JsonObject = {"apiVersion": lamps[0], "kind": "Lamp", "metadata": {"name": "lamp"}}
    part(body, "metadata")["finalizers"] = HELD
    await kube.create(*lamps, NS, body)
    await kube.delete(*DEFINITIONS, None, "lamps.example.org")

    async def is_going() -> bool:
        return "deletionTimestamp" in part(await kube.get(*lamps, NS, "lamp"), "metadata")

    await until(is_going)
    await kube.patch(*lamps, NS, "lamp", {"metadata": {"finalizers": None}})
    await until(gone(kube, "lamps.example.org", DEFINITIONS, None))


# --- namespaces -------------------------------------------------------------------------------------


async def test_a_namespace_is_furnished_and_what_is_taken_away_comes_back(
    kube: KubeClient,
) -> None:
    await kube.create(*NAMESPACES, None, {"metadata": {"name": "room"}})
    account = gone(kube, "default", ("v1", "serviceaccounts"), "room")
    certificate = gone(kube, "kube-root-ca.crt", MAPS, "room")
    for probe in (account, certificate):
        await eventually(probe, lambda found: not found)
    before = await kube.get(*MAPS, "room", "kube-root-ca.crt")
    assert text(part(before, "data")["ca.crt"]).startswith("-----BEGIN CERTIFICATE-----")
    await kube.patch(*MAPS, "room", "kube-root-ca.crt", {"data": {"ca.crt": "mine"}})

    async def data() -> Json:
        return (await kube.get(*MAPS, "room", "kube-root-ca.crt"))["data"]

    await eventually(data, lambda found: found == before["data"])
    await kube.delete("v1", "serviceaccounts", "room", "default")
    await eventually(account, lambda found: not found)


async def test_a_namespace_goes_when_all_in_it_is_gone(kube: KubeClient) -> None:
    await kube.create(*NAMESPACES, None, {"metadata": {"name": "room"}})
    await make(kube, "held", namespace="room", finalizers=HELD)
    await make(kube, "plain", namespace="room")
    await kube.delete(*NAMESPACES, None, "room")

    async def remaining() -> JsonObject:
        status = part(await kube.get(*NAMESPACES, None, "room"), "status")
        return find(rows(status.get("conditions")), "NamespaceContentRemaining") or {}

    told = await eventually(remaining, lambda found: found.get("status") == "True")
    assert told["message"] == ("Some resources are remaining: configmaps. has 1 resource instances")
    room = await kube.get(*NAMESPACES, None, "room")
    assert "deletionGracePeriodSeconds" not in part(room, "metadata")
    status = part(room, "status")
    assert status["phase"] == "Terminating"
    held = find(rows(status.get("conditions")), "NamespaceFinalizersRemaining") or {}
    assert held["message"] == (
        "Some content in the namespace has finalizers remaining:"
        " example.org/held in 1 resource instances"
    )
    with pytest.raises(Forbidden, match="because it is being terminated") as refused:
        await make(kube, "late", namespace="room")
    assert refused.value.details["causes"] == [
        {
            "reason": "NamespaceTerminating",
            "message": "namespace room is being terminated",
            "field": "metadata.namespace",
        }
    ]
    assert await gone(kube, "plain", MAPS, "room")()
    await kube.patch(*MAPS, "room", "held", {"metadata": {"finalizers": None}})
    await until(gone(kube, "room", NAMESPACES, None))


async def test_without_loops_nothing_of_this_happens(tmp_path: Path) -> None:
    async with kube_server(tmp_path, controllers=None) as server:
        kube = server.api.client("tests")
        owner = await make(kube, "owner")
        await make(kube, "child", owned_by(owner))
        await kube.delete(*MAPS, NS, "owner")
        await asyncio.sleep(0.1)
        assert await metadata(kube, "child")
        assert await gone(kube, "default", ("v1", "serviceaccounts"))()
