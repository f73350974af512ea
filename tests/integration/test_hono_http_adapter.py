"""The HTTP adapter over real sockets: curl, aiohttp and bare TCP as devices."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.errors import ConsumerTimeout, NoConsumer, Rejected, StoreUnavailable
from gateway.model.message import (
    EMPTY_NOTIFICATION,
    Adapter,
    Command,
    CommandResponse,
    Kind,
)
from gateway.model.ports import Done
from tests.hono_rig import (
    DEVICE,
    GATEWAY,
    Core,
    a_core,
    a_fleet,
    an_http_adapter,
    basic,
    curl,
    until,
)

LOGIN = ":".join(DEVICE)
TEXT = {"Content-Type": "text/plain"}


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        await a_fleet(core)
        yield core


@pytest.fixture
async def url(core: Core) -> AsyncIterator[str]:
    async with an_http_adapter(core) as url:
        yield url


class Device:
    """A device on aiohttp."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def __call__(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._http.request(
            method, self._url + path, data=body, headers=named, skip_auto_headers=["Content-Type"]
        ) as response:
            lower = {name.lower(): value for name, value in response.headers.items()}
            return response.status, await response.read(), lower


@pytest.fixture
async def device(url: str) -> AsyncIterator[Device]:
    async with aiohttp.ClientSession(headers=basic(*DEVICE)) as http:
        yield Device(http, url)


@pytest.fixture
async def gateway(url: str) -> AsyncIterator[Device]:
    async with aiohttp.ClientSession(headers=basic(*GATEWAY)) as http:
        yield Device(http, url)


# --- uploads ---------------------------------------------------------------------------------------


async def test_curl_posts_telemetry(core: Core, url: str) -> None:
    status, body = await curl(
        "-u", LOGIN, "-H", "Content-Type: application/json", "-d", '{"t":5}', f"{url}/telemetry?a=b"
    )
    assert (status, body) == (202, "")
    (message,) = core.consumer.messages
    assert message.payload == b'{"t":5}'
    assert (message.tenant, message.device, message.kind, message.qos) == (
        "acme",
        "d1",
        Kind.TELEMETRY,
        0,
    )
    assert message.content_type == "application/json"
    assert (message.adapter, message.address) == ("hono-http", "/telemetry?a=b")


async def test_curl_posts_an_event_with_time_to_live(core: Core, url: str) -> None:
    status, _ = await curl(
        *("-u", LOGIN, "-H", "Content-Type:", "-H", "hono-ttl: 5"), "-d", "x", f"{url}/event"
    )
    assert status == 202
    (message,) = core.consumer.messages
    assert (message.kind, message.qos, message.ttl) == (Kind.EVENT, 1, 5)
    assert message.content_type == "application/octet-stream"


async def test_a_gateway_puts_for_its_device(core: Core, gateway: Device) -> None:
    for path in ("/telemetry/acme/d2", "/event//d2"):
        assert (await gateway("PUT", path, b"x", **TEXT))[0] == 202
    assert [(m.device, m.via) for m in core.consumer.messages] == [("d2", "gw-1")] * 2


async def test_the_trace_of_the_device_goes_on(core: Core, device: Device) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await device("POST", "/telemetry", b"x", traceparent=parent)
    (message,) = core.consumer.messages
    assert message.trace.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert message.trace.span_id != "b7ad6b7169203331"


async def test_qos_1_waits_for_the_outcome(core: Core, device: Device) -> None:
    held = core.consumer.hold()
    request = asyncio.ensure_future(device("POST", "/telemetry", b"x", qos_level="1"))
    await until(lambda: bool(held))
    assert not request.done()
    held[0](None)
    assert (await request)[0] == 202


