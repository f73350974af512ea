"""Fetching Thing Models: what is asked, what is refused, what is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import hdrs, web

from gateway.config.wot import WotModels
from gateway.ditto.wot_addresses import AddressRules
from gateway.ditto.wot_fetch import Fetcher
from gateway.ditto.wot_models import ThingModels
from gateway.errors import GatewayError, InvalidSetting
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import running
from gateway.twin.wot.model import ThingModel
from tests.model_server import ModelServer, a_model_server
from tests.wot_samples import BREWER, DEVICE, DOCUMENTS, LAMP, MACHINE, SHARED, SWITCH

LOOPBACK = ("127.0.0.0/8",)


class Models:
    """Models with the metrics that they count in."""

    def __init__(self, models: ThingModels, metrics: Metrics, tracer: Tracer) -> None:
        self.models = models
        self.tracer = tracer
        self._metrics = metrics

    def sample(self, name: str, **labels: str) -> float:
        return self._metrics.registry.get_sample_value(name, labels) or 0.0

    async def refusal(self, url: str) -> GatewayError:
        with pytest.raises(GatewayError) as caught:
            await self.models.model(url)
        return caught.value


@asynccontextmanager
async def some_models(
    allowed: tuple[str, ...] = LOOPBACK, **settings: Any
) -> AsyncIterator[Models]:
    metrics, tracer = Metrics(), Tracer()
    made = WotModels(**{"fetch_seconds": 2.0, "resolve_seconds": 4.0, **settings})
    fetcher = Fetcher(made, AddressRules.of(allowed), metrics, tracer)
    models = ThingModels(made, fetcher, metrics)
    async with running(models):
        yield Models(models, metrics, tracer)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with a_model_server() as made:
        yield made


async def test_a_model_is_fetched_with_all_that_it_is_made_of(server: ModelServer) -> None:
    async with some_models() as here:
        model = await here.models.model(server.base + BREWER)
        assert [*model.properties] == ["temperature", "programme"]
        assert server.asked == {BREWER: 1, SHARED: 1}
        assert here.sample("twinspan_wot_fetches_total", outcome="fetched") == 2
        spans = [span.attributes for span in here.tracer.recent() if span.name == "wot.fetch"]
        assert {span["outcome"] for span in spans} == {"fetched"}


async def test_what_is_in_memory_is_not_asked_again(server: ModelServer) -> None:
    async with some_models() as here:
        first = await here.models.model(server.base + LAMP)
        assert await here.models.model(server.base + LAMP) is first
        await here.models.model(server.base + SWITCH)
        assert server.asked == {LAMP: 1, SWITCH: 1}
        assert here.sample("twinspan_wot_models_total", found="memory") == 1


async def test_many_who_want_one_model_wait_for_one_fetch(server: ModelServer) -> None:
    async with some_models() as here:
        server.hold()
        urls = [server.base + MACHINE, server.base + LAMP]
        waiting = [asyncio.ensure_future(here.models.gather(urls)) for _ in range(50)]
        while not server.asked:  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0)
        server.held.set()
        found = await asyncio.gather(*waiting)
        assert all(one.keys() == found[0].keys() for one in found)
        assert set(server.asked.values()) == {1}
        assert {*server.asked} == {MACHINE, DEVICE, BREWER, SHARED, LAMP, SWITCH}


async def test_a_model_that_is_out_of_date_serves_until_its_successor_is_there(
    server: ModelServer,
) -> None:
    async with some_models(cache_seconds=0.0) as here:
        url = server.base + SWITCH
        assert (await here.models.model(url)).document["title"] == "Switchable"
        server.documents[SWITCH] = {**DOCUMENTS[SWITCH], "title": "Newer"}
        assert (await here.models.model(url)).document["title"] == "Switchable"
        async with asyncio.timeout(5):
            while (await here.models.model(url)).document["title"] != "Newer":  # noqa: ASYNC110
                await asyncio.sleep(0)
        del server.documents[SWITCH]
        asked = server.asked[SWITCH]
        async with asyncio.timeout(5):
            while server.asked[SWITCH] == asked:
                await here.models.model(url)
                await asyncio.sleep(0)
        assert (await here.models.model(url)).document["title"] == "Newer"


async def test_a_failure_is_remembered_for_a_while(server: ModelServer) -> None:
    async with some_models() as here:
        for _ in range(3):
            error = await here.refusal(server.base + "/absent")
            assert (error.status, error.code) == (421, "wot:tm.notfound")
        assert server.asked["/absent"] == 1
        assert here.sample("twinspan_wot_fetches_total", outcome="failed") == 1
    async with some_models(failure_seconds=0.0) as here:
        await here.refusal(server.base + "/absent")
        server.documents["/absent"] = DOCUMENTS[SWITCH]
        assert isinstance(await here.models.model(server.base + "/absent"), ThingModel)


async def test_memory_is_bounded(server: ModelServer) -> None:
    async with some_models(cache_entries=5) as here:
        for number in range(20):
            server.documents[f"/m{number}"] = DOCUMENTS[SWITCH]
            await here.models.model(f"{server.base}/m{number}")
        await here.models.model(f"{server.base}/m19")
        await here.models.model(f"{server.base}/m0")
        assert server.asked["/m19"] == 1
        assert server.asked["/m0"] == 2


# --- who is asked ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "2130706433",
        "127.1",
        "0x7f000001",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "[::]",
    ],
)
async def test_this_machine_is_not_asked_under_any_name(server: ModelServer, host: str) -> None:
    async with some_models(allowed=()) as here:
        error = await here.refusal(f"http://{host}:{server.port}{SWITCH}")
        assert (error.status, error.code) == (421, "wot:tm.notfound")
        assert not server.asked
        assert here.sample("twinspan_wot_fetches_total", outcome="fetched") == 0


async def test_only_the_allowed_port_is_asked(server: ModelServer) -> None:
    async with some_models(allowed=(f"127.0.0.1:{server.port}",)) as here:
        assert await here.models.model(server.base + SWITCH)
    async with some_models(allowed=("127.0.0.1:1",)) as here:
        await here.refusal(server.base + SWITCH)
        assert server.asked[SWITCH] == 1


async def test_an_allowed_name_may_lead_to_loopback(server: ModelServer) -> None:
    async with some_models(allowed=("localhost",)) as here:
        assert await here.models.model(f"http://localhost:{server.port}{SWITCH}")
        await here.refusal(server.base + SWITCH)


async def test_a_name_is_judged_by_the_address_that_the_connection_goes_to(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name resolves to a public address when somebody looks first, to loopback afterwards."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo
    answers = iter(["93.184.216.34"])

    async def rebinding(host: Any, port: Any, **more: Any) -> Any:
        return await real(next(answers, "127.0.0.1"), port, **more)

    asked: list[str] = []

    async def connected(*, addr_infos: Any, **_: Any) -> Any:
        asked.extend(info[4][0] for info in addr_infos)
        raise OSError("nobody is called in tests")

    monkeypatch.setattr(loop, "getaddrinfo", rebinding)
    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", connected)
    async with some_models(allowed=(), failure_seconds=0.0) as here:
        await here.refusal(f"http://rebind.acme.org:{server.port}{SWITCH}")
        assert asked == ["93.184.216.34"]
        await here.refusal(f"http://rebind.acme.org:{server.port}{SWITCH}")
        assert asked == ["93.184.216.34"]


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@127.0.0.1:{port}/switchable-1.0.0.tm.jsonld",
        "http://127.0.0.1:{port}/" + "x" * 3_000,
        "http://:80/x",
        "http://127.0.0.1:99999/x",
    ],
)
async def test_odd_urls_are_not_asked(server: ModelServer, url: str) -> None:
    async with some_models() as here:
        error = await here.refusal(url.format(port=server.port))
        assert error.code == "wot:tm.notfound"
        assert not server.asked


async def test_redirects_are_followed_and_each_is_judged(server: ModelServer) -> None:
    async def move(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(request.query["to"])

    server.answers["/moved"] = move
    async with some_models(allowed=(f"127.0.0.1:{server.port}",)) as here:
        moved = f"{server.base}/moved?to="
        assert await here.models.model(moved + SWITCH)
        for target in ("http://[::1]:1/x", "http://169.254.169.254/latest", "ftp://acme.org/x"):
            assert (await here.refusal(moved + target)).code == "wot:tm.notfound"
        assert here.sample("twinspan_wot_fetches_total", outcome="refused") == 3


async def test_redirects_without_end_are_given_up(server: ModelServer) -> None:
    async def again(_: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("/again")

    server.answers["/again"] = again
    async with some_models(max_redirects=3) as here:
        assert (await here.refusal(server.base + "/again")).code == "wot:tm.notfound"
        assert server.asked["/again"] == 4


# --- what they answer --------------------------------------------------------------------------


def body(content: bytes, content_type: str = "application/tm+json", **headers: str) -> Any:
    async def answer(_: web.Request) -> web.StreamResponse:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=content, headers={"Content-Type": content_type, **given})

    return answer


MODEL = json.dumps(DOCUMENTS[SWITCH]).encode()


@pytest.mark.parametrize(
    "kind",
    [
        "application/tm+json",
        "application/td+json",
        "application/json; charset=utf-8",
        "application/ld+json",
        "text/plain; charset=utf-8",
        "application/octet-stream",
    ],
)
async def test_models_come_under_the_names_that_servers_give_json(
    server: ModelServer, kind: str
) -> None:
    server.answers["/x"] = body(MODEL, content_type=kind)
    async with some_models() as here:
        assert await here.models.model(server.base + "/x")


@pytest.mark.parametrize(
    ("content", "headers", "code"),
    [
        (MODEL, {"content_type": "text/html"}, "wot:tm.notfound"),
        (MODEL, {"content_encoding": "gzip"}, "wot:tm.notfound"),
        (b"[" + b'"x",' * 100_000 + b"1]", {}, "wot:tm.notfound"),
        (b"<html>", {}, "wot:tm.invalid"),
        (b"", {}, "wot:tm.invalid"),
        (b"[1]", {}, "wot:tm.invalid"),
        (b"[" * 100_000, {}, "wot:tm.invalid"),
        (b'{"a": "\xff"}', {}, "wot:tm.invalid"),
    ],
)
async def test_what_is_no_model_is_refused(
    server: ModelServer, content: bytes, headers: dict[str, str], code: str
) -> None:
    server.answers["/x"] = body(content, **headers)
    async with some_models() as here:
        assert (await here.refusal(server.base + "/x")).code == code


async def test_a_body_without_a_length_is_cut_off_at_the_limit(server: ModelServer) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/json"})
        await response.prepare(request)
        try:
            while sent < 100_000_000:
                await response.write(b" " * 65_536)
                sent += 65_536
        except ConnectionError:
            pass
        return response

    server.answers["/x"] = endless
    async with some_models(max_bytes=100_000) as here:
        assert (await here.refusal(server.base + "/x")).code == "wot:tm.notfound"
    assert sent < 50_000_000


async def test_a_server_that_does_not_answer_is_given_up(server: ModelServer) -> None:
    server.hold()
    async with some_models(fetch_seconds=0.05) as here:
        assert (await here.refusal(server.base + SWITCH)).code == "wot:tm.notfound"


async def test_models_that_come_slowly_one_after_another_have_one_time_limit(
    server: ModelServer,
) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        step = int(request.path.removeprefix("/s"))
        link = {"rel": "tm:extends", "href": f"/s{step + 1}"}
        return web.json_response({"links": [link] if step < 9 else []})

    server.answers |= {f"/s{n}": slow for n in range(12)}
    async with some_models(resolve_seconds=0.12) as here:
        assert (await here.refusal(server.base + "/s0")).code == "wot:tm.notfound"


# --- from a folder -----------------------------------------------------------------------------


def folder(path: Path) -> Path:
    host = path / "models.acme.org"
    host.mkdir(parents=True)
    for name in (LAMP, SWITCH):
        (host / name.lstrip("/")).write_text(json.dumps(DOCUMENTS[name]))
    (path / "mapped.json").write_text(json.dumps(DOCUMENTS[SWITCH]))
    (path / "models.yaml").write_text(
        "'https://other.acme.org/m?v=1': mapped.json\n'https://other.acme.org/up': ../secret.json\n"
    )
    (path.parent / "secret.json").write_text("{}")
    return path


async def test_a_site_without_internet_has_its_models_in_a_folder(tmp_path: Path) -> None:
    async with some_models(local=str(folder(tmp_path / "models")), local_only=True) as here:
        lamp = await here.models.model("https://models.acme.org" + LAMP)
        assert [*lamp.properties] == ["on", "level"]
        assert await here.models.model("https://other.acme.org/m?v=1")
        assert here.sample("twinspan_wot_fetches_total", outcome="fetched") == 0
        for url in (
            "https://models.acme.org/none",
            "https://models.acme.org/../../secret.json",
            "https://models.acme.org/%2e%2e/%2e%2e/secret.json",
            "https://../secret.json",
            "https://other.acme.org/up",
            "https://models.acme.org/a%00b",
        ):
            assert (await here.refusal(url)).code == "wot:tm.notfound", url


async def test_what_the_folder_does_not_have_is_fetched(
    tmp_path: Path, server: ModelServer
) -> None:
    async with some_models(local=str(folder(tmp_path / "models"))) as here:
        assert await here.models.model(server.base + SWITCH)
        assert server.asked[SWITCH] == 1


def test_a_folder_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    settings = WotModels(local=str(tmp_path / "none"))
    with pytest.raises(InvalidSetting, match="no folder"):
        Fetcher(settings, AddressRules(), Metrics(), Tracer())
    (tmp_path / "models.yaml").write_text("[1, 2]")
    with pytest.raises(InvalidSetting, match="mapping"):
        Fetcher(WotModels(local=str(tmp_path)), AddressRules(), Metrics(), Tracer())


async def test_a_bug_costs_one_model_and_no_more(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    async with some_models(failure_seconds=0.0) as here:
        monkeypatch.setattr("gateway.ditto.wot_models.read_document", broken)
        assert (await here.refusal(server.base + SWITCH)).status == 500
        monkeypatch.undo()
        monkeypatch.setattr("gateway.ditto.wot_models.resolve", broken)
        assert (await here.refusal(server.base + SWITCH)).status == 500
        monkeypatch.undo()
        assert await here.models.model(server.base + SWITCH)
    assert len(caplog.records) == 2


async def test_before_and_after_its_time_nothing_is_fetched() -> None:
    settings = WotModels()
    models = ThingModels(
        settings, Fetcher(settings, AddressRules(), Metrics(), Tracer()), Metrics()
    )
    with pytest.raises(GatewayError) as caught:
        await models.model("https://models.acme.org/x")
    assert caught.value.status == 503
