"""The LoRaWAN adapter over real sockets: pushes of network servers, their outcomes, commands to devices."""

from __future__ import annotations

import json
import random
import ssl
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import aiohttp
import pytest

from gateway.errors import ConsumerTimeout, GatewayError, NoConsumer, Undeliverable
from gateway.model.json import Json, JsonObject
from gateway.model.message import EMPTY_NOTIFICATION, Adapter, Command, Kind
from gateway.runtime.device_tls import device_context
from tests.device_pki import a_server, client_context, issue
from tests.hono_rig import GATEWAY, Core, a_core, a_fleet, basic, curl, until
from tests.lora_rig import (
    JSON,
    OFF,
    Answer,
    Caller,
    Case,
    NetworkServer,
    a_lora_adapter,
    a_network_server,
    adapters,
    case_maker,
    device,
    judge,
)
from tests.lora_samples import DATA, EUI, SAMPLES

LORIOT = json.dumps(SAMPLES["loriot"].body).encode()


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        await a_fleet(core)
        await core.device("acme", EUI, {"via": ["gw-1"]})
        yield core


@pytest.fixture
async def url(core: Core) -> AsyncIterator[str]:
    async with a_lora_adapter(core) as url:
        yield url


@pytest.fixture
async def push(url: str) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession(headers=basic(*GATEWAY)) as http:
        yield Caller(http, url)


# --- uplinks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
async def test_an_uplink_of_each_kind_of_server_becomes_telemetry(
    core: Core, push: Caller, name: str
) -> None:
    sample = SAMPLES[name]
    body = json.dumps(sample.body).encode()
    is_custom = name == "kerlink-custom-content-type"
    media_type = "application/vnd.kerlink.iot-v1+json" if is_custom else "application/json"

    answer = await push("POST", sample.path, body, {"Content-Type": f"{media_type}; charset=utf-8"})

    assert (answer.status, answer.body) == (202, b"")
    [message] = core.consumer.messages
    assert (message.tenant, message.device, message.via) == ("acme", EUI, "gw-1")
    assert (message.kind, message.qos, message.payload) == (Kind.TELEMETRY, 0, DATA)
    assert message.content_type == f"application/vnd.eclipse-hono.lora.{name}"
    assert (message.adapter, message.address) == ("hono-lora", sample.path)
    properties = dict(message.properties)
    assert properties.pop("orig_lora_provider") == name
    assert json.loads(str(properties.pop("additional_data"))) == sample.body
    if sample.meta is None:
        assert properties == {}
    else:
        assert json.loads(str(properties.pop("meta_data"))) == sample.meta
        assert properties == {"function_port": sample.meta["function_port"]}


@pytest.mark.parametrize("name", [n for n, s in SAMPLES.items() if s.other])
async def test_what_is_no_uplink_is_taken_and_dropped(core: Core, push: Caller, name: str) -> None:
    body = json.dumps(SAMPLES[name].other).encode()

    assert (await push("POST", SAMPLES[name].path, body, JSON)).status == 202

    assert core.consumer.messages == []


async def test_an_uplink_without_data_is_an_empty_notification(core: Core, push: Caller) -> None:
    body = json.dumps({**SAMPLES["loriot"].body, "data": ""}).encode()

    assert (await push("POST", "/loriot", body, JSON)).status == 202

    [message] = core.consumer.messages
    assert (message.payload, message.content_type) == (b"", EMPTY_NOTIFICATION)


async def test_a_server_may_ask_for_quality_of_service_1(core: Core, push: Caller) -> None:
    assert (await push("POST", "/loriot", LORIOT, {**JSON, "qos-level": "1"})).status == 202
    assert core.consumer.messages[0].qos == 1


# --- outcomes: input, credentials, state of the consumer -> device side, consumer side, meters --------


a_case = case_maker("POST", "/loriot", LORIOT, **JSON)


def disabled_tenant(core: Core) -> Awaitable[object]:
    return core.registry.update_tenant("acme", {"enabled": False}, None)


