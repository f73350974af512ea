"""What is no request, no path, no method or no header: always an error in Ditto's form, never plain text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.ditto_rig import PUMP, Stack, a_ditto, curl, json_body, put

ME = "Authorization: Basic ZGl0dG86ZGl0dG8=\r\n"
HEAD = f"Host: x\r\n{ME}"
THING = f"/api/2/things/{PUMP}"
EVERY_METHOD = "GET, PUT, POST, PATCH, DELETE, HEAD, OPTIONS"


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto(cors_origins=("https://ui.example",)) as stack:
        assert (await put(f"{stack.api}/things/{PUMP}", {})).status == 201
        yield stack


@dataclass(frozen=True)
class Told:
    """What the server wrote to a socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        told: dict[str, Any] = json.loads(self.body)
        assert told["status"] == self.status
        assert told["message"]
        assert self.headers["content-type"] == "application/json"
        return str(told["error"])


async def exchange(ditto: Stack, request: str | bytes) -> Told:
    """Send bytes as they are; read one answer."""
    host, _, port = ditto.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request if isinstance(request, bytes) else request.encode("latin-1"))
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in head[1:])}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
    finally:
        writer.close()
    return Told(int(head[0].split()[1]), headers, body)


def get(target: str, more: str = "") -> str:
    return f"GET {target} HTTP/1.1\r\n{HEAD}{more}\r\n"


def put_with(more: str, body: str = "{}") -> str:
    return f"PUT {THING} HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n{more}\r\n{body}"


