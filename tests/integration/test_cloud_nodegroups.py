"""NodeGroups on a running CloudCore: who becomes a member, who does not and why, and what is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.errors import NotFound
from gateway.model.json import JsonObject
from tests.cloud_rig import CloudCore, a_cloud, a_node, eventually

APPS = "apps.kubeedge.io/v1alpha1"
BELONGING, ZONE = "apps.kubeedge.io/belonging-to", "topology.kubernetes.io/zone"


def a_group(name: str, *nodes: str, zone: bool = False, **labels: str) -> JsonObject:
    spec: JsonObject = {"nodes": [*nodes], "matchLabels": {**labels}}
    if zone:
        spec["topologyEnabled"] = True
    return {"apiVersion": APPS, "kind": "NodeGroup", "metadata": {"name": name}, "spec": spec}


async def make_node(cloud: CloudCore, name: str, **labels: str) -> None:
    await cloud.kube.create("v1", "nodes", None, a_node(name, **labels))


async def make_group(cloud: CloudCore, group: JsonObject) -> None:
    await cloud.kube.create(APPS, "nodegroups", None, group)


async def labels_of(cloud: CloudCore, node: str) -> dict[str, Any]:
    return dict((await cloud.object("v1", "nodes", None, node))["metadata"].get("labels") or {})


async def belongs(cloud: CloudCore, node: str, group: str | None) -> None:
    """Wait until a Node says that it belongs to a group."""

    async def says_so() -> bool:
        return (await labels_of(cloud, node)).get(BELONGING) == group

    await eventually(says_so, f"{node} in {group}")


async def selection(cloud: CloudCore, group: str) -> dict[str, tuple[str, str]]:
    """How a group chose: node -> status and reason."""
    found = await cloud.object(APPS, "nodegroups", None, group)
    return {
        entry["nodeName"]: (entry["selectionStatus"], entry.get("selectionStatusReason", ""))
        for entry in found.get("status", {}).get("nodeStatuses", [])
    }


async def chose(cloud: CloudCore, group: str, expected: dict[str, tuple[str, str]]) -> None:
    async def did() -> bool:
        return await selection(cloud, group) == expected

    await eventually(did, f"{group}: {expected}")


OK = ("Succeeded", "")


async def test_nodes_are_chosen_by_name_and_by_label_also_when_they_come_later(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as cloud:
        await make_node(cloud, "edge-1")
        await make_group(cloud, a_group("west", "edge-1", "edge-9", site="west"))
        await belongs(cloud, "edge-1", "west")
        missing = ("Failed", "node does not exist")
        await chose(cloud, "west", {"edge-1": OK, "edge-9": missing})
        await make_node(cloud, "edge-9")
        await make_node(cloud, "edge-2", site="west")
        await make_node(cloud, "edge-3", site="east")
        await chose(cloud, "west", {"edge-1": OK, "edge-2": OK, "edge-9": OK})
        assert BELONGING not in await labels_of(cloud, "edge-3")
        labels: JsonObject = {"metadata": {"labels": {"site": "west"}}}
        await cloud.kube.patch("v1", "nodes", None, "edge-3", labels)
        await belongs(cloud, "edge-3", "west")
        labels = {"metadata": {"labels": {"site": None}}}
        await cloud.kube.patch("v1", "nodes", None, "edge-2", labels)
        await belongs(cloud, "edge-2", None)
        await chose(cloud, "west", {"edge-1": OK, "edge-3": OK, "edge-9": OK})


async def test_how_ready_members_are_stands_in_the_status(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await make_node(cloud, "edge-1")
        await make_group(cloud, a_group("west", "edge-1"))

        async def ready() -> str:
            group = await cloud.object(APPS, "nodegroups", None, "west")
            entries = group.get("status", {}).get("nodeStatuses") or [{}]
            return str(entries[0].get("readyStatus"))

        for status, expected in (("True", "Ready"), ("False", "NotReady"), ("Unknown", "Unknown")):
            condition: JsonObject = {"type": "Ready", "status": status}
            patch: JsonObject = {"status": {"conditions": [condition]}}
            await cloud.kube.patch("v1", "nodes", None, "edge-1", patch, subresource="status")

            async def says(wanted: str = expected) -> bool:
                return await ready() == wanted

            await eventually(says, expected)


async def test_a_node_of_another_group_is_refused_and_taken_once_it_is_free(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as cloud:
        await make_node(cloud, "edge-1")
        await make_group(cloud, a_group("west", "edge-1"))
        await chose(cloud, "west", {"edge-1": OK})
        await make_group(cloud, a_group("east", "edge-1"))
        taken = ("Failed", "node edge-1 belongs to NodeGroup west")
        await chose(cloud, "east", {"edge-1": taken})

        async def is_told() -> bool:
            events = (await cloud.kube.list("v1", "events", "default")).items
            return any(
                event["reason"] == "NodeNotSelected" and "NodeGroup west" in str(event["message"])
                for event in events
            )

        await eventually(is_told)
        empty: JsonObject = {"spec": {"nodes": []}}
        await cloud.kube.patch(APPS, "nodegroups", None, "west", empty)
        await belongs(cloud, "edge-1", "east")
        await chose(cloud, "east", {"edge-1": OK})
        await chose(cloud, "west", {})


async def test_a_zone_is_set_and_the_one_before_comes_back(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await make_node(cloud, "edge-1", **{ZONE: "rack-7"})
        await make_node(cloud, "edge-2")
        await make_group(cloud, a_group("west", "edge-1", "edge-2", zone=True))
        await belongs(cloud, "edge-2", "west")
        await belongs(cloud, "edge-1", "west")
        assert (await labels_of(cloud, "edge-1"))[ZONE] == "west"
        assert (await labels_of(cloud, "edge-2"))[ZONE] == "west"
        off: JsonObject = {"spec": {"topologyEnabled": False}}
        await cloud.kube.patch(APPS, "nodegroups", None, "west", off)

        async def is_back() -> bool:
            one, two = await labels_of(cloud, "edge-1"), await labels_of(cloud, "edge-2")
            return one.get(ZONE) == "rack-7" and ZONE not in two

        await eventually(is_back)
        node = await cloud.object("v1", "nodes", None, "edge-1")
        assert "twinspan.io/zone-before" not in (node["metadata"].get("annotations") or {})


def a_pod(name: str, node: str, group: str = "") -> JsonObject:
    spec: JsonObject = {"nodeName": node, "containers": [{"name": "c", "image": "app:1"}]}
    if group:
        spec["nodeSelector"] = {BELONGING: group}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


async def test_a_group_that_is_deleted_lets_its_nodes_go_and_ends_the_pods_that_ask_for_it(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as cloud:
        await make_node(cloud, "edge-1")
        await make_group(cloud, a_group("west", "edge-1", zone=True))
        await belongs(cloud, "edge-1", "west")
        for pod in (a_pod("ours", "edge-1", "west"), a_pod("anyone", "edge-1")):
            await cloud.kube.create("v1", "pods", "default", pod)
        await cloud.kube.delete(APPS, "nodegroups", None, "west")
        await belongs(cloud, "edge-1", None)

        async def is_gone() -> bool:
            try:
                await cloud.kube.get(APPS, "nodegroups", None, "west")
            except NotFound:
                return True
            return False

        await eventually(is_gone)
        assert ZONE not in await labels_of(cloud, "edge-1")
        ours = await cloud.object("v1", "pods", "default", "ours")
        assert ours["metadata"].get("deletionTimestamp")
        anyone = await cloud.object("v1", "pods", "default", "anyone")
        assert not anyone["metadata"].get("deletionTimestamp")


async def test_what_happened_while_no_cloudcore_ran_is_made_up_for(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        for node in ("edge-1", "edge-2"):
            await make_node(cloud, node)
        await make_group(cloud, a_group("west", "edge-1"))
        await make_group(cloud, a_group("east", "edge-2"))
        await belongs(cloud, "edge-1", "west")
        await belongs(cloud, "edge-2", "east")
    async with a_cloud(tmp_path, cloudcore=False) as cloud:
        await cloud.kube.delete(APPS, "nodegroups", None, "west")
        more: JsonObject = {"spec": {"nodes": ["edge-1", "edge-2"]}}
        await cloud.kube.patch(APPS, "nodegroups", None, "east", more)
        assert (await labels_of(cloud, "edge-1"))[BELONGING] == "west"
    async with a_cloud(tmp_path) as cloud:
        await belongs(cloud, "edge-1", "east")
        await chose(cloud, "east", {"edge-1": OK, "edge-2": OK})
        assert not [
            group
            for group in (await cloud.kube.list(APPS, "nodegroups")).items
            if group["metadata"]["name"] == "west"  # type: ignore[index,call-overload]
        ]
