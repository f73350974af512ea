"""Faults of several Devices, told while one of them goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

import pytest

from edge import devicefaults
from edge.devicefaults import DeviceFaults
from edge.store import EdgeStore
from gateway.errors import GatewayError
from gateway.runtime.module import running
from gateway.wire.cloudedge.subjects import DeviceKey

ONE, OTHER, THIRD = (DeviceKey("default", name) for name in ("one", "other", "third"))


class Store:
    async def meta_of_type(self, _kind: str) -> list[object]:
        return []

    def put_meta(self, _entry: object, _done: object) -> None:
        """It is on disk."""

    def delete_meta(self, _key: str, _uid: str, _done: object) -> None:
        """It is off the disk."""


class SlowTwin:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.told: list[DeviceKey] = []
        self.waiting: list[Callable[[GatewayError | None], None]] = []

    def tell_faults(
        self,
        key: DeviceKey,
        faults: Mapping[str, str],
        done: Callable[[GatewayError | None], None],
    ) -> None:
        assert faults
        self.told.append(key)
        self.waiting.append(done)


async def asked(twin: SlowTwin, number: int) -> Callable[[GatewayError | None], None]:
    async with asyncio.timeout(10):
        while len(twin.waiting) < number:  # noqa: ASYNC110 - nothing to be woken by
            await asyncio.sleep(0)
    return twin.waiting[number - 1]


async def test_a_device_that_goes_while_another_is_told_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devicefaults, "SETTLE_SECONDS", 0.0)
    twin = SlowTwin()
    faults = DeviceFaults(twin, cast(EdgeStore, Store()))
    async with running(faults):
        for key in (ONE, OTHER, THIRD):
            faults.note(key, "connection", "away")
        first = await asked(twin, 1)
        faults.gone(OTHER)
        first(None)
        (await asked(twin, 2))(None)
        assert twin.told == [ONE, THIRD]


async def test_faults_that_change_faster_than_they_settle_are_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devicefaults, "SETTLE_SECONDS", 0.02)
    twin = SlowTwin()
    faults = DeviceFaults(twin, cast(EdgeStore, Store()))
    async with running(faults), asyncio.timeout(10):
        number = 0
        while not twin.told:
            number += 1
            faults.note(ONE, "property a", f"lie {number}")
            await asyncio.sleep(0)  # the next one comes before this one has settled
        twin.waiting[0](None)
    assert twin.told == [ONE]
