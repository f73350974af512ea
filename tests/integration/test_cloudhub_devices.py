"""DeviceController: a Device and its thing want the same, whoever changes its mind, and live together.

Each test runs with the things service here and with one elsewhere, reached over HTTP and WebSocket alone.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import BadRequest, Conflict, NotFound, StoreUnavailable
from gateway.kube.client import PatchType
from gateway.model.json import Json, JsonObject
from gateway.model.thing import Action, ThingCommand
from gateway.wire.cloudedge import to_cloud
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import DeviceState, StateUpdate
from tests.cloud_rig import (
    OPERATOR,
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
from tests.ditto_rig import a_ditto
from tests.remote_north import CLOUDCORE, RemoteNorth, remote_settings

LAMP = "default:lamp"
Check = Callable[[], Awaitable[bool]]
Start = Callable[..., AbstractAsyncContextManager[CloudCore]]
"""Starts a CloudCore on the same stores, with things in the same place, as often as a test wants."""


async def desired_of(cloud: CloudCore, name: str) -> str | None:
    view = DeviceView.read(await cloud.device("lamp"))
    return view.properties[name].desired


def device_wants(cloud: CloudCore, name: str, value: str | None) -> Check:
    async def check() -> bool:
        return await desired_of(cloud, name) == value

    return check


async def thing_value(cloud: CloudCore, name: str, part: str = "desiredProperties") -> Json:
    document: Any = await cloud.thing(LAMP) or {}
    found: Json = document.get("features", {}).get(name, {}).get(part, {}).get("value")
    return found


def thing_wants(cloud: CloudCore, name: str, value: Json) -> Check:
    async def check() -> bool:
        return await thing_value(cloud, name) == value

    return check


def there_is_a_thing(cloud: CloudCore, thing_id: str = LAMP) -> Check:
    async def check() -> bool:
        return await cloud.thing(thing_id) is not None

    return check


def there_is_no_thing(cloud: CloudCore, thing_id: str = LAMP) -> Check:
    async def check() -> bool:
        return await cloud.thing(thing_id) is None

    return check


def told(cloud: CloudCore, reason: str) -> Check:
    async def check() -> bool:
        found = await cloud.kube.list("v1", "events", "default")
        return reason in [event["reason"] for event in found.items]

    return check


async def set_desired(cloud: CloudCore, index: int, value: str) -> None:
    """`kubectl patch device lamp --type=json`, as an operator does it."""
    path = f"/spec/properties/{index}/desired"
    patch: list[Json] = [{"op": "add", "path": path, "value": {"value": value}}]
    await cloud.kube.patch(DEVICES, "devices", "default", "lamp", patch, patch_type=PatchType.JSON)


async def revision(cloud: CloudCore) -> int:
    thing = await cloud.north.load(LAMP)
    assert thing is not None
    return thing.revision


async def settled(cloud: CloudCore) -> None:
    """Wait until base, Device and thing agree on the disk."""

    async def check() -> bool:
        rows = await cloud.gateway.database.read(
            lambda c: dict(c.execute("SELECT property, desired FROM device_base").fetchall())
        )
        return len(rows) == 3

    await eventually(check)


@pytest.fixture(params=["embedded", "remote"])
async def start(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Start]:
    if request.param == "embedded":
        yield partial(a_cloud, tmp_path)
        return
    async with a_ditto() as elsewhere:
        url = elsewhere.url
        settings = remote_settings(tmp_path, url)
        yield partial(a_cloud, tmp_path, ditto=settings, north=RemoteNorth(url))


@pytest.fixture
async def cloud(start: Start) -> AsyncIterator[CloudCore]:
    async with start() as running:
        await apply_model(running)
        yield running


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[CloudCore]:
    """A cloud with the things service here, which asks before it stores."""
    async with a_cloud(tmp_path) as running:
        await apply_model(running)
        yield running


# --- desired values ------------------------------------------------------------------------------


async def test_a_device_becomes_a_thing_with_typed_wishes_and_the_shared_policy(
    cloud: CloudCore,
) -> None:
    await apply_device(cloud, a_device(on="true", level="40"))
    await eventually(there_is_a_thing(cloud))
    document = await cloud.thing(LAMP)
    assert document is not None
    assert document["policyId"] == "default:twinspan-devices"
    assert document["attributes"] == {
        "kubeedge": {"node": "edge-1", "model": "lamp-model", "protocol": "virtual"}
    }
    assert document["features"] == {
        "on": {"desiredProperties": {"value": True}},
        "level": {"desiredProperties": {"value": 40}},
        "temp": {},
    }


async def test_both_ways_end_in_the_same_state_without_echo(cloud: CloudCore) -> None:
    await apply_device(cloud, a_device(on="false"))
    await eventually(there_is_a_thing(cloud))
    await set_desired(cloud, 0, "true")
    await eventually(thing_wants(cloud, "on", True))
    await cloud.want(LAMP, "on", False)
    await eventually(device_wants(cloud, "on", "false"))
    await cloud.want(LAMP, "level", 70)
    await eventually(device_wants(cloud, "level", "70"))
    version = (await cloud.device("lamp"))["metadata"]["resourceVersion"]  # type: ignore[index, call-overload]
    seen = await revision(cloud)
    await set_desired(cloud, 0, "false")  # the same text, without our metadata: another version
    await cloud.want(LAMP, "level", 71)
    await eventually(device_wants(cloud, "level", "71"))
    assert await thing_value(cloud, "on") is False
    assert await revision(cloud) == seen + 1  # nothing but our own write
    newer = (await cloud.device("lamp"))["metadata"]["resourceVersion"]  # type: ignore[index, call-overload]
    assert int(str(newer)) > int(str(version))


async def test_many_wishes_in_a_row_end_with_the_last(cloud: CloudCore) -> None:
    await apply_device(cloud, a_device())
    await eventually(there_is_a_thing(cloud))
    for level in range(1, 60):
        await cloud.want(LAMP, "level", level)
    await eventually(device_wants(cloud, "level", "59"))
    assert cloud.sample("twinspan_device_desired_total", towards="device", outcome="written") < 30


async def test_a_wish_that_is_withdrawn_leaves_the_device(cloud: CloudCore) -> None:
    await apply_device(cloud, a_device(level="5"))
    await eventually(there_is_a_thing(cloud))
    path = ("features", "level", "desiredProperties", "value")
    await cloud.command(LAMP, Action.DELETE, path)
    await eventually(device_wants(cloud, "level", None))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("level", "40", "expected an integer"),
        ("level", 101, "at most 100"),
        ("level", -1, "at least 0"),
        ("level", None, "got null"),
        ("on", 1, "expected a boolean"),
        ("temp", 20.0, "ReadOnly"),
    ],
)
async def test_a_wish_of_the_wrong_type_or_range_is_refused_before_it_is_stored(
    guarded: CloudCore, name: str, value: Json, why: str
) -> None:
    cloud = guarded
    await apply_device(cloud, a_device())
    await eventually(there_is_a_thing(cloud))
    seen = await revision(cloud)
    with pytest.raises(BadRequest, match=why):
        await cloud.want(LAMP, name, value)
    nested: JsonObject = {"features": {name: {"desiredProperties": {"value": value}}}}
    if value is not None:
        with pytest.raises(BadRequest, match=why):
            await cloud.command(LAMP, Action.MERGE, (), nested)
    assert await revision(cloud) == seen


async def test_a_device_that_is_its_own_source_refuses_wishes(guarded: CloudCore) -> None:
    cloud = guarded
    only: JsonObject = {"twinspan.io/desired-source": "device"}
    await apply_device(cloud, a_device(annotations=only, on="true"))
    await eventually(there_is_a_thing(cloud))
    with pytest.raises(Conflict, match="desired-source"):
        await cloud.want(LAMP, "on", False)
    await cloud.command(LAMP, Action.MODIFY, ("attributes", "room"), "hall")


async def test_a_bad_value_in_the_device_is_told_and_the_last_good_one_stays(
    cloud: CloudCore,
) -> None:
    await apply_device(cloud, a_device(level="40"))
    await eventually(there_is_a_thing(cloud))
    await settled(cloud)
    await set_desired(cloud, 1, "hot")
    await eventually(told(cloud, "BadDesired"))
    assert await thing_value(cloud, "level") == 40
    await cloud.want(LAMP, "level", 41)
    await eventually(device_wants(cloud, "level", "41"))


async def test_after_downtime_the_side_that_changed_wins_and_the_device_when_both_did(
    start: Start,
) -> None:
    async with start() as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device(on="false", level="1"))
        await eventually(there_is_a_thing(cloud))
        await settled(cloud)
    async with start(cloudcore=False) as cloud:
        await cloud.want(LAMP, "on", True)
    async with start() as cloud:
        await eventually(device_wants(cloud, "on", "true"))
        assert await thing_value(cloud, "level") == 1
        await settled(cloud)
    async with start(cloudcore=False) as cloud:
        await set_desired(cloud, 1, "2")
    async with start() as cloud:
        await eventually(thing_wants(cloud, "level", 2))
    async with start(cloudcore=False) as cloud:
        await set_desired(cloud, 1, "3")
        await cloud.want(LAMP, "level", 4)
    async with start() as cloud:
        await eventually(thing_wants(cloud, "level", 3))
        await eventually(told(cloud, "DesiredConflict"))
        assert await desired_of(cloud, "level") == "3"


# --- the life of things --------------------------------------------------------------------------


async def test_the_thing_goes_with_its_device(cloud: CloudCore) -> None:
    await apply_device(cloud, a_device())
    await eventually(there_is_a_thing(cloud))
    await cloud.kube.delete(DEVICES, "devices", "default", "lamp")
    await eventually(there_is_no_thing(cloud))
    await apply_device(cloud, a_device(on="true"))
    await eventually(thing_wants_if_there(cloud, "on", True))


def thing_wants_if_there(cloud: CloudCore, name: str, value: Json) -> Check:
    async def check() -> bool:
        return await cloud.thing(LAMP) is not None and await thing_value(cloud, name) == value

    return check


async def test_the_thing_stays_when_the_device_says_so(cloud: CloudCore) -> None:
    keep: JsonObject = {"twinspan.io/on-delete": "keep"}
    await apply_device(cloud, a_device(annotations=keep))
    await apply_device(cloud, a_device("other"))
    await eventually(there_is_a_thing(cloud))
    await eventually(there_is_a_thing(cloud, "default:other"))
    for name in ("lamp", "other"):
        await cloud.kube.delete(DEVICES, "devices", "default", name)
    await eventually(there_is_no_thing(cloud, "default:other"))
    assert await cloud.thing(LAMP) is not None


async def test_the_thing_of_a_device_deleted_during_downtime_goes_at_the_next_start(
    start: Start,
) -> None:
    async with start() as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        await eventually(there_is_a_thing(cloud))
        await settled(cloud)
    async with start(cloudcore=False) as cloud:
        await cloud.kube.delete(DEVICES, "devices", "default", "lamp")
    async with start() as cloud:
        await eventually(there_is_no_thing(cloud))


async def test_a_thing_that_is_deleted_is_made_again_with_what_was_reported(
    cloud: CloudCore,
) -> None:
    await apply_device(cloud, a_device(level="5"))
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        await edge.object("default/device/lamp")
        await edge.report("lamp", temp="21.5")
        await cloud.command(LAMP, Action.DELETE, ())

        async def is_whole() -> bool:
            if await cloud.thing(LAMP) is None:
                return False
            return (
                await thing_value(cloud, "temp", "properties") == 21.5
                and await thing_value(cloud, "level") == 5
            )

        await eventually(is_whole)
    assert await desired_of(cloud, "level") == "5"


async def test_an_existing_thing_is_adopted_with_its_policy(start: Start) -> None:
    async with start(cloudcore=False) as cloud:
        entries: JsonObject = {
            name: {
                "subjects": {subject: {"type": "x"}},
                "resources": {
                    path: {"grant": ["READ", "WRITE"], "revoke": []}
                    for path in ("thing:/", "message:/", "policy:/")
                },
            }
            for name, subject in (
                ("ME", OPERATOR),
                ("HERE", "twinspan:devicecontroller"),
                ("ELSEWHERE", f"nginx:{CLOUDCORE[0]}"),
            )
        }
        features: JsonObject = {"level": {"desiredProperties": {"value": 9}}}
        value: JsonObject = {"_policy": {"entries": entries}, "features": features}
        await cloud.command(LAMP, Action.CREATE, (), value)
    async with start() as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device(on="true"))
        await eventually(thing_wants_if_there(cloud, "on", True))
        document = await cloud.thing(LAMP)
        assert document is not None
        assert document["policyId"] == LAMP
        await eventually(device_wants(cloud, "level", "9"))
        await cloud.kube.delete(DEVICES, "devices", "default", "lamp")
        await settled_without(cloud)
        assert await cloud.thing(LAMP) is not None  # it was there before us


async def settled_without(cloud: CloudCore) -> None:
    async def check() -> bool:
        rows = await cloud.gateway.database.read(
            lambda c: c.execute("SELECT count(*) FROM device_thing").fetchone()
        )
        return bool(rows[0] == 0)

    await eventually(check)


async def test_a_thing_whose_policy_denies_the_controller_is_told(start: Start) -> None:
    async with start(cloudcore=False) as cloud:
        await cloud.command(LAMP, Action.CREATE, (), {})
    async with start() as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device(on="true"))
        await eventually(told(cloud, "ThingDenied"))
        async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
            await edge.object("default/device/lamp")
            answer = await edge.report("lamp", on="true")
            assert content_of(answer) == "OK"
        document = await cloud.thing(LAMP)
        assert document is not None
        assert "features" not in document


async def test_what_cannot_be_mapped_is_told_and_the_rest_works(cloud: CloudCore) -> None:
    grouped: JsonObject = {"twinspan.io/feature": '{"climate": ["temp", "level"], "a/b": ["on"]}'}
    await apply_device(cloud, a_device(annotations=grouped, level="5"))
    await eventually(told(cloud, "NotMappable"))
    await eventually(there_is_a_thing(cloud))
    document = await cloud.thing(LAMP)
    assert document is not None
    assert document["features"] == {
        "on": {},
        "climate": {"desiredProperties": {"level": 5}},
    }


async def test_a_device_without_its_model_waits_for_it(start: Start) -> None:
    async with start() as cloud:
        await apply_device(cloud, a_device(on="true"))
        await eventually(told(cloud, "ModelNotFound"))
        assert await cloud.thing(LAMP) is None
        await apply_model(cloud)
        await eventually(there_is_a_thing(cloud))


async def test_a_device_that_names_no_model_is_told_so(cloud: CloudCore) -> None:
    document = a_device(on="true")
    del document["spec"]["deviceModelRef"]  # type: ignore[union-attr, arg-type]
    await apply_device(cloud, document)
    await eventually(told(cloud, "ModelNotFound"))
    found = await cloud.kube.list("v1", "events", "default")
    (message,) = [each["message"] for each in found.items if each["reason"] == "ModelNotFound"]
    assert message == "spec.deviceModelRef names no DeviceModel"


async def test_a_namespace_that_ditto_cannot_have_is_escaped(cloud: CloudCore) -> None:
    await cloud.kube.create("v1", "namespaces", None, {"metadata": {"name": "4711"}})
    model, device = a_model(), a_device()
    for document, plural in ((model, "devicemodels"), (device, "devices")):
        document["metadata"]["namespace"] = "4711"  # type: ignore[index, call-overload]
        await cloud.kube.create(DEVICES, plural, "4711", document)
    await eventually(there_is_a_thing(cloud, "ns.n4711:lamp"))


async def test_things_of_other_namespaces_never_become_devices(cloud: CloudCore) -> None:
    value: JsonObject = {"features": {"on": {"desiredProperties": {"value": True}}}}
    command = ThingCommand(
        thing_id="org.acme:lamp", action=Action.CREATE, subjects=(OPERATOR,), value=value
    )
    await cloud.north.execute(command)
    await apply_device(cloud, a_device())
    await eventually(there_is_a_thing(cloud))
    found = await cloud.kube.list(DEVICES, "devices")
    assert [item["metadata"]["name"] for item in found.items] == ["lamp"]  # type: ignore[index, call-overload]


# --- reports -------------------------------------------------------------------------------------


async def test_a_report_that_does_not_parse_is_counted_and_told(cloud: CloudCore) -> None:
    await apply_device(cloud, a_device())
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        await edge.object("default/device/lamp")
        await edge.report("lamp", level="warm", on="true")
        assert await thing_value(cloud, "on", "properties") is True
        assert await thing_value(cloud, "level", "properties") is None
        assert cloud.sample("twinspan_edge_reports_total", outcome="unreadable") == 1
        await eventually(told(cloud, "BadReport"))


async def test_a_node_may_report_its_own_devices_only(cloud: CloudCore) -> None:
    await apply_device(cloud, a_device(node="edge-2"))
    await eventually(there_is_a_thing(cloud))
    seen = await revision(cloud)
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        for name in ("lamp", "nobody"):
            assert content_of(await edge.report(name, on="true")) == "OK"
    assert await revision(cloud) == seen
    assert cloud.sample("twinspan_edge_reports_total", outcome="refused") == 2
    with pytest.raises(NotFound):
        await cloud.kube.get(DEVICES, "devicestatuses", "default", "lamp")


async def test_the_same_value_again_changes_no_twin(cloud: CloudCore) -> None:
    await apply_device(cloud, a_device())
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        await edge.object("default/device/lamp")
        await edge.report("lamp", 1, level="7")
        seen = await revision(cloud)
        await edge.report("lamp", 2, level="7")
        assert await revision(cloud) == seen
        await edge.report("lamp", 1, level="6")  # older than what came before
        assert await thing_value(cloud, "level", "properties") == 7
        await edge.report("lamp", 3, level="8")
        assert await thing_value(cloud, "level", "properties") == 8


async def test_an_application_may_set_a_reported_value_and_the_next_report_wins(
    cloud: CloudCore,
) -> None:
    await apply_device(cloud, a_device())
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        await edge.object("default/device/lamp")
        await edge.report("lamp", 1, level="7")
        path = ("features", "level", "properties", "value")
        await cloud.command(LAMP, Action.MODIFY, path, 99)
        versions = itertools.count(2)

        async def is_back() -> bool:
            """From elsewhere the change is heard of a moment later."""
            await edge.report("lamp", next(versions), level="7")
            return await thing_value(cloud, "level", "properties") == 7

        await eventually(is_back)
        assert await desired_of(cloud, "level") is None


async def test_a_property_that_only_the_edge_knows_is_reported_and_deleted(
    cloud: CloudCore,
) -> None:
    await apply_device(cloud, a_device())
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        await edge.object("default/device/lamp")
        await edge.report("lamp", 1, extra="hello")
        assert await thing_value(cloud, "extra", "properties") == "hello"
        await edge.report("lamp", 2, extra=None)
        assert await thing_value(cloud, "extra", "properties") is None


async def test_the_state_of_a_device_reaches_status_and_thing(cloud: CloudCore) -> None:
    await apply_device(cloud, a_device())
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        await edge.object("default/device/lamp")
        key = DeviceKey("default", "lamp")
        state = DeviceState("lamp", "online", "2026-11-22T20:05:00Z")
        answer = await edge.ask(to_cloud.report_state(a_stamp(), key, StateUpdate("", 1, state)))
        assert content_of(answer) == "OK"
        odd = StateUpdate("", 1, DeviceState("lamp", "sleepy"))
        await edge.ask(to_cloud.report_state(a_stamp(), key, odd))
    status = await cloud.object(DEVICES, "devicestatuses", "default", "lamp")
    assert status["status"]["state"] == "online"
    owner = status["metadata"]["ownerReferences"][0]
    assert owner["kind"] == "Device"
    document = await cloud.thing(LAMP)
    assert document is not None
    assert document["attributes"]["kubeedge"]["state"] == "online"


async def test_reports_wait_for_a_store_that_comes_back(
    guarded: CloudCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = guarded
    await apply_device(cloud, a_device())
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        await edge.object("default/device/lamp")
        await eventually(there_is_a_thing(cloud))
        things = cloud.gateway.things
        execute, failures = things.execute, [1, 1]

        async def sometimes(command: ThingCommand) -> object:
            if failures:
                failures.pop()
                raise StoreUnavailable
            return await execute(command)

        monkeypatch.setattr("cloud.reports.RETRIES", (0.01, 0.01, 0.01))
        monkeypatch.setattr(things, "execute", sometimes)
        assert content_of(await edge.report("lamp", level="7")) == "OK"
        assert await thing_value(cloud, "level", "properties") == 7


async def test_one_trace_leads_from_the_wish_to_the_node(cloud: CloudCore) -> None:
    await apply_device(cloud, a_device())
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        await edge.object("default/device/lamp")
        await eventually(there_is_a_thing(cloud))
        span = cloud.process.tracer.start("application")
        command = ThingCommand(
            thing_id=LAMP,
            action=Action.MODIFY,
            subjects=(OPERATOR,),
            path=("features", "level", "desiredProperties", "value"),
            value=3,
            trace=span.context,
        )
        await cloud.north.execute(command)
        update = await edge.object("default/device/lamp", "update")
        assert update.trace is not None
        assert update.trace.trace_id == span.context.trace_id
