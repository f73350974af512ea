"""`ditto.mode: remote`: cuts, conflicts, refusals, limits, logins. Sockets alone lead to the remote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cloud.remotethings import RemoteThings
from cloud.thingsource import RemoteDitto, chunks
from gateway.config.ditto import Ditto, DittoWebSocket
from gateway.errors import InvalidSetting, NotFound, PreconditionFailed, Undeliverable
from gateway.kube.client import PatchType
from gateway.model.json import Json, JsonObject
from gateway.model.thing import Action, ThingCommand
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from gateway.wire.cloudedge import to_cloud
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import DeviceState, StateUpdate
from tests.cloud_rig import (
    CloudCore,
    a_cloud,
    a_stamp,
    an_edge,
    apply_device,
    apply_model,
    content_of,
    eventually,
    join,
)
from tests.cloud_samples import DEVICES, a_device, a_model
from tests.ditto_rig import Stack, a_ditto
from tests.remote_north import CLOUDCORE, RemoteNorth, remote_settings
from tests.tcp_proxy import TcpProxy, a_proxy

LAMP = "default:lamp"
Check = Callable[[], Awaitable[bool]]


@dataclass
class Far:
    """A Ditto elsewhere, the line to it, and how to start a CloudCore here."""

    ditto: Stack
    line: TcpProxy
    folder: Path
    start: Callable[..., AbstractAsyncContextManager[CloudCore]]

    @property
    def north(self) -> RemoteNorth:
        return RemoteNorth(self.ditto.url)

    def cut(self) -> None:
        """The network between CloudCore and Ditto breaks."""
        self.line.refuses = True
        self.line.cut()

    def mend(self) -> None:
        self.line.refuses = False


@asynccontextmanager
async def far_away(folder: Path, **settings: Any) -> AsyncIterator[Far]:
    remote = {name: settings.pop(name) for name in ("max_rate",) if name in settings}
    async with a_ditto(**settings) as ditto, a_proxy(ditto.address) as line:
        mode = remote_settings(folder, f"http://{line.address}", **remote)
        yield Far(
            ditto,
            line,
            folder,
            partial(a_cloud, folder, ditto=mode, north=RemoteNorth(ditto.url)),
        )


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[Far]:
    async with far_away(tmp_path) as found:
        yield found


def is_up(cloud: CloudCore, wanted: float = 1.0) -> Check:
    async def check() -> bool:
        return cloud.sample("twinspan_remote_things_up") == wanted

    return check


def thing_is(cloud: CloudCore, name: str, value: Json, part: str = "desiredProperties") -> Check:
    async def check() -> bool:
        return await thing_value(cloud, name, part) == value

    return check


async def thing_value(cloud: CloudCore, name: str, part: str = "desiredProperties") -> Json:
    document: Any = await cloud.thing(LAMP) or {}
    found: Json = document.get("features", {}).get(name, {}).get(part, {}).get("value")
    return found


def device_wants(cloud: CloudCore, name: str, value: str | None) -> Check:
    async def check() -> bool:
        view = DeviceView.read(await cloud.device("lamp"))
        return view.properties[name].desired == value

    return check


def told(cloud: CloudCore, reason: str) -> Check:
    async def check() -> bool:
        found = await cloud.kube.list("v1", "events", "default")
        return reason in [event["reason"] for event in found.items]

    return check


async def set_desired(cloud: CloudCore, index: int, value: str) -> None:
    path = f"/spec/properties/{index}/desired"
    patch: list[Json] = [{"op": "add", "path": path, "value": {"value": value}}]
    await cloud.kube.patch(DEVICES, "devices", "default", "lamp", patch, patch_type=PatchType.JSON)


async def a_lamp(cloud: CloudCore, **desired: Any) -> None:
    """Apply model and Device, and wait for the thing."""
    await apply_model(cloud)
    await apply_device(cloud, a_device(**desired))
    await eventually(partial(cloud.thing, LAMP))


async def settled(cloud: CloudCore) -> None:
    async def check() -> bool:
        rows = await cloud.gateway.database.read(
            lambda c: c.execute("SELECT count(*) FROM device_base").fetchone()
        )
        return bool(rows[0] == 3)

    await eventually(check)


# --- cuts ----------------------------------------------------------------------------------------


async def test_after_a_cut_the_side_that_changed_wins_and_the_device_when_both_did(
    far: Far,
) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud, on="false", level="1")
        await settled(cloud)
        far.cut()
        await eventually(is_up(cloud, 0.0))
        await cloud.want(LAMP, "on", True)
        await cloud.want(LAMP, "level", 50)
        await set_desired(cloud, 1, "3")
        far.mend()
        await eventually(device_wants(cloud, "on", "true"))
        await eventually(thing_is(cloud, "level", 3))
        await eventually(device_wants(cloud, "level", "3"))
        await eventually(told(cloud, "DesiredConflict"))


async def test_a_wish_that_meets_another_is_decided_again_and_told(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application writes while our own write is on its way: 412, read again, decide again."""
    async with far.start() as cloud:
        await a_lamp(cloud, level="1")
        await settled(cloud)
        ask = RemoteThings._ask
        met: list[object] = []

        async def slowly(self: RemoteThings, command: ThingCommand) -> object:
            if command.action is Action.MERGE and not met:
                await cloud.want(LAMP, "level", 50)
                met.append(command.headers)
            return await ask(self, command)

        monkeypatch.setattr(RemoteThings, "_ask", slowly)
        await set_desired(cloud, 1, "3")
        await eventually(told(cloud, "DesiredConflict"))
        await eventually(thing_is(cloud, "level", 3))
        assert met == [
            {"if-match": "*", "condition": "eq(features/level/desiredProperties/value,1)"}
        ]


