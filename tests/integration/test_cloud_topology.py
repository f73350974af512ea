"""Services that stay within a group of nodes: what the edges of groups see of their endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.applications import ApiKey, Verb, make_application
from tests.cloud_rig import CloudCore, Edge, a_cloud, an_edge, content_of, join
from tests.integration.test_cloud_applications import ask, code, document, named, send
from tests.integration.test_cloud_edgeapps import an_app
from tests.integration.test_cloud_nodegroups import APPS, a_group, belongs, make_group

SLICES = ApiKey("discovery.k8s.io", "v1", "endpointslices", "default")
ENDPOINTS = ApiKey("", "v1", "endpoints", "default")
TOPOLOGY = "apps.kubeedge.io/service-topology"
ADDRESSES = {"10.0.0.1": "edge-1", "10.0.0.2": "edge-2", "10.0.0.3": "edge-3", "10.0.0.9": ""}


def a_service(name: str, *, ranged: bool) -> JsonObject:
    notes: JsonObject = {TOPOLOGY: "range-nodegroup"} if ranged else {}
    spec: JsonObject = {"ports": [{"port": 80}]}
    return {"metadata": {"name": name, "annotations": notes}, "spec": spec}


def a_slice(service: str) -> JsonObject:
    endpoints: list[Json] = [
        {"addresses": [address], **({"nodeName": node} if node else {})}
        for address, node in ADDRESSES.items()
    ]
    labels: JsonObject = {"kubernetes.io/service-name": service}
    return {
        "metadata": {"name": f"{service}-x", "labels": labels},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"port": 80}],
    }


def some_endpoints(service: str) -> JsonObject:
    addresses: list[Json] = [
        {"ip": address, **({"nodeName": node} if node else {})}
        for address, node in ADDRESSES.items()
    ]
    subset: JsonObject = {"addresses": addresses[:2], "notReadyAddresses": addresses[2:]}
    return {"metadata": {"name": service}, "subsets": [{**subset, "ports": [{"port": 80}]}]}


def seen(item: Any) -> set[str]:
    """Which addresses an object shows."""
    found = {address for each in item.get("endpoints", []) for address in each["addresses"]}
    for subset in item.get("subsets", []):
        for field in ("addresses", "notReadyAddresses"):
            found |= {each["ip"] for each in subset[field]}
    return found


@asynccontextmanager
async def three_edges(tmp_path: Path) -> AsyncIterator[tuple[CloudCore, list[Edge]]]:
    """edge-1 and edge-2 are of group west, edge-3 is of none; Services web (ranged) and all."""
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(a_cloud(tmp_path))
        edges = []
        for name in ("edge-1", "edge-2", "edge-3"):
            certificate = await join(cloud, name)
            edges.append(await stack.enter_async_context(an_edge(cloud, name, certificate)))
            await edges[-1].register()
        await make_group(cloud, a_group("west", "edge-1", "edge-2"))
        await belongs(cloud, "edge-1", "west")
        await belongs(cloud, "edge-2", "west")
        for service in ("web", "all"):
            document = a_service(service, ranged=service == "web")
            await cloud.kube.create("v1", "services", "default", document)
            await cloud.kube.create("v1", "endpoints", "default", some_endpoints(service))
            slices = ("discovery.k8s.io/v1", "endpointslices", "default")
            await cloud.kube.create(*slices, a_slice(service))
        yield cloud, edges


async def looks(edge: Edge, key: ApiKey) -> set[str]:
    """What a node gets of one object, by get and by list alike."""
    one = document(await ask(edge, Verb.GET, key))
    whole = ApiKey(key.group, key.version, key.resource, key.namespace)
    listed = document(await ask(edge, Verb.LIST, whole))["items"]
    (same,) = [item for item in listed if item["metadata"]["name"] == key.name]
    assert seen(same) == seen(one)
    return seen(one)


WEST = {"10.0.0.1", "10.0.0.2"}


async def test_a_node_sees_the_endpoints_of_its_own_group(tmp_path: Path) -> None:
    async with three_edges(tmp_path) as (_, (one, two, three)):
        for key in (named(SLICES, "web-x"), named(ENDPOINTS, "web")):
            assert await looks(one, key) == await looks(two, key) == WEST
            assert await looks(three, key) == {"10.0.0.3"}
        for key in (named(SLICES, "all-x"), named(ENDPOINTS, "all")):
            assert await looks(one, key) == set(ADDRESSES)


async def test_a_watch_follows_the_group_and_the_service(tmp_path: Path) -> None:
    async with three_edges(tmp_path) as (cloud, (one, *_)):
        app = make_application("edge-1", SLICES, Verb.WATCH, option={})
        assert (await send(one, app)).is_approved
        resource = "default/endpointslice/web-x"
        assert seen(content_of(await one.object(resource, "insert"))) == WEST

        async def shows(expected: set[str]) -> None:
            await one.wait_for(
                lambda e: (
                    e.route.resource == resource
                    and e.route.operation == "update"
                    and seen(content_of(e)) == expected
                )
            )
            one.forget()

        more: JsonObject = {"spec": {"nodes": ["edge-1", "edge-3"]}}
        await cloud.kube.patch(APPS, "nodegroups", None, "west", more)
        await shows({"10.0.0.1", "10.0.0.3"})
        everywhere: JsonObject = {"metadata": {"annotations": {TOPOLOGY: None}}}
        await cloud.kube.patch("v1", "services", "default", "web", everywhere)
        await shows(set(ADDRESSES))
        back: JsonObject = {"metadata": {"annotations": {TOPOLOGY: "range-nodegroup"}}}
        await cloud.kube.patch("v1", "services", "default", "web", back)
        await shows({"10.0.0.1", "10.0.0.3"})
        await cloud.kube.delete("v1", "nodes", None, "edge-3")
        await shows({"10.0.0.1"})


async def test_a_node_may_not_make_applications_or_groups(tmp_path: Path) -> None:
    """They are made with CloudCore's rights: whoever makes one could have anything made."""
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate) as edge:
            await edge.register()
            for key, body in (
                (ApiKey("apps.kubeedge.io", "v1alpha1", "edgeapplications", "default"), an_app()),
                (ApiKey("apps.kubeedge.io", "v1alpha1", "nodegroups"), a_group("mine", "edge-1")),
            ):
                answer = await ask(edge, Verb.CREATE, key, body=body)
                assert code(answer) == 403, answer.error.status
