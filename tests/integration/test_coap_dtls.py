"""CoAP over DTLS: libcoap's clients on OpenSSL and GnuTLS as devices, and a peer that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import shutil
import sys
import weakref
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidSetting
from gateway.hono.adapters.coap import CoapAdapter
from gateway.hono.adapters.coap_keys import CoapKeys
from gateway.model.json import Json, JsonObject
from gateway.model.message import Command, Principal
from gateway.runtime import dtls, dtls_library
from gateway.runtime.dtls import Key, datagrams_of, identity_in, is_hello
from gateway.wire.coap import options
from gateway.wire.coap.codec import POST, PUT
from tests.coap_rig import a_coap_adapter, coap_client, with_a_key
from tests.device_pki import issue
from tests.dtls_peer import DtlsDevice, a_dtls_device
from tests.hono_rig import Core, a_core, a_fleet, until

OPENSSL = shutil.which("coap-client-openssl") or ""
GNUTLS = shutil.which("coap-client-gnutls") or ""
CLIENTS = pytest.mark.parametrize(
    "client",
    [
        pytest.param(program, id=name, marks=pytest.mark.skipif(not program, reason="no libcoap"))
        for name, program in (("openssl", OPENSSL), ("gnutls", GNUTLS))
    ],
)
SENSOR = (b"sensor1@acme", b"secret")


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        await a_fleet(core)
        await with_a_key(core, "d1", "sensor1", "secret")
        await with_a_key(core, "gw-1", "gw", "gw-secret")
        yield core


@pytest.fixture
async def adapter(core: Core) -> AsyncIterator[CoapAdapter]:
    async with a_coap_adapter(core, authentication_required=True) as adapter:
        yield adapter


def url(core: Core, path: str) -> str:
    return f"coaps://{core.endpoints.get('hono.coaps')}/{path}"


def sessions(core: Core) -> float:
    return core.sample("twinspan_coap_dtls_sessions")


def handshakes(core: Core, outcome: str) -> float:
    return core.sample("twinspan_coap_dtls_handshakes_total", outcome=outcome)


async def libcoap(client: str, core: Core, path: str, *more: str, key: str = "secret") -> str:
    """POST as device d1, or as `more` says."""
    user = () if "-u" in more else ("-u", "sensor1@acme")
    given = ("-m", "post", "-k", key, "-e", "x", "-v", "6", "-B", "10")
    return await coap_client(*given, *user, *more, url(core, path), program=client)


# --- keys ------------------------------------------------------------------------------------------


@CLIENTS
async def test_a_device_proves_itself_with_its_key(
    core: Core, adapter: CoapAdapter, client: str
) -> None:
    assert "c:2.04" in await libcoap(client, core, "telemetry", "-t", "50")
    assert "c:2.04" in await libcoap(
        client, core, "event//d2", "-m", "put", "-u", "gw@acme", key="gw-secret"
    )
    assert [(m.device, m.via, m.qos) for m in core.consumer.messages] == [
        ("d1", None, 1),
        ("d2", "gw-1", 1),
    ]
    assert core.consumer.messages[0].content_type == "application/json"
    assert handshakes(core, "key") == 2


@CLIENTS
@pytest.mark.parametrize("user", ["nobody@acme", "sensor1@nowhere", "sensor1", "@acme", "sensor1@"])
async def test_an_identity_that_nobody_has_fails_the_handshake(
    core: Core, adapter: CoapAdapter, client: str, user: str
) -> None:
    text = await libcoap(client, core, "telemetry", "-u", user)
    assert "2.04" not in text
    assert handshakes(core, "failed") == 1
    assert sessions(core) == 0
    assert not core.consumer.messages


@CLIENTS
async def test_a_wrong_key_gets_nowhere(core: Core, adapter: CoapAdapter, client: str) -> None:
    text = await libcoap(client, core, "telemetry", "-B", "1", key="wrong")
    assert "2.04" not in text
    assert handshakes(core, "key") == 0
    assert not core.consumer.messages


@pytest.mark.parametrize(
    "change",
    [
        {"enabled": False},
        {"secrets": [{"key": "c2VjcmV0", "enabled": False}]},
        {"secrets": [{"key": "c2VjcmV0", "not-after": "2021-01-01T00:00:00Z"}]},
        {"secrets": [{"key": "c2VjcmV0", "not-before": "2090-01-01T00:00:00Z"}]},
    ],
)
async def test_a_key_that_is_not_valid_now_is_none(core: Core, change: JsonObject) -> None:
    secret: JsonObject = {"type": "psk", "auth-id": "sensor1", "secrets": [{"key": "c2VjcmV0"}]}
    await core.registry.update_credentials("acme", "d1", [{**secret, **change}], None)
    found: list[Key[Principal] | None] = []
    CoapKeys(core.registry, core.authenticator).find_key(SENSOR[0], found.append)
    await until(lambda: bool(found))
    assert found == [None]


async def test_of_several_secrets_the_first_valid_one_counts(core: Core) -> None:
    secrets: list[Json] = [
        {"key": "b2xk", "not-after": "2021-01-01T00:00:00Z"},
        {"key": "bmV3", "not-after": "2090-01-01T00:00:00Z"},
        {"key": "bmV4dA=="},
    ]
    credential: Json = {"type": "psk", "auth-id": "sensor1", "secrets": secrets}
    await core.registry.update_credentials("acme", "d1", [credential], None)
    found: list[Key[Principal] | None] = []
    keys = CoapKeys(core.registry, core.authenticator)
    keys.find_key(b"\xff", found.append)
    keys.find_key(b"sensor1@acme", found.append)
    await until(lambda: len(found) == 2)
    assert found[0] is None
    assert found[1] is not None
    assert (found[1].secret, found[1].owner.device) == (b"new", "d1")
    assert found[1].until == datetime(2090, 1, 1, tzinfo=UTC).timestamp()


# --- sessions --------------------------------------------------------------------------------------


async def test_a_session_lasts_and_commands_come_through_it(
    core: Core, adapter: CoapAdapter
) -> None:
    async with a_dtls_device(core.endpoints.get("hono.coaps"), *SENSOR) as device:
        await device.shake_hands()
        for _ in range(3):
            assert (await device.ask("t", code=POST)).code == 0x44
        asking = asyncio.ensure_future(device.ask("t?hono-ttd=20", code=POST))
        await until(lambda: core.commands.is_listening("acme", "d1"))
        command = Command(tenant="acme", device="d1", name="blink", payload=b"w" * 3_000)
        outcomes: list[object] = []
        await until(lambda: len(core.consumer.messages) == 4)
        core.commands.route(command, outcomes.append)
        answer = await asking
        assert answer.all(options.LOCATION_PATH) == [b"c"]
        assert len(answer.payload) == 1_024
        assert outcomes == [None]
        assert sessions(core) == 1
        assert handshakes(core, "key") == 1


async def test_new_credentials_end_the_session(core: Core, adapter: CoapAdapter) -> None:
    async with a_dtls_device(core.endpoints.get("hono.coaps"), *SENSOR) as device:
        await device.shake_hands()
        assert (await device.ask("t", code=POST)).code == 0x44
        await with_a_key(core, "gw-1", "gw", "other")
        assert sessions(core) == 1
        await with_a_key(core, "d1", "sensor1", "other")
        await until(lambda: device.is_over)
        assert sessions(core) == 0


async def test_a_key_ends_in_the_middle_of_a_session(core: Core, adapter: CoapAdapter) -> None:
    async with a_dtls_device(core.endpoints.get("hono.coaps"), *SENSOR) as device:
        await device.shake_hands()
        await until(lambda: sessions(core) == 1)
        assert adapter._sessions is not None
        (session,) = adapter._sessions._sessions.values()
        session.until = 0.0
        with pytest.raises(IndexError):
            await device.ask("t", code=POST)
        assert sessions(core) == 0
        assert not core.consumer.messages


async def test_a_device_that_begins_anew_from_its_port_is_taken(
    core: Core, adapter: CoapAdapter
) -> None:
    address = core.endpoints.get("hono.coaps")
    async with a_dtls_device(address, *SENSOR) as device:
        await device.shake_hands()
        assert (await device.ask("t", code=POST)).code == 0x44
        again = DtlsDevice(*SENSOR)
        again.transport = device.transport
        device.datagram_received = again.datagram_received  # type: ignore[method-assign]
        await again.shake_hands()
        assert (await again.ask("t", code=POST)).code == 0x44
        assert sessions(core) == 1
        assert handshakes(core, "key") == 2


async def test_lost_flights_of_the_handshake_are_sent_again(
    core: Core, adapter: CoapAdapter
) -> None:
    async with a_dtls_device(core.endpoints.get("hono.coaps"), *SENSOR) as device:
        device.mute_after = 2  # the hello with its cookie
        device.step()
        await until(lambda: sessions(core) == 1)
        device.mute_after = None
        await until(lambda: device.is_open)
        assert (await device.ask("t", code=POST)).code == 0x44


async def test_silent_and_unfinished_sessions_end(core: Core) -> None:
    async with (
        a_coap_adapter(core, authentication_required=True, session_idle_timeout=100) as adapter,
        a_dtls_device(core.endpoints.get("hono.coaps"), *SENSOR) as device,
        a_dtls_device(core.endpoints.get("hono.coaps"), *SENSOR) as unfinished,
    ):
        await device.shake_hands()
        await until(lambda: sessions(core) == 1)
        unfinished.mute_after = 2
        unfinished.step()
        await until(lambda: sessions(core) == 2)
        assert adapter._sessions is not None
        now = adapter._sessions.clock()
        adapter._sessions.clock = lambda: now + dtls.HANDSHAKE_SECONDS + 1
        adapter._sweep()
        assert sessions(core) == 1
        adapter._sessions.clock = lambda: now + 101
        adapter._sweep()
        assert sessions(core) == 0
        await until(lambda: device.is_over)


async def test_over_the_limit_a_new_device_waits_or_takes_a_stale_place(core: Core) -> None:
    async with a_coap_adapter(core, authentication_required=True, max_sessions=1) as adapter:
        address = core.endpoints.get("hono.coaps")
        async with (
            a_dtls_device(address, *SENSOR) as first,
            a_dtls_device(address, b"gw@acme", b"gw-secret") as second,
        ):
            await first.shake_hands()
            second.step()
            await until(lambda: handshakes(core, "full") == 1)
            assert sessions(core) == 1
            assert adapter._sessions is not None
            now = adapter._sessions.clock()
            adapter._sessions.clock = lambda: now + dtls.STALE_SECONDS
            second.transport.sendto(second.flights[-1])
            await until(lambda: second.is_open)
            assert first.is_over
            assert sessions(core) == 1


async def test_the_end_of_the_adapter_tells_its_devices(core: Core) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(a_coap_adapter(core, authentication_required=True))
        address = core.endpoints.get("hono.coaps")
        async with a_dtls_device(address, *SENSOR) as device:
            await device.shake_hands()
            await until(lambda: sessions(core) == 1)
            await stack.aclose()
            await until(lambda: device.is_over)
    assert sessions(core) == 0


async def test_an_ended_session_leaves_nothing_but_its_last_answers(
    core: Core, adapter: CoapAdapter
) -> None:
    async with a_dtls_device(core.endpoints.get("hono.coaps"), *SENSOR) as device:
        await device.shake_hands()
        assert (await device.ask("t", code=POST)).code == 0x44
        assert adapter._sessions is not None
        kept = weakref.ref(next(iter(adapter._sessions._sessions.values())))
        device.say_goodbye()
        await until(lambda: sessions(core) == 0)
    gc.collect()
    assert kept() is None
    assert adapter.exchanges.remembered == 1


async def test_a_key_that_is_looked_up_slowly_is_waited_for(
    core: Core, adapter: CoapAdapter
) -> None:
    assert adapter._sessions is not None
    asked: list[Any] = []
    doorman = adapter._sessions.doorman
    adapter._sessions.doorman = dtls.Doorman(lambda i, d: asked.append((i, d)), doorman.judge)
    async with a_dtls_device(core.endpoints.get("hono.coaps"), *SENSOR) as device:
        device.step()
        await until(lambda: bool(asked))
        for flight in device.flights[-1:] * 20:
            device.transport.sendto(flight)  # repeated while it is looked up: bounded, asked once
        (identity, done) = asked[0]
        assert identity == b"sensor1@acme"
        doorman.find_key(identity, done)
        await until(lambda: device.is_open)
        assert (await device.ask("t", code=POST)).code == 0x44
        assert len(asked) == 1


# --- certificates ----------------------------------------------------------------------------------


async def test_a_device_proves_itself_with_its_certificate(core: Core, tmp_path: Path) -> None:
    authority = issue("CN=Acme CA,O=Acme")
    trusted: JsonObject = {"trusted-ca": [authority.anchor()]}
    await core.registry.update_tenant("acme", trusted, None)
    credential: Json = {"type": "x509-cert", "auth-id": "CN=d1,O=Acme", "secrets": [{}]}
    await core.registry.update_credentials("acme", "d1", [credential], None)
    device = issue("CN=d1,O=Acme", authority).save(tmp_path, "d1")
    stranger = issue("CN=d1,O=Acme", issue("CN=Acme CA,O=Acme")).save(tmp_path, "stranger")
    server = issue("CN=localhost").save(tmp_path, "server")
    async with a_coap_adapter(core, authentication_required=True, files=(server, server)):
        address = core.endpoints.get("hono.coaps")
        async with a_dtls_device(address, file=device) as peer:
            await peer.shake_hands()
            assert (await peer.ask("t", code=POST)).code == 0x44
        async with a_dtls_device(address, file=stranger) as peer:
            await peer.shake_hands()
            await until(lambda: peer.is_over)
        if OPENSSL:
            more = ("-m", "post", "-e", "x", "-v", "6", "-B", "10", "-n", "-c", str(device))
            text = await coap_client(*more, url(core, "e"), program=OPENSSL)
            assert "c:2.04" in text
    assert {m.device for m in core.consumer.messages} == {"d1"}
    assert handshakes(core, "certificate") == len(core.consumer.messages)
    assert handshakes(core, "refused") == 1


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "none.pem"
    with pytest.raises(InvalidSetting, match=r"hono\.tls\.certificate.*none\.pem"):
        dtls_library.DtlsLibrary(lambda *_: None, (file, file))


# --- strangers -------------------------------------------------------------------------------------


async def test_strangers_get_a_cookie_smaller_than_their_hello_and_no_state(
    core: Core, adapter: CoapAdapter
) -> None:
    async with a_dtls_device(core.endpoints.get("hono.coaps"), *SENSOR) as device:
        got: list[bytes] = []
        device.datagram_received = lambda data, addr: got.append(data)  # type: ignore[method-assign]
        device.step()
        await until(lambda: bool(got))
        assert len(got[0]) <= len(device.flights[0])
        assert sessions(core) == 0


async def test_a_cookie_is_good_for_its_address_alone(core: Core, adapter: CoapAdapter) -> None:
    address = core.endpoints.get("hono.coaps")
    async with (
        a_dtls_device(address, *SENSOR) as device,
        a_dtls_device(address, *SENSOR) as thief,
    ):
        got: list[bytes] = []
        thief.datagram_received = lambda data, addr: got.append(data)  # type: ignore[method-assign]
        device.mute_after = 2
        device.step()
        await until(lambda: len(device.flights) == 2)
        thief.transport.sendto(device.flights[1])
        await until(lambda: bool(got))
        assert got[0][13] == 3  # another request to show a cookie
        assert sessions(core) == 1


async def test_garbage_harms_neither_the_socket_nor_a_session(
    core: Core, adapter: CoapAdapter
) -> None:
    dice = random.Random(5)
    async with a_dtls_device(core.endpoints.get("hono.coaps"), *SENSOR) as device:
        device.step()
        hello = device.flights[0]
        await device.shake_hands()
        for number in range(2_000):
            data = bytearray(dice.choice((hello, device.flights[-1], dice.randbytes(40))))
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            device.transport.sendto(bytes(data[: dice.randrange(1, len(data) + 1)]))
            if number % 50 == 0:
                await asyncio.sleep(0)
        if not device.is_over:
            assert (await device.ask("t", code=POST)).code == 0x44
    async with a_dtls_device(core.endpoints.get("hono.coaps"), *SENSOR) as other:
        await other.shake_hands()
        assert (await other.ask("t/acme/d1", code=PUT)).code == 0x44


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_can_be_looked_at(data: bytes) -> None:
    is_hello(data)
    identity_in(data)
    assert b"".join(datagrams_of(data)) == data[: len(b"".join(datagrams_of(data)))]


def test_without_the_library_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenSSL.SSL", None)
    dtls_library.missing.cache_clear()
    try:
        assert "pip install 'twinspan[coap]'" in (dtls_library.missing() or "")
        with pytest.raises(InvalidSetting, match=r"hono\.coap\.tls"):
            dtls_library.DtlsLibrary(lambda *_: None, None)
    finally:
        dtls_library.missing.cache_clear()
