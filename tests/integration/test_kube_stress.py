"""Many writers, watchers that come back, a killed server: what a client builds is what is stored."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.config.kube import Kube, KubeHttps
from gateway.errors import Conflict, Gone, NotFound, Unprocessable
from gateway.kube.admission import WriteOptions
from gateway.kube.checks import DeleteOptions
from gateway.kube.client import EventType, KubeClient, PatchType
from gateway.kube.remote import connect
from gateway.kube.storage import Storage
from gateway.kube.watch import Key
from gateway.model.json import Json, JsonObject
from gateway.store.database import Database
from tests.cloud_rig import eventually
from tests.kube_server import KubeServer, kube_server

SMALL = Kube(https=KubeHttps(bind="127.0.0.1:0"), watch_window=60, watch_buffer=40)
CONFIGMAPS = ("v1", "configmaps")
NAMES = [f"c{n}" for n in range(8)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path, SMALL) as running:
        await running.api.client("t").create("v1", "namespaces", None, {"metadata": {"name": "s"}})
        yield running


def meta(item: JsonObject) -> JsonObject:
    found = item["metadata"]
    assert isinstance(found, dict)
    return found


class Mirror:
    """What a client knows from lists and watches; it leaves in the middle and comes back."""

    def __init__(self, client: KubeClient, seed: int, labels: str | None = None) -> None:
        self.client = client
        self.random = random.Random(seed)
        self.labels = labels
        self.items: dict[str, JsonObject] = {}
        self.version: str | None = None
        self.relists = 0

    async def follow(self) -> None:
        while True:
            try:
                await (self.list() if self.version is None else self.watch())
            except Gone:
                self.version = None

    async def list(self) -> None:
        self.relists += 1
        page: str | None = None
        items: dict[str, JsonObject] = {}
        while True:
            found = await self.client.list(*CONFIGMAPS, "s", labels=self.labels, limit=3, page=page)
            for item in found.items:
                assert str(meta(item)["name"]) not in items, "an object on two pages"
                items[str(meta(item)["name"])] = item
            page = found.next_page
            if page is None:
                break
        self.items, self.version = items, found.resource_version

    async def watch(self) -> None:
        stays = self.random.randrange(1, 60)
        stream = self.client.watch(
            *CONFIGMAPS, "s", resource_version=self.version, labels=self.labels
        )
        async for event in stream:
            self.take(event.type, event.object, event.resource_version)
            stays -= 1
            if stays == 0:
                await stream.aclose()  # type: ignore[attr-defined]
                return

    def take(self, kind: EventType, item: JsonObject, version: str) -> None:
        assert self.version is not None
        assert int(version) > int(self.version), "an event again, or out of order"
        self.version = version
        name = str(meta(item)["name"])
        if kind is EventType.DELETED:
            assert name in self.items, "the end of what never was"
            del self.items[name]
        elif kind is not EventType.BOOKMARK:
            assert (name in self.items) is (kind is EventType.MODIFIED)
            self.items[name] = item


async def write(client: KubeClient, seed: int, steps: int) -> None:
    rng = random.Random(seed)
    for step in range(steps):
        name = rng.choice(NAMES)
        body: JsonObject = {
            "metadata": {"name": name, "labels": {"odd": str(rng.randrange(2))}},
            "data": {"by": f"{seed}-{step}"},
        }
        act = rng.randrange(4)
        with suppress(Conflict, NotFound, Unprocessable):
            if act == 0:
                await client.create(*CONFIGMAPS, "s", body)
            elif act == 1:
                await client.delete(*CONFIGMAPS, "s", name)
            elif act == 2:
                await client.patch(*CONFIGMAPS, "s", name, body)
            else:
                before = await client.get(*CONFIGMAPS, "s", name)
                body["metadata"] = {**meta(before), "labels": {"odd": str(rng.randrange(2))}}
                await client.update(*CONFIGMAPS, "s", body)


@pytest.mark.parametrize("way", ["local", "remote"])
async def test_every_watcher_ends_with_what_is_stored(server: KubeServer, way: str) -> None:
    async with connect(server.kubeconfig, manager="m") as remote:
        client = server.api.client("w")
        reader = remote if way == "remote" else client
        mirrors = [Mirror(reader, seed) for seed in range(4)]
        mirrors += [Mirror(reader, seed, "odd=1") for seed in range(4, 8)]
        following = [asyncio.create_task(mirror.follow()) for mirror in mirrors]
        await asyncio.gather(*(write(client, seed, 80) for seed in range(8)))

        async def is_same(mirror: Mirror) -> bool:
            stored = (await reader.list(*CONFIGMAPS, "s", labels=mirror.labels)).items
            failed = [task for task in following if task.done()]
            for task in failed:
                task.result()
            return mirror.items == {str(meta(item)["name"]): item for item in stored}

        for mirror in mirrors:
            await eventually(lambda mirror=mirror: is_same(mirror))  # type: ignore[misc]
        for task in following:
            task.cancel()
        await asyncio.wait(following)


async def test_patches_with_tests_count_each_step_once(server: KubeServer) -> None:
    """Twenty writers count one number up by compare-and-set; none is lost and none counts twice."""
    client = server.api.client("w")
    body: JsonObject = {"metadata": {"name": "n"}, "data": {"count": "0"}}
    await client.create(*CONFIGMAPS, "s", body)

    async def count_up() -> None:
        while True:
            item = await client.get(*CONFIGMAPS, "s", "n")
            data = item["data"]
            assert isinstance(data, dict)
            seen = str(data["count"])
            patch: Json = [
                {"op": "test", "path": "/data/count", "value": seen},
                {"op": "replace", "path": "/data/count", "value": str(int(seen) + 1)},
            ]
            try:
                await client.patch(*CONFIGMAPS, "s", "n", patch, patch_type=PatchType.JSON)
            except (Unprocessable, Conflict):
                continue
            return

    await asyncio.gather(*(count_up() for _ in range(20)))
    assert (await client.get(*CONFIGMAPS, "s", "n"))["data"] == {"count": "20"}


async def test_pages_of_one_list_show_one_instant(server: KubeServer) -> None:
    client = server.api.client("w")
    for name in NAMES:
        await client.create(*CONFIGMAPS, "s", {"metadata": {"name": name}, "data": {"n": "1"}})
    first = await client.list(*CONFIGMAPS, "s", limit=2)
    expected = (await client.list(*CONFIGMAPS, "s")).items
    await client.delete(*CONFIGMAPS, "s", NAMES[3])
    await client.create(*CONFIGMAPS, "s", {"metadata": {"name": "c2a"}})
    await client.patch(*CONFIGMAPS, "s", NAMES[5], {"data": {"n": "2"}})
    items, page = list(first.items), first.next_page
    while page:
        found = await client.list(*CONFIGMAPS, "s", limit=2, page=page)
        items += found.items
        page = found.next_page
        assert found.resource_version == first.resource_version
    assert items == expected


WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.kube.storage import Storage
from gateway.kube.watch import Key
from gateway.store.database import Database

async def main():
    database = Database(Path(sys.argv[1]), "kube")
    storage = Storage(database)
    async with database.running(), storage.running():
        stored = await storage.create(Key("k", "", "a"), {"metadata": {"name": "a"}})
        while True:
            stored = await storage.replace(stored, stored.object)
            print(stored.version, flush=True)

asyncio.run(main())
"""