@pytest.mark.parametrize(
    ("outcome", "status", "text"),
    [
        (NoConsumer(), 503, "no consumer available"),
        (ConsumerTimeout(), 503, ConsumerTimeout.default_message),
        (StoreUnavailable("disk is full at /secret"), 503, "temporarily unavailable"),
        (Rejected("bad content"), 400, "bad content"),
    ],
)
async def test_the_outcome_of_downstream_is_told(
    core: Core, device: Device, outcome: Any, status: int, text: str
) -> None:
    core.consumer.outcome = outcome
    got, body, headers = await device("POST", "/event", b"x")
    assert (got, body.decode()) == (status, f'{{"error":"{text}"}}')
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert headers.get("retry-after") == ("2" if status == 503 else None)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/telemetry", {"qos-level": "2"}, 400),
        ("POST", "/event", {"qos-level": "0"}, 400),
        ("POST", "/telemetry", {"content-type": EMPTY_NOTIFICATION}, 400),
        ("PUT", "/telemetry/other/d1", {}, 403),
        ("PUT", "/telemetry/acme/d2", {}, 403),
        ("PUT", "/telemetry/acme/nobody", {}, 404),
        ("PUT", "/telemetry", {}, 405),
        ("POST", "/telemetry/acme/d1", {}, 405),
        ("GET", "/telemetry", {}, 405),
        ("POST", "/telemetry", {"authorization": "Bearer abc"}, 401),
        ("POST", "/telemetry", {"authorization": "Basic abc"}, 401),
    ],
)
async def test_what_a_device_may_not_send_is_refused(
    core: Core, device: Device, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    assert (await device(method, path, b"x", **headers))[0] == status
    assert core.consumer.messages == []


async def test_an_empty_payload_needs_a_content_type(core: Core, device: Device) -> None:
    assert (await device("POST", "/telemetry"))[0] == 400
    assert (await device("POST", "/telemetry", content_type=EMPTY_NOTIFICATION))[0] == 202
    (message,) = core.consumer.messages
    assert message.content_type == EMPTY_NOTIFICATION


@pytest.mark.parametrize("path", ["/", "/nothing", "/telemetry/acme", "/telemetry/acme/", "/t"])
async def test_an_unknown_path_is_not_found_in_html(device: Device, path: str) -> None:
    status, body, headers = await device("POST", path, b"x")
    assert (status, body) == (404, b"<html><body><h1>Resource not found</h1></body></html>")
    assert headers["content-type"] == "text/html"


@pytest.mark.parametrize(
    "login", ["sensor1@acme:wrong", "nobody@acme:pw", "sensor1@nobody:pw", "sensor1:pw", ":"]
)
async def test_a_wrong_login_is_unauthorized(core: Core, url: str, login: str) -> None:
    status, _ = await curl("-u", login, "-d", "x", f"{url}/telemetry")
    assert status == 401
    status, headers = await curl("-D", "-", "-d", "x", f"{url}/telemetry")
    assert status == 401
    assert 'www-authenticate: basic realm="hono"' in headers.lower()


async def test_name_and_password_may_be_packed_into_the_name(url: str) -> None:
    packed = base64.b64encode(LOGIN.encode()).decode()
    assert (await curl("-u", f"{packed}:", "-d", "x", f"{url}/telemetry"))[0] == 202


async def test_without_authentication_a_put_names_tenant_and_device(core: Core) -> None:
    async with an_http_adapter(core, authentication_required=False) as url:
        put = ("-X", "PUT", "-d", "x")
        assert (await curl(*put, f"{url}/telemetry/acme/d1"))[0] == 202
        assert (await curl(*put, f"{url}/telemetry//d1"))[0] == 400
        assert (await curl("-d", "x", f"{url}/telemetry"))[0] == 401


async def test_preflight_and_cors_headers(device: Device) -> None:
    for path, method in (("/telemetry", "POST"), ("/event/acme/d1", "PUT")):
        status, _, headers = await device("OPTIONS", path, origin="http://a")
        assert status == 204
        assert headers["access-control-allow-origin"] == "*"
        assert headers["access-control-allow-methods"] == method
        assert "authorization" in headers["access-control-allow-headers"]
    _, _, headers = await device("POST", "/telemetry", b"x", origin="http://a")
    assert "hono-command" in headers["access-control-expose-headers"]


async def test_disabled_and_deleted_devices_are_refused_at_once(
    core: Core, device: Device, gateway: Device
) -> None:
    assert (await device("POST", "/event", b"x"))[0] == 202
    assert (await gateway("PUT", "/event//d2", b"x"))[0] == 202
    await core.registry.update_device("acme", "gw-1", {"enabled": False}, None)
    assert (await gateway("PUT", "/event//d2", b"x"))[0] == 403
    await core.registry.update_device("acme", "d1", {"enabled": False}, None)
    assert (await device("POST", "/event", b"x"))[0] == 404
    await core.registry.update_tenant("acme", {"enabled": False}, None)
    assert (await device("POST", "/event", b"x"))[0] == 403
    await core.registry.update_tenant("acme", {"adapters": [{"type": "hono-mqtt"}]}, None)
    await core.registry.update_device("acme", "d1", {}, None)
    status, body, _ = await device("POST", "/event", b"x")
    assert (status, body) == (403, b'{"error":"adapter is disabled"}')


async def test_a_changed_password_ends_the_old_one(core: Core, url: str) -> None:
    assert (await curl("-u", LOGIN, "-d", "x", f"{url}/event"))[0] == 202
    new = [{"type": "hashed-password", "auth-id": "sensor1", "secrets": [{"pwd-plain": "new"}]}]
    await core.registry.update_credentials("acme", "d1", new, None)  # type: ignore[arg-type]
    assert (await curl("-u", LOGIN, "-d", "x", f"{url}/event"))[0] == 401
    assert (await curl("-u", "sensor1@acme:new", "-d", "x", f"{url}/event"))[0] == 202


# --- commands --------------------------------------------------------------------------------------


def a_command(device: str = "d1", reply: bool = True) -> Command:
    return Command(
        tenant="acme",
        device=device,
        name="blink",
        payload=b"twice",
        content_type="text/plain",
        correlation_id="c1" if reply else None,
        reply_to="command_response/acme/app" if reply else None,
    )


class Application:
    """Waits for responses at reply address `app`."""

    def __init__(self) -> None:
        self.responses: list[CommandResponse] = []

    def owns(self, tenant: str, reply_id: str) -> bool:
        return (tenant, reply_id) == ("acme", "app")

    def take(self, response: CommandResponse, done: Done) -> None:
        self.responses.append(response)
        done(None)


async def test_a_command_travels_in_the_answer_and_its_response_comes_back(
    core: Core, device: Device
) -> None:
    app = Application()
    core.commands.add_sink(app)
    request = asyncio.ensure_future(device("POST", "/telemetry", b"x", hono_ttd="20"))
    await until(lambda: bool(core.consumer.messages))
    assert core.consumer.messages[0].ttd == 20
    outcomes: list[object] = []
    core.commands.route(a_command(), outcomes.append)
    core.commands.route(a_command(), outcomes.append)
    status, body, headers = await request
    assert (status, body) == (200, b"twice")
    assert headers["hono-command"] == "blink"
    assert headers["content-type"] == "text/plain"
    assert "hono-cmd-target-device" not in headers
    await until(lambda: len(outcomes) == 2)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], NoConsumer)

    request_id = headers["hono-cmd-req-id"]
    path = f"/command/res/{request_id}"
    assert (await device("POST", path, b"ok", hono_cmd_status="200"))[0] == 202
    assert (await device("POST", f"{path}?hono-cmd-status=404"))[0] == 202
    assert [(r.correlation_id, r.status, r.payload) for r in app.responses] == [
        ("c1", 200, b"ok"),
        ("c1", 404, b""),
    ]
    assert (
        core.sample(
            "hono_telemetry_processing_duration_seconds_count",
            tenant="acme",
            type="telemetry",
            status="forwarded",
            qos="0",
            ttd="command",
            component_name="hono-http",
        )
        == 1
    )


