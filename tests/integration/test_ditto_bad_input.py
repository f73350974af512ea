"""Input that wants to do harm: the right refusal, soon, and everything works on afterwards.

Each case has `SECONDS` to be answered; what blocks the service for longer fails.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from tests.ditto_rig import PUMP, Stack, WsClient, a_websocket
from tests.hono_rig import basic
from tests.openapi_rig import with_connections

SECONDS = 20.0
THING = f"/api/2/things/{PUMP}"
ATTRIBUTE = f"{THING}/attributes/a"
SEARCH = "/api/2/search/things"
JSON, MERGE, PATCH = (
    "application/json",
    "application/merge-patch+json",
    "application/json-patch+json",
)
FORM = "application/x-www-form-urlencoded"
ME, OPERATOR = basic("ditto", "ditto"), basic("devops", "foobar")


@dataclass
class Asker:
    """Sends what ordinary clients would not."""

    ditto: Stack
    session: aiohttp.ClientSession

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        media_type: str = JSON,
        **headers: str,
    ) -> tuple[int, str]:
        """Status and error code; without a code for success."""
        sent = {**(OPERATOR if path.startswith("/devops") else ME), **headers}
        if body is not None:
            sent["Content-Type"] = media_type
        url = URL(self.ditto.url + path, encoded=True)
        async with (
            asyncio.timeout(SECONDS),
            self.session.request(method, url, data=body, headers=sent) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text)["error"] if answer.status >= 400 else ""

    async def read(self, path: str) -> Any:
        async with self.session.get(self.ditto.url + path, headers=ME) as answer:
            return await answer.json()


@pytest.fixture
async def asker() -> AsyncIterator[Asker]:
    async with with_connections() as ditto, aiohttp.ClientSession() as session:
        asking = Asker(ditto, session)
        text = "a" * 60
        thing = {"attributes": {"s": text, "big": "x" * 50_000}, "features": {"f": {}}}
        assert await asking.ask("PUT", THING, json.dumps(thing)) == (201, "")
        yield asking
        assert await asking.ask("PUT", ATTRIBUTE, "7") in ((201, ""), (204, ""))
        assert await asking.read(ATTRIBUTE) == 7


# --- JSON --------------------------------------------------------------------------------------


def nested(depth: int, opening: str = "[", closing: str = "]", core: str = "") -> str:
    return opening * depth + core + closing * depth


DEEP = [
    ("PUT", nested(63), JSON, 201, ""),
    ("PUT", nested(64), JSON, 400, "json.invalid"),
    ("PUT", nested(1_000), JSON, 400, "json.invalid"),
    ("PUT", nested(130_000), JSON, 400, "json.invalid"),
    ("PUT", "[" * 200_000, JSON, 400, "json.invalid"),
    ("PUT", nested(63, '{"a":', "}", "1"), JSON, 201, ""),
    ("PUT", nested(64, '{"a":', "}", "1"), JSON, 400, "json.invalid"),
    ("PUT", nested(20_000, '{"a":', "}", "1"), JSON, 400, "json.invalid"),
    ("PUT", nested(50_000, '{"a":', "}", "1"), JSON, 413, "too.large"),
    ("PATCH", nested(63, '{"a":', "}", "1"), MERGE, 204, ""),
    ("PATCH", nested(100, '{"a":', "}", "1"), MERGE, 400, "things:merge.invalid"),
    ("PATCH", nested(20_000, '{"a":', "}", "1"), MERGE, 400, "json.invalid"),
    ("PATCH", nested(20_000), PATCH, 400, "json.invalid"),
]


@pytest.mark.parametrize(
    ("method", "body", "media_type", "status", "code"),
    DEEP,
    ids=[f"{method} {len(body)} {body[:6]}" for method, body, *_ in DEEP],
)
async def test_json_is_as_deep_as_it_may_be(
    asker: Asker, method: str, body: str, media_type: str, status: int, code: str
) -> None:
    assert await asker.ask(method, ATTRIBUTE, body, media_type) == (status, code)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":1,"a":2}', {"a": 2}),
        (b"1e308", 1e308),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775809", -(2**63) - 1),
        (b"1" * 400, int("1" * 400)),
        (b'"\\u0000"', "\x00"),
        (b'"\\uD83D\\uDE00"', "\N{GRINNING FACE}"),
        (b" \t\r\n1 ", 1),
    ],
)
async def test_odd_json_is_kept_as_it_means(asker: Asker, body: bytes, value: Any) -> None:
    assert await asker.ask("PUT", ATTRIBUTE, body) == (201, "")
    assert await asker.read(ATTRIBUTE) == value


@pytest.mark.parametrize(
    "body",
    [
        b"NaN",
        b"Infinity",
        b"[-Infinity]",
        b"1e400",
        b"-1.7976931348623157e309",
        b"1" * 5_000,
        b'"\\ud800"',
        b'{"\\ud800":1}',
        b'"\x00"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        b"\xff\xfe1\x00",
        b"\xef\xbb\xbf1",
        b"01",
        b"1.",
        b"+1",
        b"tru",
        b'""x',
        b"'a'",
        b'{"a":1,}',
        b"/**/1",
        b"",
    ],
)
async def test_what_is_no_json_is_refused(asker: Asker, body: bytes) -> None:
    assert await asker.ask("PUT", ATTRIBUTE, body) == (400, "json.invalid")


@pytest.mark.parametrize(
    ("path", "body", "media_type", "status", "code"),
    [
        (f"{THING}/attributes/big", json.dumps("x" * 110_000), JSON, 413, "things:thing.toolarge"),
        (ATTRIBUTE, json.dumps("x" * 300_000), JSON, 413, "too.large"),
        (f"{THING}/attributes", '{"": 1}', JSON, 400, "json.key.invalid"),
        (f"{THING}/attributes", '{"a/b": 1}', JSON, 400, "json.key.invalid"),
        (f"{THING}/attributes", '{"a": {"b\\u0001": 1}}', JSON, 400, "json.key.invalid"),
    ],
)
async def test_values_have_their_limits(
    asker: Asker, path: str, body: str, media_type: str, status: int, code: str
) -> None:
    assert await asker.ask("PUT", path, body, media_type) == (status, code)


# --- pointers and ids --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pointer", "status", "code"),
    [
        ("a~0b", 201, ""),
        ("a~1b", 400, "json.key.invalid"),
        ("a~2", 400, "json.pointer.invalid"),
        ("~", 400, "json.pointer.invalid"),
        ("%7E", 400, "json.pointer.invalid"),
        ("a%00b", 400, "json.key.invalid"),
        ("%0A", 400, "json.key.invalid"),
        ("a%2Fb", 201, ""),
        ("a%2F%2Fb", 400, "json.pointer.invalid"),
        ("a//b", 400, "json.pointer.invalid"),
        ("%ED%A0%80", 400, "json.pointer.invalid"),
        ("%ff", 400, "json.pointer.invalid"),
        ("x" * 300, 201, ""),
        ("/".join("a" * 63), 201, ""),
        ("/".join("a" * 64), 400, "json.pointer.invalid"),
        ("/".join("a" * 3_000), 400, "json.pointer.invalid"),
        ("%7B%7Bx%7D%7D", 201, ""),
        ("..", 201, ""),
        ("*", 201, ""),
    ],
)
async def test_pointers_have_their_form(asker: Asker, pointer: str, status: int, code: str) -> None:
    assert await asker.ask("PUT", f"{THING}/attributes/{pointer}", "1") == (status, code)


async def test_the_deepest_thing_that_can_be_made_can_be_used(asker: Asker) -> None:
    """A path makes objects on its way; what it makes must not be too deep for anything later."""
    path = f"{THING}/attributes/{'/'.join('d' * 60)}"
    assert await asker.ask("PUT", path, nested(5, '{"d":', "}", "1")) == (400, "json.invalid")
    assert await asker.ask("PUT", path, nested(4, '{"d":', "}", "1")) == (201, "")
    for read in (
        THING,
        path,
        f"{THING}?fields=attributes",
        f"{SEARCH}?filter=exists(attributes/d)",
    ):
        assert await asker.ask("GET", read) == (200, ""), read
    whole = await asker.read(THING)
    assert await asker.ask("PATCH", f"{THING}/attributes", '{"d": {"e": 1}}', MERGE) == (204, "")
    patch = json.dumps([{"op": "remove", "path": "/attributes/d"}])
    assert await asker.ask("PATCH", THING, patch, PATCH) == (204, "")
    assert await asker.ask("PUT", THING, json.dumps(whole)) == (204, "")


@pytest.mark.parametrize(
    ("name", "is_good"),
    [
        ("a:" + "b" * 254, True),
        ("a:" + "b" * 255, False),
        ("x" * 1_000, False),
        (":a", True),
        ("a:", False),
        (":", False),
        ("a:b:c", True),
        ("a.b-c:d", True),
        ("a_b:c", True),
        ("1a:b", False),
        ("a..b:c", False),
        ("a.:c", False),
        ("_:x", False),
        ("a%20b:c", False),
        ("a:b%20c", True),
        ("a:%00", False),
        ("a:%7F", False),
        ("a:%C3%A9", False),
        ("a:%E2%82%AC", True),
        ("a:%F0%9F%98%80", True),
        ("a:%25", True),
        ("a:%5C", True),
        ("a:*", True),
    ],
)
async def test_ids_are_taken_up_to_their_limits(asker: Asker, name: str, is_good: bool) -> None:
    rights = {"grant": ["READ", "WRITE"], "revoke": []}
    owner = {"subjects": {"nginx:ditto": {"type": "x"}}, "resources": {"policy:/": rights}}
    policy = json.dumps({"entries": {"owner": owner}})
    for kind, body in (("things", "{}"), ("policies", policy)):
        status, code = await asker.ask("PUT", f"/api/2/{kind}/{name}", body)
        assert (status in (201, 204), code) == (is_good, "" if is_good else f"{kind}:id.invalid")


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/entries/x/resources/thing:/" + "a/" * 3_000 + "b", "{}", "json.pointer.invalid"),
        ("/entries/x/resources/thing:/a~2", "{}", "json.pointer.invalid"),
        ("/entries/%00", "{}", "policies:label.invalid"),
        ("/entries/x/subjects/" + "s" * 3_000, '{"type": 1}', "policies:subjectid.invalid"),
        ("/entries", nested(3_000), "json.invalid"),
    ],
)
async def test_parts_of_policies_have_their_form(
    asker: Asker, path: str, body: str, code: str
) -> None:
    assert await asker.ask("PUT", f"/api/2/policies/{PUMP}{path}", body) == (400, code)


# --- expressions -------------------------------------------------------------------------------

NOT_DEEP = "not(" * 300 + "eq(attributes/s,1)" + ")" * 300
RQL = {
    "deep": (NOT_DEEP, 400),
    "unclosed": ("and(" * 1_000, 400),
    "wide": ("or(" + ",".join(["eq(attributes/s,1)"] * 200) + ")", 200),
    "many stars": ('like(attributes/s,"' + "*a" * 40 + '*b")', 200),
    "many stars, any case": ('ilike(attributes/s,"' + "*A" * 40 + '*b")', 200),
    "many stars on much text": ('like(attributes/big,"' + "*x" * 40 + '*y")', 200),
    "many marks": ('like(attributes/s,"' + "?" * 200 + '")', 200),
    "deep property": ("eq(attributes/" + "a/" * 1_000 + "b,1)", 400),
    "NUL": ('eq(attributes/s,"\x00")', 200),
    "no such time": ("gt(_modified,time:now-99999999999999999999d)", 400),
    "early time": ("gt(_modified,time:now-9999y)", 200),
}


@pytest.mark.parametrize("case", RQL)
async def test_filters_are_harmless(asker: Asker, case: str) -> None:
    text, status = RQL[case]
    form = f"filter={quote(text)}"
    for method, path, body in (
        ("GET", f"{SEARCH}?{form}", None),
        ("POST", SEARCH, form),
        ("POST", f"{SEARCH}/count", form),
    ):
        found, code = await asker.ask(method, path, body, FORM)
        assert found == status, (method, path[:60], code)
    condition = await asker.ask("GET", f"{THING}/attributes/s?condition={quote(text)}")
    assert condition[0] in ((400,) if status == 400 else (200, 412))


@pytest.mark.parametrize("count", [500, 5_000])
async def test_patterns_of_any_length_are_answered(asker: Asker, count: int) -> None:
    form = "filter=" + quote('like(attributes/big,"' + "*x" * count + '*y")')
    status, _ = await asker.ask("POST", SEARCH, form, FORM)
    assert status in (200, 400)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("option=size(0)", 400, "thing-search:search.option.invalid"),
        ("option=size(201)", 400, "thing-search:search.option.invalid"),
        ("option=size(99999999999999999999)", 400, "thing-search:search.option.invalid"),
        ("option=limit(-1,1)", 400, "thing-search:search.option.invalid"),
        ("option=limit(99999999999999999999,1)", 400, "thing-search:search.option.invalid"),
        ("option=cursor(" + "A" * 4_000 + ")", 400, "thing-search:search.option.invalid"),
        ("option=sort(" + "%2Ba," * 500 + "%2Ba)", 400, "thing-search:search.option.invalid"),
        ("option=sort(%2Battributes/" + "a/" * 500 + "b)", 400, "json.pointer.invalid"),
        ("namespaces=%00", 400, "thing-search:search.namespaces.invalid"),
        ("namespaces=" + "a," * 2_000, 200, ""),
        ("fields=" + "a(" * 2_000 + "b" + ")" * 2_000, 400, "json.fieldselector.invalid"),
        ("fields=" + "a," * 3_000 + "a", 200, ""),
        ("fields=" + "*" * 500, 200, ""),
        ("filter=%ff", 400, "uri.invalid"),
    ],
)
async def test_options_of_searches_are_harmless(
    asker: Asker, query: str, status: int, code: str
) -> None:
    assert await asker.ask("GET", f"{SEARCH}?{query}") == (status, code)


@pytest.mark.parametrize(
    "body", [b"filter=\xff", b"filter=%ff", "&".join(f"f{at}=1" for at in range(5_000))]
)
async def test_broken_forms_are_refused(asker: Asker, body: bytes | str) -> None:
    assert (await asker.ask("POST", SEARCH, body, FORM))[0] == 400


# --- patches -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    ["(a+)+$", ".*a.*a.*a.*a.*b", "a?" * 100 + "a" * 100, "[", "(?=a)", "(a)\\1", "x" * 10_000],
)
async def test_regular_expressions_in_merges_are_harmless(asker: Asker, key: str) -> None:
    body = json.dumps({f"{{{{ ~{key}~ }}}}": None})
    refused = await asker.ask("PATCH", f"{THING}/attributes", body, MERGE)
    assert refused == (400, "things:merge.invalid")


@pytest.mark.parametrize(
    ("operations", "status"),
    [
        ([{"op": "add", "path": "/attributes/n", "value": 1}] * 5_000, 400),
        (
            [{"op": "copy", "from": "/attributes", "path": f"/attributes/c{n}"} for n in range(30)],
            413,
        ),
        ([{"op": "add", "path": "/attributes" + "/a" * 3_000, "value": 1}], 400),
        ([{"op": "test", "path": "/attributes/s", "value": "b"}], 412),
    ],
    ids=["many", "growing", "deep", "test"],
)
async def test_json_patches_are_harmless(asker: Asker, operations: Any, status: int) -> None:
    assert (await asker.ask("PATCH", THING, json.dumps(operations), PATCH))[0] == status


# --- headers -----------------------------------------------------------------------------------

HEADERS = {
    "put-metadata": ("[" * 2_000, "header.invalid"),
    "delete-metadata": ("/".join("*" * 500), "json.pointer.invalid"),
    "merge-thing-patch-conditions": ("{" * 2_000, "header.invalid"),
    "requested-acks": (",".join(f"ack{at}" for at in range(500)), "header.invalid"),
    "if-none-match": ("*" * 3_000, "header.invalid"),
    "condition": ("not(" * 900, "things:condition.invalid"),
    "timeout": ("9" * 4_000, "header.invalid"),
}


@pytest.mark.parametrize("name", HEADERS)
async def test_headers_are_harmless(asker: Asker, name: str) -> None:
    value, code = HEADERS[name]
    told = await asker.ask("PATCH", f"{THING}/attributes/s", '"b"', MERGE, **{name: value})
    assert told == (400, code)


async def test_metadata_as_deep_as_a_pointer_is_taken_and_read(asker: Asker) -> None:
    for count, status in ((60, 204), (500, 400)):
        value = json.dumps([{"key": "/".join("m" * count), "value": 1}])
        told = await asker.ask("PUT", f"{THING}/attributes/s", '"b"', **{"put-metadata": value})
        assert told[0] == status
    assert await asker.ask("GET", f"{THING}?fields=_metadata") == (200, "")


# --- messages, cloud events, operators ---------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "status"),
    [("a%00", 400), ("%0A", 400), ("a//b", 400), ("", 400), ("%E2%80%AE", 400), ("a" * 3_000, 202)],
)
async def test_subjects_of_messages_have_their_form(
    asker: Asker, subject: str, status: int
) -> None:
    path = f"{THING}/inbox/messages/{subject}?timeout=0"
    assert (await asker.ask("POST", path, b"\xff\xfe", "text/plain"))[0] == status


async def test_a_message_over_its_limit_is_refused(asker: Asker) -> None:
    path = f"{THING}/inbox/messages/a?timeout=0"
    told = await asker.ask("POST", path, b"x" * 260_000, "application/octet-stream")
    assert told == (413, "messages:payload.toolarge")


VALUES = {
    "lone surrogate": ('"\\ud800"', "json.invalid"),
    "too great": ("1e400", "json.invalid"),
    "too long a number": ("9" * 5_000, "json.invalid"),
    "too deep": (nested(3_000), "json.invalid"),
    "no number": ("NaN", "json.invalid"),
}


@pytest.mark.parametrize("case", VALUES)
async def test_values_of_the_protocol_are_judged_as_bodies_are(asker: Asker, case: str) -> None:
    value, code = VALUES[case]
    topic = "org.acme/pump-1/things/twin/commands/modify"
    message = f'{{"topic":"{topic}","path":"/attributes/s","value":{value}}}'
    event = {f"ce-{name}": "1.0" for name in ("specversion", "id", "source", "type")}
    assert await asker.ask("POST", "/api/2/cloudevents", message, **event) == (400, code)
    async with a_websocket(asker.ditto) as socket:
        assert (await told(socket, message))["error"] == code


async def told(socket: WsClient, message: str) -> dict[str, Any]:
    await socket.socket.send_str(message)
    value: dict[str, Any] = (await socket.envelope())["value"]
    return value


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/2/checkPermissions", nested(9_999), 400),
        ("/api/2/checkPermissions", json.dumps({str(at): {} for at in range(2_000)}), 400),
        ("/devops/piggyback", nested(5_000), 400),
        ("/devops/piggyback", '{"piggybackCommand": {"type": "' + "x" * 100_000 + '"}}', 501),
    ],
)
async def test_other_bodies_are_harmless(asker: Asker, path: str, body: str, status: int) -> None:
    assert (await asker.ask("POST", path, body))[0] == status
