"""The client of a Ditto elsewhere: answers of all kinds, limits, logins, TLS, every command of the port."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cloud.remotethings import RemoteThings
from cloud.thingsource import RemoteDitto, chunks
from gateway.config.ditto import Ditto, OpenIdIssuer
from gateway.errors import InvalidSetting, NotFound, PreconditionFailed, Undeliverable
from gateway.model.json import Json
from gateway.model.thing import Action, ThingCommand
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from tests.cloud_rig import (
    a_cloud,
    eventually,
)
from tests.device_pki import a_server
from tests.ditto_rig import a_ditto
from tests.integration.test_ditto_auth import a_provider
from tests.remote_north import CLOUDCORE, Far, RemoteNorth, far_away, remote_settings
from tests.tcp_proxy import a_proxy

LAMP = "default:lamp"


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[Far]:
    async with far_away(tmp_path) as found:
        yield found


@dataclass
class Busy:
    """A Ditto that made-up: says 429 to the first requests, and counts."""

    refuse: int
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 429
    asked: list[float] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(asyncio.get_running_loop().time())
        if len(self.asked) <= self.refuse:
            return web.Response(status=self.status, headers=self.headers, text="slow down")
        if request.path.endswith("whoami"):
            return web.json_response({"defaultSubject": "x:y", "subjects": ["x:y"]})
        return web.json_response({"thingId": LAMP, "_revision": 1})


@asynccontextmanager
async def made_up(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_holds_up_all_requests_and_then_they_are_done(
    tmp_path: Path, status: int
) -> None:
    busy = Busy(2, {"Retry-After": "1"}, status)
    async with made_up(busy.answer) as url, a_remote(tmp_path, url) as remote:
        await remote._greet()
        found = await asyncio.gather(*(remote.things.read(LAMP, tells=False) for _ in range(3)))
        assert [one and one["_revision"] for one in found] == [1, 1, 1]
        assert busy.asked[2] - busy.asked[0] >= 1.0


async def test_a_remote_that_stays_busy_is_undeliverable_not_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.remotehttp.TRIES", 2)
    busy = Busy(1_000, {"Retry-After": "0"})
    async with made_up(busy.answer) as url, a_remote(tmp_path, url) as remote:
        with pytest.raises(Undeliverable, match="429"):
            await remote.things.read(LAMP, tells=False)
        assert len(busy.asked) == 2


async def test_our_own_limit_spreads_requests(tmp_path: Path) -> None:
    busy = Busy(0)
    async with made_up(busy.answer) as url, a_remote(tmp_path, url, max_rate=50.0) as remote:
        started = asyncio.get_running_loop().time()
        await asyncio.gather(*(remote.things.read(LAMP, tells=False) for _ in range(30)))
        assert busy.asked[-1] - started >= 20 / 50  # a tenth of a second's worth goes at once


@asynccontextmanager
async def a_remote(folder: Path, url: str, **settings: Any) -> AsyncIterator[RemoteDitto]:
    """The client alone, opened, without a session."""
    remote = RemoteDitto(remote_settings(folder, url, **settings).remote, Metrics().edge)
    async with remote._http.opened():
        yield remote


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, '{"status":404,"error":"things:thing.notfound","message":"gone"}', None),
        (404, "<html>nginx</html>", Undeliverable),
        (200, "<html>login</html>", Undeliverable),
        (401, "who?", Undeliverable),
        (302, "", Undeliverable),
        (500, '{"status":500,"error":"internalerror","message":"oh"}', Undeliverable),
        (412, '{"status":412,"error":"things:x","message":"m"}', PreconditionFailed),
    ],
)
async def test_only_a_ditto_can_say_that_a_thing_is_not_there(
    tmp_path: Path, status: int, body: str, error: type[Exception] | None
) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    async with made_up(answer) as url, a_remote(tmp_path, url) as remote:
        if error is None:
            assert await remote.things.read(LAMP, tells=False) is None
            return
        with pytest.raises(error):
            await remote.things.read(LAMP, tells=False)


# --- logins and settings -----------------------------------------------------------------------------


async def test_a_wrong_password_is_said_and_a_new_one_taken_without_a_restart(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.remotelogin.LOOK_SECONDS", 0.05)
    secret = far.folder / "remote-password"
    secret.write_text("wrong")
    remote = RemoteDitto(far.settings.remote, Metrics().edge)
    async with running(remote):

        async def is_said() -> bool:
            return "credentials" in str(remote.facts().get("cause"))

        await eventually(is_said)
        assert not remote.is_connected
        assert remote.is_well  # a CloudCore works without it
        secret.write_text(CLOUDCORE[1])

        async def is_connected() -> bool:
            return remote.is_connected

        await eventually(is_connected)
        assert remote.facts()["subject"] == f"nginx:{CLOUDCORE[0]}"


async def test_a_token_that_somebody_renews_keeps_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.remotelogin.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("cloud.thingsource.TOKEN_SECONDS", 0.05)
    file, metrics = tmp_path / "token", Metrics()
    async with a_provider() as provider:
        issuer = OpenIdIssuer(name="acme", issuer=provider.issuer)
        async with a_ditto(openid=(issuer,)) as ditto:
            ends = time.time() + 1.5
            file.write_text(provider.token(exp=ends))
            login = {"username": "", "password_file": "", "token_file": str(file)}
            settings = remote_settings(tmp_path, ditto.url, **login).remote
            remote = RemoteDitto(settings, metrics.edge)
            async with running(remote):

                async def is_connected() -> bool:
                    return remote.is_connected

                await eventually(is_connected)
                assert remote.facts()["subject"] == "acme:alice"
                file.write_text(provider.token(exp=time.time() + 60))

                async def is_over() -> bool:
                    return time.time() > ends + 0.2

                await eventually(is_over)
                assert remote.is_connected
                resyncs = "twinspan_remote_things_resyncs_total"
                assert (
                    metrics.registry.get_sample_value(resyncs) == 1
                )  # the session is the first one


@asynccontextmanager
async def in_tls(target: str, certificate: Path) -> AsyncIterator[str]:
    """TLS in front of a server, as a reverse proxy does it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with a_proxy(target) as line:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await line.serve(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        try:
            yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            line.cut()
            await server.wait_closed()


async def test_the_remote_s_certificate_is_judged_by_the_ca_that_is_set(
    tmp_path: Path, far: Far
) -> None:
    certificate = a_server(tmp_path)
    async with in_tls(far.ditto.address, certificate) as url:
        unknown = RemoteDitto(remote_settings(tmp_path, url).remote, Metrics().edge)
        async with running(unknown):

            async def is_refused() -> bool:
                return "certificate" in str(unknown.facts().get("cause")).lower()

            await eventually(is_refused)
        known = remote_settings(tmp_path, url, ca=str(certificate)).remote
        remote = RemoteDitto(known, Metrics().edge)
        async with running(remote):

            async def is_connected() -> bool:
                return remote.is_connected

            await eventually(is_connected)
            made = await remote.things.execute(a_command(Action.CREATE, (), {}))
            assert made.status == 201


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"url": "ftp://host"}, "ditto.remote.url"),
        ({"url": "http://host/ditto"}, "ditto.remote.url"),
        ({"url": "http://user@host"}, "ditto.remote.url"),
        ({"username": ""}, "either username"),
        ({"password_file": ""}, "ditto.remote.password_file"),
        ({"password_file": "/nowhere"}, "ditto.remote.password_file"),
        ({"token_file": "/nowhere"}, "either username"),
        ({"username": "a:b"}, "no ':'"),
        ({"max_rate": 0.0}, "ditto.remote.max_rate"),
        ({"ca": "/nowhere"}, "ditto.remote.ca"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_at_the_start(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    settings = {"url": "http://127.0.0.1:1", **changes}
    with pytest.raises(InvalidSetting, match=why):
        RemoteDitto(
            remote_settings(tmp_path, settings.pop("url"), **settings).remote, Metrics().edge
        )


async def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"ditto\.mode"):
        async with a_cloud(tmp_path, ditto=Ditto(mode="elsewhere")):
            pass


# --- the port ----------------------------------------------------------------------------------------


def a_command(action: Action, path: tuple[str, ...] = (), value: Json = None) -> ThingCommand:
    return ThingCommand(
        thing_id="default:box", action=action, subjects=("any:body",), path=path, value=value
    )


@asynccontextmanager
async def a_session(far: Far) -> AsyncIterator[RemoteDitto]:
    remote = RemoteDitto(far.settings.remote, Metrics().edge)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(remote))

        async def is_connected() -> bool:
            return remote.is_connected

        await eventually(is_connected)
        yield remote


