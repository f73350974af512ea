"""Server-sent events, read by `curl -N`."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.config.ditto import DittoWebSocket, OpenIdIssuer
from gateway.errors import StoreUnavailable
from tests.ditto_rig import PUMP, Stack, a_ditto, an_event_stream, curl, put
from tests.hono_rig import until
from tests.integration.test_ditto_auth import Provider, a_provider

SSE = ["-H", "Accept: text/event-stream"]


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto() as stack:
        await put(f"{stack.api}/things/{PUMP}", {"attributes": {"n": 1}})
        yield stack


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with a_provider() as made:
        yield made


async def set_n(ditto: Stack, value: object) -> None:
    await put(f"{ditto.api}/things/{PUMP}/attributes/n", value)


async def test_changes_come_as_parts_of_the_thing(ditto: Stack) -> None:
    async with an_event_stream(f"{ditto.api}/things") as stream:
        await set_n(ditto, 2)
        assert await stream.json() == {"thingId": PUMP, "attributes": {"n": 2}}
        patch = ["-H", "Content-Type: application/merge-patch+json", "-d"]
        body = '{"attributes": {"n": null, "m": 3}}'
        await curl("-X", "PATCH", f"{ditto.api}/things/{PUMP}", *patch, body)
        assert await stream.json() == {"thingId": PUMP, "attributes": {"m": 3}}
        await curl("-X", "DELETE", f"{ditto.api}/things/{PUMP}/attributes/m")
        assert await stream.json() == {"thingId": PUMP}


async def test_fields_select_and_drop_what_is_empty(ditto: Stack) -> None:
    url = f"{ditto.api}/things/{PUMP}?fields=attributes/m,_revision"
    async with an_event_stream(url) as stream:
        await set_n(ditto, 2)
        assert await stream.json() == {"_revision": 2}
    async with an_event_stream(f"{ditto.api}/things/{PUMP}?fields=attributes/m") as stream:
        await set_n(ditto, 3)
        await put(f"{ditto.api}/things/{PUMP}/attributes/m", 7)
        assert await stream.json() == {"attributes": {"m": 7}}


async def test_context_and_extra_fields_are_merged_in(ditto: Stack) -> None:
    fields = "thingId,policyId,attributes,_context/topic,_context/path"
    url = f"{ditto.api}/things?ids={PUMP}&fields={fields}&extraFields=policyId"
    async with an_event_stream(url) as stream:
        await put(f"{ditto.api}/things/org.acme:other", {})
        await set_n(ditto, 2)
        assert await stream.json() == {
            "thingId": PUMP,
            "policyId": PUMP,
            "attributes": {"n": 2},
            "_context": {
                "topic": "org.acme/pump-1/things/twin/events/modified",
                "path": "/attributes/n",
            },
        }


async def test_a_sub_path_streams_its_value_alone(ditto: Stack) -> None:
    async with an_event_stream(f"{ditto.api}/things/{PUMP}/attributes/n") as stream:
        await put(f"{ditto.api}/things/{PUMP}/attributes/m", 7)
        await set_n(ditto, 5)
        assert await stream.json() == 5


async def test_a_filter_lets_through_what_matches(ditto: Stack) -> None:
    async with an_event_stream(f"{ditto.api}/things?filter=gt(attributes/n,5)") as stream:
        await set_n(ditto, 2)
        await set_n(ditto, 9)
        assert (await stream.json())["attributes"] == {"n": 9}


async def test_messages_are_events_named_by_their_subject(ditto: Stack) -> None:
    async with an_event_stream(f"{ditto.api}/things/{PUMP}/inbox/messages") as stream:
        url = f"{ditto.api}/things/{PUMP}/inbox/messages/hello?timeout=0"
        await curl("-X", "POST", url, "-H", "Content-Type: text/plain", "-d", "hi\nthere")
        assert await stream.event() == ("hello", "hi\nthere")
    async with an_event_stream(f"{ditto.api}/things/{PUMP}/inbox/messages/one") as stream:
        for subject in ("two", "one"):
            box = f"{ditto.api}/things/{PUMP}/inbox/messages"
            await curl("-X", "POST", f"{box}/{subject}?timeout=0", "-d", subject)
        assert (await stream.event())[0] == "one"


async def test_past_changes_are_streamed_and_the_stream_ends(ditto: Stack) -> None:
    for value in (2, 3, 4):
        await set_n(ditto, value)
    history = "from-historical-revision=2&to-historical-revision=3&fields=_revision,attributes"
    found = await curl(*SSE, f"{ditto.api}/things/{PUMP}?{history}")
    lines = [line for line in found.body.splitlines() if line.startswith("data:")]
    assert lines == [
        'data:{"_revision":2,"attributes":{"n":2}}',
        'data:{"_revision":3,"attributes":{"n":3}}',
    ]
    newest = await curl(
        *SSE, f"{ditto.api}/things/{PUMP}?from-historical-revision=-1&fields=_revision"
    )
    assert [line for line in newest.body.splitlines() if line.startswith("data:")] == [
        'data:{"_revision":4}'
    ]
    bad = await curl(*SSE, f"{ditto.api}/things/{PUMP}?from-historical-revision=x")
    assert bad.status == 400


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/things/{PUMP}?filter=eq(", 400, "rql.expression.invalid"),
        (f"/things/{PUMP}?fields=nope", 400, "things:field.selection.invalid"),
        ("/things/org.acme:nobody", 404, "things:thing.notfound"),
        (f"/things/{PUMP}/nope", 404, "signals.commands:path.unknown"),
    ],
)
async def test_errors_come_before_the_stream(
    ditto: Stack, path: str, status: int, code: str
) -> None:
    found = await curl("-g", *SSE, f"{ditto.api}{path}")
    assert (found.status, found.error) == (status, code)


async def test_a_wildcard_accept_is_no_stream(ditto: Stack) -> None:
    found = await curl("-H", "Accept: */*", f"{ditto.api}/things/{PUMP}")
    assert found.json["thingId"] == PUMP


async def test_a_stream_that_its_reader_left_is_forgotten(ditto: Stack) -> None:
    gauge = {"name": "twinspan_stream_sessions", "kind": "sse"}
    async with an_event_stream(f"{ditto.api}/things"):
        assert ditto.sample(**gauge) == 1
    await until(lambda: ditto.sample(**gauge) == 0)


async def test_sessions_are_counted_and_limited() -> None:
    settings = DittoWebSocket(max_sessions=1)
    async with a_ditto(websocket=settings) as ditto, an_event_stream(f"{ditto.api}/things"):
        found = await curl(*SSE, f"{ditto.api}/things")
        assert (found.status, found.error) == (503, "service.unavailable")


async def test_a_stream_that_is_not_read_is_cut_and_the_others_go_on() -> None:
    async with a_ditto(websocket=DittoWebSocket(outbound_buffer=3)) as ditto:
        await put(f"{ditto.api}/things/{PUMP}", {})
        host, _, port = ditto.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1_024)
        token = b64encode(b"ditto:ditto").decode()
        writer.write(
            f"GET /api/2/things HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n"
            "Accept: text/event-stream\r\n\r\n".encode()
        )
        await reader.readuntil(b":\n\n")
        dropped = {"name": "twinspan_stream_sessions_dropped_total", "kind": "sse"}
        async with an_event_stream(f"{ditto.api}/things") as quick:
            for at in range(300):
                await set_n(ditto, f"{at}{'x' * 80_000}")
                assert (await quick.json())["attributes"]["n"].startswith(str(at))
                if ditto.sample(**dropped):
                    break
            await until(
                lambda: ditto.sample("twinspan_stream_sessions", kind="sse") == 1,
            )
        assert ditto.sample(**dropped) == 1
        writer.close()


async def a_fleet(ditto: Stack, count: int) -> None:
    for n in range(count):
        await put(f"{ditto.api}/things/org.acme:s{n}", {"attributes": {"n": n, "odd": n % 2}})


def streamed(body: str) -> list[tuple[str, Any]]:
    """Ids and data of the events in a finished stream."""
    found = []
    for event in body.split("\n\n"):
        lines = dict(line.split(":", 1) for line in event.split("\n") if line.strip(":"))
        if "data" in lines:
            found.append((lines.get("id", ""), json.loads(lines["data"])))
    return found


async def test_a_search_streams_all_its_hits_in_order_and_ends(ditto: Stack) -> None:
    await a_fleet(ditto, 9)
    query = "filter=gt(attributes/n,1)&option=sort(-attributes/n),size(2)&fields=attributes/n"
    found = await curl("-g", *SSE, f"{ditto.api}/search/things?{query}")
    assert (found.status, found.headers["content-type"]) == (200, "text/event-stream")
    expected = [(f"org.acme:s{n}", {"attributes": {"n": n}}) for n in range(8, 1, -1)]
    assert streamed(found.body) == expected


@pytest.mark.parametrize("sort", ["", "sort(-attributes/odd,+attributes/n)", "sort(-thingId)"])
async def test_a_search_stream_goes_on_after_the_last_event(ditto: Stack, sort: str) -> None:
    await a_fleet(ditto, 9)
    options = f"size(3){',' if sort else ''}{sort}"
    url = f"{ditto.api}/search/things?filter=exists(attributes/odd)&option={options}&fields=thingId"
    whole = streamed((await curl("-g", *SSE, url)).body)
    assert len(whole) == 9
    last = whole[3][0]
    rest = await curl("-g", *SSE, "-H", f"Last-Event-ID: {last}", url)
    assert streamed(rest.body) == whole[4:]
    end = await curl("-g", *SSE, "-H", f"Last-Event-ID: {whole[-1][0]}", url)
    assert (end.status, streamed(end.body)) == (200, [])


@pytest.mark.parametrize(
    ("query", "header", "status", "code"),
    [
        ("option=limit(0,2)", "", 400, "thing-search:search.option.invalid"),
        ("option=cursor(x)", "", 400, "thing-search:search.option.invalid"),
        ("filter=eq(", "", 400, "rql.expression.invalid"),
        ("option=sort(-attributes/n)", "org.acme:none", 404, "things:thing.notfound"),
        ("", "no id", 400, "things:id.invalid"),
    ],
)
async def test_a_search_stream_is_refused_before_it_starts(
    ditto: Stack, query: str, header: str, status: int, code: str
) -> None:
    more = ["-H", f"Last-Event-ID: {header}"] if header else []
    found = await curl("-g", *SSE, *more, f"{ditto.api}/search/things?{query}")
    assert (found.status, found.error) == (status, code)


UI_FIELDS = (
    "thingId,policyId,definition,attributes,features,_revision,_created,_modified,_metadata,"
    "_context/topic,_context/path,_context/value"
)


async def test_what_the_user_interface_asks_for(ditto: Stack) -> None:
    url = f"{ditto.api}/things?ids={PUMP},org.acme:none&fields={UI_FIELDS}&extraFields=policyId"
    created = (await curl(f"{ditto.api}/things/{PUMP}?fields=_created")).json["_created"]
    async with an_event_stream(url) as stream:
        unit = '[{"key":"unit","value":"1/min"}]'
        await put(f"{ditto.api}/things/{PUMP}/attributes/n", 2, "-H", f"put-metadata: {unit}")
        seen = await stream.json()
        modified = seen.pop("_modified")
        assert modified >= seen.pop("_created") == created
        assert seen == {
            "thingId": PUMP,
            "policyId": PUMP,
            "attributes": {"n": 2},
            "_revision": 2,
            "_metadata": {"attributes": {"n": {"unit": "1/min"}}},
            "_context": {
                "topic": "org.acme/pump-1/things/twin/events/modified",
                "path": "/attributes/n",
                "value": 2,
            },
        }
        await set_n(ditto, 3)
        assert "_metadata" not in await stream.json()
        await curl("-X", "DELETE", f"{ditto.api}/things/{PUMP}")
        gone = await stream.json()
        assert gone["_context"] == {
            "topic": "org.acme/pump-1/things/twin/events/deleted",
            "path": "/",
        }
    history = f"{ditto.api}/things/{PUMP}?fields=_metadata/attributes,_revision"
    await put(f"{ditto.api}/things/{PUMP}", {"policyId": PUMP})
    found = await curl(*SSE, f"{history}&from-historical-revision=2&to-historical-revision=2")
    assert '"_metadata":{"attributes":{"n":{"unit":"1/min"}}}' in found.body


async def test_metadata_is_seen_by_who_may_read_the_value(ditto: Stack) -> None:
    entry = {
        "subjects": {"nginx:alice": {"type": "user"}},
        "resources": {"thing:/attributes/public": {"grant": ["READ"], "revoke": []}},
    }
    await put(f"{ditto.api}/policies/{PUMP}/entries/alice", entry)
    url = f"{ditto.api}/things/{PUMP}?fields=thingId,_metadata"
    async with an_event_stream(url, "alice:wonder") as stream:
        for name in ("secret", "public"):
            unit = '[{"key":"unit","value":"m"}]'
            path = f"{ditto.api}/things/{PUMP}/attributes/{name}"
            await put(path, 1, "-H", f"put-metadata: {unit}")
        seen = await stream.json()
        assert seen == {"thingId": PUMP, "_metadata": {"attributes": {"public": {"unit": "m"}}}}


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("application/json", '{ "a" : [1,\n2] }', '{"a":[1,2]}'),
        ("application/vnd.x+json", "[ ]", "[]"),
        ("application/json", "{broken", "{broken"),
        ("text/plain", "a b", "a b"),
    ],
)
async def test_messages_are_their_text(
    ditto: Stack, content_type: str, body: str, data: str
) -> None:
    async with an_event_stream(f"{ditto.api}/things/{PUMP}/inbox/messages") as stream:
        url = f"{ditto.api}/things/{PUMP}/inbox/messages/hello?timeout=0"
        sent = ["-H", f"Content-Type: {content_type}", "--data-binary", body]
        assert (await curl("-X", "POST", url, *sent)).status == 202
        assert await stream.event() == ("hello", data)


async def test_ids_have_to_be_ids(ditto: Stack) -> None:
    found = await curl(*SSE, f"{ditto.api}/things?ids={PUMP},nonsense")
    assert (found.status, found.error) == (400, "things:id.invalid")


async def test_what_fails_later_is_told_in_the_stream(
    ditto: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: object) -> object:
        raise StoreUnavailable("disk gone")

    monkeypatch.setattr(ditto.things, "history", fail)
    found = await curl(*SSE, f"{ditto.api}/things/{PUMP}?from-historical-revision=1")
    assert found.status == 200
    (line,) = [one for one in found.body.splitlines() if one.startswith("data:")]
    assert json.loads(line.removeprefix("data:"))["status"] == 503


async def test_a_stream_ends_with_its_token(provider: Provider) -> None:
    issuer = OpenIdIssuer(name="acme", issuer=provider.issuer)
    async with a_ditto(openid=(issuer,)) as ditto:
        soon = provider.token(exp=time.time() - 1)  # over already, and within the leeway
        found = await curl(*SSE, f"{ditto.api}/things?access_token={soon}", user="")
    (line,) = [one for one in found.body.splitlines() if one.startswith("data:")]
    error = json.loads(line.removeprefix("data:"))
    assert (error["status"], error["error"]) == (401, "gateway:websocket.session.expired")
