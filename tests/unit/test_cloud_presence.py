"""Where nodes are connected is told to the cluster, also when the cluster could not hear it at first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloud import presence
from cloud.presence import Presence
from gateway.errors import Forbidden, GatewayError, NotFound, StoreUnavailable
from gateway.model.json import JsonObject
from tests.cloud_rig import eventually


class Kube:
    """Notes who was told of; fails as often as it should."""

    def __init__(self, *failures: GatewayError) -> None:
        self.failures = list(failures)
        self.asked: list[str] = []
        self.told: list[str] = []

    async def patch(self, *args: Any, **_options: object) -> JsonObject:
        self.asked.append(args[3])
        if self.failures:
            raise self.failures.pop(0)
        self.told.append(args[3])
        return {}


class Place:
    """Where this CloudCore is."""

    address = "192.0.2.1"
    status: JsonObject = {}  # noqa: RUF012  nobody changes it


@pytest.mark.parametrize(
    ("failures", "told", "asked"),
    [
        ([StoreUnavailable()] * 6, ["b", "a"], 8),
        ([NotFound("a")], ["b"], 2),
        ([Forbidden("a")], ["b"], 2),
    ],
)
async def test_a_place_is_told_until_the_cluster_has_heard_it(
    monkeypatch: pytest.MonkeyPatch, failures: list[GatewayError], told: list[str], asked: int
) -> None:
    monkeypatch.setattr(presence, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(presence, "LONGEST_PAUSE", 0.002)
    kube = Kube(*failures)
    room = Presence(kube, Place(), lambda _node: "store")  # type: ignore[arg-type]
    running = asyncio.create_task(room.run(lambda: None))
    room.node_connected("a")
    room.node_connected("b")

    async def all_told() -> bool:
        return len(kube.asked) == asked

    try:
        await eventually(all_told)
        assert sorted(kube.told) == sorted(told)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_of_a_node_that_is_gone_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "FIRST_PAUSE", 0.001)
    kube = Kube(StoreUnavailable())
    room = Presence(kube, Place(), lambda _node: "store")  # type: ignore[arg-type]
    room.node_connected("a")
    room.node_disconnected("a")
    room.node_connected("b")
    running = asyncio.create_task(room.run(lambda: None))

    async def is_told() -> bool:
        return kube.told == ["b"]

    try:
        await eventually(is_told)
        assert "a" not in kube.asked
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
