"""The mirrors of the API, and the worker that runs once per key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cloud.wanted import is_later
from gateway.errors import Gone, NotFound, StoreUnavailable
from gateway.kube.client import EventType, ObjectList, WatchEvent
from gateway.kube.informer import Change, Informer
from gateway.model.json import JsonObject
from gateway.runtime.keyworker import KeyWorker


def an_object(name: str, version: str, uid: str = "") -> JsonObject:
    return {"metadata": {"name": name, "uid": uid or name, "resourceVersion": version}}


class Api:
    """Lists and watches that the test plays."""

    def __init__(self) -> None:
        self.lists: list[ObjectList | Exception] = []
        self.streams: list[list[WatchEvent | Exception]] = []
        self.asked: list[tuple[str, str | None]] = []

    async def list(self, *_: object, page: str | None = None, **__: object) -> ObjectList:
        self.asked.append(("list", page))
        found = self.lists.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def watch(
        self, *_: object, resource_version: str | None = None, **__: object
    ) -> AsyncIterator[WatchEvent]:
        self.asked.append(("watch", resource_version))
        if not self.streams:
            await asyncio.Event().wait()
        for event in self.streams.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event


@asynccontextmanager
async def informing(api: Api) -> AsyncIterator[list[tuple[str, str, str]]]:
    """Run an informer; yields (name, old version, new version) of each change."""
    seen: list[tuple[str, str, str]] = []

    def version(item: Any) -> str:
        return item["metadata"]["resourceVersion"] if item else "-"

    def note(change: Change) -> None:
        seen.append((change.key[1], version(change.old), version(change.new)))

    informer = Informer(api, "v1", "things", note)  # type: ignore[arg-type]
    ready = asyncio.Event()
    task = asyncio.create_task(informer.run(ready.set))
    await ready.wait()
    try:
        yield seen
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110  what is watched has no event
            await asyncio.sleep(0)


async def test_it_lists_all_pages_then_watches_from_there() -> None:
    api = Api()
    api.lists = [
        ObjectList([an_object("a", "1")], "5", "more"),
        ObjectList([an_object("b", "2")], "5"),
    ]
    api.streams = [
        [
            WatchEvent(EventType.MODIFIED, an_object("a", "6"), "6"),
            WatchEvent(EventType.BOOKMARK, {}, "7"),
            WatchEvent(EventType.DELETED, an_object("b", "8"), "8"),
            WatchEvent(EventType.DELETED, an_object("b", "8"), "8"),
        ]
    ]
    async with informing(api) as seen:
        await until(lambda: len(api.asked) == 4)
    assert api.asked == [("list", None), ("list", "more"), ("watch", "5"), ("watch", "8")]
    assert seen == [("a", "-", "1"), ("b", "-", "2"), ("a", "1", "6"), ("b", "2", "-")]


async def test_when_the_past_is_gone_it_lists_again_and_tells_what_vanished() -> None:
    api = Api()
    api.lists = [
        ObjectList([an_object("a", "1"), an_object("b", "1"), an_object("c", "1")], "5"),
        ObjectList([an_object("a", "1"), an_object("c", "1", "another")], "9"),
    ]
    api.streams = [[Gone("too old")]]
    async with informing(api) as seen:
        await until(lambda: len(api.asked) == 4)
    assert seen[3:] == [("b", "1", "-"), ("c", "1", "1")]
    assert api.asked[-1] == ("watch", "9")


async def test_a_failed_list_or_watch_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.runtime.backoff.Backoff.next", lambda _: 0.0)
    api = Api()
    api.lists = [StoreUnavailable(), ObjectList([], "5")]
    api.streams = [[StoreUnavailable()]]
    async with informing(api):
        await until(lambda: len(api.asked) == 4)
    assert api.asked == [("list", None), ("list", None), ("watch", "5"), ("watch", "5")]


async def test_what_came_before_a_watch_broke_is_not_told_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the deletion of an object would be taken for that of its namesake, which came after it."""
    monkeypatch.setattr("gateway.runtime.backoff.Backoff.next", lambda _: 0.0)
    api = Api()
    api.lists = [ObjectList([an_object("a", "1", "old")], "5")]
    api.streams = [
        [
            WatchEvent(EventType.DELETED, an_object("a", "6", "old"), "6"),
            WatchEvent(EventType.ADDED, an_object("a", "7", "new"), "7"),
            StoreUnavailable(),
        ]
    ]
    async with informing(api) as seen:
        await until(lambda: len(api.asked) == 3)
    assert api.asked[-1] == ("watch", "7")
    assert seen == [("a", "-", "1"), ("a", "1", "-"), ("a", "-", "7")]


async def test_a_server_that_ends_each_watch_at_once_is_not_asked_without_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = 0

    def pause(_: object) -> float:
        nonlocal pauses
        pauses += 1
        return 0.0

    monkeypatch.setattr("gateway.runtime.backoff.Backoff.next", pause)
    api = Api()
    api.lists = [ObjectList([], "5")]
    api.streams = [[], [], []]
    async with informing(api):
        await until(lambda: len(api.asked) == 5)
    assert pauses == 3


async def test_a_cluster_without_our_kinds_is_explained_once_and_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.runtime.backoff.Backoff.next", lambda _: 0.0)
    api = Api()
    missing = NotFound("the server could not find the requested resource")
    api.lists = [missing, missing, ObjectList([an_object("a", "1")], "5")]
    async with informing(api) as seen:
        await until(lambda: len(api.asked) == 4)
    assert seen == [("a", "-", "1")]
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert "install its CustomResourceDefinition" in told[0].getMessage()


