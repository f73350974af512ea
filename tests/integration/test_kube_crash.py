"""A server that is killed, files that lost their end: what was acknowledged is there, no version returns."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gateway.errors import GatewayError, Gone
from gateway.kube.client import EventType, KubeClient
from gateway.kube.remote import connect
from gateway.kube.storage import FIRST_DAY, VERSIONS_PER_SECOND, Storage
from gateway.kube.watch import Filter, Key
from gateway.model.json import JsonObject
from gateway.store.database import Database
from tests.cloud_rig import eventually
from tests.kube_server import kube_server

CONFIGMAPS = ("v1", "configmaps")
WRITERS, OBJECTS = 6, 5
SERVER = """
import asyncio, sys
from pathlib import Path
from tests.cloud_rig import eventually
from tests.kube_server import kube_server

async def main():
    async with kube_server(Path(sys.argv[1])) as server:
        print(server.kubeconfig, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def until(holds: Callable[[], bool]) -> None:
    async def check() -> bool:
        return holds()

    await eventually(check)


def meta(item: JsonObject) -> JsonObject:
    found = item["metadata"]
    assert isinstance(found, dict)
    return found


def version_of(item: JsonObject) -> int:
    return int(str(meta(item)["resourceVersion"]))


@dataclass
class Ledger:
    """What was acknowledged: the last number written to each object, and every version in the order heard."""

    numbers: dict[str, int] = field(default_factory=dict)
    versions: dict[str, list[int]] = field(default_factory=dict)
    acknowledged: int = 0

    def note(self, item: JsonObject, number: int) -> None:
        name = str(meta(item)["name"])
        self.numbers[name] = number
        self.versions.setdefault(name, []).append(version_of(item))
        self.acknowledged += 1


async def write(client: KubeClient, writer: int, ledger: Ledger) -> None:
    """Write ever higher numbers until the server is gone."""
    number = 0
    with suppress(GatewayError, OSError):
        while True:
            number += 1
            name = f"w{writer}-{number % OBJECTS}"
            body: JsonObject = {"metadata": {"name": name}, "data": {"n": str(number)}}
            if number <= OBJECTS and name not in ledger.numbers:
                item = await client.create(*CONFIGMAPS, "default", body)
            else:
                number = max(number, ledger.numbers.get(name, 0) + OBJECTS)
                item = await client.patch(
                    *CONFIGMAPS, "default", name, {"data": {"n": str(number)}}
                )
            ledger.note(item, number)


class Mirror:
    """A watcher that lists when it is told to, and else goes on where it was."""

    def __init__(self) -> None:
        self.items: dict[str, JsonObject] = {}
        self.version: str | None = None
        self.relists = 0

    async def follow(self, client: KubeClient) -> None:
        with suppress(GatewayError, OSError):
            while True:
                try:
                    await self._watch(client)
                except Gone:
                    self.version = None

    async def _watch(self, client: KubeClient) -> None:
        if self.version is None:
            self.relists += 1
            found = await client.list(*CONFIGMAPS, "default")
            self.items = {str(meta(item)["name"]): item for item in found.items}
            self.version = found.resource_version
        async for event in client.watch(*CONFIGMAPS, "default", resource_version=self.version):
            assert int(event.resource_version) >= int(self.version or 0), "a version went back"
            self.version = event.resource_version
            if event.type is EventType.DELETED:
                self.items.pop(str(meta(event.object)["name"]), None)
            elif event.type is not EventType.BOOKMARK:
                self.items[str(meta(event.object)["name"])] = event.object


async def until_killed(folder: Path, ledger: Ledger, mirror: Mirror, writes: int) -> None:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVER, str(folder)), stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    kubeconfig = Path((await server.stdout.readline()).decode().strip())
    goal = ledger.acknowledged + writes
    async with connect(kubeconfig, manager="t") as client, asyncio.TaskGroup() as group:
        watching = group.create_task(mirror.follow(client))
        writers = [group.create_task(write(client, number, ledger)) for number in range(WRITERS)]
        await until(lambda: ledger.acknowledged >= goal)
        server.kill()
        await asyncio.gather(*writers)
        await server.wait()
        watching.cancel()