async def test_a_killed_server_has_every_version_that_it_gave_out(tmp_path: Path) -> None:
    path, last = tmp_path / "kube.db", 0
    for _ in range(2):
        writer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITER, str(path)), stdout=asyncio.subprocess.PIPE
        )
        assert writer.stdout is not None
        first = int(await writer.stdout.readline())
        assert first > last, "a version came again"
        for _ in range(20):
            last = int(await writer.stdout.readline())
        writer.kill()
        rest = (await writer.stdout.read()).split(b"\n")[:-1]
        last = int(rest[-1]) if rest else last
        await writer.wait()
        database = Database(path, "kube")
        storage = Storage(database)
        async with database.running(), storage.running():
            stored = storage.get(Key("k", "", "a"))
            assert stored is not None
            assert stored.version >= last
            assert json.loads(stored.body)["metadata"]["resourceVersion"] == str(stored.version)
            last = (await storage.remove(stored)).version


async def test_a_dry_run_leaves_no_trace(server: KubeServer) -> None:
    storage = server.api.objects.storage
    objects, admin = server.api.objects, server.api.client("w")
    await admin.create(*CONFIGMAPS, "s", {"metadata": {"name": "c"}, "data": {"a": "1"}})
    before, kinds = storage.version, storage.kinds()
    dry = WriteOptions(manager="m", dry_run=True, force=True)
    kind = objects.resource("v1", "configmaps")
    made = await objects.create(kind, "s", {"metadata": {"name": "d"}}, dry)
    assert made.stored.object["kind"] == "ConfigMap"
    for patch_type in (PatchType.MERGE, PatchType.STRATEGIC, PatchType.APPLY):
        patch: JsonObject = {"data": {"a": "2"}}
        changed = await objects.patch(kind, "s", "c", patch, patch_type, dry)
        assert changed.stored.object["data"] == {"a": "2"}
    gone = await objects.delete(kind, "s", "c", DeleteOptions(dry_run=True))
    assert gone.is_gone
    assert (storage.version, storage.kinds()) == (before, kinds)