async def test_a_gateway_gets_commands_for_its_devices(core: Core, gateway: Device) -> None:
    for path, notification in (("/event", b""), ("/event//d2", b"x")):
        seen = len(core.consumer.messages)
        kind = {} if notification else {"content_type": EMPTY_NOTIFICATION}
        method = "PUT" if notification else "POST"
        request = asyncio.ensure_future(gateway(method, path, notification, hono_ttd="20", **kind))
        await until(lambda seen=seen: len(core.consumer.messages) > seen)  # type: ignore[misc]
        outcomes: list[object] = []
        core.commands.route(a_command("d2", reply=False), outcomes.append)
        status, body, headers = await request
        assert (status, body) == (200, b"twice")
        assert headers["hono-cmd-target-device"] == "d2"
        assert "hono-cmd-req-id" not in headers
        assert outcomes == [None]


async def test_without_a_command_the_wait_ends_with_202(core: Core, device: Device) -> None:
    await core.registry.update_tenant(
        "acme",
        {"adapters": [{"type": "hono-http", "enabled": True, "ext": {"max-ttd": 1}}]},
        None,
    )
    assert (await device("POST", "/telemetry", b"x", hono_ttd="3600"))[0] == 202
    assert core.consumer.messages[0].ttd == 1
    assert not core.commands.is_listening("acme", "d1")


