"""What one client may not do to the embedded API and to all others that use it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.kube_callers import bearer, calling
from tests.kube_server import KubeServer, kube_server

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
SECRETS = "/api/v1/namespaces/default/secrets"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path) as running:
        yield running


@pytest.fixture
async def http(server: KubeServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with calling(server) as found:
        yield found


def a_definition(plural: str, group: str, **annotations: str) -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    kind = plural.removesuffix("s")
    return {
        "metadata": {"name": f"{plural}.{group}", "annotations": annotations},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": plural, "singular": kind, "kind": kind.capitalize()},
            "versions": [version],
        },
    }


async def test_no_definition_takes_the_place_of_a_built_in_kind(
    server: KubeServer, http: aiohttp.ClientSession
) -> None:
    admin = bearer(server.token)
    approved = {"api-approved.kubernetes.io": "https://example.org/1"}
    body = a_definition("clusterroles", "rbac.authorization.k8s.io", **approved)
    async with http.post(DEFINITIONS, json=body, headers=admin) as answer:
        assert "is a built-in kind" in (await answer.json())["message"]
        assert answer.status == 400
    async with http.post(
        DEFINITIONS, json=a_definition("deployments", "apps"), headers=admin
    ) as answer:
        assert "at least one dot" in (await answer.json())["message"]
    bad = {"metadata": {"name": "r"}, "rules": [{"verbs": ["get"]}]}
    async with http.post(f"{RBAC}/clusterroles", json=bad, headers=admin) as answer:
        assert answer.status == 422


async def test_a_comma_that_is_no_separator_widens_no_right(
    server: KubeServer, http: aiohttp.ClientSession
) -> None:
    admin = bearer(server.token)
    rule = {
        "apiGroups": [""],
        "resources": ["secrets"],
        "verbs": ["list"],
        "resourceNames": ["mine"],
    }
    role = {"metadata": {"name": "one"}, "rules": [rule]}
    binding = {
        "metadata": {"name": "one"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "one"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    }
    place = f"{RBAC}/namespaces/default"
    for path, body in (
        (SECRETS, {"metadata": {"name": "mine"}}),
        (SECRETS, {"metadata": {"name": "other"}}),
        (f"{place}/roles", role),
        (f"{place}/rolebindings", binding),
    ):
        async with http.post(path, json=body, headers=admin) as answer:
            assert answer.status == 201
    jane = admin | {"Impersonate-User": "jane"}
    for selector, status in (("metadata.name=mine", 200), (r"type!=x\,metadata.name=mine", 403)):
        async with http.get(SECRETS, params={"fieldSelector": selector}, headers=jane) as answer:
            assert answer.status == status


async def test_a_node_shows_its_static_pods(
    server: KubeServer, http: aiohttp.ClientSession
) -> None:
    admin = bearer(server.token)
    async with http.post("/api/v1/nodes", json={"metadata": {"name": "n1"}}, headers=admin) as told:
        uid = (await told.json())["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": True}
    pod: dict[str, Any] = {
        "metadata": {
            "name": "static-n1",
            "annotations": {"kubernetes.io/config.mirror": "1"},
            "ownerReferences": [owner],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    }
    node = admin | {"Impersonate-User": "system:node:n1", "Impersonate-Group": "system:nodes"}
    place = "/api/v1/namespaces/default/pods"
    async with http.post(place, json=pod, headers=node) as answer:
        assert answer.status == 201, await answer.text()
    pod["metadata"]["name"], pod["spec"]["serviceAccountName"] = "static-2", "default"
    async with http.post(place, json=pod, headers=node) as answer:
        assert answer.status == 403
