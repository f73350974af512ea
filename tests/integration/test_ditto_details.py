"""Details that clients of Ditto and its system tests rely on, asked over real sockets."""

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

ATTRIBUTES = {"n": 1, "deep": {"er": True}}
FEATURES = {"motor": {"properties": {"rpm": 1}}}
MERGE = "application/merge-patch+json"


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto() as stack:
        made = await put(
            f"{stack.api}/things/{PUMP}", {"attributes": ATTRIBUTES, "features": FEATURES}
        )
        assert made.status == 201
        yield stack


async def ask(
    ditto: Stack, method: str, path: str, *more: str, value: Any = ..., media: str = ""
) -> Answer:
    """One request below /api/2, with a JSON body where `value` is given."""
    body = [] if value is ... else json_body(value, media or "application/json")
    return await curl("-X", method, f"{ditto.api}/{path}", *body, *more)


# --- paths


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{PUMP}/", {"thingId", "policyId", "attributes", "features"}),
        (f"{PUMP}/attributes/", set(ATTRIBUTES)),
        (f"{PUMP}/features/", set(FEATURES)),
        (f"{PUMP}/features/motor/", {"properties"}),
        (f"{PUMP}/features/motor/properties/", {"rpm"}),
    ],
)
async def test_one_slash_may_follow_a_resource(ditto: Stack, path: str, expected: set[str]) -> None:
    got = await ask(ditto, "GET", f"things/{path}")
    assert (got.status, set(got.json)) == (200, expected)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "things//", 404),
        ("GET", "things//", 404),
        ("PUT", "things//a:b", 404),
        ("DELETE", "things//a:b", 404),
        ("POST", f"things/{PUMP}/features//", 404),
        ("GET", f"things/{PUMP}/features//", 404),
        ("PUT", f"things/{PUMP}/features//x", 404),
        ("POST", f"things/{PUMP}/attributes//", 405),
        ("GET", f"things/{PUMP}/attributes//", 400),
        ("PUT", f"things/{PUMP}/attributes//x", 400),
        ("DELETE", f"things/{PUMP}/attributes/x//y", 400),
    ],
)
async def test_an_empty_segment_is_no_resource(
    ditto: Stack, method: str, path: str, status: int
) -> None:
    value: Any = {} if method in ("PUT", "POST") else ...
    got = await ask(ditto, method, path, "--path-as-is", value=value)
    assert got.status == status, got


async def test_the_lifecycle_can_be_selected(ditto: Stack) -> None:
    got = await ask(ditto, "GET", f"things/{PUMP}?fields=thingId,__lifecycle")
    assert got.json == {"thingId": PUMP, "__lifecycle": "ACTIVE"}


# --- merging


@pytest.mark.parametrize("thing", [PUMP, "org.acme:absent"])
@pytest.mark.parametrize("patch", [{}, None])
async def test_an_empty_patch_of_a_thing_is_refused(ditto: Stack, thing: str, patch: Any) -> None:
    got = await ask(ditto, "PATCH", f"things/{thing}", value=patch, media=MERGE)
    assert (got.status, got.error) == (400, "things:merge.invalid")


@pytest.mark.parametrize("path", ["", "/attributes", "/features/motor/properties/rpm"])
async def test_a_merge_without_permission_names_the_thing(ditto: Stack, path: str) -> None:
    url = f"{ditto.api}/things/{PUMP}{path}"
    got = await curl("-X", "PATCH", url, *json_body({"a": 1}, MERGE), user="alice:wonder")
    assert (got.status, got.error) == (403, "things:thing.notmodifiable")


# --- acknowledgements


async def test_an_empty_list_of_labels_is_as_none_at_all(ditto: Stack) -> None:
    path, header = f"things/{PUMP}/attributes/new", "requested-acks;"
    assert (await ask(ditto, "PUT", path, "-H", header, value=1)).status == 201
    silent = await ask(ditto, "PUT", path, "-H", header, "-H", "response-required: false", value=2)
    assert (silent.status, silent.body) == (202, "")


async def test_acknowledgements_say_whose_they_are_and_where_the_new_thing_is(
    ditto: Stack,
) -> None:
    query = "requested-acks=twin-persisted,search-persisted&correlation-id=mine"
    got = await ask(ditto, "PUT", f"things/org.acme:new?{query}", value={})
    assert got.status == 200
    headers = {label: ack["headers"] for label, ack in json.loads(got.body).items()}
    assert {one["correlation-id"] for one in headers.values()} == {"mine"}
    assert headers["twin-persisted"]["location"] == f"{ditto.api}/things/org.acme:new"
    assert "location" not in headers["search-persisted"]


# --- devices' answers


CONDITION = "eq(attributes/n,1)"


@pytest.fixture
async def device(ditto: Stack) -> AsyncIterator[WsClient]:
    async with a_websocket(ditto) as socket:
        await socket.control("START-SEND-LIVE-COMMANDS")
        yield socket


async def reply(device: WsClient, status: int, **members: Any) -> None:
    """Answer the next live command."""
    asked = await device.envelope()
    headers = {**asked["headers"], **members.pop("headers", {})}
    answer = {"topic": asked["topic"], "path": asked["path"], "status": status, "headers": headers}
    await device.socket.send_str(json.dumps({**answer, **members}))


async def test_an_answer_says_where_it_comes_from(ditto: Stack, device: WsClient) -> None:
    query = f"live-channel-condition={quote(CONDITION)}&timeout=5s"
    asking = asyncio.create_task(ask(ditto, "GET", f"things/{PUMP}/attributes/n?{query}"))
    await reply(device, 200, value=5)
    live = await asking
    assert (live.status, live.json) == (200, 5)
    told = ("channel", "live-channel-condition-matched", "response-required", "ditto-originator")
    assert [live.headers[name] for name in told] == ["live", "true", "false", "nginx:ditto"]
    twin = await ask(ditto, "GET", f"things/{PUMP}/attributes/n")
    assert [twin.headers[name] for name in told[2:]] == ["false", "nginx:ditto"]


