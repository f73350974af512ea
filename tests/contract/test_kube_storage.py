"""What storage promises: versions that only rise, compare-and-set, watches that resume."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import Gone, NotFound, RevisionConflict, StoreUnavailable
from gateway.kube.client import EventType
from gateway.kube.storage import Storage
from gateway.kube.watch import Change, Filter, Key, Stored
from gateway.model.json import JsonObject
from gateway.store.database import Database
from gateway.wire.kube.selectors import parse_labels
from gateway.wire.kube.status import AlreadyExists, TooEarly

KIND = "things"


def a_key(name: str = "a", namespace: str = "") -> Key:
    return Key(KIND, namespace, name)


def a_thing(name: str = "a", **labels: str) -> JsonObject:
    return {"kind": "Thing", "metadata": {"name": name, "labels": dict(labels)}, "spec": {}}


@asynccontextmanager
async def storage_on(
    path: Path | None, *, window: int = 100, buffer: int = 100
) -> AsyncIterator[Storage]:
    database = Database(path, "kube")
    storage = Storage(database, window=window, buffer=buffer)
    async with database.running(), storage.running():
        yield storage


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    async with storage_on(None) as running:
        yield running


async def changed(storage: Storage, stored: Stored, times: int = 1) -> Stored:
    for number in range(times):
        stored = await storage.replace(stored, {**stored.object, "spec": {"n": number}})
    return stored


async def test_every_write_has_a_higher_version(storage: Storage) -> None:
    first = await storage.create(a_key(), a_thing())
    second = await storage.replace(first, {**first.object, "spec": {"n": 1}})
    gone = await storage.remove(second)
    assert first.version < second.version < gone.version == storage.version
    assert second.object["metadata"] == {
        "name": "a",
        "labels": {},
        "resourceVersion": str(second.version),
    }
    assert storage.get(a_key()) is None


async def test_versions_never_return_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "kube.db"
    async with storage_on(path) as storage:
        kept = await storage.create(a_key("kept"), a_thing("kept"))
        gone = await storage.remove(await storage.create(a_key(), a_thing()))
    async with storage_on(path) as storage:
        assert storage.version > gone.version
        found = storage.get(a_key("kept"))
        assert found is not None
        assert (found.key, found.version, found.object) == (kept.key, kept.version, kept.object)
        assert storage.get(a_key()) is None
        assert (await storage.create(a_key(), a_thing())).version > gone.version


async def test_a_taken_name_is_refused(storage: Storage) -> None:
    await storage.create(a_key(), a_thing())
    with pytest.raises(AlreadyExists):
        await storage.create(a_key(), a_thing())


async def test_the_second_of_two_writers_is_refused(storage: Storage) -> None:
    first = await storage.create(a_key(), a_thing())
    results = await asyncio.gather(
        *(storage.replace(first, {**first.object, "spec": {"n": n}}) for n in range(3)),
        return_exceptions=True,
    )
    assert [isinstance(result, Stored) for result in results] == [True, False, False]
    assert all(isinstance(result, RevisionConflict) for result in results[1:])
    with pytest.raises(RevisionConflict):
        await storage.remove(first)


async def test_an_object_needs_its_namespace(storage: Storage) -> None:
    with pytest.raises(NotFound, match='namespaces "n" not found'):
        await storage.create(a_key("a", "n"), a_thing())
    namespace = await storage.create(Key("namespaces", "", "n"), {"metadata": {"name": "n"}})
    inside = await storage.create(a_key("a", "n"), a_thing())
    with pytest.raises(RevisionConflict, match="not empty"):
        await storage.remove(namespace)
    await storage.remove(inside)
    await storage.remove(namespace)


async def test_a_write_of_a_caller_that_went_away_still_counts(storage: Storage) -> None:
    task = asyncio.ensure_future(storage.create(a_key(), a_thing()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await storage.create(a_key("b"), a_thing("b"))  # comes after it in the writer's queue
    assert storage.get(a_key()) is not None


async def test_listeners_hear_every_change_in_order(storage: Storage) -> None:
    heard: list[Change] = []
    storage.listen(heard.append)
    stored = await changed(storage, await storage.create(a_key(), a_thing()), 2)
    await storage.remove(stored)
    assert [change.type for change in heard] == [
        EventType.ADDED, EventType.MODIFIED, EventType.MODIFIED, EventType.DELETED,
    ]  # fmt: skip
    versions = [change.after.version for change in heard]
    assert versions == sorted(versions)


async def test_a_watch_goes_on_from_its_version(storage: Storage) -> None:
    first = await storage.create(a_key(), a_thing())
    second = await changed(storage, first)
    watcher = storage.follow(KIND, Filter(), first.version)
    items = await watcher.next()
    assert items is not None
    assert [(item.type, item.stored) for item in items] == [(EventType.MODIFIED, second)]
    await storage.remove(second)
    items = await watcher.next()
    assert items is not None
    assert [item.type for item in items] == [EventType.DELETED]
    watcher.close()
    assert await watcher.next() is None
    assert storage.watchers() == 0


async def test_a_forgotten_version_is_gone_and_a_future_one_too_early() -> None:
    async with storage_on(None, window=3) as storage:
        first = await storage.create(a_key(), a_thing())
        last = await changed(storage, first, 5)
        with pytest.raises(Gone, match="too old resource version"):
            storage.follow(KIND, Filter(), first.version)
        storage.follow(KIND, Filter(), last.version - 3).close()
        with pytest.raises(TooEarly):
            storage.follow(KIND, Filter(), last.version + 1)


async def test_a_watch_from_before_a_restart_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "kube.db"
    async with storage_on(path) as storage:
        last = await changed(storage, await storage.create(a_key(), a_thing()))
    async with storage_on(path) as storage:
        with pytest.raises(Gone):
            storage.follow(KIND, Filter(), last.version)
        watcher = storage.follow(KIND, Filter(), storage.version)
        newer = await changed(storage, last)
        items = await watcher.next()
        assert items is not None
        assert [item.stored.version for item in items] == [newer.version]


async def test_a_slow_watcher_is_cut_off_and_others_go_on() -> None:
    async with storage_on(None, buffer=2) as storage:
        stored = await storage.create(a_key(), a_thing())
        slow = storage.follow(KIND, Filter(), stored.version)
        quick = storage.follow(KIND, Filter(), stored.version)
        for number in range(5):
            stored = await storage.replace(stored, {**stored.object, "spec": {"n": number}})
            items = await quick.next()
            assert items is not None
            assert len(items) == 1
        assert slow.is_closed
        assert await slow.next() is None
        assert storage.watchers() == 1


async def test_objects_enter_and_leave_a_selection(storage: Storage) -> None:
    watcher = storage.follow(KIND, Filter(labels=parse_labels("on=yes")), storage.version)
    stored = await storage.create(a_key(), a_thing())
    stored = await storage.replace(stored, a_thing("a", on="yes"))
    stored = await storage.replace(stored, a_thing("a", on="yes", more="1"))
    stored = await storage.replace(stored, a_thing("a", on="no"))
    items = await watcher.next()
    assert items is not None
    assert [item.type for item in items] == [EventType.ADDED, EventType.MODIFIED, EventType.DELETED]
    assert items[-1].stored.version == stored.version
    labels = items[-1].stored.object["metadata"]["labels"]  # type: ignore[index,call-overload]  # an object's form
    assert labels == {"on": "yes", "more": "1"}


async def test_the_end_of_waiting_is_an_empty_answer(storage: Storage) -> None:
    watcher = storage.follow(KIND, Filter(), storage.version)
    now = asyncio.get_running_loop().time()
    assert await watcher.next(now + 0.01) == []
    watcher.close()


async def test_pages_show_one_instant(storage: Storage) -> None:
    stored = {name: await storage.create(a_key(name), a_thing(name)) for name in "abcdef"}
    first = storage.page(KIND, Filter(), limit=2)
    assert ([item.key.name for item in first.items], first.rest) == (["a", "b"], 4)
    await storage.remove(stored["c"])
    await storage.create(a_key("cc"), a_thing("cc"))
    await changed(storage, stored["d"])
    assert first.last is not None
    after = (first.last.namespace, first.last.name)
    second = storage.page(KIND, Filter(), after=after, version=first.version)
    assert second.items == [stored[name] for name in "cdef"]
    assert second.version == first.version
    assert [item.key.name for item in storage.page(KIND, Filter()).items] == [
        "a",
        "b",
        "cc",
        "d",
        "e",
        "f",
    ]


async def test_a_page_of_a_forgotten_instant_is_gone() -> None:
    async with storage_on(None, window=2) as storage:
        stored = await storage.create(a_key(), a_thing())
        await changed(storage, stored, 5)
        with pytest.raises(Gone, match="continue parameter is too old"):
            storage.page(KIND, Filter(), version=stored.version)


async def test_a_closed_database_refuses_writes() -> None:
    async with storage_on(None) as storage:
        pass
    with pytest.raises(StoreUnavailable):
        await storage.create(a_key(), a_thing())


async def test_leaving_ends_all_watches() -> None:
    async with storage_on(None) as storage:
        await storage.create(a_key(), a_thing())
        watcher = storage.follow(KIND, Filter(), storage.version)
    assert await watcher.next() is None


async def test_pages_of_one_namespace_stay_in_it_and_count_what_follows_there(
    storage: Storage,
) -> None:
    for namespace in ("a", "b", "bb"):
        await storage.create(Key("namespaces", "", namespace), {"metadata": {"name": namespace}})
        for name in ("x", "y", "z"):
            await storage.create(a_key(name, namespace), a_thing(name))
    first = storage.page(KIND, Filter("b"), limit=1)
    assert [item.key for item in first.items] == [a_key("x", "b")]
    assert first.rest == 2
    await storage.remove(first.items[0])
    await storage.create(a_key("yy", "b"), a_thing("yy"))
    for version, names in ((first.version, ["y", "z"]), (None, ["y", "yy", "z"])):
        rest = storage.page(KIND, Filter("b"), after=("b", "x"), version=version)
        assert [item.key.name for item in rest.items] == names
    assert storage.page(KIND, Filter("c")).items == []
    assert [item.key.namespace for item in storage.page(KIND, Filter("a")).items] == ["a"] * 3


async def test_those_who_keep_an_object_share_it() -> None:
    body = b'{"metadata":{"name":"a","managedFields":[{"manager":"m"}]},"data":{"x":"1"}}'
    stored = Stored(Key("things", "", "a"), 1, None, body)
    kept = stored.plain
    assert kept == {"metadata": {"name": "a"}, "data": {"x": "1"}}
    assert stored.plain is kept
    assert "managedFields" in str(stored.object)
    del kept
    assert stored.plain == {"metadata": {"name": "a"}, "data": {"x": "1"}}
