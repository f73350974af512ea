"""Ditto Protocol over WebSocket, with aiohttp's client."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from gateway.config.ditto import DittoWebSocket
from tests.ditto_rig import PUMP, Stack, WsClient, a_ditto, a_websocket, curl, json_body, put
from tests.hono_rig import until

TWIN = "org.acme/pump-1/things/twin/commands"


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto() as stack:
        await put(f"{stack.api}/things/{PUMP}", {"attributes": {"n": 1}})
        yield stack


@pytest.fixture
async def client(ditto: Stack) -> AsyncIterator[WsClient]:
    async with a_websocket(ditto) as client:
        yield client


async def set_n(ditto: Stack, value: Any, user: str = "ditto:ditto") -> None:
    assert (await put(f"{ditto.api}/things/{PUMP}/attributes/n", value, user=user)).status == 204


async def test_commands_are_answered_with_their_topic_path_and_correlation_id(
    client: WsClient,
) -> None:
    found = await client.ask(f"{TWIN}/retrieve", "/attributes/n")
    assert (found["status"], found["value"]) == (200, 1)
    assert (found["topic"], found["path"]) == (f"{TWIN}/retrieve", "/attributes/n")
    created = await client.ask(f"{TWIN}/modify", "/attributes/m", 2)
    assert (created["status"], created["value"]) == (201, 2)
    changed = await client.ask(f"{TWIN}/modify", "/attributes/m", 3)
    assert changed["status"] == 204
    assert "value" not in changed
    merged = await client.ask(f"{TWIN}/merge", "/", {"attributes": {"m": None}})
    assert merged["status"] == 204
    gone = await client.ask(f"{TWIN}/delete", "/attributes/n")
    assert gone["status"] == 204
    made = await client.ask("org.acme/new/things/twin/commands/create", "/", {})
    assert made["status"] == 201
    again = await client.ask("org.acme/new/things/twin/commands/create", "/", {})
    assert (again["status"], again["value"]["error"]) == (409, "things:thing.conflict")
    assert again["topic"] == "org.acme/new/things/twin/errors"
    many = await client.ask(
        "_/_/things/twin/commands/retrieve", "/", {"thingIds": ["org.acme:new", "a:b"]}
    )
    assert [thing["thingId"] for thing in many["value"]] == ["org.acme:new"]


async def test_policies_are_commanded_too(client: WsClient) -> None:
    topic = "org.acme/pump-1/policies/commands"
    found = await client.ask(f"{topic}/retrieve", "/entries/DEFAULT/subjects")
    assert found["value"].keys() == {"nginx:ditto"}
    made = await client.ask(f"{topic}/modify", "/entries/DEFAULT/subjects/nginx:bob", {"type": "x"})
    assert made["status"] == 201


async def test_events_come_in_order_with_revision_and_originator(
    ditto: Stack, client: WsClient
) -> None:
    await client.control("START-SEND-EVENTS")
    for value in (2, 3, 4):
        await set_n(ditto, value)
    events = [await client.envelope() for _ in range(3)]
    assert [event["value"] for event in events] == [2, 3, 4]
    assert [event["revision"] for event in events] == [2, 3, 4]
    first = events[0]
    assert first["topic"] == "org.acme/pump-1/things/twin/events/modified"
    assert first["path"] == "/attributes/n"
    assert first["headers"]["ditto-originator"] == "nginx:ditto"
    assert first["timestamp"]


async def test_own_signals_are_not_echoed(ditto: Stack, client: WsClient) -> None:
    await client.control("START-SEND-EVENTS")
    assert (await client.ask(f"{TWIN}/modify", "/attributes/n", 5))["status"] == 204
    await set_n(ditto, 6)
    assert (await client.envelope())["value"] == 6


async def test_events_are_filtered_and_enriched(ditto: Stack, client: WsClient) -> None:
    await client.control(
        "START-SEND-EVENTS?namespaces=org.acme&filter=gt(attributes/n,5)&extraFields=policyId"
    )
    await put(f"{ditto.api}/things/org.other:x", {"attributes": {"n": 99}})
    await set_n(ditto, 3)
    await set_n(ditto, 8)
    event = await client.envelope()
    assert event["value"] == 8
    assert event["extra"] == {"policyId": PUMP}


async def test_a_second_start_replaces_the_first_and_stop_ends_it(
    ditto: Stack, client: WsClient
) -> None:
    await client.control("START-SEND-EVENTS?filter=eq(attributes/n,2)")
    await client.control("START-SEND-EVENTS?filter=eq(attributes/n,3)")
    await client.control("START-SEND-EVENTS?filter=eq(attributes/n,3)")
    await set_n(ditto, 2)
    await set_n(ditto, 3)
    assert (await client.envelope())["value"] == 3
    await client.control("STOP-SEND-EVENTS")
    await set_n(ditto, 3)
    assert (await client.ask(f"{TWIN}/retrieve", "/attributes/n"))["value"] == 3


async def test_a_subscriber_sees_what_its_policy_lets_it_read(ditto: Stack) -> None:
    entry = {
        "subjects": {"nginx:alice": {"type": "user"}},
        "resources": {"thing:/attributes/public": {"grant": ["READ"], "revoke": []}},
    }
    await put(f"{ditto.api}/policies/{PUMP}/entries/alice", entry)
    async with a_websocket(ditto, "alice") as alice:
        await alice.control("START-SEND-EVENTS?extraFields=attributes")
        await set_n(ditto, 2)
        body = {"attributes": {"public": 1, "n": 3}}
        await put(f"{ditto.api}/things/{PUMP}", body)
        event = await alice.envelope()
    assert "n" not in event["value"]["attributes"]
    assert event["value"]["attributes"] == {"public": 1}
    assert event["extra"] == {"attributes": {"public": 1}}


async def test_a_message_reaches_its_receivers_and_the_answer_its_sender(
    ditto: Stack, client: WsClient
) -> None:
    await client.control("START-SEND-MESSAGES")
    url = f"{ditto.api}/things/{PUMP}/inbox/messages/hello?timeout=10"
    asking = asyncio.create_task(curl("-X", "POST", url, *json_body({"say": "hi"})))
    heard = await client.envelope()
    assert heard["topic"] == "org.acme/pump-1/things/live/messages/hello"
    assert heard["path"] == "/inbox/messages/hello"
    assert heard["value"] == {"say": "hi"}
    answer = {
        "topic": heard["topic"],
        "path": heard["path"],
        "headers": {
            "correlation-id": heard["headers"]["correlation-id"],
            "content-type": "application/json",
        },
        "status": 418,
        "value": {"said": "hello"},
    }
    await client.socket.send_str(json.dumps(answer))
    got = await asking
    assert (got.status, got.json) == (418, {"said": "hello"})
    assert got.headers["content-type"] == "application/json"


async def test_bytes_travel_as_base64_and_features_have_boxes_of_their_own(
    ditto: Stack, client: WsClient
) -> None:
    await client.control("START-SEND-MESSAGES?filter=eq(topic:subject,'blob')")
    url = f"{ditto.api}/things/{PUMP}/features/cam/outbox/messages"
    other = await curl("-X", "POST", f"{url}/other?timeout=0", "--data-binary", "x")
    assert other.status == 202
    octets = ["-H", "Content-Type: application/octet-stream", "--data-binary", "@-"]
    sent = await curl("-X", "POST", f"{url}/blob?timeout=0", *octets, stdin=b"\x00\xff")
    assert sent.status == 202
    heard = await client.envelope()
    assert heard["path"] == "/features/cam/outbox/messages/blob"
    assert base64.b64decode(heard["value"]) == b"\x00\xff"


async def test_a_message_over_the_socket_waits_for_its_answer(ditto: Stack) -> None:
    async with a_websocket(ditto) as device, a_websocket(ditto) as app:
        await device.control("START-SEND-MESSAGES")
        topic, path = "org.acme/pump-1/things/live/messages/ping", "/inbox/messages/ping"
        asking = asyncio.create_task(app.ask(topic, path, "x", headers={"timeout": "10s"}))
        heard = await device.envelope()
        correlation = heard["headers"]["correlation-id"]
        reply = {
            "topic": topic,
            "path": path,
            "headers": {"correlation-id": correlation},
            "status": 200,
        }
        await device.socket.send_str(json.dumps(reply))
        assert (await asking)["status"] == 200


async def test_nobody_answers_in_time_or_nobody_may_ask(ditto: Stack) -> None:
    url = f"{ditto.api}/things/{PUMP}/inbox/messages/hello"
    late = await curl("-X", "POST", f"{url}?timeout=50ms", "-d", "x")
    assert (late.status, late.error) == (408, "command.timeout")
    refused = await curl("-X", "POST", url, "-d", "x", user="alice:wonder")
    assert (refused.status, refused.error) == (403, "messages:send.notallowed")
    unknown = await curl("-X", "POST", url.replace("pump-1", "nobody"), "-d", "x")
    assert (unknown.status, unknown.error) == (404, "things:thing.notfound")
    bad = await curl("-X", "POST", f"{ditto.api}/things/{PUMP}/inbox/messages/", "-d", "x")
    assert (bad.status, bad.error) == (400, "messages:subject.invalid")
    got = await curl(url)
    assert (got.status, got.error) == (405, "gateway:method.notallowed")


async def test_searching_is_paged_by_demand(ditto: Stack, client: WsClient) -> None:
    for name in ("a", "b", "c"):
        await put(f"{ditto.api}/things/org.acme:{name}", {})
    search = "_/_/things/twin/search"
    value = {"options": "size(2)", "namespaces": ["org.acme"]}
    created = await client.ask(f"{search}/subscribe", "/", value, fields="thingId")
    assert created["topic"] == f"{search}/created"
    subscription = created["value"]["subscriptionId"]
    first = await client.ask(
        f"{search}/request",
        "/",
        {"subscriptionId": subscription, "demand": 1},
        headers={"correlation-id": "c1"},
    )
    assert [one["thingId"] for one in first["value"]["items"]] == ["org.acme:a", "org.acme:b"]
    await client.socket.send_str(
        json.dumps(
            {
                "topic": f"{search}/request",
                "path": "/",
                "value": {"subscriptionId": subscription, "demand": 5},
            }
        )
    )
    second, end = await client.envelope(), await client.envelope()
    assert [one["thingId"] for one in second["value"]["items"]] == ["org.acme:c", PUMP]
    assert end["topic"] == f"{search}/complete"
    lost = await client.ask(f"{search}/cancel", "/", {"subscriptionId": subscription})
    assert (lost["topic"], lost["value"]["subscriptionId"]) == (f"{search}/failed", subscription)
    assert lost["value"]["error"]["error"] == "thing-search:subscription.not.found"


async def test_a_demand_that_is_none_ends_a_search(client: WsClient) -> None:
    search = "_/_/things/twin/search"
    created = await client.ask(f"{search}/subscribe", "/", {})
    asked = {"subscriptionId": created["value"]["subscriptionId"], "demand": -3}
    failed = await client.ask(f"{search}/request", "/", asked)
    assert failed["topic"] == f"{search}/failed"
    assert failed["value"]["error"]["error"] == "thing-search:subscription.protocol.error"
    again = await client.ask(f"{search}/request", "/", {**asked, "demand": 1})
    assert again["value"]["error"]["error"] == "thing-search:subscription.not.found"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nonsense", "json.invalid"),
        ("[]", "json.invalid"),
        ("{}", "json.field.missing"),
        ('{"topic": "a/b", "path": "/"}', "protocoladapter:unknown.topicpath"),
        (
            '{"topic": "a/b/things/twin/commands/fly", "path": "/"}',
            "protocoladapter:unknown.command",
        ),
        (
            '{"topic": "a/b/things/live/commands/modify", "path": "/", "value": 1}',
            "things:thing.notfound",
        ),
        ("START-SEND-EVENTS?filter=eq(", "rql.expression.invalid"),
        ("START-SEND-EVENTS?extraFields=nope", "things:field.selection.invalid"),
        ("START-SEND-EVENTS?namespaces=1x", "namespacedentity.id.invalid"),
    ],
)
async def test_what_is_wrong_is_told_and_the_session_goes_on(
    client: WsClient, text: str, code: str
) -> None:
    await client.socket.send_str(text)
    refused = await client.envelope()
    assert refused["value"]["error"] == code
    assert refused["topic"].endswith("/errors")
    assert (await client.ask(f"{TWIN}/retrieve", "/attributes/n"))["value"] == 1


async def test_a_session_needs_a_caller(ditto: Stack) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with a_websocket(ditto, ""):
            pass
    assert caught.value.status == 401
    plain = await curl(f"{ditto.url}/ws/2")
    assert plain.status == 400


async def test_a_subscriber_that_does_not_read_is_dropped_and_the_others_go_on() -> None:
    settings = DittoWebSocket(outbound_buffer=5)
    async with a_ditto(websocket=settings) as ditto:
        await put(f"{ditto.api}/things/{PUMP}", {"attributes": {"n": 1}})
        async with a_websocket(ditto) as quick:
            await quick.control("START-SEND-EVENTS")
            reader, writer = await _deaf_subscriber(ditto)
            big = "x" * 80_000
            for at in range(200):
                await set_n(ditto, f"{at}{big}")
                assert (await quick.envelope())["value"].startswith(str(at))
                if ditto.sample("twinspan_stream_sessions_dropped_total", kind="websocket"):
                    break
            await until(lambda: ditto.sample("twinspan_stream_sessions", kind="websocket") == 1)
            assert ditto.sample("twinspan_stream_sessions_dropped_total", kind="websocket") == 1
            writer.close()
            assert reader


async def _deaf_subscriber(ditto: Stack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A subscriber over a bare socket that stops reading after its subscription."""
    host, _, port = ditto.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1_024)
    token = base64.b64encode(b"ditto:ditto").decode()
    key = base64.b64encode(b"0123456789abcdef").decode()
    writer.write(
        f"GET /ws/2 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    text = b"START-SEND-EVENTS"
    writer.write(bytes((0x81, 0x80 | len(text))) + b"\0\0\0\0" + text)
    await reader.readexactly(2 + len(b"START-SEND-EVENTS:ACK"))
    return reader, writer


async def test_a_server_that_stops_ends_sessions_and_tells_those_who_wait() -> None:
    async with AsyncExitStack() as clients:
        async with a_ditto() as ditto:
            await put(f"{ditto.api}/things/{PUMP}", {})
            client = await clients.enter_async_context(a_websocket(ditto))
            await client.control("START-SEND-MESSAGES")
            url = f"{ditto.api}/things/{PUMP}/inbox/messages/hello?timeout=50"
            asking = asyncio.create_task(curl("-X", "POST", url, "-d", "x"))
            assert (await client.envelope())["path"] == "/inbox/messages/hello"
        assert (await client.socket.receive(timeout=5)).data == aiohttp.WSCloseCode.GOING_AWAY
        assert (await asking).status == 503
