"""Acknowledgements over HTTP and WebSocket: who is waited for, who answers in whose place, what is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
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

TWIN = "org.acme/pump-1/things/twin"
LIVE = "org.acme/pump-1/things/live"
OWN = "my:ack"


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto() as stack:
        await put(f"{stack.api}/things/{PUMP}", {"attributes": {"n": 1}})
        yield stack


@pytest.fixture
async def declarer(ditto: Stack) -> AsyncIterator[WsClient]:
    """A session that declared the label."""
    async with a_websocket(ditto, query=f"?declared-acks={OWN}") as client:
        yield client


def changing(ditto: Stack, query: str, value: Any = 2) -> asyncio.Task[Answer]:
    return asyncio.create_task(put(f"{ditto.api}/things/{PUMP}/attributes/n?{query}", value))


async def acknowledge(client: WsClient, heard: dict[str, Any], status: int, **more: Any) -> None:
    """Issue the label for a signal."""
    label = more.pop("label", OWN)
    channel = heard["topic"].split("/")[3]
    headers = {"correlation-id": heard["headers"]["correlation-id"]}
    ack = {"topic": f"org.acme/pump-1/things/{channel}/acks/{label}", "path": "/", "status": status}
    await client.socket.send_str(json.dumps({**ack, "headers": headers, **more}))


async def test_a_change_waits_for_the_labels_it_asks_for(ditto: Stack, declarer: WsClient) -> None:
    await declarer.control("START-SEND-EVENTS")
    asking = changing(ditto, f"requested-acks=twin-persisted,{OWN}")
    event = await declarer.envelope()
    assert event["headers"]["requested-acks"] == [OWN]
    await acknowledge(declarer, event, 202, value={"seen": True})
    got = await asking
    assert got.status == 200
    assert list(got.json) == ["twin-persisted", OWN]
    assert got.json["twin-persisted"]["status"] == 204
    assert got.json["twin-persisted"]["headers"]["entity-revision"] == 2
    assert (got.json[OWN]["status"], got.json[OWN]["payload"]) == (202, {"seen": True})


@pytest.mark.parametrize(
    ("labels", "status"), [(f"twin-persisted,{OWN}", 424), (OWN, 503)], ids=["several", "one"]
)
async def test_a_failed_acknowledgement_is_data_and_counts_for_the_status(
    ditto: Stack, declarer: WsClient, labels: str, status: int
) -> None:
    await declarer.control("START-SEND-EVENTS")
    asking = changing(ditto, f"requested-acks={labels}")
    await acknowledge(declarer, await declarer.envelope(), 503, value="no")
    got = await asking
    assert got.status == status
    assert got.json[OWN]["payload"] == "no"


async def test_a_label_that_nobody_issues_is_missed_in_the_aggregate(ditto: Stack) -> None:
    one = await changing(ditto, "requested-acks=nobody:ack&timeout=50ms")
    assert (one.status, one.json["nobody:ack"]["status"]) == (408, 408)
    assert one.json["nobody:ack"]["payload"]["error"] == "acknowledgement:request.timeout"
    two = await changing(ditto, "requested-acks=twin-persisted,nobody:ack&timeout=100ms", 3)
    assert two.status == 424
    assert two.json["twin-persisted"]["status"] == 204


async def test_an_error_is_told_at_once_and_not_as_an_acknowledgement(ditto: Stack) -> None:
    url = f"{ditto.api}/things/{PUMP}/attributes/n?requested-acks=twin-persisted,nobody:ack"
    refused = await put(url, 5, user="alice:wonder")
    assert (refused.status, refused.error) == (403, "things:attribute.notmodifiable")


async def test_a_plain_answer_is_given_for_the_default_label_alone(ditto: Stack) -> None:
    got = await changing(ditto, "requested-acks=twin-persisted")
    assert (got.status, got.body) == (204, "")


async def test_without_response_failures_come_as_statuses_and_success_as_202(
    ditto: Stack, declarer: WsClient
) -> None:
    await declarer.control("START-SEND-EVENTS")
    query = f"requested-acks={OWN}&response-required=false"
    asking = changing(ditto, query)
    await acknowledge(declarer, await declarer.envelope(), 200, value="quiet")
    good = await asking
    assert (good.status, good.body) == (202, "")
    asking = changing(ditto, query, 3)
    await acknowledge(declarer, await declarer.envelope(), 400, value="loud")
    bad = await asking
    assert (bad.status, bad.json) == (400, {OWN: {"status": 400}})


@pytest.mark.parametrize(
    "start",
    [None, "START-SEND-EVENTS?filter=gt(attributes/n,100)", "START-SEND-EVENTS?namespaces=other"],
    ids=["no subscription", "filtered", "other namespace"],
)
async def test_a_declarer_that_was_not_told_is_stood_in_for(
    ditto: Stack, declarer: WsClient, start: str | None
) -> None:
    if start is not None:
        await declarer.control(start)
    got = await changing(ditto, f"requested-acks={OWN}")
    assert got.status == 200
    assert got.json[OWN]["headers"]["ditto-weak-ack"] is True


async def test_a_declarers_own_change_waits_for_it_and_one_that_changed_nothing_does_not(
    ditto: Stack, declarer: WsClient
) -> None:
    await declarer.control("START-SEND-EVENTS")
    headers = {"requested-acks": ["twin-persisted", OWN], "timeout": "50ms"}
    own = await declarer.ask(f"{TWIN}/commands/modify", "/attributes/n", 7, headers=headers)
    assert (own["topic"], own["status"]) == (f"{TWIN}/acks", 424)
    assert own["value"][OWN]["status"] == 408
    patch = json_body([{"op": "replace", "path": "/n", "value": 7}], "application/json-patch+json")
    url = f"{ditto.api}/things/{PUMP}/attributes?requested-acks={OWN}"
    same = await curl("-X", "PATCH", url, *patch)
    assert (same.status, same.json[OWN]["status"]) == (200, 200)


async def test_who_may_not_read_the_change_is_stood_in_for(ditto: Stack) -> None:
    async with a_websocket(ditto, "alice", f"?declared-acks={OWN}") as alice:
        await alice.control("START-SEND-EVENTS")
        got = await changing(ditto, f"requested-acks={OWN}")
    assert got.json[OWN]["headers"]["ditto-weak-ack"] is True


async def test_a_label_has_one_owner_until_its_session_ends(
    ditto: Stack, declarer: WsClient
) -> None:
    async with a_websocket(ditto, query=f"?declared-acks={OWN}") as second:
        last = await second.envelope()
        assert (last["status"], last["value"]["error"]) == (409, "acknowledgement:label.not.unique")
        assert (await second.socket.receive(timeout=10)).type is aiohttp.WSMsgType.CLOSE
    await declarer.socket.close()
    async with a_websocket(ditto, query=f"?declared-acks={OWN}") as third:
        assert (await third.ask(f"{TWIN}/commands/retrieve", "/attributes/n"))["value"] == 1


async def test_built_in_labels_belong_to_nobody(ditto: Stack) -> None:
    async with a_websocket(ditto, query="?declared-acks=twin-persisted") as client:
        last = await client.envelope()
        assert last["value"]["error"] == "acknowledgement:ditto.acklabel.forbidden"


@pytest.mark.parametrize(
    ("label", "headers", "code"),
    [
        ("other:ack", {"correlation-id": "c"}, "acknowledgement:label.not.declared"),
        ("twin-persisted", {"correlation-id": "c"}, "acknowledgement:ditto.acklabel.forbidden"),
        ("a b", {"correlation-id": "c"}, "acknowledgement:label.invalid"),
    ],
)
async def test_only_declared_labels_are_issued(
    declarer: WsClient, label: str, headers: dict[str, Any], code: str
) -> None:
    ack = {"topic": f"{TWIN}/acks/{label}", "path": "/", "headers": headers, "status": 200}
    await declarer.socket.send_str(json.dumps(ack))
    assert (await declarer.envelope())["value"]["error"] == code


async def test_a_socket_takes_no_acknowledgements_without_response(declarer: WsClient) -> None:
    headers = {"requested-acks": [OWN], "response-required": False}
    found = await declarer.ask(f"{TWIN}/commands/modify", "/attributes/n", 7, headers=headers)
    assert (found["status"], found["value"]["error"]) == (400, "header.invalid")


async def test_a_message_is_acknowledged_beside_its_answer(
    ditto: Stack, declarer: WsClient
) -> None:
    await declarer.control("START-SEND-MESSAGES")
    url = f"{ditto.api}/things/{PUMP}/inbox/messages/hello?requested-acks={OWN}"
    asking = asyncio.create_task(curl("-X", "POST", url, *json_body({"say": "hi"})))
    heard = await declarer.envelope()
    assert heard["headers"]["requested-acks"] == [OWN, "live-response"]
    await acknowledge(declarer, heard, 200)
    answer = {
        "topic": heard["topic"],
        "path": heard["path"],
        "status": 201,
        "value": {"said": 1},
        "headers": {**heard["headers"], "content-type": "application/json"},
    }
    await declarer.socket.send_str(json.dumps(answer))
    got = await asking
    assert got.status == 200
    assert got.json["live-response"]["status"] == 201
    assert got.json["live-response"]["payload"] == {"said": 1}
    assert got.json[OWN]["status"] == 200


async def test_a_message_without_response_may_still_be_acknowledged(
    ditto: Stack, declarer: WsClient
) -> None:
    await declarer.control("START-SEND-MESSAGES")
    query = f"requested-acks={OWN}&response-required=false&timeout=5s"
    url = f"{ditto.api}/things/{PUMP}/inbox/messages/hello?{query}"
    asking = asyncio.create_task(curl("-X", "POST", url, "-d", "x"))
    heard = await declarer.envelope()
    assert heard["headers"]["response-required"] is False
    await acknowledge(declarer, heard, 200)
    assert (await asking).status == 202


async def test_the_same_correlation_id_twice_gets_each_its_own_acknowledgements(
    ditto: Stack, declarer: WsClient
) -> None:
    await declarer.control("START-SEND-EVENTS")
    query = f"requested-acks={OWN}&correlation-id=same"
    first = changing(ditto, query, 10)
    one = await declarer.envelope()
    second = changing(ditto, query, 11)
    two = await declarer.envelope()
    assert one["headers"]["correlation-id"] != two["headers"]["correlation-id"]
    await acknowledge(declarer, two, 211)
    await acknowledge(declarer, one, 210)
    assert [(await first).status, (await second).status] == [210, 211]


@pytest.mark.parametrize(
    "query",
    [
        "timeout=0&requested-acks=my:ack",
        "timeout=0&response-required=true",
        "timeout=0&requested-acks=my:ack&response-required=false",
        "requested-acks=x",
    ],
)
async def test_headers_that_do_not_fit_together_are_refused(ditto: Stack, query: str) -> None:
    found = await changing(ditto, query)
    assert (found.status, found.error) == (400, "header.invalid")