@pytest.mark.parametrize("ttd", ["0", "-1", "soon", ""])
async def test_a_ttd_that_is_no_time_is_ignored(core: Core, device: Device, ttd: str) -> None:
    assert (await device("POST", f"/telemetry?hono-ttd={ttd}", b"x"))[0] == 202
    assert core.consumer.messages[0].ttd is None


async def test_a_device_that_hangs_up_releases_its_place(core: Core, device: Device) -> None:
    request = asyncio.ensure_future(device("POST", "/telemetry", b"x", hono_ttd="20"))
    await until(lambda: bool(core.consumer.messages))
    assert core.commands.is_listening("acme", "d1")
    request.cancel()
    await until(lambda: not core.commands.is_listening("acme", "d1"))
    outcomes: list[object] = []
    core.commands.route(a_command(), outcomes.append)
    await until(lambda: bool(outcomes))
    assert isinstance(outcomes[0], NoConsumer)


async def test_who_hung_up_before_it_was_known_takes_no_commands(core: Core, url: str) -> None:
    host, _, port = url.removeprefix("http://").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(a_request("hono-ttd: 20"))
    await writer.drain()
    writer.transport.abort()
    await until(lambda: bool(core.consumer.messages))
    assert not core.commands.is_listening("acme", "d1")
    assert core.consumer.messages[0].ttd is None


async def test_a_refused_upload_does_not_wait(core: Core, device: Device) -> None:
    core.consumer.outcome = NoConsumer()
    assert (await device("POST", "/telemetry", b"x", hono_ttd="20"))[0] == 503
    assert not core.commands.is_listening("acme", "d1")


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/command/res/002c1app", None, 400),
        ("/command/res/002c1app", "300", 400),
        ("/command/res/002c1app", "199", 400),
        ("/command/res/002c1app", "2x0", 400),
        ("/command/res/xyz", "200", 400),
        ("/command/res/002c1nobody", "200", 503),
        ("/command/res/002c1app", "200", 202),
        ("/command/res/", "200", 404),
    ],
)
async def test_a_command_response_is_judged(
    core: Core, device: Device, path: str, status: str | None, expected: int
) -> None:
    core.commands.add_sink(Application())
    headers = {} if status is None else {"hono_cmd_status": status}
    assert (await device("POST", path, b"ok", **headers))[0] == expected


async def test_a_gateway_answers_for_its_device(
    core: Core, gateway: Device, device: Device
) -> None:
    app = Application()
    core.commands.add_sink(app)
    for tenant in ("acme", ""):
        path = f"/command/res/{tenant}/d2/102c1app"
        assert (await gateway("PUT", path, hono_cmd_status="204"))[0] == 503  # reply id is d2/app
        path = f"/command/res/{tenant}/d2/002c1app"
        assert (await gateway("PUT", path, hono_cmd_status="204"))[0] == 202
        assert (await device("PUT", path, hono_cmd_status="204"))[0] == 403
    assert {r.device for r in app.responses} == {"d2"}


# --- the socket ------------------------------------------------------------------------------------


