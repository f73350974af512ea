"""Mirrors of a far cluster whose API server has moods: nothing is lost whatever its watches do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.config.kube import Kube, KubeHttps
from gateway.kube.client import EventType, KubeClient
from gateway.kube.credentials import Access
from gateway.kube.informer import Change, Informer
from gateway.kube.remote import Connection, RemoteClient
from gateway.model.json import JsonObject
from tests.kube_server import KubeServer, kube_server

MAPS = ("v1", "configmaps")
EXPIRED = b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'
BROKEN = b'{"type":"ERROR","object":{"kind":"Status","code":500,"reason":"InternalError"}}\n'

Mood = Callable[["Moody", web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Moody:
    """Stands before a server; `mood` answers watches, everything else goes through."""

    server: KubeServer
    session: aiohttp.ClientSession
    mood: Mood
    watched: list[str] = field(default_factory=list)
    listed: int = 0
    address: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            self.watched.append(request.query.get("resourceVersion", ""))
            return await self.mood(self, request)
        self.listed += 1
        async with self.ask(request) as found:
            return web.Response(
                status=found.status, body=await found.read(), content_type=found.content_type
            )

    def ask(self, request: web.Request) -> aiohttp.client._RequestContextManager:
        return self.session.get(self.server.url + request.path_qs, ssl=False)

    async def passed(
        self, request: web.Request, *, lines: int = 1_000_000, last: bytes = b"", marks: bool = True
    ) -> web.StreamResponse:
        """Hand a watch on: as many lines, then another one."""
        response = web.StreamResponse()
        async with self.ask(request) as found:
            response.set_status(found.status)
            await response.prepare(request)
            async for line in found.content:
                if marks or b'"BOOKMARK"' not in line:
                    await response.write(line)
                    lines -= 1
                if not lines:
                    break
        await response.write(last)
        return response


def refusal(code: int, reason: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "reason": reason}, status=code)


async def refuses(_: Moody, __: web.Request) -> web.StreamResponse:
    return refusal(403, "Forbidden")


async def knows_no_watches(_: Moody, __: web.Request) -> web.StreamResponse:
    return refusal(405, "MethodNotAllowed")


async def was_restored(_: Moody, __: web.Request) -> web.StreamResponse:
    return refusal(504, "Timeout")


async def expires(moody: Moody, request: web.Request) -> web.StreamResponse:
    return await moody.passed(request, lines=2, last=EXPIRED)


async def is_expired(_: Moody, __: web.Request) -> web.StreamResponse:
    return refusal(410, "Expired")


async def breaks(moody: Moody, request: web.Request) -> web.StreamResponse:
    return await moody.passed(request, lines=2, last=BROKEN)


async def is_cut(moody: Moody, request: web.Request) -> web.StreamResponse:
    response = await moody.passed(request, lines=3, last=b'{"type":"ADDED","obj')
    assert request.transport is not None
    request.transport.abort()
    return response


async def gives_no_bookmarks(moody: Moody, request: web.Request) -> web.StreamResponse:
    return await moody.passed(request, lines=4, marks=False)


async def knows_no_initial_events(moody: Moody, request: web.Request) -> web.StreamResponse:
    if "sendInitialEvents" in request.query:
        return refusal(422, "Invalid")
    return await moody.passed(request)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    settings = Kube(https=KubeHttps(bind="127.0.0.1:0"), watch_window=30)
    async with kube_server(tmp_path, settings) as running:
        yield running


@asynccontextmanager
async def far(server: KubeServer, mood: Mood) -> AsyncIterator[tuple[Moody, RemoteClient]]:
    """Yield a client of a server with moods."""
    token = {"Authorization": f"Bearer {server.token.strip()}"}
    async with aiohttp.ClientSession(headers=token) as session:
        moody = Moody(server, session, mood)
        app = web.Application()
        app.router.add_get("/{path:.*}", moody.answer)
        async with TestServer(app) as front:
            moody.address = str(front.make_url("")).rstrip("/")
            access = Access(moody.address, ssl.create_default_context(), {})
            connection = Connection(access)
            async with connection.opened():
                yield moody, RemoteClient(connection, "tester")


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110  what is watched has no event
            await asyncio.sleep(0.01)


async def churn(kube: KubeClient, name: str) -> None:
    """Make, change and delete maps; every third one stays."""
    for number in range(12):
        body: JsonObject = {"metadata": {"name": f"{name}-{number}"}, "data": {"at": "0"}}
        await kube.create(*MAPS, "default", body)
        await kube.patch(*MAPS, "default", f"{name}-{number}", {"data": {"at": "1"}})
        if number % 3:
            await kube.delete(*MAPS, "default", f"{name}-{number}")


MOODS = [
    refuses,
    knows_no_watches,
    was_restored,
    expires,
    is_expired,
    breaks,
    is_cut,
    gives_no_bookmarks,
]


@pytest.mark.parametrize("mood", MOODS)
async def test_a_mirror_loses_nothing_whatever_watches_do(
    server: KubeServer, mood: Mood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told is each object's story without gaps; what is known in the end is what there is."""
    monkeypatch.setattr("gateway.runtime.backoff.Backoff.next", lambda _: 0.01)
    told: dict[tuple[str, str], JsonObject | None] = {}

    def note(change: Change) -> None:
        assert told.get(change.key) == change.old
        told[change.key] = change.new

    kube = server.api.client("t")
    async with far(server, mood) as (moody, client):
        informer, ready = Informer(client, *MAPS, note), asyncio.Event()
        task = asyncio.create_task(informer.run(ready.set))
        await until(ready.is_set)
        await churn(kube, "a")
        watches = len(moody.watched)
        await until(lambda: len(moody.watched) > watches or mood is gives_no_bookmarks)
        await churn(kube, "b")
        await kube.create(*MAPS, "default", {"metadata": {"name": "last"}})
        await until(lambda: ("default", "last") in informer.objects)
        there = {
            (str(meta["namespace"]), str(meta["name"])): meta["resourceVersion"]
            for meta in [item["metadata"] for item in (await kube.list(*MAPS)).items]
            if isinstance(meta, dict)
        }
        known = {key: item["metadata"] for key, item in informer.objects.items()}
        assert {k: m["resourceVersion"] for k, m in known.items() if isinstance(m, dict)} == there
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert {key for key, item in told.items() if item is not None} == set(there)


