"""The live channel: commands to devices and their answers, live events, queries that choose their channel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.ditto_rig import (
    PUMP,
    Answer,
    Stack,
    WsClient,
    a_ditto,
    a_websocket,
    curl,
    json_body,
    put,
)

LIVE = "org.acme/pump-1/things/live"
TWIN = "org.acme/pump-1/things/twin"
COMMANDS = f"{LIVE}/commands"


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto() as stack:
        await put(f"{stack.api}/things/{PUMP}", {"attributes": {"n": 1, "online": True}})
        yield stack


@pytest.fixture
async def device(ditto: Stack) -> AsyncIterator[WsClient]:
    """A session that carries out live commands."""
    async with a_websocket(ditto) as client:
        await client.control("START-SEND-LIVE-COMMANDS")
        yield client


@pytest.fixture
async def app(ditto: Stack) -> AsyncIterator[WsClient]:
    async with a_websocket(ditto) as client:
        yield client


def asking(
    ditto: Stack, *args: str, path: str = "/attributes/n", query: str = "channel=live"
) -> Any:
    return asyncio.create_task(curl(*args, f"{ditto.api}/things/{PUMP}{path}?{query}"))


async def answer(device: WsClient, command: dict[str, Any], status: int, **more: Any) -> None:
    """What the device says to a command."""
    headers = {"correlation-id": command["headers"]["correlation-id"]}
    reply = {"topic": command["topic"], "path": command["path"], "status": status}
    await device.socket.send_str(json.dumps({**reply, "headers": headers, **more}))


async def test_a_live_query_is_answered_by_the_device(ditto: Stack, device: WsClient) -> None:
    running = asking(ditto, path="/attributes", query="channel=live&fields=n")
    command = await device.envelope()
    assert (command["topic"], command["path"]) == (f"{COMMANDS}/retrieve", "/attributes")
    assert command["fields"] == "n"
    assert command["headers"]["ditto-originator"] == "nginx:ditto"
    await answer(device, command, 200, value={"n": 42})
    got = await running
    assert (got.status, got.json) == (200, {"n": 42})
    assert got.headers["channel"] == "live"
    assert (await curl(f"{ditto.api}/things/{PUMP}/attributes/n")).json == 1


async def test_a_live_change_does_not_touch_the_twin(ditto: Stack, device: WsClient) -> None:
    running = asking(ditto, "-X", "PUT", *json_body(7))
    command = await device.envelope()
    assert (command["topic"], command["value"]) == (f"{COMMANDS}/modify", 7)
    await answer(device, command, 204)
    assert (await running).status == 204
    assert (await curl(f"{ditto.api}/things/{PUMP}/attributes/n")).json == 1


async def test_answers_go_to_the_socket_that_asked(app: WsClient, device: WsClient) -> None:
    running = asyncio.create_task(app.ask(f"{COMMANDS}/modify", "/attributes/x", {"a": 1}))
    command = await device.envelope()
    await answer(device, command, 201, value={"a": 1})
    got = await running
    assert (got["topic"], got["path"]) == (f"{COMMANDS}/modify", "/attributes/x")
    assert (got["status"], got["value"]) == (201, {"a": 1})


async def test_an_answer_of_another_kind_or_place_is_none(ditto: Stack, device: WsClient) -> None:
    running = asking(ditto)
    command = await device.envelope()
    await answer(device, {**command, "topic": f"{COMMANDS}/modify"}, 200, value=0)
    await answer(device, {**command, "path": "/attributes/m"}, 200, value=0)
    await answer(device, command, 200, value=5)
    await answer(device, command, 200, value=6)
    assert (await running).json == 5


async def test_a_devices_error_is_the_callers_error(ditto: Stack, device: WsClient) -> None:
    running = asking(ditto)
    command = await device.envelope()
    error = {"status": 404, "error": "things:attribute.notfound", "message": "none here"}
    await answer(device, {**command, "topic": f"{LIVE}/errors", "path": "/"}, 404, value=error)
    got: Answer = await running
    assert (got.status, got.error) == (404, "things:attribute.notfound")


async def test_without_an_answer_the_command_times_out(ditto: Stack) -> None:
    late = await asking(ditto, query="channel=live&timeout=50ms")
    assert (late.status, late.error) == (408, "command.timeout")
    silent = await asking(ditto, "-X", "PUT", *json_body(1), query="channel=live&timeout=0")
    assert silent.status == 202


async def test_live_commands_need_the_rights_of_those_on_the_twin(ditto: Stack) -> None:
    entry = {
        "subjects": {"nginx:alice": {"type": "user"}},
        "resources": {"thing:/attributes/public": {"grant": ["READ"], "revoke": []}},
    }
    await put(f"{ditto.api}/policies/{PUMP}/entries/alice", entry)
    url = f"{ditto.api}/things/{PUMP}/attributes/n?channel=live"
    refused = await put(url, 1, user="alice:wonder")
    assert (refused.status, refused.error) == (403, "things:attribute.notmodifiable")
    hidden = await curl(url, user="alice:wonder")
    assert (hidden.status, hidden.error) == (404, "things:attribute.notfound")
    unknown = await curl(f"{ditto.api}/things/org.acme:none?channel=live")
    assert (unknown.status, unknown.error) == (404, "things:thing.notfound")
    created = await curl("-X", "POST", f"{ditto.api}/things?channel=live", *json_body({}))
    assert (created.status, created.error) == (405, "things:thing.notcreatable")
    wrong = await curl(f"{ditto.api}/things/{PUMP}?channel=side")
    assert (wrong.status, wrong.error) == (400, "header.invalid")
    async with a_websocket(ditto, "alice") as alice, a_websocket(ditto) as device:
        await alice.control("START-SEND-LIVE-COMMANDS")
        await device.control("START-SEND-LIVE-COMMANDS")
        running = asyncio.create_task(
            curl(f"{ditto.api}/things/{PUMP}?channel=live", user="alice:wonder")
        )
        command = await device.envelope()
        mine = {"thingId": PUMP, "attributes": {"public": 1, "n": 2}}
        await answer(device, command, 200, value=mine)
        assert (await running).json == {"thingId": PUMP, "attributes": {"public": 1}}
        quiet = asking(ditto, path="/attributes/public", query="channel=live&timeout=5s")
        heard = await alice.envelope()
        assert heard["path"] == "/attributes/public"
        await answer(device, await device.envelope(), 200, value=1)
        assert (await quiet).status == 200


async def test_live_commands_are_filtered_enriched_and_not_echoed(ditto: Stack) -> None:
    async with a_websocket(ditto) as device, a_websocket(ditto) as app:
        wanted = "filter=" + quote("and(eq(topic:action,'modify'),eq(attributes/online,true))")
        await device.control(f"START-SEND-LIVE-COMMANDS?{wanted}&extraFields=attributes/online")
        await app.control("START-SEND-LIVE-COMMANDS")
        command = {"path": "/attributes/x", "headers": {"response-required": False}}
        await app.socket.send_str(json.dumps({"topic": f"{COMMANDS}/delete", **command}))
        modify = {"topic": f"{COMMANDS}/modify", "value": 1, **command}
        await app.socket.send_str(json.dumps(modify))
        heard = await device.envelope()
        assert heard["topic"] == f"{COMMANDS}/modify"
        assert heard["extra"] == {"attributes": {"online": True}}
        assert (await app.ask(f"{TWIN}/commands/retrieve", "/attributes/n"))["value"] == 1
        await device.control("STOP-SEND-LIVE-COMMANDS")
        await app.socket.send_str(json.dumps(modify))
        assert (await device.ask(f"{TWIN}/commands/retrieve", "/attributes/n"))["value"] == 1


async def test_live_events_reach_those_who_want_them_and_leave_the_twin_alone(
    ditto: Stack, app: WsClient
) -> None:
    async with a_websocket(ditto) as device:
        await app.control("START-SEND-LIVE-EVENTS?filter=gt(attributes/n,5)&extraFields=policyId")
        for value in (3, 9):
            event = {"topic": f"{LIVE}/events/modified", "path": "/attributes/n", "value": value}
            await device.socket.send_str(json.dumps(event))
        heard = await app.envelope()
        assert (heard["topic"], heard["value"]) == (f"{LIVE}/events/modified", 9)
        assert heard["extra"] == {"policyId": PUMP}
        assert "revision" not in heard
        assert (await app.ask(f"{TWIN}/commands/retrieve", "/attributes/n"))["value"] == 1
    async with a_websocket(ditto, "alice") as alice:
        refused = await alice.ask(f"{LIVE}/events/modified", "/attributes/n", 1)
        assert (refused["status"], refused["value"]["error"]) == (403, "things:event.notallowed")
        assert refused["topic"] == f"{LIVE}/errors"
        twin = await alice.ask(f"{TWIN}/events/modified", "/attributes/n", 1)
        assert twin["value"]["error"] == "protocoladapter:unknown.signal"


def smart(condition: str, *more: str) -> str:
    return "&".join((f"live-channel-condition={quote(condition)}", *more))


async def test_a_query_goes_to_the_device_where_its_condition_holds(
    ditto: Stack, device: WsClient
) -> None:
    running = asking(ditto, query=smart("eq(attributes/online,true)"))
    await answer(device, await device.envelope(), 200, value=42)
    got = await running
    assert (got.status, got.json, got.headers["channel"]) == (200, 42, "live")
    assert got.headers["live-channel-condition-matched"] == "true"
    other = await asking(ditto, query=smart("eq(attributes/online,false)"))
    assert (other.status, other.json, other.headers["channel"]) == (200, 1, "twin")
    assert other.headers["live-channel-condition-matched"] == "false"


async def test_a_query_may_fall_back_to_the_twin(ditto: Stack, app: WsClient) -> None:
    late = smart("exists(thingId)", "timeout=50ms", "live-channel-timeout-strategy=use-twin")
    got = await asking(ditto, query=late)
    assert (got.status, got.json, got.headers["channel"]) == (200, 1, "twin")
    assert got.headers["live-channel-condition-matched"] == "true"
    failed = await asking(ditto, query=smart("exists(thingId)", "timeout=50ms"))
    assert (failed.status, failed.error) == (408, "command.timeout")
    plain = "channel=live&timeout=50ms&live-channel-timeout-strategy=use-twin"
    assert (await asking(ditto, query=plain)).json == 1
    headers = {
        "live-channel-condition": "exists(thingId)",
        "live-channel-timeout-strategy": "use-twin",
        "timeout": "50ms",
    }
    told = await app.ask(f"{TWIN}/commands/retrieve", "/attributes/n", headers=headers)
    assert (told["topic"], told["value"]) == (f"{TWIN}/commands/retrieve", 1)
    assert told["headers"]["live-channel-condition-matched"] is True


async def test_a_socket_is_told_which_channel_answered(app: WsClient, device: WsClient) -> None:
    headers = {"live-channel-condition": "eq(attributes/online,true)"}
    running = asyncio.create_task(
        app.ask(f"{TWIN}/commands/retrieve", "/attributes/n", headers=headers)
    )
    command = await device.envelope()
    assert "live-channel-condition" not in command["headers"]
    await answer(device, command, 200, value=42)
    got = await running
    assert (got["topic"], got["value"]) == (f"{COMMANDS}/retrieve", 42)


@pytest.mark.parametrize(
    ("args", "query", "status", "code"),
    [
        (["-X", "PUT", *json_body(1)], smart("exists(thingId)"), 405, None),
        ([], smart("eq("), 400, "things:condition.invalid"),
        (
            [],
            smart("exists(thingId)", "live-channel-timeout-strategy=guess"),
            400,
            "header.invalid",
        ),
    ],
)
async def test_conditions_are_for_queries_and_have_to_be_right(
    ditto: Stack, args: list[str], query: str, status: int, code: str | None
) -> None:
    found = await asking(ditto, *args, query=query)
    assert found.status == status
    assert found.error == (code or "things:live.channelcondition.notallowed")


async def test_messages_are_enriched_and_filtered_by_their_place(
    ditto: Stack, app: WsClient
) -> None:
    rules = quote("and(like(resource:path,'*/cam/*'),eq(topic:subject,'snap'),eq(header:own,'1'))")
    await app.control(f"START-SEND-MESSAGES?filter={rules}&extraFields=attributes/online,policyId")
    url = f"{ditto.api}/things/{PUMP}"
    for box in ("outbox/messages/snap", "features/cam/outbox/messages/snap"):
        for own in ("0", "1"):
            sent = await curl(
                "-X", "POST", f"{url}/{box}?timeout=0", "-H", f"own: {own}", "-d", "x"
            )
            assert sent.status == 202
    heard = await app.envelope()
    assert (heard["path"], heard["headers"]["own"]) == ("/features/cam/outbox/messages/snap", "1")
    assert heard["extra"] == {"attributes": {"online": True}, "policyId": PUMP}
    assert (await app.ask(f"{TWIN}/commands/retrieve", "/attributes/n"))["value"] == 1


async def test_a_json_patch_is_for_the_twin_alone(ditto: Stack, device: WsClient) -> None:
    patch = json_body(
        [{"op": "replace", "path": "/attributes/n", "value": 2}], "application/json-patch+json"
    )
    url = f"{ditto.api}/things/{PUMP}"
    refused = await curl("-X", "PATCH", f"{url}?channel=live", *patch)
    assert (refused.status, refused.error) == (400, "protocoladapter:unknown.command")
    assert (await curl("-X", "PATCH", url, *patch)).status == 204
    topic = f"{COMMANDS}/patch"
    refused_too = await device.ask(topic, "/", [])
    assert refused_too["value"]["error"] == "protocoladapter:unknown.command"
