"""The console of the shipped process: signed in, a wish comes true, messages pass, and it stops at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.hono_rig import basic
from tests.process import Twinspan, twinspan

pytestmark = pytest.mark.e2e

HEADER = {"x-twinspan-console": "1", "Sec-Fetch-Site": "same-origin"}
SECONDS = 20.0


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twinspan]:
    folder = tmp_path_factory.mktemp("console")
    with twinspan(folder / "data", "up", "--demo") as running:
        yield running


@asynccontextmanager
async def signed_in(process: Twinspan) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        process.url("ditto.http"), headers=HEADER, cookie_jar=aiohttp.CookieJar(unsafe=True)
    ) as http:
        for user, password in (("ditto", "ditto"), ("devops", "foobar")):
            body = {"user": user, "password": password}
            async with http.post("/console/api/session", json=body) as response:
                assert response.status == 200, await response.text()
        yield http


async def get(http: aiohttp.ClientSession, path: str) -> Any:
    async with http.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    while not await check():  # noqa: ASYNC110  it is another process that is waited for
        await asyncio.sleep(0.1)


async def is_linked(http: aiohttp.ClientSession) -> bool:
    nodes = (await get(http, "/console/api/nodes"))["items"]
    return bool(nodes) and nodes[0]["ready"] and nodes[0]["link"]["connected"]


async def has_online(http: aiohttp.ClientSession, count: int) -> bool:
    return bool((await get(http, "/console/api/devices?state=online"))["total"] >= count)


async def reports(http: aiohttp.ClientSession, path: str, value: str) -> bool:
    values = {each["name"]: each for each in (await get(http, path))["values"]}
    return bool(values["brightness"]["reported"]["value"] == value)


async def data_of(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for raw in response.content:
        word, _, text = raw.decode().rstrip("\n").partition(": ")
        if word == "event":
            name = text
        elif word == "data":
            yield name, json.loads(text)


async def test_an_operator_looks_around_and_a_wish_comes_true(process: Twinspan) -> None:
    async with signed_in(process) as http:
        overview = await get(http, "/console/api/overview")
        assert all(overview["parts"].values()), overview["parts"]
        async with asyncio.timeout(SECONDS):
            await until(lambda: is_linked(http))
            await until(lambda: has_online(http, 2))
        path = "/console/api/devices/default/lamp"
        async with http.put(f"{path}/desired/brightness", json={"value": 42}) as response:
            assert response.status == 200, await response.text()
        async with asyncio.timeout(SECONDS):
            await until(lambda: reports(http, path, "42"))
        thing = await get(http, "/api/2/things/default:lamp")
        assert thing["features"]["brightness"]["desiredProperties"]["value"] == 42


async def test_messages_of_devices_pass_by_and_are_plotted(process: Twinspan) -> None:
    async with signed_in(process) as http:
        tail = "/console/api/tail?tenant=DEFAULT_TENANT&kind=event&device=4711"
        async with http.get(tail) as response, asyncio.timeout(SECONDS):
            stream = data_of(response)
            assert (await anext(stream))[0] == "hello"
            async with http.post(
                process.url("hono.http", "/event"),
                json={"temp": 5},
                headers=basic("sensor1@DEFAULT_TENANT", "hono-secret"),
            ) as sent:
                assert sent.status == 202
            while (found := await anext(stream))[0] != "message":
                pass
            assert (found[1]["device"], found[1]["payload"]) == ("4711", {"temp": 5})
        (series,) = (await get(http, "/console/api/plots/memory"))["series"]
        assert series["points"]


async def test_without_a_cluster_the_console_says_so_and_open_streams_hold_nothing_up(
    tmp_path: Path,
) -> None:
    with twinspan(tmp_path / "data", "gateway", "--demo") as process:
        async with signed_in(process) as http:
            parts = (await get(http, "/console/api/overview"))["parts"]
            assert (parts["kube"], parts["things"], parts["plots"]) == (False, True, True)
            async with http.get("/console/api/tail?tenant=DEFAULT_TENANT") as response:
                assert (await anext(data_of(response)))[0] == "hello"
                assert await asyncio.to_thread(process.stop) == 0
