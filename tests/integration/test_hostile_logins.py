"""Logins that mean harm: floods of wrong passwords, SASL that is wrong or never ends, names without end."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.config.hono import AmqpAdapter as AmqpSettings
from gateway.config.hono import MqttAdapter as MqttSettings
from gateway.errors import StoreUnavailable, Unauthenticated
from gateway.hono import credentials
from gateway.hono.adapters.amqp import AmqpAdapter
from gateway.hono.adapters.amqp_device import Rooms as AmqpRooms
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms as MqttRooms
from gateway.model.message import Adapter, Principal
from gateway.runtime.module import running
from gateway.runtime.passwords import NICENESS, HashPool
from gateway.wire.amqp.limits import Limits
from gateway.wire.amqp.performatives import SASL, SaslInit
from tests.hono_rig import FREE, Core, a_core, a_fleet, an_http_adapter, curl, until
from tests.mqtt_peers import paho_client

SASL_HEADER = b"AMQP\x03\x01\x00\x00"


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        await a_fleet(core)
        yield core


def rooms(core: Core) -> Any:
    return {
        "ingress": core.ingress,
        "commands": core.commands,
        "authenticator": core.authenticator,
        "admission": core.connections,
        "assertions": core.registry,
    }


# --- wrong passwords ----------------------------------------------------------------------------------


async def test_a_flood_of_wrong_passwords_holds_up_no_other_device(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown users share one line, and so do the guesses at one device: a third waits for two hashes."""
    order: list[bytes] = []
    check = core.registry.passwords.check

    def noted(secrets: Any, password: bytes, done: Any) -> None:
        order.append(password)
        check(secrets, password, done)

    monkeypatch.setattr(core.registry.passwords, "check", noted)
    monkeypatch.setattr(credentials, "MAX_IN_LINE", 10)
    answers: dict[str, list[Any]] = {"strangers": [], "gateway": [], "device": []}

    def attempt(who: str, name: str, password: bytes) -> None:
        core.authenticator.check_password(name, password, Adapter.MQTT, answers[who].append)

    known: list[Any] = []  # a cold registry is another matter
    core.registry.find_tenant("acme", known.append)
    core.registry.find_credential("acme", "hashed-password", "sensor1", known.append)
    await until(lambda: len(known) == 2)
    for at in range(200):
        attempt("strangers", f"nobody{at}@acme", b"guess %d" % at)
        attempt("gateway", "gw@acme", b"guess %d" % at)
    attempt("device", "sensor1@acme", b"pw")
    await until(lambda: bool(answers["device"]))
    assert isinstance(answers["device"][0], Principal)
    assert order.index(b"pw") <= 4
    await until(lambda: all(len(answers[who]) == 200 for who in ("strangers", "gateway")))
    busy = [type(a) for a in answers["gateway"]].count(StoreUnavailable)
    assert busy == 190  # the line of one credential is bounded, and says so
    assert {type(a) for a in answers["strangers"]} == {Unauthenticated}
    attempt("gateway", "gw@acme", b"pw")
    await until(lambda: isinstance(answers["gateway"][-1], Principal))


