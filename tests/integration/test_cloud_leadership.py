"""One of several CloudCores leads: by Lease, handed over at a stop, taken over after silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud.leadership import LEASE, LeaseLeadership
from gateway.errors import StoreUnavailable
from gateway.kube.client import KubeClient
from tests.cloud_rig import eventually
from tests.kube_server import KubeServer, kube_server

SECONDS = 0.6


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path) as running:
        yield running


class Flaky:
    """A client whose calls fail while it `is_away`, and never end while it `hangs`."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self.is_away = False
        self.hangs = False

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            if self.is_away:
                raise StoreUnavailable()
            if self.hangs:
                await asyncio.Event().wait()
            return await getattr(self._kube, name)(*args, **options)

        return call


@asynccontextmanager
async def candidate(kube: Any, folder: Path) -> AsyncIterator[LeaseLeadership]:
    leadership = LeaseLeadership(kube, folder, SECONDS)
    is_ready = asyncio.Event()
    running = asyncio.create_task(leadership.run(is_ready.set))
    await is_ready.wait()
    try:
        yield leadership
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def leading(leadership: LeaseLeadership) -> None:
    async def is_so() -> bool:
        return leadership.leads

    await eventually(is_so)


async def test_one_leads_and_hands_over_when_it_stops(server: KubeServer, tmp_path: Path) -> None:
    kube, told = server.api.client("test"), list[bool]()
    async with candidate(kube, tmp_path / "b") as second_first:
        assert second_first.leads
    async with candidate(kube, tmp_path / "a") as first:
        assert first.leads
        first.on_change(told.append)
        async with candidate(kube, tmp_path / "b") as second:
            assert not second.leads
            await asyncio.sleep(SECONDS / 4)
            assert first.leads
            assert not second.leads
    assert told == [False]
    lease: Any = await kube.get("coordination.k8s.io/v1", "leases", "kubeedge", LEASE)
    assert "holderIdentity" not in lease["spec"]


async def test_the_next_one_leads_after_silence_and_never_two(
    server: KubeServer, tmp_path: Path
) -> None:
    flaky = Flaky(server.api.client("one"))
    async with (
        candidate(flaky, tmp_path / "a") as first,
        candidate(server.api.client("two"), tmp_path / "b") as second,
    ):
        both = list[bool]()
        second.on_change(lambda leads: both.append(leads and first.leads))
        flaky.is_away = True
        await leading(second)
        assert both == [False]
        flaky.is_away = False
        await asyncio.sleep(SECONDS / 4)
        assert not first.leads
        lease: Any = await server.api.client("t").get(
            "coordination.k8s.io/v1", "leases", "kubeedge", LEASE
        )
        assert lease["spec"]["leaseTransitions"] == 1


async def test_a_restart_on_the_same_disk_leads_at_once(server: KubeServer, tmp_path: Path) -> None:
    flaky = Flaky(server.api.client("one"))
    async with candidate(flaky, tmp_path / "a") as first:
        assert first.leads
        flaky.is_away = True  # it cannot hand over, as if it had been killed
    async with candidate(server.api.client("two"), tmp_path / "a") as again:
        assert again.leads


async def test_who_leads_stops_while_its_calls_hang_before_another_leads(
    server: KubeServer, tmp_path: Path
) -> None:
    flaky = Flaky(server.api.client("one"))
    async with (
        candidate(flaky, tmp_path / "a") as first,
        candidate(server.api.client("two"), tmp_path / "b") as second,
    ):
        both = list[bool]()
        second.on_change(lambda leads: both.append(leads and first.leads))
        flaky.hangs = True
        await leading(second)
        assert both == [False]
