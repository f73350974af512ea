"""`ditto.mode: remote`: cuts, conflicts, refusals, limits, logins. Sockets alone lead to the remote."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloud.remotethings import RemoteThings
from gateway.config.ditto import DittoWebSocket
from gateway.kube.client import PatchType
from gateway.model.json import Json, JsonObject
from gateway.model.thing import Action, ThingCommand
from gateway.wire.cloudedge import to_cloud
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import DeviceState, StateUpdate
from tests.cloud_rig import (
    CloudCore,
    a_stamp,
    an_edge,
    apply_device,
    apply_model,
    content_of,
    eventually,
    join,
)
from tests.cloud_samples import DEVICES, a_device, a_model
from tests.ditto_rig import a_ditto
from tests.remote_north import CLOUDCORE, Far, RemoteNorth, far_away

LAMP = "default:lamp"
Check = Callable[[], Awaitable[bool]]


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
