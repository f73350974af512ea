"""What the API keeps in memory: the latest objects parsed, the others as text; changes by their bytes."""

from __future__ import annotations

import msgspec
import pytest

from gateway.errors import Gone
from gateway.kube import storage as storages
from gateway.kube.client import EventType
from gateway.kube.storage import Storage
from gateway.kube.watch import FEWEST, Change, Filter, Key, Stored, Window
from gateway.model.json import JsonObject
from gateway.store.database import Database
from gateway.wire.kube.selectors import parse_labels


def an_item(name: str, **labels: str) -> JsonObject:
    return {"metadata": {"name": name, "labels": {**labels}}, "data": {"n": 1, "x": [1.5, None]}}


def a_change(version: int, size: int) -> Change:
    key = Key("configmaps", "", "c")
    return Change(EventType.MODIFIED, None, Stored(key, version, None, b" " * size))


def test_an_object_that_rests_reads_as_before() -> None:
    item = an_item("a", color="red")
    stored = Stored(Key("nodes", "", "a"), 1, item, msgspec.json.encode(item))
    stored.rest()
    assert stored.rests
    assert stored.object == item
    assert stored.rests
    stored.wake()
    assert stored.object is stored.object


def test_a_filter_without_selectors_does_not_read_objects() -> None:
    stored = Stored(Key("nodes", "ns", "a"), 1, None, b"no JSON")
    assert Filter("ns").matches(stored)
    assert not Filter("other").matches(stored)


def test_a_window_forgets_by_bytes_but_keeps_the_latest_changes() -> None:
    window = Window(10_000, 0, 1_000)
    for version in range(1, FEWEST + 6):
        window.add(a_change(version, 100))
    assert window.floor == 5
    assert len(window.since(5)) == FEWEST
    with pytest.raises(Gone):
        window.since(4)
    roomy = Window(10_000, 0, 100 * (FEWEST + 3))
    for version in range(1, FEWEST + 6):
        roomy.add(a_change(version, 100))
    assert roomy.floor == 2


async def test_objects_nobody_asks_for_rest_and_are_found_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storages, "AWAKE", 2)
    database = Database(None, "kube")
    async with database.running():
        storage = Storage(database)
        async with storage.running():
            watcher = storage.follow("nodes", Filter(), storage.version)
            for name in "abcd":
                await storage.create(Key("nodes", "", name), an_item(name, color=name))
            kept = list(storage.all("nodes"))
            assert [stored.rests for stored in kept] == [True, True, False, False]
            red = Filter(None, parse_labels("color=a"))
            assert [s.object["data"] for s in storage.all("nodes", red)] == [an_item("a")["data"]]
            found = storage.get(Key("nodes", "", "a"))
            assert found is not None
            is_awake = not found.rests
            await storage.replace(found, an_item("a", color="new"))
            assert (is_awake, found.rests) == (True, True)  # it is the past now
            items = await watcher.next() or []
            texts = [item.stored.body.decode() for item in items]
            assert ['"color":"new"' in text for text in texts] == [False] * 4 + [True]