async def test_a_watch_goes_on_from_where_its_connection_broke(
    server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection is listed again where it has to be, and only there: it may be large."""
    monkeypatch.setattr("gateway.runtime.backoff.Backoff.next", lambda _: 0.01)
    kube = server.api.client("t")
    async with far(server, is_cut) as (moody, client):
        informer, ready = Informer(client, *MAPS, lambda _: None), asyncio.Event()
        task = asyncio.create_task(informer.run(ready.set))
        await until(ready.is_set)
        for number in range(9):
            await kube.create(*MAPS, "default", {"metadata": {"name": f"m-{number}"}})
        await until(lambda: ("default", "m-8") in informer.objects)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert moody.listed == 1
    assert len(set(moody.watched)) >= 3


@pytest.mark.parametrize("mood", [knows_no_initial_events, Moody.passed])
async def test_a_watch_from_the_start_is_the_same_on_servers_without_it(
    server: KubeServer, mood: Mood
) -> None:
    kube = server.api.client("t")
    for name in "ab":
        await kube.create(*MAPS, "default", {"metadata": {"name": name}})
    async with far(server, mood) as (_, client):
        watch = client.watch(*MAPS, "default")
        seen = [await anext(watch)]
        while seen[-1].type is not EventType.BOOKMARK:
            seen.append(await anext(watch))
        assert {"a", "b"} <= {name_of(event.object) for event in seen[:-1]}
        assert {event.type for event in seen[:-1]} == {EventType.ADDED}
        await kube.delete(*MAPS, "default", "a")
        last = await anext(watch)
        assert (last.type, name_of(last.object)) == (EventType.DELETED, "a")
        await watch.aclose()  # type: ignore[attr-defined]


def name_of(item: JsonObject) -> str:
    metadata = item.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, dict) else ""