CASES = {
    "accepted": a_case(202, metric="forwarded"),
    "adapter enabled": a_case(202, metric="forwarded", world=adapters("hono-lora")),
    "adapter disabled": a_case(
        403, "adapter is disabled", "unprocessable", world=adapters("hono-http")
    ),
    "tenant disabled": a_case(
        403, "tenant is disabled or not", "unprocessable", world=disabled_tenant
    ),
    "no consumer": a_case(503, "no consumer available", "undeliverable", outcome=NoConsumer()),
    "consumer too slow": a_case(
        503, "consumer failed to indicate in time", "undeliverable", outcome=ConsumerTimeout()
    ),
    "store away": a_case(
        503, "temporarily unavailable", "undeliverable", outcome=Undeliverable("disk on fire")
    ),
    "device unknown": a_case(404, OFF, "unprocessable", body=LORIOT.replace(b"A8", b"A9")),
    "device disabled": a_case(
        404, OFF, "unprocessable", world=device(EUI, via=["gw-1"], enabled=False)
    ),
    "gateway disabled": a_case(
        403, "gateway is", "unprocessable", world=device("gw-1", enabled=False)
    ),
    "gateway of others": a_case(403, "", "unprocessable", world=device(EUI, via=["d1"])),
    "no credentials": a_case(401, "credentials are missing", login=None),
    "wrong password": a_case(401, "credentials are missing", login=("gw@acme", "guess")),
    "unknown user": a_case(401, login=("nobody@acme", "pw")),
    "unknown tenant": a_case(401, login=("gw@nowhere", "pw")),
    "no content type": a_case(400, "missing or unsupported content-type", headers={}),
    "other content type": a_case(
        400, "missing or unsupported content-type", headers={"Content-Type": "text/plain"}
    ),
    "Kerlink's content type is asked for": a_case(
        400, "missing or unsupported content-type", path="/kerlink/rxmessage"
    ),
    "no JSON": a_case(400, "invalid payload", body=b"EUI=1"),
    "no object": a_case(400, "invalid payload", body=b"[]"),
    "empty": a_case(400, "invalid payload", body=b""),
    "no device": a_case(400, "invalid payload", body=b'{"cmd":"gw","data":"00"}'),
    "bad quality of service": a_case(400, "qos-level", headers={**JSON, "qos-level": "2"}),
    "too large": a_case(413, "payload too large", body=b" " * 20_000),
    "no such server": a_case(404, "Resource not found", path="/sigfox"),
    "not pushed": a_case(405, "expected POST", method="PUT"),
    "asked whether it may come": a_case(200, method="OPTIONS", body=b""),
    "asked without credentials": a_case(401, method="OPTIONS", body=b"", login=None),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_outcomes_on_both_sides_and_in_the_meters(core: Core, url: str, case: Case) -> None:
    await judge(core, url, case, Adapter.LORA)
    assert [m.payload for m in core.consumer.messages] == [DATA] * case.reaches


async def test_curl_pushes(core: Core, url: str) -> None:
    args = ("-u", ":".join(GATEWAY), "-H", "Content-Type: application/json")
    status, body = await curl(*args, "--data", LORIOT.decode(), f"{url}/loriot")
    assert (status, body) == (202, "")
    assert core.consumer.messages[0].device == EUI


async def test_no_message_makes_the_adapter_fail(core: Core, push: Caller) -> None:
    chance = random.Random(4711)
    pieces = [b"{", b"}", b'"', b":", b",", b"[", b"null", b"-1", b"1e999", b"\xff", b"\x00", b"gw"]
    for name, sample in SAMPLES.items():
        whole = json.dumps(sample.body).encode()
        for _ in range(12):
            at, length = chance.randrange(len(whole)), chance.randrange(1, 12)
            body = whole[:at] + chance.choice(pieces) + whole[at + length :]
            answer = await push("POST", sample.path, body, JSON)
            assert answer.status < 500, (name, body)


# --- commands -----------------------------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[NetworkServer]:
    async with a_network_server() as server:
        yield server


async def with_endpoint(core: Core, document: JsonObject) -> None:
    await core.registry.update_device("acme", "gw-1", document, None)


async def uplink(push: Caller, name: str = "loriot") -> None:
    """Let a network server push once: from then on its gateway takes commands."""
    sample = SAMPLES[name]
    answer: Answer = await push("POST", sample.path, json.dumps(sample.body).encode(), JSON)
    assert answer.status == 202


def a_command(device: str = EUI, name: str = "9", **more: str) -> Command:
    return Command(tenant="acme", device=device, name=name, payload=DATA, **more)  # type: ignore[arg-type]


async def outcome_of(core: Core, command: Command) -> GatewayError | None:
    """What the application is told."""
    outcomes: list[GatewayError | None] = []
    core.commands.route(command, outcomes.append)
    await until(lambda: bool(outcomes))
    return outcomes[0]


async def test_a_command_is_posted_to_the_network_server(
    core: Core, push: Caller, server: NetworkServer
) -> None:
    headers: JsonObject = {"Authorization": "Bearer x", "Content-Length": "1", "Accept": "a/b"}
    more: JsonObject = {"appid": "plant", "confirmed": True}
    await with_endpoint(core, server.endpoint(headers=headers, **{"payload-properties": more}))
    await uplink(push)

    assert await outcome_of(core, a_command()) is None

    [(path, sent, body)] = server.posts
    assert path == f"/push/{EUI}"
    assert body == {
        "cmd": "tx",
        "EUI": EUI,
        "data": "172A",
        "port": 9,
        "confirmed": True,
        "appid": "plant",
    }
    assert (sent["Authorization"], sent["Accept"]) == ("Bearer x", "text/plain")
    assert sent["Content-Type"] == "application/json"


async def test_a_command_that_wants_an_answer_is_posted_as_well(
    core: Core, push: Caller, server: NetworkServer
) -> None:
    await with_endpoint(core, server.endpoint())
    await uplink(push)
    asking = a_command(reply_to="command_response/acme/r1", correlation_id="c1")
    assert await outcome_of(core, asking) is None
    assert len(server.posts) == 1


async def test_applications_are_not_told_that_a_server_is_there(
    core: Core, push: Caller, server: NetworkServer
) -> None:
    await with_endpoint(core, server.endpoint())
    await uplink(push)
    await until(lambda: core.commands.is_listening("acme", "gw-1"))
    assert [m.ttd for m in core.consumer.messages] == [None]


async def test_before_its_first_uplink_a_server_takes_no_commands(
    core: Core, push: Caller, server: NetworkServer
) -> None:
    await with_endpoint(core, server.endpoint())
    assert isinstance(await outcome_of(core, a_command()), NoConsumer)
    await uplink(push)
    assert await outcome_of(core, a_command()) is None


async def test_a_gateway_without_endpoint_takes_no_commands(core: Core, push: Caller) -> None:
    await uplink(push)
    assert isinstance(await outcome_of(core, a_command()), NoConsumer)


async def test_a_command_has_the_form_of_the_server_that_pushed_last(
    core: Core, push: Caller, server: NetworkServer
) -> None:
    await with_endpoint(core, server.endpoint())
    await uplink(push, "loriot")
    await uplink(push, "firefly")
    assert await outcome_of(core, a_command()) is None
    assert server.posts[0][2] == {
        "payload": "172A",
        "encoding": "base16",
        "confirmed": False,
        "port": 9,
    }


@pytest.mark.parametrize("status", [302, 400, 404, 500, 503])
async def test_what_a_server_does_not_take_is_released(
    core: Core, push: Caller, server: NetworkServer, status: int
) -> None:
    server.status = status
    await with_endpoint(core, server.endpoint())
    await uplink(push)
    error = await outcome_of(core, a_command())
    assert isinstance(error, Undeliverable)
    assert str(status) in error.message
    assert len(server.posts) == 1


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("http://127.0.0.1:1/push", "not reached"),
        ("ftp://127.0.0.1/push", "invalid uri"),
        ("push", "invalid uri"),
        ("http://[", "invalid uri"),
        ("http://127.0.0.1:99999/", "invalid uri"),
        ("", "invalid uri"),
    ],
)
async def test_a_server_that_cannot_be_reached_releases_commands(
    core: Core, push: Caller, uri: str, text: str
) -> None:
    await with_endpoint(core, {"command-endpoint": {"uri": uri or "{{deviceId}}"}})
    await uplink(push)
    error = await outcome_of(core, a_command())
    assert isinstance(error, Undeliverable)
    assert text in error.message