# --- key worker ----------------------------------------------------------------------------------


@asynccontextmanager
async def working(
    work: Callable[[str], Awaitable[None]], **options: Any
) -> AsyncIterator[KeyWorker[str]]:
    async with asyncio.TaskGroup() as group:
        yield KeyWorker(group, work, pause=0.0, **options)


async def test_many_pokes_become_one_more_run() -> None:
    runs: list[str] = []
    gate = asyncio.Event()

    async def work(key: str) -> None:
        runs.append(key)
        await gate.wait()

    async with working(work) as worker:
        worker.poke("a")
        await until(lambda: runs == ["a"])
        for _ in range(10):
            worker.poke("a")
        gate.set()
    assert runs == ["a", "a"]
    assert len(worker) == 0


async def test_keys_run_side_by_side_up_to_a_bound() -> None:
    now = most = 0

    async def work(_: str) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    async with working(work, at_once=3) as worker:
        for number in range(20):
            worker.poke(str(number))
    assert most == 3


async def test_a_failed_run_is_tried_again_and_a_bug_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.runtime.backoff.Backoff.next", lambda _: 0.0)
    failures: list[Exception] = [StoreUnavailable(), StoreUnavailable(), KeyError("bug")]
    runs = 0

    async def work(_: str) -> None:
        nonlocal runs
        runs += 1
        if failures:
            raise failures.pop(0)

    async with working(work) as worker:
        worker.poke("a")
    assert runs == 3
    assert "work failed" in caplog.text


async def test_what_failed_is_tried_again_at_once_when_somebody_hurries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.runtime.backoff.Backoff.next", lambda _: 600.0)
    is_away, runs = True, 0

    async def work(_: str) -> None:
        nonlocal runs
        runs += 1
        if is_away:
            raise StoreUnavailable

    async with working(work) as worker:
        worker.poke("a")
        await until(lambda: runs >= 1)
        is_away = False
        worker.hurry()
        await until(lambda: len(worker) == 0)


async def test_what_is_not_to_be_kept_passes_unseen_until_it_is() -> None:
    api, kept = Api(), set[tuple[str, str]]()
    api.lists.append(ObjectList([an_object("a", "1"), an_object("b", "2")], "2"))
    told: list[str] = []
    informer = Informer(
        api,  # type: ignore[arg-type]
        "v1",
        "things",
        lambda change: told.append(f"{change.key[1]} {change.new is not None}"),
        keep=lambda key: key in kept,
    )
    kept.add(("", "a"))
    news = asyncio.Queue[WatchEvent]()

    async def watch(*_: object, **__: object) -> AsyncIterator[WatchEvent]:
        while True:
            yield await news.get()

    api.watch = watch  # type: ignore[method-assign]
    ready = asyncio.Event()
    task = asyncio.create_task(informer.run(ready.set))
    await ready.wait()
    assert set(informer.objects) == {("", "a")}
    kept.add(("", "b"))
    informer.put(an_object("b", "7"))
    informer.put(an_object("b", "6"))  # read before the state that is known
    news.put_nowait(WatchEvent(EventType.DELETED, an_object("b", "5"), "5"))
    news.put_nowait(WatchEvent(EventType.MODIFIED, an_object("a", "8"), "8"))
    await until(lambda: informer.objects["", "a"] == an_object("a", "8"))
    assert informer.objects["", "b"] == an_object("b", "7")
    informer.forget(("", "b"))
    assert told == ["a True", "b True", "a True"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_kind_that_nobody_needs_may_be_missing() -> None:
    api = Api()
    api.lists.append(NotFound())
    api.lists.append(ObjectList([], "1"))
    informer = Informer(api, "v1", "things", lambda _: None, is_needed=False)  # type: ignore[arg-type]
    ready = asyncio.Event()
    task = asyncio.create_task(informer.run(ready.set))
    async with asyncio.timeout(5):
        await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("version", "than", "later"),
    [
        ("10", "9", True),
        ("9", "10", False),
        ("9007199254740993", "9007199254740992", True),
        ("18446744073709551615", "9223372036854775807", True),
        ("²", "1", True),
        ("9" * 5_000, "1", True),
        ("a", "a", False),
    ],
)
def test_versions_are_compared_as_numbers_where_they_are(
    version: str, than: str, *, later: bool
) -> None:
    assert is_later(version, than) is later


async def test_news_about_what_failed_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.runtime.backoff.Backoff.next", lambda _: 600.0)
    is_broken, runs = True, 0

    async def work(_: str) -> None:
        nonlocal runs
        runs += 1
        if is_broken:
            raise StoreUnavailable

    async with working(work, news_after=0.0) as worker:
        worker.poke("a")
        worker.poke("a")  # before the failure: it waits for the back-off, as one that knew no more
        await until(lambda: runs == 1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert runs == 1
        is_broken = False
        worker.poke("a")
        await until(lambda: len(worker) == 0)
    assert runs == 2


async def test_a_quiet_watch_that_lasted_is_followed_by_the_next_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not every server sends bookmarks; what happens after a quiet hour is no less urgent."""
    monkeypatch.setattr("gateway.kube.informer.STEADY_SECONDS", 0.0)
    monkeypatch.setattr("gateway.runtime.backoff.Backoff.next", lambda _: 600.0)
    api = Api()
    api.lists = [ObjectList([], "5")]
    api.streams = [[], [], []]
    async with informing(api):
        await until(lambda: len(api.asked) == 5)
    assert api.asked[1:] == [("watch", "5")] * 4
