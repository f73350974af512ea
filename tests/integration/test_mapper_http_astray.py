"""HTTP devices, and those who answer for their names, that lead requests astray."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from edge.mappers.driver import DeviceUnreachable, Quality, Reading
from edge.mappers.family import Family
from edge.mappers.http.family import make_http
from edge.mappers.http.targets import Follow, is_same_server, refusal
from gateway.errors import Rejected
from tests.family_rig import World, a_family, bound, prop


@pytest.fixture
async def family(tmp_path: Path) -> AsyncIterator[Family]:
    async with a_family(make_http, World(tmp_path)) as running:
        yield running


class Servers:
    """A device at one port that sends to where the test says, and another server that counts who comes."""

    def __init__(self) -> None:
        self.target = ""
        self.visits: list[str] = []
        self.device = self.other = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/away":
            return web.Response(status=307, headers={"location": self.target})
        return web.Response(text="7")

    async def count(self, request: web.Request) -> web.StreamResponse:
        self.visits.append(f"{request.method} {request.path}")
        return web.Response(text="8")


@asynccontextmanager
async def a_server(handle: Any) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    made = Servers()
    async with a_server(made.answer) as made.device, a_server(made.count) as made.other:
        yield made


async def read(family: Family, url: str, **config: Any) -> Reading:
    driver = family.driver(*bound("http", {"url": url, **config}, prop("n", "INT")))
    try:
        return (await driver.read(["n"]))["n"]
    finally:
        await driver.close()


@pytest.mark.parametrize(
    ("words", "text", "why"),
    [
        ({}, "", "to another server, http://127.0.0.1:{other}: followRedirects: any permits it"),
        ({"followRedirects": "any"}, "8", ""),
        ({"followRedirects": "none"}, "", "followRedirects is none"),
    ],
    ids=["same host", "any", "none"],
)
async def test_a_redirect_to_another_server_is_followed_where_the_device_permits_it(
    family: Family, servers: Servers, words: dict[str, Any], text: str, why: str
) -> None:
    servers.target = f"http://127.0.0.1:{servers.other}/state"
    reading = await read(family, f"http://127.0.0.1:{servers.device}/away", **words)
    assert reading.text == text
    assert why.format(other=servers.other) in reading.why
    assert servers.visits == (["GET /state"] if text else [])


async def test_a_redirect_at_the_same_server_is_followed(family: Family, servers: Servers) -> None:
    servers.target = "/state"
    assert (await read(family, f"http://127.0.0.1:{servers.device}/away")).text == "7"


async def test_a_command_does_not_follow_to_another_server_either(
    family: Family, servers: Servers
) -> None:
    servers.target = f"http://127.0.0.1:{servers.other}/state"
    url = f"http://127.0.0.1:{servers.device}"
    config = {"url": url, "commandUrl": "/away"}
    driver = family.driver(*bound("http", config, prop("n", "INT")))
    with pytest.raises(Rejected, match="another server"):
        await driver.write("n", "1")
    assert servers.visits == []


def names_lead_to(monkeypatch: pytest.MonkeyPatch, *places: str) -> None:
    """All names have these addresses, one after another, and the last one from then on."""
    loop = asyncio.get_running_loop()
    real, left = loop.getaddrinfo, list(places)

    async def rebinding(host: Any, port: Any, **more: Any) -> Any:
        return await real(left.pop(0) if len(left) > 1 else left[0], port, **more)

    monkeypatch.setattr(loop, "getaddrinfo", rebinding)


async def test_a_name_that_leads_to_this_machine_is_not_asked_unless_it_may(
    family: Family, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://plug.example.org:{servers.other}/state"
    names_lead_to(monkeypatch, "127.0.0.1")
    with pytest.raises(DeviceUnreachable, match="allowLocal: true permits it"):
        await read(family, url)
    assert servers.visits == []
    assert (await read(family, url, allowLocal=True)).text == "8"


@pytest.mark.parametrize(
    "named",
    ["localhost", "127.0.0.1", socket.gethostname()],
    ids=["localhost", "address", "own name"],
)
async def test_who_names_this_machine_means_it(
    family: Family, servers: Servers, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    names_lead_to(monkeypatch, "127.0.0.1")
    assert (await read(family, f"http://{named}:{servers.other}/state")).text == "8"


async def test_a_connection_goes_to_the_address_that_was_judged(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def nobody(host: str, _port: int, **_: Any) -> Any:
        asked.append(host)
        raise ConnectionRefusedError("nobody is called in tests")

    monkeypatch.setattr("gateway.runtime.small_client.asyncio.open_connection", nobody)
    names_lead_to(monkeypatch, "192.0.2.7", "127.0.0.1")
    with pytest.raises(DeviceUnreachable, match="nobody is called"):
        await read(family, "http://plug.example.org/state")
    assert asked == ["192.0.2.7"]
    with pytest.raises(DeviceUnreachable, match="this machine"):
        await read(family, "http://plug.example.org/state")
    assert asked == ["192.0.2.7"]


async def test_a_redirect_to_a_name_of_this_machine_is_a_bad_reading(
    family: Family, servers: Servers
) -> None:
    servers.target = f"http://localhost:{servers.other}/state"
    url = f"http://127.0.0.1:{servers.device}/away"
    reading = await read(family, url, followRedirects="any")
    assert (reading.quality, "this machine" in reading.why) == (Quality.BAD, True)
    assert servers.visits == []


@pytest.mark.parametrize(
    ("follow", "url", "there", "why"),
    [
        (Follow.SAME, "http://plug/a", "http://plug:80/b", ""),
        (Follow.SAME, "http://plug/a", "https://plug/b", ""),
        (Follow.SAME, "http://plug:8080/a", "https://PLUG:443/b", ""),
        (Follow.SAME, "http://plug/a", "https://plug:8443/b", "another server"),
        (Follow.SAME, "http://plug/a", "http://plug:81/b", "another server"),
        (Follow.SAME, "http://plug/a", "http://plug.evil/b", "another server"),
        (Follow.SAME, "http://plug/a", "http://plug:x/b", "another server"),
        (Follow.ANY, "http://plug/a", "http://other/b", ""),
        (Follow.ANY, "https://plug/a", "http://plug/b", "another scheme"),
        (Follow.ANY, "http://plug/a", "gopher://plug/b", "another scheme"),
        (Follow.NONE, "http://plug/a", "http://plug/b", "none"),
    ],
)  # fmt: skip
def test_which_redirects_are_followed(follow: Follow, url: str, there: str, why: str) -> None:
    said = refusal(follow, url, there)
    assert why in said
    assert bool(said) == bool(why)


def test_passwords_stay_with_the_server_and_its_https() -> None:
    assert is_same_server("http://plug/a", "https://plug/b")
    assert not is_same_server("https://plug/a", "http://plug/b")
    assert not is_same_server("http://plug/a", "http://plug.evil/a")


async def test_an_unknown_word_for_redirects_is_refused(family: Family) -> None:
    config = {"url": "http://127.0.0.1", "followRedirects": "all"}
    with pytest.raises(Rejected, match="followRedirects"):
        family.driver(*bound("http", config, prop("n", "INT")))