async def test_reports_do_not_stand_in_the_way_of_wishes(far: Far) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud)
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            await edge.object("default/device/lamp")
            for number in range(1, 30):
                await edge.report("lamp", number, temp=str(number))
                if number % 5 == 0:
                    await set_desired(cloud, 1, str(number))
            await eventually(thing_is(cloud, "level", 25))
            assert await thing_value(cloud, "temp", "properties") == 29.0


async def test_a_line_that_is_silent_is_given_up_and_taken_up_again(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.remotehttp.PING_SECONDS", 0.2)
    async with far.start() as cloud:
        await a_lamp(cloud, level="1")
        far.line.flows.clear()  # nothing comes or goes, nobody says so
        await eventually(is_up(cloud, 0.0))
        await cloud.want(LAMP, "level", 2)
        far.line.cut()
        far.line.flows.set()
        await eventually(device_wants(cloud, "level", "2"))


async def test_cloudcore_is_ready_without_the_remote_and_devices_wait_for_it(far: Far) -> None:
    far.cut()
    async with far.start() as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device(level="7"))
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            await edge.object("default/device/lamp", "insert")  # nodes do not wait
        assert await cloud.thing(LAMP) is None
        far.mend()
        await eventually(thing_is(cloud, "level", 7))


async def test_reports_are_answered_while_the_remote_is_away_and_reach_it_later(far: Far) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud)
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            await edge.object("default/device/lamp")
            await edge.report("lamp", 1, level="1", extra="x", more="y")
            far.cut()
            await eventually(is_up(cloud, 0.0))
            assert content_of(await edge.report("lamp", 2, level="2", extra="z", more=None)) == "OK"
            state = StateUpdate("", 1, DeviceState("lamp", "online", "2026-11-22T20:05:00Z"))
            await edge.ask(to_cloud.report_state(a_stamp(), DeviceKey("default", "lamp"), state))
            status = await cloud.object(DEVICES, "devicestatuses", "default", "lamp")
            twins = {t["propertyName"]: t["reported"]["value"] for t in status["status"]["twins"]}
            assert twins == {"level": "2", "extra": "z"}
            assert await thing_value(cloud, "level", "properties") == 1
            far.mend()
            await eventually(thing_is(cloud, "level", 2, "properties"))
            await eventually(thing_is(cloud, "extra", "z", "properties"))
            await eventually(thing_is(cloud, "more", None, "properties"))

            async def is_online() -> bool:
                document: Any = await cloud.thing(LAMP)
                return bool(document["attributes"]["kubeedge"].get("state") == "online")

            await eventually(is_online)
            assert cloud.sample("twinspan_edge_reports_total", outcome="deferred") == 3
            assert cloud.sample("twinspan_edge_reports_total", outcome="caught_up") == 3


