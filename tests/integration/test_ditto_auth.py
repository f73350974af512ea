"""Who may call: basic, pre-authenticated, tokens of a real (local) OpenID provider; CORS; operators."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from gateway.config.ditto import OpenIdIssuer
from gateway.ditto.auth import read_users, write_users
from gateway.ditto.passwords import PasswordChecks, hash_password
from gateway.ditto.throttle import FREE_TRIES, FREE_TRIES_OF_ADDRESS
from gateway.errors import InvalidSetting, QuotaExceeded, Undeliverable
from tests.ditto_rig import PUMP, USERS, Stack, a_ditto, a_websocket, curl, put


@dataclass
class Provider:
    """An OpenID provider with one RSA and one EC key."""

    issuer: str
    keys: dict[str, Any]
    asked: int = 0

    def token(self, kid: str = "rsa", **claims: Any) -> str:
        body = {"iss": self.issuer, "sub": "alice", "exp": time.time() + 60, **claims}
        algorithm = "ES256" if kid == "ec" else "RS256"
        return jwt.encode(body, self.keys[kid], algorithm=algorithm, headers={"kid": kid})


@asynccontextmanager
async def a_provider() -> AsyncIterator[Provider]:
    keys: dict[str, Any] = {
        "rsa": rsa.generate_private_key(65_537, 2_048),
        "ec": ec.generate_private_key(ec.SECP256R1()),
    }
    provider = Provider("", {**keys, "foreign": rsa.generate_private_key(65_537, 2_048)})

    async def configuration(_request: web.Request) -> web.Response:
        return web.json_response({"jwks_uri": f"{provider.issuer}/keys"})

    async def jwks(_request: web.Request) -> web.Response:
        provider.asked += 1
        public_rsa = json.loads(RSAAlgorithm.to_jwk(keys["rsa"].public_key()))
        public_ec = json.loads(ECAlgorithm.to_jwk(keys["ec"].public_key()))
        found = [{**public_rsa, "kid": "rsa"}, {**public_ec, "kid": "ec"}]
        return web.json_response({"keys": found})

    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", configuration)
    app.router.add_get("/keys", jwks)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield provider
    finally:
        await runner.cleanup()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with a_provider() as made:
        yield made


@pytest.fixture
async def ditto(provider: Provider) -> AsyncIterator[Stack]:
    issuer = OpenIdIssuer(
        name="acme",
        issuer=provider.issuer,
        auth_subjects=(
            "{{ jwt:sub }}",
            "role-{{ jwt:realm/roles }}",
            "{{ jwt:sites | fn:format('{site}#{roles}') | fn:filter('ne','') }}",
            "{{ jwt:admin | fn:filter('eq','true') | fn:replace('true','root') }}",
        ),
        audience="twinspan",
    )
    async with a_ditto(openid=(issuer,), cors_origins=("https://ui.acme.org",)) as stack:
        yield stack


def bearer(token: str) -> list[str]:
    return ["-H", f"Authorization: Bearer {token}"]


async def whoami(stack: Stack, *args: str, user: str = "") -> Any:
    return await curl(f"{stack.api}/whoami", *args, user=user)


async def test_basic_users_are_nginx_subjects(ditto: Stack) -> None:
    found = await whoami(ditto, user="ditto:ditto")
    assert found.json == {"defaultSubject": "nginx:ditto", "subjects": ["nginx:ditto"]}


@pytest.mark.parametrize("user", ["", "ditto:wrong", "nobody:ditto", "devops:foobar", "ditto:"])
async def test_everybody_else_is_told_how_to_log_in(ditto: Stack, user: str) -> None:
    refused = await whoami(ditto, user=user)
    assert (refused.status, refused.error) == (401, "gateway:authentication.failed")
    assert refused.headers["www-authenticate"] == 'Basic realm="Ditto"'
    assert "present Basic credentials" in refused.json["description"]


@pytest.mark.parametrize("header", ["Basic !!!", "Basic bm9jb2xvbg==", "Digest x", "Basic"])
async def test_credentials_that_cannot_be_read_are_refused(ditto: Stack, header: str) -> None:
    refused = await whoami(ditto, "-H", f"Authorization: {header}")
    assert refused.status == 401


async def test_a_token_stands_for_its_subjects(ditto: Stack, provider: Provider) -> None:
    claims: dict[str, Any] = {"aud": "twinspan", "realm": {"roles": ["admin", "user"]}}
    for kid in ("rsa", "ec"):
        found = await whoami(ditto, *bearer(provider.token(kid, **claims)))
        assert found.json["subjects"] == ["acme:alice", "acme:role-admin", "acme:role-user"]
    assert provider.asked == 1, "keys are kept"
    sites = [{"site": "west", "roles": ["r", "w"]}, {"site": "east", "roles": ["r"]}]
    found = await whoami(ditto, *bearer(provider.token(aud="twinspan", sites=sites, admin=True)))
    assert found.json["subjects"] == [
        "acme:alice",
        "acme:west#r",
        "acme:west#w",
        "acme:east#r",
        "acme:root",
    ]
    query = await curl(f"{ditto.api}/whoami?access_token={provider.token(**claims)}", user="")
    assert query.status == 200


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": time.time() - 60}, "gateway:authentication.failed"),
        ({"aud": "other"}, "gateway:authentication.failed"),
        ({"nbf": time.time() + 86_400}, "gateway:authentication.failed"),
        ({"iss": "https://evil.org"}, "gateway:jwt.issuer.notsupported"),
    ],
)
async def test_a_token_that_is_not_good_is_refused(
    ditto: Stack, provider: Provider, claims: dict[str, Any], code: str
) -> None:
    token = provider.token(**{"aud": "twinspan", **claims})
    refused = await whoami(ditto, *bearer(token))
    assert (refused.status, refused.error) == (401, code)


async def test_a_forged_token_is_refused(ditto: Stack, provider: Provider) -> None:
    body = {"iss": provider.issuer, "sub": "alice", "aud": "twinspan", "exp": time.time() + 60}
    forged = jwt.encode(body, provider.keys["foreign"], algorithm="RS256", headers={"kid": "rsa"})
    unsigned = jwt.encode(body, "", algorithm="none", headers={"kid": "rsa"})
    shared = jwt.encode(body, "x" * 32, algorithm="HS256", headers={"kid": "rsa"})
    for token in (forged, unsigned, shared):
        refused = await whoami(ditto, *bearer(token))
        assert (refused.status, refused.error) == (401, "gateway:authentication.failed")
    garbage = await whoami(ditto, *bearer("a.b.c"))
    assert (garbage.status, garbage.error) == (401, "jwt:invalid")


async def test_a_provider_that_is_away_is_503() -> None:
    issuer = OpenIdIssuer(name="acme", issuer="http://127.0.0.1:9")
    async with a_ditto(openid=(issuer,)) as stack:
        token = jwt.encode({"iss": "http://127.0.0.1:9"}, "x" * 32, algorithm="HS256")
        refused = await whoami(stack, *bearer(token))
        assert (refused.status, refused.error) == (503, "gateway:publickey.provider.unavailable")


async def test_a_session_ends_with_its_token_unless_that_is_renewed(
    ditto: Stack, provider: Provider
) -> None:
    claims = {"aud": "twinspan"}
    short = provider.token(exp=time.time() + 1, **claims)
    async with a_websocket(ditto, "", f"?access_token={short}") as client:
        renewed = provider.token(exp=time.time() + 60, **claims)
        await client.socket.send_str(f"JWT-TOKEN?jwtToken={renewed}")
        other = provider.token(sub="bob", **claims)
        await client.socket.send_str(f"JWT-TOKEN?jwtToken={other}")
        closed = await client.envelope()
        assert closed["value"]["error"] == "gateway:websocket.session.closed"
    almost = provider.token(exp=time.time() + 0.3, **claims)
    async with a_websocket(ditto, "", f"?access_token={almost}") as client:
        expired = await client.envelope()
        assert expired["value"]["error"] == "gateway:websocket.session.expired"
        assert (await client.socket.receive(timeout=5)).type.name in ("CLOSE", "CLOSING", "CLOSED")


async def test_the_header_of_a_proxy_counts_only_where_it_is_switched_on(ditto: Stack) -> None:
    header = ["-H", "x-ditto-pre-authenticated: pre:alice,pre:group"]
    assert (await whoami(ditto, *header)).status == 401
    async with a_ditto(pre_authentication=True) as trusting:
        found = await whoami(trusting, *header)
        assert found.json["subjects"] == ["pre:alice", "pre:group"]
        assert (await whoami(trusting, *header, user="ditto:wrong")).status == 200


async def test_operators_and_status_have_their_own_realms(ditto: Stack) -> None:
    logging = f"{ditto.url}/devops/logging"
    assert (await curl(logging, user="devops:foobar")).status == 200
    refused = await curl(logging, user="ditto:ditto")
    assert refused.headers["www-authenticate"] == 'Basic realm="DITTO-DEVOPS"'
    for user in ("status:status", "devops:foobar"):
        found = await curl(f"{ditto.url}/overall/status/health", user=user)
        assert found.json["status"] == "UP"
    assert (await curl(f"{ditto.url}/health", user="")).json == {"status": "UP"}
    assert (await curl(f"{ditto.url}/status", user="")).json["label"] == "roles"


async def test_browsers_of_known_origins_may_call(ditto: Stack) -> None:
    origin = ["-H", "Origin: https://ui.acme.org"]
    preflight = await curl(
        "-X",
        "OPTIONS",
        f"{ditto.api}/things",
        *origin,
        "-H",
        "Access-Control-Request-Headers: authorization",
        user="",
    )
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == "https://ui.acme.org"
    assert preflight.headers["access-control-allow-headers"] == "authorization"
    found = await whoami(ditto, *origin, user="ditto:ditto")
    assert "etag" in found.headers["access-control-expose-headers"]
    foreign = await whoami(ditto, "-H", "Origin: https://evil.org", user="ditto:ditto")
    assert "access-control-allow-origin" not in foreign.headers


async def test_what_a_caller_sent_as_credentials_does_not_travel_with_its_events(
    ditto: Stack,
) -> None:
    async with a_websocket(ditto) as client:
        await client.control("START-SEND-EVENTS")
        await put(f"{ditto.api}/things/{PUMP}", {}, "-H", "my-custom: yes", "-H", "cookie: secret")
        headers = (await client.envelope())["headers"]
    assert headers["my-custom"] == "yes"
    assert not {"authorization", "cookie", "host"} & headers.keys()


# --- passwords --------------------------------------------------------------------------------------


class Slow:
    """A check that counts and waits until it is let go."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, password: bytes, _stored: bytes) -> bool:
        self.calls += 1
        return password == b"right"