async def test_every_command_of_the_port_works_at_the_remote(far: Far) -> None:
    async with a_session(far) as remote:
        execute = remote.things.execute
        made = await execute(a_command(Action.CREATE, (), {"attributes": {"a~b": [1, 2], "n": 0}}))
        assert (made.status, made.revision) == (201, 1)
        changed = await execute(a_command(Action.MODIFY, ("attributes", "a~b"), "x~y"))
        assert (changed.status, changed.revision) == (204, 2)
        assert (await execute(a_command(Action.MERGE, ("attributes",), {"c": 1}))).revision == 3
        patch: list[Json] = [
            {"op": "test", "path": "/attributes/c", "value": 1},
            {"op": "replace", "path": "/attributes/n", "value": None},
            {"op": "remove", "path": "/attributes/a~0b"},
        ]
        assert (await execute(a_command(Action.PATCH, (), patch))).status == 204
        found = await execute(a_command(Action.RETRIEVE))
        assert isinstance(found.value, dict)
        assert found.value["attributes"] == {"c": 1, "n": None}
        with pytest.raises(PreconditionFailed):
            await execute(a_command(Action.PATCH, (), [{**patch[0], "value": 2}]))  # type: ignore[dict-item]
        assert (await execute(a_command(Action.DELETE))).status == 204
        with pytest.raises(NotFound):
            await execute(a_command(Action.RETRIEVE))
        with pytest.raises(NotFound):
            await execute(a_command(Action.PATCH, (), patch))


