"""What new Pods get from other objects, and what writers are told."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from gateway.errors import Forbidden
from gateway.kube.admission import WriteOptions
from gateway.kube.client import KubeClient
from gateway.model.json import Json, JsonObject
from tests.contract.test_kube_client import client, server
from tests.kube_server import KubeServer

__all__ = ["client", "server"]

PLACE = "/var/run/secrets/kubernetes.io/serviceaccount"
PRIORITY = ("scheduling.k8s.io/v1", "priorityclasses")


async def make(client: KubeClient, spec: JsonObject | None = None) -> Any:
    body: JsonObject = {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "x:1"}], **(spec or {})},
    }
    return await client.create("v1", "pods", "default", body)


async def account(client: KubeClient, name: str, **parts: Json) -> None:
    body: JsonObject = {"metadata": {"name": name}, **parts}
    await client.create("v1", "serviceaccounts", "default", body)


async def test_a_pod_gets_the_token_of_its_account(client: KubeClient) -> None:
    await account(client, "worker", imagePullSecrets=[{"name": "s"}])
    spec = (await make(client, {"serviceAccountName": "worker"}))["spec"]
    (volume,) = spec["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert volume["projected"]["sources"][0] == {
        "serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}
    }
    mount = {"name": volume["name"], "readOnly": True, "mountPath": PLACE}
    assert spec["containers"][0]["volumeMounts"] == [mount]
    assert spec["imagePullSecrets"] == [{"name": "s"}]


@pytest.mark.parametrize("who", ["pod", "account"])
async def test_who_wants_no_token_gets_none(client: KubeClient, who: str) -> None:
    refusal: JsonObject = {"automountServiceAccountToken": False}
    await account(client, "worker", **(refusal if who == "account" else {}))
    asked = {"serviceAccountName": "worker", **(refusal if who == "pod" else {})}
    assert "volumes" not in (await make(client, asked))["spec"]


async def test_an_account_has_to_be_there(client: KubeClient) -> None:
    with pytest.raises(
        Forbidden, match="error looking up service account default/w: serviceaccount"
    ):
        await make(client, {"serviceAccountName": "w"})


async def test_a_class_gives_its_priority(client: KubeClient) -> None:
    body: JsonObject = {"metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"}
    await client.create(*PRIORITY, None, body)
    spec = (await make(client, {"priorityClassName": "high"}))["spec"]
    assert (spec["priority"], spec["preemptionPolicy"]) == (7, "Never")


async def test_the_usual_class_is_everybodys(client: KubeClient) -> None:
    body: JsonObject = {"metadata": {"name": "usual"}, "value": 3, "globalDefault": True}
    await client.create(*PRIORITY, None, body)
    spec = (await make(client))["spec"]
    assert (spec["priorityClassName"], spec["priority"]) == ("usual", 3)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"priorityClassName": "nope"}, "no PriorityClass with name nope was found"),
        ({"priority": 5}, "the integer value of priority"),
        ({"runtimeClassName": "nope"}, 'RuntimeClass "nope" not found'),
    ],
)
async def test_a_class_has_to_be_there(client: KubeClient, spec: JsonObject, why: str) -> None:
    with pytest.raises(Forbidden, match=why):
        await make(client, spec)


async def test_a_pod_that_is_stored_keeps_its_token(client: KubeClient) -> None:
    await account(client, "worker")
    made = await make(client, {"serviceAccountName": "worker"})
    made["metadata"]["labels"] = {"a": "b"}
    again: Any = await client.update("v1", "pods", "default", made)
    assert again["spec"] == made["spec"]


async def test_who_writes_what_is_only_stored_is_told(server: KubeServer) -> None:
    objects = server.api.objects
    kind = objects.resource("networking.k8s.io/v1", "networkpolicies")
    body: JsonObject = {"metadata": {"name": "n"}, "spec": {"podSelector": {}}}
    written = await objects.create(kind, "default", body, WriteOptions())
    assert written.remarks.texts == ["NetworkPolicy is stored and not enforced"]


async def test_a_security_level_of_a_namespace_is_told_to_count_for_nothing(
    server: KubeServer,
) -> None:
    objects, kind = server.api.objects, server.api.objects.resource("v1", "namespaces")
    level = "pod-security.kubernetes.io/enforce"
    for name, wanted, count in [("a", "restricted", 1), ("b", "privileged", 0)]:
        body: JsonObject = {"metadata": {"name": name, "labels": {level: wanted}}}
        written = await objects.create(kind, None, body, WriteOptions())
        assert len(written.remarks.texts) == count
        assert all(level in text for text in written.remarks.texts)


async def test_a_load_balancer_is_told_to_wait_in_vain_once(server: KubeServer) -> None:
    objects, kind = server.api.objects, server.api.objects.resource("v1", "services")
    spec: JsonObject = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    body: JsonObject = {"metadata": {"name": "s"}, "spec": spec}
    written = await objects.create(kind, "default", body, WriteOptions())
    assert [text.partition(":")[0] for text in written.remarks.texts] == ["spec.type"]
    again: Any = deepcopy(written.stored.object)
    again["metadata"]["labels"] = {"a": "b"}
    changed = await objects.update(kind, "default", "s", again, WriteOptions())
    assert changed.remarks.texts == []
