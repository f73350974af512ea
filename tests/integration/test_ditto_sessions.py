"""WebSocket sessions row by row: control messages, their parameters and errors, tokens, limits, closing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from gateway.config.ditto import DittoWebSocket, OpenIdIssuer
from gateway.ditto.announcements import SubjectDeletion
from gateway.ditto.outbox import close_frame
from gateway.ditto.session_rate import Rate
from tests.ditto_rig import PUMP, USERS, Stack, WsClient, a_ditto, a_websocket, curl, put
from tests.hono_rig import basic
from tests.integration.test_ditto_auth import Provider, a_provider

LIVE = "org.acme/pump-1/things/live"
TWIN = "org.acme/pump-1/things/twin/commands"
KINDS = ("EVENTS", "MESSAGES", "LIVE-COMMANDS", "LIVE-EVENTS", "POLICY-ANNOUNCEMENTS")
POLICY_VIOLATION = aiohttp.WSCloseCode.POLICY_VIOLATION


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto() as stack:
        await put(f"{stack.api}/things/{PUMP}", {"attributes": {"n": 1}})
        yield stack


@pytest.fixture
async def client(ditto: Stack) -> AsyncIterator[WsClient]:
    async with a_websocket(ditto) as client:
        yield client


@asynccontextmanager
async def connected(
    stack: Stack, query: str = "", **headers: str
) -> AsyncIterator[tuple[aiohttp.ClientWebSocketResponse, WsClient]]:
    """A session opened with headers of its own."""
    known = {**basic("ditto", USERS["ditto"]), **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"{stack.url}/ws/2{query}", headers=known, autoping=False, max_msg_size=0
        ) as socket,
    ):
        yield socket, WsClient(socket)


async def still_works(client: WsClient) -> None:
    """The session answers, and has nothing else to say."""
    assert (await client.ask(f"{TWIN}/retrieve", "/policyId"))["value"] == PUMP


async def closing(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    message = await socket.receive(timeout=10)
    assert message.type is aiohttp.WSMsgType.CLOSE, message
    return message.data  # type: ignore[no-any-return]


# --- control messages --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "tail", ["", "?", "?namespaces=org.acme", "?correlation-id=c-1", " ", "?unknown=1", "-AND-MORE"]
)
async def test_starting_and_stopping_is_acknowledged_by_name(
    client: WsClient, kind: str, tail: str
) -> None:
    for verb in ("START", "STOP", "STOP"):
        await client.socket.send_str(f"{verb}-SEND-{kind}{tail}")
        assert await client.text() == f"{verb}-SEND-{kind}:ACK"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ("filter=eq(", "rql.expression.invalid"),
        ("filter=eq(attributes/n)", "rql.expression.invalid"),
        ("namespaces=1x", "namespacedentity.id.invalid"),
        ("namespaces=org.acme,a/b", "namespacedentity.id.invalid"),
        ("extraFields=((", "json.fieldselector.invalid"),
        ("extraFields=nonsense", "things:field.selection.invalid"),
        ("&".join(f"p{n}=1" for n in range(30)), "header.invalid"),
        ("filter=%FF", "header.invalid"),
    ],
)
async def test_a_bad_parameter_is_refused_and_what_was_started_stays(
    ditto: Stack, client: WsClient, kind: str, parameters: str, code: str
) -> None:
    await client.control("START-SEND-EVENTS")
    await client.socket.send_str(f"START-SEND-{kind}?correlation-id=c-7&{parameters}")
    refused = await client.envelope()
    assert refused["value"]["error"] == code
    assert refused["status"] == refused["value"]["status"] == 400
    assert refused["topic"] == "unknown/unknown/things/twin/errors"
    if code != "header.invalid":
        assert refused["headers"]["correlation-id"] == "c-7"
    await put(f"{ditto.api}/things/{PUMP}/attributes/n", 2)
    assert (await client.envelope())["value"] == 2


@pytest.mark.parametrize(
    "text", ["START-SEND", "start-send-events", "STOP", "START-SEND-THINGS", "", " ", "JWT"]
)
async def test_what_is_no_control_message_is_no_envelope_either(
    client: WsClient, text: str
) -> None:
    await client.socket.send_str(text)
    assert (await client.envelope())["value"]["error"] == "json.invalid"
    await still_works(client)


# --- what arrives ------------------------------------------------------------------------------

Trigger = Callable[[Stack, WsClient], Awaitable[None]]


async def change(ditto: Stack, _other: WsClient) -> None:
    assert (await put(f"{ditto.api}/things/{PUMP}/attributes/n", 9)).status == 204


async def message(ditto: Stack, _other: WsClient) -> None:
    url = f"{ditto.api}/things/{PUMP}/inbox/messages/hello?timeout=0"
    assert (await curl("-X", "POST", url, "-d", "x")).status == 202


async def live_command(_ditto: Stack, other: WsClient) -> None:
    envelope = {"topic": f"{LIVE}/commands/modify", "path": "/attributes/n", "value": 9}
    await other.socket.send_json({**envelope, "headers": {"response-required": False}})
    await still_works(other)


async def live_event(_ditto: Stack, other: WsClient) -> None:
    envelope = {"topic": f"{LIVE}/events/modified", "path": "/attributes/n", "value": 9}
    await other.socket.send_json(envelope)
    await still_works(other)


async def announcement(ditto: Stack, _other: WsClient) -> None:
    deletion = SubjectDeletion(
        policy_id="org.acme:policy", subject="nginx:ditto", delete_at="2030", timestamp="2029"
    )
    ditto.policies.announcements.publish(deletion, lambda _good: None)


TRIGGERS: dict[str, Trigger] = {
    "EVENTS": change,
    "MESSAGES": message,
    "LIVE-COMMANDS": live_command,
    "LIVE-EVENTS": live_event,
    "POLICY-ANNOUNCEMENTS": announcement,
}
TOPICS = {
    "EVENTS": "org.acme/pump-1/things/twin/events/modified",
    "MESSAGES": f"{LIVE}/messages/hello",
    "LIVE-COMMANDS": f"{LIVE}/commands/modify",
    "LIVE-EVENTS": f"{LIVE}/events/modified",
    "POLICY-ANNOUNCEMENTS": "org.acme/policy/policies/announcements/subjectDeletion",
}
FILTERS = {
    "EVENTS": ("eq(attributes/n,9)", "eq(attributes/n,8)"),
    "MESSAGES": ("eq(topic:subject,'hello')", "eq(topic:subject,'other')"),
    "LIVE-COMMANDS": ("eq(resource:path,'/attributes/n')", "eq(topic:action,'delete')"),
    "LIVE-EVENTS": ("eq(attributes/n,9)", "eq(attributes/n,8)"),
}


async def hears(ditto: Stack, client: WsClient, kind: str) -> dict[str, Any] | None:
    """What a session gets of one signal, None for nothing."""
    async with a_websocket(ditto) as other:
        await TRIGGERS[kind](ditto, other)
    await client.socket.send_json(
        {"topic": f"{TWIN}/retrieve", "path": "/policyId", "headers": {"correlation-id": "end"}}
    )
    found = await client.envelope()
    if found["headers"].get("correlation-id") == "end":
        return None
    assert (await client.envelope())["headers"]["correlation-id"] == "end"
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_started_arrives_until_it_is_stopped(
    ditto: Stack, client: WsClient, kind: str
) -> None:
    assert await hears(ditto, client, kind) is None
    await client.control(f"START-SEND-{kind}")
    heard = await hears(ditto, client, kind)
    assert heard is not None
    assert heard["topic"] == TOPICS[kind]
    assert "extra" not in heard
    for other in KINDS:
        if other != kind:
            assert await hears(ditto, client, other) is None
    await client.control(f"STOP-SEND-{kind}")
    assert await hears(ditto, client, kind) is None


@pytest.mark.parametrize("kind", KINDS)
async def test_namespaces_narrow_and_a_second_start_replaces_the_first(
    ditto: Stack, client: WsClient, kind: str
) -> None:
    await client.control(f"START-SEND-{kind}?namespaces=org.other,org.more")
    assert await hears(ditto, client, kind) is None
    await client.control(f"START-SEND-{kind}?namespaces=org.other,org.acme")
    assert await hears(ditto, client, kind) is not None


@pytest.mark.parametrize("kind", FILTERS)
async def test_filters_narrow(ditto: Stack, client: WsClient, kind: str) -> None:
    fits, does_not = FILTERS[kind]
    await client.control(f"START-SEND-{kind}?filter={quote(does_not)}")
    assert await hears(ditto, client, kind) is None
    await client.control(f"START-SEND-{kind}?filter={quote(fits)}")
    assert await hears(ditto, client, kind) is not None


@pytest.mark.parametrize("kind", FILTERS)
async def test_extra_fields_enrich_and_can_be_filtered(
    ditto: Stack, client: WsClient, kind: str
) -> None:
    extra = "extraFields=policyId,attributes/nothing"
    await client.control(f"START-SEND-{kind}?{extra}&filter=eq(policyId,'org.acme:other')")
    assert await hears(ditto, client, kind) is None
    await client.control(f"START-SEND-{kind}?{extra}&filter=eq(policyId,'{PUMP}')")
    heard = await hears(ditto, client, kind)
    assert heard is not None
    assert heard["extra"] == {"policyId": PUMP}


@pytest.mark.parametrize("kind", ["MESSAGES", "LIVE-COMMANDS", "LIVE-EVENTS"])
async def test_a_session_does_not_hear_itself(ditto: Stack, client: WsClient, kind: str) -> None:
    await client.control(f"START-SEND-{kind}")
    if kind == "MESSAGES":
        path = "/inbox/messages/hello"
        envelope = {"topic": f"{LIVE}/messages/hello", "path": path, "value": "x"}
        await client.socket.send_json({**envelope, "headers": {"response-required": False}})
        await still_works(client)
    else:
        await TRIGGERS[kind](ditto, client)


# --- tokens ------------------------------------------------------------------------------------


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with a_provider() as made:
        yield made


@pytest.fixture
async def trusting(provider: Provider) -> AsyncIterator[Stack]:
    issuer = OpenIdIssuer(
        name="acme",
        issuer=provider.issuer,
        auth_subjects=("{{ jwt:sub }}", "{{ jwt:roles | fn:default('none') }}"),
    )
    async with a_ditto(openid=(issuer,)) as stack:
        await put(f"{stack.api}/things/{PUMP}", {})
        yield stack


@asynccontextmanager
async def with_token(
    stack: Stack, token: str
) -> AsyncIterator[tuple[aiohttp.ClientWebSocketResponse, WsClient]]:
    known = {"Authorization": f"Bearer {token}", "correlation-id": "opened-with-this"}
    async with connected(stack, **known) as opened:
        yield opened


async def test_a_token_is_renewed_without_an_answer(trusting: Stack, provider: Provider) -> None:
    short = provider.token(exp=time.time() - 9)  # a second of the leeway is left to connect
    async with with_token(trusting, provider.token(exp=time.time() + 60)) as (_, client):
        await client.socket.send_str(f"JWT-TOKEN?jwtToken={provider.token()}")
        answer = await client.ask(f"{TWIN}/retrieve", "/")
        assert answer["value"]["error"] == "things:thing.notfound"
        await client.socket.send_str(f"JWT-TOKEN?jwtToken={short}")
        ended = await client.envelope()
    assert ended["value"]["error"] == "gateway:websocket.session.expired"


async def test_a_session_ends_with_its_token(trusting: Stack, provider: Provider) -> None:
    soon = provider.token(exp=time.time() + 0.2)
    async with with_token(trusting, soon) as (socket, client):
        ended = await client.envelope()
        assert (ended["status"], ended["value"]["error"]) == (
            401,
            "gateway:websocket.session.expired",
        )
        assert ended["topic"] == "unknown/unknown/things/twin/errors"
        assert ended["headers"]["correlation-id"] == "opened-with-this"
        assert await closing(socket) == POLICY_VIOLATION


@pytest.mark.parametrize("claims", [{"sub": "bob"}, {"roles": ["admin"]}])
async def test_a_token_of_somebody_else_ends_the_session(
    trusting: Stack, provider: Provider, claims: dict[str, Any]
) -> None:
    async with with_token(trusting, provider.token()) as (socket, client):
        await client.socket.send_str(f"JWT-TOKEN?jwtToken={provider.token(**claims)}")
        ended = await client.envelope()
        assert (ended["status"], ended["value"]["error"]) == (
            403,
            "gateway:websocket.session.closed",
        )
        assert await closing(socket) == POLICY_VIOLATION


async def test_a_token_ends_the_session_of_a_user_without_one(
    trusting: Stack, provider: Provider
) -> None:
    async with connected(trusting) as (socket, client):
        await client.socket.send_str(f"JWT-TOKEN?jwtToken={provider.token()}")
        ended = await client.envelope()
        assert ended["value"]["error"] == "gateway:websocket.session.closed"
        assert await closing(socket) == POLICY_VIOLATION


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("", "jwt:invalid"),
        ("nonsense", "jwt:invalid"),
        ("foreign", "gateway:authentication.failed"),
        ("over", "gateway:authentication.failed"),
    ],
)
async def test_a_bad_token_is_refused_and_the_old_one_counts(
    trusting: Stack, provider: Provider, token: str, code: str
) -> None:
    sent = {
        "foreign": lambda: provider.token("foreign"),
        "over": lambda: provider.token(exp=time.time() - 60),
    }.get(token, lambda: token)()
    async with with_token(trusting, provider.token()) as (_, client):
        await client.socket.send_str(f"JWT-TOKEN?jwtToken={sent}&correlation-id=c-5")
        refused = await client.envelope()
        assert (refused["status"], refused["value"]["error"]) == (401, code)
        assert refused["headers"]["correlation-id"] == "c-5"
        assert (await client.ask(f"{TWIN}/retrieve", "/"))["status"] == 404


# --- opening -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "header"),
    [
        ("?declared-acks=my:ack,your:ack", None),
        ("", "my:ack,your:ack"),
        ("", '["my:ack","your:ack"]'),
        ("", '["my:ack", "your:ack"]'),
    ],
)
async def test_labels_are_declared_in_every_form(
    ditto: Stack, query: str, header: str | None
) -> None:
    headers = {} if header is None else {"declared-acks": header}
    async with connected(ditto, query, **headers) as (_, client):
        await still_works(client)
        async with connected(ditto, "?declared-acks=your:ack") as (socket, second):
            refused = await second.envelope()
            assert (refused["status"], refused["value"]["error"]) == (
                409,
                "acknowledgement:label.not.unique",
            )
            assert await closing(socket) == POLICY_VIOLATION
        await still_works(client)


async def test_built_in_labels_are_not_declared(ditto: Stack) -> None:
    async with connected(ditto, "?declared-acks=twin-persisted") as (socket, client):
        refused = await client.envelope()
        assert refused["value"]["error"] == "acknowledgement:ditto.acklabel.forbidden"
        assert await closing(socket) == POLICY_VIOLATION


async def test_a_label_that_cannot_be_is_refused_before_the_session_opens(ditto: Stack) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with connected(ditto, "?declared-acks=no"):
            pass
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("query", "header"), [("?correlation-id=c-1", {}), ("", {"correlation-id": "c-1"})]
)
async def test_the_upgrade_has_a_correlation_id(
    ditto: Stack, query: str, header: dict[str, str]
) -> None:
    async with connected(ditto, query, **header) as (socket, _):
        assert socket._response.headers["correlation-id"] == "c-1"


# --- frames ------------------------------------------------------------------------------------


async def test_binary_frames_are_ignored(client: WsClient) -> None:
    await client.socket.send_bytes(b"START-SEND-EVENTS")
    await client.socket.send_bytes(json.dumps({"topic": "x"}).encode())
    await still_works(client)


@pytest.mark.parametrize("size", [1_000, 4_000])
async def test_a_frame_that_is_too_large_ends_the_session(size: int) -> None:
    async with a_ditto(websocket=DittoWebSocket(max_frame=2_000)) as ditto:
        await put(f"{ditto.api}/things/{PUMP}", {})
        async with connected(ditto) as (socket, client):
            await client.socket.send_str("x" * size)
            if size > 2_000:
                assert await closing(socket) == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            else:
                assert (await client.envelope())["value"]["error"] == "json.invalid"


async def test_a_frame_that_is_no_text_ends_the_session(ditto: Stack) -> None:
    async with connected(ditto) as (socket, _):
        await socket._writer.send_frame(b"\xff\xfe", aiohttp.WSMsgType.TEXT)
        assert await closing(socket) == aiohttp.WSCloseCode.INVALID_TEXT


async def test_the_server_pings_and_answers_pings() -> None:
    async with (
        a_ditto(websocket=DittoWebSocket(ping_seconds=0.1)) as ditto,
        connected(ditto) as (socket, _),
    ):
        assert (await socket.receive(timeout=10)).type is aiohttp.WSMsgType.PING
        await socket.ping(b"hello")
        async with asyncio.timeout(10):
            while (answer := await socket.receive()).type is not aiohttp.WSMsgType.PONG:
                assert answer.type is aiohttp.WSMsgType.PING
        assert answer.data == b"hello"


async def test_a_peer_without_pongs_is_given_up() -> None:
    async with (
        a_ditto(websocket=DittoWebSocket(ping_seconds=0.1)) as ditto,
        connected(ditto) as (socket, _),
        asyncio.timeout(10),
    ):
        while (await socket.receive()).type is aiohttp.WSMsgType.PING:
            pass
        assert socket.closed


async def test_a_session_that_ends_in_order_is_forgotten(ditto: Stack) -> None:
    gauge = {"name": "twinspan_stream_sessions", "kind": "websocket"}
    async with connected(ditto) as (socket, client):
        await still_works(client)
        assert ditto.sample(**gauge) == 1
        await socket.close(code=1000)
        assert socket.close_code == 1000
    async with asyncio.timeout(10):
        while ditto.sample(**gauge):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# --- questions ---------------------------------------------------------------------------------


async def test_permissions_are_asked_for(ditto: Stack, client: WsClient) -> None:
    topic = "_/_/policies/commands/checkPermissions"
    question = {"resource": "policy:/", "entityId": PUMP, "hasPermissions": ["READ", "WRITE"]}
    found = await client.ask(topic, "/", {"mine": question})
    assert (found["topic"], found["path"], found["status"]) == (topic, "/", 200)
    assert found["value"] == {"mine": True}
    async with a_websocket(ditto, "alice") as alice:
        assert (await alice.ask(topic, "/", {"mine": question}))["value"] == {"mine": False}


@pytest.mark.parametrize(
    ("topic", "path", "value", "code"),
    [
        ("_/_/policies/commands/checkPermissions", "/entries", {}, "protocoladapter:unknown.path"),
        ("_/_/policies/commands/checkPermissions", "/", [], "json.invalid"),
        ("_/_/policies/commands/checkPermissions", "/", {"a": {}}, "json.field.missing"),
        ("_/_/policies/commands/retrieve", "/", {}, "protocoladapter:unknown.command"),
    ],
)
async def test_what_cannot_be_asked_of_policies_is_refused(
    client: WsClient, topic: str, path: str, value: Any, code: str
) -> None:
    assert (await client.ask(topic, path, value))["value"]["error"] == code


# --- too much ----------------------------------------------------------------------------------


async def test_a_session_that_falls_behind_is_closed_with_1008() -> None:
    async with a_ditto(websocket=DittoWebSocket(outbound_buffer=5)) as ditto:
        await put(f"{ditto.api}/things/{PUMP}", {"attributes": {"n": 1}})
        async with connected(ditto) as (socket, client):
            await client.control("START-SEND-EVENTS")
            transport = socket.get_extra_info("socket")
            assert transport is not None
            socket._conn.transport.pause_reading()  # type: ignore[union-attr]
            big = "x" * 80_000
            for at in range(500):
                await put(f"{ditto.api}/things/{PUMP}/attributes/n", f"{at}{big}")
                if ditto.sample("twinspan_stream_sessions_dropped_total", kind="websocket"):
                    break
            socket._conn.transport.resume_reading()  # type: ignore[union-attr]
            while (frame := await socket.receive(timeout=10)).type is aiohttp.WSMsgType.TEXT:
                assert json.loads(frame.data)["value"].endswith("xxx")
            assert (frame.type, frame.data) == (aiohttp.WSMsgType.CLOSE, POLICY_VIOLATION)


async def test_a_session_that_sends_too_fast_is_told() -> None:
    async with a_ditto(websocket=DittoWebSocket(max_rate=0.5)) as ditto:
        await put(f"{ditto.api}/things/{PUMP}", {})
        async with a_websocket(ditto) as client:
            await still_works(client)
            refused = await client.ask(f"{TWIN}/retrieve", "/")
            assert (refused["status"], refused["value"]["error"]) == (429, "too.many.requests")
            await client.socket.send_str("START-SEND-EVENTS?correlation-id=c-1")
            refused = await client.envelope()
            assert refused["value"]["error"] == "too.many.requests"
            assert refused["headers"]["correlation-id"] == "c-1"


def test_a_bucket_fills_again() -> None:
    rate = Rate(2.0)
    assert [rate.allows(at) for at in (10.0, 10.0, 10.0)] == [True, True, False]
    assert [rate.allows(at) for at in (10.5, 10.5, 99.0, 99.0, 99.0)] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert all(Rate(0).allows(0.0) for _ in range(1_000))


def test_a_close_frame_has_its_code_and_reason() -> None:
    assert close_frame(1008, b"slow") == b"\x88\x06\x03\xf0slow"
