"""Who callers of the embedded API are: tokens of accounts, of bootstrapping, of a file; certificates."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from gateway.config.kube import Kube, KubeHttps
from gateway.kube.accounts import ISSUER
from gateway.kube.certs import ensure_identity
from gateway.runtime.certificates import issue
from tests.kube_callers import Caller, bearer, calling, eventually
from tests.kube_server import KubeServer, kube_server

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
SECRETS = "/api/v1/namespaces/default/secrets"
PODS = "/api/v1/namespaces/default/pods"
WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
WHOSE = "/apis/authentication.k8s.io/v1/tokenreviews"
UNAUTHORIZED = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": "Unauthorized",
    "reason": "Unauthorized",
    "code": 401,
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path, controllers=("serviceaccount-token",)) as running:
        yield running


@pytest.fixture
async def http(server: KubeServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with calling(server) as found:
        yield found


@pytest.fixture
async def admin(http: aiohttp.ClientSession, server: KubeServer) -> Caller:
    found = Caller(http, bearer(server.token))
    await found.ask("POST", ACCOUNTS, 201, {"metadata": {"name": "bot"}})
    return found


async def a_token(admin: Caller, **spec: Any) -> str:
    answer = await admin.ask("POST", f"{ACCOUNTS}/bot/token", 201, {"spec": spec})
    return str(answer["status"]["token"])


async def who(http: aiohttp.ClientSession, token: str, expected: int = 201) -> Any:
    answer = await Caller(http, bearer(token)).ask("POST", WHO, expected, {})
    return answer["status"]["userInfo"] if expected == 201 else answer


async def whose(admin: Caller, token: str, **spec: Any) -> Any:
    return (await admin.ask("POST", WHOSE, 201, {"spec": {"token": token, **spec}}))["status"]


async def a_pod(admin: Caller, name: str = "p") -> Any:
    body = {
        "metadata": {"name": name},
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "bot",
            "containers": [{"name": "c", "image": "x"}],
        },
    }
    pod = await admin.ask("POST", PODS, 201, body)
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"]}


async def test_anybody_can_check_a_token_with_the_shown_key(admin: Caller) -> None:
    token = await a_token(admin)
    description = await admin.ask("GET", "/.well-known/openid-configuration", 200)
    assert description["issuer"] == ISSUER
    assert description["jwks_uri"].endswith("/openid/v1/jwks")
    keys = jwt.PyJWKSet.from_dict(await admin.ask("GET", "/openid/v1/jwks", 200))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, ["ES256"], audience=ISSUER, issuer=ISSUER)
    assert claims["sub"] == "system:serviceaccount:default:bot"
    assert claims["exp"] - claims["iat"] == 3_600
    assert claims["kubernetes.io"]["namespace"] == "default"
    assert claims["kubernetes.io"]["serviceaccount"]["name"] == "bot"


async def test_accounts_may_read_the_keys_and_strangers_may_not(
    admin: Caller, http: aiohttp.ClientSession
) -> None:
    token = await a_token(admin)
    await Caller(http, bearer(token)).ask("GET", "/openid/v1/jwks", 200)
    await Caller(http, {}).ask("GET", "/openid/v1/jwks", 403)


async def test_a_token_says_which_pod_and_node_it_is_for_and_ends_with_the_pod(
    admin: Caller, http: aiohttp.ClientSession
) -> None:
    await admin.ask("POST", "/api/v1/nodes", 201, {"metadata": {"name": "n1"}})
    bound = await a_pod(admin)
    token = await a_token(admin, boundObjectRef=bound, expirationSeconds=3_607)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 365 * 86_400
    assert claims["kubernetes.io"]["warnafter"] - claims["iat"] == 3_607
    info = await who(http, token)
    facts = "authentication.kubernetes.io/"
    assert info["extra"][f"{facts}pod-name"] == ["p"]
    assert info["extra"][f"{facts}pod-uid"] == [bound["uid"]]
    assert info["extra"][f"{facts}node-name"] == ["n1"]
    assert info["extra"][f"{facts}credential-id"] == [f"JTI={claims['jti']}"]
    await admin.ask("DELETE", "/api/v1/nodes/n1", 200)
    await who(http, token)
    await admin.ask("DELETE", f"{PODS}/p?gracePeriodSeconds=0", 200)
    assert await who(http, token, 401) == UNAUTHORIZED
    said = await whose(admin, token)
    assert said["error"] == "[invalid bearer token, service account token has been invalidated]"
    assert "authenticated" not in said


async def test_a_token_of_an_account_that_was_made_anew_is_refused(
    admin: Caller, http: aiohttp.ClientSession
) -> None:
    token = await a_token(admin)
    await who(http, token)
    await admin.ask("DELETE", f"{ACCOUNTS}/bot", 200)
    await who(http, token, 401)
    await admin.ask("POST", ACCOUNTS, 201, {"metadata": {"name": "bot"}})
    await who(http, token, 401)
    assert "does not match claim" in (await whose(admin, token))["error"]


async def test_tokens_end_and_are_for_their_audiences(
    server: KubeServer, admin: Caller, http: aiohttp.ClientSession
) -> None:
    other = await a_token(admin, audiences=["vault"])
    await who(http, other, 401)
    assert (await whose(admin, other, audiences=["vault", "x"]))["audiences"] == ["vault"]
    assert (
        'invalid for the target audiences ["x"]'
        in (await whose(admin, other, audiences=["x"]))["error"]
    )
    token = await a_token(admin, expirationSeconds=600)
    await who(http, token)
    now = server.api.objects.now()
    server.api.objects.now = lambda: now + 1_000
    assert await who(http, token, 401) == UNAUTHORIZED
    said = (await whose(admin, token))["error"]
    assert said == "[invalid bearer token, service account token has expired]"


async def test_forged_and_former_tokens_are_refused(
    admin: Caller, http: aiohttp.ClientSession
) -> None:
    token = await a_token(admin)
    head, claims, signature = token.split(".")
    await who(http, f"{head}.{claims}.{signature[:-4]}AAAA", 401)
    await who(http, f"{head}.{claims[:-4]}AAAA.{signature}", 401)
    former = jwt.encode({"sub": "system:serviceaccount:default:bot"}, "x" * 32, "HS256")
    await who(http, former, 401)
    assert "former version (HS256)" in (await whose(admin, former))["error"]
    nothing = jwt.encode({"sub": "x"}, None, "none")  # type: ignore[arg-type]
    await who(http, nothing, 401)
    assert await whose(admin, "abc") == {"user": {}, "error": "invalid bearer token"}
    await admin.ask("POST", WHOSE, 400, {"spec": {}})


async def test_a_secret_holds_a_lasting_token_until_it_goes(
    admin: Caller, http: aiohttp.ClientSession
) -> None:
    name = "kubernetes.io/service-account.name"
    secret = {
        "metadata": {"name": "s", "annotations": {name: "bot"}},
        "type": "kubernetes.io/service-account-token",
    }
    await admin.ask("POST", SECRETS, 201, secret)

    async def data() -> Any:
        return (await admin.ask("GET", f"{SECRETS}/s", 200)).get("data")

    await eventually(data)
    held = await data()
    assert base64.b64decode(held["namespace"]) == b"default"
    assert base64.b64decode(held["ca.crt"]).startswith(b"-----BEGIN CERTIFICATE-----")
    token = base64.b64decode(held["token"]).decode()
    assert (await who(http, token))["username"] == "system:serviceaccount:default:bot"
    await admin.ask("DELETE", f"{SECRETS}/s", 200)
    await who(http, token, 401)
    await admin.ask("POST", SECRETS, 201, secret)
    await eventually(data)
    await who(http, token, 401)
    await who(http, base64.b64decode((await data())["token"]).decode())
    await admin.ask("DELETE", f"{ACCOUNTS}/bot", 200)

    async def is_gone() -> bool:
        listed = await admin.ask("GET", SECRETS, 200)
        return not listed["items"]

    await eventually(is_gone)


async def test_a_bootstrap_token_is_good_while_its_secret_says_so(
    admin: Caller, http: aiohttp.ClientSession
) -> None:
    secrets = "/api/v1/namespaces/kube-system/secrets"
    path = f"{secrets}/bootstrap-token-abcdef"
    data = {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
        "auth-extra-groups": "system:bootstrappers:edge",
    }
    body = {
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": data,
    }
    token = "abcdef.0123456789abcdef"
    await who(http, token, 401)
    await admin.ask("POST", secrets, 201, body)
    info = await who(http, token)
    assert info["username"] == "system:bootstrap:abcdef"
    assert info["groups"] == [
        "system:bootstrappers:edge",
        "system:bootstrappers",
        "system:authenticated",
    ]
    await who(http, "abcdef.0123456789abcdeX"[:23], 401)
    await who(http, "abcdef.fedcba9876543210", 401)
    for changed in (
        {"usage-bootstrap-authentication": "false"},
        {"expiration": "2020-01-01T00:00:00Z"},
        {"expiration": "tomorrow"},
        {"auth-extra-groups": "system:masters"},
    ):
        await admin.patch(path, 200, {"stringData": changed})
        await who(http, token, 401)
        usual = {**data, "expiration": "2999-01-01T00:00:00Z"}
        await admin.patch(path, 200, {"stringData": usual})
        await who(http, token)


async def test_a_file_of_tokens_and_no_anonymous_callers(tmp_path: Path) -> None:
    file = tmp_path / "tokens.csv"
    file.write_text('sesame,ann,u1,"dev"\n')
    settings = Kube(https=KubeHttps(bind="127.0.0.1:0"), token_file=str(file), anonymous=False)
    async with kube_server(tmp_path, settings) as server, calling(server) as http:
        assert await who(http, "sesame") == {
            "username": "ann",
            "uid": "u1",
            "groups": ["dev", "system:authenticated"],
        }
        assert await Caller(http, {}).ask("GET", "/healthz", 401) == UNAUTHORIZED
        await who(http, server.token)


async def test_a_certificate_that_ended_is_told_so(server: KubeServer, tmp_path: Path) -> None:
    authority = ensure_identity(server.folder / "kube").authority
    for seconds, expected in ((3_600, 201), (-60, 401)):
        pair = issue(authority, "ann", groups=("dev",), seconds=seconds)
        async with calling(server, client=pair, folder=tmp_path) as http:
            answer = await Caller(http, {}).ask("POST", WHO, expected, {})
        if expected == 401:
            assert answer == UNAUTHORIZED
        else:
            (fact,) = answer["status"]["userInfo"]["extra"].items()
            assert fact[0] == "authentication.kubernetes.io/credential-id"
            assert fact[1][0].startswith("X509SHA256=")
