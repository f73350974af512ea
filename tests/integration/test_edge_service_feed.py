"""Where a node learns of Services: the cloud's changes, the disk without a cloud, its own Pods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from edge.applications import Applications
from edge.metakinds import KNOWN
from edge.metarecords import MetaRecords
from edge.network import services
from edge.network.services import Cloud, ServiceFeed
from edge.network.servicetable import ServiceTable
from edge.pods.podspec import read_pod
from edge.pods.ports import Observed, PodView, Running
from edge.store import EdgeStore
from gateway.errors import Forbidden, GatewayError, Undeliverable
from gateway.model.json import JsonObject
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.wire.cloudedge.applications import Application
from tests.integration.edge_support import until
from tests.service_samples import NODE, a_pod, a_service, a_slice, an_endpoint

SERVICES = next(kind for kind in KNOWN if kind.plural == "services")
SLICES = next(kind for kind in KNOWN if kind.plural == "endpointslices")


class Away:
    """A cloud that is away; or one that refuses."""

    def __init__(self, refusal: GatewayError | None = None) -> None:
        self.live: set[str] = set()
        self.held: list[str] = []
        self._refusal = refusal

    async def hold(self, app: Application) -> None:
        self.held.append(app.key)
        if self._refusal is not None:
            raise self._refusal
        self.live.add(app.id)

    def release(self, app: Application) -> None:
        self.live.discard(app.id)

    async def refresh(self, app: Application) -> None:
        raise Undeliverable("away")


class View:
    def __init__(self) -> None:
        self.found: list[JsonObject] = []

    def pods(self) -> list[Running]:
        return [
            Running(read_pod(pod), cast("JsonObject", pod["status"]), Observed("u"))
            for pod in self.found
        ]


@asynccontextmanager
async def a_feed(
    folder: Path, cloud: Away, view: View | None = None
) -> AsyncIterator[ServiceTable]:
    store = EdgeStore(Database(folder / "edge.db", "edge"))
    async with running(store):
        records = MetaRecords(store)
        await records.load()
        table = ServiceTable(NODE)
        where = Cloud(NODE, records, cast("Applications", cloud))
        async with running(ServiceFeed(where, table, cast("PodView", view) if view else None)):
            yield table


def versioned(item: JsonObject, version: int = 7) -> JsonObject:
    metadata = cast("JsonObject", item["metadata"])
    return {**item, "metadata": {**metadata, "resourceVersion": str(version)}}


async def stored(folder: Path) -> None:
    store = EdgeStore(Database(folder / "edge.db", "edge"))
    async with running(store):
        records = MetaRecords(store)
        await records.keep(SERVICES, versioned(a_service(selector={"app": "web"})))
        await records.keep(SLICES, versioned(a_slice(an_endpoint("10.88.0.4"))))


async def test_without_a_cloud_the_disk_tells_of_services_and_endpoints(tmp_path: Path) -> None:
    await stored(tmp_path)
    cloud = Away()
    async with a_feed(tmp_path, cloud) as table:
        assert table.is_known
        assert [e.address for e in table.endpoints(("shop", "web"))] == ["10.88.0.4"]
        await until(lambda: len(cloud.live) == 2)
        assert sorted(cloud.held) == [
            "/core/v1/services/null/null",
            "/discovery.k8s.io/v1/endpointslices/null/null",
        ]
    assert cloud.live == set()


async def test_a_crashed_pod_s_new_address_counts_without_a_cloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "POLL_SECONDS", 0.01)
    await stored(tmp_path)
    view = View()
    async with a_feed(tmp_path, Away(), view) as table:

        def addresses() -> list[str]:
            return [e.address for e in table.endpoints(("shop", "web"))]

        assert addresses() == ["10.88.0.4"]  # nobody has looked at Pods yet
        for address in ("10.88.0.5", "10.88.0.6"):
            view.found = [a_pod(ip=address)]
            await until(lambda address=address: addresses() == [address])  # type: ignore[misc]


async def test_changes_and_ends_are_taken_as_they_come(tmp_path: Path) -> None:
    store = EdgeStore(Database(tmp_path / "edge.db", "edge"))
    async with running(store):
        records = MetaRecords(store)
        table = ServiceTable(NODE)
        where = Cloud(NODE, records, cast("Applications", Away()))
        async with running(ServiceFeed(where, table, None)):
            assert not table.is_known
            await records.keep(SERVICES, versioned(a_service()))
            await until(lambda: table.find("shop", "web") is not None)
            await records.forget(SERVICES, "/core/v1/services/shop/web")
            await until(lambda: table.find("shop", "web") is None)
            assert len(table) == 0


async def test_more_than_can_wait_is_read_anew(tmp_path: Path) -> None:
    store = EdgeStore(Database(tmp_path / "edge.db", "edge"))
    async with running(store):
        records = MetaRecords(store)
        table = ServiceTable(NODE)
        where = Cloud(NODE, records, cast("Applications", Away()))
        async with running(ServiceFeed(where, table, None)):
            await records.keep(SERVICES, versioned(a_service()))
            records.window.close()
            await until(lambda: records.window.followers == 2)
            assert table.find("shop", "web") is not None


async def test_a_cloud_that_refuses_is_told_of_and_asked_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = Away(Forbidden("services is forbidden"))
    async with a_feed(tmp_path, cloud) as table:
        await until(lambda: len(cloud.held) == 2)
        await asyncio.sleep(0)
        assert not table.is_known
    assert "the cloud does not tell of Services" in caplog.text
