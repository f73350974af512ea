"""The Sigfox adapter over real sockets: callbacks of the backend, their outcomes, downlinks in answers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest, GatewayError, NoConsumer, Rejected
from gateway.hono.adapters.http_requests import Request
from gateway.hono.adapters.sigfox import make_upload, parse_path, plain_login
from gateway.model.message import (
    EMPTY_NOTIFICATION,
    OCTET_STREAM,
    Adapter,
    Command,
    Kind,
    Principal,
)
from tests.hono_rig import GATEWAY, Core, a_core, a_fleet, basic, curl, until
from tests.lora_rig import (
    OFF,
    Caller,
    Case,
    a_sigfox_adapter,
    adapters,
    case_maker,
    counted,
    device,
    judge,
)

DEVICE = "2F81C4"
TELEMETRY = f"/data/telemetry/acme?device={DEVICE}&data=0a1b2c"
EVENT = f"/data/event/acme?device={DEVICE}&data=0a1b2c"


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        await a_fleet(core)
        await core.device("acme", DEVICE, {"via": ["gw-1"]})
        yield core


@pytest.fixture
async def url(core: Core) -> AsyncIterator[str]:
    async with a_sigfox_adapter(core) as url:
        yield url


@pytest.fixture
async def call(url: str) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession(headers=basic(*GATEWAY)) as http:
        yield Caller(http, url)


# --- callbacks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "qos"), [(TELEMETRY, "telemetry", 0), (EVENT, "event", 1)]
)
async def test_a_callback_becomes_a_message(
    core: Core, call: Caller, path: str, kind: str, qos: int
) -> None:
    answer = await call("GET", f"{path}&sigfox.time=1790000000&sigfox.snr=17.5&station=0B2A")

    assert (answer.status, answer.body) == (204, b"")
    [message] = core.consumer.messages
    assert (message.tenant, message.device, message.via) == ("acme", DEVICE, "gw-1")
    assert (message.kind, message.qos, message.ttd) == (Kind(kind), qos, None)
    assert (message.payload, message.content_type) == (b"\x0a\x1b\x2c", OCTET_STREAM)
    assert (message.adapter, message.address.partition("?")[0]) == (
        "hono-sigfox",
        path.partition("?")[0],
    )
    assert message.properties == {"sigfox.time": "1790000000", "sigfox.snr": "17.5"}


async def test_a_callback_without_data_is_an_empty_notification(core: Core, call: Caller) -> None:
    assert (await call("GET", f"/data/telemetry/acme?device={DEVICE}")).status == 204
    [message] = core.consumer.messages
    assert (message.payload, message.content_type) == (b"", EMPTY_NOTIFICATION)


async def test_a_frame_of_no_bytes_is_data(core: Core, call: Caller) -> None:
    assert (await call("GET", f"/data/telemetry/acme?device={DEVICE}&data=")).status == 204
    [message] = core.consumer.messages
    assert (message.payload, message.content_type) == (b"", OCTET_STREAM)


async def test_headers_of_the_callback_count(core: Core, call: Caller) -> None:
    assert (await call("GET", TELEMETRY, headers={"qos-level": "1"})).status == 204
    assert (await call("GET", EVENT, headers={"hono-ttl": "30"})).status == 204
    telemetry, event = core.consumer.messages
    assert (telemetry.qos, event.ttl) == (1, 30)


# --- outcomes: input, credentials, state of the consumer -> backend, consumer, meters -----------------


a_case = case_maker("GET", TELEMETRY)

CASES = {
    "accepted": a_case(204, metric="forwarded"),
    "adapter enabled": a_case(204, metric="forwarded", world=adapters("hono-sigfox")),
    "adapter disabled": a_case(
        403, "adapter is disabled", "unprocessable", world=adapters("hono-lora")
    ),
    "no consumer": a_case(503, "no consumer available", "undeliverable", outcome=NoConsumer()),
    "device unknown": a_case(404, OFF, "unprocessable", path=TELEMETRY.replace(DEVICE, "000000")),
    "device disabled": a_case(
        404, OFF, "unprocessable", world=device(DEVICE, via=["gw-1"], enabled=False)
    ),
    "gateway disabled": a_case(
        403, "gateway is", "unprocessable", world=device("gw-1", enabled=False)
    ),
    "gateway of others": a_case(403, "", "unprocessable", world=device(DEVICE, via=["d1"])),
    "no credentials": a_case(401, "credentials are missing", login=None),
    "wrong password": a_case(401, "credentials are missing", login=("gw@acme", "guess")),
    "unknown tenant": a_case(401, login=("gw@nowhere", "pw")),
    "other tenant": a_case(
        403, "tenant information mismatch", path=TELEMETRY.replace("acme", "other")
    ),
    "no tenant": a_case(404, "Resource not found", path=f"/data/telemetry?device={DEVICE}"),
    "empty tenant": a_case(404, "Resource not found", path=f"/data/telemetry/?device={DEVICE}"),
    "no such kind": a_case(404, "Resource not found", path="/data/status/acme"),
    "no such path": a_case(404, "Resource not found", path="/telemetry"),
    "no such path, no credentials": a_case(401, path="/telemetry", login=None),
    "posted": a_case(405, "expected GET", method="POST"),
    "no device": a_case(400, "device", path="/data/telemetry/acme?data=00"),
    "no hex": a_case(400, "data", path=TELEMETRY + "g"),
    "odd hex": a_case(400, "data", path=TELEMETRY + "0"),
    "bad quality of service": a_case(400, "qos-level", headers={"qos-level": "2"}),
    "an event of quality 0": a_case(400, "qos-level", path=EVENT, headers={"qos-level": "0"}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_outcomes_on_both_sides_and_in_the_meters(core: Core, url: str, case: Case) -> None:
    await judge(core, url, case, Adapter.SIGFOX)


# --- credentials as the backend writes them -----------------------------------------------------------


def header(name: str, password: str) -> str:
    return basic(name, password)["Authorization"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (header("gw%40acme", "p%23w%25"), header("gw@acme", "p#w%")),
        (header("gw@acme", "p%23w"), header("gw@acme", "p%23w")),
        (header("gw", "p%23w"), header("gw", "p%23w")),
        (header("gw%40acme", "p%zz"), header("gw@acme", "p%zz")),
        ("Bearer Z3clNDBhY21lOnA=", "Bearer Z3clNDBhY21lOnA="),
        ("Basic ???", "Basic ???"),
        ("", ""),
    ],
)
def test_escaped_credentials_are_read_as_they_were_meant(given: str, meant: str) -> None:
    assert plain_login(given) == meant


async def test_curl_calls_back_with_the_credentials_of_an_url(core: Core, url: str) -> None:
    token = base64.b64encode(b"gw%40acme:pw").decode()
    status, _ = await curl("-H", f"Authorization: Basic {token}", url + TELEMETRY)
    assert status == 204
    assert core.consumer.messages[0].device == DEVICE


# --- downlinks ----------------------------------------------------------------------------------------

PAYLOAD = bytes.fromhex("00ff10ee20dd30cc")


def a_command(payload: bytes = PAYLOAD, **more: str) -> Command:
    return Command(tenant="acme", device=DEVICE, name="set", payload=payload, **more)  # type: ignore[arg-type]


def routed(core: Core, command: Command) -> list[GatewayError | None]:
    """Where the outcome of a command appears."""
    outcomes: list[GatewayError | None] = []
    core.commands.route(command, outcomes.append)
    return outcomes


@pytest.mark.parametrize(
    ("query", "headers"),
    [("&ack=true", {}), ("&ack=TRUE", {"ack": "false"}), ("", {"ack": "true"})],
)
async def test_a_device_that_wants_an_acknowledgement_gets_its_command(
    core: Core, call: Caller, query: str, headers: Mapping[str, str]
) -> None:
    waiting = asyncio.create_task(call("GET", TELEMETRY + query, headers=headers))
    await until(lambda: core.commands.is_listening("acme", DEVICE) or _is_served(core))
    outcomes = routed(core, a_command())
    answer = await waiting

    assert answer.status == 200
    assert json.loads(answer.body) == {DEVICE: {"downlinkData": "00ff10ee20dd30cc"}}
    assert answer.headers["content-type"].startswith("application/json")
    await until(lambda: outcomes == [None])
    assert core.consumer.messages[0].ttd == 20
    assert counted(core, Adapter.SIGFOX, "command") == {"forwarded"}


def _is_served(core: Core) -> bool:
    """True once the upload has come through: its device listens from before that."""
    return bool(core.consumer.messages)


@pytest.mark.parametrize("query", ["", "&ack=false", "&ack=1", "&ack="])
async def test_who_wants_no_acknowledgement_does_not_wait(
    core: Core, call: Caller, query: str
) -> None:
    assert (await call("GET", TELEMETRY + query)).status == 204
    assert core.consumer.messages[0].ttd is None
    assert isinstance(routed(core, a_command())[0], NoConsumer)


async def test_without_a_command_the_wait_ends_with_204(core: Core) -> None:
    async with (
        a_sigfox_adapter(core, ttd_when_ack_required=1) as url,
        aiohttp.ClientSession(headers=basic(*GATEWAY)) as http,
    ):
        assert (await Caller(http, url)("GET", TELEMETRY + "&ack=true")).status == 204
    assert core.consumer.messages[0].ttd == 1
    assert counted(core, Adapter.SIGFOX, "expired") == {"forwarded"}


async def test_the_wait_can_be_switched_off(core: Core) -> None:
    async with (
        a_sigfox_adapter(core, ttd_when_ack_required=0) as url,
        aiohttp.ClientSession(headers=basic(*GATEWAY)) as http,
    ):
        assert (await Caller(http, url)("GET", TELEMETRY + "&ack=true")).status == 204
    assert core.consumer.messages[0].ttd is None


@pytest.mark.parametrize(
    "command",
    [
        a_command(b"seven.."),
        a_command(b"nine....."),
        a_command(b""),
        a_command(reply_to="command_response/acme/r", correlation_id="c"),
    ],
    ids=["too short", "too long", "empty", "wants an answer"],
)
async def test_a_command_that_no_device_can_take_is_rejected_and_the_wait_goes_on(
    core: Core, call: Caller, command: Command
) -> None:
    waiting = asyncio.create_task(call("GET", TELEMETRY + "&ack=true"))
    await until(lambda: _is_served(core))
    outcomes = routed(core, command)
    await until(lambda: bool(outcomes))
    error = outcomes[0]
    assert isinstance(error, Rejected)
    assert error.message == "malformed command message"

    assert routed(core, a_command()) is not None
    assert (await waiting).status == 200


# --- hostile callbacks --------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    query=st.dictionaries(
        st.sampled_from(["device", "data", "ack", "sigfox.x", "hono-ttl", ""])
        | st.text(max_size=8),
        st.sampled_from(["00", "0", "g", "true"]) | st.text(max_size=8),
        max_size=6,
    ),
    path=st.text(max_size=20),
)
def test_no_query_breaks_the_reading(query: dict[str, str], path: str) -> None:
    pairs = "&".join(
        f"{quote(n, errors='replace')}={quote(v, errors='replace')}" for n, v in query.items()
    )
    request = Request(target=f"/data/telemetry/acme?{pairs}")
    try:
        upload = make_upload(request, Kind.TELEMETRY, Principal("acme", "gw-1", "gw"))
    except BadRequest:
        pass
    else:
        assert upload.device
    parse_path(path)


@given(
    header=st.text(max_size=40)
    | st.binary(max_size=30).map(lambda raw: f"Basic {base64.b64encode(raw).decode()}")
)
def test_no_credentials_break_the_reading(header: str) -> None:
    assert isinstance(plain_login(header), str)