async def test_what_a_killed_server_acknowledged_is_there_and_watchers_see_no_gap(
    tmp_path: Path,
) -> None:
    ledger, mirror = Ledger(), Mirror()
    for _ in range(2):
        await until_killed(tmp_path, ledger, mirror, 150)
    async with (
        kube_server(tmp_path) as server,
        connect(server.kubeconfig, manager="t") as client,
    ):
        found = (await client.list(*CONFIGMAPS, "default")).items
        stored = {str(meta(item)["name"]): item for item in found}
        for name, number in ledger.numbers.items():
            data = stored[name]["data"]
            assert isinstance(data, dict)
            assert int(str(data["n"])) >= number, f"{name} lost a write"
            assert version_of(stored[name]) >= ledger.versions[name][-1]
        for versions in ledger.versions.values():
            assert versions == sorted(set(versions)), "versions do not strictly rise"
        last = await client.create(*CONFIGMAPS, "default", {"metadata": {"name": "last"}})
        following = asyncio.create_task(mirror.follow(client))
        await until(lambda: "last" in mirror.items)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        stored["last"] = last
        assert mirror.items == stored
        assert mirror.relists > 1, "a watch from before a start was told to go on"


async def test_a_log_that_lost_its_end_leaves_a_beginning_of_the_past_and_new_versions(
    tmp_path: Path,
) -> None:
    path = tmp_path / "kube.db"
    database = Database(path, "kube")
    storage = Storage(database)
    made: dict[int, str] = {}
    async with database.running(), storage.running():
        for number in range(40):
            key = Key("things", "", f"t{number:02}")
            stored = await storage.create(key, {"metadata": {"name": key.name}, "n": number})
            made[stored.version] = key.name
        log = path.with_name("kube.db-wal").read_bytes()
        cuts = [len(log) * part // 7 + 13 * part for part in range(7)]
        for cut in cuts:
            folder = tmp_path / f"cut{cut}"
            folder.mkdir()
            shutil.copy(path, folder / "kube.db")
            (folder / "kube.db-wal").write_bytes(log[:cut])
        newest = storage.version
    expected = [made[version] for version in sorted(made)]
    for cut in cuts:
        database = Database(tmp_path / f"cut{cut}" / "kube.db", "kube")
        storage = Storage(database)
        async with database.running(), storage.running():
            names = [stored.key.name for stored in storage.all("things")]
            assert names == expected[: len(names)], "a later write is there without an earlier one"
            assert storage.version > newest, "a version could come again"
            for stored in storage.all("things"):
                assert json.loads(stored.body)["metadata"]["resourceVersion"] == str(stored.version)


async def test_a_file_put_back_from_a_copy_gives_out_no_version_again(tmp_path: Path) -> None:
    path = tmp_path / "kube.db"
    seconds = [1_800_000_000.0]
    for turn in ("copied", "lost", "restored"):
        database = Database(path, "kube")
        storage = Storage(database, now=lambda: seconds[0])
        async with database.running(), storage.running():
            beginning = storage.version
            assert beginning == int((seconds[0] - FIRST_DAY) * VERSIONS_PER_SECOND)
            stored = await storage.create(Key("things", "", turn), {"metadata": {"name": turn}})
            assert stored.version == beginning + 1
            watcher = storage.follow("things", Filter(), beginning)
            watcher.close()
            try:
                storage.follow("things", Filter(), beginning - 1)
            except Gone:
                pass
            else:
                raise AssertionError("a watch goes on over a start")
        if turn == "copied":
            shutil.copy(path, tmp_path / "copy")
        elif turn == "lost":
            shutil.copy(tmp_path / "copy", path)
        seconds[0] += 1


async def test_a_clock_that_went_back_does_not_take_versions_with_it(tmp_path: Path) -> None:
    path, last = tmp_path / "kube.db", 0
    for seconds in (1_800_000_000.0, 5.0, 1_700_000_000.0):
        database = Database(path, "kube")
        storage = Storage(database, now=partial(float, seconds))
        async with database.running(), storage.running():
            name = f"t{seconds}"
            stored = await storage.create(Key("things", "", name), {"metadata": {"name": name}})
            assert stored.version > last
            last = stored.version


async def test_two_hundred_watchers_that_do_not_read_take_bounded_memory_and_can_go_on() -> None:
    database = Database(None, "kube")
    storage = Storage(database, window=300, window_bytes=600_000, buffer=50)
    async with database.running(), storage.running():
        key = Key("things", "", "t")
        stored = await storage.create(key, {"metadata": {"name": "t"}, "pad": ""})
        since = stored.version
        watchers = [storage.follow("things", Filter(), since) for _ in range(200)]
        kept = 0
        for number in range(200):
            item: JsonObject = {"metadata": {"name": "t"}, "pad": "x" * 2_000, "n": number}
            stored = await storage.replace(stored, item)
            waiting = {id(item): len(item.stored.body) for w in watchers for item in w.waiting()}
            kept = max(kept, sum(waiting.values()))
        assert all(watcher.is_closed for watcher in watchers)
        assert storage.watchers() == 0
        assert 0 < kept <= 51 * 2_200, "each waiting event is held once for all watchers"
        again = storage.follow("things", Filter(), since)
        items = await again.next()
        assert items is not None
        assert [item.stored.object["n"] for item in items] == list(range(200))
