"""HTTP devices: aiohttp is the device that is asked, and the client that posts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import ClientSession, web

from edge.mappers.driver import DeviceUnreachable, Quality, TellsFaults
from edge.mappers.family import Family
from edge.mappers.http.family import HttpFamily, make_http
from gateway.errors import InvalidSetting, Rejected
from tests.family_rig import World, a_family, bound, prop

TOKEN = "a-token-of-enough-letters"


@asynccontextmanager
async def a_device(
    handle: Callable[[web.Request], Awaitable[web.StreamResponse]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text(TOKEN + "\n")
    (tmp_path / "secrets" / "headers").write_text("X-Key: k1\n")
    return World(tmp_path, {"webhook": {"bind": "127.0.0.1:0", "max_body": 200, "max_rate": 20}})


@pytest.fixture
async def family(world: World) -> AsyncIterator[Family]:
    async with a_family(make_http, world) as running:
        yield running


class Sensor:
    """A device with a document, an ETag and a notebook."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {
            "state": {"temp": 21.5, "on": True, "at": "2026-01-02T03:04:05Z"},
            "list": [1, 2],
            "name": "s1",
            "odd": {"a": 1},
        }
        self.tag = '"1"'
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.method, request.path_qs, await request.read(), headers))
        match request.path:
            case "/state" if headers.get("if-none-match") == self.tag:
                return web.Response(status=304)
            case "/state":
                return web.json_response(self.document, headers={"ETag": self.tag})
            case "/text":
                return web.Response(text=" 17 \n")
            case "/bytes":
                return web.Response(body=b"\xff\xfe")
            case "/huge":
                return web.Response(body=b"x" * 300_000)
            case "/moved":
                raise web.HTTPFound("/state")
            case "/loop":
                raise web.HTTPFound("/loop")
            case "/set" if request.method == "PUT":
                return web.Response(status=204)
            case "/refuses":
                return web.Response(status=422)
        return web.Response(status=404)


async def test_properties_are_found_in_answers_and_one_answer_serves_many(family: Family) -> None:
    sensor = Sensor()
    async with a_device(sensor.handle) as url:
        driver = family.driver(
            *bound(
                "http",
                {"url": f"{url}/state", "tokenFile": "token", "headersFile": "headers"},
                prop("temp", "FLOAT", jsonPath="$.state.temp", timePath="$.state.at"),
                prop("on", "BOOLEAN", jsonPath="$.state.on"),
                prop("second", "INT", jsonPath="$.list[1]"),
                prop("name", "STRING"),
                prop("odd", "INT", jsonPath="$.odd"),
                prop("missing", "INT", jsonPath="$.nothing"),
                prop("text", "INT", url="/text"),
                prop("bytes", "STRING", url="/bytes"),
                prop("huge", "STRING", url="/huge"),
                prop("gone", "INT", url="/nowhere"),
                prop("moved", "FLOAT", url="/moved", jsonPath="$.state.temp"),
                prop("loop", "FLOAT", url="/loop"),
                prop("wrong", "FLOAT", jsonPath="state.temp"),
            )
        )
        await driver.connect()
        names = [
            "temp",
            "on",
            "second",
            "name",
            "odd",
            "missing",
            "text",
            "bytes",
            "huge",
            "gone",
            "moved",
            "loop",
            "wrong",
        ]
        readings = await driver.read(names)
        good = {n: r.text for n, r in readings.items() if r.quality is Quality.GOOD}
        assert good == {
            "temp": "21.5", "on": "true", "second": "2", "name": "s1", "text": "17", "moved": "21.5",
        }  # fmt: skip
        assert readings["temp"].at == 1_767_323_045_000
        whys = {n: r.why for n, r in readings.items() if r.quality is Quality.BAD}
        for name, said in (
            ("odd", "whole number"), ("missing", "does not have it"), ("bytes", "UTF-8"),
            ("huge", "262144"), ("gone", "HTTP 404"), ("loop", "redirects"),
        ):  # fmt: skip
            assert said in whys.pop(name)
        assert not whys
        assert isinstance(driver, TellsFaults)
        assert set(driver.faults()) == {"wrong"}
        headers = sensor.asked[-1][3]
        assert (headers["authorization"], headers["x-key"]) == (f"Bearer {TOKEN}", "k1")
        sensor.asked.clear()
        again = await driver.read(["temp", "on", "second"])
        assert again["temp"].text == "21.5"
        assert [asked[3].get("if-none-match") for asked in sensor.asked] == ['"1"']
        sensor.document["state"]["temp"], sensor.tag = 22, '"2"'
        assert (await driver.read(["temp"]))["temp"].text == "22"
        await driver.close()