async def test_what_was_reported_before_a_restart_without_the_remote_reaches_it(far: Far) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud)
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            await edge.object("default/device/lamp")
            await edge.report("lamp", 1, level="1")
            far.cut()
            await eventually(is_up(cloud, 0.0))
            await edge.report("lamp", 2, level="2")
    far.mend()
    async with far.start() as cloud:
        await eventually(thing_is(cloud, "level", 2, "properties"))


async def test_a_device_that_is_deleted_while_the_remote_is_away_takes_its_thing_along(
    far: Far,
) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud)
        await settled(cloud)
        far.cut()
        await eventually(is_up(cloud, 0.0))
        await cloud.kube.delete(DEVICES, "devices", "default", "lamp")
        assert await cloud.thing(LAMP) is not None
        far.mend()

        async def is_gone() -> bool:
            return await cloud.thing(LAMP) is None

        await eventually(is_gone)


async def test_a_device_deleted_in_downtime_loses_its_thing_once_the_remote_is_there(
    far: Far,
) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud)
        await settled(cloud)
    async with far.start(cloudcore=False) as cloud:
        await cloud.kube.delete(DEVICES, "devices", "default", "lamp")
    far.cut()
    async with far.start() as cloud:
        assert await cloud.thing(LAMP) is not None
        far.mend()

        async def is_gone() -> bool:
            return await cloud.thing(LAMP) is None

        await eventually(is_gone)


async def test_a_remote_that_lost_everything_gets_policy_and_things_again(far: Far) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud, level="7")
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            await edge.object("default/device/lamp")
            await edge.report("lamp", 1, temp="21.5")
            far.cut()
            await eventually(is_up(cloud, 0.0))
            async with a_ditto() as fresh:
                cloud.north = RemoteNorth(fresh.url)
                assert await cloud.thing(LAMP) is None
                far.line.target = fresh.address
                far.mend()
                await eventually(thing_is(cloud, "level", 7))
                await eventually(thing_is(cloud, "temp", 21.5, "properties"))
                document = await cloud.thing(LAMP)
                assert document is not None
                assert document["policyId"] == "default:twinspan-devices"


async def test_the_shared_policy_names_our_subject_there_and_leaves_it_to_the_operators(
    far: Far,
) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud)
        status, policy = await far.north.ask("GET", "policies/default:twinspan-devices")
        assert status == 200
        entries = policy["entries"]
        assert list(entries["CONTROLLER"]["subjects"]) == [f"nginx:{CLOUDCORE[0]}"]
        assert entries["CONTROLLER"]["resources"]["policy:/"]["grant"] == ["READ"]
        assert list(entries["OPERATORS"]["subjects"]) == ["nginx:ditto"]


async def test_a_policy_that_is_there_and_not_ours_to_change_is_used_as_it_is(far: Far) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud)
        before = await far.north.ask("GET", "policies/default:twinspan-devices")
    async with far.start() as cloud:  # it does not remember that it made the policy
        await apply_device(cloud, a_device("other"))
        await eventually(partial(cloud.thing, "default:other"))
    assert await far.north.ask("GET", "policies/default:twinspan-devices") == before


async def test_a_policy_that_does_not_know_us_is_told(far: Far) -> None:
    entries = {
        "ME": {
            "subjects": {"nginx:ditto": {"type": "x"}},
            "resources": {"policy:/": {"grant": ["READ", "WRITE"], "revoke": []}},
        }
    }
    path = "policies/default:twinspan-devices"
    headers = {"Content-Type": "application/json"}
    made, _ = await far.north.ask("PUT", path, json.dumps({"entries": entries}), headers)
    assert made == 201
    async with far.start() as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        await eventually(told(cloud, "ThingDenied"))
        assert await cloud.thing(LAMP) is None