async def exchange(url: str, *pieces: bytes) -> bytes:
    """Send pieces, read until the server closes."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        return await asyncio.wait_for(reader.read(), 15)
    finally:
        writer.close()


def a_request(
    *headers: str, body: bytes = b"x", path: str = "/telemetry", close: bool = True
) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: a",
        "Authorization: " + basic(*DEVICE)["Authorization"],
        f"Content-Length: {len(body)}",
        *headers,
    ]
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_pipelined_requests_are_answered_in_order(core: Core, url: str) -> None:
    requests = b"".join(
        a_request(path=path, close=at == 2)
        for at, path in enumerate(("/telemetry", "/nothing", "/event"))
    )
    for pieces in ((requests,), tuple(requests[at : at + 7] for at in range(0, len(requests), 7))):
        answer = await exchange(url, *pieces)
        codes = re.findall(rb"HTTP/1.1 (\d+)", answer)
        assert codes == [b"202", b"404", b"202"]


async def test_a_long_pipeline_is_held_back_and_finished(core: Core, url: str) -> None:
    held = core.consumer.hold()
    requests = b"".join(a_request(close=at == 199) for at in range(200))
    answer = asyncio.ensure_future(exchange(url, requests))
    await until(lambda: len(held) >= 16)
    assert len(held) < 100
    core.consumer.held = None
    for done in held:
        done(None)
    assert (await answer).count(b"202 Accepted") == 200


async def test_expect_100_continue_is_answered_before_the_body(url: str) -> None:
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(a_request("Expect: 100-continue", body=b"hello")[:-5])
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hello")
    assert b"202 Accepted" in await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (a_request(body=b"x" * 2_049), b"413"),
        (a_request("Expect: 100-continue", body=b"x" * 2_000_000)[:500], b"413"),
        (
            a_request().replace(b"Content-Length: 1", b"Transfer-Encoding: chunked")[:-1]
            + b"c00\r\n" + b"x" * 0xC00 + b"\r\n0\r\n\r\n",
            b"413",
        ),
        (a_request(*(f"X-{n}: y" for n in range(70))), b"431"),
        (a_request("X-Long: " + "y" * 20_000), b"431"),
        (b"POST /telemetry HTTP/1.1\r\nX: " + b"y" * 50_000, b"431"),
        (b"POST /" + b"y" * 50_000, b"431"),
        (b"\x16\x03\x01\x02\x00", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (a_request().replace(b"Length: 1", b"Length: 1\r\nContent-Length: 2"), b"400"),
    ],
)  # fmt: skip
async def test_what_is_too_big_or_no_http_ends_the_connection(
    core: Core, url: str, request_bytes: bytes, status: bytes
) -> None:
    answer = await exchange(url, request_bytes)
    assert answer.split(b" ", 2)[1] == status
    assert core.consumer.messages == []


async def test_two_megabytes_from_curl_are_refused(url: str, tmp_path: Any) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 2_000_000)
    status, _ = await curl("-u", LOGIN, "--data-binary", f"@{big}", f"{url}/telemetry")
    assert status == 413


@pytest.mark.parametrize("start", [b"", b"POST /tele", a_request()[:-1]])
async def test_a_slow_sender_is_closed(core: Core, start: bytes) -> None:
    async with an_http_adapter(core, request_timeout=0.1) as url:
        answer = await exchange(url, start)
        assert answer.startswith(b"HTTP/1.1 408" if start else b"")
        assert bool(answer) == bool(start)


async def test_an_idle_connection_is_closed(core: Core) -> None:
    async with an_http_adapter(core, idle_timeout=0.1) as url:
        assert b"202 Accepted" in await exchange(url, a_request(close=False))


async def test_connections_over_the_limit_are_closed(core: Core) -> None:
    async with an_http_adapter(core, max_connections=1) as url:
        host, _, port = url.removeprefix("http://").rpartition(":")
        _, first = await asyncio.open_connection(host, int(port))
        first.write(b"POST")
        await asyncio.sleep(0.05)
        assert await exchange(url, b"") == b""
        first.close()
        await first.wait_closed()
        await asyncio.sleep(0.05)
        assert b"202" in await exchange(url, a_request())


async def test_a_device_that_waits_is_hung_up_on_at_the_end(core: Core) -> None:
    async with aiohttp.ClientSession(headers=basic(*DEVICE)) as http:
        async with an_http_adapter(core) as url:
            waiting = Device(http, url)("POST", "/event", b"x", hono_ttd="20")
            request = asyncio.ensure_future(waiting)
            await until(lambda: core.commands.is_listening("acme", "d1"))
        with pytest.raises(aiohttp.ClientError):
            await request
    assert not core.commands.is_listening("acme", "d1")


async def test_the_adapter_names_itself(core: Core, device: Device) -> None:
    await device("POST", "/event", b"x")
    assert core.consumer.messages[0].adapter == Adapter.HTTP


async def test_the_same_is_served_over_tls(core: Core, tmp_path: Any) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    async with an_http_adapter(core, tls_context=context):
        url = f"https://{core.endpoints.get('hono.https')}/telemetry"
        assert (await curl("-k", "-u", LOGIN, "-d", "x", url))[0] == 202
        assert (await curl("-k", "-u", LOGIN, "-d", "x" * 3_000, url))[0] == 413
