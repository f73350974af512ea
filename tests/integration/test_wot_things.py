"""Things of a model, over every door: skeletons when they are made, descriptions afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.config.wot import Wot, WotDescription, WotModels, WotSkeleton
from gateway.config.wot_validation import WotValidation
from gateway.model.thing import Action, ThingCommand
from tests.ditto_rig import (
    Answer,
    Stack,
    a_ditto,
    a_websocket,
    an_event_stream,
    curl,
    json_body,
    put,
)
from tests.model_server import ModelServer, a_model_server
from tests.wot_samples import BREWER, LAMP, MACHINE, SWITCH, machine_skeleton

COFFEE = "org.acme:coffee-1"
TD = ("-H", "Accept: application/td+json")


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with a_model_server() as made:
        yield made


@asynccontextmanager
async def a_stack(server: ModelServer, **wot: Any) -> AsyncIterator[Stack]:
    """Without validation, which has tests of its own."""
    usual = {
        "allowed_addresses": (f"127.0.0.1:{server.port}",),
        "validation": WotValidation(enabled=False),
    }
    async with a_ditto(wot=Wot(**{**usual, **wot})) as stack:
        yield stack


@pytest.fixture
async def stack(server: ModelServer) -> AsyncIterator[Stack]:
    async with a_stack(server) as made:
        yield made


def at(stack: Stack, thing_id: str = COFFEE, below: str = "") -> str:
    return f"{stack.api}/things/{thing_id}{below}"


def machine(server: ModelServer) -> dict[str, Any]:
    return {"definition": server.base + MACHINE}


# --- skeletons ---------------------------------------------------------------------------------


async def test_a_new_thing_gets_what_its_model_says(stack: Stack, server: ModelServer) -> None:
    made = await put(at(stack), machine(server))
    assert made.status == 201
    expected = {"thingId": COFFEE, "policyId": COFFEE, **machine(server)}
    expected |= machine_skeleton(server.base)
    assert made.json == expected
    stored = await curl(at(stack))
    assert stored.json == expected
    assert stored.headers["etag"] == '"rev:1"'


@pytest.mark.parametrize("method", ["PUT", "PATCH", "POST"])
async def test_what_the_request_gives_wins(stack: Stack, server: ModelServer, method: str) -> None:
    given = {
        **machine(server),
        "attributes": {"manufacturer": "Own", "counters": {"cups": 9}},
        "features": {"front lamp": {"properties": {"on": True}}},
    }
    url = f"{stack.api}/things" if method == "POST" else at(stack)
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    made = await curl("-X", method, url, *json_body(given, kind))
    assert made.status == 201
    assert made.json["attributes"]["manufacturer"] == "Own"
    assert made.json["attributes"]["counters"] == {"cups": 9}
    assert made.json["attributes"]["pressure"] == 9.5
    lamp = made.json["features"]["front lamp"]
    assert lamp["properties"] == {"on": True, "level": 0.0}
    assert lamp["definition"] == [server.base + LAMP, server.base + SWITCH]


async def test_a_new_feature_gets_what_its_model_says(stack: Stack, server: ModelServer) -> None:
    await put(at(stack), {})
    lamp = {"definition": [server.base + LAMP], "properties": {"level": 0.5}}
    made = await put(at(stack, below="/features/lamp"), lamp)
    expected = {
        "definition": [server.base + LAMP, server.base + SWITCH],
        "properties": {"on": False, "level": 0.5},
    }
    assert (made.status, made.json) == (201, expected)
    assert (await curl(at(stack, below="/features/lamp"))).json == expected
    again = await put(at(stack, below="/features/lamp"), {"definition": [server.base + LAMP]})
    assert again.status == 204
    assert (await curl(at(stack, below="/features/lamp"))).json == {
        "definition": [server.base + LAMP]
    }


async def test_the_first_features_of_a_thing_get_what_their_models_say(
    stack: Stack, server: ModelServer
) -> None:
    await put(at(stack), {})
    features = {"lamp": {"definition": [server.base + SWITCH]}, "plain": {}}
    made = await put(at(stack, below="/features"), features)
    assert made.status == 201
    assert made.json["lamp"]["properties"] == {"on": False}
    assert made.json["plain"] == {}


async def test_things_made_over_websocket_are_made_the_same(
    stack: Stack, server: ModelServer
) -> None:
    async with a_websocket(stack) as watcher, a_websocket(stack) as client:
        await watcher.control("START-SEND-EVENTS")
        topic = "org.acme/coffee-1/things/twin/commands/create"
        made = await client.ask(topic, "/", {"thingId": COFFEE, **machine(server)})
        assert made["status"] == 201
        assert made["value"]["features"] == machine_skeleton(server.base)["features"]
        event = await watcher.envelope()
        assert event["topic"].endswith("/events/created")
        assert event["value"]["attributes"] == machine_skeleton(server.base)["attributes"]


async def test_commands_that_wait_for_models_hold_up_their_own_thing_only(
    stack: Stack, server: ModelServer
) -> None:
    server.hold()
    done: list[str] = []

    async def run(name: str, thing_id: str, **command: Any) -> None:
        await stack.things.execute(
            ThingCommand(thing_id=thing_id, subjects=("nginx:ditto",), **command)
        )
        done.append(name)

    modify = {"action": Action.MODIFY}
    async with asyncio.TaskGroup() as group:
        group.create_task(run("made", COFFEE, value=machine(server), **modify))
        path = ("attributes", "late")
        group.create_task(run("changed", COFFEE, path=path, value=1, **modify))
        group.create_task(run("other", "org.acme:other", value={}, **modify))
        async with asyncio.timeout(10):
            while "other" not in done or not server.asked:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert done == ["other"]
        server.held.set()
    assert done == ["other", "made", "changed"]
    thing = await stack.things.load(COFFEE)
    assert thing is not None
    assert thing.revision == 2


async def test_many_things_of_one_model_cost_one_fetch_of_each_document(
    stack: Stack, server: ModelServer
) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(40):
            command = ThingCommand(
                thing_id=f"org.acme:m{number}",
                action=Action.CREATE,
                subjects=("nginx:ditto",),
                value=machine(server),
            )
            group.create_task(stack.things.execute(command))
    assert set(server.asked.values()) == {1}
    assert stack.sample("twinspan_wot_fetches_total", outcome="fetched") == len(server.asked)


async def test_who_may_not_create_makes_nobody_fetch(stack: Stack, server: ModelServer) -> None:
    await put(at(stack), {})
    lamp = {"definition": [server.base + LAMP]}
    denied = await put(at(stack, below="/features/lamp"), lamp, user="alice:wonder")
    assert denied.status == 403
    assert not server.asked


async def test_things_without_a_model_ask_nobody(stack: Stack, server: ModelServer) -> None:
    value = {"definition": "acme:machine:1", "features": {"x": {"definition": ["acme:x:1"]}}}
    assert (await put(at(stack), value)).json["features"] == value["features"]
    assert stack.sample("twinspan_wot_models_total", found="memory") == 0
    assert not server.asked


# --- models that cannot be had -----------------------------------------------------------------


async def test_a_thing_whose_model_cannot_be_had_is_not_made(
    stack: Stack, server: ModelServer
) -> None:
    url = server.base + "/absent"
    refused = await put(at(stack), {"definition": url})
    assert (refused.status, refused.error) == (421, "wot:tm.notfound")
    assert url in refused.json["message"]
    assert (await curl(at(stack))).status == 404
    assert (await curl(f"{stack.api}/policies/{COFFEE}")).status == 404
    assert (await put(at(stack), {})).status == 201


async def test_a_thing_with_a_submodel_that_cannot_be_had_is_not_made(
    stack: Stack, server: ModelServer
) -> None:
    del server.documents[BREWER]
    refused = await put(at(stack), machine(server))
    assert (refused.status, refused.error) == (421, "wot:tm.notfound")
    assert BREWER in refused.json["message"]


async def test_a_thing_of_a_model_that_is_none_is_not_made(
    stack: Stack, server: ModelServer
) -> None:
    server.documents["/list"] = [1]
    server.documents["/refs"] = {"properties": {"a": {"tm:ref": "nowhere"}}}
    for path, code in (("/list", "wot:tm.invalid"), ("/refs", "wot:tm.ref.invalid")):
        refused = await put(at(stack), {"definition": server.base + path})
        assert (refused.status, refused.error) == (400, code)


async def test_the_settings_can_pass_over_models_that_cannot_be_had(server: ModelServer) -> None:
    async with a_stack(server, skeleton=WotSkeleton(throw_on_errors=False)) as stack:
        made = await put(at(stack), {"definition": server.base + "/absent", "attributes": {"a": 1}})
        assert made.status == 201
        assert made.json["attributes"] == {"a": 1}
        del server.documents[BREWER]
        made = await put(at(stack, "org.acme:c2"), machine(server))
        assert [*made.json["features"]] == ["front lamp"]


async def test_this_machine_is_not_asked_unless_the_settings_say_so(server: ModelServer) -> None:
    async with a_ditto() as stack:
        refused = await put(at(stack), machine(server))
        assert (refused.status, refused.error) == (421, "wot:tm.notfound")
        assert not server.asked


async def test_a_command_waits_for_its_models_no_longer_than_the_settings_say(
    server: ModelServer,
) -> None:
    server.hold()
    async with a_stack(server, models=WotModels(resolve_seconds=0.05)) as stack:
        refused = await put(at(stack), machine(server))
        assert (refused.status, refused.error) == (421, "wot:tm.notfound")


async def test_skeletons_can_be_switched_off(server: ModelServer) -> None:
    async with a_stack(server, skeleton=WotSkeleton(enabled=False)) as stack:
        made = await put(at(stack), machine(server))
        assert made.status == 201
        assert "features" not in made.json
        assert not server.asked


async def test_a_skeleton_counts_for_the_size_of_a_thing(stack: Stack, server: ModelServer) -> None:
    server.documents["/huge"] = {"properties": {"a": {"default": "x" * 110_000}}}
    refused = await put(at(stack), {"definition": server.base + "/huge"})
    assert (refused.status, refused.error) == (413, "things:thing.toolarge")


# --- descriptions ------------------------------------------------------------------------------


async def described(stack: Stack, below: str = "", *more: str, user: str = "ditto:ditto") -> Answer:
    return await curl(at(stack, below=below), *TD, *more, user=user)


@pytest.fixture
async def coffee(stack: Stack, server: ModelServer) -> Stack:
    value = {**machine(server), "attributes": {"model-placeholders": {"SERIES": "A"}}}
    assert (await put(at(stack), value)).status == 201
    names = {"MODEL_NAME": "Moka"}
    below = "/features/brewer/properties/model-placeholders"
    assert (await put(at(stack, below=below), names)).status == 201
    return stack


async def test_a_thing_describes_itself(coffee: Stack, server: ModelServer) -> None:
    answer = await described(coffee)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/td+json")
    assert answer.headers["vary"] == "Accept"
    td = answer.json
    assert td["base"] == f"{coffee.api}/things/{COFFEE}/"
    assert td["properties"]["serial"]["const"] == "S-A"
    assert td["links"][0]["href"] == server.base + MACHINE
    assert td["securityDefinitions"] == {"basic_sc": {"scheme": "basic", "in": "header"}}
    json = await curl(at(coffee), "-H", "Accept: application/json")
    assert json.json["thingId"] == COFFEE


async def test_what_a_description_says_can_be_done(coffee: Stack) -> None:
    """Every form of a property that reads is used as it stands."""
    for below in ("", "/features/brewer", "/features/front%20lamp"):
        td = (await described(coffee, below)).json
        for name, affordance in td["properties"].items():
            reading = [f for f in affordance["forms"] if f["op"] == "readproperty"]
            url = td["base"] + reading[0]["href"].partition("{")[0]
            found = await curl(url, "-X", reading[0]["htv:methodName"])
            assert found.status in (200, 404), name
            assert found.status == 200 or name in ("nickname", "note")
        root = td["base"] + td["forms"][0]["href"].partition("{")[0]
        assert (await curl(root)).status == 200


async def test_a_described_property_can_be_observed(coffee: Stack) -> None:
    td = (await described(coffee, "/features/front%20lamp")).json
    observing = next(f for f in td["properties"]["level"]["forms"] if f.get("subprotocol") == "sse")
    async with an_event_stream(td["base"] + observing["href"]) as events:
        await put(at(coffee, below="/features/front%20lamp/properties/level"), 0.5)
        assert await events.json() == 0.5


async def test_a_feature_describes_itself(coffee: Stack) -> None:
    answer = await described(coffee, "/features/brewer")
    assert answer.status == 200
    assert answer.json["title"] == "Brewer Moka"
    assert answer.json["base"] == f"{coffee.api}/things/{COFFEE}/features/brewer/"


async def test_the_preferred_type_decides(coffee: Stack) -> None:
    for accept, kind in (
        ("application/td+json;q=1, application/json", "application/td+json"),
        ("application/json, application/td+json", "application/json"),
        ("*/*", "application/json"),
    ):
        answer = await curl(at(coffee), "-H", f"Accept: {accept}")
        assert answer.headers["content-type"].startswith(kind)
    attributes = await described(coffee, "/attributes")
    assert attributes.headers["content-type"].startswith("application/json")


async def test_an_unchanged_description_is_not_sent_again(coffee: Stack) -> None:
    first = await described(coffee)
    same = await described(coffee, "", "-H", f"If-None-Match: {first.headers['etag']}")
    assert (same.status, same.body) == (304, "")
    path = "/attributes/model-placeholders/SERIES"
    await put(at(coffee, below=path), "B")
    other = await described(coffee, "", "-H", f"If-None-Match: {first.headers['etag']}")
    assert other.status == 200


@pytest.mark.parametrize(
    ("below", "status", "code"),
    [
        ("/features/none", 404, "things:feature.notfound"),
        ("/features/plain", 404, "wot:definition.invalid"),
        ("/features/lost", 421, "wot:tm.notfound"),
    ],
)
async def test_where_there_is_no_description_the_answer_says_why(
    coffee: Stack, server: ModelServer, below: str, status: int, code: str
) -> None:
    server.documents["/soon-lost"] = {"@type": "tm:ThingModel"}
    await put(at(coffee, below="/features/plain"), {})
    lost = {"definition": {"x": 1}}
    assert (await put(at(coffee, below="/features/lost"), lost)).status == 400
    await put(at(coffee, below="/features/lost"), {})
    definition = [server.base + "/absent"]
    assert (await put(at(coffee, below="/features/lost/definition"), definition)).status == 201
    answer = await described(coffee, below)
    assert (answer.status, answer.error) == (status, code)


async def test_a_placeholder_without_a_value_is_named(stack: Stack, server: ModelServer) -> None:
    await put(at(stack), machine(server))
    answer = await described(stack)
    assert (answer.status, answer.error) == (400, "wot:tm.placeholder.unresolved")
    assert "SERIES" in answer.json["message"]


async def test_things_that_are_not_there_or_not_for_the_caller_have_no_description(
    coffee: Stack,
) -> None:
    assert (await curl(at(coffee, "org.acme:none"), *TD)).error == "things:thing.notfound"
    assert (await curl(at(coffee, "noid"), *TD)).error == "things:id.invalid"
    other = await described(coffee, user="alice:wonder")
    assert (other.status, other.error) == (404, "things:thing.notfound")
    other = await described(coffee, "/features/brewer", user="alice:wonder")
    assert (other.status, other.error) == (404, "things:feature.notfound")


async def test_a_caller_sees_what_the_policy_leaves(coffee: Stack) -> None:
    entry = {
        "subjects": {"nginx:alice": {"type": "test"}},
        "resources": {
            "thing:/attributes/counters": {"grant": ["READ"], "revoke": []},
            "message:/inbox/messages/brew": {"grant": ["WRITE"], "revoke": []},
        },
    }
    await put(f"{coffee.api}/policies/{COFFEE}/entries/ALICE", entry)
    td = (await described(coffee, user="alice:wonder")).json
    assert [*td["properties"]] == ["cups"]
    assert td["properties"]["cups"]["readOnly"] is True
    assert [*td["actions"]] == ["brew"]
    assert "events" not in td
    assert not [link for link in td["links"] if link["rel"] == "item"]


async def test_descriptions_of_several_things_leave_out_those_without(
    coffee: Stack, server: ModelServer
) -> None:
    await put(at(coffee, "org.acme:plain"), {})
    lamp = "org.acme:lamp"
    await put(at(coffee, lamp), {"definition": server.base + LAMP})
    ids = f"{lamp},org.acme:plain,org.acme:none,{COFFEE}"
    several = await curl(f"{coffee.api}/things?ids={ids}", *TD)
    assert several.status == 200
    assert [td["id"] for td in several.json] == [f"urn:{lamp}", f"urn:{COFFEE}"]
    listed = await curl(f"{coffee.api}/things", *TD)
    assert [td["id"] for td in listed.json] == [f"urn:{COFFEE}", f"urn:{lamp}"]
    page = await curl(f"{coffee.api}/things?offset=1&limit=1&format=array", *TD)
    assert [td["id"] for td in page.json] == [f"urn:{lamp}"]
    bad = await curl(f"{coffee.api}/things?limit=0", *TD)
    assert (bad.status, bad.error) == (400, "thing-search:search.option.invalid")


async def test_the_directory_is_there_for_everyone(stack: Stack) -> None:
    answer = await curl(f"{stack.url}/.well-known/wot", user="")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/td+json")
    assert answer.json["@type"] == "ThingDirectory"
    assert answer.json["base"] == f"{stack.url}/"
    head = await curl(f"{stack.url}/.well-known/wot", "-I", user="")
    assert (head.status, head.body) == (200, "")
    assert (await curl("-X", "POST", f"{stack.url}/.well-known/wot", user="")).status == 405


async def test_the_settings_shape_descriptions(server: ModelServer) -> None:
    settings = WotDescription(
        base_url="https://iot.acme.org/",
        template={"security": "none_sc", "securityDefinitions": {"none_sc": {"scheme": "nosec"}}},
        placeholders={"SERIES": "all"},
        created=False,
        directory_authentication=True,
    )
    async with a_stack(server, description=settings) as stack:
        await put(at(stack), machine(server))
        td = (await described(stack)).json
        assert td["base"] == f"https://iot.acme.org/api/2/things/{COFFEE}/"
        assert td["security"] == "none_sc"
        assert td["properties"]["serial"]["const"] == "S-all"
        assert "created" not in td
        assert (await curl(f"{stack.url}/.well-known/wot", user="")).status == 401
        directory = await curl(f"{stack.url}/.well-known/wot")
        assert directory.json["base"] == "https://iot.acme.org/"


async def test_without_validation_only_what_is_new_needs_its_model(
    stack: Stack, server: ModelServer
) -> None:
    await put(at(stack), {})
    definition = server.base + "/absent"
    assert (await put(at(stack, below="/definition"), definition)).status == 201
    assert (await put(at(stack, below="/attributes/own"), 1)).status == 201
    assert (await curl("-X", "DELETE", at(stack))).status == 204
    assert not server.asked


async def test_with_validation_a_model_that_cannot_be_had_stops_what_it_would_judge(
    server: ModelServer,
) -> None:
    async with a_stack(server, validation=WotValidation()) as stack:
        await put(at(stack), {})
        refused = await put(at(stack, below="/definition"), server.base + "/absent")
        assert (refused.status, refused.error) == (421, "wot:tm.notfound")
        assert (await curl("-X", "DELETE", at(stack))).status == 204
