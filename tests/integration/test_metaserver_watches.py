"""Watches of MetaServer: with the cloud, through cuts, from disk; and with real clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes.watch
import pytest

from gateway.config.edge_services import MetaServer
from gateway.wire.cloudedge.names import Operation
from tests.integration.api_cloud import ApiCloud, Refused, an_api_cloud
from tests.integration.edge_node import MODEL, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.integration.metaserver_client import AWAY, PODS, client_of, nothing_more
from tests.process import tool


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[ApiCloud]:
    async with an_api_cloud(tmp_path / "cloud") as running:
        yield running


@pytest.fixture
async def data_dir(cloud: ApiCloud, tmp_path: Path) -> Path:
    await join_edge(cloud, tmp_path / "edge")
    return tmp_path / "edge"


async def test_a_watch_shows_what_is_there_and_then_what_changes(
    cloud: ApiCloud, data_dir: Path
) -> None:
    cloud.apply("pods", "p1")
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        async with client.watch(PODS) as events:
            assert await events.get() == ("ADDED", "p1")
            assert len(cloud.watches) == 1
            cloud.apply("pods", "p2")
            await cloud.tell("pods", "p2", Operation.INSERT)
            assert await events.get() == ("ADDED", "p2")
            cloud.apply("pods", "p1", spec={"x": 1})
            await cloud.tell("pods", "p1")
            assert await events.get() == ("MODIFIED", "p1")
            await cloud.remove("pods", "p1")
            assert await events.get() == ("DELETED", "p1")
            await nothing_more(events)


async def test_a_selector_shows_objects_that_come_into_it_and_leave_it(
    cloud: ApiCloud, data_dir: Path
) -> None:
    cloud.apply("pods", "p1", labels={"app": "b"})
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        async with client.watch(PODS, labelSelector="app=a") as events:
            for labels, event in (({"app": "a"}, "ADDED"), ({"app": "b"}, "DELETED")):
                cloud.apply("pods", "p1", labels=labels)
                await cloud.tell("pods", "p1")
                assert await events.get() == (event, "p1")
            cloud.apply("pods", "p1", labels={"app": "c"})
            await cloud.tell("pods", "p1")
            await nothing_more(events)


async def test_a_watch_goes_on_from_a_list_and_one_too_old_is_told_so(
    cloud: ApiCloud, data_dir: Path
) -> None:
    cloud.apply("pods", "p1")
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        _, listed, _ = await client.ask("GET", PODS)
        version = listed["metadata"]["resourceVersion"]
        late = cloud.apply("pods", "p2")
        late["metadata"]["resourceVersion"] = "500"  # older than the list, and not in it
        await cloud.tell("pods", "p2")
        async with client.watch(PODS, resourceVersion=version) as events:
            assert await events.get() == ("ADDED", "p2")
            await nothing_more(events)
        async with client.watch(PODS, resourceVersion="77") as events:
            assert await events.get() == ("ERROR", 410)
            assert await events.get() is None


async def test_what_went_while_the_link_was_down_is_found_when_it_is_back(
    cloud: ApiCloud, data_dir: Path
) -> None:
    cloud.apply("pods", "p1")
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        async with client.watch(PODS) as events:
            assert await events.get() == ("ADDED", "p1")
            synced = len(cloud.synced)
            await cloud.remove("pods", "p1", is_told=False)
            cloud.apply("pods", "p2")
            cloud.watches.clear()
            await cloud.cut()
            found = {await events.get(), await events.get()}
            assert found == {("DELETED", "p1"), ("ADDED", "p2")}
            assert len(cloud.synced) > synced
            assert len(cloud.watches) == 1


async def test_bookmarks_end_the_first_objects_where_they_are_wanted(
    cloud: ApiCloud, data_dir: Path
) -> None:
    cloud.apply("pods", "p1")
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        async with client.watch(PODS, **query) as events:
            assert await events.get() == ("ADDED", "p1")
            assert (await events.get())[0] == "BOOKMARK"
        status, found, _ = await client.ask("GET", PODS + "?watch=1&sendInitialEvents=true")
        assert (status, found["reason"]) == (422, "Invalid")


async def test_a_watch_works_from_disk_and_ends_in_its_time(
    cloud: ApiCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp="25"))
    async with a_node(data_dir, server=AWAY) as node, client_of(node) as client:
        path = "/apis/devices.kubeedge.io/v1beta1/devices"
        async with client.watch(path, timeoutSeconds="1") as events:
            assert await events.get() == ("ADDED", "d1")
            assert await asyncio.wait_for(events.get(), 10) is None


async def test_watches_are_counted_and_bounded_and_let_go(cloud: ApiCloud, data_dir: Path) -> None:
    def held() -> float | None:
        return node.metrics.registry.get_sample_value("twinspan_edge_metaserver_watches")

    cloud.apply("pods", "p1")
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        async with client.watch(PODS) as first, client.watch(PODS) as second:
            for events in (first, second):
                assert await events.get() == ("ADDED", "p1")
            assert held() == 2
            assert len(cloud.watches) == 1
        await until(lambda: held() == 0)


async def test_a_refused_watch_is_no_stream(cloud: ApiCloud, data_dir: Path) -> None:
    def refuse(_app: Any) -> None:
        raise Refused(403, "Forbidden")

    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        cloud.refuse = refuse
        status, found, _ = await client.ask("GET", f"{PODS}?watch=1")
        assert (status, found["kind"]) == (403, "Status")


# --- clients ---------------------------------------------------------------------------------------


async def test_the_official_clients_watch_goes_on_through_a_cut(
    cloud: ApiCloud, data_dir: Path
) -> None:
    loop = asyncio.get_running_loop()
    seen: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def follow(base: str) -> None:
        api = kubernetes.client.CoreV1Api(
            kubernetes.client.ApiClient(kubernetes.client.Configuration(host=base))
        )
        stream = kubernetes.watch.Watch().stream(  # type: ignore[no-untyped-call]
            api.list_namespaced_config_map, "default"
        )
        for event in stream:
            name = event["object"].metadata.name
            loop.call_soon_threadsafe(seen.put_nowait, (event["type"], name))
            if name == "last":
                return

    cloud.apply("configmaps", "first", data={"a": "1"})
    async with a_node(data_dir) as node, client_of(node) as client:
        await linked(node, cloud)
        follower = asyncio.create_task(asyncio.to_thread(follow, client.base))
        assert await asyncio.wait_for(seen.get(), 20) == ("ADDED", "first")
        await cloud.remove("configmaps", "first", is_told=False)
        await cloud.cut()
        assert await asyncio.wait_for(seen.get(), 20) == ("DELETED", "first")
        cloud.apply("configmaps", "last")
        await cloud.tell("configmaps", "last", Operation.INSERT)
        assert await asyncio.wait_for(seen.get(), 20) == ("ADDED", "last")
        await asyncio.wait_for(follower, 20)


async def test_kubectl_watches_from_disk(cloud: ApiCloud, data_dir: Path, tmp_path: Path) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp="25"))
    async with a_node(data_dir, server=AWAY) as node, client_of(node) as client:
        process = await asyncio.create_subprocess_exec(
            tool("kubectl"),
            f"--server={client.base}",
            f"--cache-dir={tmp_path}",
            *("get", "devices", "-w", "--output-watch-events"),
            env={"HOME": str(tmp_path)},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            head = await asyncio.wait_for(process.stdout.readline(), 20)
            row = await asyncio.wait_for(process.stdout.readline(), 20)
        finally:
            process.terminate()
            await process.wait()
        assert head.split() == [b"EVENT", b"NAME", b"AGE"]
        assert row.split()[:2] == [b"ADDED", b"d1"]


async def test_more_watches_than_are_allowed_are_refused(cloud: ApiCloud, data_dir: Path) -> None:
    few = MetaServer(bind="127.0.0.1:0", max_watches=1)
    async with a_node(data_dir, metaserver=few) as node, client_of(node) as client:
        await linked(node, cloud)
        cloud.apply("pods", "p1")
        async with client.watch(PODS) as events:
            assert await events.get() == ("ADDED", "p1")
            status, found, _ = await client.ask("GET", f"{PODS}?watch=1")
            assert (status, found["reason"]) == (429, "TooManyRequests")


async def test_what_was_stored_before_there_was_a_metaserver_is_shown(
    cloud: ApiCloud, data_dir: Path
) -> None:
    off = MetaServer(enabled=False)
    async with a_node(data_dir, metaserver=off) as node:
        await linked(node, cloud)
        await cloud.push("pod", "p1", {"spec": {"nodeName": "edge-1"}})
    async with a_node(data_dir, server=AWAY) as node, client_of(node) as client:
        assert await client.names(PODS) == (["p1"], "disk")


async def test_a_watch_event_of_a_pod_does_not_touch_the_nodes_own(
    cloud: ApiCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("pod", "p1", {"spec": {"nodeName": "edge-1"}})
        seen = cloud.apply("pods", "p1", spec={"nodeName": "edge-2"})
        await cloud.tell("pods", "p1")
        (own,) = await node.core.meta.list("pod")
        assert own["spec"] == {"nodeName": "edge-1"}
        assert seen["spec"] == {"nodeName": "edge-2"}
        await cloud.remove("pods", "p1")
        assert len(await node.core.meta.list("pod")) == 1