async def test_passwords_are_remembered_as_right_or_wrong_with_the_hash_they_were_for() -> None:
    check = Slow()
    passwords = PasswordChecks(check=check)
    for _ in range(3):
        assert await passwords.verify("a", b"right", "$2a$x")
        assert not await passwords.verify("a", b"wrong", "$2a$x")
    assert check.calls == 2
    assert await passwords.verify("a", b"right", "$2a$changed")
    assert not await passwords.verify("a", b"wrong", "$2a$changed")
    assert check.calls == 4, "another hash is another credential"
    assert not await passwords.verify("nobody", b"right", None)
    assert not await passwords.verify("a", b"x" * 73, "$2a$x")
    passwords.close()


async def test_who_guesses_waits_and_whose_password_was_right_once_does_not() -> None:
    passwords = PasswordChecks(seconds=0.0, check=Slow())
    assert await passwords.verify("a", b"right", "$2a$x", "10.0.0.1")
    for _ in range(20):
        assert not await passwords.verify("a", b"the same", "$2a$x", "10.0.0.1")
    for nth in range(FREE_TRIES - 1):
        assert not await passwords.verify("a", b"guess %d" % nth, "$2a$x", "10.0.0.1")
    with pytest.raises(QuotaExceeded) as error:
        await passwords.verify("a", b"one more", "$2a$x", "10.0.0.1")
    assert error.value.status == 429
    assert error.value.code == "gateway:authentication.throttled"
    assert not await passwords.verify("a", b"the same", "$2a$x", "10.0.0.1")
    assert await passwords.verify("a", b"right", "$2a$x", "10.0.0.1")
    with pytest.raises(QuotaExceeded):
        await passwords.verify("a", b"one more", "$2a$x", "10.0.0.1")
    assert not await passwords.verify("a", b"one more", "$2a$x", "10.0.0.2")
    passwords.close()