async def test_a_namespace_that_comes_later_is_heard_too(far: Far) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud, level="1")
        await cloud.kube.create("v1", "namespaces", None, {"metadata": {"name": "hall"}})
        model, device = a_model(), a_device("sun")
        for document, plural in ((model, "devicemodels"), (device, "devices")):
            document["metadata"]["namespace"] = "hall"  # type: ignore[index, call-overload]
            await cloud.kube.create(DEVICES, plural, "hall", document)
        await eventually(partial(cloud.thing, "hall:sun"))
        await cloud.want("hall:sun", "level", 9)

        async def is_wanted() -> bool:
            view = DeviceView.read(await cloud.device("sun", "hall"))
            return view.properties["level"].desired == "9"

        await eventually(is_wanted)
        await cloud.want(LAMP, "level", 2)
        await eventually(device_wants(cloud, "level", "2"))


# --- wishes that a Device cannot take ----------------------------------------------------------------


@pytest.mark.parametrize("bad", ["hot", 101, None, {"a": 1}])
async def test_a_bad_wish_is_told_and_the_last_good_one_written_back_once(
    far: Far, bad: Json
) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud, level="40")
        await settled(cloud)
        await cloud.want(LAMP, "level", bad)
        await eventually(told(cloud, "BadDesired"))
        await eventually(thing_is(cloud, "level", 40))
        await cloud.want(LAMP, "level", bad)  # who insists is left alone
        await cloud.want(LAMP, "on", True)
        await eventually(device_wants(cloud, "on", "true"))
        assert await thing_value(cloud, "level") == bad
        assert await device_wants(cloud, "level", "40")()
        await cloud.want(LAMP, "level", 41)
        await eventually(device_wants(cloud, "level", "41"))
        await cloud.want(LAMP, "level", bad)  # news again after a good one
        await eventually(thing_is(cloud, "level", 41))


async def test_a_bad_wish_where_nothing_was_wanted_is_taken_away(far: Far) -> None:
    async with far.start() as cloud:
        await a_lamp(cloud)
        await settled(cloud)
        await cloud.want(LAMP, "temp", 20.0)  # read only
        await eventually(told(cloud, "BadDesired"))
        await eventually(thing_is(cloud, "temp", None))


async def test_a_device_that_is_its_own_source_takes_its_value_back(far: Far) -> None:
    only: JsonObject = {"twinspan.io/desired-source": "device"}
    async with far.start() as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device(annotations=only, level="40"))
        await eventually(thing_is(cloud, "level", 40))
        await cloud.want(LAMP, "level", 41)
        await eventually(thing_is(cloud, "level", 40))
        assert await device_wants(cloud, "level", "40")()


# --- limits ----------------------------------------------------------------------------------------


async def test_a_remote_that_limits_its_sessions_is_asked_more_slowly(tmp_path: Path) -> None:
    async with (
        far_away(tmp_path, websocket=DittoWebSocket(max_rate=0.8)) as far,
        far.start() as cloud,
    ):
        await a_lamp(cloud, level="1")
        await cloud.kube.create("v1", "namespaces", None, {"metadata": {"name": "hall"}})
        model, device = a_model(), a_device("sun")
        for document, plural in ((model, "devicemodels"), (device, "devices")):
            document["metadata"]["namespace"] = "hall"  # type: ignore[index, call-overload]
            await cloud.kube.create(DEVICES, plural, "hall", document)
        await eventually(partial(cloud.thing, "hall:sun"))
        assert cloud.sample("twinspan_remote_things_up") == 1
        await cloud.want(LAMP, "level", 2)
        await eventually(device_wants(cloud, "level", "2"))


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
    remote = RemoteDitto(
        far.start.keywords["ditto"].remote,  # type: ignore[attr-defined]
        Metrics().edge,
    )
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
    remote = RemoteDitto(far.start.keywords["ditto"].remote, Metrics().edge)  # type: ignore[attr-defined]
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


def test_ids_are_asked_for_in_requests_of_a_bounded_size() -> None:
    ids = [f"default:lamp-{n}-{'x' * (n % 60)}" for n in range(1_000)]
    parts = list(chunks(ids))
    assert [one for part in parts for one in part] == ids
    assert all(len(",".join(part)) <= 4_100 and len(part) <= 100 for part in parts)
    assert list(chunks([])) == []