async def test_values_are_written_by_template(family: Family) -> None:
    sensor = Sensor()
    async with a_device(sensor.handle) as url:
        driver = family.driver(
            *bound(
                "http",
                {"url": f"{url}/state"},
                prop("on", "BOOLEAN", jsonPath="$.state.on", commandUrl="/set"),
                prop(
                    "name", "STRING", commandUrl="/set?name={text}",
                    commandBody='{"name": {value}}',
                ),
                prop("no", "INT", commandUrl="/refuses"),
                prop("read", "INT"),
            )
        )  # fmt: skip
        await driver.connect()
        sensor.asked.clear()
        await driver.write("on", "false")
        await driver.write("name", 'a "b"&c')
        first, second = sensor.asked
        assert first[:3] == ("PUT", "/set", b"false")
        assert first[3]["content-type"] == "application/json"
        assert dict(parse_qsl(second[1].partition("?")[2])) == {"name": 'a "b"&c'}
        assert second[2] == b'{"name": "a \\"b\\"&c"}'
        with pytest.raises(Rejected, match="HTTP 422"):
            await driver.write("no", "1")
        with pytest.raises(Rejected, match="no commandUrl"):
            await driver.write("read", "1")
        await driver.close()


async def test_a_password_does_not_follow_a_redirect_to_another_server(family: Family) -> None:
    other = Sensor()
    async with a_device(other.handle) as there:

        async def sends_away(_request: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(f"{there}/state")

        async with a_device(sends_away) as url:
            config = {"url": url, "tokenFile": "token", "followRedirects": "any"}
            driver = family.driver(*bound("http", config, prop("name", "STRING")))
            await driver.connect()
            assert (await driver.read(["name"]))["name"].text == "s1"
            assert "authorization" not in other.asked[-1][3]
            await driver.close()


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://127.0.0.2:{port}/state", "this machine"),
        ("http://2130706434:{port}/state", "this machine"),
        ("http://[::ffff:127.0.0.2]:{port}/state", "this machine"),
        ("http://0.0.0.0:{port}/state", "this machine"),
        ("http://169.254.169.254/latest", "this machine"),
        ("http://[", "no URL"),
        ("file:///etc/passwd", "another scheme"),
    ],
    ids=["loopback", "number", "mapped", "unspecified", "link", "broken", "file"],
)
async def test_a_device_does_not_lead_us_to_services_of_this_machine(
    family: Family, target: str, why: str
) -> None:
    other = Sensor()
    async with a_device(other.handle) as there:
        port = urlsplit(there).port

        async def sends_away(_request: web.Request) -> web.StreamResponse:
            return web.Response(status=302, headers={"location": target.format(port=port)})

        async with a_device(sends_away) as url:
            config = {"url": url, "followRedirects": "any"}
            driver = family.driver(*bound("http", config, prop("name", "STRING")))
            reading = (await driver.read(["name"]))["name"]
            assert reading.quality is Quality.BAD
            assert why in reading.why
            assert not other.asked
            await driver.close()