async def test_many_users_of_one_address_may_come_at_once() -> None:
    passwords = PasswordChecks(check=Slow())
    count = FREE_TRIES_OF_ADDRESS + 20
    many = (passwords.verify(f"u{at}", b"right", "$2a$x", "10.0.0.1") for at in range(count))
    assert all(await asyncio.gather(*many))
    passwords.close()


async def test_who_guesses_with_basic_credentials_is_told_to_wait(ditto: Stack) -> None:
    for nth in range(FREE_TRIES):
        assert (await whoami(ditto, user=f"alice:guess {nth}")).status == 401
    found = await whoami(ditto, user="alice:wonder")
    assert (found.status, found.error) == (429, "gateway:authentication.throttled")
    assert int(found.headers["retry-after"]) > 0
    assert (await whoami(ditto, user="ditto:ditto")).status == 200


async def test_the_same_credential_is_checked_once_at_a_time() -> None:
    check = Slow()
    passwords = PasswordChecks(check=check)
    answers = await asyncio.gather(*(passwords.verify("a", b"right", "$2a$x") for _ in range(20)))
    assert all(answers)
    assert check.calls == 1
    passwords.close()


async def test_more_checks_than_may_wait_are_refused() -> None:
    passwords = PasswordChecks(queue=2, check=Slow())
    many = (passwords.verify(f"u{at}", b"right", "$2a$x") for at in range(5))
    answers = await asyncio.gather(*many, return_exceptions=True)
    assert sum(isinstance(answer, Undeliverable) for answer in answers) == 3
    passwords.close()


def test_a_users_file_keeps_hashes_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "users"
    write_users(file, {"alice": "wonder"})
    assert file.stat().st_mode & 0o777 == 0o600
    users = read_users(file)
    assert users["alice"].startswith("$2a$10$")
    file.write_text("# a comment\n\nalice:plain\n")
    with pytest.raises(InvalidSetting, match=":3: expected name:bcrypt-hash"):
        read_users(file)
    with pytest.raises(InvalidSetting, match="cannot be read"):
        read_users(tmp_path / "nope")


async def test_a_stored_text_that_is_no_hash_lets_nobody_in() -> None:
    passwords = PasswordChecks()
    assert not await passwords.verify("a", b"x", "plain")
    assert await passwords.verify("a", b"x", hash_password("x", cost=4))
    assert USERS
    passwords.close()
