"""Past events and past states over the protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.config.ditto import Policies
from gateway.ditto.past import Past
from gateway.store.things_sqlite import SqliteThingStore
from tests.ditto_rig import PUMP, Stack, WsClient, a_ditto, a_websocket, curl, put

THING = "org.acme/pump-1/things/twin/streaming"
POLICY = "org.acme/pump-1/policies/streaming"
SUBSCRIBE = "subscribeForPersistedEvents"


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto() as stack:
        url = f"{stack.api}/things/{PUMP}"
        await put(url, {"attributes": {"n": 1}})
        for value in (2, 3, 4):
            await put(f"{url}/attributes/n", value)
        yield stack


@pytest.fixture
async def client(ditto: Stack) -> AsyncIterator[WsClient]:
    async with a_websocket(ditto) as client:
        yield client


async def subscribed(client: WsClient, value: dict[str, Any], path: str = "/") -> str:
    created = await client.ask(f"{THING}/{SUBSCRIBE}", path, value)
    assert created["topic"] == f"{THING}/created", created
    return str(created["value"]["subscriptionId"])


async def items(client: WsClient, stream: str, demand: int, topic: str = THING) -> list[Any]:
    """Ask for events and read them until the stream is done, or as many came as were asked for."""
    value = {"subscriptionId": stream, "demand": demand}
    await client.socket.send_json({"topic": f"{topic}/request", "path": "/", "value": value})
    found, one = [], await client.envelope()
    while one["topic"] == f"{topic}/next":
        found.append(one["value"]["item"])
        if len(found) == demand:
            return found
        one = await client.envelope()
    assert one["topic"] == f"{topic}/complete", one
    return found


async def test_past_events_come_by_demand_and_then_the_stream_is_complete(client: WsClient) -> None:
    stream = await subscribed(client, {"fromHistoricalRevision": 1})
    first = await items(client, stream, 2)
    assert [event["revision"] for event in first] == [1, 2]
    assert first[0]["topic"] == "org.acme/pump-1/things/twin/events/created"
    assert (first[1]["path"], first[1]["value"]) == ("/attributes/n", 2)
    assert [event["value"] for event in await items(client, stream, 10)] == [3, 4]
    again = await client.ask(f"{THING}/request", "/", {"subscriptionId": stream, "demand": 1})
    assert (again["topic"], again["value"]["subscriptionId"]) == (f"{THING}/failed", stream)
    assert again["value"]["error"]["error"] == "streaming.subscription.not.found"


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [
        ({"fromHistoricalRevision": 2, "toHistoricalRevision": 3}, "/", [2, 3]),
        ({"fromHistoricalRevision": -2}, "/", [3, 4]),
        ({"fromHistoricalTimestamp": "2100-01-01T00:00:00Z"}, "/", []),
        ({"toHistoricalTimestamp": "2000-01-01T00:00:00Z"}, "/", []),
        ({"fromHistoricalRevision": 1, "filter": "gt(attributes/n,2)"}, "/", [3, 4]),
        ({"fromHistoricalRevision": 1}, "/features", [1]),
        ({"fromHistoricalRevision": 2}, "/attributes/n", [2, 3, 4]),
    ],
)
async def test_a_stream_is_narrowed(
    client: WsClient, value: dict[str, Any], path: str, expected: list[int]
) -> None:
    stream = await subscribed(client, value, path)
    assert [event["revision"] for event in await items(client, stream, 50)] == expected


async def test_nobody_sees_more_of_the_past_than_of_the_present(ditto: Stack) -> None:
    async with a_websocket(ditto, "alice") as alice:
        refused = await alice.ask(f"{THING}/{SUBSCRIBE}", "/", {})
        assert (refused["status"], refused["value"]["error"]) == (404, "things:thing.notfound")
        refused = await alice.ask(f"{POLICY}/{SUBSCRIBE}", "/", {})
        assert refused["topic"] == "org.acme/pump-1/policies/errors"
        assert refused["value"]["error"] == "policies:policy.notfound"
        entry = {
            "subjects": {"nginx:alice": {"type": "user"}},
            "resources": {"thing:/attributes/public": {"grant": ["READ"], "revoke": []}},
        }
        await put(f"{ditto.api}/policies/{PUMP}/entries/alice", entry)
        await put(f"{ditto.api}/things/{PUMP}/attributes/public", "seen")
        stream = await subscribed(alice, {})
        assert [event["value"] for event in await items(alice, stream, 9)] == ["seen"]


async def test_past_events_of_policies_are_streamed_too(ditto: Stack, client: WsClient) -> None:
    entry = {"subjects": {"nginx:x": {"type": "user"}}, "resources": {}}
    await put(f"{ditto.api}/policies/{PUMP}/entries/x", entry)
    await curl("-X", "DELETE", f"{ditto.api}/policies/{PUMP}/entries/x")
    created = await client.ask(f"{POLICY}/{SUBSCRIBE}", "/", {"fromHistoricalRevision": 2})
    assert created["topic"] == f"{POLICY}/created"
    found = await items(client, created["value"]["subscriptionId"], 5, POLICY)
    assert [event["topic"] for event in found] == [
        "org.acme/pump-1/policies/events/created",
        "org.acme/pump-1/policies/events/deleted",
    ]
    assert [event["path"] for event in found] == ["/entries/x"] * 2
    assert found[0]["value"]["subjects"].keys() == {"nginx:x"}


@pytest.mark.parametrize(
    ("action", "value", "code"),
    [
        (SUBSCRIBE, {"fromHistoricalRevision": "x"}, "header.invalid"),
        (SUBSCRIBE, {"filter": "eq("}, "rql.expression.invalid"),
        ("fly", {}, "protocoladapter:unknown.command"),
    ],
)
async def test_what_is_wrong_with_a_stream_is_told(
    client: WsClient, action: str, value: dict[str, Any], code: str
) -> None:
    assert (await client.ask(f"{THING}/{action}", "/", value))["value"]["error"] == code


async def test_a_demand_is_a_positive_number_and_a_stream_can_be_cancelled(
    client: WsClient,
) -> None:
    stream = await subscribed(client, {})
    asked = {"subscriptionId": stream, "demand": 0}
    refused = await client.ask(f"{THING}/request", "/", asked)
    assert refused["topic"] == f"{THING}/failed"
    assert refused["value"]["error"]["error"] == "streaming.subscription.protocol.error"
    stream = await subscribed(client, {})
    await client.socket.send_json(
        {"topic": f"{THING}/cancel", "path": "/", "value": {"subscriptionId": stream}}
    )
    for gone_id in (stream, asked["subscriptionId"], "none"):
        value = {"subscriptionId": gone_id, "demand": 1}
        gone = await client.ask(f"{THING}/request", "/", value)
        assert gone["value"]["error"]["error"] == "streaming.subscription.not.found"


async def test_a_session_has_a_bounded_number_of_streams(client: WsClient) -> None:
    for _ in range(10):
        await subscribed(client, {})
    refused = await client.ask(f"{THING}/{SUBSCRIBE}", "/", {})
    assert (refused["status"], refused["value"]["error"]) == (429, "too.many.requests")


async def test_past_states_are_read_over_the_protocol(client: WsClient) -> None:
    topic = "org.acme/pump-1/things/twin/commands/retrieve"
    found = await client.ask(topic, "/attributes/n", headers={"at-historical-revision": 2})
    assert (found["value"], found["headers"]["historical-headers"]) == (2, {})
    gone = await client.ask(topic, "/", headers={"at-historical-revision": 77})
    assert gone["value"]["error"] == "things:thing.history.notfound"


async def test_past_states_say_so_over_http(ditto: Stack) -> None:
    found = await curl(f"{ditto.api}/things/{PUMP}/attributes/n?at-historical-revision=3")
    assert (found.status, found.json) == (200, 3)
    assert found.headers["historical-headers"] == "{}"


async def test_past_states_tell_the_headers_in_the_settings(ditto: Stack) -> None:
    url = f"{ditto.api}/things/{PUMP}/attributes/n"
    await put(url, 9, "-H", "correlation-id: c-9", "-H", "x-reason: because")
    thing = await ditto.things.load(PUMP)
    assert thing is not None
    names = ("ditto-originator", "correlation-id", "x-reason", "x-nothing")
    past = Past(SqliteThingStore(ditto.database), names)
    assert await past.headers(thing) == {
        "ditto-originator": "nginx:ditto",
        "correlation-id": "c-9",
        "x-reason": "because",
    }
    assert await past.headers(replace(thing, revision=99)) == {}
    assert await Past(SqliteThingStore(ditto.database)).headers(thing) == {}


async def test_past_policies_tell_the_headers_in_the_settings() -> None:
    settings = Policies(historical_headers=("ditto-originator", "correlation-id"))
    async with a_ditto(policies=settings) as ditto:
        url = f"{ditto.api}/policies/org.acme:p"
        entry = {
            "subjects": {"nginx:ditto": {"type": "user"}},
            "resources": {"policy:/": {"grant": ["READ", "WRITE"], "revoke": []}},
        }
        await put(url, {"entries": {"a": entry}}, "-H", "correlation-id: c-1")
        found = await curl(url, "-H", "at-historical-revision: 1")
    assert json.loads(found.headers["historical-headers"]) == {
        "ditto-originator": "nginx:ditto",
        "correlation-id": "c-1",
    }


@pytest.mark.parametrize(
    ("rql", "paths"),
    [
        ("eq(topic:action,'deleted')", ["/entries/x"]),
        ("like(resource:path,'/entries/x/subjects*')", ["/entries/x/subjects/nginx:y"]),
        ("eq(entries/x/subjects/nginx:y/type,'user')", ["/entries/x/subjects/nginx:y"]),
        ("exists(entries/*/subjects)", ["/", "/entries/x", "/entries/x/subjects/nginx:y"]),
        ("ne(policy:name,'pump-1')", []),
        ("and(eq(entity:id,'org.acme:pump-1'),eq(header:correlation-id,'c-7'))", ["/entries/x"]),
        ("and(lt(time:now,'1970'),eq(resource:type,'policy'))", []),
    ],
)
async def test_past_events_of_policies_are_filtered(
    ditto: Stack, client: WsClient, rql: str, paths: list[str]
) -> None:
    url = f"{ditto.api}/policies/{PUMP}/entries/x"
    await put(url, {"subjects": {"nginx:x": {"type": "user"}}, "resources": {}})
    await put(f"{url}/subjects/nginx:y", {"type": "user"})
    await curl("-X", "DELETE", url, "-H", "correlation-id: c-7")
    created = await client.ask(f"{POLICY}/{SUBSCRIBE}", "/", {"filter": rql})
    found = await items(client, created["value"]["subscriptionId"], 9, POLICY)
    assert [event["path"] for event in found] == paths


async def test_a_bad_filter_of_policies_is_refused(client: WsClient) -> None:
    refused = await client.ask(f"{POLICY}/{SUBSCRIBE}", "/", {"filter": "eq("})
    assert refused["value"]["error"] == "rql.expression.invalid"
