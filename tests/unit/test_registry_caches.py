"""Who asks after a change never gets what was read before it, though it joins a reading under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.errors import DeviceNotFound, GatewayError
from gateway.hono.read_cache import RETRIES, ReadCache
from gateway.hono.remote_services.cache import AnswerCache, Kept

Told = list[tuple[str, object]]


def telling(told: Told, who: str) -> Callable[[object], None]:
    return lambda value: told.append((who, value))


class Reads:
    """Values that come when the test lets them."""

    def __init__(self) -> None:
        self.under_way: deque[asyncio.Future[str]] = deque()

    async def read(self, _key: str) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.under_way.append(future)
        return await future

    async def land(self, value: str | GatewayError) -> None:
        await asyncio.sleep(0)
        future = self.under_way.popleft()
        if isinstance(value, GatewayError):
            future.set_exception(value)
        else:
            future.set_result(value)
        for _ in range(3):
            await asyncio.sleep(0)


async def test_a_reading_that_a_change_overtook_is_done_again() -> None:
    told: Told = []
    reads = Reads()
    cache: ReadCache[str, str] = ReadCache(reads.read)
    cache.get("d1", telling(told, "before"))
    await asyncio.sleep(0)
    cache.drop(lambda _key, _value: False)
    cache.get("d1", telling(told, "after"))
    await reads.land("old")
    assert told == []
    await reads.land("new")
    assert told == [("before", "new"), ("after", "new")]
    assert cache.peek("d1") == "new"


async def test_changes_without_end_do_not_keep_anybody_waiting() -> None:
    told: Told = []
    reads = Reads()
    cache: ReadCache[str, str] = ReadCache(reads.read)
    cache.get("d1", telling(told, "one"))
    for _ in range(RETRIES + 1):
        assert told == []
        await asyncio.sleep(0)
        cache.discard("d2")
        await reads.land("value")
    assert told == [("one", "value")]
    assert cache.peek("d1") is None


async def test_what_is_not_there_is_told_at_once() -> None:
    told: Told = []
    reads = Reads()
    cache: ReadCache[str, str] = ReadCache(reads.read)
    cache.get("d1", telling(told, "one"))
    await asyncio.sleep(0)
    cache.discard("d1")
    await reads.land(DeviceNotFound())
    assert isinstance(told[0][1], DeviceNotFound)
    assert not reads.under_way


class Service:
    """Answers when the test lets it."""

    def __init__(self) -> None:
        self.asked: deque[Kept[str]] = deque()

    def ask(self, _key: str, done: Kept[str]) -> None:
        self.asked.append(done)


def test_an_answer_that_a_change_overtook_is_asked_for_again() -> None:
    told: Told = []
    service = Service()
    cache: AnswerCache[str, str] = AnswerCache(service.ask)
    cache.get("d1", telling(told, "before"))
    cache.drop(lambda _key, _value: False)
    cache.get("d1", telling(told, "after"))
    service.asked.popleft()("old", 60.0)
    assert told == []
    service.asked.popleft()("new", 60.0)
    assert told == [("before", "new"), ("after", "new")]
    assert cache.peek("d1") == "new"


def test_answers_are_not_asked_for_without_end() -> None:
    told: Told = []
    service = Service()
    cache: AnswerCache[str, str] = AnswerCache(service.ask)
    cache.get("d1", telling(told, "one"))
    for _ in range(RETRIES + 1):
        assert told == []
        cache.drop(lambda _key, _value: False)
        service.asked.popleft()("value", 60.0)
    assert told == [("one", "value")]
    assert cache.peek("d1") is None
