"""Tokens of ServiceAccounts: asked for, judged, and gone with what they are bound to; evictions of Pods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml

from gateway.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated, Unprocessable
from gateway.kube.client import KubeClient
from gateway.kube.remote import connect
from gateway.model.json import JsonObject
from tests.contract.test_kube_client import client, server
from tests.contract.test_kube_pods import POD, a_pod
from tests.kube_server import KubeServer, kube_server

__all__ = ["client", "server"]

AUTHENTICATION = "authentication.k8s.io/v1"


async def ask(client: KubeClient, name: str = "default", **spec: Any) -> dict[str, Any]:
    body: JsonObject = {"apiVersion": AUTHENTICATION, "kind": "TokenRequest", "spec": spec}
    answer = await client.create(
        "v1", "serviceaccounts", "default", body, name=name, subresource="token"
    )
    return dict(answer)


async def review(client: KubeClient, token: str, *audiences: str) -> dict[str, Any]:
    spec: JsonObject = {"token": token}
    if audiences:
        spec["audiences"] = [*audiences]
    answer: Any = await client.create(AUTHENTICATION, "tokenreviews", None, {"spec": spec})
    return dict(answer["status"])


async def make_account(client: KubeClient, name: str = "app") -> None:
    await client.create("v1", "serviceaccounts", "default", {"metadata": {"name": name}})


async def test_a_token_says_whose_it_is(client: KubeClient) -> None:
    await make_account(client)
    answer = await ask(client, "app")
    assert answer["kind"] == "TokenRequest"
    assert answer["spec"]["audiences"] == ["https://kubernetes.default.svc.cluster.local"]
    assert answer["spec"]["expirationSeconds"] == 3600
    assert answer["status"]["expirationTimestamp"]
    claims = jwt.decode(answer["status"]["token"], options={"verify_signature": False})
    assert claims["sub"] == "system:serviceaccount:default:app"
    assert claims["kubernetes.io"]["serviceaccount"]["name"] == "app"
    status = await review(client, answer["status"]["token"])
    assert status["authenticated"] is True
    assert status["user"]["username"] == "system:serviceaccount:default:app"
    assert "system:serviceaccounts:default" in status["user"]["groups"]


async def test_a_token_is_good_for_its_audiences_alone(client: KubeClient) -> None:
    await make_account(client)
    token = (await ask(client, "app", audiences=["vault", "other"]))["status"]["token"]
    assert "authenticated" not in await review(client, token)
    status = await review(client, token, "vault", "third")
    assert (status["authenticated"], status["audiences"]) == (True, ["vault"])


async def test_a_token_ends_with_what_it_is_bound_to(client: KubeClient) -> None:
    await make_account(client)
    body: Any = a_pod(node="")
    body["spec"]["serviceAccountName"] = "app"
    pod: Any = await client.create(*POD, body)
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "p1", "uid": pod["metadata"]["uid"]}
    token = (await ask(client, "app", boundObjectRef=reference))["status"]["token"]
    assert (await review(client, token))["authenticated"] is True
    await client.delete(*POD, "p1")
    assert "has been invalidated" in (await review(client, token))["error"]
    token = (await ask(client, "app"))["status"]["token"]
    await client.delete("v1", "serviceaccounts", "default", "app")
    await make_account(client)
    assert "does not match claim" in (await review(client, token))["error"]


async def test_bad_requests_for_tokens_are_refused(client: KubeClient) -> None:
    await make_account(client)
    with pytest.raises(Unprocessable, match="less than 10 minutes"):
        await ask(client, "app", expirationSeconds=60)
    with pytest.raises(NotFound):
        await ask(client, "nobody")
    with pytest.raises(NotFound, match='pods "no" not found'):
        await ask(client, "app", boundObjectRef={"kind": "Pod", "name": "no"})
    await client.create(*POD, a_pod(node=""))
    with pytest.raises(Conflict):
        await ask(client, "app", boundObjectRef={"kind": "Pod", "name": "p1", "uid": "other"})
    with pytest.raises(Unprocessable, match="boundObjectRef"):
        await ask(client, "app", boundObjectRef={"kind": "Service", "name": "s"})


async def test_a_question_without_a_token_is_refused(client: KubeClient) -> None:
    with pytest.raises(BadRequest, match="token is required"):
        await review(client, "")


@pytest.mark.parametrize("token", ["x", "a.b.c", "x" * 20_000, "\u00e9.\u00e9.x"])
async def test_what_is_no_token_is_nobody_s(client: KubeClient, token: str) -> None:
    assert "authenticated" not in await review(client, token)


async def test_an_account_comes_in_with_its_token_and_may_do_little(tmp_path: Path) -> None:
    async with kube_server(tmp_path) as running:
        local = running.api.client("test")
        await make_account(local)
        token = (await ask(local, "app"))["status"]["token"]
        async with connect(with_token(running, token), manager="app") as remote:
            assert b"gitVersion" in await remote.read("/version")
            with pytest.raises(Forbidden, match="system:serviceaccount:default:app"):
                await remote.list("v1", "secrets", "default")
        async with connect(with_token(running, token + "x"), manager="app") as remote:
            with pytest.raises(Unauthenticated):
                await remote.list("v1", "pods", "default")


async def test_keys_of_tokens_survive_a_restart(tmp_path: Path) -> None:
    async with kube_server(tmp_path) as running:
        local = running.api.client("test")
        await make_account(local)
        token = (await ask(local, "app"))["status"]["token"]
    async with kube_server(tmp_path) as running:
        assert (await review(running.api.client("test"), token))["authenticated"] is True


async def test_a_pod_is_evicted(client: KubeClient) -> None:
    await client.create(*POD, a_pod())
    body: JsonObject = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "p1", "namespace": "default"},
        "deleteOptions": {"gracePeriodSeconds": 7},
    }
    await client.create(*POD, body, name="p1", subresource="eviction")
    pod: Any = await client.get(*POD, "p1")
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 7


def with_token(running: KubeServer, token: str) -> Path:
    """A kubeconfig that shows this token and nothing else."""
    config: Any = yaml.safe_load(running.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = running.kubeconfig.with_name("token.kubeconfig")
    path.write_text(yaml.safe_dump(config))
    return path
