"""Devices for hollow nodes, made in the cluster and taken away again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress

from edge.hollow.device import READING
from gateway.errors import Conflict, NotFound
from gateway.kube.client import KubeClient
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import DEVICES, GROUP_VERSION, MODELS

TARGET = "target"
"""The property that can be wished for."""
AT_ONCE = 32
LEASES, LEASE_NAMESPACE = "coordination.k8s.io/v1", "kube-node-lease"


def device_names(node: str, count: int) -> list[str]:
    return [f"{node}-d{number}" for number in range(count)]


def model(name: str) -> JsonObject:
    return {
        "apiVersion": GROUP_VERSION,
        "kind": "DeviceModel",
        "metadata": {"name": name},
        "spec": {
            "protocol": "virtual",
            "properties": [
                {"name": READING, "type": "INT", "accessMode": "ReadOnly"},
                {"name": TARGET, "type": "INT", "accessMode": "ReadWrite"},
            ],
        },
    }


def device(name: str, node: str, of_model: str) -> JsonObject:
    properties: list[Json] = [{"name": each, "reportToCloud": True} for each in (READING, TARGET)]
    return {
        "apiVersion": GROUP_VERSION,
        "kind": "Device",
        "metadata": {"name": name},
        "spec": {
            "deviceModelRef": {"name": of_model},
            "nodeName": node,
            "protocol": {"protocolName": "virtual", "configData": {"kind": "hollow"}},
            "properties": properties,
        },
    }


async def make_devices(
    kube: KubeClient, namespace: str, prefix: str, nodes: Sequence[str], count: int
) -> None:
    """Make `count` Devices for each node and their model; what is there already stays."""
    with suppress(Conflict):
        await kube.create(GROUP_VERSION, MODELS, namespace, model(prefix))

    async def make(name: str, node: str) -> None:
        with suppress(Conflict):
            await kube.create(GROUP_VERSION, DEVICES, namespace, device(name, node, prefix))

    await _side_by_side(make(name, node) for node in nodes for name in device_names(node, count))


async def remove_devices(
    kube: KubeClient, namespace: str, prefix: str, nodes: Sequence[str], count: int
) -> None:
    """Take away what `make_devices` made."""
    await _side_by_side(
        _gone(kube, GROUP_VERSION, DEVICES, namespace, name)
        for node in nodes
        for name in device_names(node, count)
    )
    await _gone(kube, GROUP_VERSION, MODELS, namespace, prefix)


async def remove_nodes(kube: KubeClient, nodes: Sequence[str]) -> None:
    """Delete Nodes and their Leases; their certificates count no more."""
    await _side_by_side(_gone(kube, "v1", "nodes", None, node) for node in nodes)
    await _side_by_side(_gone(kube, LEASES, "leases", LEASE_NAMESPACE, node) for node in nodes)


async def _gone(
    kube: KubeClient, group_version: str, plural: str, namespace: str | None, name: str
) -> None:
    with suppress(NotFound):
        await kube.delete(group_version, plural, namespace, name)


async def _side_by_side(work: Iterable[Awaitable[None]]) -> None:
    """Do all of it, `AT_ONCE` at a time."""
    waiting = iter(work)

    async def drain() -> None:
        for each in waiting:
            await each

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(drain())