async def test_a_fleet_with_one_password_comes_in_with_one_check(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[bytes] = []
    check = core.registry.passwords.check

    def noted(secrets: Any, password: bytes, done: Any) -> None:
        hashed.append(password)
        check(secrets, password, done)

    monkeypatch.setattr(core.registry.passwords, "check", noted)
    answers: list[Any] = []
    for _ in range(900):
        core.authenticator.check_password("sensor1@acme", b"pw", Adapter.MQTT, answers.append)
    core.authenticator.check_password("sensor1@acme", b"guess", Adapter.MQTT, answers.append)
    await until(lambda: len(answers) == 901)
    assert [type(a) for a in answers].count(Principal) == 900
    assert sorted(hashed) == [b"guess", b"pw"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
def test_hashing_gives_way_to_the_loop() -> None:
    pool = HashPool(max_queue=1)
    try:
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        found = pool.submit(
            lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        ).result()
        assert found == min(19, max(own, NICENESS))
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
    finally:
        pool.close()


@pytest.mark.parametrize("size", [1_025, 60_000])
async def test_names_and_passwords_without_end_are_refused_unhashed(
    core: Core, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(core.registry.passwords, "check", lambda *_args: pytest.fail("hashed"))
    settings = MqttSettings(bind=FREE)
    adapter = MqttAdapter(settings, core.endpoints, core.metrics, MqttRooms(**rooms(core)))
    logins: Any = (
        ("x" * size + "@acme", "pw"),
        ("sensor1@acme", "x" * size),
        ("\u00e9" * 1_025, ""),
    )
    async with running(adapter):
        for username, password in logins:
            async with paho_client(
                core.endpoints.get("hono.mqtt"), username=username, password=password
            ) as device:
                done = {
                    asyncio.ensure_future(wait)
                    for wait in (device.connack(), device.disconnected())
                }
                finished, rest = await asyncio.wait(done, return_when=asyncio.FIRST_COMPLETED)
                for task in rest:
                    task.cancel()
                assert finished.pop().result() in (
                    134,
                    None,
                )  # an oversized packet ends the connection


async def test_over_http_a_long_login_is_refused(core: Core) -> None:
    async with an_http_adapter(core) as url:
        long = ("-u", "x" * 2_000 + "@acme:pw", "-d", "x", f"{url}/telemetry")
        assert (await curl(*long))[0] == 401
        longer = ("-H", "Authorization: Bearer " + "x" * 20_000, "-d", "x", f"{url}/telemetry")
        assert (await curl(*longer))[0] == 431


# --- SASL ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def amqp(core: Core) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    settings = AmqpSettings(bind=FREE)
    adapter = AmqpAdapter(settings, core.endpoints, core.metrics, AmqpRooms(**rooms(core)))
    async with running(adapter):
        host, _, port = core.endpoints.get("hono.amqp").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.close()


def sasl_init(mechanism: str, response: bytes) -> bytes:
    body = SASL.write(SaslInit(mechanism=mechanism, initial_response=response))
    return (len(body) + 8).to_bytes(4) + b"\x02\x01\x00\x00" + body


async def outcome(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(20):
        return await reader.read()


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("EXTERNAL", b""),
        ("ANONYMOUS", b""),
        ("SCRAM-SHA-256", b"n,,n=x,r=y"),
        ("PLAIN", b""),
        ("PLAIN", b"\0"),
        ("PLAIN", b"\0\0"),
        ("PLAIN", b"\0sensor1@acme"),
        ("PLAIN", b"\0\xff\xfe@acme\0pw"),
        ("PLAIN", b"\0" + b"x" * 4_000 + b"@acme\0pw"),
        ("PLAIN", b"\0" * 4_000),
    ],
)
async def test_sasl_that_proves_nobody_ends_with_an_outcome(
    core: Core, mechanism: str, response: bytes
) -> None:
    async with amqp(core) as (reader, writer):
        writer.write(SASL_HEADER + sasl_init(mechanism, response))
        said = await outcome(reader)
    assert b"\x00\x53\x44" in said  # sasl-outcome
    assert said.rstrip(b"\x40")[-1:] == b"\x01"  # code auth
    assert core.connections.count("acme") == 0


@pytest.mark.parametrize(
    "said",
    [
        SASL_HEADER + sasl_init("PLAIN", b"\0sensor1@acme\0" + b"x" * 9_000),
        SASL_HEADER + b"\x00\x00\x00\x07\x02\x01\x00\x00",
        SASL_HEADER + b"\xff\xff\xff\xff\x02\x01\x00\x00",
        SASL_HEADER + SASL_HEADER,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_sasl_ends_the_socket(core: Core, said: bytes) -> None:
    async with amqp(core) as (reader, writer):
        writer.write(said)
        await outcome(reader)
    assert core.connections.count("acme") == 0


@pytest.mark.parametrize(
    "said",
    [b"", b"AMQP", SASL_HEADER, SASL_HEADER + sasl_init("PLAIN", b"\0sensor1@acme\0pw")[:20]],
)
async def test_sasl_that_stops_half_way_ends_by_time(
    core: Core, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(Limits.__init__, "__kwdefaults__", _with(Limits, handshake_timeout=0.1))
    async with amqp(core) as (reader, writer):
        writer.write(said)
        await outcome(reader)


def _with(cls: Any, **defaults: Any) -> dict[str, Any]:
    return {**cls.__init__.__kwdefaults__, **defaults}


async def test_a_login_without_open_ends_by_time(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Limits.__init__, "__kwdefaults__", _with(Limits, handshake_timeout=0.3))
    async with amqp(core) as (reader, writer):
        writer.write(SASL_HEADER + sasl_init("PLAIN", b"\0sensor1@acme\0pw"))
        assert b"\x00\x53\x44" in await outcome(reader)
    assert core.connections.count("acme") == 0
