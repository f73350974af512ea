"""Devices that log in with tokens, and what credentials may ask for beside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from paho.mqtt import client as paho

from gateway.config.hono import MqttAdapter as Settings
from gateway.errors import GatewayError, Unauthenticated
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms
from gateway.hono.authentication import DeviceAuthenticator
from gateway.model.login import Login
from gateway.model.message import Adapter, Principal
from gateway.runtime.module import running
from tests.device_pki import a_key, public_der
from tests.hono_rig import FREE, Core, a_core, a_fleet, an_http_adapter, curl, until
from tests.mqtt_peers import paho_client

V311, V50 = int(paho.MQTTv311), int(paho.MQTTv5)
KEY = a_key()
HONO: Any = {"aud": "hono-adapter", "tid": "acme", "sub": "sensor1"}


def rpk(auth_id: str = "sensor1", **more: Any) -> Any:
    secret = {"key": public_der(KEY), "algorithm": "EC", **more.pop("secret", {})}
    return {"type": "rpk", "auth-id": auth_id, "secrets": [secret], **more}


def a_token(key: Any = KEY, life: float = 3_600, **claims: Any) -> str:
    now = int(time.time())
    return jwt.encode({"iat": now, "exp": int(now + life), **claims}, key, "ES256")


async def add(core: Core, device: str, *credentials: Any) -> None:
    stored, version = await core.registry.read_credentials("acme", device)
    await core.registry.update_credentials("acme", device, [*stored, *credentials], version)


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        await a_fleet(core)
        await add(core, "d1", rpk())
        yield core


@asynccontextmanager
async def mqtt(core: Core, **changes: Any) -> AsyncIterator[str]:
    rooms = Rooms(
        ingress=core.ingress,
        commands=core.commands,
        authenticator=core.authenticator,
        admission=core.connections,
        assertions=core.registry,
    )
    settings = Settings(bind=FREE, **changes)
    async with running(MqttAdapter(settings, core.endpoints, core.metrics, rooms)):
        yield core.endpoints.get("hono.mqtt")


async def connack(address: str, version: int = V311, **more: Any) -> int:
    async with paho_client(address, version, **more) as device:
        return await device.connack()


async def login(core: Core, **said: Any) -> Principal | GatewayError:
    future: asyncio.Future[Principal | GatewayError] = asyncio.get_running_loop().create_future()
    core.authenticator.check_login(Login(**said), Adapter.MQTT, future.set_result)
    return await future


# --- tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V311, V50])
async def test_a_token_is_an_mqtt_password(core: Core, version: int) -> None:
    async with mqtt(core) as address:
        token = a_token(**HONO)
        assert await connack(address, version, username="ignored", password=token) == 0
        wrong = a_token(a_key(), **HONO)
        assert await connack(address, version, username="ignored", password=wrong) == 134


async def test_the_client_identifier_names_tenant_and_device(core: Core) -> None:
    client = "projects/p/tenants/acme/devices/sensor1"
    async with mqtt(core) as address:
        more: Any = {"username": "unused", "password": a_token(aud="p")}
        assert await connack(address, client_id=client, **more) == 0
        assert await connack(address, client_id="tenants/acme/devices/gw", **more) == 134
        assert await connack(address, client_id="plain", **more) == 134


async def test_a_password_with_dots_is_still_a_password(core: Core) -> None:
    plain = "eyJhIjoxfQ.eyJhIjoxfQ.x"
    await core.device("acme", "d7")
    secret: Any = {"type": "hashed-password", "auth-id": "s7", "secrets": [{"pwd-plain": plain}]}
    await add(core, "d7", secret)
    async with mqtt(core) as address:
        assert await connack(address, username="s7@acme", password=plain) == 0


async def test_a_session_ends_when_its_token_does(core: Core) -> None:
    past = int(time.time()) - 600 + 1
    token = jwt.encode({"iat": past - 60, "exp": past, **HONO}, KEY, "ES256")
    async with (
        mqtt(core) as address,
        paho_client(address, V50, username="x", password=token) as device,
    ):
        assert await device.connack() == 0
        await device.disconnected()
    assert device.gone_reasons == [135]
    await until(lambda: core.connections.count("acme") == 0)


async def test_a_bearer_token_is_a_login_over_http(core: Core) -> None:
    async with an_http_adapter(core) as url:

        async def post(token: str, *more: str, path: str = "/telemetry") -> int:
            bearer = ("-H", f"Authorization: Bearer {token}", "-d", "x")
            return (await curl(*bearer, *more, f"{url}{path}"))[0]

        assert await post(a_token(**HONO)) == 202
        assert await post(a_token(**HONO)[:-2]) == 401
        assert await post(a_token()) == 401
        # the address names the tenant and, as auth-id, who sends
        await core.device("acme", "sensor9")
        await add(core, "sensor9", rpk("sensor9"))
        assert await post(a_token(), "-X", "PUT", path="/telemetry/acme/sensor9") == 202
        assert await post(a_token(), "-X", "PUT", path="/event/acme/sensor1") == 404


async def test_a_key_that_is_taken_away_is_no_proof_from_then_on(core: Core) -> None:
    token = a_token(**HONO)
    assert isinstance(await login(core, token=token), Principal)
    off = rpk(enabled=False)
    await core.registry.update_credentials("acme", "d1", [off], None)
    assert isinstance(await login(core, token=token), Unauthenticated)
    over = rpk(secret={"not-after": "2021-01-01T00:00:00Z"})
    await core.registry.update_credentials("acme", "d1", [over], None)
    assert isinstance(await login(core, token=token), Unauthenticated)
    await core.registry.update_credentials("acme", "d1", [rpk()], None)
    assert isinstance(await login(core, token=token), Principal)


async def test_a_token_is_not_remembered_beyond_its_life(core: Core) -> None:
    now = time.time()
    clock = [now]
    authenticator = DeviceAuthenticator(core.registry, clock=lambda: clock[0])
    token = a_token(life=30, **HONO)
    answers: list[Any] = []
    for later in (0.0, 20.0, 631.0):
        clock[0] = now + later
        authenticator.check_login(Login(token=token), Adapter.HTTP, answers.append)
        await until(lambda: len(answers) > [0.0, 20.0, 631.0].index(later))  # noqa: B023  waited for here
    assert [type(answer) for answer in answers] == [Principal, Principal, Unauthenticated]


async def test_the_issuer_has_to_be_the_one_that_the_credential_asks_for(core: Core) -> None:
    await core.device("acme", "d8")
    await add(core, "d8", rpk("s8", ext={"iss": "factory"}))
    claims = {**HONO, "sub": "s8"}
    assert isinstance(await login(core, token=a_token(**claims)), Unauthenticated)
    assert isinstance(await login(core, token=a_token(**claims, iss="factory")), Principal)


# --- what credentials ask for -------------------------------------------------------------------------


async def test_a_credential_may_ask_for_a_client_identifier(core: Core) -> None:
    await core.device("acme", "d7")
    bound: Any = {
        "type": "hashed-password",
        "auth-id": "s7",
        "secrets": [{"pwd-plain": "pw"}],
        "ext": {"client-id": "pump-7", "other": 1},
    }
    await add(core, "d7", bound)
    more: Any = {"username": "s7@acme", "password": "pw"}
    async with mqtt(core) as address:
        for _ in range(2):
            assert await connack(address, client_id="pump-7", **more) == 0
            assert await connack(address, client_id="pump-8", **more) == 134


async def test_a_token_is_good_for_the_client_that_its_credential_asks_for(core: Core) -> None:
    bound = rpk(ext={"client-id": "pump-7"})
    await core.registry.update_credentials("acme", "d1", [bound], None)
    token = a_token(**HONO)
    for client, kind in (("pump-7", Principal), ("pump-8", Unauthenticated)) * 2:
        assert isinstance(await login(core, token=token, context={"client-id": client}), kind)


# --- devices without credentials ----------------------------------------------------------------------


async def test_a_tenant_may_demand_credentials_where_the_adapter_does_not(core: Core) -> None:
    def adapters(**more: Any) -> Any:
        kinds = ("hono-http", "hono-mqtt")
        return {"adapters": [{"type": kind, "enabled": True, **more} for kind in kinds]}

    demanded = adapters(**{"device-authentication-required": True})
    async with (
        an_http_adapter(core, authentication_required=False) as url,
        mqtt(core, authentication_required=False) as address,
    ):

        async def put() -> int:
            return (await curl("-X", "PUT", "-d", "x", f"{url}/telemetry/acme/d1"))[0]

        async def subscribe() -> list[int]:
            async with paho_client(address) as device:
                assert await device.connack() == 0
                return await device.subscribe(("command/acme/d1/req/#", 1))

        for body, status, code in (
            ({}, 202, 1),
            (demanded, 401, 128),
            (adapters(**{"device-authentication-required": False}), 202, 1),
            (adapters(), 202, 1),
        ):
            await core.registry.update_tenant("acme", body, None)
            assert (await put(), await subscribe()) == (status, [code])
        await core.registry.update_tenant("acme", demanded, None)
        login = ("-u", "sensor1@acme:pw", "-X", "PUT", "-d", "x")
        assert (await curl(*login, f"{url}/telemetry/acme/d1"))[0] == 202