async def test_headers_that_cannot_be_sent_release_the_command(
    core: Core, push: Caller, server: NetworkServer
) -> None:
    await with_endpoint(core, server.endpoint(headers={"X": "a\r\nHost: b"}))
    await uplink(push)
    assert isinstance(await outcome_of(core, a_command()), Undeliverable)
    assert server.posts == []


async def test_a_server_that_does_not_answer_in_time_releases_commands(
    core: Core, server: NetworkServer
) -> None:
    server.gate.clear()
    await with_endpoint(core, server.endpoint())
    async with (
        a_lora_adapter(core, command_timeout=0.05) as url,
        aiohttp.ClientSession(headers=basic(*GATEWAY)) as http,
    ):
        await uplink(Caller(http, url))
        assert isinstance(await outcome_of(core, a_command()), Undeliverable)


async def test_only_allowed_hosts_get_commands(core: Core, server: NetworkServer) -> None:
    await with_endpoint(core, server.endpoint())
    for hosts, is_allowed in ((("lns.example",), False), (("lns.example", "127.0.0.1"), True)):
        async with (
            a_lora_adapter(core, command_hosts=hosts) as url,
            aiohttp.ClientSession(headers=basic(*GATEWAY)) as http,
        ):
            await uplink(Caller(http, url))
            assert (await outcome_of(core, a_command()) is None) is is_allowed
    assert len(server.posts) == 1


async def test_a_command_for_the_gateway_itself_is_released(
    core: Core, push: Caller, server: NetworkServer
) -> None:
    await with_endpoint(core, server.endpoint())
    await uplink(push)
    assert isinstance(await outcome_of(core, a_command("gw-1")), Undeliverable)
    assert server.posts == []