async def test_a_device_that_is_away_slow_or_no_http_is_unreachable(family: Family) -> None:
    async def slow(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await _reader.read()
        writer.close()

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"220 mail.example SMTP\r\n\r\n")
        writer.close()

    for behaviour in (slow, other):
        server = await asyncio.start_server(behaviour, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        config = {"url": f"http://127.0.0.1:{port}/", "timeout": 0.2}
        driver = family.driver(*bound("http", config, prop("name", "STRING")))
        with pytest.raises(DeviceUnreachable):
            await driver.connect()
        server.close()
        with pytest.raises(DeviceUnreachable):
            await driver.connect()
        await driver.close()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"timeout": 60}, "timeout"),
        ({"headersFile": "../token"}, "no path"),
        ({"tokenFile": "nobody"}, "cannot be read"),
        ({"certificate": "/c.pem"}, "belong together"),
        ({"headers": {"a": "b\r\nc"}}, "cannot be sent"),
        ({"mode": "webhook"}, "token of at least 16"),
    ],
)
async def test_a_device_that_cannot_be_is_refused(
    family: Family, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(Rejected, match=said):
        family.driver(*bound("http", {"url": "http://x/", **config}, prop("name")))


# --- the webhook ----------------------------------------------------------------------------------------


def a_poster(**more: Any) -> dict[str, Any]:
    return {"mode": "webhook", "tokenFile": "token", **more}


def address(family: Family) -> str:
    assert isinstance(family, HttpFamily)
    return f"http://{family.webhook.address}/default/d1"


async def test_what_devices_post_is_read_and_bad_posts_are_told(
    family: Family, world: World
) -> None:
    driver = family.driver(
        *bound(
            "http",
            a_poster(staleAfter=10),
            prop("temp", "FLOAT", jsonPath="$.t"),
            prop("on", "BOOLEAN"),
        )
    )
    woken: list[int] = []
    driver.subscribe(lambda: woken.append(1))
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    url = address(family)
    async with ClientSession() as client:

        async def post(body: bytes, headers: dict[str, str], to: str = url) -> int:
            async with client.post(to, data=body, headers=headers) as answer:
                return answer.status

        assert await post(b"{}", bearer) == 404
        await driver.connect()
        assert await post(b'{"t": 21.5, "on": true}', bearer) == 202
        assert await post(b'{"t": 22}', {"X-Twinspan-Token": TOKEN}) == 202
        readings = await driver.read(["temp", "on"])
        assert {n: r.text for n, r in readings.items()} == {"temp": "22", "on": "true"}
        assert len(woken) == 1, "the second post found the first unread"
        for body, headers, status in (
            (b'{"t": 1}', {}, 401),
            (b'{"t": 1}', {"Authorization": "Bearer wrong"}, 401),
            (b"{", bearer, 400),
            (b'{"t": NaN}', bearer, 400),
            (b"x" * 300, bearer, 413),
        ):
            assert await post(body, headers) == status
        assert await post(b"{}", bearer, url + "x") == 404
        async with client.get(url, headers=bearer) as answer:
            assert answer.status == 405
        assert await post(b'{"t": "warm", "on": 7}', bearer) == 202
        readings = await driver.read(["temp", "on"])
        assert {r.quality for r in readings.values()} == {Quality.BAD}
        assert await post(b'{"t": 23}', bearer) == 202
        world.now += 11_000
        reading = (await driver.read(["temp"]))["temp"]
        assert (reading.quality, reading.why) == (Quality.UNCERTAIN, "nothing heard for 11 s")
        statuses = [await post(b'{"t": 1}', bearer) for _ in range(40)]
        assert set(statuses) == {202, 429}
        await driver.close()
        assert await post(b"{}", bearer) == 404


async def test_nobody_can_post_where_nothing_listens(tmp_path: Path, world: World) -> None:
    async with a_family(make_http, World(tmp_path)) as family:
        driver = family.driver(*bound("http", a_poster(), prop("temp")))
        with pytest.raises(Rejected, match=r"webhook\.bind is not set"):
            await driver.connect()
        await driver.close()


async def test_a_webhook_beyond_this_machine_needs_tls(tmp_path: Path) -> None:
    open_world = World(tmp_path, {"webhook": {"bind": "0.0.0.0:0"}})
    with pytest.raises(InvalidSetting, match=r"needs .*certificate"):
        async with a_family(make_http, open_world):
            pass