async def test_a_json_patch_that_somebody_overtakes_is_refused_not_half_done(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_session(far) as remote:
        await remote.things.execute(a_command(Action.CREATE, (), {"attributes": {"n": 0}}))
        ask = RemoteThings._ask

        async def overtaken(self: RemoteThings, command: ThingCommand) -> object:
            await far.ditto.things.execute(
                ThingCommand(
                    thing_id="default:box",
                    action=Action.MODIFY,
                    subjects=(f"nginx:{CLOUDCORE[0]}",),
                    path=("attributes", "m"),
                    value=1,
                )
            )
            return await ask(self, command)

        monkeypatch.setattr(RemoteThings, "_ask", overtaken)
        for value in (1, None):  # a merge by entity tag, a single path by condition
            patch: list[Json] = [{"op": "replace", "path": "/attributes/n", "value": value}]
            with pytest.raises(PreconditionFailed):
                await remote.things.execute(a_command(Action.PATCH, (), patch))
        status, found = await far.north.ask("GET", "things/default:box/attributes")
        assert status in (200, 404)
        assert found.get("n", 0) == 0


async def test_submit_hands_on_what_execute_would_raise(far: Far) -> None:
    async with a_session(far) as remote:
        outcomes: asyncio.Queue[object] = asyncio.Queue()
        remote.things.submit(a_command(Action.RETRIEVE), outcomes.put_nowait)
        async with asyncio.timeout(10):
            assert isinstance(await outcomes.get(), NotFound)


async def test_an_answer_that_is_too_large_is_asked_for_in_parts(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"default:box-{n}" for n in range(20)]
    ours = RemoteNorth(far.ditto.url, CLOUDCORE)
    for one in ids:
        body = json.dumps({"attributes": {"text": "x" * 1_000}})
        await ours.ask("PUT", f"things/{one}", body, {"Content-Type": "application/json"})
    monkeypatch.setattr("cloud.remotehttp.MAX_ANSWER", 4_000)
    remote = RemoteDitto(remote_settings(far.folder, far.ditto.url).remote, Metrics().edge)
    remote.serve(Boxes(ids))
    async with running(remote):

        async def is_connected() -> bool:
            return remote.is_connected

        await eventually(is_connected)
        assert remote.facts()["things"] == 20


@dataclass
class Boxes:
    """Devices whose things are boxes."""

    thing_ids: list[str]

    def has_thing(self, thing_id: str) -> bool:
        return thing_id in self.thing_ids

    def resynced(self) -> None: ...


def test_ids_are_asked_for_in_requests_of_a_bounded_size() -> None:
    ids = [f"default:lamp-{n}-{'x' * (n % 60)}" for n in range(1_000)]
    parts = list(chunks(ids))
    assert [one for part in parts for one in part] == ids
    assert all(len(",".join(part)) <= 4_100 and len(part) <= 100 for part in parts)
    assert list(chunks([])) == []