async def test_an_endpoint_that_was_taken_away_gets_nothing(
    core: Core, push: Caller, server: NetworkServer
) -> None:
    await with_endpoint(core, server.endpoint())
    await uplink(push)
    await with_endpoint(core, {})
    error = await outcome_of(core, a_command())
    assert isinstance(error, Undeliverable)
    assert "no command endpoint" in error.message


async def test_a_tenant_that_leaves_the_adapter_sends_no_more_commands(
    core: Core, push: Caller, server: NetworkServer
) -> None:
    await with_endpoint(core, server.endpoint())
    await uplink(push)
    await adapters("hono-http")(core)
    assert isinstance(await outcome_of(core, a_command()), Undeliverable)
    assert server.posts == []


@pytest.mark.parametrize("how", ["gateway deleted", "gateway disabled", "tenant disabled"])
async def test_a_gateway_that_is_gone_takes_no_commands(
    core: Core, push: Caller, server: NetworkServer, how: str
) -> None:
    await with_endpoint(core, server.endpoint())
    await uplink(push)
    if how == "gateway deleted":
        await core.registry.delete_device("acme", "gw-1", None)
    elif how == "gateway disabled":
        await with_endpoint(core, {**server.endpoint(), "enabled": False})
    else:
        await disabled_tenant(core)
    assert not core.commands.is_listening("acme", "gw-1")
    assert await outcome_of(core, a_command()) is not None
    assert server.posts == []


async def test_commands_for_one_device_go_out_in_order(
    core: Core, push: Caller, server: NetworkServer
) -> None:
    await with_endpoint(core, server.endpoint())
    await uplink(push)
    outcomes: list[GatewayError | None] = []
    for port in range(1, 21):
        core.commands.route(a_command(name=str(port)), outcomes.append)
    await until(lambda: len(outcomes) == 20)
    assert outcomes == [None] * 20
    ports = [body["port"] for _, _, body in server.posts if isinstance(body, dict)]
    assert ports == list(range(1, 21))


async def test_too_many_commands_for_a_slow_server_are_refused(
    core: Core, push: Caller, server: NetworkServer
) -> None:
    server.gate.clear()
    await with_endpoint(core, server.endpoint())
    await uplink(push)
    outcomes: list[GatewayError | None] = []
    for _ in range(150):
        core.commands.route(a_command(), outcomes.append)
    await until(lambda: len(outcomes) >= 50)
    assert all(isinstance(error, Undeliverable) for error in outcomes)
    server.gate.set()
    await until(lambda: len(outcomes) == 150)
    assert outcomes.count(None) == 100


async def test_a_command_on_its_way_when_the_adapter_stops_is_released(
    core: Core, server: NetworkServer
) -> None:
    server.gate.clear()
    await with_endpoint(core, server.endpoint())
    outcomes: list[GatewayError | None] = []
    async with (
        a_lora_adapter(core) as url,
        aiohttp.ClientSession(headers=basic(*GATEWAY)) as http,
    ):
        await uplink(Caller(http, url))
        core.commands.route(a_command(), outcomes.append)
        await until(lambda: bool(server.posts))
    assert len(outcomes) == 1
    assert isinstance(outcomes[0], Undeliverable)
    assert not core.commands.is_listening("acme", "gw-1")


# --- certificates -------------------------------------------------------------------------------------


async def test_a_network_server_may_prove_itself_with_a_certificate(
    core: Core, tmp_path: Path
) -> None:
    authority, stranger = issue("CN=Acme CA"), issue("CN=Other CA")
    await core.registry.update_tenant("acme", {"trusted-ca": [authority.anchor()]}, None)
    mine = issue("CN=lns", authority)
    login: Json = {"type": "x509-cert", "auth-id": mine.subject, "secrets": [{}]}
    await core.registry.update_credentials("acme", "gw-1", [login], None)
    server = a_server(tmp_path)
    context = device_context(server, server, "test")
    if not hasattr(context, "sslobject_class") or context.verify_mode is ssl.CERT_NONE:
        pytest.skip("this Python hides its OpenSSL")

    async with a_lora_adapter(core, context):
        for holder, status in ((mine, 202), (issue("CN=lns", stranger), 401)):
            tls = client_context(holder.save(tmp_path, str(status)))
            connector = aiohttp.TCPConnector(ssl=tls)
            async with aiohttp.ClientSession(connector=connector) as http:
                url = f"https://{core.endpoints.get('hono.loras')}"
                answer = await Caller(http, url)("POST", "/loriot", LORIOT, JSON)
            assert answer.status == status
    assert [m.via for m in core.consumer.messages] == ["gw-1"]