async def test_a_device_that_is_silent_is_told_with_its_channel(ditto: Stack) -> None:
    query = f"live-channel-condition={quote(CONDITION)}&timeout=50ms"
    late = await ask(ditto, "GET", f"things/{PUMP}?{query}")
    assert (late.status, late.error) == (408, "command.timeout")
    told = ("channel", "live-channel-condition-matched", "response-required")
    assert [late.headers[name] for name in told] == ["live", "true", "false"]


@pytest.mark.parametrize("is_told", [True, False])
async def test_an_answer_that_the_command_cannot_have_is_none(
    ditto: Stack, device: WsClient, is_told: bool
) -> None:
    url = f"things/{PUMP}/attributes/n?channel=live&timeout=300ms"
    asking = asyncio.create_task(ask(ditto, "PUT", url, value=2))
    await reply(device, 206, headers={"response-required": is_told})
    await device.socket.send_str(json.dumps({"topic": "nonsense", "path": "/"}))
    first = await device.envelope()
    assert (first["value"]["error"] == "protocoladapter:illegal.adaptable") is is_told
    assert (await asking).status == 408


# --- policies, headers, metadata


@pytest.mark.parametrize("key", ["thing:/", "policy:/", "message:/"])
async def test_the_root_of_a_resource_type_is_managed_by_its_own_path(
    ditto: Stack, key: str
) -> None:
    entry = {"subjects": {"nginx:alice": {"type": "x"}}, "resources": {}}
    await ask(ditto, "PUT", f"policies/{PUMP}/entries/guest", value=entry)
    path = f"policies/{PUMP}/entries/guest/resources/{key}"
    may = {"grant": ["READ"], "revoke": []}
    assert (await ask(ditto, "PUT", path, value=may)).status == 201
    assert (await ask(ditto, "GET", path)).json == may
    assert (await ask(ditto, "DELETE", path)).status == 204
    assert (await ask(ditto, "GET", path)).error == "policies:resource.notfound"


async def test_any_header_comes_once(ditto: Stack) -> None:
    twice = ("-H", "x-own: a", "-H", "x-own: b")
    got = await ask(ditto, "GET", f"things/{PUMP}", *twice)
    assert (got.status, got.error) == (400, "gateway:duplicate.header.field")
    proxies = ("-H", "x-forwarded-for: 10.0.0.1", "-H", "x-forwarded-for: 10.0.0.2")
    assert (await ask(ditto, "GET", f"things/{PUMP}", *proxies)).status == 200


@pytest.mark.parametrize("kind", ["thing", "policy"])
async def test_permissions_of_what_cannot_be_are_not_asked_for(ditto: Stack, kind: str) -> None:
    question = {"resource": f"{kind}:/", "hasPermissions": ["READ"]}
    wrong = {"q": {**question, "entityId": "no-colon"}}
    got = await ask(ditto, "POST", "checkPermissions", value=wrong)
    assert got.status == 400
    absent = {"q": {**question, "entityId": "org.acme:absent"}}
    assert (await ask(ditto, "POST", "checkPermissions", value=absent)).json == {"q": False}


async def test_a_new_thing_brings_metadata_in_its_body_or_in_a_header_not_in_both(
    ditto: Stack,
) -> None:
    said = {"attributes": {"a": {"unit": "m"}}}
    body = {"attributes": {"a": 1}, "_metadata": said}
    assert (await ask(ditto, "PUT", "things/org.acme:said", value=body)).status == 201
    got = await ask(ditto, "GET", "things/org.acme:said?fields=_metadata")
    assert got.json == {"_metadata": said}
    header = ("-H", 'put-metadata: [{"key": "attributes/a/unit", "value": 1}]')
    both = await ask(ditto, "PUT", "things/org.acme:both", *header, value=body)
    assert (both.status, both.error) == (400, "things:metadata.notmodifiable")


@pytest.mark.parametrize(
    ("first", "again", "fits"),
    [
        ("sort(+attributes/row)", "sort(+attributes/row)", True),
        ("sort(+attributes/row)", "sort(+attributes/row,+thingId)", True),
        ("sort(-thingId)", "sort(-thingId,+attributes/row)", True),
        ("size(1)", "sort(+thingId)", True),
        ("sort(+attributes/row)", "sort(-attributes/row)", False),
        ("size(1)", "sort(-thingId)", False),
        ("size(1)", "limit(0,1)", False),
    ],
)
async def test_a_cursor_goes_with_the_order_it_was_made_in(
    ditto: Stack, first: str, again: str, fits: bool
) -> None:
    for n in range(3):
        await ask(ditto, "PUT", f"things/org.acme:row{n}", value={"attributes": {"row": n}})
    rows = "search/things?filter=exists(attributes/row)&option="
    options = first if first == "size(1)" else f"size(1),{first}"
    page = (await ask(ditto, "GET", rows + quote(options))).json
    got = await ask(ditto, "GET", rows + quote(f"{again},cursor({page['cursor']}),size(1)"))
    if fits:
        assert [item["thingId"] for item in got.json["items"]] == ["org.acme:row1"]
    else:
        assert (got.status, got.error) == (400, "thing-search:search.option.invalid")


async def test_a_message_needs_an_id_that_can_be(ditto: Stack) -> None:
    got = await ask(ditto, "POST", "things/no-colon/outbox/messages/hello", value=1)
    assert (got.status, got.error) == (400, "things:id.invalid")
