"""Services lead to their Pods while Pods come, serve, leave; slices of people's Endpoints follow them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Unprocessable
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from tests.kube_server import KubeServer, kube_server

LOOPS = ("endpoint", "endpointslice", "endpointslicemirroring", "garbagecollector")
SLICES = "discovery.k8s.io/v1", "endpointslices"


async def eventually(check: Callable[[], Any]) -> Any:
    async with asyncio.timeout(20):
        while not (found := await check()):  # noqa: ASYNC110  the condition has no event of its own
            await asyncio.sleep(0.05)
    return found


async def a_pod(kube: KubeClient, name: str, ip: str) -> None:
    spec: JsonObject = {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]}
    body: JsonObject = {"metadata": {"name": name, "labels": {"app": "x"}}, "spec": spec}
    await kube.create("v1", "pods", "default", body)
    await serve(kube, name, ip, "True")


async def serve(kube: KubeClient, name: str, ip: str, ready: str) -> None:
    conditions: Any = [{"type": "Ready", "status": ready}]
    status: JsonObject = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
    patch: JsonObject = {"status": {**status, "conditions": conditions}}
    await kube.patch("v1", "pods", "default", name, patch, subresource="status")


async def state(kube: KubeClient, service: str) -> dict[str, bool]:
    """What the slices of a Service say: address -> ready."""
    found = await kube.list(*SLICES, "default", labels=f"kubernetes.io/service-name={service}")
    rows: Any = [row for item in found.items for row in item.get("endpoints") or []]  # type: ignore[union-attr]
    return {row["addresses"][0]: row["conditions"]["ready"] for row in rows}


async def ready_ips(kube: KubeClient, service: str) -> list[str]:
    found: Any = await kube.get("v1", "endpoints", "default", service)
    return [
        row["ip"] for subset in found.get("subsets") or [] for row in subset.get("addresses", [])
    ]


async def test_a_service_leads_to_the_pods_that_serve(tmp_path: Path) -> None:
    async with kube_server(tmp_path, controllers=LOOPS) as server:
        kube = server.api.client("test")
        await a_pod(kube, "a", "10.1.0.5")
        await a_pod(kube, "b", "10.1.0.4")
        spec: JsonObject = {"selector": {"app": "x"}, "ports": [{"port": 80}]}
        await kube.create("v1", "services", "default", {"metadata": {"name": "svc"}, "spec": spec})
        both = {"10.1.0.4": True, "10.1.0.5": True}
        await eventually(lambda: is_state(kube, "svc", both))
        assert await ready_ips(kube, "svc") == ["10.1.0.4", "10.1.0.5"]
        await serve(kube, "b", "10.1.0.4", "False")
        await eventually(lambda: is_state(kube, "svc", {**both, "10.1.0.4": False}))
        await kube.delete("v1", "pods", "default", "b", grace_seconds=0)
        await eventually(lambda: is_state(kube, "svc", {"10.1.0.5": True}))
        assert await eventually(lambda: is_ready(kube, ["10.1.0.5"]))
        await kube.delete("v1", "services", "default", "svc")
        await eventually(lambda: is_gone(kube, "svc"))


async def is_state(kube: KubeClient, service: str, wanted: dict[str, bool]) -> bool:
    return await state(kube, service) == wanted


async def is_ready(kube: KubeClient, wanted: list[str]) -> bool:
    return await ready_ips(kube, "svc") == wanted


async def is_gone(kube: KubeClient, service: str) -> bool:
    slices = await kube.list(*SLICES, "default", labels=f"kubernetes.io/service-name={service}")
    endpoints = await kube.list("v1", "endpoints", "default", fields=f"metadata.name={service}")
    return not slices.items and not endpoints.items


async def test_endpoints_of_people_have_slices(tmp_path: Path) -> None:
    async with kube_server(tmp_path, controllers=LOOPS) as server:
        kube = server.api.client("test")
        spec: JsonObject = {"ports": [{"port": 80}]}
        await kube.create("v1", "services", "default", {"metadata": {"name": "m"}, "spec": spec})
        subset: JsonObject = {"addresses": [{"ip": "192.0.2.4"}], "ports": [{"port": 80}]}
        body: JsonObject = {"metadata": {"name": "m"}, "subsets": [subset]}
        await kube.create("v1", "endpoints", "default", body)
        await eventually(lambda: is_state(kube, "m", {"192.0.2.4": True}))
        await kube.delete("v1", "endpoints", "default", "m")
        await eventually(lambda: is_gone(kube, "m"))


async def test_the_api_has_a_service_of_its_own_and_says_where_it_is(tmp_path: Path) -> None:
    async with kube_server(tmp_path) as server:
        first = await own_service(server)
        assert first["spec"]["clusterIP"] == "10.96.0.1"
        assert first["spec"]["ports"][0]["port"] == 443
    async with kube_server(tmp_path) as server:
        again = await own_service(server)
        assert again["metadata"]["uid"] == first["metadata"]["uid"]
        port = int(server.endpoints.get("kube.https").rpartition(":")[2])
        assert again["spec"]["ports"][0]["targetPort"] == port


async def own_service(server: KubeServer) -> Any:
    return await server.api.client("test").get("v1", "services", "default", "kubernetes")


async def test_addresses_are_remembered_over_a_restart(tmp_path: Path) -> None:
    spec: JsonObject = {"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}
    async with kube_server(tmp_path) as server:
        kube = server.api.client("test")
        await kube.create("v1", "services", "default", {"metadata": {"name": "a"}, "spec": spec})
    async with kube_server(tmp_path) as server:
        kube = server.api.client("test")
        again: JsonObject = {"metadata": {"name": "b"}, "spec": spec}
        with pytest.raises(Unprocessable, match="provided IP is already allocated"):
            await kube.create("v1", "services", "default", again)
        await kube.delete("v1", "services", "default", "a")
        stored: Any = await kube.create("v1", "services", "default", again)
        assert stored["spec"]["clusterIP"] == "10.96.0.77"