BROKEN = {
    "no HTTP at all": ("hello\r\n\r\n", 400, "bad.request"),
    "unknown version": ("GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400, "bad.request"),
    "unknown method": (f"BREW {THING} HTTP/1.1\r\n{HEAD}\r\n", 405, "gateway:method.notallowed"),
    "no method": (f"GE{{T {THING} HTTP/1.1\r\n{HEAD}\r\n", 400, "bad.request"),
    "target over the URI's limit": (get("/api/2/things/" + "a" * 9_000), 414, "uri.toolong"),
    "target over the line's limit": (get("/api/2/things/" + "a" * 20_000), 414, "uri.toolong"),
    "long header": (get(THING, f"x: {'a' * 20_000}\r\n"), 431, "headers.too.large"),
    "long header name": (get(THING, f"{'x' * 20_000}: a\r\n"), 431, "headers.too.large"),
    "10 MB header": (get(THING, f"x: {'a' * 10_000_000}\r\n"), 431, "headers.too.large"),
    "6 kB of headers": (
        get(THING, "".join(f"x{i}: {'a' * 3_000}\r\n" for i in range(2))),
        431,
        "headers.too.large",
    ),
    "70 headers": (
        get(THING, "".join(f"x{i}: a\r\n" for i in range(70))),
        431,
        "headers.too.large",
    ),
    "1,000 headers": (
        get(THING, "".join(f"x{i}: a\r\n" for i in range(1_000))),
        431,
        "headers.too.large",
    ),
    "blank in a header name": (get(THING, "b ad: 1\r\n"), 400, "bad.request"),
    "no colon": (get(THING, "bad\r\n"), 400, "bad.request"),
    "NUL in a header": (get(THING, "x: a\0b\r\n"), 400, "bad.request"),
    "header that is no UTF-8": (get(THING, "x: \xff\r\n"), 400, "header.invalid"),
    "no host": (f"GET {THING} HTTP/1.1\r\n{ME}\r\n", 400, "bad.request"),
    "host that is none": (
        f"GET {THING} HTTP/1.1\r\nHost: a b/c\r\n{ME}\r\n",
        400,
        "header.invalid",
    ),
    "two lengths": (
        put_with("Content-Length: 2\r\nContent-Length: 3\r\n"),
        400,
        "bad.request",
    ),
    "negative length": (put_with("Content-Length: -2\r\n"), 400, "bad.request"),
    "endless length": (put_with(f"Content-Length: {'9' * 30}\r\n"), 400, "bad.request"),
    "length and chunks": (
        put_with("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        400,
        "bad.request",
    ),
    "broken chunk": (
        put_with("Transfer-Encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n"),
        400,
        "bad.request",
    ),
    "body over its limit": (put_with("Content-Length: 300000\r\n"), 413, "too.large"),
    "body that is no gzip": (
        put_with("Content-Encoding: gzip\r\nContent-Length: 2\r\n"),
        400,
        "bad.request",
    ),
    "other expectation": (get(THING, "Expect: magic\r\n"), 417, "rejected"),
    "half an escape in the path": (get("/api/2/things/%zz"), 400, "uri.invalid"),
    "half an escape in the query": (get(f"{THING}?fields=%"), 400, "uri.invalid"),
    "query that is no UTF-8": (get(f"{THING}?fields=%ff"), 400, "uri.invalid"),
    "path that is no UTF-8": (get("/api/2/things/%ff"), 400, "json.pointer.invalid"),
    "raw bytes in the path": (get("/api/2/things/a:\xe9"), 400, "bad.request"),
    "target that is no URI": (get("http://[::1/api/2/whoami"), 400, "bad.request"),
    "unknown path": (get("/nowhere"), 404, "signals.commands:path.unknown"),
    "root": (get("/"), 404, "signals.commands:path.unknown"),
    "line feed in the path": (get("/no%0Awhere"), 404, "signals.commands:path.unknown"),
    "way out": (get("/api/2/../../etc/passwd"), 404, "signals.commands:path.unknown"),
    "asterisk": (f"OPTIONS * HTTP/1.1\r\n{HEAD}\r\n", 404, "signals.commands:path.unknown"),
    "authority": (f"CONNECT a:80 HTTP/1.1\r\n{HEAD}\r\n", 404, "signals.commands:path.unknown"),
    "other version of the API": (get("/api/1/things"), 404, "api.version.notsupported"),
    "other version of the socket": (get("/ws/3"), 404, "api.version.notsupported"),
    "no upgrade": (get("/ws/2"), 400, "header.invalid"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_what_is_no_request_is_refused_in_dittos_form(ditto: Stack, case: str) -> None:
    request, status, code = BROKEN[case]
    told = await exchange(ditto, request)
    assert (told.status, told.error) == (status, code)
    assert (await curl(f"{ditto.api}/whoami")).status == 200


async def test_a_method_that_does_not_exist_is_told_all_that_do(ditto: Stack) -> None:
    told = await exchange(ditto, f"BREW {THING} HTTP/1.1\r\n{HEAD}\r\n")
    assert told.headers["allow"] == EVERY_METHOD
    assert told.headers["correlation-id"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("TRACE", "/api/2/things", "GET, POST"),
        ("PROPFIND", THING, "GET, PUT, PATCH, DELETE"),
        ("POST", f"/api/2/policies/{PUMP}/entries", "GET, PUT"),
        ("PATCH", f"/api/2/policies/{PUMP}", "GET, PUT, DELETE"),
        ("GET", f"/api/2/policies/{PUMP}/actions/activateTokenIntegration", "POST"),
        ("GET", f"{THING}/inbox/messages/ask", "POST"),
        ("PUT", "/api/2/search/things", "GET, POST"),
        ("DELETE", "/api/2/whoami", "GET"),
        ("GET", "/api/2/checkPermissions", "POST"),
        ("GET", "/api/2/cloudevents", "POST"),
        ("POST", "/health", "GET"),
        ("POST", "/stats/things", "GET"),
    ],
)
async def test_a_wrong_method_names_the_right_ones(
    ditto: Stack, method: str, path: str, allow: str
) -> None:
    told = await exchange(ditto, f"{method} {path} HTTP/1.1\r\n{HEAD}Content-Length: 0\r\n\r\n")
    assert (told.status, told.error) == (405, "gateway:method.notallowed")
    assert told.headers["allow"] == allow


async def test_head_is_no_part_of_the_api(ditto: Stack) -> None:
    found = await curl("-I", f"{ditto.api}/things/{PUMP}")
    assert (found.status, found.body) == (405, "")


async def test_a_slash_at_the_end_says_nothing(ditto: Stack) -> None:
    for path in (
        "/api/2/whoami/",
        "/api/2/things/",
        f"{THING}/",
        "/api/2/search/things/",
        "/health/",
    ):
        assert (await curl(f"{ditto.url}{path}")).status == 200, path


async def test_a_body_is_called_for_when_its_sender_waits(ditto: Stack) -> None:
    body = json_body({"attributes": {"a": "x" * 2_000}})
    found = await curl("-X", "PUT", "-H", "Expect: 100-continue", f"{ditto.url}{THING}", *body)
    assert found.status == 204


async def test_a_caller_that_names_no_host_is_told_the_address_it_reached(ditto: Stack) -> None:
    body = b"{}"
    request = (
        f"PUT /api/2/things/org.acme:new HTTP/1.0\r\n{ME}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    told = await exchange(ditto, request.encode() + body)
    assert told.status == 201
    assert told.headers["location"] == f"{ditto.api}/things/org.acme:new"


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        ("channel: radio", 400, "header.invalid"),
        ("if-equal: maybe", 400, "header.invalid"),
        ("live-channel-timeout-strategy: hope", 400, "header.invalid"),
        ("response-required: perhaps", 400, "header.invalid"),
        ("timeout: soon", 400, "header.invalid"),
        ("timeout: 61", 400, "gateway:timeout.invalid"),
        ("requested-acks: a b", 400, "header.invalid"),
        ("if-match: rev:1", 400, "header.invalid"),
        ("at-historical-revision: first", 400, "header.invalid"),
        ("at-historical-timestamp: once", 400, "header.invalid"),
        ("dry-run: dry", 400, "header.invalid"),
    ],
)
@pytest.mark.parametrize("kind", ["things", "policies"])
async def test_known_headers_have_their_form_everywhere(
    ditto: Stack, kind: str, header: str, status: int, code: str
) -> None:
    found = await curl("-H", header, f"{ditto.api}/{kind}/{PUMP}")
    assert (found.status, found.error) == (status, code)


async def test_a_browsers_question_is_answered_for_known_origins_alone(ditto: Stack) -> None:
    asked = ["-X", "OPTIONS", "-H", "Access-Control-Request-Method: PUT"]
    known = await curl(*asked, "-H", "Origin: https://ui.example", f"{ditto.url}{THING}", user="")
    assert (known.status, known.body) == (204, "")
    assert known.headers["access-control-allow-origin"] == "https://ui.example"
    assert "PATCH" in known.headers["access-control-allow-methods"]
    other = await curl(*asked, "-H", "Origin: https://evil.example", f"{ditto.url}{THING}", user="")
    assert (other.status, other.error) == (401, "gateway:authentication.failed")
    assert "access-control-allow-origin" not in other.headers


async def test_a_refusal_is_told_to_browsers_too(ditto: Stack) -> None:
    found = await curl("-H", "Origin: https://ui.example", f"{ditto.api}/things/org.acme:nobody")
    assert (found.status, found.error) == (404, "things:thing.notfound")
    assert found.headers["access-control-allow-origin"] == "https://ui.example"


async def test_the_root_resource_of_an_entry_has_a_path(ditto: Stack) -> None:
    """Its key ends with a slash, as no other path does."""
    url = f"{ditto.api}/policies/{PUMP}/entries/DEFAULT/resources/thing:/"
    assert (await curl(url)).json == {"grant": ["READ", "WRITE"], "revoke": []}
    assert (await put(url, {"grant": ["READ"], "revoke": []})).status == 204
    assert (await curl("-X", "DELETE", url)).status == 204
    assert (await curl(url)).error == "policies:resource.notfound"
